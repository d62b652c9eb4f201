/* SPDX-License-Identifier: Apache-2.0
 *
 * Processes that make and export spans themselves, by an SDK: what those cover is left to
 * them (docs/propagators.md). What an SDK covers shows on the wire: a call that it made a
 * span of bears a header with that span's id.
 */
#ifndef WAGGLE_SDK_H
#define WAGGLE_SDK_H

#include "forwarded.h"

INLINE int same_span(const u8 *a, const u8 *b)
{
	return load64(a) == load64(b);
}

/* A request with a header, to such a process. */
PROVEN_ONCE int sdk_request(struct waggle_facts *facts)
{
	u32 tgid = facts ? facts->tgid : 0;
	struct waggle_process *process = bpf_map_lookup_elem(&processes, &tgid);

	if (facts && process && process->mode & WAGGLE_PROCESS_SDK_SERVER)
		facts->flags |= WAGGLE_FLAG_SDK;
	return 0;
}

/* A call with a header, of such a process; `facts` as our own evidence has it so far. Many
 * programs only pass on the header that they got: then no span stands between. */
INLINE int sdk_call(const struct trace_context *header, struct waggle_facts *facts,
			 const struct owner *owner)
{
	u32 tgid = facts ? facts->tgid : 0;
	struct waggle_process *process = bpf_map_lookup_elem(&processes, &tgid);
	struct connection *server;
	struct found_exchange found;
	u64 sock;

	if (!process || !header || !facts || !owner || !(process->mode & WAGGLE_PROCESS_SDK))
		return 0;
	if (!facts->link) {
		facts->flags |= WAGGLE_FLAG_SDK;
		return 0;
	}
	sock = owner->sock;
	server = sock ? bpf_map_lookup_elem(&connections, &sock) : 0;
	if (!server || !find_exchange(server, sock, owner->index, &found)) {
		facts->flags |= WAGGLE_FLAG_SDK;
		return 0;
	}
	if (same_span(header->span_id, found.facts->parent_id))
		return 0;
	facts->flags |= WAGGLE_FLAG_SDK;
	/* It goes on with the trace that the request came with: so it has a span of that too. */
	if (found.facts->flags & WAGGLE_FLAG_HAD_TRACEPARENT &&
	    same_trace(header->trace_id, found.facts->trace_id))
		process->mode |= WAGGLE_PROCESS_SDK_SERVER;
	return 0;
}

/* A call that bears a header. */
PROVEN_ONCE int header_call(const struct trace_context *header, struct waggle_facts *facts,
			    struct owner *owner)
{
	if (!header || !facts || !owner)
		return 0;
	if (!facts->link)
		facts->link = find_forwarded(header, facts, owner);
	sdk_call(header, facts, owner);
	return 0;
}

#endif
