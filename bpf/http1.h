/* SPDX-License-Identifier: Apache-2.0
 *
 * HTTP/1 heads (RFC 9112): where one ends, and what in it matters to a span or
 * to the framing of what follows. Pure: no kernel, no maps.
 *
 * A head is walked in search of line feeds, 32 bytes at a time; each line is looked at once.
 */
#ifndef WAGGLE_HTTP1_H
#define WAGGLE_HTTP1_H

#include "http1_fields.h"
#include "http1_first_line.h"
#include "http1_head.h"

/* One line, without its line feed. An empty one ends the head. */
INLINE void http1_line(struct http1_head *head, u32 line, u32 end)
{
	if (end > line && http1_byte(head, end - 1) == '\r')
		end--;
	else
		head->odd = 1; /* a line feed alone */
	head->fields++;
	if (end == line) {
		/* RFC 9112 2.2: empty lines before a request are ignored. */
		if (head->lines) {
			head->verdict = HTTP1_COMPLETE;
			head->length = head->at;
		} else {
			head->odd = 1;
		}
		return;
	}
	if (head->lines) {
		http1_field(head, line, end);
		return;
	}
	head->lines = 1;
	head->fields = 0;
	head->first_line = head->at;
	if (head->want_request)
		http1_request_line(head, line, end - line);
	else
		http1_status_line(head, line, end - line);
}

#define HTTP1_STRIDE 32 /* bytes in which the end of a line is looked for at once */

/* How far the next line feed is from `at`, HTTP1_STRIDE if it is not that near. Without a
 * branch: where lines end is nothing a processor could foresee. */
INLINE u32 http1_line_feed(const struct http1_head *head, u32 at)
{
	const u8 *bytes = head->bytes + masked(at, HTTP1_HEAD_MASK);
	u32 a = find_byte(load64(bytes), '\n'), b = find_byte(load64(bytes + 8), '\n');
	u32 c = find_byte(load64(bytes + 16), '\n'), d = find_byte(load64(bytes + 24), '\n');

	/* Each is 8 when there is none, and only then does the next one count. */
	return a + (a >> 3) * (b + (b >> 3) * (c + (c >> 3) * d));
}

#define HTTP1_STRIDES (2 * HTTP1_STRIDE)

INLINE u32 http1_line_end(const struct http1_head *head, u32 at)
{
	u32 found = http1_line_feed(head, at);

	return found < HTTP1_STRIDE ? found : found + http1_line_feed(head, at + HTTP1_STRIDE);
}

/* Passes over a field that cannot matter, as http1_line() would: a step of its own costs more. */
INLINE void http1_pass_field(struct http1_head *head)
{
	u32 line = head->line, end;
	u8 first = http1_byte(head, line);

	if (first <= ' ' || http1_may_matter(first | 0x20))
		return;
	end = http1_line_end(head, line);
	if (end == HTTP1_STRIDES || line + end >= head->fill)
		return;
	head->odd |= http1_byte(head, line + end - 1) != '\r';
	head->fields++;
	head->at = head->line = line + end + 1;
}

static long http1_step(u32 index, void *context)
{
	struct http1_head *head = ((struct http1_walk *)context)->head;
	u32 at = head->at, line = head->line, found;

	if (at >= head->fill)
		return 1;
	found = http1_line_end(head, at);
	at += found;
	if (at >= head->fill) {
		head->at = head->fill;
		return 1;
	}
	head->at = at;
	if (found == HTTP1_STRIDES)
		return 0;
	head->at = at + 1;
	head->line = at + 1;
	http1_line(head, line, at);
	if (head->verdict != HTTP1_INCOMPLETE)
		return 1;
	if (head->lines)
		http1_pass_field(head);
	return 0;
}

/* Clears what a walk finds out. */
INLINE void http1_start(struct http1_head *head, u32 fill, u8 want_request)
{
	__builtin_memset(head, 0, __builtin_offsetof(struct http1_head, prefix));
	head->fill = fill;
	head->want_request = want_request;
}

/* Walks the buffer from its beginning. `verdict` and the facts are in `head`. */
PROVEN_ONCE int http1_parse(struct http1_head *head)
{
	struct http1_walk walk = { .head = head };

	if (head)
		LOOP(HTTP1_HEAD_MAX, http1_step, &walk);
	return 0;
}

/* Whether bytes that may be cut short could begin a request: an upper-case word,
 * perhaps with dashes, of at least three letters. Without a branch. */
INLINE int http1_may_begin_request(u64 word, u32 length)
{
	u32 space = find_byte(word, ' ');
	u32 checked = length < 8 ? length : 8;
	u64 text = word & LOWS, dash, mask, good;

	if (space < checked) {
		if (space < 3)
			return 0;
		checked = space;
	}
	dash = text ^ (ONES * '-');
	good = (text + ONES * (0x80 - 'A')) & ~(text + ONES * (0x7f - 'Z'));
	good |= ~((dash + LOWS) | dash);
	mask = checked >= 8 ? HIGHS : HIGHS & ((1ULL << (8 * (checked & 7))) - 1);
	return (good & ~word & mask) == mask;
}

#endif
