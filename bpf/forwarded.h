/* SPDX-License-Identifier: Apache-2.0
 *
 * Rule `forwarded`: many programs copy the header that a request came with into the calls that they
 * make for it, proxies above all. Where no rule knows whose a call is, its header does: it names
 * the span that exactly one request of this process came from.
 */
#ifndef WAGGLE_FORWARDED_H
#define WAGGLE_FORWARDED_H

#include "parents.h"

/* The header of a request that came in. */
struct forwarded_key {
	u8 span_id[8];
	u32 tgid;
	u32 reserved;
};

struct forwarded {
	struct owner owner; /* tid: request_mark() */
	u32 is_shared;	    /* another request came with it too: it names neither any more */
	u32 reserved;
};

/* What is full forgets what was longest not used: then the header's own parent stands. */
MAP(forwarded, BPF_MAP_TYPE_LRU_HASH, 8192, struct forwarded_key, struct forwarded, 0);

/* Programs that pass on a header by hand, in Go or Python, have rules that know more. */
INLINE int needs_forwarded(const struct waggle_process *process)
{
	return !(process->mode & (WAGGLE_PROCESS_RULE_GOROUTINE | WAGGLE_PROCESS_RULE_TASK));
}

/* A request has come with this header, the `index`th of its connection, or that stream. */
PROVEN_ONCE int keep_forwarded(const struct trace_context *header,
			       const struct waggle_facts *facts, u64 sock, u32 index)
{
	u32 tgid = facts ? facts->tgid : 0;
	struct waggle_process *process = bpf_map_lookup_elem(&processes, &tgid);
	struct forwarded_key key = { .tgid = tgid };
	struct forwarded request = {}, *before;

	if (!header || !facts || !process || !needs_forwarded(process))
		return 0;
	copy_span_id(key.span_id, header->span_id);
	request.owner.sock = sock;
	request.owner.index = index;
	request.owner.tid = request_mark(facts);
	if (!bpf_map_update_elem(&forwarded, &key, &request, BPF_NOEXIST))
		return 0;
	before = bpf_map_lookup_elem(&forwarded, &key);
	if (before)
		before->is_shared = 1;
	return 0;
}

/* Whether that request is open, and of the header's trace. */
INLINE int is_of_trace(const struct owner *owner, const struct trace_context *header)
{
	u64 sock = owner->sock;
	struct connection *server = bpf_map_lookup_elem(&connections, &sock);
	struct found_exchange found;

	return server && find_exchange(server, sock, owner->index, &found) &&
	       same_trace(found.facts->trace_id, header->trace_id);
}

/* Whose request a call with this header is part of, while that is open: the link, none where the
 * header names no request, or several. */
PROVEN_ONCE int find_forwarded(const struct trace_context *header, struct waggle_facts *facts,
			       struct owner *owner)
{
	struct forwarded_key key = {};
	struct forwarded *request;

	if (!header || !facts || !owner)
		return WAGGLE_LINK_NONE;
	key.tgid = facts->tgid;
	copy_span_id(key.span_id, header->span_id);
	request = bpf_map_lookup_elem(&forwarded, &key);
	if (!request || request->is_shared || !is_of_trace(&request->owner, header))
		return WAGGLE_LINK_NONE;
	*owner = request->owner;
	return inherit(WAGGLE_LINK_FORWARDED, owner, facts, 0);
}

#endif
