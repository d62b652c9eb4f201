/* SPDX-License-Identifier: Apache-2.0
 *
 * What the header of an HTTP/2 frame says (RFC 9113, 4.1): whether there may be such a frame,
 * and how its payload is read. Pure.
 */
#ifndef WAGGLE_HTTP2_FRAME_H
#define WAGGLE_HTTP2_FRAME_H

#include "http2_side.h"

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

#endif
