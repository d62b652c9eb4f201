/* SPDX-License-Identifier: Apache-2.0
 *
 * Rule `task`, calls in the middle of an answer: a context that calls and then goes on
 * with an answer that had begun before has called for that request.
 */
#ifndef WAGGLE_PYTHON_PARTS_H
#define WAGGLE_PYTHON_PARTS_H

#include "exchange.h"
#include "python.h"

/* Somebody called in the middle of this answer. Whoever goes on with it: was it he? */
OUT_OF_LINE int task_part(struct connection *connection, u64 sock)
{
	struct waggle_evidence *evidence;
	struct waggle_python *python;
	struct found_exchange found;
	struct context *context;
	u32 tgid = connection->tgid;
	u64 address;

	python = python_of(tgid);
	if (!python || !http1_in_body(&connection->sent)) {
		connection->flags &= ~CONNECTION_WATCHED;
		return 0;
	}
	address = current_context(python);
	context = address ? known_context(python, tgid, address) : 0;
	if (!context || !context->called ||
	    !find_exchange(connection, sock, connection->responses, &found))
		return 0;
	connection->flags &= ~CONNECTION_WATCHED;
	evidence = begin_evidence(WAGGLE_EVIDENCE_PART, found.facts);
	if (!evidence)
		return 0;
	evidence->contexts[0] = context->generations[0];
	bpf_ringbuf_submit(evidence, wakeup(&evidence_ring));
	return 0;
}

#endif
