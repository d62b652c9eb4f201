/* SPDX-License-Identifier: Apache-2.0
 *
 * HTTP/2 from the middle: connections older than the agent, and those that were lost.
 * A call is taken to begin with a frame only where frames follow one another as they
 * must; a connection is taken to be HTTP/2 only if there is also a header block that
 * begins as one does. Whatever is not sure waits for another call.
 */
#ifndef WAGGLE_HTTP2_SEEK_H
#define WAGGLE_HTTP2_SEEK_H

#include "http2_frame.h"

/* The flags that may be set, by type; others are known to nobody. */
const u8 http2_flags_of[16] = {
	[HTTP2_DATA] = HTTP2_FLAG_END_STREAM | HTTP2_FLAG_PADDED,
	[HTTP2_HEADERS] = HTTP2_FLAG_END_STREAM | HTTP2_FLAG_END_HEADERS | HTTP2_FLAG_PADDED |
			  HTTP2_FLAG_PRIORITY,
	[HTTP2_SETTINGS] = 1,
	[HTTP2_PUSH_PROMISE] = HTTP2_FLAG_END_HEADERS | HTTP2_FLAG_PADDED,
	[HTTP2_PING] = 1,
};

/* What a place in a call tells: is a frame header there, and of what? */
struct http2_header {
	u32 length;
	u32 stream;
	u8 type;
	u8 flags;
	u8 plausible;
	u8 reserved;
};

INLINE void http2_look(struct http2_header *header, u64 word, u8 last)
{
	u32 low = __builtin_bswap32(word >> 32);
	u32 stream = low << 8 | last;

	header->length = __builtin_bswap32((u32)word) >> 8;
	header->type = word >> 24;
	header->flags = word >> 32;
	header->stream = stream;
	header->plausible =
		header->type <= HTTP2_WINDOW_UPDATE && header->length <= HTTP2_DEFAULT_FRAME &&
		!(header->flags & ~http2_flags_of[header->type & 15]) && !(stream >> 31) &&
		http2_makes_sense(header->length, header->type, header->flags, stream) &&
		/* Streams of servers are even: promised, and refused by all. */
		(!stream || (stream & 1));
}

#define HTTP2_BLOCK_LOOK 8 /* bytes: pseudo-header fields are the first of a block, four at most */

/* 1 or 0, for numbers below 256, without a branch: the verifier walks each way of each. */
INLINE u32 is_some(u32 number)
{
	return (number + 255) >> 8;
}

INLINE u32 is_below(u32 number, u32 bound)
{
	return (number - bound) >> 31;
}

/* Whose header block begins so? Of the pseudo-header fields, `:method` and `:scheme`, or
 * `:status`, are in the static table for all but the strangest encoders; the others may be
 * indexes of a table that nobody saw. `length`: of the block. */
PROVEN_ONCE u32 http2_block_sender(u64 word, u32 length)
{
	u32 left = length < HTTP2_BLOCK_LOOK ? length : HTTP2_BLOCK_LOOK;
	u32 sender = HPACK_FIRST_OTHER, live = 1, byte, indexed, named, name, hit;

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < HTTP2_BLOCK_LOOK; i++) {
		byte = (u32)(word >> (8 * i)) & 0xff;
		indexed = byte >> 7;
		named = indexed | byte >> 6;
		name = byte & (0x0f | (named & 1) * 0x30 | indexed * 0x40);
		/* A literal's value follows, and a change of the table's size is no field. */
		live &= is_below(i, left) & is_some((byte & 0xe0) ^ 0x20);
		hit = live & is_some(name) & is_below(name, 15);
		sender += hit * (HPACK_FIRST_RESPONSE -
				 is_below(name, 8) * (HPACK_FIRST_RESPONSE - HPACK_FIRST_REQUEST));
		live &= ~hit & indexed & is_some(name ^ 0x7f);
	}
	return sender;
}

/* Where a frame's header block begins in its payload; padding is at most one byte off. */
INLINE u32 http2_block_at(const struct http2_header *header)
{
	return HTTP2_HEADER + (header->flags & HTTP2_FLAG_PADDED ? 1 : 0) +
	       (header->flags & HTTP2_FLAG_PRIORITY ? 5 : 0);
}

/* On a connection of HTTP/2: does a frame begin where the window does? `whole`: the call
 * ends where the window does. */
INLINE int http2_found_frame(const struct http2_window *window, u32 whole)
{
	struct http2_header first, second;
	u32 next;

	if (window->fill < HTTP2_HEADER)
		return 0;
	http2_look(&first, load64(window->bytes), window->bytes[8]);
	next = HTTP2_HEADER + first.length;
	if (!first.plausible)
		return 0;
	if (next + HTTP2_HEADER > window->fill)
		return whole && next == window->fill;
	http2_look(&second, load64(window->bytes + masked(next, HTTP2_WINDOW_MASK)),
		   http2_byte(window, next + 8));
	return second.plausible;
}

/* The same where headers of frames and their payloads are read by calls of their own, as Go's
 * server does. The header of a frame that has a whole header block is kept; the frame is found
 * if the next call is its payload, and begins as a block of `sender` (enum hpack_first) does. */
INLINE int http2_found_halves(struct http2_side *side, const struct http2_window *window, u32 whole,
			      u32 sender)
{
	struct http2_header header;
	u32 before;

	if (side->fill == HTTP2_HEADER) {
		side->fill = 0;
		http2_look(&header, load64(side->header), side->header[8]);
		before = http2_block_at(&header) - HTTP2_HEADER;
		if (whole && window->fill == header.length && header.length > before &&
		    http2_block_sender(load64(window->bytes + masked(before, 7)),
				       header.length - before) == sender)
			return 1;
	}
	if (!whole || window->fill != HTTP2_HEADER)
		return 0;
	http2_look(&header, load64(window->bytes), window->bytes[8]);
	if (header.plausible && header.type == HTTP2_HEADERS &&
	    header.flags & HTTP2_FLAG_END_HEADERS) {
		store64(side->header, load64(window->bytes));
		side->header[8] = window->bytes[8];
		side->fill = HTTP2_HEADER;
	}
	return 0;
}

#endif
