/* SPDX-License-Identifier: Apache-2.0
 *
 * HTTP/1 heads (RFC 9112): where one ends, and what in it matters to a span or
 * to the framing of what follows. Pure: no kernel, no maps.
 *
 * A head lies whole in http1_head.bytes. It is walked eight bytes
 * at a time in search of line feeds; each line is looked at once. What a span
 * needs is copied out as it is found: the target first, then the kept fields as
 * { tag, 0, length, bytes }. Nothing else of a head ever reaches a map or a ring.
 */
#ifndef WAGGLE_HTTP1_H
#define WAGGLE_HTTP1_H

#include "portable.h"
#include "waggle.h"

#define HTTP1_HEAD_MAX 16384 /* a power of two; longer heads are given up */
#define HTTP1_HEAD_MASK (HTTP1_HEAD_MAX - 1)
#define HTTP1_BUFFER (HTTP1_HEAD_MAX + 4096) /* room to look and copy past the mask */
#define HTTP1_OUT_MASK 4095
#define HTTP1_OUT_MAX WAGGLE_LARGE_HEAD_SIZE
#define HTTP1_OUT_BUFFER 6144
#define HTTP1_PREFIX (WAGGLE_FACTS_SIZE + 16)
#define HTTP1_TARGET_MAX 2047
#define HTTP1_KEPT_MAX 1023
#define HTTP1_METHOD_MAX 24

enum http1_verdict {
	HTTP1_INCOMPLETE = 0,
	HTTP1_COMPLETE = 1,
	HTTP1_NOT_HTTP = 2, /* the first line is no request or status line */
	HTTP1_BAD = 3,	    /* framing that contradicts itself */
};

/* Headers that hold a trace context, beside traceparent: propagators.h. */
enum http1_context {
	HTTP1_B3 = 0,
	HTTP1_B3_TRACE = 1,
	HTTP1_B3_SPAN = 2,
	HTTP1_B3_SAMPLED = 3,
	HTTP1_B3_FLAGS = 4,
	HTTP1_JAEGER = 5,
	HTTP1_XRAY = 6,
	HTTP1_CONTEXTS = 7,
};

/* Where a value lies; at 0: nowhere. */
struct http1_value {
	u16 at;
	u16 length;
};

/* A head and all that was found in it. Lives in a map, not on the stack, so that the
 * verifier does not follow what is in it. */
struct http1_head {
	u64 content_length;
	u64 number; /* being read */
	u32 fill;     /* bytes in the buffer */
	u32 at;	      /* where the walk is */
	u32 line;     /* where the current line began */
	u32 length;   /* of the head, once complete */
	u32 out_used; /* target and kept fields */
	u32 target_len;
	u32 target_full_len;
	u32 traceparent; /* offset of the value, 0: none */
	u32 traceparent_len;
	u32 tracestate; /* the same of the first one */
	u32 tracestate_len;
	struct http1_value contexts[HTTP1_CONTEXTS + 1]; /* by enum http1_context */
	u16 status;
	u8 verdict;
	u8 want_request; /* 1: a request line must come first, 0: a status line */
	u8 lines;	 /* 0 until the first line was read, then 1 */
	u8 method;
	u8 version;
	u8 has_length;
	u8 chunked;
	u8 other_encoding; /* a transfer coding that is not chunked comes last */
	u8 kept_cut;
	u8 digits;
	u8 bad_number;
	u8 odd; /* framing that somebody else may read differently */
	u8 has_contexts; /* some of `contexts` are there */
	u8 keep_baggage;
	u16 first_line; /* bytes of the first line, with its end, and of what was before it */
	u16 fields;	/* lines after it, so far */
	u32 suitable_rules; /* the caller's: of a stream of HTTP/2 (stream_paths.h) */
	u32 names_host; /* it says for whom it is */
	u8 prefix[HTTP1_PREFIX]; /* the caller's: what a record has before the target */
	u8 out[HTTP1_OUT_BUFFER]; /* target and kept fields */
	u8 bytes[HTTP1_BUFFER];
};

/* What a loop is given: a pointer that the verifier knows. */
struct http1_walk {
	struct http1_head *head;
	u32 at;
	u32 end;
};

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

INLINE u8 http1_byte(const struct http1_head *head, u32 at)
{
	return head->bytes[masked(at, HTTP1_HEAD_MASK)];
}

INLINE u64 http1_word(const struct http1_head *head, u32 at)
{
	return load64(head->bytes + masked(at, HTTP1_HEAD_MASK));
}

/* Most of what is kept is short: words copied in line are cheaper than a helper's call.
 * What they bring along from behind the value is overwritten or cleared (clear_behind). */
#define HTTP1_SHORT 32

INLINE void http1_copy(struct http1_head *head, u32 to, u32 from, u32 length, u32 mask)
{
	u8 *out = head->out + masked(to, HTTP1_OUT_MASK);
	const u8 *bytes = head->bytes + masked(from, HTTP1_HEAD_MASK);

	if (length <= HTTP1_SHORT)
		copy_words(out, bytes, HTTP1_SHORT);
	else
		copy_bytes(out, masked(length, mask), bytes);
}

/* Copies bytes [from, from + length) behind what is already kept. */
INLINE void http1_keep(struct http1_head *head, u8 tag, u32 from, u32 length)
{
	u32 used = head->out_used;

	if (length > HTTP1_KEPT_MAX) {
		length = HTTP1_KEPT_MAX;
		head->kept_cut = 1;
	}
	if (used + 4 + length > HTTP1_OUT_MAX) {
		head->kept_cut = 1;
		return;
	}
	store32(head->out + masked(used, HTTP1_OUT_MASK), tag | length << 16);
	http1_copy(head, used + 4, from, length, HTTP1_KEPT_MAX);
	head->out_used = used + 4 + length;
}

INLINE u8 http1_known_method(u64 word)
{
	if (BEGINS(word, "GET "))
		return WAGGLE_METHOD_GET;
	if (BEGINS(word, "POST "))
		return WAGGLE_METHOD_POST;
	if (BEGINS(word, "HEAD "))
		return WAGGLE_METHOD_HEAD;
	if (BEGINS(word, "PUT "))
		return WAGGLE_METHOD_PUT;
	if (BEGINS(word, "DELETE "))
		return WAGGLE_METHOD_DELETE;
	if (BEGINS(word, "PATCH "))
		return WAGGLE_METHOD_PATCH;
	if (BEGINS(word, "OPTIONS "))
		return WAGGLE_METHOD_OPTIONS;
	if (BEGINS(word, "CONNECT "))
		return WAGGLE_METHOD_CONNECT;
	if (BEGINS(word, "TRACE "))
		return WAGGLE_METHOD_TRACE;
	return WAGGLE_METHOD_OTHER;
}

/* Length of the method token at `at`, 0 if there is none that ends in a space. */
INLINE u32 http1_method_length(const struct http1_head *head, u32 at)
{
	u32 length = find_byte(http1_word(head, at), ' ');

	if (length == 8)
		length += find_byte(http1_word(head, at + 8), ' ');
	if (length == 16)
		length += find_byte(http1_word(head, at + 16), ' ');
	return length < HTTP1_METHOD_MAX ? length : 0;
}

/* HTTP/1.0 -> 10, HTTP/1.1 -> 11, anything else -> 0. */
INLINE u8 http1_version(u64 word)
{
	if (word == TEXT_WORD("HTTP/1.1", 0))
		return 11;
	return word == TEXT_WORD("HTTP/1.0", 0) ? 10 : 0;
}

INLINE void http1_request_line(struct http1_head *head, u32 line, u32 length)
{
	u32 method_len = http1_method_length(head, line);
	u32 target = line + method_len + 1, target_len, kept;

	head->verdict = HTTP1_NOT_HTTP;
	/* method SP target SP HTTP/1.x: at least one byte of each */
	if (!method_len || length < method_len + 1 + 1 + 9)
		return;
	head->version = http1_version(http1_word(head, line + length - 8));
	if (!head->version || http1_byte(head, line + length - 9) != ' ')
		return;
	target_len = length - 9 - method_len - 1;
	kept = target_len > HTTP1_TARGET_MAX ? HTTP1_TARGET_MAX : target_len;
	http1_copy(head, 0, target, kept, HTTP1_TARGET_MAX);
	head->target_len = kept;
	head->target_full_len = target_len > 65535 ? 65535 : target_len;
	head->out_used = kept;
	head->method = http1_known_method(http1_word(head, line));
	if (head->method == WAGGLE_METHOD_OTHER)
		http1_keep(head, WAGGLE_KEPT_METHOD, line, method_len);
	head->verdict = HTTP1_INCOMPLETE;
}

INLINE void http1_status_line(struct http1_head *head, u32 line, u32 length)
{
	u64 code = http1_word(head, line + 8); /* " 200 OK.." */
	u32 a = ((code >> 8) & 0xff) - '0', b = ((code >> 16) & 0xff) - '0',
	    c = ((code >> 24) & 0xff) - '0';

	head->verdict = HTTP1_NOT_HTTP;
	head->version = http1_version(http1_word(head, line));
	if (length < 12 || !head->version || (code & 0xff) != ' ')
		return;
	if (length > 12 && ((code >> 32) & 0xff) != ' ')
		return;
	if (a < 1 || a > 9 || b > 9 || c > 9)
		return;
	head->status = a * 100 + b * 10 + c;
	head->verdict = HTTP1_INCOMPLETE;
}

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

/* The high bit of each byte that is neither a space nor a tab, exact in every byte. */
INLINE u64 http1_text_bytes(u64 word)
{
	u64 no_space = word ^ (ONES * ' '), no_tab = word ^ (ONES * '\t');

	return (((no_space & LOWS) + LOWS) | no_space) & (((no_tab & LOWS) + LOWS) | no_tab) &
	       HIGHS;
}

/* The same for any number of blanks up to sixteen. */
PROVEN_ONCE u32 http1_blanks(const struct http1_head *head, u32 at, u32 end)
{
	if (!head)
		return end;
	at += bytes_below(http1_text_bytes(http1_word(head, at)));
	at += bytes_below(http1_text_bytes(http1_word(head, at)));
	return at < end ? at : end;
}

/* Likewise. The colon is no blank, so this stays in the line. */
PROVEN_ONCE u32 http1_blanks_before(const struct http1_head *head, u32 end)
{
	if (!head)
		return end;
	end -= bytes_below(__builtin_bswap64(http1_text_bytes(http1_word(head, end - 8))));
	end -= bytes_below(__builtin_bswap64(http1_text_bytes(http1_word(head, end - 8))));
	return end;
}

/* Where the value of a field begins, leading blanks skipped: there is nearly always one. */
INLINE u32 http1_value(const struct http1_head *head, u32 at, u32 end)
{
	u64 word = http1_word(head, at);

	if (at + 1 < end && (word & 0xff) == ' ' && ((word >> 8) & 0xff) > ' ')
		return at + 1;
	return http1_blanks(head, at, end);
}

/* Where it ends, trailing blanks left out: there are nearly never any. */
INLINE u32 http1_value_end(const struct http1_head *head, u32 end)
{
	return http1_byte(head, end - 1) > ' ' ? end : http1_blanks_before(head, end);
}

INLINE void http1_framing_field(struct http1_head *head, u64 w0, u64 w1, u64 w2, u32 line, u32 end)
{
	end = http1_value_end(head, end);
	if (STARTS(w0, w1, w2, "content-length:"))
		http1_content_length(head, http1_value(head, line + 15, end), end);
	else if (STARTS(w0, w1, w2, "transfer-encoding:"))
		http1_transfer_encoding(head, http1_value(head, line + 18, end), end);
	else if (STARTS(w0, w1, w2, "content-length") || STARTS(w0, w1, w2, "transfer-encoding"))
		head->odd = 1; /* a blank before the colon */
}

INLINE u32 http1_kept_field(u64 w0, u64 w1, u64 w2, u8 *tag)
{
	if (STARTS(w0, w1, w2, "host:")) {
		*tag = WAGGLE_KEPT_HOST;
		return 5;
	}
	if (STARTS(w0, w1, w2, "user-agent:")) {
		*tag = WAGGLE_KEPT_USER_AGENT;
		return 11;
	}
	if (STARTS(w0, w1, w2, "x-forwarded-for:")) {
		*tag = WAGGLE_KEPT_X_FORWARDED_FOR;
		return 16;
	}
	if (STARTS(w0, w1, w2, "x-forwarded-proto:")) {
		*tag = WAGGLE_KEPT_X_FORWARDED_PROTO;
		return 18;
	}
	if (STARTS(w0, w1, w2, "forwarded:")) {
		*tag = WAGGLE_KEPT_FORWARDED;
		return 10;
	}
	if (STARTS(w0, w1, w2, "tracestate:")) {
		*tag = WAGGLE_KEPT_TRACESTATE;
		return 11;
	}
	if (STARTS(w0, w1, w2, "baggage:")) {
		*tag = WAGGLE_KEPT_BAGGAGE;
		return 8;
	}
	return 0;
}

/* The length of a name with its colon, 0 where it is none of a trace context. */
INLINE u32 http1_context_field(u64 w0, u64 w1, u64 w2, u32 *which)
{
	if (STARTS(w0, w1, w2, "b3:")) {
		*which = HTTP1_B3;
		return 3;
	}
	if (STARTS(w0, w1, w2, "uber-trace-id:")) {
		*which = HTTP1_JAEGER;
		return 14;
	}
	if (STARTS(w0, w1, w2, "x-amzn-trace-id:")) {
		*which = HTTP1_XRAY;
		return 16;
	}
	if (!BEGINS(w0, "x-b3-"))
		return 0;
	if (STARTS(w0, w1, w2, "x-b3-traceid:")) {
		*which = HTTP1_B3_TRACE;
		return 13;
	}
	if (STARTS(w0, w1, w2, "x-b3-spanid:")) {
		*which = HTTP1_B3_SPAN;
		return 12;
	}
	if (STARTS(w0, w1, w2, "x-b3-sampled:")) {
		*which = HTTP1_B3_SAMPLED;
		return 13;
	}
	if (STARTS(w0, w1, w2, "x-b3-flags:")) {
		*which = HTTP1_B3_FLAGS;
		return 11;
	}
	return 0;
}

/* Notes where it lies. Of several none is to be taken, as for traceparent. */
INLINE void http1_note_context(struct http1_head *head, u64 w0, u64 w1, u64 w2, u32 line, u32 end)
{
	u32 which = HTTP1_CONTEXTS, name = http1_context_field(w0, w1, w2, &which), value;
	struct http1_value *context = &head->contexts[masked(which, 7)];

	if (!name)
		return;
	end = http1_value_end(head, end);
	value = http1_value(head, line + name, end);
	context->length = context->at ? 0 : end - value;
	context->at = value;
	head->has_contexts = 1;
}

INLINE void http1_request_field(struct http1_head *head, u64 w0, u64 w1, u64 w2, u32 line, u32 end)
{
	u8 tag = WAGGLE_KEPT_END;
	u32 name = http1_kept_field(w0, w1, w2, &tag), value;

	if (!name && STARTS(w0, w1, w2, "traceparent:"))
		name = 12;
	if (!name) {
		http1_note_context(head, w0, w1, w2, line, end);
		return;
	}
	if (tag == WAGGLE_KEPT_BAGGAGE && !head->keep_baggage)
		return;
	end = http1_value_end(head, end);
	value = http1_value(head, line + name, end);
	if (tag != WAGGLE_KEPT_END) {
		if (end > value)
			http1_keep(head, tag, value, end - value);
		head->names_host |= tag == WAGGLE_KEPT_HOST;
		if (tag == WAGGLE_KEPT_TRACESTATE && !head->tracestate) {
			head->tracestate = value;
			head->tracestate_len = end - value;
		}
		return;
	}
	/* Trace Context 3.2: of several none is to be taken. */
	head->traceparent_len = head->traceparent ? 0 : end - value;
	head->traceparent = value;
}

INLINE void http1_field(struct http1_head *head, u32 line, u32 end)
{
	u64 raw = http1_word(head, line), w0 = raw | LOWER, w1, w2;
	u8 first = w0 & 0xff;

	/* The field before goes on in this line, or this is none. */
	head->odd |= (u8)raw <= ' ';
	/* Most fields begin with another letter; three loads are saved for them. */
	if (first != 'c' && first != 't' && first != 'h' && first != 'u' && first != 'x' &&
	    first != 'f' && first != 'b')
		return;
	w1 = http1_word(head, line + 8) | LOWER;
	w2 = http1_word(head, line + 16) | LOWER;
	if (first == 'c' || (first == 't' && BEGINS(w0, "transfer")))
		http1_framing_field(head, w0, w1, w2, line, end);
	else if (head->want_request)
		http1_request_field(head, w0, w1, w2, line, end);
}

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

static long http1_step(u32 index, void *context)
{
	struct http1_head *head = ((struct http1_walk *)context)->head;
	u32 at = head->at, line = head->line, found;

	if (at >= head->fill)
		return 1;
	found = http1_line_feed(head, at);
	at += found;
	if (at >= head->fill) {
		head->at = head->fill;
		return 1;
	}
	head->at = at;
	if (found == HTTP1_STRIDE)
		return 0;
	head->at = at + 1;
	head->line = at + 1;
	http1_line(head, line, at);
	return head->verdict != HTTP1_INCOMPLETE;
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
