/* SPDX-License-Identifier: Apache-2.0
 *
 * Which processes are looked at, and what user space is told of their lives.
 */
#ifndef WAGGLE_PROCESS_H
#define WAGGLE_PROCESS_H

#include "call.h"

#define GO_PAGE 4096 /* at least: what is mapped begins at one */

/* The mode of a process, 0 when it is not recorded: nearly everybody who is
 * not has left after one load. */
INLINE u32 traced_mode_of(u32 tgid)
{
	struct waggle_process *process;

	if (!trace_all) {
		u8 *hint = process_hint(tgid);

		if (!hint || !*hint)
			return 0;
	}
	if (tgid == agent_tgid)
		return 0;
	process = bpf_map_lookup_elem(&processes, &tgid);
	if (!process)
		return trace_all ? WAGGLE_PROCESS_UNCONFIRMED : 0;
	if (process->mode & WAGGLE_PROCESS_EXCLUDED)
		return 0;
	return process->mode & (WAGGLE_PROCESS_TRACED | WAGGLE_PROCESS_UNCONFIRMED) ?
		       process->mode :
		       0;
}

INLINE u32 traced_mode(void)
{
	return traced_mode_of(bpf_get_current_pid_tgid() >> 32);
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_fork, struct task_struct *parent, struct task_struct *child)
{
	u32 parent_tgid = parent->tgid, tgid = child->tgid;
	struct waggle_process *process;

	if (child->pid != child->tgid) /* a thread */
		return 0;
	process = bpf_map_lookup_elem(&processes, &parent_tgid);
	if (!process || !(process->mode & WAGGLE_PROCESS_FOLLOW))
		return 0;
	put_process(tgid, child->start_boottime, process->mode);
	tell(WAGGLE_PROCESS_FORK, tgid, parent_tgid, child->start_boottime, 0, child->comm);
	return 0;
}

/* Another program begins at other addresses. One of Go's that we have started ourselves is known
 * before (GoProbe.expect()): if it is that, its addresses are told by where its code is, and its
 * probes are there before its first instruction. */
INLINE void go_executes(struct task_struct *task, u32 tgid)
{
	struct waggle_go *go = bpf_map_lookup_elem(&go_processes, &tgid);
	u64 bias;

	if (!go)
		return;
	bias = BPF_CORE_READ(task, mm, start_code) - go->code_start;
	if (!go->arrives || bias & (GO_PAGE - 1) ||
	    BPF_CORE_READ(task, mm, end_code) - go->code_end != bias) {
		bpf_map_delete_elem(&go_processes, &tgid);
		return;
	}
	go->bias = bias;
	go->low += bias;
	go->high += bias;
	go->echo_closure += go->echo_closure ? bias : 0;
	go->arrives = 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task)
{
	u32 tgid = task->tgid;
	struct waggle_process *process = bpf_map_lookup_elem(&processes, &tgid);

	if (process) {
		bpf_map_delete_elem(&python_processes, &tgid);
		go_executes(task, tgid);
		bpf_map_delete_elem(&schedulers, &tgid);
		bpf_map_delete_elem(&node_machines, &tgid);
	}
	if (!process && !watch_processes && !trace_all)
		return 0;
	/* No blind window: record at once, user space decides what is kept. */
	if (!process && watch_processes)
		put_process(tgid, task->start_boottime,
			    WAGGLE_PROCESS_UNCONFIRMED | WAGGLE_PROCESS_FOLLOW);
	tell(WAGGLE_PROCESS_EXEC, tgid, task->real_parent->tgid, task->start_boottime, 0,
	     task->comm);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exit, struct task_struct *task)
{
	u32 tid = task->pid, tgid = task->tgid;

	bpf_map_delete_elem(&threads, &tid);
	bpf_map_delete_elem(&node_threads, &tid);
	if (task->signal->live.counter > 0 || !bpf_map_lookup_elem(&processes, &tgid))
		return 0;
	bpf_map_delete_elem(&processes, &tgid);
	bpf_map_delete_elem(&python_processes, &tgid);
	bpf_map_delete_elem(&go_processes, &tgid);
	bpf_map_delete_elem(&schedulers, &tgid);
	bpf_map_delete_elem(&node_machines, &tgid);
	tell(WAGGLE_PROCESS_EXIT, tgid, task->real_parent->tgid,
	     task->group_leader->start_boottime, 0, task->comm);
	return 0;
}

INLINE void on_listen(struct sock *sk)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();

	if (watch_processes || trace_all)
		tell(WAGGLE_PROCESS_LISTEN, task->tgid, task->real_parent->tgid,
		     task->group_leader->start_boottime, BPF_CORE_READ(sk, __sk_common.skc_num),
		     task->comm);
}

#endif
