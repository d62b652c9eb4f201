/* SPDX-License-Identifier: Apache-2.0
 *
 * What user space is told of HPACK tables: every block that changes one, at once and
 * in the order of the wire, since records leave in another order.
 */
#ifndef WAGGLE_HTTP2_TABLE_H
#define WAGGLE_HTTP2_TABLE_H

#include "http2_maps.h"

#define TABLE_PIECES_MAX (HPACK_BLOCK_MAX / WAGGLE_TABLE_BYTES + 1)

struct table_walk {
	struct http2_connection *http2;
	struct http2_side *side;
	struct hpack_block *block;
	u64 now;
	u32 at;
	u8 kind; /* enum waggle_table_event_kind */
	u8 from; /* enum waggle_side */
	u8 reserved[2];
};

/* An event with what all of them have, or null when the ring is full. */
INLINE struct waggle_table_event *table_event(const struct table_walk *walk)
{
	struct http2_side *side = walk->side;
	struct waggle_table_event *event =
		bpf_ringbuf_reserve(&table_ring, sizeof(*event), 0);
	u32 sequence = side->sequence++;

	if (!event) {
		count(WAGGLE_COUNT_LOST_TABLE_RING_FULL);
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->connection = walk->http2->id;
	event->time_ns = walk->now;
	event->tgid = walk->http2->tgid;
	event->sequence = sequence;
	event->inserted = side->known;
	event->kind = walk->kind;
	event->side = walk->from;
	event->epoch = side->epoch;
	event->flags = walk->http2->resynced ? WAGGLE_HTTP2_FLAG_RESYNCED : 0;
	return event;
}

INLINE void tell_piece(const struct table_walk *walk, u32 length)
{
	struct waggle_table_event *event = table_event(walk);
	const struct http2_side *side = walk->side;

	if (!event)
		return;
	event->insertions = walk->block->walk.insertions;
	event->block_full = side->block_fill - side->block_begin;
	event->offset = walk->at - side->block_begin;
	event->block_flags = WAGGLE_BLOCK_FLAG_PRESENT | WAGGLE_BLOCK_FLAG_CHANGES;
	event->length = length;
	length = masked(length, 511);
	if (length <= WAGGLE_TABLE_BYTES)
		bpf_probe_read_kernel(event->bytes, length,
				      walk->block->bytes + masked(walk->at, HPACK_BLOCK_MASK));
	bpf_ringbuf_submit(event, wakeup(&table_ring));
}

static long table_step(u32 index, void *context)
{
	struct table_walk *walk = context;
	u32 left = walk->side->block_fill - walk->at;

	if (walk->at >= walk->side->block_fill)
		return 1;
	if (left > WAGGLE_TABLE_BYTES)
		left = WAGGLE_TABLE_BYTES;
	tell_piece(walk, left);
	walk->at += left;
	return 0;
}

/* The block in the buffer changes its side's table. */
OUT_OF_LINE int tell_table_block(struct http2_connection *http2, struct http2_side *side,
				 struct hpack_block *block, u64 now, u32 from)
{
	struct table_walk walk = {
		.http2 = http2,
		.side = side,
		.block = block,
		.now = now,
		.at = side->block_begin,
		.kind = WAGGLE_TABLE_BLOCK,
		.from = from,
	};

	LOOP(TABLE_PIECES_MAX, table_step, &walk);
	return 0;
}

PROVEN_ONCE int tell_table_plain(struct http2_connection *http2, struct http2_side *side, u64 now,
				 u32 kind, u32 from)
{
	struct table_walk walk = {
		.http2 = http2,
		.side = side,
		.now = now,
		.kind = kind,
		.from = from,
	};
	struct waggle_table_event *event;

	if (!http2 || !side)
		return 0;
	event = table_event(&walk);
	if (event)
		bpf_ringbuf_submit(event, wakeup(&table_ring));
	return 0;
}

INLINE void tell_table_closed(struct http2_connection *http2, u64 now)
{
	tell_table_plain(http2, &http2->side[0], now, WAGGLE_TABLE_CLOSED, http2->from[0]);
}

/* Nobody knows any more how many entries a side's table has got. */
INLINE void table_lost(struct http2_connection *http2, struct http2_side *side, u64 now, u32 from)
{
	count(WAGGLE_COUNT_LOST_TABLE_COUNT);
	side->known = 0;
	side->names = 0;
	side->others[0] = side->others[1] = 0;
	side->old_table = 1;
	if (side->epoch < 255)
		side->epoch++;
	tell_table_plain(http2, side, now, WAGGLE_TABLE_EPOCH, from);
}

#endif
