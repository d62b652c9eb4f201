/* SPDX-License-Identifier: Apache-2.0
 *
 * Rule `goroutine`: the evidence. In Go every request is served by a goroutine, whose
 * number is never used again while its process lives. A thread's current goroutine is
 * read at the moment that bytes pass a socket; nothing is assumed of threads.
 *
 * A goroutine serves what it read (HTTP/1), or the stream it was made for
 * (go_server_probes.h). One that is born while its maker serves a request is part of that
 * request, if goroutines that run the same function are known to end (struct
 * go_function): a worker that lives on does anybody's work.
 */
#ifndef WAGGLE_GO_H
#define WAGGLE_GO_H

#include "exchange.h"
#include "go_machine.h"
#include "go_maps.h"
#include "late_handoff.h"
#include "python.h"

INLINE struct waggle_go *go_of(u32 tgid)
{
	return bpf_map_lookup_elem(&go_processes, &tgid);
}

INLINE struct waggle_go *current_go(void)
{
	return go_of(bpf_get_current_pid_tgid() >> 32);
}

/* Processors pass what all write to to and fro, so nobody counts for ever. */
INLINE void count_served(struct waggle_go *go)
{
	if (go->served < WAGGLE_GO_LIMIT_SERVED)
		go->served++;
}

INLINE int layout_holds(const struct waggle_go *go)
{
	return !go->must_agree || (go->agrees && !go->disagrees);
}

/* A goroutine's thread points back to it: where it does not, the layout is not what we think. Where
 * it always did, nobody looks again: that was two of the four words that a goroutine took. */
INLINE int points_back(struct waggle_go *go, u64 g)
{
	u64 thread = word_at(g + go->m);

	if (thread && word_at(thread + go->curg) == g) {
		go->certain++;
		return 1;
	}
	go->certain = 0;
	__sync_fetch_and_add(&go->not_on_goroutine, 1);
	return 0;
}

/* The number of the goroutine of which this is the g, 0 where it is none's: a thread's own, with
 * which it also runs code that is not Go's, has no number. */
INLINE u64 goid_of(struct waggle_go *go, u64 g)
{
	u64 goid = g && layout_holds(go) ? word_at(g + go->goid) : 0;

	return goid && (go->certain >= WAGGLE_GO_LIMIT_CERTAIN || points_back(go, g)) ? goid : 0;
}

INLINE u64 current_goid(struct waggle_go *go)
{
	return goid_of(go, go_thread_g(go->slot));
}

/* The same at a probe. */
INLINE u64 probed_goid(struct waggle_go *go, struct pt_regs *registers)
{
	return goid_of(go, go_probed_g(registers));
}

INLINE struct goroutine *goroutine_of(const struct waggle_go *go, u64 goid)
{
	struct goroutine_key key = { .goid = goid, .epoch = go->epoch };
	struct goroutine *near = go->near ? bpf_map_lookup_elem(&near_goroutines, &key) : 0;

	return near ? near : bpf_map_lookup_elem(&goroutines, &key);
}

/* How a function is known that begins at an address. */
INLINE struct waggle_go_function_key go_function_key(const struct waggle_go *go, u64 address)
{
	return (struct waggle_go_function_key){ .address = address - go->bias,
						.epoch = go->epoch };
}

INLINE struct waggle_go_function *go_function_of(const struct waggle_go *go, u64 address)
{
	struct waggle_go_function_key key = go_function_key(go, address);

	return bpf_map_lookup_elem(&go_functions, &key);
}

INLINE void keep_request(struct go_request *request, const struct owner *owner,
			 const struct waggle_facts *facts)
{
	request->owner.sock = owner->sock;
	request->owner.index = owner->index;
	request->owner.tid = request_mark(facts);
	copy_trace_id(request->trace_id, facts->trace_id);
	copy_span_id(request->span_id, parent_of_children(facts));
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

/* What a goroutine of net/http serves on the connection that it reads: the oldest request that
 * is open, else the last, whose ids the connection still has. That is looked up only now, since
 * most requests call nobody (reads_again()). Returns 0 when it cannot be known any more. */
PROVEN_ONCE int turn_to_served(struct go_request *request, u64 goid)
{
	struct owner owner = {};
	struct connection *connection;
	struct found_exchange found;

	if (!request)
		return 0;
	owner.sock = request->owner.sock;
	connection = bpf_map_lookup_elem(&connections, &owner.sock);
	if (!connection || connection->reader != goid)
		return 0;
	if (open_requests(connection)) {
		owner.index = connection->responses;
		if (!find_exchange(connection, owner.sock, owner.index, &found))
			return 0;
		keep_request(request, &owner, found.facts);
		return 1;
	}
	owner.index = connection->requests - 1;
	if (request->owner.index == owner.index)
		return 1;
	if (connection->current_index != owner.index)
		return 0;
	keep_request(request, &owner, &connection->current.record.facts);
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

/* What a goroutine works on now, into `request`. Returns 0 when nothing is known. */
INLINE int request_of(const struct goroutine *goroutine, u64 goid, struct go_request *request)
{
	if (goroutine->state == GO_SHARED)
		return 0;
	*request = goroutine->request;
	if (goroutine->state == GO_SERVES && goroutine->serves)
		return turn_to_served(request, goid);
	if (goroutine->state == GO_SERVES)
		turn_to_oldest(request, goid);
	return 1;
}

/* The same, and whether that is open. */
enum go_works { GO_NOTHING = 0, GO_ON_OPEN = 1, GO_ON_ANSWERED = 2 };

INLINE int works_on(const struct goroutine *goroutine, u64 goid, struct go_request *request)
{
	if (!request_of(goroutine, goid, request))
		return GO_NOTHING;
	return refresh_request(request) ? GO_ON_OPEN : GO_ON_ANSWERED;
}

#endif
