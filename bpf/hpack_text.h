/* SPDX-License-Identifier: Apache-2.0
 *
 * The values of fields that hold a trace context, out of a header block and into a head of
 * HTTP/1, where propagators.h reads them: each name has a place of its own there. Pure.
 */
#ifndef WAGGLE_HPACK_TEXT_H
#define WAGGLE_HPACK_TEXT_H

#include "hpack_block.h"
#include "propagators.h"

#define TEXT_ROOM 512 /* a power of two: one value, CONTEXT_VALUE_MAX and what lies before it */

/* By the first eight bits of a Huffman code: its length and the character; 0 where it is longer. */
#define CODE(bits, code, c) \
	[(code) << (8 - (bits))...((code) << (8 - (bits))) + (1 << (8 - (bits))) - 1] = (bits) << 8 | (c)
const u16 hpack_codes[256] = {
	CODE(5, 0x0, '0'),  CODE(5, 0x1, '1'),	CODE(5, 0x2, '2'),  CODE(5, 0x3, 'a'),
	CODE(5, 0x4, 'c'),  CODE(5, 0x5, 'e'),	CODE(5, 0x6, 'i'),  CODE(5, 0x7, 'o'),
	CODE(5, 0x8, 's'),  CODE(5, 0x9, 't'),	CODE(6, 0x14, ' '), CODE(6, 0x15, '%'),
	CODE(6, 0x16, '-'), CODE(6, 0x17, '.'), CODE(6, 0x18, '/'), CODE(6, 0x19, '3'),
	CODE(6, 0x1a, '4'), CODE(6, 0x1b, '5'), CODE(6, 0x1c, '6'), CODE(6, 0x1d, '7'),
	CODE(6, 0x1e, '8'), CODE(6, 0x1f, '9'), CODE(6, 0x20, '='), CODE(6, 0x21, 'A'),
	CODE(6, 0x22, '_'), CODE(6, 0x23, 'b'), CODE(6, 0x24, 'd'), CODE(6, 0x25, 'f'),
	CODE(6, 0x26, 'g'), CODE(6, 0x27, 'h'), CODE(6, 0x28, 'l'), CODE(6, 0x29, 'm'),
	CODE(6, 0x2a, 'n'), CODE(6, 0x2b, 'p'), CODE(6, 0x2c, 'r'), CODE(6, 0x2d, 'u'),
	CODE(7, 0x5c, ':'), CODE(7, 0x5d, 'B'), CODE(7, 0x5e, 'C'), CODE(7, 0x5f, 'D'),
	CODE(7, 0x60, 'E'), CODE(7, 0x61, 'F'), CODE(7, 0x62, 'G'), CODE(7, 0x63, 'H'),
	CODE(7, 0x64, 'I'), CODE(7, 0x65, 'J'), CODE(7, 0x66, 'K'), CODE(7, 0x67, 'L'),
	CODE(7, 0x68, 'M'), CODE(7, 0x69, 'N'), CODE(7, 0x6a, 'O'), CODE(7, 0x6b, 'P'),
	CODE(7, 0x6c, 'Q'), CODE(7, 0x6d, 'R'), CODE(7, 0x6e, 'S'), CODE(7, 0x6f, 'T'),
	CODE(7, 0x70, 'U'), CODE(7, 0x71, 'V'), CODE(7, 0x72, 'W'), CODE(7, 0x73, 'Y'),
	CODE(7, 0x74, 'j'), CODE(7, 0x75, 'k'), CODE(7, 0x76, 'q'), CODE(7, 0x77, 'v'),
	CODE(7, 0x78, 'w'), CODE(7, 0x79, 'x'), CODE(7, 0x7a, 'y'), CODE(7, 0x7b, 'z'),
	CODE(8, 0xf8, '&'), CODE(8, 0xf9, '*'), CODE(8, 0xfa, ','), CODE(8, 0xfb, ';'),
	CODE(8, 0xfc, 'X'), CODE(8, 0xfd, 'Z'),
};

/* Behind eight ones, by the next three bits. Others than these no value has. */
const u16 hpack_long_codes[8] = {
	10 << 8 | '?', 10 << 8 | '?', 0, 11 << 8 | '+', 11 << 8 | '|',
};

struct text_walk {
	const struct hpack_block *block;
	struct http1_head *head;
	u32 from; /* in the block */
	u32 bit;  /* of the text, so far */
	u32 bits;
	u32 to; /* in the head's buffer */
	u32 length;
	u32 bad;
};

/* One character; the text ends where less than a byte is left, of ones. */
static long text_step(u32 index, void *context)
{
	struct text_walk *walk = context;
	u32 at = walk->from + (walk->bit >> 3), left = walk->bits - walk->bit, next, code;

	next = __builtin_bswap32((u32)hpack_word(walk->block, at)) << (walk->bit & 7);
	if (left < 8 && next >> 24 >> (8 - left) == (1U << (left & 7)) - 1)
		return 1;
	code = hpack_codes[next >> 24];
	if (next >> 24 == 0xff)
		code = hpack_long_codes[next >> 21 & 7];
	walk->bad |= !code || code >> 8 > left;
	walk->head->bytes[masked(walk->to + walk->length, HTTP1_HEAD_MASK)] = code;
	walk->length++;
	walk->bit += code >> 8;
	return !!walk->bad;
}

/* Where the value of a context lies in the head. What lies before is the caller's. */
INLINE u32 text_place(u32 which)
{
	return TEXT_ROOM * ((which & (HTTP1_CONTEXTS - 1)) + 1);
}

/* Writes the value of a field to `to`; its length, more than CONTEXT_VALUE_MAX where it is too
 * long or no text that a context has. */
PROVEN_ONCE u32 hpack_text(const struct hpack_block *block, struct http1_head *head,
			   const struct hpack_noted *noted, u32 to)
{
	struct text_walk walk = { .block = block, .head = head, .to = to };

	if (!block || !head || !noted)
		return 0;
	head->bytes[masked(to, HTTP1_HEAD_MASK)] = 0; /* of what is none nothing is read */
	if (noted->length > CONTEXT_VALUE_MAX)
		return noted->length;
	if (!noted->coded) {
		copy_bytes(head->bytes + masked(to, HTTP1_HEAD_MASK),
			   masked(noted->length, TEXT_ROOM - 1),
			   block->bytes + masked(noted->at, HPACK_BLOCK_MASK));
		return noted->length;
	}
	walk.from = noted->at;
	walk.bits = 8 * noted->length;
	LOOP(CONTEXT_VALUE_MAX + 1, text_step, &walk);
	if (!walk.bad)
		return walk.length;
	head->bytes[masked(to, HTTP1_HEAD_MASK)] = 0;
	return CONTEXT_VALUE_MAX + 1;
}

/* A value of this length lies in its place. Of several none is to be taken. */
INLINE void found_text(struct http1_head *head, u32 which, u32 length)
{
	struct http1_value *value = &head->contexts[masked(which, HTTP1_CONTEXTS - 1)];

	value->length = value->at ? 0 : length;
	value->at = text_place(which);
	head->has_contexts = 1;
}

INLINE void no_texts(struct http1_head *head)
{
	clear_words((u8 *)head->contexts, sizeof(head->contexts));
	head->has_contexts = 0;
}

#endif
