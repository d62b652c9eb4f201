/* SPDX-License-Identifier: Apache-2.0
 *
 * What bpf/inject_stream.h does to one message of a client's, without the kernel: the message is
 * looked at as the machine of the connection stands, led up to the end of the frame that may
 * grow, and written anew. The rest is led through as the hooks behind would see it.
 */
struct growing {
	u32 verdict; /* enum http2_verdict, of the first frame that begins a stream */
	u32 stream;  /* that it begins */
	u32 later;   /* frames that begin streams and were not looked at */
	u32 has_context; /* what http2_may_have_context() says of the last block */
	u32 list_size;
	u32 length; /* of what leaves */
	u32 count;  /* of the streams below */
	u32 streams[PLACE_STREAMS]; /* that were given a field */
};

/* The next frame that begins a stream, of what `out` holds. Returns 0 when there is none. */
static int talk_grow_once(struct http2_talk *talk, u8 *out, u32 *passed, const u8 *ids,
			  struct growing *told)
{
	struct http2_place place = {
		.base = (u64)(unsigned long)out,
		.length = told->length,
		.highest = talk->highest,
		.room = TRACEPARENT_FIELD,
		.passed = *passed,
	};
	u8 field[TRACEPARENT_FIELD + 9];
	u32 payload;

	find_place(&place, &talk->side);
	told->later = place.later;
	if (!*passed) {
		told->verdict = place.verdict;
		told->stream = place.stream;
	}
	if (place.verdict != PLACE_FOUND)
		return 0;
	http2_talk_feed(talk, out + *passed, place.end - *passed);
	*passed = place.end;
	told->has_context = http2_may_have_context(&talk->side, &talk->block.walk);
	told->list_size = http2_list_size(&talk->side, &talk->block.walk);
	if (told->has_context)
		return 1;
	put_traceparent_field(field, ids, ids + 16, ids[24]);
	payload = place.payload + TRACEPARENT_FIELD;
	memmove(out + place.end + TRACEPARENT_FIELD, out + place.end, told->length - place.end);
	memcpy(out + place.end, field, TRACEPARENT_FIELD);
	out[place.frame] = payload >> 16;
	out[place.frame + 1] = payload >> 8;
	out[place.frame + 2] = payload;
	told->length += TRACEPARENT_FIELD;
	told->streams[told->count++] = place.stream;
	talk->position += TRACEPARENT_FIELD;
	*passed += TRACEPARENT_FIELD;
	return 1;
}

/* `out` has room for the message and PLACE_STREAMS fields. */
void talk_grow(struct http2_talk *talk, const u8 *bytes, u32 length, const u8 *ids, u8 *out,
	       struct growing *told)
{
	u32 passed = 0;

	memset(told, 0, sizeof(*told));
	told->length = length;
	memcpy(out, bytes, length);
	for (u32 i = 0; i < PLACE_STREAMS; i++)
		if (!talk_grow_once(talk, out, &passed, ids, told))
			break;
	http2_talk_feed(talk, out + passed, told->length - passed);
}
