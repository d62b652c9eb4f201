/* SPDX-License-Identifier: Apache-2.0
 *
 * Rule `task`, calls in the middle of an answer: a context that has begun an answer,
 * calls, and goes on with the same answer has called for that request.
 */
#ifndef WAGGLE_PYTHON_PARTS_H
#define WAGGLE_PYTHON_PARTS_H

#include "exchange.h"
#include "python.h"

/* The answer whose head this context has written. */
INLINE int goes_on(const struct connection *connection, const struct waggle_python *python,
		   u32 tgid)
{
	u64 address = current_context(python);
	struct context *context = address ? known_context(python, tgid, address) : 0;

	return context && connection->writer == context->generations[0];
}

OUT_OF_LINE int task_part(struct connection *connection, u64 sock)
{
	struct waggle_evidence *evidence;
	struct waggle_python *python;
	struct found_exchange found;
	u32 tgid = connection->tgid;

	connection->flags &= ~CONNECTION_WATCHED;
	python = python_of(tgid);
	if (!python || !open_requests(connection) ||
	    !find_exchange(connection, sock, connection->responses, &found) ||
	    !found.facts->status || !goes_on(connection, python, tgid))
		return 0;
	evidence = begin_evidence(WAGGLE_EVIDENCE_PART, found.facts);
	if (!evidence)
		return 0;
	evidence->contexts[0] = connection->writer;
	bpf_ringbuf_submit(evidence, wakeup(&evidence_ring));
	return 0;
}

#endif
