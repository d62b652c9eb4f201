/* SPDX-License-Identifier: Apache-2.0
 *
 * Values of a header block that the kernel reads itself, `:status` and `traceparent`: of the
 * Huffman code (RFC 7541, appendix B) digits and dashes are enough. Pure.
 */
#ifndef WAGGLE_HPACK_VALUES_H
#define WAGGLE_HPACK_VALUES_H

#include "hpack_block.h"

/* By the first six bits of a code: the character, and 0x80 if it has six; else five. */
#define C5(c) c, c
#define C6(c) (0x80 | c)
#define HPACK_DIGITS                                                                      \
	{                                                                                 \
		C5('0'), C5('1'), C5('2'), C5('a'), C5('c'), C5('e'), [22] = C6('-'),     \
		[25] = C6('3'), C6('4'), C6('5'), C6('6'), C6('7'), C6('8'), C6('9'),     \
		[35] = C6('b'), C6('d'), C6('f'),                                         \
	}
const u8 hpack_digits[64] = HPACK_DIGITS;

/* The next character of a Huffman-coded string of digits and dashes. `*bit` counts in
 * bits from `from`; `*bad` becomes nonzero where there is another character. */
INLINE u8 hpack_digit(const struct hpack_block *block, u32 from, u32 *bit, u32 *bad)
{
	u32 at = from + (*bit >> 3);
	u32 pair = (u32)hpack_byte(block, at) << 8 | hpack_byte(block, at + 1);
	u8 found = hpack_digits[masked(pair >> (10 - (*bit & 7)), 63)];

	*bit += 5 + (found >> 7);
	*bad |= ((u32)found - 1) >> 31;
	return found & 0x7f;
}

/* What `:status` says, from a string of three digits; 0 if it is none. */
INLINE u16 hpack_status(const struct hpack_block *block)
{
	const struct hpack_walk *walk = &block->walk;
	u32 from = walk->string, bit = 0, bad = 0, a, b, c;

	if (walk->coded) {
		a = hpack_digit(block, from, &bit, &bad) - '0';
		b = hpack_digit(block, from, &bit, &bad) - '0';
		c = hpack_digit(block, from, &bit, &bad) - '0';
		bad |= (bit + 7) / 8 != walk->length;
	} else {
		a = hpack_byte(block, from) - '0';
		b = hpack_byte(block, from + 1) - '0';
		c = hpack_byte(block, from + 2) - '0';
		bad |= walk->length != 3;
	}
	bad |= a < 1 || a > 9 || b > 9 || c > 9;
	return bad ? 0 : a * 100 + b * 10 + c;
}

const u16 hpack_statuses[8] = { 200, 204, 206, 304, 400, 404, 500, 0 };

/* The context of a block that was walked, into block->context. Of several none is to be
 * taken (Trace Context 3.2). Returns whether there was anything to read. */
PROVEN_ONCE int hpack_traceparent(struct hpack_block *block)
{
	struct hpack_walk *walk;
	u32 bit = 0, bad = 0, bits;

	if (!block)
		return 0;
	walk = &block->walk;
	block->context.valid = 0;
	if (walk->bad || walk->traceparents != 1 || !walk->traceparent)
		return walk->traceparents > 1;
	if (!walk->traceparent_coded) {
		parse_traceparent(block->bytes + masked(walk->traceparent, HPACK_BLOCK_MASK),
				  walk->traceparent_len, &block->context);
		return 1;
	}
	bits = walk->traceparent_len * 8;
#pragma clang loop unroll(disable)
	for (int i = 0; i < TRACEPARENT_LENGTH; i++)
		block->text[i] = hpack_digit(block, walk->traceparent, &bit, &bad);
	/* Less than a byte may follow, of ones. */
	if (!bad && bit <= bits && bits - bit < 8)
		parse_traceparent(block->text, TRACEPARENT_LENGTH, &block->context);
	return 1;
}

#endif
