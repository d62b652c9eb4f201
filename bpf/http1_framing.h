/* SPDX-License-Identifier: Apache-2.0
 *
 * What a head says of the body behind it: its length, or chunks (RFC 9112, 6).
 */
#ifndef WAGGLE_HTTP1_FRAMING_H
#define WAGGLE_HTTP1_FRAMING_H

#include "http1_head.h"

static long http1_digit(u32 index, void *context)
{
	struct http1_walk *walk = context;
	struct http1_head *head = walk->head;
	u32 digit;

	if (walk->at >= walk->end)
		return 1;
	digit = http1_byte(head, walk->at) - '0';
	walk->at++;
	head->digits++;
	head->number = head->number * 10 + digit;
	head->bad_number |= digit > 9 || index >= 18;
	return 0;
}

#define ZEROS (ONES * '0')

/* One to eight digits at once: put at the word's end behind leading zeros, then pairs of
 * digits become numbers, pairs of those, and so on. Returns 0 when it is anything else. */
INLINE int http1_short_number(struct http1_head *head, u32 at, u32 end)
{
	u32 length = end - at, shift = 64 - 8 * length;
	u64 word;

	if (length - 1 > 7)
		return 0;
	word = http1_word(head, at) << (shift & 63) | (ZEROS & ((1ULL << (shift & 63)) - 1));
	if ((word & (ONES * 0xf0)) != ZEROS || ((word + ONES * 6) & (ONES * 0xf0)) != ZEROS)
		return 0;
	word = (word & (ONES * 0x0f)) * (10 << 8 | 1) >> 8;
	word = (word & 0x00ff00ff00ff00ffULL) * (100 << 16 | 1) >> 16;
	head->number = (word & 0x0000ffff0000ffffULL) * (10000ULL << 32 | 1) >> 32;
	return 1;
}

/* Returns 0 where there is no number, or one too large for us. */
INLINE int http1_number(struct http1_head *head, u32 at, u32 end)
{
	struct http1_walk walk = { .head = head, .at = at, .end = end };

	if (http1_short_number(head, at, end))
		return 1;
	head->number = 0;
	head->digits = 0;
	head->bad_number = 0;
	LOOP(20, http1_digit, &walk);
	return head->digits && !head->bad_number;
}

INLINE void http1_content_length(struct http1_head *head, u32 at, u32 end)
{
	/* Two lengths that differ, or no number: nobody can know where the body ends. */
	if (!http1_number(head, at, end) ||
	    (head->has_length && head->content_length != head->number)) {
		head->verdict = HTTP1_BAD;
		return;
	}
	head->has_length = 1;
	head->content_length = head->number;
}

INLINE void http1_transfer_encoding(struct http1_head *head, u32 at, u32 end)
{
	u64 last;
	u8 before;

	head->chunked = 0;
	head->other_encoding = 1;
	if (end - at < 7 || end - at > HTTP1_HEAD_MAX)
		return;
	last = http1_word(head, end - 8);
	before = last & 0xff;
	/* A coding that only ends in these letters is another one. */
	if (before != ',' && before != ' ' && before != '\t' && before != ':')
		return;
	if (((last >> 8) | (LOWER >> 8)) == TEXT_WORD("chunked", 0)) {
		head->chunked = 1;
		head->other_encoding = 0;
	}
}

#endif
