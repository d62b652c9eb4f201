/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes of a connection through the HTTP/1 state machine, one state a step.
 */
#ifndef WAGGLE_HTTP1_FEED_H
#define WAGGLE_HTTP1_FEED_H

#include "carry.h"
#include "http1_exchange.h"
#include "http2_judge.h"
#include "http2_upgrade.h"
#include "tls.h"
#include "uwsgi.h"

#define READ_AT_ONCE 1024 /* most heads are whole in one read */
#define FEED_STEPS 2048	  /* states passed in one call; a chunk is two */
#define MID_STREAM_TRIES 64

/* Nothing more is known of where messages begin: drop what is open and wait for
 * a head at the beginning of a call. */
INLINE int feed_lost(struct feed *feed, u32 why)
{
	feed->scratch->state.fate = FATE_LOST;
	feed->scratch->state.why = why;
	return 1;
}

/* Not HTTP, or not any more: never look again. */
INLINE int feed_over(struct feed *feed, u32 why)
{
	feed->scratch->state.fate = FATE_OVER;
	feed->scratch->state.why = why;
	return 1;
}

/* The one place where a connection is lost or given up. */
OUT_OF_LINE int meet_fate(struct feed *feed)
{
	struct connection *connection = feed->connection;
	struct feed_state *state = &feed->scratch->state;
	u8 fate = state->fate;

	if (!fate)
		return 0;
	state->fate = FATE_FINE;
	count(state->why);
	drop_open_exchanges(connection, feed->sock);
	if (fate == FATE_OVER) {
		connection->flags |= CONNECTION_DEAD;
		return 0;
	}
	connection->sent.state = HTTP1_LOST;
	connection->received.state = HTTP1_LOST;
	connection->flags |= CONNECTION_RESYNCED;
	connection->flags &= ~CONNECTION_FROM_START;
	return 0;
}

INLINE long read_bytes(const struct feed_state *state, void *to, u32 length, u64 from)
{
	if (state->in_kernel)
		return bpf_probe_read_kernel(to, length, (void *)from);
	return bpf_probe_read_user(to, length, (void *)from);
}

/* Copies what comes next, less when the end lies on a page that is not there yet.
 * `mask` bounds the length and the room at `to`. */
INLINE u32 read_next(const struct feed_state *state, u8 *to, u32 length, u32 mask)
{
	u64 from = state->base + state->offset;
	u32 to_page_end;

	length = masked(length, mask);
	if (!read_bytes(state, to, length, from))
		return length;
	to_page_end = 4096 - (from & 4095);
	if (to_page_end >= length)
		return 0;
	to_page_end = masked(to_page_end, mask);
	return read_bytes(state, to, to_page_end, from) ? 0 : to_page_end;
}

INLINE int message_done(struct feed *feed)
{
	if (feed_is_request(feed))
		on_request_done(feed);
	else
		feed->scratch->state.answered = 1;
	return 0;
}

/* A head is whole: act on it and enter the state of what follows. */
INLINE int head_complete(struct feed *feed, struct http1_head *head)
{
	struct http1_stream *stream = feed->stream;
	struct connection *connection = feed->connection;
	int outcome, kind;

	if (head->want_request) {
		int why = on_request_head(connection, feed->user, feed->sock, feed->sent);

		if (why == WAGGLE_COUNT_LOST_BAD_FRAMING)
			return feed_lost(feed, why);
		if (why)
			return feed_over(feed, why);
		outcome = http1_enter_request_body(stream, head);
		/* The answer comes at a place we know now, whatever was before. */
		if (response_stream(connection)->state == HTTP1_LOST)
			response_stream(connection)->state = HTTP1_HEAD;
	} else {
		kind = on_response_head(connection, feed->user, feed->sock, feed->sent);
		if (kind == RESPONSE_INTERIM) {
			stream->state = HTTP1_HEAD;
			return 0;
		}
		if (kind == RESPONSE_UNKNOWN)
			return feed_lost(feed, WAGGLE_COUNT_LOST_RESPONSE_UNMATCHED);
		if (kind == RESPONSE_SWITCH) {
			if (upgrades_to_http2(head) && begin_upgraded(feed))
				return 1;
			feed->scratch->state.answered = 1;
			connection->flags |= CONNECTION_DEAD;
			return 1;
		}
		outcome = http1_enter_response_body(stream, head, head->method);
	}
	if (outcome == HTTP1_NONSENSE)
		return feed_over(feed, WAGGLE_COUNT_LOST_BAD_FRAMING);
	return outcome == HTTP1_MESSAGE_DONE ? message_done(feed) : 0;
}

/* The first line was no head: is this connection something else altogether? */
INLINE int not_a_head(struct feed *feed)
{
	struct connection *connection = feed->connection;

	if (connection->requests || (connection->flags & CONNECTION_FROM_START))
		return feed_over(feed, connection->requests ? WAGGLE_COUNT_LOST_BAD_FRAMING :
							      WAGGLE_COUNT_CONNECTIONS_GIVEN_UP);
	connection->role = WAGGLE_ROLE_NONE;
	connection->sent.state = HTTP1_LOST;
	connection->received.state = HTTP1_LOST;
	if (++connection->tries > MID_STREAM_TRIES)
		return feed_over(feed, WAGGLE_COUNT_CONNECTIONS_GIVEN_UP);
	return 0;
}

/* Brings the part of a head that came earlier into the scratch buffer, or begins a
 * new one. Returns 0 when the part is gone. */
INLINE int open_head(struct feed *feed)
{
	struct partial_key key = { .sock = feed->sock, .sent = feed->sent };
	struct http1_stream *stream = feed->stream;
	struct feed_state *state = &feed->scratch->state;
	struct partial_head *partial;

	if (state->carry)
		return 1;
	state->carry = 1;
	state->fill = 0;
	if (stream->state == HTTP1_HEAD) {
		stream->head_at = state->position + state->offset;
		stream->head_ns = state->now;
		return 1;
	}
	if (stream->held_fill) {
		state->fill = stream->held_fill;
		store64(feed->scratch->head.bytes, stream->held);
		stream->state = HTTP1_HEAD;
		return 1;
	}
	partial = bpf_map_lookup_elem(&partial_heads, &key);
	if (!partial)
		return 0;
	state->fill = partial->fill;
	bpf_probe_read_kernel(feed->scratch->head.bytes,
			      masked(partial->fill, HTTP1_HEAD_MASK), partial->bytes);
	bpf_map_delete_elem(&partial_heads, &key);
	stream->state = HTTP1_HEAD;
	return 1;
}

INLINE int judge_head(struct feed *feed, struct http1_head *head, u32 before)
{
	struct feed_state *state = &feed->scratch->state;

	state->carry = 0;
	if (head->verdict == HTTP1_NOT_HTTP)
		return judge_cut_preface(feed, before) ? 1 : not_a_head(feed);
	if (head->verdict == HTTP1_BAD)
		return feed_over(feed, WAGGLE_COUNT_LOST_BAD_FRAMING);
	state->offset += head->length - before;
	return head_complete(feed, head);
}

/* Reads some more of a head and looks whether it is whole. */
INLINE int feed_head(struct feed *feed)
{
	struct feed_state *state = &feed->scratch->state;
	struct http1_head *head = &feed->scratch->head;
	u32 before, taken, want;

	if (!open_head(feed))
		return feed_lost(feed, WAGGLE_COUNT_LOST_PARTIAL_MAP_FULL);
	if (!state->base)
		return feed_lost(feed, WAGGLE_COUNT_LOST_BYTES_UNSEEN);
	before = state->fill;
	if (before > HTTP1_HEAD_MAX - READ_AT_ONCE)
		return feed_over(feed, WAGGLE_COUNT_LOST_HEAD_TOO_LARGE);
	want = state->length - state->offset;
	if (want > READ_AT_ONCE)
		want = READ_AT_ONCE;
	taken = read_next(state, head->bytes + masked(before, HTTP1_HEAD_MASK), want,
			  2 * READ_AT_ONCE - 1);
	if (!taken)
		return feed_lost(feed, WAGGLE_COUNT_LOST_BYTES_UNREADABLE);
	state->fill = before + taken;
	http1_start(head, before + taken, feed_is_request(feed));
	head->keep_baggage = keep_baggage;
	http1_parse(head);
	if (head->verdict != HTTP1_INCOMPLETE)
		return judge_head(feed, head, before);
	state->offset += taken;
	return 0;
}

OUT_OF_LINE int feed_lines(struct feed *feed)
{
	struct feed_state *state = &feed->scratch->state;
	struct http1_lines *lines = &feed->scratch->lines;
	u32 want = state->length - state->offset;

	if (!state->base)
		return feed_lost(feed, WAGGLE_COUNT_LOST_BYTES_UNSEEN);
	if (want > HTTP1_LINE_WINDOW)
		want = HTTP1_LINE_WINDOW;
	lines->length = read_next(state, lines->bytes, want, 2 * HTTP1_LINE_WINDOW - 1);
	if (!lines->length)
		return feed_lost(feed, WAGGLE_COUNT_LOST_BYTES_UNREADABLE);
	http1_read_lines(feed->stream, lines);
	state->offset += lines->taken;
	if (lines->outcome == HTTP1_NONSENSE)
		return feed_over(feed, WAGGLE_COUNT_LOST_BAD_FRAMING);
	return lines->outcome == HTTP1_MESSAGE_DONE ? message_done(feed) : 0;
}

INLINE int feed_counted(struct feed *feed)
{
	struct http1_stream *stream = feed->stream;
	struct feed_state *state = &feed->scratch->state;

	state->offset += http1_skip(stream, state->length - state->offset);
	if (stream->remain)
		return 0;
	if (stream->state == HTTP1_CHUNK_DATA) {
		stream->body -= 2; /* the line end after the data is no body */
		http1_enter_chunk_line(stream);
		return 0;
	}
	stream->state = HTTP1_HEAD;
	return message_done(feed);
}

/* Whether the connection is, or has just turned out to be, encrypted. */
PROVEN_ONCE int judge_tls(struct connection *connection, u64 word, u32 length)
{
	if (!connection || connection->encrypted ||
	    !tls_may_begin(word, length, connection->flags & CONNECTION_FROM_START))
		return 0;
	connection->encrypted = 1;
	return 1;
}

/* So that whoever looks for its requests is told why there are none. */
INLINE void note_left_alone(const struct connection *connection, u64 word, u32 length)
{
	if (!tls_wanted && connection->flags & CONNECTION_FROM_START &&
	    tls_may_begin(word, length, 1))
		count(WAGGLE_COUNT_TLS_LEFT_ALONE);
}

/* Whether the connection begins with a request by uWSGI's protocol. Servers send its variables by
 * one call, and uWSGI reads as much as there is. */
OUT_OF_LINE int reads_uwsgi(struct feed *feed)
{
	struct feed_state *state = &feed->scratch->state;
	u64 words[UWSGI_WINDOW / 8] = {};

	if (state->length - state->offset < UWSGI_WINDOW ||
	    read_bytes(state, words, sizeof(words), state->base + state->offset))
		return 0;
	return begins_uwsgi(words);
}

/* Whose connection is this? The side that sends the first request is the client. */
INLINE int judge(struct feed *feed, u64 word, u32 length)
{
	struct connection *connection = feed->connection;

	if (judge_http2(feed, word, length))
		return 0;
	if (http1_may_begin_request(word, length)) {
		connection->role = feed->sent ? WAGGLE_ROLE_CLIENT : WAGGLE_ROLE_SERVER;
		return 1;
	}
	if (tls_wanted && judge_tls(connection, word, length))
		return 0;
	note_left_alone(connection, word, length);
	if (begins_fastcgi(word, length) ||
	    (uwsgi_may_begin(word, length) && reads_uwsgi(feed))) {
		carry(feed);
		feed_over(feed, WAGGLE_COUNT_CONNECTIONS_GIVEN_UP);
		return 0;
	}
	/* So there was a request, which we did not see; the next one may be seen. */
	if ((connection->flags & CONNECTION_FROM_START) && BEGINS(word, "HTTP/1."))
		feed_lost(feed, WAGGLE_COUNT_LOST_RESPONSE_UNMATCHED);
	else if ((connection->flags & CONNECTION_FROM_START) ||
		 ++connection->tries > MID_STREAM_TRIES)
		feed_over(feed, WAGGLE_COUNT_CONNECTIONS_GIVEN_UP);
	return 0;
}

INLINE int may_be_head(struct feed *feed, u64 word, u32 length)
{
	if (feed->connection->role == WAGGLE_ROLE_NONE)
		return judge(feed, word, length);
	if (feed_is_request(feed))
		return http1_may_begin_request(word, length);
	return open_requests(feed->connection) && BEGINS(word, "HTTP/1.");
}

INLINE int skip_piece(struct feed_state *state)
{
	state->offset = state->length;
	return 0;
}

/* What a connection begins with cannot be read: whatever it is, it is not recorded. */
INLINE int beginning_unreadable(struct feed *feed)
{
	u32 first = CONNECTION_FRESH | CONNECTION_FROM_START;

	if ((feed->connection->flags & first) == first && !feed->connection->requests)
		count(WAGGLE_COUNT_LOST_BYTES_UNREADABLE);
	return skip_piece(&feed->scratch->state);
}

/* Where the position is unknown only the beginning of a call can be a head. */
INLINE int feed_mid_stream(struct feed *feed)
{
	struct feed_state *state = &feed->scratch->state;
	u64 word = 0;
	u32 length = state->length - state->offset;

	if (length > 8)
		length = 8;
	if (!state->first_of_call || state->offset || !state->base)
		return skip_piece(state);
	if (read_bytes(state, &word, masked(length, 15) & 15, state->base))
		return beginning_unreadable(feed);
	if (!may_be_head(feed, word, length))
		return skip_piece(state);
	state->first_of_call = 0;
	feed->stream->state = HTTP1_HEAD;
	if (feed->connection->flags & CONNECTION_RESYNCED)
		count(WAGGLE_COUNT_RESYNCED);
	return 0;
}

/* Passes one state of the machine. Returns 1 when nothing more can be done. */
INLINE int feed_state(struct feed *feed)
{
	struct feed_state *state = &feed->scratch->state;

	switch (feed->stream->state) {
	case HTTP1_HEAD:
	case HTTP1_PARTIAL_HEAD:
		return feed_head(feed);
	case HTTP1_LENGTH:
	case HTTP1_CHUNK_DATA:
		return feed_counted(feed);
	case HTTP1_CHUNK_LINE:
	case HTTP1_TRAILER:
		return feed_lines(feed);
	case HTTP1_UNTIL_CLOSE:
		feed->stream->body += state->length - state->offset;
		return skip_piece(state);
	case HTTP1_LOST:
		return feed_mid_stream(feed);
	}
	return skip_piece(state);
}

/* The call is over: a head that is not whole waits for the next one. */
OUT_OF_LINE int feed_end(struct feed *feed)
{
	struct partial_key key = { .sock = feed->sock, .sent = feed->sent };
	struct feed_state *state = &feed->scratch->state;
	struct partial_head *partial;

	if (!state->carry || feed->stream->state != HTTP1_HEAD ||
	    (feed->connection->flags & CONNECTION_DEAD))
		return 0;
	/* Go's server reads one byte ahead now and then: no map for that. */
	feed->stream->held_fill = 0;
	if (state->fill <= 8) {
		feed->stream->held = load64(feed->scratch->head.bytes);
		feed->stream->held_fill = state->fill;
		feed->stream->state = HTTP1_PARTIAL_HEAD;
		return 0;
	}
	/* The eight bytes before the buffer are ours to use as the value's beginning. */
	partial = (void *)(feed->scratch->head.bytes - 8);
	partial->fill = state->fill;
	partial->reserved = 0;
	if (bpf_map_update_elem(&partial_heads, &key, partial, BPF_ANY))
		feed_lost(feed, WAGGLE_COUNT_LOST_PARTIAL_MAP_FULL);
	else
		feed->stream->state = HTTP1_PARTIAL_HEAD;
	meet_fate(feed);
	return 0;
}

#endif
