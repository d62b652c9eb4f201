/* SPDX-License-Identifier: Apache-2.0
 *
 * The tracestate of the request that a call is part of goes on with its traceparent, as it
 * came (W3C Trace Context 3.5). Where what it says of sampling does not hold any more, where
 * it came in several fields, or holds what no field should, it is left out, which it may be.
 */
#ifndef WAGGLE_INJECT_STATE_H
#define WAGGLE_INJECT_STATE_H

#include "exchange.h"
#include "sampling.h"
#include "traceparent_text.h"

/* The lines, or the field, and where they go. */
struct header_text {
	u64 from; /* an address, as a number */
	u32 length;
	u32 at;
	u32 stream;  /* HTTP/2: that the frame begins, else 0 */
	u32 frame;   /* where that frame begins, */
	u32 payload; /* how long its payload is, */
	u32 later;   /* and how many frames behind it begin streams as well */
	u32 passed;  /* bytes of the message that are done with, and of these */
	u32 added;   /* what we wrote */
	u8 bytes[2 * HEADER_TEXT_ROOM];
};

#define KEPT_FIELDS 32 /* of one head that are looked at */

struct kept_walk {
	u64 head;
	u32 at;
	u32 end;
	u32 value; /* where it begins */
	u32 length;
	u32 count;
	u32 reserved;
};

static long kept_step(u32 index, void *context)
{
	struct kept_walk *walk = context;
	u32 word = 0;

	if (walk->at + 4 > walk->end ||
	    bpf_probe_read_kernel(&word, 4, (void *)(walk->head + walk->at)))
		return 1;
	if ((word & 0xff) == WAGGLE_KEPT_TRACESTATE) {
		walk->value = walk->at + 4;
		walk->length = word >> 16;
		walk->count++;
	}
	walk->at += 4 + (word >> 16);
	return 0;
}

/* Whether TRACESTATE_MAX bytes may stand in a header line. */
INLINE int is_printable(const u8 *bytes)
{
	u64 bad = 0;

	for (u32 at = 0; at < TRACESTATE_MAX; at += 8) {
		u64 word = load64(bytes + at), rubout = word ^ (ONES * 0x7f);

		bad |= word | ((word - ONES * ' ') & ~word) | ((rubout - ONES) & ~rubout);
	}
	return !(bad & HIGHS);
}

/* Where the value goes, behind what is written of its name. */
INLINE u8 *put_state_name(struct header_text *text, u32 length, u32 framed)
{
	u8 *to = text->bytes;

	if (framed) {
		to += TRACEPARENT_FIELD;
		return to + masked(put_tracestate_prefix(to, length), TRACESTATE_PREFIX_MAX - 1);
	}
	to += TRACEPARENT_LINE;
	store64(to, TEXT_WORD("tracestate: ", 0));
	store64(to + 8, TEXT_WORD("tracestate: ", 1));
	return to + TRACESTATE_NAME;
}

/* The value, and what ends a line. Returns how much was written, 0 where it may not stand there. */
INLINE u32 put_state_value(u8 *to, u64 from, u32 length)
{
	for (u32 at = 0; at < TRACESTATE_MAX; at += 8)
		store64(to + at, ONES * ' ');
	if (bpf_probe_read_kernel(to, masked(length, HEADER_TEXT_ROOM - 1), (void *)from) ||
	    !is_printable(to))
		return 0;
	to += masked(length, HEADER_TEXT_ROOM - 1);
	to[0] = '\r';
	to[1] = '\n';
	return length;
}

/* Behind the traceparent, if there is one: a line, or a field (framed). owner, facts: of the
 * call's own exchange. Returns how many bytes it takes, 0: there is none. */
PROVEN_ONCE u32 put_tracestate(struct header_text *text, struct owner *owner,
			       struct waggle_facts *facts, u32 framed)
{
	struct connection *server;
	struct found_exchange parent;
	struct kept_walk walk = {};
	u64 sock;
	u8 *to;

	if (!text || !owner || !facts)
		return 0;
	sock = owner->sock;
	server = sock ? bpf_map_lookup_elem(&connections, &sock) : 0;
	if (!server || is_http2(server) ||
	    !find_exchange(server, sock, owner->index, &parent) ||
	    !same_trace(parent.facts->trace_id, facts->trace_id) ||
	    parent.facts->sampling & SAMPLING_BIT(EDIT))
		return 0;
	*(volatile u64 *)&text->from = (u64)parent.facts;
	walk.head = *(volatile u64 *)&text->from + WAGGLE_FACTS_SIZE;
	walk.at = parent.facts->target_len;
	walk.end = walk.at + parent.facts->kept_len;
	LOOP(KEPT_FIELDS, kept_step, &walk);
	if (walk.count != 1 || !walk.length || walk.length > TRACESTATE_MAX)
		return 0;
	to = put_state_name(text, walk.length, framed);
	if (!put_state_value(to, walk.head + walk.value, walk.length))
		return 0;
	if (!framed)
		return TRACESTATE_NAME + walk.length + 2;
	return to - (text->bytes + TRACEPARENT_FIELD) + walk.length;
}

#endif
