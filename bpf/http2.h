/* SPDX-License-Identifier: Apache-2.0
 *
 * HTTP/2 frames (RFC 9113): one direction of a connection, fed in pieces that are cut
 * anywhere. Pure: no kernel, no maps. Each step passes one part of a frame and says
 * what came of it; what streams make of that is http2_stream.h's.
 */
#ifndef WAGGLE_HTTP2_H
#define WAGGLE_HTTP2_H

#include "http2_frame.h"

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

#endif
