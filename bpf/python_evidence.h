/* SPDX-License-Identifier: Apache-2.0
 *
 * Rule `task`: what is told to user space of calls and answers, which joins the two
 * (agent/waggle/evidence.py).
 */
#ifndef WAGGLE_PYTHON_EVIDENCE_H
#define WAGGLE_PYTHON_EVIDENCE_H

#include "feed.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2 << 20);
} evidence_ring SEC(".maps");

INLINE struct waggle_evidence *blank_evidence(u8 kind, u32 tgid)
{
	struct waggle_evidence *evidence =
		bpf_ringbuf_reserve(&evidence_ring, sizeof(*evidence), 0);

	if (!evidence) {
		count(WAGGLE_COUNT_LOST_EVIDENCE_RING_FULL);
		return 0;
	}
	__builtin_memset(evidence, 0, sizeof(*evidence));
	evidence->kind = kind;
	evidence->time_ns = bpf_ktime_get_ns();
	evidence->tgid = tgid;
	return evidence;
}

INLINE struct waggle_evidence *begin_evidence(u8 kind, const struct waggle_facts *facts)
{
	struct waggle_evidence *evidence = blank_evidence(kind, facts->tgid);

	if (!evidence)
		return 0;
	evidence->start_ns = facts->start_ns;
	evidence->flags = facts->flags;
	evidence->trace_flags = facts->trace_flags;
	evidence->sampling = facts->sampling;
	__builtin_memcpy(evidence->trace_id, facts->trace_id, 16);
	copy_span_id(evidence->span_id, parent_of_children(facts));
	return evidence;
}

#endif
