/* SPDX-License-Identifier: Apache-2.0
 *
 * Rule `task`: requests that are read, and answers, which say whose request it was.
 */
#ifndef WAGGLE_PYTHON_ANSWER_H
#define WAGGLE_PYTHON_ANSWER_H

#include "python_context.h"
#include "python_evidence.h"
#include "python_prediction.h"

/* The context reads or answers on this connection. */
INLINE void context_meets(struct context *context, u64 sock)
{
	if (context->sock && context->sock != sock)
		context->many = 1;
	context->sock = sock;
}

/* A request has been read. */
PROVEN_ONCE int task_request(struct connection *connection, const struct waggle_process *process,
			     const struct waggle_facts *facts, u64 sock)
{
	struct waggle_python *python;
	struct context *context;
	u64 address;
	u32 tgid;

	if (!connection || !facts)
		return 0;
	connection->reader = 0;
	if (!process || !(process->mode & WAGGLE_PROCESS_RULE_TASK))
		return 0;
	tgid = facts->tgid;
	python = python_of(tgid);
	if (!python)
		return 0;
	__sync_fetch_and_add(&python->unanswered, 1);
	if (!python->served)
		python->served = 1;
	if (connection->flags & CONNECTION_BLOCKING)
		return 0; /* the thread tells */
	address = current_context(python);
	context = address ? context_at(python, tgid, address) : 0;
	if (!context)
		return 0;
	connection->reader = address;
	context_meets(context, sock);
	__sync_fetch_and_add(&context->open, 1);
	predict(connection, python, sock, tgid, request_mark(facts));
	return 0;
}

/* The request that a connection's reader has read is read no more. Returns whether the
 * reader has read others meanwhile. */
INLINE int reader_done(struct connection *connection, const struct waggle_python *python, u32 tgid)
{
	u64 address = connection->reader;
	struct context *context = address ? known_context(python, tgid, address) : 0;
	int shared = context && context->open > 1;

	connection->reader = 0;
	if (context && context->open)
		__sync_fetch_and_add(&context->open, -1);
	return shared;
}

INLINE void answered(struct waggle_python *python)
{
	if (python->unanswered)
		__sync_fetch_and_add(&python->unanswered, -1);
}

/* The context that answers, as its evidence tells. */
INLINE void fill_answer(struct waggle_evidence *evidence, const struct connection *connection,
			const struct context *context, u64 sock)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();

	bpf_probe_read_kernel(evidence->contexts, sizeof(evidence->contexts),
			      context->generations);
	evidence->before_ns = context->answered_ns;
	evidence->kept = context->answered_sock == sock;
	if (connection->flags & CONNECTION_BLOCKING && connection->owner_tid == tid)
		evidence->own = 1;
}

/* Whether the context that answers need be known: a thread that blocks tells by itself. */
INLINE int context_tells(const struct connection *connection, const struct waggle_python *python)
{
	return !(connection->flags & CONNECTION_BLOCKING) || python->calls;
}

/* The response's head is being written, and by whom says whose request it was. */
PROVEN_ONCE int task_answer(struct connection *connection, const struct waggle_facts *facts,
			    u64 sock)
{
	struct waggle_python *python;
	struct waggle_evidence *evidence;
	u64 address, reader;
	struct context *context;
	int shared;
	u32 tgid;

	if (!connection || !facts)
		return 0;
	tgid = facts->tgid;
	python = python_of(tgid);
	if (!python)
		return 0;
	reader = connection->reader;
	answered(python);
	address = context_tells(connection, python) ? current_context(python) : 0;
	context = address ? context_at(python, tgid, address) : 0;
	if (context) {
		test_predictions(connection, python, sock, address, context);
		context_meets(context, sock);
	}
	shared = reader_done(connection, python, tgid);
	if (!context_tells(connection, python))
		return 0; /* nobody has asked */
	evidence = begin_evidence(WAGGLE_EVIDENCE_ANSWER, facts);
	if (!evidence)
		return 0;
	if (context) {
		fill_answer(evidence, connection, context, sock);
		evidence->many = context->many;
	}
	evidence->own |= reader && reader == address;
	evidence->shared = shared && reader == address;
	if (context) {
		context->answered_sock = sock;
		context->answered_ns = evidence->time_ns;
		context->own = evidence->own;
	}
	bpf_ringbuf_submit(evidence, wakeup(&evidence_ring));
	return 0;
}

/* A context in which was called is freed: whoever worked in it is done. */
INLINE void task_over(u32 tgid, u64 generation)
{
	struct waggle_evidence *evidence = blank_evidence(WAGGLE_EVIDENCE_OVER, tgid);

	if (!evidence)
		return;
	evidence->contexts[0] = generation;
	bpf_ringbuf_submit(evidence, wakeup(&evidence_ring));
}

/* A request ends without an answer: nobody need wait for one. */
PROVEN_ONCE int task_gone(struct connection *connection, const struct waggle_facts *facts)
{
	struct waggle_python *python;
	struct waggle_evidence *evidence;
	u32 tgid;

	if (!connection || !facts)
		return 0;
	tgid = facts->tgid;
	python = python_of(tgid);
	if (!python)
		return 0;
	answered(python);
	reader_done(connection, python, tgid);
	if (!python->calls)
		return 0;
	evidence = begin_evidence(WAGGLE_EVIDENCE_GONE, facts);
	if (evidence)
		bpf_ringbuf_submit(evidence, wakeup(&evidence_ring));
	return 0;
}

#endif
