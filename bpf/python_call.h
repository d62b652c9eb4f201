/* SPDX-License-Identifier: Apache-2.0
 *
 * Rule `task`: a call leaves its context, and those that it descends from, as evidence.
 */
#ifndef WAGGLE_PYTHON_CALL_H
#define WAGGLE_PYTHON_CALL_H

#include "python_context.h"
#include "python_evidence.h"

/* A context and those that it descends from, one a step. */
struct lineage {
	struct context *context;
	u32 tgid;
	u32 elsewhere; /* a bit for each that may be at work on something else, */
	u32 over;      /* and for each that is no more */
	u32 reserved;
};

/* Whether a context may be at work on something else than what its evidence will say: it
 * is in the middle of an answer, which may be on its way out only. Somebody looks then
 * whether it goes on with it. Who reads by himself has no other request before he has read
 * one; unless we have not seen him read it, as the end of his last connection tells. */
INLINE int may_be_elsewhere(const struct context *context)
{
	u64 sock = context->answered_sock;
	struct connection *connection = sock ? bpf_map_lookup_elem(&connections, &sock) : 0;
	int alone = context->own && !context->open;

	if (!connection || connection->writer != context->generations[0])
		return sock && alone;
	if (!open_requests(connection) || !http1_in_body(&connection->sent))
		return 0;
	connection->flags |= CONNECTION_WATCHED;
	return !alone;
}

static long lineage_step(u32 index, void *argument)
{
	struct lineage *lineage = argument;
	u32 at = masked(index, WAGGLE_CONTEXTS - 1);
	u64 generation = lineage->context->generations[at];
	struct context_key key = {
		.address = lineage->context->addresses[at],
		.tgid = lineage->tgid,
	};
	struct context *context;

	if (!generation)
		return 1;
	context = bpf_map_lookup_elem(&contexts, &key);
	if (!context || context->generations[0] != generation) {
		lineage->over |= 1U << at;
		return 0;
	}
	context->called |= CALLED_BELOW;
	if (may_be_elsewhere(context))
		lineage->elsewhere |= 1U << at;
	return 0;
}

/* Whether no request can turn out to be what a call was part of: none was ever read. Then its
 * ids hold at once, and may go out in a header. */
INLINE int serves_nobody(const struct waggle_python *python, u32 tgid)
{
	struct waggle_process *process;

	if (!inject_wanted || python->served)
		return 0;
	process = bpf_map_lookup_elem(&processes, &tgid);
	return process && !process->open;
}

/* A request goes out whose parent is not known yet, or not proven, or something is written to
 * a log (`kind`). Where evidence can come, the trace id of the first is given out as one that
 * may stand for another. */
PROVEN_ONCE int task_call(struct waggle_facts *facts, u8 kind)
{
	struct waggle_python *python;
	struct waggle_evidence *evidence;
	struct context *context;
	u64 address;
	struct lineage lineage = {};
	u32 tgid;

	if (!facts)
		return 0;
	tgid = facts->tgid;
	python = python_of(tgid);
	if (python && kind == WAGGLE_EVIDENCE_CALL && serves_nobody(python, tgid))
		return 0;
	address = python ? current_context(python) : 0;
	context = address ? context_at(python, tgid, address) : 0;
	/* A context that reads several requests at once tells none from the other. */
	if (!context || context->open > 1)
		return 0;
	/* What becomes of them is told. */
	lineage.context = context;
	lineage.tgid = tgid;
	LOOP(WAGGLE_CONTEXTS, lineage_step, &lineage);
	if (kind == WAGGLE_EVIDENCE_CALL)
		context->called |= CALLED_ITSELF;
	evidence = begin_evidence(kind, facts);
	if (!evidence)
		return 0;
	facts->flags |= facts->link ? WAGGLE_FLAG_UNPROVEN : WAGGLE_FLAG_TRACE_PENDING;
	evidence->flags = facts->flags;
	evidence->unanswered = python->unanswered;
	evidence->answering = lineage.elsewhere;
	evidence->over = lineage.over;
	evidence->queued = lineage.over & context->after_call << 1;
	evidence->made = context->made;
	bpf_probe_read_kernel(evidence->contexts, sizeof(evidence->contexts),
			      context->generations);
	bpf_ringbuf_submit(evidence, wakeup(&evidence_ring));
	__sync_fetch_and_add(&python->calls, 1);
	if (kind == WAGGLE_EVIDENCE_CALL)
		count(WAGGLE_COUNT_TASK_CALLS);
	return 1;
}

#endif
