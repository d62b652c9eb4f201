/* SPDX-License-Identifier: Apache-2.0
 *
 * Is this connection HTTP/2? By what its bytes say, never by a port.
 */
#ifndef WAGGLE_HTTP2_JUDGE_H
#define WAGGLE_HTTP2_JUDGE_H

#include "feed.h"
#include "http2_maps.h"
#include "http2_seek.h"

#define PREFACE_WORD 0x5448202a20495250ULL	  /* "PRI * HT" */
#define PREFACE_SECOND_WORD 0x0a0d302e322f5054ULL /* "TP/2.0\r\n" */
#define FIRST_SETTINGS_MAX 384 /* bytes; far more than anybody sends */

/* What is known of a connection that turns out to speak HTTP/2. */
struct http2_start {
	u32 role; /* ours */
	u32 came; /* bytes of the preface that came in earlier calls */
	u32 old;  /* found in its middle, at the beginning of a frame of direction `here` */
	u32 here;
	u32 highest; /* as in struct http2_connection, of an old one */
	u32 reserved;
};

/* Two calls know by this that it is the same connection they are about. */
INLINE u64 http2_mark(const struct connection *connection)
{
	if (connection->family == AF_UNIX)
		return connection->inode;
	return (u64)connection->sent_base << 32 | connection->received_base;
}

/* In memory of the CPU's own, since nobody may see a half of it. */
INLINE void prepare_http2(struct http2_connection *http2, const struct connection *connection,
			  const struct http2_start *start)
{
	u32 client = start->role == WAGGLE_ROLE_CLIENT ? 1 : 0; /* direction of the client's bytes */

	http2->id = (u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
	http2->mark = http2_mark(connection);
	http2->tgid = bpf_get_current_pid_tgid() >> 32;
	http2->highest = start->highest;
	http2->resynced = start->old;
	http2->side[0].old_table = start->old;
	http2->side[1].old_table = start->old;
	http2->side[client & 1].fill = start->came;
	http2->side[(client ^ 1) & 1].fill = 0;
	http2->side[client & 1].state = start->old ? HTTP2_SEEKING : HTTP2_AT_PREFACE;
	http2->side[(client ^ 1) & 1].state = start->old ? HTTP2_SEEKING : HTTP2_AT_HEADER;
	http2->from[client & 1] = WAGGLE_SIDE_CLIENT;
	http2->from[(client ^ 1) & 1] = WAGGLE_SIDE_SERVER;
}

/* Keeps it as the connection's, unless the other direction has done so just now, on another
 * CPU: a server may send its SETTINGS while it reads the preface. Null when there is no room. */
INLINE struct http2_connection *keep_http2(u64 sock, const struct http2_connection *fresh)
{
	struct http2_connection *http2;

	if (!bpf_map_update_elem(&http2_connections, &sock, fresh, BPF_NOEXIST)) {
		count(WAGGLE_COUNT_HTTP2_CONNECTIONS);
		return bpf_map_lookup_elem(&http2_connections, &sock);
	}
	http2 = bpf_map_lookup_elem(&http2_connections, &sock);
	if (http2 && http2->mark == fresh->mark && !http2->ended_ns)
		return http2;
	if (!http2 || bpf_map_update_elem(&http2_connections, &sock, fresh, BPF_ANY))
		return 0;
	count(WAGGLE_COUNT_HTTP2_CONNECTIONS);
	return bpf_map_lookup_elem(&http2_connections, &sock);
}

/* The connection speaks HTTP/2 from here on. Returns 0 when there is no room for another one. */
PROVEN_ONCE int begin_http2(struct connection *connection, u64 sock, u32 user,
			    const struct http2_start *start)
{
	struct http2_scratch *scratch = http2_scratch_of(user);
	struct http2_connection *http2;

	if (!connection || !scratch || !start)
		return 0;
	prepare_http2(&scratch->beginning, connection, start);
	http2 = keep_http2(sock, &scratch->beginning);
	if (!http2) {
		count(WAGGLE_COUNT_LOST_HTTP2_MAP_FULL);
		connection->flags |= CONNECTION_DEAD;
		return 0;
	}
	/* This direction is nobody's but ours. */
	if (start->came)
		http2->side[(start->role == WAGGLE_ROLE_CLIENT) & 1].fill = start->came;
	if (start->old)
		http2->side[start->here & 1].state = HTTP2_AT_HEADER;
	/* The role comes last: who finds it without the states takes this for HTTP/1. */
	connection->sent.state = HTTP1_IS_HTTP2;
	connection->received.state = HTTP1_IS_HTTP2;
	IN_THIS_ORDER();
	connection->role = start->role;
	return 1;
}

INLINE int adopt_http2(struct feed *feed, u32 role, u32 came)
{
	struct http2_start start = { .role = role, .came = came };

	return begin_http2(feed->connection, feed->sock, feed->user, &start);
}

/* A server may speak first: the header of a SETTINGS frame at the very beginning. */
INLINE int begins_with_settings(u64 word)
{
	u32 length = __builtin_bswap32((u32)word) >> 8;

	return word >> 24 == HTTP2_SETTINGS && length <= FIRST_SETTINGS_MAX && !(length % 6);
}

INLINE long read_bytes(const struct feed_state *state, void *to, u32 length, u64 from);

/* Looks for a frame header `at` bytes into the piece. */
INLINE int look_at(const struct feed_state *state, u32 at, struct http2_header *header)
{
	u64 word = 0;
	u8 last = 0;

	if ((u64)at + HTTP2_HEADER > state->length ||
	    read_bytes(state, &word, 8, state->base + at) ||
	    read_bytes(state, &last, 1, state->base + at + 8))
		return 0;
	http2_look(header, word, last);
	return header->plausible;
}

/* Who sends this header block? 0 where its first fields do not say. */
INLINE u32 block_sender(const struct feed_state *state, u32 at, const struct http2_header *header)
{
	u32 before = http2_block_at(header);
	u64 word = 0;

	if (header->type != HTTP2_HEADERS || header->length + HTTP2_HEADER <= before ||
	    read_bytes(state, &word, 8, state->base + at + before))
		return HPACK_FIRST_OTHER;
	return http2_block_sender(word, header->length + HTTP2_HEADER - before);
}

/* A connection older than we: two frames in a row, or one that fills the piece at hand to
 * its last byte, of which one has a header block that says whose it is. Returns 1 when it is HTTP/2, 2 when that may turn out yet. */
OUT_OF_LINE int judge_old_http2(struct feed *feed)
{
	struct feed_state *state = &feed->scratch->state;
	struct http2_header first = {}, second = {};
	struct http2_start start = { .old = 1, .here = feed->sent & 1 };
	u32 at, sender, stream;

	if (!look_at(state, 0, &first))
		return 0;
	at = HTTP2_HEADER + first.length;
	if (at != state->length && !look_at(state, at, &second))
		return at + HTTP2_HEADER > state->length ? 2 : 0;
	stream = first.stream;
	sender = block_sender(state, 0, &first);
	if (!sender && second.plausible) {
		stream = second.stream;
		sender = block_sender(state, at, &second);
	}
	if (!sender)
		return 2;
	start.role = (sender == HPACK_FIRST_REQUEST) == start.here ? WAGGLE_ROLE_CLIENT :
								     WAGGLE_ROLE_SERVER;
	start.highest = sender == HPACK_FIRST_REQUEST ? stream - 1 : stream;
	if (!begin_http2(feed->connection, feed->sock, feed->user, &start))
		return 0;
	feed->stream->next = state->position;
	count(WAGGLE_COUNT_HTTP2_RESYNCED);
	return 1;
}

/* Whether the first bytes of a call, on a connection nobody has judged, are HTTP/2's:
 * 1 yes, 2 perhaps, by and by. */
INLINE int judge_http2(struct feed *feed, u64 word, u32 length)
{
	struct feed_state *state = &feed->scratch->state;
	u32 role;

	if (length < 8)
		return 0;
	if (word == PREFACE_WORD)
		role = feed->sent ? WAGGLE_ROLE_CLIENT : WAGGLE_ROLE_SERVER;
	else if (begins_with_settings(word) && (feed->connection->flags & CONNECTION_FROM_START))
		role = feed->sent ? WAGGLE_ROLE_SERVER : WAGGLE_ROLE_CLIENT;
	else if ((word >> 24 & 0xff) <= HTTP2_WINDOW_UPDATE &&
		 !(feed->connection->flags & CONNECTION_FROM_START))
		return judge_old_http2(feed);
	else
		return 0;
	feed->stream->next = state->position + state->offset;
	return adopt_http2(feed, role, 0);
}

/* A first line that is no request line and came in pieces may be the preface's. */
INLINE int judge_cut_preface(struct feed *feed, u32 before)
{
	const struct http1_head *head = &feed->scratch->head;
	struct feed_state *state = &feed->scratch->state;

	if (load64(head->bytes) != PREFACE_WORD || load64(head->bytes + 8) != PREFACE_SECOND_WORD ||
	    before >= 16 || feed->connection->requests)
		return 0;
	feed->stream->next = state->position + state->offset;
	return adopt_http2(feed, feed->connection->role, before);
}

#endif
