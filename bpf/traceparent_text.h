/* SPDX-License-Identifier: Apache-2.0
 *
 * The header lines that are written into requests of others (W3C Trace Context 1, 3.2 and
 * 3.3). Pure: no kernel, no maps.
 */
#ifndef WAGGLE_TRACEPARENT_TEXT_H
#define WAGGLE_TRACEPARENT_TEXT_H

#include "http1.h"

/* traceparent: 00-<32 digits>-<16 digits>-<2 digits>\r\n */
#define TRACEPARENT_LINE 70
#define TRACESTATE_NAME 12 /* "tracestate: ", and as a field as much before its length */
#define TRACESTATE_PREFIX_MAX 16
#define TRACESTATE_MAX 512
#define HEADER_TEXT_MAX (TRACEPARENT_LINE + TRACESTATE_NAME + TRACESTATE_MAX + 2)
#define HEADER_TEXT_ROOM 1024 /* a power of two, and as much again is never reached */

/* Four bytes, the first of them lowest, as eight hexadecimal digits. */
INLINE u64 hex_digits(u32 bytes)
{
	u64 word = bytes, letters;

	word = (word | word << 16) & 0x0000ffff0000ffffULL;
	word = (word | word << 8) & 0x00ff00ff00ff00ffULL;
	word = (word >> 4 & 0x000f000f000f000fULL) | (word & 0x000f000f000f000fULL) << 8;
	letters = (word + ONES * 6) >> 4 & ONES;
	return word + ONES * '0' + letters * ('a' - '0' - 10);
}

/* Two words of an id become four of digits. */
INLINE void put_id(u8 *to, const u8 *id, u32 size)
{
#pragma clang loop unroll(full)
	for (u32 at = 0; at < size; at += 8) {
		u64 word = load64(id + at);

		store64(to + 2 * at, hex_digits((u32)word));
		store64(to + 2 * at + 8, hex_digits(word >> 32));
	}
}

/* TRACEPARENT_LINE bytes; to has room for eight more. */
INLINE void put_traceparent(u8 *to, const u8 *trace_id, const u8 *span_id, u8 flags)
{
	store64(to, TEXT_WORD("traceparent: 00-", 0));
	store64(to + 8, TEXT_WORD("traceparent: 00-", 1));
	put_id(to + 16, trace_id, 16);
	to[48] = '-';
	put_id(to + 49, span_id, 8);
	to[65] = '-';
	store64(to + 66, (hex_digits(flags) & 0xffff) | (u64)'\r' << 16 | (u64)'\n' << 24);
}

#define TRACEPARENT_FIELD 69 /* bytes of the field below */
#define HPACK_STRING_SHORT 127 /* from here on a string's length takes more than a byte (5.1) */

/* The same as a field of HPACK, TRACEPARENT_FIELD bytes (RFC 7541 6.2.2): a literal that
 * becomes no entry, with a name of its own, so that it means the same whatever the tables hold.
 * Neither string is in the Huffman code. to has room for nine bytes more. */
INLINE void put_traceparent_field(u8 *to, const u8 *trace_id, const u8 *span_id, u8 flags)
{
	put_traceparent(to + 1, trace_id, span_id, flags);
	store64(to, TEXT_WORD("\0\013tracep", 0));
	store64(to + 8, TEXT_WORD("arent\06700", 0)); /* 55, then the value */
}

/* What stands before the value of a tracestate as a field of the same kind. Returns its length,
 * at most TRACESTATE_PREFIX_MAX; to has room for as much. length: 1 to TRACESTATE_MAX. */
INLINE u32 put_tracestate_prefix(u8 *to, u32 length)
{
	u32 more = length - HPACK_STRING_SHORT;

	store64(to, TEXT_WORD("\0\012tracestate", 0));
	store64(to + 8, TEXT_WORD("\0\012tracestate", 1));
	if (length < HPACK_STRING_SHORT) {
		to[TRACESTATE_NAME] = length;
		return TRACESTATE_NAME + 1;
	}
	to[TRACESTATE_NAME] = HPACK_STRING_SHORT;
	if (more < 128) {
		to[TRACESTATE_NAME + 1] = more;
		return TRACESTATE_NAME + 2;
	}
	to[TRACESTATE_NAME + 1] = 128 | (more & 127);
	to[TRACESTATE_NAME + 2] = more >> 7;
	return TRACESTATE_NAME + 3;
}

#endif
