/* SPDX-License-Identifier: Apache-2.0
 *
 * Where in what is about to be sent a HEADERS frame begins a stream, whole and such that a
 * field may be put behind its others. Looks ahead and changes nothing: http2.h passes the
 * same bytes once it is known that they leave. Pure.
 */
#ifndef WAGGLE_HTTP2_PLACE_H
#define WAGGLE_HTTP2_PLACE_H

#include "http2.h"

#define PLACE_FRAMES 128      /* of one message that are looked at */
#define PLACE_STREAMS 16     /* of one message that may be given a field */
#define PLACE_BLOCK_MAX 8192 /* what servers take of a head, as for HTTP/1 */

enum http2_verdict {
	PLACE_NONE = 0, /* no frame that begins a stream, or none that could be found */
	PLACE_FOUND = 1,
	PLACE_CUT = 2,	  /* the message ends before the block does */
	PLACE_PADDED = 3, /* what follows the block is no field */
	PLACE_LARGE = 4,
};

struct http2_place {
	u64 base; /* address of the message's bytes, as a number */
	u32 length;
	u32 at;	     /* of the next frame */
	u32 highest; /* stream that was begun so far */
	u32 verdict; /* enum http2_verdict */
	u32 stream;  /* that the frame begins */
	u32 frame;   /* where it begins, */
	u32 end;     /* and ends */
	u32 payload; /* between its header and there */
	u32 later;   /* frames that begin streams behind it */
	u32 room;    /* how much longer the payload is to be */
	u32 passed;  /* bytes of the message that the machine has passed */
	u32 reserved;
};

INLINE const u8 *place_bytes(const struct http2_place *place, u32 at)
{
	return (const u8 *)(unsigned long)(place->base + at);
}

INLINE int is_preface(const struct http2_place *place)
{
	u8 bytes[HTTP2_PREFACE_LENGTH] = {};
	u64 differs = 0;

	if (place->length < HTTP2_PREFACE_LENGTH)
		return 0;
	copy_bytes(bytes, HTTP2_PREFACE_LENGTH, place_bytes(place, 0));
#pragma clang loop unroll(full)
	for (u32 i = 0; i < HTTP2_PREFACE_LENGTH; i++)
		differs |= bytes[i] ^ http2_preface[i];
	return !differs;
}

/* Where the first frame begins that the side has seen nothing of; beyond the message where that
 * cannot be told. */
INLINE u32 place_first(const struct http2_side *side, const struct http2_place *place)
{
	switch (side->state) {
	case HTTP2_AT_PREFACE:
		return !side->fill && !place->passed && is_preface(place) ? HTTP2_PREFACE_LENGTH : ~0U;
	case HTTP2_AT_HEADER:
		return side->fill || side->block_stream ? ~0U : 0;
	case HTTP2_IN_DATA:
		return side->remain + side->padding;
	case HTTP2_IN_BLOCK:
		return side->flags & HTTP2_FLAG_END_HEADERS ? side->remain : ~0U;
	case HTTP2_AT_PAD:
	case HTTP2_IN_CONTROL:
	case HTTP2_SKIPPING:
		return side->remain;
	}
	return ~0U;
}

/* The first frame that begins a stream. */
INLINE void judge_place(struct http2_place *place, u32 length, u8 flags, u32 stream)
{
	place->stream = stream;
	place->frame = place->at;
	place->payload = length;
	place->end = place->at + HTTP2_HEADER + length;
	if (place->end > place->length || !(flags & HTTP2_FLAG_END_HEADERS))
		place->verdict = PLACE_CUT;
	else if (flags & HTTP2_FLAG_PADDED)
		place->verdict = PLACE_PADDED;
	else if (length + place->room > PLACE_BLOCK_MAX)
		place->verdict = PLACE_LARGE;
	else
		place->verdict = PLACE_FOUND;
}

static long place_step(u32 index, void *context)
{
	struct http2_place *place = context;
	u32 length, stream;
	u64 word = 0;
	u8 type, flags, last = 0;

	if ((u64)place->at + HTTP2_HEADER > place->length)
		return 1;
	copy_bytes((u8 *)&word, 8, place_bytes(place, place->at));
	copy_bytes(&last, 1, place_bytes(place, place->at + 8));
	length = __builtin_bswap32((u32)word) >> 8;
	type = word >> 24;
	flags = word >> 32;
	stream = (__builtin_bswap32(word >> 32) << 8 | last) & 0x7fffffff;
	if (type == HTTP2_CONTINUATION || type == HTTP2_PUSH_PROMISE ||
	    !http2_makes_sense(length, type, flags, stream))
		return 1;
	if (type == HTTP2_HEADERS && stream > place->highest) {
		if (!(stream & 1))
			return 1;
		place->highest = stream;
		if (place->verdict == PLACE_NONE)
			judge_place(place, length, flags, stream);
		else
			place->later++;
	}
	place->at += HTTP2_HEADER + length;
	/* What follows is of the same block. */
	return type == HTTP2_HEADERS && !(flags & HTTP2_FLAG_END_HEADERS);
}

/* base, length, highest, room and passed are given. */
INLINE void find_place(struct http2_place *place, const struct http2_side *side)
{
	u32 first = place_first(side, place);

	place->at = first == ~0U ? first : place->passed + first;
	/* A block whose end is in this message: what follows of its stream are trailers. */
	if (side->block_stream > place->highest)
		place->highest = side->block_stream;
	LOOP(PLACE_FRAMES, place_step, place);
}

#endif
