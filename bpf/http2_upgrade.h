/* SPDX-License-Identifier: Apache-2.0
 *
 * `Upgrade: h2c`: the request is HTTP/1's and stream 1 its answer, so both are one
 * exchange, which goes on as a stream when 101 says so.
 */
#ifndef WAGGLE_HTTP2_UPGRADE_H
#define WAGGLE_HTTP2_UPGRADE_H

#include "http2_judge.h"
#include "http2_stream.h"

#define UPGRADE_LOOK 1024 /* bytes of the head of 101 */

struct upgrade_walk {
	struct http1_head *head;
	u32 at;
	u32 found;
};

/* "\nUpgrade: h2c", in any case of letters, with or without the space. */
static long upgrade_step(u32 index, void *context)
{
	struct upgrade_walk *walk = context;
	struct http1_head *head = walk->head;
	u64 value;

	if (index + 12 > head->length)
		return 1;
	if ((http1_word(head, index) | LOWER) != TEXT_WORD("*upgrade", 0))
		return 0;
	value = http1_word(head, index + 8) | LOWER;
	walk->found = (value & 0xffffffff) == (TEXT_WORD(":h2c", 0)) ||
		      (value & 0xffffffffff) == (TEXT_WORD(": h2c", 0));
	return 1;
}

INLINE int upgrades_to_http2(struct http1_head *head)
{
	struct upgrade_walk walk = { .head = head };

	if (head->status == 101)
		LOOP(UPGRADE_LOOK, upgrade_step, &walk);
	return walk.found;
}

/* Frames follow the head of 101. */
INLINE int begin_upgraded(struct feed *feed)
{
	struct feed_state *state = &feed->scratch->state;

	feed->stream->next = state->position + state->offset;
	return adopt_http2(feed, feed->connection->role, 0);
}

/* The request whose answer comes as stream 1. */
INLINE void upgraded_facts(struct waggle_facts *facts, struct waggle_http2 *head, u64 id)
{
	facts->protocol = WAGGLE_PROTOCOL_HTTP2;
	facts->version = HTTP2_VERSION;
	facts->status = 0;
	facts->response_ns = 0;
	facts->flags &= ~WAGGLE_FLAG_UPGRADED;
	head->connection = id;
	head->stream = 1;
	head->flags = WAGGLE_HTTP2_FLAG_UPGRADED | WAGGLE_HTTP2_FLAG_REQUEST_ENDED;
}

/* Makes the one open request of a connection, which has just become HTTP/2, stream 1. */
PROVEN_ONCE int take_over_request(struct connection *connection, struct scratch *state, u32 user,
				  u64 sock)
{
	struct http2_connection *http2 = bpf_map_lookup_elem(&http2_connections, &sock);
	struct http2_scratch *scratch = http2_scratch_of(user);
	struct exchange_key exchange = { .sock = sock };
	struct open_exchange *open;
	struct open_large_stream *fresh;
	struct waggle_process *process;
	u32 length, tgid;

	if (!connection || !state || !http2 || !scratch)
		return 0;
	exchange.index = connection->responses;
	open = &connection->current;
	if (!connection->current_used || connection->current_index != exchange.index)
		open = bpf_map_lookup_elem(&exchanges, &exchange);
	if (!open) /* a large one begins as a small one does */
		open = bpf_map_lookup_elem(&large_exchanges, &exchange);
	fresh = &scratch->fresh;
	if (open) {
		clear_head(scratch);
		__builtin_memset(&fresh->stream, 0, sizeof(fresh->stream));
		__builtin_memset(fresh->record.head, 0, WAGGLE_HEAD_SIZE);
		bpf_probe_read_kernel(&fresh->record.facts, WAGGLE_FACTS_SIZE, &open->record.facts);
		length = fresh->record.facts.target_len + fresh->record.facts.kept_len;
		if (length > WAGGLE_LARGE_HEAD_SIZE - WAGGLE_HTTP2_SIZE) {
			fresh->record.facts.kept_len = 0;
			fresh->record.facts.flags |= WAGGLE_FLAG_KEPT_CUT;
			length = fresh->record.facts.target_len;
		}
		copy_bytes(fresh->record.head + WAGGLE_HTTP2_SIZE, masked(length, 4095),
			   open->record.head);
		fresh->stream.owner = open->owner;
		fresh->stream.connection = http2->id;
		fresh->stream.used = WAGGLE_HTTP2_SIZE + length;
		upgraded_facts(&fresh->record.facts, (void *)fresh->record.head, http2->id);
	}
	forget_exchange(connection, sock, exchange.index);
	connection->responses++;
	server_idle(connection, sock);
	http2->highest = 1;
	if (!open)
		return 0;
	tgid = fresh->record.facts.tgid;
	process = bpf_map_lookup_elem(&processes, &tgid);
	if (connection->role == WAGGLE_ROLE_SERVER)
		count_stream(&fresh->stream, process, sock, 1);
	store_fresh(scratch, http2, sock, 1);
	return 0;
}

#endif
