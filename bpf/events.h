/* SPDX-License-Identifier: Apache-2.0
 *
 * What user space is told of the lives of processes.
 */
#ifndef WAGGLE_EVENTS_H
#define WAGGLE_EVENTS_H

#include "maps.h"

INLINE void tell(u32 kind, u32 tgid, u32 parent, u64 start, u32 port, const char *comm)
{
	struct waggle_process_event *event =
		bpf_ringbuf_reserve(&event_ring, sizeof(*event), 0);

	if (!event) {
		count(WAGGLE_COUNT_LOST_EVENT_RING_FULL);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = bpf_ktime_get_ns();
	event->process_start_ns = start;
	event->tgid = tgid;
	event->parent_tgid = parent;
	event->port = port;
	event->kind = kind;
	bpf_probe_read_kernel(event->comm, sizeof(event->comm), comm);
	/* Rare, and somebody waits for it: wake at once. */
	bpf_ringbuf_submit(event, BPF_RB_FORCE_WAKEUP);
}

INLINE void put_process(u32 tgid, u64 start, u32 mode)
{
	struct waggle_process process = { .start_ns = start, .mode = mode };
	u8 *hint = process_hint(tgid);

	if (hint)
		*hint = 1;

	if (bpf_map_update_elem(&processes, &tgid, &process, BPF_ANY))
		count(WAGGLE_COUNT_LOST_PROCESS_MAP_FULL);
}

#endif
