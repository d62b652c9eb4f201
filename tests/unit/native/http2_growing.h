/* SPDX-License-Identifier: Apache-2.0
 *
 * What bpf/inject_stream.h does to one message of a client's, without the kernel: the message is
 * looked at as the machine of the connection stands, led up to the end of the frame that may
 * grow, and written anew. The rest is led through as the hooks behind would see it.
 */
struct growing {
	u32 verdict; /* enum http2_verdict */
	u32 stream;
	u32 later;
	u32 has_context; /* what http2_may_have_context() says of the block */
	u32 list_size;
	u32 length; /* of what leaves */
};

/* `out` has room for the message and a field. */
void talk_grow(struct http2_talk *talk, const u8 *bytes, u32 length, const u8 *ids, u8 *out,
	       struct growing *told)
{
	struct http2_place place = {
		.base = (u64)(unsigned long)bytes,
		.length = length,
		.highest = talk->highest,
		.room = TRACEPARENT_FIELD,
	};
	u8 field[TRACEPARENT_FIELD + 9];
	u32 payload;

	find_place(&place, &talk->side);
	told->verdict = place.verdict;
	told->stream = place.stream;
	told->later = place.later;
	told->has_context = told->list_size = 0;
	told->length = length;
	memcpy(out, bytes, length);
	if (place.verdict != PLACE_FOUND) {
		http2_talk_feed(talk, bytes, length);
		return;
	}
	http2_talk_feed(talk, bytes, place.end);
	told->has_context = http2_may_have_context(&talk->side, &talk->block.walk);
	told->list_size = http2_list_size(&talk->side, &talk->block.walk);
	if (!told->has_context) {
		put_traceparent_field(field, ids, ids + 16, ids[24]);
		payload = place.payload + TRACEPARENT_FIELD;
		memmove(out + place.end + TRACEPARENT_FIELD, out + place.end, length - place.end);
		memcpy(out + place.end, field, TRACEPARENT_FIELD);
		out[place.frame] = payload >> 16;
		out[place.frame + 1] = payload >> 8;
		out[place.frame + 2] = payload;
		told->length += TRACEPARENT_FIELD;
		talk->position += TRACEPARENT_FIELD;
	}
	http2_talk_feed(talk, bytes + place.end, length - place.end);
}
