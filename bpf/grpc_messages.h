/* SPDX-License-Identifier: Apache-2.0
 *
 * gRPC's messages in the data of a stream of HTTP/2: where each begins and ends. Pure.
 */
#ifndef WAGGLE_GRPC_MESSAGES_H
#define WAGGLE_GRPC_MESSAGES_H

#include "http2_side.h"

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
