/* SPDX-License-Identifier: Apache-2.0
 *
 * Rule `task`: what must go out with a call is predicted, where a prediction has proven itself in
 * the process: `copy`, the first context that a thread copies after it has read a request, before
 * it sleeps, serves that request, and so does all that descends from it;
 * `writer`, the context that wrote a connection's last answer serves its next request.
 * Every answer tests both. One answer that disagrees ends a prediction for the process.
 */
#ifndef WAGGLE_PYTHON_PREDICTION_H
#define WAGGLE_PYTHON_PREDICTION_H

#include "python_context.h"

INLINE int copy_trusted(const struct waggle_python *python)
{
	return !python->copy_contradicts && python->copy_agrees >= early_proof;
}

INLINE int writer_trusted(const struct waggle_python *python)
{
	return !python->writer_contradicts && python->writer_agrees >= early_proof;
}

/* A context on its way to the one that was made for the request. */
struct descent {
	const struct context *context;
	u32 tgid;
	u32 queued; /* one in between is over, and had called itself before it began the next */
};

static long descent_step(u32 index, void *argument)
{
	struct descent *descent = argument;
	u32 at = masked(index + 1, WAGGLE_CONTEXTS - 1);
	u64 generation = descent->context->generations[at];
	struct context_key key = {
		.address = descent->context->addresses[at],
		.tgid = descent->tgid,
	};
	struct context *context = bpf_map_lookup_elem(&contexts, &key);

	if (context && context->generations[0] == generation)
		return !context->inherited;
	if (!(descent->context->after_call >> masked(index, WAGGLE_CONTEXTS - 1) & 1))
		return 0;
	descent->queued = 1;
	return 1;
}

/* Whether what a context serves need not be what it was copied for: who is done may begin the
 * next of a queue, whoever put it there. */
INLINE int may_be_queued(const struct context *context, u32 tgid)
{
	struct descent descent = { .context = context, .tgid = tgid };

	if (context->inherited && context->after_call)
		LOOP(WAGGLE_CONTEXTS - 1, descent_step, &descent);
	return descent.queued;
}

/* What the current context serves, where a prediction is trusted to say. */
INLINE int task_owner(u32 tgid, struct owner *owner)
{
	struct waggle_python *python = python_of(tgid);
	struct context *context;
	u64 address;

	if (!python || !(copy_trusted(python) || writer_trusted(python)))
		return 0;
	address = current_context(python);
	context = address ? known_context(python, tgid, address) : 0;
	if (!context || may_be_queued(context, tgid))
		return 0;
	*owner = copy_trusted(python) ? context->copied_for : context->writes_for;
	return !!owner->sock;
}

/* What a predicted owner has in place of a thread, to know the request again: a socket's
 * address is used for another connection some time. */
INLINE u32 request_mark(const struct waggle_facts *facts)
{
	return facts->start_ns;
}

/* A request has been read by connection->reader: what both predictions need to know. */
INLINE void predict(struct connection *connection, const struct waggle_python *python, u64 sock,
		    u32 tgid, u32 mark)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct owner owner = { .sock = sock, .index = connection->requests, .tid = mark };
	struct thread *thread = python->copy_contradicts ? 0 : thread_slot(tid);
	struct context *writer;

	if (thread) {
		thread->read = owner;
		thread->read_switches = voluntary_switches();
	}
	if (!connection->writer || python->writer_contradicts)
		return;
	writer = known_context(python, tgid, connection->writer_context);
	if (writer && writer->generations[0] == connection->writer) {
		writer->writes_for = owner;
		writer->inherited = 0;
	}
}

INLINE int is_open(const struct owner *owner)
{
	u64 sock = owner->sock;
	struct connection *connection = sock ? bpf_map_lookup_elem(&connections, &sock) : 0;

	return connection && connection->requests - owner->index <=
				     connection->requests - connection->responses &&
	       connection->requests != owner->index;
}

/* The answer to the connection's oldest request is written by `context`: would the
 * predictions have said so? */
INLINE void test_predictions(struct connection *connection, struct waggle_python *python, u64 sock,
			     u64 address, const struct context *context)
{
	const struct owner *copied_for = &context->copied_for;

	if (copied_for->sock == sock && copied_for->index == connection->responses)
		__sync_fetch_and_add(&python->copy_agrees, 1);
	else if (connection->copied == connection->responses + 1 || is_open(copied_for))
		__sync_fetch_and_add(&python->copy_contradicts, 1);
	if (connection->writer && connection->writer == context->generations[0])
		__sync_fetch_and_add(&python->writer_agrees, 1);
	else if (connection->writer)
		__sync_fetch_and_add(&python->writer_contradicts, 1);
	connection->writer = context->generations[0];
	connection->writer_context = address;
}

#endif
