/* SPDX-License-Identifier: Apache-2.0
 *
 * Rule `goroutine`: who asks for a call, what was read, and the parent of what goes out.
 */
#ifndef WAGGLE_GO_CALLS_H
#define WAGGLE_GO_CALLS_H

#include "go_births.h"
#include "go_claims.h"
#include "go_contexts.h"

/* Whose request is a call of this goroutine part of, of which we may know nothing? Fills `call`;
 * owner.sock is 0 when it is nobody's. */
INLINE int ask_goroutine(struct waggle_go *go, struct goroutine *goroutine, u64 goid,
			 struct go_call *call)
{
	int works;

	__builtin_memset(call, 0, sizeof(*call));
	call->goid = goid;
	if (!goroutine)
		return 0;
	works = works_on(goroutine, goid, &call->request);
	if (works == GO_NOTHING ||
	    (goroutine->state == GO_BORN && !born_may_call(go, goroutine, works))) {
		call->request.owner.sock = 0;
		return 0;
	}
	call->after = works == GO_ON_ANSWERED;
	return 1;
}

/* What ask_goroutine() has found of the goroutine `g` without a context, or what it has not. */
INLINE void learn_of_births(struct waggle_go *go, u64 g, const struct goroutine *goroutine,
			    const struct go_call *call)
{
	if (!goroutine)
		missed(go, g, call->goid);
	else if (goroutine->state == GO_BORN && call->request.owner.sock)
		birth_told(go, goroutine);
}

/* The same by what the goroutine was handed, where nothing else is known. Returns 0 when it has
 * no claim. */
INLINE int ask_claim(const struct waggle_go *go, u64 goid, struct go_call *call)
{
	if (!go_handover_wanted || call->request.owner.sock)
		return 0;
	if (claimed_request(go, goid, &call->request))
		return 1;
	call->request.owner.sock = 0;
	return 0;
}

/* As ask_goroutine(), for the goroutine `g`, which may have been handed a context: its address
 * lies at `context_at`. What a
 * goroutine itself serves is surest; then the context; then its birth. */
OUT_OF_LINE int ask_with_context(struct waggle_go *go, u64 g, u64 goid, u64 context_at,
				 struct go_call *call)
{
	struct goroutine *goroutine = goid ? goroutine_of(go, goid) : 0;
	struct go_request request;
	u64 context;

	ask_goroutine(go, goroutine, goid, call);
	if (goroutine && goroutine->state != GO_BORN)
		return 0;
	context = context_at ? word_at(context_at) : 0;
	if (!context || !context_request(go, context, &request)) {
		if (!ask_claim(go, goid, call))
			learn_of_births(go, g, goroutine, call);
		return 0;
	}
	call->request = request;
	call->after = 0;
	return 0;
}

/* Whose request the current goroutine works on, for what it writes to its log: that changes
 * nothing of what is known, as a call does. */
PROVEN_ONCE int goroutine_writes(u32 tgid, struct owner *owner)
{
	struct waggle_go *go = go_of(tgid);
	u64 goid = go ? current_goid(go) : 0;
	struct goroutine *goroutine = goid ? goroutine_of(go, goid) : 0;
	struct go_request request;

	if (!goroutine || !owner || !request_of(goroutine, goid, &request))
		return 0;
	if (goroutine->state == GO_BORN &&
	    !function_trusted(go_function_of(go, goroutine->function)))
		return 0;
	*owner = request.owner;
	return !!owner->sock;
}

INLINE struct goroutine *new_goroutine(const struct goroutine_key *key)
{
	struct goroutine *blank = BLANK(struct goroutine);

	if (blank)
		put_goroutine(key, blank, BPF_ANY);
	return bpf_map_lookup_elem(&goroutines, key);
}

/* A worker makes the goroutine `g`, which is part of its request where such ones are made for one
 * call of their maker's and end with it: HTTP/2's. */
OUT_OF_LINE int born_of_worker(const struct waggle_go *go, u64 maker_goid, u64 g)
{
	struct goroutine_key key = { .goid = word_at(g + go->goid), .epoch = go->epoch };
	u64 address = word_at(g + go->start);
	struct waggle_go_function *function = go_function_of(go, address);
	struct go_request request = {};
	struct goroutine *fresh;

	if (!function || function->verdict != WAGGLE_GO_ENDS || !layout_holds(go) ||
	    !claimed_request(go, maker_goid, &request))
		return 0;
	fresh = new_goroutine(&key);
	if (!fresh)
		return 0;
	fresh->function = address;
	fresh->request = request;
	fresh->state = GO_BORN;
	return 0;
}

/* Whether a goroutine reads a request while another is open, of another connection. */
OUT_OF_LINE int serves_several(const struct goroutine *goroutine, u64 goid, u64 sock)
{
	struct go_request other = goroutine->request;
	u64 before = other.owner.sock;
	struct connection *connection;

	if (goroutine->state == GO_BORN || before == sock)
		return 0;
	connection = bpf_map_lookup_elem(&connections, &before);
	if (connection && connection->reader == goid) {
		connection->serves = 0;
		if (open_requests(connection))
			return 1;
	}
	return goroutine->state == GO_SHARED || refresh_request(&other);
}

#define READER_KNOWN_NS (250 * 1000000ULL)
#define READER_STAYS_NS (5000 * 1000000ULL)
#define READER_STAYS_MADE 8192 /* goroutines, of 65536 that `goroutines` has room for */

/* Whether what is known of the goroutine that reads a connection need not be looked at again. With
 * many connections none has a request every moment; then it is enough that the map has not filled
 * up since, which forgets whom nobody has looked at for long, and that nothing is still to be found
 * out about routes. */
INLINE int reader_is_known(const struct connection *connection, u64 now)
{
	u64 age = now - connection->reader_ns;

	return age <= READER_KNOWN_NS ||
	       (age <= READER_STAYS_NS && connection->flags & CONNECTION_ROUTED &&
		goroutines_made - connection->go_made < READER_STAYS_MADE);
}

#define GO_G_UNSURE 1 /* in reader_g, which is even otherwise */

/* Whether the goroutine that serves a connection of net/http reads its next request: one look
 * at the process's memory, where all that a goroutine's entry wants to know takes many. What
 * it works on is found when it calls (turn_to_served()). Now and then all is looked at. */
INLINE int reads_again(struct connection *connection, u64 now)
{
	u64 g = go_likely_g();

	if (!connection->serves || open_requests(connection) || !reader_is_known(connection, now) ||
	    word_at(g + connection->go_goid) != connection->reader)
		return 0;
	connection->reader_g = g | GO_G_UNSURE;
	return 1;
}

/* The same without a look. The goroutine that serves a net/http.conn lives, and its g is nobody
 * else's, until the conn ends or somebody takes it over: that nobody had is read with each answer
 * (request_answered()), and holds for one request. */
INLINE int surely_reads_again(struct connection *connection, u64 now, u64 g)
{
	if (!g || connection->reader_g != g || !connection->serves || open_requests(connection) ||
	    !reader_is_known(connection, now))
		return 0;
	connection->reader_g = g | GO_G_UNSURE;
	return 1;
}

/* The connection of net/http that a goroutine reads, if it is one, and is known. */
INLINE void look_at_served(struct waggle_go *go, struct goroutine *goroutine, u64 goid,
			   struct connection *connection)
{
	goroutine->pipelined |= open_requests(connection) != 0;
	/* Even if that is introduced only now (go_serve_http): before it answers. */
	if (go->request_pattern || go->routers || go->servemux_place)
		connection->flags |= CONNECTION_ROUTED;
	if (!goroutine->serves) {
		go->strangers++;
		return;
	}
	if (!goroutine->context)
		keep_conn_context(go, goroutine, goid);
	if (goroutine->state != GO_SERVES || goroutine->pipelined ||
	    go->served < WAGGLE_GO_LIMIT_SERVED)
		return;
	connection->serves = goroutine->serves;
	connection->go_made = goroutines_made;
	connection->go_goid = go->goid;
}

/* A request of HTTP/1 has been read: its goroutine serves it. */
PROVEN_ONCE int goroutine_request(struct connection *connection,
				  const struct waggle_facts *facts, u64 sock)
{
	struct waggle_go *go;
	struct goroutine_key key = {};
	struct goroutine *goroutine;
	struct owner owner = { .sock = sock };

	if (!connection || !facts)
		return 0;
	if (reads_again(connection, facts->start_ns))
		return 0;
	go = go_of(facts->tgid);
	if (!go)
		return 0;
	count_served(go);
	connection->reader = 0;
	connection->reader_g = 0;
	connection->serves = 0;
	connection->reader_ns = facts->start_ns;
	owner.index = connection->requests;
	key.goid = current_goid(go);
	key.epoch = go->epoch;
	if (!key.goid)
		return 0;
	connection->reader = key.goid;
	goroutine = bpf_map_lookup_elem(&goroutines, &key);
	if (!goroutine)
		goroutine = new_goroutine(&key);
	if (!goroutine)
		return 0;
	goroutine->state = serves_several(goroutine, key.goid, sock) ? GO_SHARED : GO_SERVES;
	look_at_served(go, goroutine, key.goid, connection);
	keep_request(&goroutine->request, &owner, facts);
	return 0;
}

/* Whether the current goroutine only writes what others hand to it: the writer of a
 * pooled connection. It descends from whoever dialled, and lives on. */
INLINE int is_pump(struct waggle_go *go, u64 g)
{
	struct waggle_go_function *function = go_function_of(go, word_at(g + go->start));

	return function && function->verdict == WAGGLE_GO_PUMP;
}

INLINE u32 stream_of(const struct connection *connection, const struct waggle_facts *facts)
{
	return is_http2(connection) ? ((const struct waggle_http2 *)(facts + 1))->stream : 0;
}

/* What was asked for before at that place, and never sent, is no more. */
INLINE void keep_go_call(const struct go_call_key *key, const struct go_call *call)
{
	if (far_calls)
		bpf_map_delete_elem(&go_calls, key);
	if (!bpf_map_update_elem(&near_calls, key, call, BPF_ANY))
		return;
	far_calls = 1;
	bpf_map_update_elem(&go_calls, key, call, BPF_ANY);
}

INLINE int take_go_call(const struct go_call_key *key, struct go_call *call)
{
	struct go_call *left = bpf_map_lookup_elem(&near_calls, key);

	if (left) {
		*call = *left;
		bpf_map_delete_elem(&near_calls, key);
		return 1;
	}
	left = far_calls ? bpf_map_lookup_elem(&go_calls, key) : 0;
	if (!left)
		return 0;
	*call = *left;
	bpf_map_delete_elem(&go_calls, key);
	return 1;
}

/* A call that waits since the last time may wait for ever: for a stream that was given up. */
static long sweep_go_call(void *map, const struct go_call_key *key, struct go_call *call,
			  void *context)
{
	struct go_call_key place = *key;

	if (!call->swept++)
		return 0;
	far_calls = 1;
	bpf_map_update_elem(&go_calls, &place, call, BPF_ANY);
	bpf_map_delete_elem(&near_calls, &place);
	return 0;
}

/* Whether rule `goroutine` decides about the calls of a process. */
INLINE int is_go(const struct waggle_process *process)
{
	return process && process->mode & WAGGLE_PROCESS_RULE_GOROUTINE;
}

/* In memory of the CPU's own, which programs of sockets hold while they run: probes of
 * programs do not, and have theirs on the stack. */
MAP(go_call_scratch, BPF_MAP_TYPE_PERCPU_ARRAY, 1, u32, struct go_call, 0);

INLINE struct go_call *call_scratch(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&go_call_scratch, &zero);
}

#define GO_SOME 1 /* a goroutine, whose number nobody needs */

/* Rule `goroutine`: the parent of a request that goes out. Returns the link. */
PROVEN_ONCE int goroutine_parent(struct connection *connection, u64 sock, u32 stream,
				 struct waggle_facts *facts, struct owner *owner)
{
	struct go_call_key key = { .at = sock, .stream = stream };
	struct waggle_go *go;
	struct go_call *call = call_scratch();
	struct goroutine *goroutine;
	u64 g;
	int pumps;

	if (!connection || !facts || !owner || !call)
		return WAGGLE_LINK_NONE;
	go = go_of(facts->tgid);
	g = go ? go_thread_g(go->slot) : 0;
	if (!g || !layout_holds(go))
		return WAGGLE_LINK_NONE;
	/* A thread's own g runs no function, so what runs a pump's is a goroutine. */
	pumps = is_pump(go, g);
	call->goid = pumps && go->certain >= WAGGLE_GO_LIMIT_CERTAIN ? GO_SOME : goid_of(go, g);
	if (!call->goid)
		return WAGGLE_LINK_NONE;
	if (pumps) {
		key.epoch = go->epoch;
		if (stream && !go->grpc_call_client) {
			key.at = goid_of(go, g);
			key.place = GO_BY_WRITER;
		}
		if (!take_go_call(&key, call))
			call->request.owner.sock = 0;
	} else {
		goroutine = goroutine_of(go, call->goid);
		ask_goroutine(go, goroutine, call->goid, call);
		if (!ask_claim(go, call->goid, call))
			learn_of_births(go, g, goroutine, call);
	}
	if (!call->request.owner.sock) {
		count(WAGGLE_COUNT_GOROUTINE_UNKNOWN);
		go->unknown++;
		return WAGGLE_LINK_NONE;
	}
	copy_trace_id(facts->trace_id, call->request.trace_id);
	copy_span_id(facts->parent_id, call->request.span_id);
	facts->trace_flags = call->request.trace_flags;
	facts->sampling = call->request.sampling;
	facts->flags |= call->request.flags;
	if (call->after)
		facts->flags |= WAGGLE_FLAG_AFTER_RESPONSE;
	else
		*owner = call->request.owner;
	count(WAGGLE_COUNT_GOROUTINE_CALLS);
	return WAGGLE_LINK_GOROUTINE;
}

#endif
