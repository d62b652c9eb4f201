/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether the path that a header block names is one that a sampling rule asks for, without
 * decoding it. RFC 7541 has one Huffman code for each text, and a text that begins with
 * another has a code that begins with that one's: so user space gives the code of a rule's
 * path as well, and bits are compared. Pure.
 */
#ifndef WAGGLE_HPACK_PATH_H
#define WAGGLE_HPACK_PATH_H

#include "hpack_block.h"

/* A `?` in the Huffman code: what may follow a path that is whole. */
#define QUERY_CODE 0x3fc
#define QUERY_BITS 10

/* Whether, of a coded text of `length` bytes, nothing follows its first `bits` bits but
 * padding, or a query does. */
INLINE u32 hpack_path_ends(const struct hpack_block *block, u32 at, u32 length, u32 bits)
{
	u32 left = 8 * length - bits, word, ones;

	word = __builtin_bswap32((u32)hpack_word(block, at + (bits >> 3))) << (bits & 7);
	if (left < 8) {
		ones = (1U << (left & 7)) - 1;
		return (word >> (32 - 8)) >> (8 - left) == ones;
	}
	return left >= QUERY_BITS && word >> (32 - QUERY_BITS) == QUERY_CODE;
}

/* Whether the string in the block at `at` is a path that the rule is for. */
INLINE u32 hpack_path_suits(const struct waggle_sample_rule *rule, const struct hpack_block *block,
			    u32 at, u32 length, u32 coded)
{
	const u8 *wanted = coded ? rule->coded : rule->path;
	const u8 *mask = coded ? rule->coded_mask : rule->mask;
	u32 bits = coded ? rule->coded_bits : 8 * rule->path_len;
	u64 differs = 0;

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < WAGGLE_SAMPLE_PATH; i += 8)
		differs |= (hpack_word(block, at + i) ^ load64(wanted + i)) & load64(mask + i);
	if (differs || 8 * length < bits)
		return 0;
	if (!rule->exact)
		return 1;
	if (coded)
		return hpack_path_ends(block, at, length, bits);
	return length == rule->path_len || hpack_byte(block, at + rule->path_len) == '?';
}

#endif
