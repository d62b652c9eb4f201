/* SPDX-License-Identifier: Apache-2.0
 *
 * The fields of a head that matter: to the framing, to a span, to the trace it is part of.
 *
 * A name is compared as three lower-cased words at once.
 */
#ifndef WAGGLE_HTTP1_FIELDS_H
#define WAGGLE_HTTP1_FIELDS_H

#include "http1_framing.h"
#include "http1_head.h"

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

/* Whether a name that begins with this letter, a small one, may be of those that matter. */
INLINE int http1_may_matter(u8 first)
{
	return first == 'c' || first == 't' || first == 'h' || first == 'u' || first == 'x' ||
	       first == 'f' || first == 'b';
}

INLINE void http1_field(struct http1_head *head, u32 line, u32 end)
{
	u64 raw = http1_word(head, line), w0 = raw | LOWER, w1, w2;
	u8 first = w0 & 0xff;

	/* The field before goes on in this line, or this is none. */
	head->odd |= (u8)raw <= ' ';
	/* Most fields begin with another letter; three loads are saved for them. */
	if (!http1_may_matter(first))
		return;
	w1 = http1_word(head, line + 8) | LOWER;
	w2 = http1_word(head, line + 16) | LOWER;
	if (first == 'c' || (first == 't' && BEGINS(w0, "transfer")))
		http1_framing_field(head, w0, w1, w2, line, end);
	else if (head->want_request)
		http1_request_field(head, w0, w1, w2, line, end);
}

#endif
