/* SPDX-License-Identifier: Apache-2.0
 *
 * Trace context: ids, and `traceparent` as W3C Trace Context has it
 * (https://www.w3.org/TR/trace-context/). A value that breaks a rule is rejected
 * whole. Pure but for the random numbers.
 */
#ifndef WAGGLE_CONTEXT_H
#define WAGGLE_CONTEXT_H

#include "portable.h"

#define TRACEPARENT_LENGTH 55

struct trace_context {
	u8 trace_id[16];
	u8 span_id[8];
	u8 flags;
	u8 valid;
	u8 reserved[6];
};

/* Two lower-case hexadecimal digits to a byte, or -1. */
INLINE int hex_pair(const u8 *at)
{
	u8 high = at[0], low = at[1];
	int value;

	if (high >= '0' && high <= '9')
		value = (high - '0') << 4;
	else if (high >= 'a' && high <= 'f')
		value = (high - 'a' + 10) << 4;
	else
		return -1;
	if (low >= '0' && low <= '9')
		return value | (low - '0');
	if (low >= 'a' && low <= 'f')
		return value | (low - 'a' + 10);
	return -1;
}

/* `text` must have 56 readable bytes, `length` is what the header really has. */
INLINE int parse_traceparent(const u8 *text, u32 length, struct trace_context *context)
{
	int version, flags, bad = 0;
	u8 any_trace = 0, any_span = 0;

	context->valid = 0;
	if (length < TRACEPARENT_LENGTH || text[2] != '-' || text[35] != '-' || text[52] != '-')
		return 0;
	version = hex_pair(text);
	flags = hex_pair(text + 53);
	if (version < 0 || version == 0xff || flags < 0)
		return 0;
	/* A later version may append fields, after another dash. */
	if (length > TRACEPARENT_LENGTH && (version == 0 || text[55] != '-'))
		return 0;
#pragma unroll
	for (int i = 0; i < 16; i++) {
		int value = hex_pair(text + 3 + 2 * i);

		bad |= value;
		context->trace_id[i] = value;
		any_trace |= value;
	}
#pragma unroll
	for (int i = 0; i < 8; i++) {
		int value = hex_pair(text + 36 + 2 * i);

		bad |= value;
		context->span_id[i] = value;
		any_span |= value;
	}
	if (bad < 0 || !any_trace || !any_span)
		return 0;
	context->flags = flags;
	context->valid = 1;
	return 1;
}

INLINE int same_trace(const u8 *a, const u8 *b)
{
	return load64(a) == load64(b) && load64(a + 8) == load64(b + 8);
}

INLINE void copy_trace_id(u8 *to, const u8 *from)
{
	__builtin_memcpy(to, from, 16);
}

INLINE void copy_span_id(u8 *to, const u8 *from)
{
	__builtin_memcpy(to, from, 8);
}

#ifndef WAGGLE_USER_MODE
INLINE void random_word(u8 *to)
{
	u32 word = bpf_get_prandom_u32();

	if (!word) /* an id of zeros is invalid */
		word = 1;
	__builtin_memcpy(to, &word, sizeof(word));
}

INLINE void new_span_id(u8 *id)
{
	u32 word = bpf_get_prandom_u32();

	__builtin_memcpy(id, &word, sizeof(word));
	random_word(id + 4);
}

INLINE void new_trace_id(u8 *id)
{
	new_span_id(id);
	new_span_id(id + 8);
}
#endif

#endif
