/* SPDX-License-Identifier: Apache-2.0
 *
 * Which processes are looked at, and what user space is told of their lives.
 */
#ifndef WAGGLE_PROCESS_H
#define WAGGLE_PROCESS_H

#include "call.h"

/* Whether the current process is recorded. Everybody else pays for one look-up. */
INLINE int is_traced(u32 tgid)
{
	struct waggle_process *process;

	if (tgid == agent_tgid)
		return 0;
	process = bpf_map_lookup_elem(&processes, &tgid);
	if (!process)
		return trace_all;
	return (process->mode & (WAGGLE_PROCESS_TRACED | WAGGLE_PROCESS_UNCONFIRMED)) &&
	       !(process->mode & WAGGLE_PROCESS_EXCLUDED);
}

INLINE void tell(u32 kind, u32 tgid, u32 parent, u64 start, u32 port, const char *comm)
{
	struct waggle_process_event event = {
		.time_ns = bpf_ktime_get_ns(),
		.process_start_ns = start,
		.tgid = tgid,
		.parent_tgid = parent,
		.port = port,
		.kind = kind,
	};

	bpf_probe_read_kernel(event.comm, sizeof(event.comm), comm);
	/* Rare, and somebody waits for it: wake at once. */
	if (bpf_ringbuf_output(&event_ring, &event, sizeof(event), BPF_RB_FORCE_WAKEUP))
		count(WAGGLE_COUNT_LOST_EVENT_RING_FULL);
}

INLINE void put_process(u32 tgid, u64 start, u32 mode)
{
	struct waggle_process process = { .start_ns = start, .mode = mode };

	if (bpf_map_update_elem(&processes, &tgid, &process, BPF_ANY))
		count(WAGGLE_COUNT_LOST_PROCESS_MAP_FULL);
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

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task)
{
	u32 tgid = task->tgid;
	struct waggle_process *process = bpf_map_lookup_elem(&processes, &tgid);

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
	if (task->signal->live.counter > 0 || !bpf_map_lookup_elem(&processes, &tgid))
		return 0;
	bpf_map_delete_elem(&processes, &tgid);
	tell(WAGGLE_PROCESS_EXIT, tgid, task->real_parent->tgid,
	     task->group_leader->start_boottime, 0, task->comm);
	return 0;
}

INLINE void on_listen(struct sock *sk)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();

	if (watch_processes && !trace_all)
		tell(WAGGLE_PROCESS_LISTEN, task->tgid, task->real_parent->tgid,
		     task->group_leader->start_boottime, sk->__sk_common.skc_num, task->comm);
}

#endif
