/* SPDX-License-Identifier: Apache-2.0
 *
 * The names of the fields that hold a trace context beside `traceparent` (propagators.h), as
 * HPACK spells them: plain, always in lower case, or in the Huffman code. Pure.
 */
#ifndef WAGGLE_CONTEXT_NAMES_H
#define WAGGLE_CONTEXT_NAMES_H

#include "http1.h"

#define CONTEXT_NAME_PLAIN 0xfc04ULL /* bit n: a name has n bytes */
#define CONTEXT_NAME_CODED 0xf04ULL  /* the same in the Huffman code */

/* Most names are none of these, and told by no more than their length. */
INLINE u32 may_name_context(u32 length, u32 coded)
{
	u64 lengths = coded ? CONTEXT_NAME_CODED : CONTEXT_NAME_PLAIN;

	return length < 16 && lengths >> (length & 63) & 1;
}

/* The first `length` bytes of what lies in two words, compared with those of a name. */
#define NAMES(size, word, word_behind)                                                     \
	(length == (size) && first == (word) && second == (word_behind))

INLINE u32 plain_context_name(u64 first, u64 second, u32 length)
{
	if (NAMES(2, 0x3362ULL, 0))
		return HTTP1_B3;
	if (NAMES(12, TEXT_WORD("x-b3-traceid", 0), 0x64696563ULL))
		return HTTP1_B3_TRACE;
	if (NAMES(11, TEXT_WORD("x-b3-spanid", 0), 0x64696eULL))
		return HTTP1_B3_SPAN;
	if (NAMES(12, TEXT_WORD("x-b3-sampled", 0), 0x64656c70ULL))
		return HTTP1_B3_SAMPLED;
	if (NAMES(10, TEXT_WORD("x-b3-flags", 0), 0x7367ULL))
		return HTTP1_B3_FLAGS;
	if (NAMES(13, TEXT_WORD("uber-trace-id", 0), 0x64692d6563ULL))
		return HTTP1_JAEGER;
	if (NAMES(15, TEXT_WORD("x-amzn-trace-id", 0), 0x64692d65636172ULL))
		return HTTP1_XRAY;
	if (NAMES(14, TEXT_WORD("grpc-trace-bin", 0), 0x6e69622d6563ULL))
		return HTTP1_TRACE_BIN;
	return HTTP1_CONTEXTS;
}

INLINE u32 coded_context_name(u64 first, u64 second, u32 length)
{
	if (NAMES(2, 0x9f8dULL, 0))
		return HTTP1_B3;
	if (NAMES(9, 0x9a42069bac6cb4f2ULL, 0x4f))
		return HTTP1_B3_TRACE;
	if (NAMES(8, 0xa451c78aac6cb4f2ULL, 0))
		return HTTP1_B3_SPAN;
	if (NAMES(9, 0x055dd381ac6cb4f2ULL, 0x93))
		return HTTP1_B3_SAMPLED;
	if (NAMES(8, 0x1f99032dad6cb4f2ULL, 0))
		return HTTP1_B3_FLAGS;
	if (NAMES(9, 0xb10a196cb2d832b6ULL, 0xa4))
		return HTTP1_JAEGER;
	if (NAMES(11, 0x64b0c952f7e9b0f2ULL, 0x93c62aULL))
		return HTTP1_XRAY;
	if (NAMES(10, 0xb40a196cb2c8ca9aULL, 0xab66))
		return HTTP1_TRACE_BIN;
	return HTTP1_CONTEXTS;
}

/* Whose name the string is that begins with two words: enum http1_context, HTTP1_CONTEXTS for
 * none. Its length is one that may_name_context() lets pass. */
PROVEN_ONCE u32 context_name(u64 first, u64 second, u32 length, u32 coded)
{
	u32 behind = length > 8 ? length - 8 : 0;

	if (length < 8)
		first &= (1ULL << (8 * length & 63)) - 1;
	second &= (1ULL << (8 * behind & 63)) - 1;
	return coded ? coded_context_name(first, second, length) :
		       plain_context_name(first, second, length);
}

#endif
