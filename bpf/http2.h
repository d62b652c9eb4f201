/* SPDX-License-Identifier: Apache-2.0
 *
 * HTTP/2 frames (RFC 9113): one direction of a connection, fed in pieces that are cut
 * anywhere. Pure: no kernel, no maps. Each step passes one part of a frame and says
 * what came of it; what streams make of that is http2_stream.h's.
 */
#ifndef WAGGLE_HTTP2_H
#define WAGGLE_HTTP2_H

#include "hpack.h"

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

INLINE int http2_skip(struct http2_side *side)
{
	side->fill = 0;
	side->state = side->remain ? HTTP2_SKIPPING : HTTP2_AT_HEADER;
	return HTTP2_NOTHING;
}

/* Whether a frame may have this length, type and stream. */
INLINE int http2_makes_sense(u32 length, u8 type, u8 flags, u32 stream)
{
	switch (type) {
	case HTTP2_DATA:
	case HTTP2_HEADERS:
	case HTTP2_CONTINUATION:
		return !!stream;
	case HTTP2_PUSH_PROMISE:
		return stream && length >= 4;
	case HTTP2_PRIORITY:
		return stream && length == 5;
	case HTTP2_RST_STREAM:
		return stream && length == 4;
	case HTTP2_SETTINGS:
		return !stream && !(length % 6) && (!(flags & 1) || !length);
	case HTTP2_PING:
		return !stream && length == 8;
	case HTTP2_GOAWAY:
		return !stream && length >= 8;
	case HTTP2_WINDOW_UPDATE:
		return length == 4;
	}
	return 1; /* unknown types are to be ignored */
}

INLINE int http2_enter_data(struct http2_side *side)
{
	if (side->remain > side->padding) {
		side->remain -= side->padding;
		side->state = HTTP2_IN_DATA;
		return HTTP2_NOTHING;
	}
	if (side->remain < side->padding)
		return HTTP2_FOUND_NONSENSE;
	http2_skip(side);
	return side->flags & HTTP2_FLAG_END_STREAM ? HTTP2_FOUND_DATA_END : HTTP2_NOTHING;
}

/* A frame with a header block's beginning. */
INLINE int http2_enter_block(struct http2_side *side)
{
	side->block_stream = side->stream;
	side->block_type = side->type;
	side->block_flags = side->flags;
	side->block_at = side->frame_at;
	side->block_ns = side->frame_ns;
	side->block_fill = 0;
	side->block_lost = 0;
	side->kept_aside = 0;
	side->block_begin = (side->flags & HTTP2_FLAG_PADDED ? 1 : 0);
	if (side->type == HTTP2_PUSH_PROMISE)
		side->block_begin += 4;
	else if (side->flags & HTTP2_FLAG_PRIORITY)
		side->block_begin += 5;
	side->state = HTTP2_IN_BLOCK;
	return side->remain < side->block_begin ? HTTP2_FOUND_NONSENSE : HTTP2_NOTHING;
}

/* A frame's payload with a part of a block has passed. */
INLINE int http2_leave_block(struct http2_side *side, struct hpack_block *block)
{
	u32 pad;

	side->fill = 0;
	side->state = HTTP2_AT_HEADER;
	if (side->type != HTTP2_CONTINUATION) {
		pad = side->flags & HTTP2_FLAG_PADDED ? block->bytes[0] : 0;
		if (side->type == HTTP2_PUSH_PROMISE)
			side->promised = __builtin_bswap32(
				(u32)hpack_word(block, side->block_begin - 4)) & 0x7fffffff;
		/* Too large a block may have overflown within padding: it is lost anyway. */
		if (!side->block_lost && side->block_fill < side->block_begin + pad)
			return HTTP2_FOUND_NONSENSE;
		if (!side->block_lost)
			side->block_fill -= pad;
	}
	if (!(side->flags & HTTP2_FLAG_END_HEADERS))
		return HTTP2_NOTHING;
	return side->block_lost ? HTTP2_LOST_BLOCK : HTTP2_FOUND_BLOCK;
}

/* A frame header is whole: which state does its payload want? */
INLINE int http2_enter_frame(struct http2_side *side, u64 word, u8 last)
{
	u32 low = __builtin_bswap32(word >> 32);

	side->remain = __builtin_bswap32((u32)word) >> 8;
	side->type = word >> 24;
	side->flags = word >> 32;
	side->stream = (low << 8 | last) & 0x7fffffff;
	side->fill = 0;
	side->padding = 0;
	side->control = 0;
	if (!http2_makes_sense(side->remain, side->type, side->flags, side->stream))
		return HTTP2_FOUND_NONSENSE;
	/* Nothing may come between the parts of a block. */
	if (side->block_stream ?
		    side->type != HTTP2_CONTINUATION || side->stream != side->block_stream :
		    side->type == HTTP2_CONTINUATION)
		return HTTP2_FOUND_NONSENSE;
	switch (side->type) {
	case HTTP2_DATA:
		if (!(side->flags & HTTP2_FLAG_PADDED))
			return http2_enter_data(side);
		side->state = HTTP2_AT_PAD;
		return side->remain ? HTTP2_NOTHING : HTTP2_FOUND_NONSENSE;
	case HTTP2_HEADERS:
	case HTTP2_PUSH_PROMISE:
		return http2_enter_block(side);
	case HTTP2_CONTINUATION:
		side->state = HTTP2_IN_BLOCK;
		return HTTP2_NOTHING;
	case HTTP2_RST_STREAM:
	case HTTP2_GOAWAY:
		side->state = HTTP2_IN_CONTROL;
		return HTTP2_NOTHING;
	}
	return http2_skip(side);
}

/* The nine bytes of a frame header: at once, or one by one where they are cut. */
INLINE int http2_read_header(struct http2_side *side, struct http2_window *window, u64 now)
{
	u32 at = window->at;
	u8 byte;

	if (!side->fill) {
		side->frame_at = window->position + at;
		side->frame_ns = now;
		if (window->fill - at >= HTTP2_HEADER) {
			window->at = at + HTTP2_HEADER;
			return http2_enter_frame(
				side, load64(window->bytes + masked(at, HTTP2_WINDOW_MASK)),
				http2_byte(window, at + 8));
		}
	}
	byte = http2_byte(window, at);
	window->at = at + 1;
	side->header[side->fill & 15] = byte;
	side->fill++;
	if (side->fill < HTTP2_HEADER)
		return HTTP2_NOTHING;
	return http2_enter_frame(side, load64(side->header), byte);
}

const u8 http2_preface[32] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

INLINE int http2_read_preface(struct http2_side *side, struct http2_window *window)
{
	u8 byte = http2_byte(window, window->at);

	window->at++;
	if (byte != http2_preface[side->fill & 31])
		return HTTP2_FOUND_NONSENSE;
	if (++side->fill == HTTP2_PREFACE_LENGTH) {
		side->fill = 0;
		side->state = HTTP2_AT_HEADER;
	}
	return HTTP2_NOTHING;
}

/* Up to eight bytes of a payload as a number. */
INLINE int http2_read_control(struct http2_side *side, struct http2_window *window)
{
	side->control = side->control << 8 | http2_byte(window, window->at);
	window->at++;
	side->remain--;
	side->fill++;
	if (side->remain && side->fill < 8)
		return HTTP2_NOTHING;
	http2_skip(side);
	return side->type == HTTP2_GOAWAY ? HTTP2_FOUND_GOAWAY : HTTP2_FOUND_RESET;
}

INLINE int http2_read_block(struct http2_side *side, struct http2_window *window,
			    struct hpack_block *block)
{
	u32 some = http2_available(side, window);

	if (some && !side->block_lost) {
		if (side->block_fill > HPACK_BLOCK_MAX - HTTP2_WINDOW) {
			side->block_lost = 1;
		} else {
			copy_bytes(block->bytes + masked(side->block_fill, HPACK_BLOCK_MASK),
				   masked(some, HTTP2_WINDOW_MASK),
				   window->bytes + masked(window->at, HTTP2_WINDOW_MASK));
			side->block_fill += some;
		}
	}
	window->at += some;
	side->remain -= some;
	return side->remain ? HTTP2_NOTHING : http2_leave_block(side, block);
}

INLINE int http2_pass(struct http2_side *side, struct http2_window *window)
{
	u32 some = http2_available(side, window);

	window->at += some;
	side->remain -= some;
	return side->remain ? HTTP2_NOTHING : http2_skip(side);
}

INLINE int http2_read_pad(struct http2_side *side, struct http2_window *window)
{
	side->padding = http2_byte(window, window->at);
	window->at++;
	side->remain--;
	return http2_enter_data(side);
}

/* `taken` bytes of data have passed. */
INLINE int http2_data_passed(struct http2_side *side, u32 taken)
{
	side->remain -= taken;
	if (side->remain)
		return HTTP2_NOTHING;
	side->remain = side->padding;
	http2_skip(side);
	return side->flags & HTTP2_FLAG_END_STREAM ? HTTP2_FOUND_DATA_END : HTTP2_NOTHING;
}

/* Passes one part. The window must not be empty, but where a block's frame is. */
PROVEN_ONCE int http2_step(struct http2_side *side, struct http2_window *window,
			   struct hpack_block *block, u64 now)
{
	if (!side || !window || !block)
		return HTTP2_FOUND_NONSENSE;
	switch (side->state) {
	case HTTP2_AT_PREFACE:
		return http2_read_preface(side, window);
	case HTTP2_AT_HEADER:
		return http2_read_header(side, window, now);
	case HTTP2_AT_PAD:
		return http2_read_pad(side, window);
	case HTTP2_IN_DATA:
		return HTTP2_FOUND_DATA;
	case HTTP2_IN_BLOCK:
		return http2_read_block(side, window, block);
	case HTTP2_IN_CONTROL:
		return http2_read_control(side, window);
	}
	return http2_pass(side, window);
}

/* gRPC's messages in the data that one side of a stream sends: each has a prefix of
 * five bytes, { u8 compressed, u32 length }. */
struct http2_messages {
	u32 left; /* bytes of the message that have not passed */
	u32 length;
	u8 have; /* bytes of the prefix that have */
	u8 off;	 /* no gRPC: a first byte was neither 0 nor 1 */
	u8 begun; /* by the last http2_take_data() */
	u8 ended;
	u8 reserved[4];
};

INLINE void http2_prefix_byte(struct http2_messages *messages, u8 byte)
{
	if (messages->have)
		messages->length = messages->length << 8 | byte;
	else
		messages->off |= byte > 1;
	messages->have++;
}

/* Takes some of `available` bytes of data, at least one if they can be read: those of
 * the message at hand and the next prefix. Returns how many. */
INLINE u32 http2_take_data(struct http2_messages *messages, const struct http2_window *window,
			   u32 available, u32 readable)
{
	u32 taken = messages->left < available ? messages->left : available;

	messages->begun = 0;
	messages->ended = 0;
	if (messages->off)
		return available;
	messages->left -= taken;
	messages->ended = taken && !messages->left;
	if (messages->left || !readable)
		return taken;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 5; i++) {
		if (messages->have < 5 && taken < available) {
			http2_prefix_byte(messages, http2_byte(window, window->at + taken));
			taken++;
		}
	}
	if (messages->off)
		return available;
	if (messages->have < 5)
		return taken;
	messages->begun = 1;
	messages->ended |= !messages->length;
	messages->left = messages->length;
	messages->length = 0;
	messages->have = 0;
	return taken;
}

#endif
