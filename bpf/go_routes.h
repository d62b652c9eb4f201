/* SPDX-License-Identifier: Apache-2.0
 *
 * The pattern by which a handler was found, when the answer's head is written. That of
 * net/http's ServeMux stands in the Request since Go 1.23, which the connection still has;
 * other routers were asked while they served it (go_routers.h).
 */
#ifndef WAGGLE_GO_ROUTES_H
#define WAGGLE_GO_ROUTES_H

#include "go_contexts.h"

struct go_string {
	u64 text;
	u64 length;
};

#define GO_ROUTE_MAX 127
#define GO_ROUTE_SHORT 63 /* of each piece too, where there are several */
#define KEPT_HEADER 4

/* Blocks of a record's head in which nothing lay so far, and that a field will reach. */
INLINE void clear_blocks(u8 *head, u32 used, u32 end)
{
#pragma clang loop unroll(full)
	for (u32 at = 0; at < WAGGLE_HEAD_SIZE; at += HEAD_BLOCK) {
		u32 size = WAGGLE_HEAD_SIZE - at < HEAD_BLOCK ? WAGGLE_HEAD_SIZE - at : HEAD_BLOCK;

		if (at >= used && at < end)
			clear_words(head + at, size);
	}
}

/* Adds the field to a record whose head has room for one of `most` bytes, which is a mask. */
INLINE int add_route(struct waggle_exchange *record, u64 text, u64 length, u32 most)
{
	struct waggle_facts *facts = &record->facts;
	u32 used = head_used(facts);

	if (length > most || used > WAGGLE_HEAD_SIZE - KEPT_HEADER - most)
		return 0;
	length = masked(length, most);
	clear_blocks(record->head, used, used + KEPT_HEADER + (u32)length);
	store32(record->head + used, WAGGLE_KEPT_ROUTE | (u32)length << 16);
	bpf_probe_read_user(record->head + used + KEPT_HEADER, (u32)length, (void *)text);
	facts->kept_len += KEPT_HEADER + (u32)length;
	/* One pattern is one string. */
	facts->shape ^= text * 0x9e3779b97f4a7c15ULL;
	return 1;
}

#define HANDLER_SIZE 8

/* Adds what the router chose, if there is room behind the route. */
INLINE void add_handler(struct waggle_exchange *record, u64 handler)
{
	struct waggle_facts *facts = &record->facts;
	u32 used = head_used(facts);

	if (!handler || used > WAGGLE_HEAD_SIZE - KEPT_HEADER - HANDLER_SIZE)
		return;
	clear_blocks(record->head, used, used + KEPT_HEADER + HANDLER_SIZE);
	store32(record->head + used, WAGGLE_KEPT_HANDLER | HANDLER_SIZE << 16);
	store64(record->head + used + KEPT_HEADER, handler);
	facts->kept_len += KEPT_HEADER + HANDLER_SIZE;
	facts->shape ^= handler * 0xc2b2ae3d27d4eb4fULL;
}

/* The net/http.conn of a connection, 0 where that is not sure. */
INLINE u64 served_conn(const struct waggle_go *go, const struct connection *connection)
{
	struct goroutine *goroutine;

	if (connection->serves)
		return connection->serves;
	goroutine = goroutine_of(go, connection->reader);
	return goroutine && !goroutine->pipelined ? goroutine->serves : 0;
}

/* Adds the field of several pieces, one behind the other. */
INLINE int add_pieces(struct waggle_exchange *record, const struct goroutine *goroutine)
{
	struct waggle_facts *facts = &record->facts;
	u32 used = head_used(facts), total = 0, last = 0;
	u64 name = 0, at;

#pragma clang loop unroll(full)
	for (u32 i = 0; i < GO_ROUTE_PIECES; i++) {
		if (goroutine->route_length[i] > GO_ROUTE_SHORT)
			return 0;
		last = total;
		total += (u32)goroutine->route_length[i];
		name = name * 31 + goroutine->route[i];
	}
	/* Where the last one begins there must be room for one of any length. */
	if (used > WAGGLE_HEAD_SIZE - KEPT_HEADER ||
	    used + KEPT_HEADER + last > WAGGLE_HEAD_SIZE - GO_ROUTE_SHORT)
		return 0;
	clear_blocks(record->head, used, used + KEPT_HEADER + total);
	store32(record->head + used, WAGGLE_KEPT_ROUTE | total << 16);
	at = used + KEPT_HEADER;
#pragma clang loop unroll(full)
	for (u32 i = 0; i < GO_ROUTE_PIECES; i++) {
		u64 length = masked(goroutine->route_length[i], GO_ROUTE_SHORT);

		asm volatile("" : "+r"(at)); /* or the compiler checks another register */
		if (at > WAGGLE_HEAD_SIZE - GO_ROUTE_SHORT)
			return 0;
		bpf_probe_read_user(record->head + at, (u32)length, (void *)goroutine->route[i]);
		at += length;
	}
	facts->kept_len += KEPT_HEADER + total;
	facts->shape ^= name * 0x9e3779b97f4a7c15ULL;
	return 1;
}

INLINE int add_pattern(struct waggle_exchange *record, u64 text, u64 length)
{
	return add_route(record, text, length, GO_ROUTE_MAX) ||
	       add_route(record, text, length, GO_ROUTE_SHORT);
}

/* What another router than net/http's has said of the request that is answered now. */
INLINE int add_routed(const struct waggle_go *go, const struct connection *connection,
		      struct waggle_exchange *record)
{
	const struct goroutine *goroutine = goroutine_of(go, connection->reader);

	if (!goroutine || !goroutine->route_pieces ||
	    goroutine->routed_index != connection->responses)
		return 0;
	if (!(goroutine->route_pieces == 1 ?
		      add_pattern(record, goroutine->route[0], goroutine->route_length[0]) :
		      add_pieces(record, goroutine)))
		return 0;
	add_handler(record, goroutine->handler);
	return 1;
}

#define GO_UNROUTED_NS (1000 * 1000000ULL)

/* An answer has no route: go_route_servemux may be able to tell one (probes/go/sparing.py). */
INLINE void without_route(struct waggle_go *go, u64 now)
{
	if (now - go->unrouted_ns > GO_UNROUTED_NS)
		go->unrouted_ns = now;
}

/* How a net/http.conn goes on from its response, since Go 1.17 (make_table.py checks that). */
struct go_served {
	u64 response;
	u64 between[2];
	u64 hijacked; /* a byte */
};

/* The Request that is answered on a net/http.conn, 0: none. What a handler reads from a connection
 * that it has taken over, after the first answer, is nothing that net/http knows. */
INLINE u64 request_answered(const struct waggle_go *go, struct connection *connection, u64 conn)
{
	struct go_served served = {};

	bpf_probe_read_user(&served, sizeof(served), (void *)(conn + go->conn_response));
	if ((u8)served.hijacked) {
		connection->reader_g = 0;
		if (connection->flags & CONNECTION_TAKEN)
			return 0;
		connection->flags |= CONNECTION_TAKEN;
	} else if (served.response) {
		connection->reader_g &= ~1ULL; /* surely_reads_again() */
	}
	return served.response ? word_at(served.response + go->response_request) : 0;
}

/* A request is answered on a connection that goroutines of net/http read. */
PROVEN_ONCE int keep_route(struct connection *connection, struct waggle_exchange *record)
{
	struct waggle_go *go;
	struct go_string pattern = {};
	u64 serves, request;

	if (!connection || !record)
		return 0;
	go = go_of(connection->tgid);
	if (go && go->routers && add_routed(go, connection, record))
		return 1;
	serves = go ? served_conn(go, connection) : 0;
	request = serves ? request_answered(go, connection, serves) : 0;
	if (!request)
		return 0;
	if (go->request_pattern)
		bpf_probe_read_user(&pattern, sizeof(pattern),
				    (void *)(request + go->request_pattern));
	if (!pattern.text || !pattern.length) {
		without_route(go, record->facts.response_ns);
		return 0;
	}
	return add_pattern(record, pattern.text, pattern.length);
}

#endif
