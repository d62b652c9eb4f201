/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes of a call through the HTTP/2 machine, and what its finds mean for streams.
 */
#ifndef WAGGLE_HTTP2_FEED_H
#define WAGGLE_HTTP2_FEED_H

#include "http1_feed.h"
#include "http2.h"
#include "http2_stream.h"

#define HTTP2_STEPS 65536 /* of one call; a frame of nine bytes is one or two */

INLINE int turn_to_next_piece(struct feed_state *state, const struct memory *memory);

INLINE struct http2_side *side_of(const struct walk *walk)
{
	return &walk->http2->side[walk->feed.sent & 1];
}

/* Data of a stream: how many of `available` bytes were taken. Where a request ends with them,
 * that is noted too. */
PROVEN_ONCE u32 on_data(struct http2_scratch *scratch, struct http2_side *side, u64 now,
			u32 available, u32 readable)
{
	struct http2_messages *messages;
	struct waggle_http2 *head;
	struct open_stream *open;
	u32 taken, from;

	if (!scratch || !side)
		return available;
	from = scratch->from & 1;
	open = find_stream(scratch->sock, side->stream);
	if (!open)
		return available;
	head = (void *)open->record.head;
	messages = &open->stream.messages[from];
	taken = http2_take_data(messages, &scratch->window, available, readable);
	if (messages->begun) {
		head->messages[from]++;
		if (!head->first_message_ns[from])
			head->first_message_ns[from] = now;
	}
	if (messages->ended)
		head->last_message_ns[from] = now;
	if (messages->off)
		head->flags |= WAGGLE_HTTP2_FLAG_NOT_GRPC;
	if (from == WAGGLE_SIDE_CLIENT) {
		open->record.facts.request_body += taken;
		if (taken == side->remain && side->flags & HTTP2_FLAG_END_STREAM)
			end_request(head, now);
	} else {
		open->record.facts.response_body += taken;
		open->stream.data = 1;
	}
	return taken;
}

INLINE void on_reset(struct http2_connection *http2, const struct http2_side *side,
		     const struct http2_scratch *scratch, u64 now)
{
	struct stream_ending ending = {
		.sock = scratch->sock,
		.now = now,
		.stream = side->stream,
		.error = side->control,
		.end = scratch->sent ? WAGGLE_END_STREAM_CANCELLED : WAGGLE_END_STREAM_RESET,
	};

	finish_stream(&ending, http2);
}

/* The server says which streams it will not have looked at. */
INLINE void on_goaway(struct http2_connection *http2, const struct http2_side *side,
		      const struct http2_scratch *scratch, u64 now)
{
	struct stream_ending ending = {
		.sock = scratch->sock,
		.now = now,
		.error = side->control,
		.end = WAGGLE_END_GOAWAY,
	};

	http2->error = side->control;
	if (scratch->from == WAGGLE_SIDE_SERVER)
		end_streams_above(&ending, http2, http2->highest,
				  (side->control >> 32) & 0x7fffffff);
}

PROVEN_ONCE int on_control(struct http2_connection *http2, struct http2_scratch *scratch, u64 now,
			   u32 event)
{
	struct http2_side *side;

	if (!http2 || !scratch)
		return 0;
	side = &http2->side[scratch->sent & 1];
	if (event == HTTP2_FOUND_RESET)
		on_reset(http2, side, scratch, now);
	else if (event == HTTP2_FOUND_GOAWAY)
		on_goaway(http2, side, scratch, now);
	else
		on_end_stream(http2, scratch, now, side->stream);
	return 0;
}

/* `taken` bytes of data have passed: what follows from that and on_data() has not seen to. */
INLINE int data_passed(struct http2_scratch *scratch, struct http2_side *side, u32 taken)
{
	int event = http2_data_passed(side, taken);

	return scratch->from == WAGGLE_SIDE_CLIENT && event == HTTP2_FOUND_DATA_END ?
		       HTTP2_NOTHING :
		       event;
}

/* What a step found. Returns 1 when nothing more can be done. */
INLINE int on_found(struct walk *walk, int event)
{
	struct http2_window *window = &walk->scratch->window;
	struct http2_side *side = side_of(walk);
	struct feed *feed = &walk->feed;
	u32 taken;

	if (event == HTTP2_FOUND_DATA) {
		taken = on_data(walk->scratch, side, feed->scratch->state.now,
				http2_available(side, window), 1);
		window->at += taken;
		event = data_passed(walk->scratch, side, taken);
	}
	switch (event) {
	case HTTP2_NOTHING:
		return 0;
	case HTTP2_FOUND_NONSENSE:
		return feed_over(feed, WAGGLE_COUNT_LOST_BAD_FRAMING);
	case HTTP2_FOUND_BLOCK:
	case HTTP2_LOST_BLOCK:
		read_block(walk->http2, walk->scratch, feed->scratch->state.now,
			   event == HTTP2_LOST_BLOCK);
		if (walk->scratch->block.walk.noted && walk->scratch->from == WAGGLE_SIDE_CLIENT)
			take_texts(walk->http2, walk->scratch, &feed->scratch->head);
		on_block(feed, walk->http2, walk->scratch);
		return 0;
	}
	on_control(walk->http2, walk->scratch, feed->scratch->state.now, event);
	return 0;
}

/* Passes bytes that need not be read, from the call's memory itself: how many. */
INLINE u32 pass_unread(struct walk *walk)
{
	struct feed_state *state = &walk->feed.scratch->state;
	struct http2_side *side = side_of(walk);
	u32 left = state->length - state->offset, taken;
	int event = HTTP2_NOTHING;

	if (side->state != HTTP2_SKIPPING && side->state != HTTP2_IN_DATA)
		return 0;
	taken = side->remain < left ? side->remain : left;
	if (side->state == HTTP2_IN_DATA) {
		taken = on_data(walk->scratch, side, state->now, taken, 0);
		if (!taken)
			return 0;
		event = data_passed(walk->scratch, side, taken);
	} else {
		side->remain -= taken;
		if (!side->remain)
			http2_skip(side);
	}
	state->offset += taken;
	if (event)
		on_control(walk->http2, walk->scratch, state->now, event);
	return taken;
}

/* Reads the next window of the piece at hand. */
INLINE int fill_window(struct walk *walk)
{
	struct feed_state *state = &walk->feed.scratch->state;
	struct http2_window *window = &walk->scratch->window;
	u32 want = state->length - state->offset;

	if (pass_unread(walk))
		return 0;
	if (!state->base) {
		if (side_of(walk)->state != HTTP2_SEEKING)
			return feed_lost(&walk->feed, WAGGLE_COUNT_LOST_BYTES_UNSEEN);
		state->offset = state->length;
		return 0;
	}
	if (want > HTTP2_WINDOW)
		want = HTTP2_WINDOW;
	window->at = 0;
	window->position = state->position + state->offset;
	window->fill = read_next(state, window->bytes, want, HTTP2_WINDOW_MASK);
	if (!window->fill)
		return feed_lost(&walk->feed, WAGGLE_COUNT_LOST_BYTES_UNREADABLE);
	state->offset += window->fill;
	return 0;
}

/* Only the beginning of a call can be that of a frame we know nothing of. */
INLINE int seek_frame(struct feed_state *state, struct http2_side *side,
		      struct http2_window *window, u32 from)
{
	u32 sender = from == WAGGLE_SIDE_CLIENT ? HPACK_FIRST_REQUEST : HPACK_FIRST_RESPONSE;
	u32 whole = !state->left && state->offset >= state->length;
	u32 begins = state->first_of_call && state->offset == window->fill;

	if (begins && http2_found_frame(window, whole)) {
		side->fill = 0;
		side->state = HTTP2_AT_HEADER;
		return 0;
	}
	if (begins && http2_found_halves(side, window, whole, sender)) {
		side->frame_at = window->position - HTTP2_HEADER;
		side->frame_ns = state->now;
		http2_enter_frame(side, load64(side->header), side->header[8]);
		return 0;
	}
	window->at = window->fill;
	state->offset = state->length;
	return 0;
}

static long http2_call_step(u32 index, void *context)
{
	struct walk *walk = context;
	struct feed_state *state = &walk->feed.scratch->state;
	struct http2_window *window = &walk->scratch->window;
	struct http2_side *side = side_of(walk);
	int event;

	/* The end of an empty frame needs no bytes. */
	if (window->at >= window->fill && !(side->state == HTTP2_IN_BLOCK && !side->remain)) {
		if (state->offset >= state->length)
			return !turn_to_next_piece(state, walk->memory);
		return fill_window(walk);
	}
	if (side->state == HTTP2_SEEKING)
		return seek_frame(state, side, window, walk->scratch->from);
	event = http2_step(side, window, &walk->scratch->block, state->now);
	return event ? on_found(walk, event) : 0;
}

/* A block that is not whole waits in a map for the next call, as heads do. */
OUT_OF_LINE int put_block_aside(struct feed *feed, struct http2_side *side,
				struct hpack_block *block)
{
	struct partial_key key = { .sock = feed->sock, .sent = feed->sent };
	/* The eight bytes before the buffer are ours to use as the value's beginning. */
	struct partial_head *partial = (void *)(block->bytes - 8);

	if (!side->block_stream || side->block_lost)
		return 0;
	partial->fill = side->block_fill;
	partial->reserved = 0;
	if (bpf_map_update_elem(&partial_heads, &key, partial, BPF_ANY)) {
		count(WAGGLE_COUNT_LOST_PARTIAL_MAP_FULL);
		side->block_lost = 1;
	}
	side->kept_aside = 1;
	return 0;
}

OUT_OF_LINE int take_block_back(struct feed *feed, struct http2_side *side,
				struct hpack_block *block)
{
	struct partial_key key = { .sock = feed->sock, .sent = feed->sent };
	struct partial_head *partial;

	if (!side->kept_aside)
		return 0;
	side->kept_aside = 0;
	partial = bpf_map_lookup_elem(&partial_heads, &key);
	if (!partial) {
		side->block_lost = 1;
		return 0;
	}
	bpf_probe_read_kernel(block->bytes, HPACK_BLOCK_MAX, partial->bytes);
	bpf_map_delete_elem(&partial_heads, &key);
	return 0;
}

/* What was open is not known any more, nor the table of this side; whatever begins anew
 * can be followed. */
INLINE void lose_side(struct feed *feed, struct http2_connection *http2, struct http2_side *side)
{
	u64 now = feed->scratch->state.now;
	struct stream_ending ending = {
		.sock = feed->sock,
		.now = now,
		.end = WAGGLE_END_UNSEEN,
	};

	end_streams_above(&ending, http2, http2->highest, 0);
	table_lost(http2, side, now,
		   feed_is_request(feed) ? WAGGLE_SIDE_CLIENT : WAGGLE_SIDE_SERVER);
	side->state = HTTP2_SEEKING;
	side->fill = 0;
	side->block_stream = 0;
	side->kept_aside = 0;
	http2->resynced = 1;
}

/* The call could not be followed to its end. */
OUT_OF_LINE int meet_http2_fate(struct feed *feed, struct http2_connection *http2,
				struct http2_side *side)
{
	struct feed_state *state = &feed->scratch->state;
	u8 fate = state->fate;

	count(state->why);
	state->fate = FATE_FINE;
	if (fate == FATE_LOST) {
		lose_side(feed, http2, side);
		return 0;
	}
	feed->connection->flags |= CONNECTION_DEAD;
	end_http2(feed->sock, state->now, WAGGLE_END_UNSEEN);
	return 0;
}

INLINE void feed_http2(struct walk *walk)
{
	struct feed *feed = &walk->feed;
	struct feed_state *state = &feed->scratch->state;
	struct http2_side *side;

	walk->http2 = bpf_map_lookup_elem(&http2_connections, &feed->sock);
	walk->scratch = bpf_map_lookup_elem(&http2_scratches, &feed->user);
	if (!walk->http2 || !walk->scratch)
		return;
	side = side_of(walk);
	walk->scratch->sock = feed->sock;
	walk->scratch->sent = feed->sent;
	walk->scratch->from = feed_is_request(feed) ? WAGGLE_SIDE_CLIENT : WAGGLE_SIDE_SERVER;
	walk->scratch->window.at = 0;
	walk->scratch->window.fill = 0;
	take_block_back(feed, side, &walk->scratch->block);
	LOOP(HTTP2_STEPS, http2_call_step, walk);
	if (!state->fate && (state->left || state->offset < state->length))
		feed_lost(feed, WAGGLE_COUNT_LOST_FRAMING_BUDGET);
	if (state->fate)
		meet_http2_fate(feed, walk->http2, side);
	else
		put_block_aside(feed, side, &walk->scratch->block);
}

#endif
