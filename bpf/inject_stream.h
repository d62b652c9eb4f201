/* SPDX-License-Identifier: Apache-2.0
 *
 * A field for a stream of HTTP/2 or gRPC: which HEADERS frame of a message may have it, and what
 * it says. The frame is found by looking ahead (http2_place.h); only when the kernel will take it
 * is the machine of the connection led up to its end, which gives the call its ids.
 */
#ifndef WAGGLE_INJECT_STREAM_H
#define WAGGLE_INJECT_STREAM_H

#include "http2_place.h"
#include "inject_head.h"

/* The first bytes of a new connection are a client's preface, or it has become one of HTTP/2. */
INLINE int sends_frames(const struct connection *connection, const struct call *call)
{
	u64 word = 0;

	if (is_tls(connection))
		return 0;
	if (is_http2(connection))
		return 1;
	return connection->role == WAGGLE_ROLE_NONE && connection->sent.state == HTTP1_LOST &&
	       connection->flags & CONNECTION_FROM_START &&
	       call->endpoint.position == call->endpoint.sent_base &&
	       call->memory.length >= HTTP2_PREFACE_LENGTH &&
	       !bpf_probe_read_kernel(&word, 8, (void *)call->memory.base) && word == PREFACE_WORD;
}

/* Why no frame of this connection may grow; 0: some may. */
INLINE u32 connection_objection(struct connection *connection, const struct call *call,
				const struct http2_connection *http2, u32 passed)
{
	const struct http2_side *side = &http2->side[SENT];

	if (connection->role != WAGGLE_ROLE_CLIENT || http2->ended_ns ||
	    !(connection->flags & CONNECTION_FROM_START))
		return WAGGLE_COUNT_INJECT_NOT_A_HEAD;
	/* Bytes have passed unseen, or were seen and not taken, and may be others now. */
	if (connection->sent.next != call->endpoint.position + passed)
		connection->flags |= CONNECTION_UNSURE;
	if (connection->flags & (CONNECTION_UNSURE | CONNECTION_RESYNCED) || http2->resynced ||
	    side->old_table)
		return WAGGLE_COUNT_INJECT_UNSURE;
	return 0;
}

INLINE u32 place_objection(u32 verdict)
{
	switch (verdict) {
	case PLACE_FOUND:
		return 0;
	case PLACE_CUT:
		return WAGGLE_COUNT_INJECT_CUT;
	case PLACE_PADDED:
		return WAGGLE_COUNT_INJECT_FORM;
	case PLACE_LARGE:
		return WAGGLE_COUNT_INJECT_TOO_LARGE;
	}
	return WAGGLE_COUNT_INJECT_NOT_A_HEAD;
}

/* Finds the next frame of the message that begins a stream. Returns 0, or the counter that says
 * why it is left alone. */
PROVEN_ONCE int find_stream_head(struct connection *connection, struct call *call,
				 struct header_text *text)
{
	struct scratch *scratch = scratch_of(SCRATCH_MESSAGE);
	struct http2_place place = { .room = TRACEPARENT_FIELD };
	struct http2_connection *http2;
	struct feed feed = {};
	u64 sock;
	u32 why;

	if (!connection || !call || !text || !scratch)
		return WAGGLE_COUNT_INJECT_NOT_A_HEAD;
	sock = call->endpoint.sock;
	feed.user = SCRATCH_MESSAGE;
	begin_feed(&feed, connection, scratch, sock, SENT);
	text->later = 0;
	if (!text->passed)
		line_up(&feed, call);
	if (!is_http2(connection) && !adopt_http2(&feed, WAGGLE_ROLE_CLIENT, 0))
		return WAGGLE_COUNT_INJECT_NOT_A_HEAD;
	http2 = bpf_map_lookup_elem(&http2_connections, &sock);
	if (!http2)
		return WAGGLE_COUNT_INJECT_NOT_A_HEAD;
	why = connection_objection(connection, call, http2, text->passed);
	if (why)
		return why;
	place.base = call->memory.base;
	place.length = call->memory.length;
	place.highest = http2->highest;
	place.passed = text->passed;
	find_place(&place, &http2->side[SENT]);
	text->stream = place.stream;
	text->frame = place.frame;
	text->payload = place.payload;
	text->later = place.later;
	text->at = place.end;
	text->length = TRACEPARENT_FIELD;
	why = place_objection(place.verdict);
	if (!why && !has_room(call, place.end + TRACEPARENT_FIELD))
		why = WAGGLE_COUNT_INJECT_NO_ROOM;
	return why;
}

/* Leads the machine up to the end of the frame that was found, and not a byte further. */
PROVEN_ONCE int feed_frames(struct connection *connection, struct call *call)
{
	struct scratch *scratch = scratch_of(SCRATCH_MESSAGE);
	struct walk walk = {};
	struct feed *feed = &walk.feed;

	if (!connection || !call || !scratch)
		return 0;
	feed->user = SCRATCH_MESSAGE;
	begin_feed(feed, connection, scratch, call->endpoint.sock, SENT);
	walk.memory = &call->memory;
	call->memory.in_kernel = BYTES_IN_KERNEL;
	scratch->state.now = bpf_ktime_get_ns();
	connection->last_ns = scratch->state.now;
	if (!begin_call(&scratch->state, feed->stream, call))
		return 0;
	feed_http2(&walk);
	feed->stream->next = call->endpoint.position + call->memory.length;
	return 0;
}

/* Why the stream that has begun shall have no field of ours; 0: it may. */
INLINE u32 stream_objection(const struct connection *connection,
			    const struct http2_connection *http2, const struct hpack_walk *walk,
			    const struct waggle_facts *facts)
{
	const struct http2_side *side = &http2->side[SENT];

	if (side->old_table || http2->resynced || walk->bad ||
	    connection->flags & (CONNECTION_DEAD | CONNECTION_UNSURE))
		return WAGGLE_COUNT_INJECT_UNSURE;
	if (http2_may_have_context(side, walk) || facts->flags & WAGGLE_FLAG_HAD_TRACEPARENT)
		return WAGGLE_COUNT_INJECT_HAS_ONE;
	if (http2_list_size(side, walk) + HPACK_FIELD_OVERHEAD + TRACEPARENT_FIELD >
	    PLACE_BLOCK_MAX)
		return WAGGLE_COUNT_INJECT_TOO_LARGE;
	if (facts->flags & (WAGGLE_FLAG_TRACE_PENDING | WAGGLE_FLAG_PROVISIONAL))
		return WAGGLE_COUNT_INJECT_UNDECIDED;
	return 0;
}

/* A tracestate may be left out: it is where it does not fit (find_stream_head has asked for the
 * field alone). */
INLINE int state_fits(const struct call *call, const struct header_text *text,
		      const struct http2_side *side, const struct hpack_walk *walk, u32 state)
{
	u32 both = TRACEPARENT_FIELD + state;

	return text->payload + both <= PLACE_BLOCK_MAX &&
	       http2_list_size(side, walk) + 2 * HPACK_FIELD_OVERHEAD + both <= PLACE_BLOCK_MAX &&
	       has_room(call, text->at + both);
}

/* Writes the field that the stream just begun shall have, and its tracestate. Returns 0, or the counter that says why
 * it shall have none. */
PROVEN_ONCE int field_for_stream(struct connection *connection, struct call *call,
				 struct header_text *text)
{
	struct http2_scratch *scratch = http2_scratch_of(SCRATCH_MESSAGE);
	struct http2_connection *http2;
	struct open_stream *open;
	u32 why, state;
	u64 sock;

	if (!connection || !call || !text || !scratch)
		return WAGGLE_COUNT_INJECT_NOT_A_HEAD;
	sock = call->endpoint.sock;
	http2 = bpf_map_lookup_elem(&http2_connections, &sock);
	open = find_stream(sock, text->stream);
	if (!http2 || !open || http2->highest != text->stream ||
	    scratch->given.stream != text->stream ||
	    http2->side[SENT].state != HTTP2_AT_HEADER || http2->side[SENT].fill ||
	    http2->side[SENT].block_stream)
		return WAGGLE_COUNT_INJECT_UNSURE;
	why = stream_objection(connection, http2, &scratch->block.walk, &open->record.facts);
	if (why)
		return why;
	put_traceparent_field(text->bytes, open->record.facts.trace_id,
			      open->record.facts.span_id, open->record.facts.trace_flags);
	state = put_tracestate(text, &open->stream.owner, &open->record.facts, 1);
	if (state && state_fits(call, text, &http2->side[SENT], &scratch->block.walk, state))
		text->length += state;
	return 0;
}

/* The next stream of a trial's message, found as those of others are. Returns 0 when there is
 * none. begins: the message begins with a preface. */
PROVEN_ONCE int stream_on_trial(struct header_text *text, u64 base, u32 length, u32 begins)
{
	struct http2_place place = { .room = TRACEPARENT_FIELD, .base = base, .length = length };
	struct http2_side side = {};
	u64 none[2] = {};

	if (!text)
		return 0;
	place.passed = text->passed;
	side.state = begins && !place.passed ? HTTP2_AT_PREFACE : HTTP2_AT_HEADER;
	find_place(&place, &side);
	text->frame = place.frame;
	text->payload = place.payload;
	text->at = place.end;
	text->length = TRACEPARENT_FIELD;
	put_traceparent_field(text->bytes, (u8 *)none, (u8 *)none, 0);
	return place.verdict == PLACE_FOUND;
}

/* All of that for the message's next stream. Returns 0 when the field is to be written, or the
 * counter that says why not; what was passed of the message tells whether there may be another. */
INLINE int field_of_message(struct connection *connection, struct call *call,
			    struct header_text *text)
{
	int why = find_stream_head(connection, call, text);

	if (why)
		return why;
	call->memory.length = text->at;
	text->passed = text->at;
	feed_frames(connection, call);
	return field_for_stream(connection, call, text);
}

#endif
