/* SPDX-License-Identifier: Apache-2.0
 *
 * Who uses io_uring. A socket that has been enrolled once refuses IORING_OP_SEND_ZC for the rest
 * of its life: the kernel takes a flag from it and never gives it back. Nobody sees such a send
 * coming, so sockets of processes that have a ring are never enrolled.
 */
#ifndef WAGGLE_URING_H
#define WAGGLE_URING_H

#include "maps.h"

/* By process, when it began: what has its number later is another. */
MAP(uring_users, BPF_MAP_TYPE_LRU_HASH, 8192, u32, u64, 0);

INLINE void has_ring(struct task_struct *task)
{
	u32 tgid = BPF_CORE_READ(task, tgid);
	u64 began = BPF_CORE_READ(task, group_leader, start_boottime);

	bpf_map_update_elem(&uring_users, &tgid, &began, BPF_ANY);
}

/* A thread that has ever submitted to a ring, its own or an inherited one. */
INLINE int uses_ring(struct task_struct *task)
{
	return bpf_core_field_exists(task->io_uring) && BPF_CORE_READ(task, io_uring);
}

INLINE int may_use_ring(struct task_struct *task)
{
	u32 tgid = BPF_CORE_READ(task, tgid);
	u64 *began = bpf_map_lookup_elem(&uring_users, &tgid);

	return (began && *began == BPF_CORE_READ(task, group_leader, start_boottime)) ||
	       uses_ring(task);
}

/* A ring is made, by whoever it will belong to. */
SEC("raw_tp/io_uring_create")
int inject_ring_made(void *context)
{
	has_ring((void *)bpf_get_current_task());
	return 0;
}

/* Those that are older than the agent: run once, over all threads. */
SEC("iter/task")
int inject_ring_users(struct bpf_iter__task *context)
{
	struct task_struct *task = context->task;

	if (task && uses_ring(task))
		has_ring(task);
	return 0;
}

#endif
