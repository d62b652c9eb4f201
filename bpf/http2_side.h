/* SPDX-License-Identifier: Apache-2.0
 *
 * What is kept of one direction of an HTTP/2 connection (RFC 9113), its HPACK table's size
 * too, and the bytes at hand. Pure.
 */
#ifndef WAGGLE_HTTP2_SIDE_H
#define WAGGLE_HTTP2_SIDE_H

#include "hpack_block.h"

#define HTTP2_WINDOW 512 /* bytes read of a call at once */
#define HTTP2_WINDOW_MASK (2 * HTTP2_WINDOW - 1)
#define HTTP2_HEADER 9
#define HTTP2_PREFACE_LENGTH 24
#define HTTP2_DEFAULT_FRAME 16384 /* SETTINGS_MAX_FRAME_SIZE before anybody says more */

enum http2_type {
	HTTP2_DATA = 0,
	HTTP2_HEADERS = 1,
	HTTP2_PRIORITY = 2,
	HTTP2_RST_STREAM = 3,
	HTTP2_SETTINGS = 4,
	HTTP2_PUSH_PROMISE = 5,
	HTTP2_PING = 6,
	HTTP2_GOAWAY = 7,
	HTTP2_WINDOW_UPDATE = 8,
	HTTP2_CONTINUATION = 9,
};

enum http2_frame_flag {
	HTTP2_FLAG_END_STREAM = 1,
	HTTP2_FLAG_END_HEADERS = 4,
	HTTP2_FLAG_PADDED = 8,
	HTTP2_FLAG_PRIORITY = 32,
};

enum http2_state {
	HTTP2_AT_PREFACE = 0, /* the client's side begins with one */
	HTTP2_AT_HEADER = 1,
	HTTP2_AT_PAD = 2,     /* the length of the padding of DATA */
	HTTP2_IN_DATA = 3,
	HTTP2_IN_BLOCK = 4,   /* the payload of a frame with a header block */
	HTTP2_IN_CONTROL = 5, /* the beginning of a RST_STREAM or GOAWAY */
	HTTP2_SKIPPING = 6,   /* `remain` bytes that nobody needs */
	HTTP2_SEEKING = 7,    /* for where a frame may begin */
};

/* What a step found. */
enum http2_event {
	HTTP2_NOTHING = 0,
	HTTP2_FOUND_DATA = 1,	  /* data is next; http2_take_data() takes it */
	HTTP2_FOUND_DATA_END = 2, /* the last byte of DATA with END_STREAM has passed */
	HTTP2_FOUND_BLOCK = 3,	  /* a header block is whole */
	HTTP2_FOUND_RESET = 4,	  /* RST_STREAM; its code is in `control` */
	HTTP2_FOUND_GOAWAY = 5,	  /* the last stream and the code are in `control` */
	HTTP2_FOUND_NONSENSE = 6,
	HTTP2_LOST_BLOCK = 7, /* a header block has ended that was too large to keep */
};

/* One direction of a connection. */
struct http2_side {
	u64 frame_ns;  /* when the first byte of the frame at hand passed */
	u64 block_ns;  /* of the HEADERS frame whose block is being joined */
	u64 names;     /* see hpack_walk */
	u64 others[2];
	u64 control;   /* the payload's first bytes, as a number */
	u32 frame_at;  /* sequence number of the frame's first byte */
	u32 block_at;
	u32 remain;    /* bytes of the payload that have not passed */
	u32 stream;
	u32 block_stream; /* the stream of the block; 0: no block is open */
	u32 promised;	  /* the stream a PUSH_PROMISE promises */
	u32 block_fill;	  /* bytes of the block that lie in the buffer */
	u32 block_begin;  /* padding length and priority come before it */
	u32 known;	  /* insertions in this epoch */
	u32 sequence;	  /* of the next table event */
	u32 table;	  /* bytes that became entries, no more than HPACK_TABLE_COUNTED */
	u32 table_most;	  /* the largest size of the table that was asked for; 0: nobody did */
	u8 state;	  /* enum http2_state */
	u8 fill;	  /* bytes of preface, header or control that have come */
	u8 type;
	u8 flags;
	u8 padding;
	u8 block_type;
	u8 block_flags; /* of the HEADERS frame */
	u8 block_lost;	/* it was too large */
	u8 epoch;
	u8 old_table; /* entries may be in it that we never saw */
	u8 kept_aside; /* the block's beginning lies in a map, not in the buffer */
	u8 forgotten;  /* see hpack_walk.forgets */
	u8 states;     /* a field named tracestate was told */
	u8 reserved[3];
	u8 header[16];
};

#define HPACK_TABLE_COUNTED (1 << 20)
#define HPACK_TABLE_DEFAULT 4096 /* SETTINGS_HEADER_TABLE_SIZE before anybody says more */

/* What a block that was walked says of its side from now on. */
INLINE void http2_learn(struct http2_side *side, const struct hpack_walk *walk)
{
	u32 table = side->table + walk->inserted;

	side->table = table < HPACK_TABLE_COUNTED ? table : HPACK_TABLE_COUNTED;
	if (walk->resized > side->table_most)
		side->table_most = walk->resized;
	side->forgotten |= walk->forgets;
	side->states |= walk->states;
}

/* How large the block's fields are for who decodes them, at most, as RFC 9113 counts it
 * (SETTINGS_MAX_HEADER_LIST_SIZE), if none of the table's is repeated twice. */
INLINE u32 http2_list_size(const struct http2_side *side, const struct hpack_walk *walk)
{
	u32 table = side->table_most > HPACK_TABLE_DEFAULT ? side->table_most :
							     HPACK_TABLE_DEFAULT;

	return walk->size + (side->table < table ? side->table : table);
}

/* Whether the block has a traceparent or tracestate, or may have one: it refers to entries
 * whose names nobody remembers. */
INLINE u32 http2_may_have_context(const struct http2_side *side, const struct hpack_walk *walk)
{
	return walk->traceparents || side->states || (walk->refers_far && side->forgotten);
}

/* The bytes at hand. Lives in a map. */
struct http2_window {
	u32 at;
	u32 fill;
	u32 position; /* sequence number of bytes[0] */
	u32 reserved;
	u8 bytes[4 * HTTP2_WINDOW + 16]; /* more: place and length are bounded by masks */
};

INLINE u8 http2_byte(const struct http2_window *window, u32 at)
{
	return window->bytes[masked(at, HTTP2_WINDOW_MASK)];
}

INLINE u32 http2_available(const struct http2_side *side, const struct http2_window *window)
{
	u32 left = window->fill - window->at;

	return side->remain < left ? side->remain : left;
}

#endif
