/* SPDX-License-Identifier: Apache-2.0
 *
 * Header blocks become the beginning, the answer or the end of a stream.
 */
#ifndef WAGGLE_HTTP2_STREAM_H
#define WAGGLE_HTTP2_STREAM_H

#include "go_stream_names.h"
#include "go_stream_routes.h"
#include "http1_exchange.h"
#include "http2_ending.h"
#include "stream_paths.h"
#include "table_contexts.h"
#include "table_texts.h"

#define HTTP2_VERSION 20

INLINE void describe_block(struct waggle_http2 *http2, const struct block_at_hand *given, u32 at,
			   u32 kept)
{
	u32 slot = given->slot & (WAGGLE_BLOCKS - 1);

	http2->block_inserted[slot] = given->inserted;
	http2->block_offset[slot] = at;
	http2->block_length[slot] = kept;
	http2->block_full[slot] = given->length;
	http2->block_epoch[slot] = given->epoch;
	http2->block_flags[slot] = given->flags | (kept < given->length || given->bad ?
							   WAGGLE_BLOCK_FLAG_CUT :
							   0);
}

/* Into the record being made. */
OUT_OF_LINE int keep_block_fresh(struct http2_scratch *scratch, const struct block_at_hand *given)
{
	struct open_large_stream *fresh = &scratch->fresh;
	u32 used = fresh->stream.used, kept = given->length;

	if (given->bad)
		kept = 0;
	if (kept > WAGGLE_LARGE_HEAD_SIZE - used)
		kept = WAGGLE_LARGE_HEAD_SIZE - used;
	copy_bytes(fresh->record.head + masked(used, 4095), masked(kept, 4095),
		   scratch->block.bytes + masked(given->begin, HPACK_BLOCK_MASK));
	describe_block((void *)fresh->record.head, given, used, kept);
	fresh->stream.used = used + kept;
	return 0;
}

static long clear_head_step(u32 index, void *context)
{
	struct http2_scratch *scratch = *(struct http2_scratch **)context;
	u64 zero = 0;
	u32 at = WAGGLE_HEAD_SIZE + 8 * index;

	if (at >= WAGGLE_LARGE_HEAD_SIZE)
		return 1;
	__builtin_memcpy(scratch->fresh.record.head + masked(at, 4095), &zero, 8);
	return 0;
}

/* What a large record has beyond a small one holds what was there before. */
INLINE void clear_head(struct http2_scratch *scratch)
{
	LOOP(512, clear_head_step, &scratch);
}

/* The stream whose record was made is open; returns whether there was room for it. */
OUT_OF_LINE int store_fresh(struct http2_scratch *scratch, struct http2_connection *http2, u64 sock,
			    u32 stream)
{
	struct exchange_key key = { .sock = sock, .index = stream };
	struct open_large_stream *fresh = &scratch->fresh;
	long full;

	count(WAGGLE_COUNT_HTTP2_STREAMS);
	if (fresh->stream.used <= WAGGLE_HEAD_SIZE) {
		fresh->stream.place = STREAM_NEAR;
		full = bpf_map_update_elem(&near_streams, &key, fresh, BPF_ANY);
		if (full) {
			fresh->stream.place = STREAM_FAR;
			full = bpf_map_update_elem(&http2_streams, &key, fresh, BPF_ANY);
		}
	} else {
		fresh->stream.place = STREAM_LARGE;
		full = bpf_map_update_elem(&large_streams, &key, fresh, BPF_ANY);
	}
	if (!full)
		__sync_fetch_and_add(&http2->open, 1);
	else
		count(WAGGLE_COUNT_LOST_STREAM_MAP_FULL);
	return !full;
}

/* The record of an open stream becomes a large one, with the block. */
INLINE void outgrow(struct http2_scratch *scratch, struct open_stream *open, u32 stream)
{
	struct exchange_key key = { .sock = scratch->sock, .index = stream };
	const struct block_at_hand *given = &scratch->given;

	clear_head(scratch);
	bpf_probe_read_kernel(&scratch->fresh, offsetof(struct open_stream, behind), open);
	scratch->fresh.stream.place = STREAM_LARGE;
	keep_block_fresh(scratch, given);
	if (bpf_map_update_elem(&large_streams, &key, &scratch->fresh, BPF_ANY)) {
		count(WAGGLE_COUNT_LOST_STREAM_MAP_FULL);
		describe_block((void *)open->record.head, given, 0, 0);
		return;
	}
	if (bpf_map_delete_elem(&near_streams, &key))
		bpf_map_delete_elem(&http2_streams, &key);
}

/* The record of an open stream that is a large one takes the block too. */
INLINE void keep_block_large(struct http2_scratch *scratch, u32 stream)
{
	struct exchange_key key = { .sock = scratch->sock, .index = stream };
	struct open_large_stream *large = bpf_map_lookup_elem(&large_streams, &key);

	if (!large)
		return;
	bpf_probe_read_kernel(&scratch->fresh, sizeof(*large), large);
	keep_block_fresh(scratch, &scratch->given);
	bpf_map_update_elem(&large_streams, &key, &scratch->fresh, BPF_EXIST);
}

/* Adds a block to an open stream, as find_stream() has found it, which may lie elsewhere from
 * now on. */
PROVEN_ONCE int keep_block(u32 user, struct open_stream *open, u32 stream)
{
	struct http2_scratch *scratch = http2_scratch_of(user);
	struct block_at_hand *given;
	u32 used, length;

	if (!scratch || !open)
		return 0;
	given = &scratch->given;
	if (open->stream.place == STREAM_LARGE) {
		keep_block_large(scratch, stream);
		return 0;
	}
	length = given->bad ? 0 : given->length;
	used = open->stream.used;
	if (used + length > WAGGLE_HEAD_SIZE) {
		outgrow(scratch, open, stream);
		return 0;
	}
	copy_bytes(open->record.head + WAGGLE_HTTP2_SIZE + masked(used - WAGGLE_HTTP2_SIZE, 255),
		   masked(length, 255),
		   scratch->block.bytes + masked(given->begin, HPACK_BLOCK_MASK));
	describe_block((void *)open->record.head, given, used, length);
	open->stream.used = used + length;
	return 0;
}

/* Where fill_addresses() looks for those of the exchange before. */
INLINE void remember_addresses(struct connection *connection, const struct waggle_facts *facts)
{
	struct waggle_facts *before = &connection->current.record.facts;

	if (before->family == facts->family)
		return;
	__builtin_memcpy(before->local_addr, facts->local_addr, 32);
	before->local_port = facts->local_port;
	before->peer_port = facts->peer_port;
	before->family = facts->family;
}

INLINE void fill_stream(struct feed *feed, struct http2_connection *http2,
			const struct block_at_hand *given, struct waggle_facts *facts,
			struct waggle_process *process)
{
	__builtin_memset(facts, 0, sizeof(*facts));
	facts->start_ns = given->ns;
	new_span_id(random_of(feed->scratch), facts->span_id);
	facts->process_start_ns = process_start(process);
	facts->tgid = feed->tgid;
	facts->tid = feed->tid;
	facts->role = feed->connection->role;
	facts->version = HTTP2_VERSION;
	facts->protocol = WAGGLE_PROTOCOL_HTTP2;
	if (!(given->flags & WAGGLE_BLOCK_FLAG_END_STREAM))
		facts->flags |= WAGGLE_FLAG_REQUEST_BODY;
	if (!process || process->mode & WAGGLE_PROCESS_UNCONFIRMED)
		facts->flags |= WAGGLE_FLAG_PROVISIONAL;
	if (http2->resynced)
		facts->flags |= WAGGLE_FLAG_RESYNCED;
	tell_tls(feed->connection, facts);
	fill_addresses(facts, feed->connection, feed->sock);
	remember_addresses(feed->connection, facts);
}

/* As count_open() does for requests of HTTP/1. */
INLINE void count_stream(struct http2_stream *stream, struct waggle_process *process, u64 sock,
			 u32 number)
{
	if (!process || !rules_may_ask(process))
		return;
	stream->counted = 1;
	process->alone_sock = sock;
	process->alone_index = number | ALONE_STREAM;
	__sync_fetch_and_add(&process->open, 1);
}

/* Whose trace the stream belongs to, by the rules of any request. */
INLINE void join_stream(struct feed *feed, struct http2_scratch *scratch,
			struct http2_connection *http2, struct waggle_process *process)
{
	struct connection *connection = feed->connection;
	struct waggle_facts *facts = &scratch->fresh.record.facts;
	struct trace_context *header = &scratch->block.context;

	header->valid = 0;
	if (rank_of_tracecontext && hpack_traceparent(&scratch->block))
		count(header->valid ? WAGGLE_COUNT_TRACEPARENT_READ :
				      WAGGLE_COUNT_TRACEPARENT_INVALID);
	if (rank_of_tracecontext && scratch->block.walk.traceparent_entry)
		turn_to_entry(http2, &scratch->block, scratch->given.epoch);
	if (scratch->block.walk.noted)
		stronger_context(&feed->scratch->head, &feed->scratch->header, &feed->scratch->hex,
				 header);
	if (!header->valid || header->link != WAGGLE_LINK_TRACEPARENT)
		((struct waggle_http2 *)scratch->fresh.record.head)->flags |=
			WAGGLE_HTTP2_FLAG_NO_TRACESTATE;
	if (header->valid)
		facts->flags |= WAGGLE_FLAG_HAD_TRACEPARENT;
	if (connection->role == WAGGLE_ROLE_SERVER) {
		join_incoming(feed, header, facts);
		count_stream(&scratch->fresh.stream, process, feed->sock, scratch->given.stream);
		return;
	}
	join_outgoing(feed, process, header, facts, &scratch->fresh.stream.owner);
	if (http2->resynced)
		name_call(connection, http2, feed->sock, scratch->given.stream, facts);
	connection->flags &= ~CONNECTION_FRESH;
	connection->tgid = feed->tgid;
	/* What comes back on a connection of several streams is nobody's in particular. */
	if (http2->open)
		__builtin_memset(&connection->turn_owner, 0, sizeof(connection->turn_owner));
	if (may_tell(facts)) {
		offer_option(connection, feed->scratch->state.now, feed->stream->head_at, facts);
		leave_handoff(connection, feed->sock, feed->scratch->state.now,
			      feed->stream->head_at, facts);
	}
}

/* It is kept: so may be what it came with. */
PROVEN_ONCE int keep_stream_header(u32 user)
{
	struct http2_scratch *scratch = http2_scratch_of(user);
	struct waggle_facts *facts;

	if (!scratch)
		return 0;
	facts = &scratch->fresh.record.facts;
	if (facts->role == WAGGLE_ROLE_SERVER && facts->flags & WAGGLE_FLAG_HAD_TRACEPARENT)
		keep_forwarded(&scratch->block.context, facts, scratch->sock, scratch->given.stream);
	return 0;
}

/* A stream begins with the block at hand. */
PROVEN_ONCE int open_stream(struct connection *connection, struct http2_connection *http2, u32 user,
			    u32 pushed)
{
	struct http2_scratch *scratch = http2_scratch_of(user);
	struct scratch *state = scratch_of(user);
	struct open_large_stream *fresh;
	struct block_at_hand *given;
	struct waggle_facts *facts;
	struct waggle_http2 *head;
	struct waggle_process *process;
	struct feed whole, *feed = &whole;

	if (!connection || !http2 || !scratch || !state)
		return 0;
	begin_feed(feed, connection, state, scratch->sock, scratch->sent);
	given = &scratch->given;
	fresh = &scratch->fresh;
	facts = &fresh->record.facts;
	head = (void *)fresh->record.head;
	process = ensure_process(feed->tgid);
	__builtin_memset(&fresh->stream, 0, sizeof(fresh->stream));
	__builtin_memset(head, 0, WAGGLE_HEAD_SIZE);
	fresh->stream.connection = http2->id;
	fresh->stream.used = WAGGLE_HTTP2_SIZE;
	head->connection = http2->id;
	head->stream = given->stream;
	if (http2->resynced)
		head->flags |= WAGGLE_HTTP2_FLAG_RESYNCED;
	if (given->length > HTTP2_SMALL_BLOCKS)
		clear_head(scratch);
	keep_block_fresh(scratch, given);
	fill_stream(feed, http2, given, facts, process);
	feed->scratch->head.suitable_rules = given->path_rules;
	if (pushed) {
		head->flags |= WAGGLE_HTTP2_FLAG_PUSHED | WAGGLE_HTTP2_FLAG_REQUEST_ENDED;
		facts->flags &= ~WAGGLE_FLAG_REQUEST_BODY;
		begin_trace(feed->scratch, facts);
		if (facts->role == WAGGLE_ROLE_SERVER)
			count_stream(&fresh->stream, process, feed->sock, given->stream);
	} else {
		feed->stream->head_at = given->at;
		join_stream(feed, scratch, http2, process);
		if (given->flags & WAGGLE_BLOCK_FLAG_END_STREAM) {
			head->flags |= WAGGLE_HTTP2_FLAG_REQUEST_ENDED;
			head->request_end_ns = feed->scratch->state.now;
		}
	}
	/* Some clients leave stream 1 to an upgrade that there is none of. */
	if (is_tls(connection) && given->stream <= 3)
		tell_handshake(facts, feed->sock);
	http2->tgid = feed->tgid;
	if (!store_fresh(scratch, http2, feed->sock, given->stream))
		stream_left(facts, fresh->stream.counted);
	else
		keep_stream_header(user);
	return 0;
}

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
