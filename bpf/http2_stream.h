/* SPDX-License-Identifier: Apache-2.0
 *
 * Header blocks become the beginning, the answer or the end of a stream.
 */
#ifndef WAGGLE_HTTP2_STREAM_H
#define WAGGLE_HTTP2_STREAM_H

#include "go_stream_routes.h"
#include "hpack.h"
#include "http2_ending.h"
#include "http2_open.h"
#include "stream_paths.h"

/* A block of the server's side on an open stream: which? 255: not kept. */
INLINE u8 answer_slot(struct open_stream *open, const struct hpack_walk *walk, u8 flags)
{
	struct waggle_http2 *head = (void *)open->record.head;
	u8 before = head->block_flags[WAGGLE_BLOCK_RESPONSE] & WAGGLE_BLOCK_FLAG_PRESENT;

	if (walk->status && walk->status < 200) {
		head->interims += head->interims < 255;
		return 255;
	}
	if (before && (flags & WAGGLE_BLOCK_FLAG_END_STREAM) &&
	    walk->first != HPACK_FIRST_RESPONSE)
		return WAGGLE_BLOCK_TRAILERS;
	/* Trailers end a stream, so what we took for the response was 1xx. */
	if (before)
		head->interims += head->interims < 255;
	return before && open->stream.data ? 255 : WAGGLE_BLOCK_RESPONSE;
}

INLINE void on_answer(struct http2_scratch *scratch, struct block_at_hand *given, u32 user)
{
	struct open_stream *open = find_stream(scratch->sock, given->stream);
	struct hpack_walk *walk = &scratch->block.walk;
	u32 routed;

	if (!open)
		return;
	routed = open->stream.routed;
	given->slot = answer_slot(open, walk, given->flags);
	if (given->slot == 255)
		return;
	if (given->slot == WAGGLE_BLOCK_RESPONSE) {
		open->record.facts.status = walk->status;
		open->record.facts.response_ns = given->ns;
		if (!(given->flags & WAGGLE_BLOCK_FLAG_END_STREAM))
			open->record.facts.flags |= WAGGLE_FLAG_RESPONSE_BODY;
	}
	keep_block(user, open, given->stream);
	if (routed && given->slot == WAGGLE_BLOCK_RESPONSE)
		keep_stream_route(scratch->sock, given->stream);
}

INLINE void end_request(struct waggle_http2 *head, u64 now)
{
	head->flags |= WAGGLE_HTTP2_FLAG_REQUEST_ENDED;
	head->request_end_ns = now;
}

/* Of a stream: one side has said all. */
PROVEN_ONCE int on_end_stream(struct http2_connection *http2, const struct http2_scratch *scratch,
			      u64 now, u32 stream)
{
	struct stream_ending ending = {
		.now = now,
		.stream = stream,
		.end = WAGGLE_END_DONE,
	};
	struct open_stream *open;

	if (!http2 || !scratch)
		return 0;
	ending.sock = scratch->sock;
	if (scratch->from == WAGGLE_SIDE_SERVER) {
		finish_stream(&ending, http2);
		return 0;
	}
	open = find_stream(scratch->sock, stream);
	if (open)
		end_request((void *)open->record.head, now);
	return 0;
}

/* A block of the client's side: it opens a stream, or is its trailers. */
INLINE void on_request_block(struct feed *feed, struct http2_connection *http2,
			     struct http2_scratch *scratch)
{
	struct block_at_hand *given = &scratch->given;
	struct open_stream *open;

	if (given->stream > http2->highest) {
		/* Trailers of a stream that began unseen. */
		if (http2->resynced && !given->bad &&
		    scratch->block.walk.first != HPACK_FIRST_REQUEST)
			return;
		http2->highest = given->stream;
		given->slot = WAGGLE_BLOCK_REQUEST;
		if (given->stream & 1)
			open_stream(feed->connection, http2, feed->user, 0);
		return;
	}
	given->slot = WAGGLE_BLOCK_REQUEST_TRAILERS;
	open = find_stream(scratch->sock, given->stream);
	if (open)
		keep_block(feed->user, open, given->stream);
	if (given->flags & WAGGLE_BLOCK_FLAG_END_STREAM)
		on_end_stream(http2, scratch, feed->scratch->state.now, given->stream);
}

INLINE void on_promise(struct feed *feed, struct http2_connection *http2,
		       struct http2_scratch *scratch)
{
	struct block_at_hand *given = &scratch->given;

	given->stream = given->promised;
	if (given->stream <= http2->pushed || given->stream & 1)
		return;
	http2->pushed = given->stream;
	given->slot = WAGGLE_BLOCK_REQUEST;
	open_stream(feed->connection, http2, feed->user, 1);
}

/* Walks the block that has become whole, or was too large to keep (`lost`): what of it
 * goes into a record is in scratch->given, what it did to its side's table is told. */
PROVEN_ONCE int read_block(struct http2_connection *http2, struct http2_scratch *scratch, u64 now,
			   u32 lost)
{
	struct block_at_hand *given;
	struct http2_side *side;
	struct hpack_walk *walk;

	if (!http2 || !scratch)
		return 0;
	given = &scratch->given;
	side = &http2->side[scratch->sent & 1];
	walk = &scratch->block.walk;
	given->ns = side->block_ns;
	given->at = side->block_at;
	given->begin = side->block_begin;
	given->promised = side->promised;
	given->stream = side->block_stream;
	given->type = side->block_type;
	given->length = side->block_fill - side->block_begin;
	given->inserted = side->known;
	given->epoch = side->epoch;
	given->flags = WAGGLE_BLOCK_FLAG_PRESENT;
	if (side->block_flags & HTTP2_FLAG_END_STREAM && side->block_type == HTTP2_HEADERS)
		given->flags |= WAGGLE_BLOCK_FLAG_END_STREAM;
	side->block_stream = 0;
	side->kept_aside = 0;
	/* A block too large is walked all the same, for its first field. */
	hpack_read(&scratch->block, side->block_begin, side->block_fill, side->names, side->others,
		   side->known, side->old_table);
	http2_learn(side, walk);
	given->bad = walk->bad || lost;
	given->path_rules = 0;
	if (sampling_mode & SAMPLING_BY_PATHS && walk->first == HPACK_FIRST_REQUEST && !given->bad)
		given->path_rules = stream_path_rules(http2, side, &scratch->block);
	if (given->bad) {
		table_lost(http2, side, now, scratch->from);
	} else if (walk->changes) {
		given->flags |= WAGGLE_BLOCK_FLAG_CHANGES;
		tell_table_block(http2, side, &scratch->block, now, scratch->from);
		side->known = walk->known;
		side->names = walk->names;
		side->others[0] = walk->others[0];
		side->others[1] = walk->others[1];
	}
	return 0;
}

/* What scratch->given, which has been read, means for its stream. */
INLINE void on_block(struct feed *feed, struct http2_connection *http2,
		     struct http2_scratch *scratch)
{
	struct block_at_hand *given = &scratch->given;

	if (given->type == HTTP2_PUSH_PROMISE) {
		if (scratch->from == WAGGLE_SIDE_SERVER)
			on_promise(feed, http2, scratch);
	} else if (scratch->from == WAGGLE_SIDE_CLIENT) {
		on_request_block(feed, http2, scratch);
	} else {
		on_answer(scratch, given, feed->user);
		if (given->flags & WAGGLE_BLOCK_FLAG_END_STREAM)
			on_end_stream(http2, scratch, feed->scratch->state.now, given->stream);
	}
}

#endif
