/* SPDX-License-Identifier: Apache-2.0
 *
 * gRPC's `grpc-trace-bin`: a trace context in OpenCensus' binary format
 * (github.com/census-instrumentation/opencensus-specs, encodings/BinaryEncoding.md). Values of
 * such fields are in base64, or, where both ends of a connection say that they can, as they
 * are behind a byte of zero. Pure.
 */
#ifndef WAGGLE_TRACE_BIN_H
#define WAGGLE_TRACE_BIN_H

#include "hpack_text.h"

#define TRACE_BIN_AT 288   /* behind the text in its place: what that means */
#define TRACE_BIN_LEAST 27 /* version, a trace id and a span id, with a byte before each id */
#define TRACE_BIN_SIZE 29  /* and the options with theirs */

struct base64_walk {
	struct http1_head *head;
	u32 at;
	u32 end;
	u32 to;
	u32 bits; /* that no byte has been made of, and how many */
	u32 have;
	u32 bad;
};

INLINE u32 base64_digit(u8 byte)
{
	if (byte >= 'A' && byte <= 'Z')
		return byte - 'A';
	if (byte >= 'a' && byte <= 'z')
		return byte - 'a' + 26;
	if (byte >= '0' && byte <= '9')
		return byte - '0' + 52;
	return byte == '+' ? 62 : byte == '/' ? 63 : 64;
}

static long base64_step(u32 index, void *context)
{
	struct base64_walk *walk = context;
	u32 digit;

	if (walk->at >= walk->end)
		return 1;
	digit = base64_digit(http1_byte(walk->head, walk->at));
	walk->at++;
	walk->bad |= digit & 64;
	walk->bits = walk->bits << 6 | (digit & 63);
	walk->have += 6;
	if (walk->have >= 8) {
		walk->have -= 8;
		walk->head->bytes[masked(walk->to, HTTP1_HEAD_MASK)] = walk->bits >> walk->have;
		walk->to++;
	}
	return !!walk->bad;
}

/* The bytes that the value stands for, in walk->to: how many, 0 where it is none. */
INLINE u32 trace_bin_bytes(struct base64_walk *walk, const struct http1_value *value)
{
	walk->at = value->at;
	walk->end = value->at + value->length;
	if (value->length <= 1)
		return 0;
	if (!http1_byte(walk->head, walk->at)) {
		walk->to = walk->at + 1;
		return value->length - 1;
	}
	walk->to = value->at + TRACE_BIN_AT;
	if (http1_byte(walk->head, walk->end - 1) == '=')
		walk->end--;
	/* No text that a context is written as is longer. */
	if (value->length > TRACE_BIN_SIZE * 4 / 3 + 2)
		return 0;
	LOOP(TRACE_BIN_SIZE * 4 / 3 + 2, base64_step, walk);
	if (walk->bad || walk->have >= 6)
		return 0;
	walk->to = value->at + TRACE_BIN_AT;
	return (walk->end - value->at) * 6 / 8;
}

/* The head's value of HTTP1_TRACE_BIN; whether it is one. */
PROVEN_ONCE int read_trace_bin(struct http1_head *head, struct trace_context *context)
{
	struct base64_walk walk = { .head = head };
	const u8 *bytes;
	u32 size;

	if (!head || !context)
		return 0;
	context->valid = 0;
	size = trace_bin_bytes(&walk, &head->contexts[HTTP1_TRACE_BIN]);
	if (size != TRACE_BIN_LEAST && size != TRACE_BIN_SIZE)
		return 0;
	bytes = head->bytes + masked(walk.to, HTTP1_HEAD_MASK);
	/* The version, and which field follows: 0 the trace id, 1 the span id, 2 options. */
	if (bytes[0] || bytes[1] || bytes[18] != 1 || (size == TRACE_BIN_SIZE && bytes[27] != 2))
		return 0;
	__builtin_memset(context, 0, sizeof(*context));
	copy_words(context->trace_id, bytes + 2, 16);
	copy_words(context->span_id, bytes + 19, 8);
	if (!(load64(context->trace_id) | load64(context->trace_id + 8)) ||
	    !load64(context->span_id))
		return 0;
	context->flags = size == TRACE_BIN_SIZE ? bytes[28] & TRACE_FLAG_SAMPLED : 0;
	context->link = WAGGLE_LINK_TRACE_BIN;
	context->valid = 1;
	return 1;
}

#endif
