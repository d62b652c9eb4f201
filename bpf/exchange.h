/* SPDX-License-Identifier: Apache-2.0
 *
 * Exchanges that are open: put aside at the request, found again at the
 * response, sent to user space as one record when they end.
 */
#ifndef WAGGLE_EXCHANGE_H
#define WAGGLE_EXCHANGE_H

#include "feed.h"
#include "http2_ending.h"
#include "python.h"
#include "threads.h"
#include "turns.h"

#define PIPELINE_MAX 64

/* The facts of an open exchange and who owns it, whichever map it lies in. */
struct found_exchange {
	struct owner *owner;
	struct waggle_facts *facts;
	u32 large;
	u32 reserved;
};

INLINE int find_exchange(struct connection *connection, u64 sock, u32 index,
			 struct found_exchange *found)
{
	struct exchange_key key = { .sock = sock, .index = index };
	struct open_exchange *open = &connection->current;
	struct open_large_exchange *large;
	struct open_stream *stream;

	if (is_http2(connection)) {
		stream = find_stream(sock, index);
		if (!stream)
			return 0;
		found->owner = &stream->stream.owner;
		found->facts = &stream->record.facts;
		found->large = 0;
		return 1;
	}
	if (!connection->current_used || connection->current_index != index)
		open = bpf_map_lookup_elem(&exchanges, &key);
	if (open) {
		found->owner = &open->owner;
		found->facts = &open->record.facts;
		found->large = 0;
		return 1;
	}
	large = bpf_map_lookup_elem(&large_exchanges, &key);
	if (!large)
		return 0;
	found->owner = &large->owner;
	found->facts = &large->record.facts;
	found->large = 1;
	return 1;
}

INLINE void forget_exchange(struct connection *connection, u64 sock, u32 index)
{
	struct exchange_key key = { .sock = sock, .index = index };

	if (connection->current_used && connection->current_index == index)
		connection->current_used = 0;
	else if (bpf_map_delete_elem(&exchanges, &key))
		bpf_map_delete_elem(&large_exchanges, &key);
}

#define HEAD_BLOCK 64

/* The blocks of a record's head that are in use, cleared behind the last (store_exchange),
 * and nothing but zeros in the others. The rest of an exchange's own head, which no one
 * has touched since its connection's request before, need not come into the cache. */
INLINE void copy_head(u8 *to, const u8 *from, u32 used, u32 rest_too)
{
#pragma clang loop unroll(full)
	for (u32 at = 0; at < WAGGLE_HEAD_SIZE; at += HEAD_BLOCK) {
		u32 size = WAGGLE_HEAD_SIZE - at < HEAD_BLOCK ? WAGGLE_HEAD_SIZE - at : HEAD_BLOCK;

		if (used > at)
			copy_words(to + at, from + at, size);
		else if (rest_too)
			clear_words(to + at, size);
		else
			return;
	}
}

/* What of a record's head holds something. */
INLINE u32 head_used(const struct waggle_facts *facts)
{
	return facts->target_len + facts->kept_len;
}

INLINE void emit(struct found_exchange *found)
{
	struct waggle_exchange *record;

	if (found->large) {
		long failed = bpf_ringbuf_output(&large_ring, found->facts,
						 WAGGLE_LARGE_RECORD_SIZE, wakeup(&large_ring));

		count(failed ? WAGGLE_COUNT_LOST_LARGE_RING_FULL : WAGGLE_COUNT_EXCHANGES);
		return;
	}
	record = bpf_ringbuf_reserve(&exchange_ring, sizeof(*record), 0);
	if (!record) {
		count(WAGGLE_COUNT_LOST_RING_FULL);
		return;
	}
	record->facts = *found->facts;
	copy_head(record->head, (const u8 *)(found->facts + 1), head_used(found->facts), 1);
	bpf_ringbuf_submit(record, wakeup(&exchange_ring));
	count(WAGGLE_COUNT_EXCHANGES);
}

/* A request of a server has no open request before or after it any more. */
INLINE void server_idle(struct connection *connection, u64 sock)
{
	struct waggle_process *process;
	u32 tgid = connection->tgid;

	if (!(connection->flags & CONNECTION_SERVER_OPEN))
		return;
	connection->flags &= ~CONNECTION_SERVER_OPEN;
	if (connection->flags & (CONNECTION_COUNTED | CONNECTION_PROVES)) {
		process = bpf_map_lookup_elem(&processes, &tgid);
		if (process && connection->flags & CONNECTION_COUNTED)
			__sync_fetch_and_add(&process->open, -1);
		turn_waits_no_more(connection, process);
	}
	if (connection->flags & CONNECTION_BLOCKING)
		thread_leave(connection->owner_tid, sock);
}

/* What the bodies were that passed. Of what nobody can read they are counted as they pass, and
 * it has ended when the last of its answer came (tls_opaque.h). */
INLINE void close_facts(struct connection *connection, struct waggle_facts *facts, u32 index,
			u64 now, u32 end)
{
	if (facts->protocol == WAGGLE_PROTOCOL_OPAQUE) {
		facts->end = facts->response_ns ? WAGGLE_END_DONE : end;
		if (!facts->response_ns)
			facts->end_ns = now;
		return;
	}
	facts->end_ns = now;
	facts->end = end;
	if (facts->status)
		facts->response_body = response_stream(connection)->body;
	/* Still the latest request: its body may go on, this is what passed so far. */
	if (connection->requests == index + 1)
		facts->request_body = request_stream(connection)->body;
}

/* Ends the oldest open exchange of a connection and sends its record. */
PROVEN_ONCE int finish_exchange(struct connection *connection, u64 sock, u64 now, u32 end)
{
	struct found_exchange found;
	u32 index;

	if (!connection)
		return 0;
	index = connection->responses;
	connection->responses = index + 1;
	if (find_exchange(connection, sock, index, &found)) {
		struct waggle_facts *facts = found.facts;

		close_facts(connection, facts, index, now, end);
		if (!facts->status && facts->role == WAGGLE_ROLE_SERVER) {
			task_gone(connection, facts);
			turn_gone(connection, facts);
		}
		emit(&found);
		forget_exchange(connection, sock, index);
	} else {
		count(WAGGLE_COUNT_LOST_EXCHANGE_GONE);
	}
	if (!open_requests(connection))
		server_idle(connection, sock);
	return 0;
}

struct ending {
	struct connection *connection;
	u64 sock;
	u64 now;
	u32 end;
	u32 reserved;
};

static long end_step(u32 i, void *context)
{
	struct ending *ending = context;

	if (!open_requests(ending->connection))
		return 1;
	finish_exchange(ending->connection, ending->sock, ending->now, ending->end);
	return 0;
}

/* Ends everything that is open on a connection, in a record each. */
INLINE void end_open_exchanges(struct connection *connection, u64 sock, u64 now, u8 end)
{
	struct ending ending = {
		.connection = connection,
		.sock = sock,
		.now = now,
		.end = end,
	};

	if (is_http2(connection)) {
		end_http2(sock, now, end);
		return;
	}
	LOOP(PIPELINE_MAX, end_step, &ending);
}

static long drop_step(u32 i, void *context)
{
	struct ending *ending = context;
	struct connection *connection = ending->connection;

	if (!open_requests(connection))
		return 1;
	forget_exchange(connection, ending->sock, connection->responses);
	connection->responses++;
	return 0;
}

/* Forgets everything that is open on a connection. */
INLINE void drop_open_exchanges(struct connection *connection, u64 sock)
{
	struct ending ending = { .connection = connection, .sock = sock };

	LOOP(PIPELINE_MAX, drop_step, &ending);
	server_idle(connection, sock);
}

#endif
