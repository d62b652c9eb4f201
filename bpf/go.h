/* SPDX-License-Identifier: Apache-2.0
 *
 * Rule `goroutine`: the evidence. In Go every request is served by a goroutine, whose
 * number is never used again while its process lives. A thread's current goroutine is
 * read at the moment that bytes pass a socket; nothing is assumed of threads.
 *
 * A goroutine serves what it read (HTTP/1), or the stream it was made for
 * (go_probes.h). One that is born while its maker serves a request is part of that
 * request, if goroutines that run the same function are known to end (struct
 * go_function): a worker that lives on does anybody's work.
 */
#ifndef WAGGLE_GO_H
#define WAGGLE_GO_H

#include "exchange.h"
#include "go_machine.h"
#include "late_handoff.h"
#include "python.h"

struct goroutine_key {
	u64 goid;
	u32 epoch; /* of the process */
	u32 reserved;
};

/* A request, and what a child of it needs even when it is answered. */
struct go_request {
	struct owner owner; /* tid: request_mark(); sock 0: nobody's */
	u8 trace_id[16];
	u8 span_id[8];
	u64 sampling;
	u32 trace_flags;
	u32 flags; /* enum waggle_flag, those that a child takes over */
};

enum go_state {
	GO_SERVES = 0, /* reads requests of HTTP/1 from owner.sock */
	GO_STREAM = 1, /* serves this one stream of HTTP/2 now */
	GO_BORN = 2,   /* was born in this request */
	GO_SHARED = 3, /* reads several requests at once: says nothing */
};

struct goroutine {
	struct go_request request;
	u64 function; /* GO_BORN: what it runs */
	u32 state;
	u32 calls;
};

/* Where a request will be found that somebody has asked for: by the socket (net/http, one
 * at a time), by the headers that are on their way to the connection's writer (grpc), and
 * by the writer's goroutine and the stream. */
enum go_call_place { GO_BY_SOCKET = 0, GO_BY_HEADERS = 1, GO_BY_WRITER = 2 };

struct go_call_key {
	u64 at; /* socket, address of the headers, or goroutine */
	u32 stream;
	u32 epoch;
	u32 place; /* enum go_call_place */
	u32 reserved;
};

/* Who asked for the request that will be sent next on a connection. */
struct go_call {
	struct go_request request; /* owner.sock 0: nobody known */
	u64 goid;
	u32 after; /* the request was answered already */
	u32 link;
};

MAP(go_processes, BPF_MAP_TYPE_HASH, 4096, u32, struct waggle_go, ON_DEMAND);
/* What is full forgets what was longest not used: such a call has no parent. */
MAP(goroutines, BPF_MAP_TYPE_LRU_HASH, 65536, struct goroutine_key, struct goroutine, 0);
MAP(go_functions, BPF_MAP_TYPE_HASH, 16384, struct waggle_go_function_key, struct waggle_go_function,
    ON_DEMAND);
MAP(go_calls, BPF_MAP_TYPE_LRU_HASH, 16384, struct go_call_key, struct go_call, 0);

/* The context of every request that net/http serves, as long as its address is not used
 * again: request_mark() tells. */
struct go_context_key {
	u64 address;
	u32 epoch;
	u32 reserved;
};
MAP(go_contexts, BPF_MAP_TYPE_LRU_HASH, 32768, struct go_context_key, struct owner, 0);

INLINE struct waggle_go *go_of(u32 tgid)
{
	return bpf_map_lookup_elem(&go_processes, &tgid);
}

INLINE int layout_holds(const struct waggle_go *go)
{
	return !go->must_agree || (go->agrees && !go->disagrees);
}

/* The g of the goroutine that the current thread runs, 0 when it runs none. A goroutine's
 * thread points back to it: where it does not, the layout is not what we think. */
INLINE u64 current_g(struct waggle_go *go)
{
	u64 g = word_at(go_thread_slot(go->slot));
	u64 thread = g ? word_at(g + go->m) : 0;

	if (!thread || !layout_holds(go))
		return 0;
	if (word_at(thread + go->curg) == g)
		return g;
	__sync_fetch_and_add(&go->not_on_goroutine, 1);
	return 0;
}

INLINE u64 current_goid(struct waggle_go *go)
{
	u64 g = current_g(go);

	return g ? word_at(g + go->goid) : 0;
}

INLINE struct goroutine *goroutine_of(const struct waggle_go *go, u64 goid)
{
	struct goroutine_key key = { .goid = goid, .epoch = go->epoch };

	return bpf_map_lookup_elem(&goroutines, &key);
}

INLINE struct waggle_go_function *go_function_of(const struct waggle_go *go, u64 address)
{
	struct waggle_go_function_key key = { .address = address, .epoch = go->epoch };

	return bpf_map_lookup_elem(&go_functions, &key);
}

INLINE void keep_request(struct go_request *request, const struct owner *owner,
			 const struct waggle_facts *facts)
{
	request->owner.sock = owner->sock;
	request->owner.index = owner->index;
	request->owner.tid = request_mark(facts);
	copy_trace_id(request->trace_id, facts->trace_id);
	copy_span_id(request->span_id, facts->span_id);
	request->sampling = inherited_sampling(facts->sampling);
	request->trace_flags = facts->trace_flags;
	request->flags = facts->flags & (WAGGLE_FLAG_UNSAMPLED | WAGGLE_FLAG_TRACE_PENDING);
}

/* Whether a request is open, and if so its latest ids into `request`. */
INLINE int refresh_request(struct go_request *request)
{
	u64 sock = request->owner.sock;
	struct connection *connection = sock ? bpf_map_lookup_elem(&connections, &sock) : 0;
	struct found_exchange found;

	if (!connection || !find_exchange(connection, sock, request->owner.index, &found) ||
	    request_mark(found.facts) != request->owner.tid)
		return 0;
	found.owner->tid = HAS_CHILDREN;
	keep_request(request, &request->owner, found.facts);
	return 1;
}

/* A goroutine that reads from one connection serves its oldest open request. */
INLINE void turn_to_oldest(struct go_request *request, u64 goid)
{
	u64 sock = request->owner.sock;
	struct connection *connection = bpf_map_lookup_elem(&connections, &sock);
	struct found_exchange found;

	if (!connection || connection->reader != goid || open_requests(connection) < 2)
		return;
	request->owner.index = connection->responses;
	if (find_exchange(connection, sock, request->owner.index, &found))
		request->owner.tid = request_mark(found.facts);
}

/* What a goroutine works on now, into `request`, and whether that is open. Returns 0 when
 * nothing is known. */
enum go_works { GO_NOTHING = 0, GO_ON_OPEN = 1, GO_ON_ANSWERED = 2 };

INLINE int works_on(const struct goroutine *goroutine, u64 goid, struct go_request *request)
{
	if (goroutine->state == GO_SHARED)
		return GO_NOTHING;
	*request = goroutine->request;
	if (goroutine->state == GO_SERVES)
		turn_to_oldest(request, goid);
	return refresh_request(request) ? GO_ON_OPEN : GO_ON_ANSWERED;
}

INLINE int function_trusted(const struct waggle_go_function *function)
{
	if (!function)
		return 0;
	return function->verdict == WAGGLE_GO_ENDS ||
	       (function->verdict == WAGGLE_GO_UNKNOWN && function->ended >= birth_proof);
}

/* A goroutine that was born in a request calls. One that has called before and goes on
 * after the answer may be a worker, and so may all that run this function. */
INLINE int born_may_call(const struct waggle_go *go, struct goroutine *goroutine, int works)
{
	struct waggle_go_function *function = go_function_of(go, goroutine->function);
	u32 before = goroutine->calls++;

	if (function && works == GO_ON_ANSWERED && before &&
	    function->verdict == WAGGLE_GO_UNKNOWN)
		function->verdict = WAGGLE_GO_WORKS_ON;
	return function_trusted(function);
}

/* Whose request is a call of this goroutine part of? Fills `call`; owner.sock is 0 when it
 * is nobody's. */
INLINE int ask_goroutine(struct waggle_go *go, u64 goid, struct go_call *call)
{
	struct goroutine *goroutine = goid ? goroutine_of(go, goid) : 0;
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
	if (goroutine->state == GO_BORN && !go->used)
		go->used = 1;
	return 1;
}

/* A request of HTTP/1 has been read: its goroutine serves it. */
PROVEN_ONCE int goroutine_request(struct connection *connection,
				  const struct waggle_facts *facts, u64 sock)
{
	struct waggle_go *go;
	struct goroutine_key key = {};
	struct goroutine fresh = {}, *known;
	struct owner owner = { .sock = sock };

	if (!connection || !facts)
		return 0;
	go = go_of(facts->tgid);
	if (!go)
		return 0;
	owner.index = connection->requests;
	key.goid = current_goid(go);
	key.epoch = go->epoch;
	if (!key.goid)
		return 0;
	connection->reader = key.goid;
	known = bpf_map_lookup_elem(&goroutines, &key);
	if (known && known->request.owner.sock != sock && known->state != GO_BORN) {
		struct go_request other = known->request;

		if (known->state == GO_SHARED || refresh_request(&other))
			fresh.state = GO_SHARED;
	}
	keep_request(&fresh.request, &owner, facts);
	if (known)
		*known = fresh;
	else
		bpf_map_update_elem(&goroutines, &key, &fresh, BPF_ANY);
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

INLINE int take_go_call(const struct go_call_key *key, struct go_call *call)
{
	struct go_call *left = bpf_map_lookup_elem(&go_calls, key);

	if (!left)
		return 0;
	*call = *left;
	bpf_map_delete_elem(&go_calls, key);
	return 1;
}

/* Whether rule `goroutine` decides about the calls of a process. */
INLINE int is_go(u32 tgid)
{
	struct waggle_process *process = bpf_map_lookup_elem(&processes, &tgid);

	return process && process->mode & WAGGLE_PROCESS_RULE_GOROUTINE;
}

/* Rule `goroutine`: the parent of a request that goes out. Returns the link. */
PROVEN_ONCE int goroutine_parent(struct connection *connection, u64 sock, u32 stream,
				 struct waggle_facts *facts, struct owner *owner)
{
	struct go_call_key key = { .at = sock, .stream = stream };
	struct waggle_go *go;
	struct go_call call;
	u64 g;

	if (!connection || !facts || !owner)
		return WAGGLE_LINK_NONE;
	go = go_of(facts->tgid);
	g = go ? current_g(go) : 0;
	if (!g)
		return WAGGLE_LINK_NONE;
	if (is_pump(go, g)) {
		key.epoch = go->epoch;
		if (stream) {
			key.at = word_at(g + go->goid);
			key.place = GO_BY_WRITER;
		}
		if (!take_go_call(&key, &call))
			call.request.owner.sock = 0;
	} else {
		ask_goroutine(go, word_at(g + go->goid), &call);
	}
	if (!call.request.owner.sock) {
		count(WAGGLE_COUNT_GOROUTINE_UNKNOWN);
		go->unknown++;
		return WAGGLE_LINK_NONE;
	}
	copy_trace_id(facts->trace_id, call.request.trace_id);
	copy_span_id(facts->parent_id, call.request.span_id);
	facts->trace_flags = call.request.trace_flags;
	facts->sampling = call.request.sampling;
	facts->flags |= call.request.flags;
	if (call.after)
		facts->flags |= WAGGLE_FLAG_AFTER_RESPONSE;
	else
		*owner = call.request.owner;
	count(WAGGLE_COUNT_GOROUTINE_CALLS);
	return WAGGLE_LINK_GOROUTINE;
}

#endif
