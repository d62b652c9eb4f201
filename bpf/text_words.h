/* SPDX-License-Identifier: Apache-2.0
 *
 * Text compared and searched eight bytes at a time. Pure: no kernel, no maps.
 */
#ifndef WAGGLE_TEXT_WORDS_H
#define WAGGLE_TEXT_WORDS_H

#include "portable.h"

#define ONES 0x0101010101010101ULL
#define HIGHS 0x8080808080808080ULL
#define LOWS 0x7f7f7f7f7f7f7f7fULL
#define LOWER 0x2020202020202020ULL

/* How many whole bytes lie below the lowest of some high bits; 8 if there are none. */
INLINE u32 bytes_below(u64 high_bits)
{
	u64 lowest = (high_bits & -high_bits) >> 7;

	return (((lowest - 1) & ONES) * ONES) >> 56;
}

/* Index of the first byte of `word` equal to `byte`, 8 if none. */
INLINE u32 find_byte(u64 word, u8 byte)
{
	u64 x = word ^ (ONES * byte);

	/* The lowest bit that this sets is exact; those above it may not be. */
	return bytes_below((x - ONES) & ~x & HIGHS);
}

/* The first `n` bytes (at most 8) of a string literal as a little-endian word. */
#define TEXT_BYTE(s, i) ((i) < sizeof(s) - 1 ? (u64)(u8)(s)[(i)] << (8 * ((i) & 7)) : 0)
#define TEXT_WORD(s, w)                                                              \
	(TEXT_BYTE(s, 8 * (w) + 0) | TEXT_BYTE(s, 8 * (w) + 1) | TEXT_BYTE(s, 8 * (w) + 2) | \
	 TEXT_BYTE(s, 8 * (w) + 3) | TEXT_BYTE(s, 8 * (w) + 4) | TEXT_BYTE(s, 8 * (w) + 5) | \
	 TEXT_BYTE(s, 8 * (w) + 6) | TEXT_BYTE(s, 8 * (w) + 7))
#define TEXT_MASK(s, w)                                                       \
	(sizeof(s) - 1 >= 8 * (w) + 8 ? ~0ULL :                               \
	 sizeof(s) - 1 <= 8 * (w) ? 0 :                                       \
	 (1ULL << (8 * ((sizeof(s) - 1) & 7))) - 1)
/* Whether the lower-cased line, in three words, begins with a literal of at most 24 bytes. */
#define STARTS(w0, w1, w2, s)                                       \
	(((w0) & TEXT_MASK(s, 0)) == (TEXT_WORD(s, 0)) &&           \
	 ((w1) & TEXT_MASK(s, 1)) == (TEXT_WORD(s, 1)) &&           \
	 ((w2) & TEXT_MASK(s, 2)) == (TEXT_WORD(s, 2)))
#define BEGINS(word, s) (((word) & TEXT_MASK(s, 0)) == TEXT_WORD(s, 0))

#endif
