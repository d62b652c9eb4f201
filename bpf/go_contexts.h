/* SPDX-License-Identifier: Apache-2.0
 *
 * Which request a context.Context of Go belongs to. Whoever is handed a request's context,
 * or one that was made from it, works for that request, whichever goroutine it is.
 *
 * A context begins with the one it was made from. net/http makes one for each connection,
 * and from that one for each request; grpc and HTTP/2 make one for each stream. Those of
 * connections and streams are kept, so that nothing has to be done for each request of
 * HTTP/1: which of its connection's requests a context is of is read when somebody calls.
 */
#ifndef WAGGLE_GO_CONTEXTS_H
#define WAGGLE_GO_CONTEXTS_H

#include "go.h"

#define GO_INTERFACE_DATA 8 /* of an interface: behind its type */
#define GO_CLOSURE_FIRST 8  /* of a closure: behind its code */
#define GO_CONTEXTS_DEEP 16

/* The context of a net/http.conn. What cancels it is a closure over it alone. */
INLINE u64 context_of_conn(const struct waggle_go *go, u64 conn)
{
	u64 cancel = word_at(conn + go->conn_cancel), code = cancel ? word_at(cancel) : 0;

	if (code < go->low || code >= go->high)
		return 0;
	return word_at(cancel + GO_CLOSURE_FIRST);
}

/* The goroutine reads requests from a net/http.conn: remember by that one's context. */
INLINE void keep_conn_context(const struct waggle_go *go, struct goroutine *goroutine, u64 goid)
{
	struct go_context_key key = { .epoch = go->epoch };
	struct go_context fresh = { .goid = goid };

	key.address = context_of_conn(go, goroutine->serves);
	if (!key.address)
		return;
	goroutine->context = key.address;
	bpf_map_update_elem(&go_contexts, &key, &fresh, BPF_ANY);
}

/* Where a net/http.Request has the address of its context. */
INLINE u64 context_of_request(const struct waggle_go *go, u64 request)
{
	return request + go->request_ctx + GO_INTERFACE_DATA;
}

/* The Request that net/http serves on a conn now, 0: none. */
INLINE u64 request_of_conn(const struct waggle_go *go, u64 conn)
{
	u64 response = word_at(conn + go->conn_response);

	return response ? word_at(response + go->response_request) : 0;
}

/* The context of a request was made from `above`, which is that of the connection that
 * goroutine `goid` reads: is it that of the request which is being served now? */
PROVEN_ONCE int serving_request(u64 goid, u64 above, u64 context, struct go_request *request)
{
	struct waggle_go *go = go_of(bpf_get_current_pid_tgid() >> 32);
	struct goroutine *goroutine = go ? goroutine_of(go, goid) : 0;
	u64 served;

	if (!goroutine || !request || goroutine->state != GO_SERVES || goroutine->pipelined ||
	    !goroutine->serves || context_of_conn(go, goroutine->serves) != above)
		return 0;
	/* Whoever has taken it over may read more from it, of which net/http knows nothing. */
	if ((u8)word_at(goroutine->serves + go->conn_hijacked))
		return 0;
	served = request_of_conn(go, goroutine->serves);
	if (!served || word_at(served + go->request_ctx + GO_INTERFACE_DATA) != context)
		return 0;
	return works_on(goroutine, goid, request) == GO_ON_OPEN;
}

PROVEN_ONCE int stream_is_open(struct go_request *request)
{
	return request ? refresh_request(request) : 0;
}

struct context_walk {
	const struct waggle_go *go;
	struct go_request *request;
	u64 at;
	u64 below; /* the context that was made from it */
	u32 found;
	u32 reserved;
};

/* An address that is known may be another context's by now: then the walk goes on. */
static long context_step(u32 index, void *context)
{
	struct context_walk *walk = context;
	struct go_context_key key = { .address = walk->at, .epoch = walk->go->epoch };
	struct go_context *known = walk->go->near ? bpf_map_lookup_elem(&near_contexts, &key) : 0;

	if (!known)
		known = bpf_map_lookup_elem(&go_contexts, &key);
	if (!walk->at)
		return 1;
	if (known && known->goid) {
		walk->found = serving_request(known->goid, walk->at, walk->below, walk->request);
	} else if (known) {
		walk->request->owner = known->owner;
		walk->found = stream_is_open(walk->request);
	}
	if (walk->found)
		return 1;
	walk->below = walk->at;
	walk->at = word_at(walk->at + GO_INTERFACE_DATA);
	return 0;
}

/* The open request whose context `context` is or was made from. */
OUT_OF_LINE int context_request(const struct waggle_go *go, u64 context, struct go_request *request)
{
	struct context_walk walk = { .go = go, .request = request, .at = context };

	LOOP(GO_CONTEXTS_DEEP, context_step, &walk);
	return walk.found;
}

#endif
