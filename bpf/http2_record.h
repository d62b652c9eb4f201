/* SPDX-License-Identifier: Apache-2.0
 *
 * The record of an open stream, and the header blocks that it keeps. It lies where there is
 * room for what it holds: a small one that grows becomes a large one.
 */
#ifndef WAGGLE_HTTP2_RECORD_H
#define WAGGLE_HTTP2_RECORD_H

#include "http2_maps.h"

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

#endif
