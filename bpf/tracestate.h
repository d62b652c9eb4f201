/* SPDX-License-Identifier: Apache-2.0
 *
 * What `tracestate` says about sampling: the sub-keys `th`, the rejection threshold, and
 * `rv`, explicit randomness, of the member `ot` (OpenTelemetry's "TraceState Handling" and
 * "Probability Sampling"). Everything else in it is nobody's concern here. Pure.
 */
#ifndef WAGGLE_TRACESTATE_H
#define WAGGLE_TRACESTATE_H

#include "context.h"
#include "http1.h"

#define TRACESTATE_LOOKED_AT 512 /* what must be passed on at least, by Trace Context 3.3.1.5 */
#define HEX_DIGITS_MOST 14

enum ot_state {
	OT_MEMBER = 0, /* a member of the list begins; blanks may come first */
	OT_O = 1,
	OT_EQUALS = 2,
	OT_KEY = 3, /* a sub-key of `ot` begins */
	OT_TH = 4,
	OT_RV = 5,
	OT_COLON = 6,
	OT_NUMBER = 7,
	OT_SKIP_KEY = 8,
	OT_SKIP_MEMBER = 9,
};

struct ot_walk {
	const struct http1_head *head;
	u64 number;    /* of the sub-key at hand */
	u64 threshold; /* of 56 bits, what was found */
	u64 random;
	u32 at;
	u32 end;
	u32 digits;
	u8 state; /* enum ot_state */
	u8 key;	  /* 't' or 'r' */
	u8 found_ot;
	u8 found_th;
	u8 found_rv;
	u8 reserved[7];
};

/* The value of a hexadecimal digit, 16 for anything else. */
INLINE u32 hex_digit(u8 byte)
{
	u8 letter = byte | 0x20;

	if (byte >= '0' && byte <= '9')
		return byte - '0';
	return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10u : 16;
}

/* A sub-key of `ot` is over: was it one of ours, and well formed? Of two the first counts. */
INLINE void ot_key_over(struct ot_walk *walk)
{
	u32 digits = walk->digits;

	if (walk->state != OT_NUMBER || !digits || digits > HEX_DIGITS_MOST)
		return;
	if (walk->key == 't' && !walk->found_th) {
		/* Trailing zeros are left out. */
		walk->threshold = walk->number << (4 * (HEX_DIGITS_MOST - digits) & 63);
		walk->found_th = 1;
	} else if (walk->key == 'r' && !walk->found_rv && digits == HEX_DIGITS_MOST) {
		walk->random = walk->number;
		walk->found_rv = 1;
	}
}

INLINE u8 ot_next(struct ot_walk *walk, u8 byte)
{
	switch (walk->state) {
	case OT_MEMBER:
		if (byte == ' ' || byte == '\t')
			return OT_MEMBER;
		return byte == 'o' ? OT_O : OT_SKIP_MEMBER;
	case OT_O:
		return byte == 't' ? OT_EQUALS : OT_SKIP_MEMBER;
	case OT_EQUALS:
		if (byte != '=')
			return OT_SKIP_MEMBER;
		walk->found_ot = 1;
		return OT_KEY;
	case OT_KEY:
		walk->key = byte;
		walk->number = 0;
		walk->digits = 0;
		return byte == 't' ? OT_TH : byte == 'r' ? OT_RV : OT_SKIP_KEY;
	case OT_TH:
		return byte == 'h' ? OT_COLON : OT_SKIP_KEY;
	case OT_RV:
		return byte == 'v' ? OT_COLON : OT_SKIP_KEY;
	case OT_COLON:
		return byte == ':' ? OT_NUMBER : OT_SKIP_KEY;
	case OT_NUMBER:
		if (hex_digit(byte) > 15)
			return OT_SKIP_KEY;
		walk->number = walk->number << 4 | hex_digit(byte);
		walk->digits++;
		return OT_NUMBER;
	default:
		return walk->state;
	}
}

static long ot_step(u32 index, void *context)
{
	struct ot_walk *walk = context;
	u8 byte;

	if (walk->at >= walk->end) {
		ot_key_over(walk);
		return 1;
	}
	byte = http1_byte(walk->head, walk->at);
	walk->at++;
	if (byte == ',' || byte == ';') {
		ot_key_over(walk);
		if (byte == ',')
			walk->state = OT_MEMBER;
		else if (walk->state != OT_SKIP_MEMBER)
			walk->state = walk->state >= OT_KEY ? OT_KEY : OT_SKIP_MEMBER;
		return byte == ',' && walk->found_ot; /* a key comes once */
	}
	walk->state = ot_next(walk, byte);
	return 0;
}

/* Reads the field at `head->tracestate`. */
INLINE void read_ot(const struct http1_head *head, struct ot_walk *walk)
{
	walk->head = head;
	walk->at = head->tracestate;
	walk->end = walk->at + head->tracestate_len;
	LOOP(TRACESTATE_LOOKED_AT + 1, ot_step, walk);
}

/* The bits of a trace id that are as random as they come (Trace Context, level 2). */
INLINE u64 randomness_of(const u8 *trace_id)
{
	return __builtin_bswap64(load64(trace_id + 8)) & WAGGLE_THRESHOLD_MASK;
}

/* What follows from it for whoever takes part in the trace. A threshold that contradicts
 * the sampled flag counts for nothing. Where the randomness is not the trace id's, nobody
 * further down could tell, so no threshold is passed on. */
PROVEN_ONCE int read_tracestate(const struct http1_head *head, struct trace_context *context)
{
	struct ot_walk walk = {};
	u64 said;
	int kept;

	if (!head || !context)
		return 0;
	read_ot(head, &walk);
	if (!walk.found_ot)
		return 0;
	context->random = walk.found_rv ? walk.random | WAGGLE_EXPLICIT_RANDOMNESS : 0;
	said = WAGGLE_SAMPLING_SAID;
	if (walk.found_th) {
		kept = (walk.found_rv ? walk.random : randomness_of(context->trace_id)) >=
		       walk.threshold;
		if (kept != (context->flags & 1))
			said = WAGGLE_SAMPLING_EDIT;
		else if (!walk.found_rv && kept)
			said |= WAGGLE_SAMPLING_KNOWN;
	}
	context->sampling = said << WAGGLE_SAMPLING_SHIFT;
	if (said & WAGGLE_SAMPLING_KNOWN)
		context->sampling |= walk.threshold;
	return 0;
}

#endif
