/* SPDX-License-Identifier: Apache-2.0
 *
 * A head of HTTP/1 in memory, whole, and all that is found in it. Pure: no kernel, no maps.
 *
 * What a span needs is copied out as it is found: the target first, then the kept fields as
 * { tag, 0, length, bytes }. Nothing else of a head ever reaches a map or a ring.
 */
#ifndef WAGGLE_HTTP1_HEAD_H
#define WAGGLE_HTTP1_HEAD_H

#include "portable.h"
#include "text_words.h"
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

#endif
