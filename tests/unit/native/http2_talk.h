/* SPDX-License-Identifier: Apache-2.0
 *
 * One direction of HTTP/2 through the kernel's machine, and a log of what it found: what
 * the kernel makes streams of, written down instead. Bytes of data are added up, so that
 * the same conversation gives the same log however it is cut.
 */
#define TALK_STREAMS 512

/* One thing that was found. */
struct talk_entry {
	u32 event; /* enum http2_event */
	u32 stream;
	u32 position; /* sequence number of the frame's first byte */
	u32 flags;
	u64 control;
	u32 known; /* insertions before the block */
	u32 insertions;
	u32 status;
	u32 first;
	u32 bad;
	u32 changes;
	u32 messages; /* of the stream so far, with DATA_END */
	u32 bytes;
	u32 length; /* of the block, which follows */
	u32 valid;
	u8 trace_id[16];
	u8 span_id[8];
};

struct http2_talk {
	struct http2_side side;
	struct http2_messages messages[TALK_STREAMS];
	u64 bytes[TALK_STREAMS];
	u32 counts[TALK_STREAMS];
	u32 used; /* of found */
	u32 over;
	u32 position;
	u32 highest; /* stream that a block began */
	struct http2_window window;
	struct hpack_block block;
	u8 found[1 << 17];
};

static void http2_talk_log(struct http2_talk *talk, int event)
{
	struct http2_side *side = &talk->side;
	struct hpack_walk *walk = &talk->block.walk;
	struct talk_entry entry = { .event = event, .stream = side->stream };
	u32 at = side->stream % TALK_STREAMS;

	entry.position = side->frame_at;
	entry.flags = side->flags & HTTP2_FLAG_END_STREAM;
	entry.control = side->control;
	entry.messages = talk->counts[at];
	entry.bytes = talk->bytes[at];
	if (event == HTTP2_FOUND_BLOCK || event == HTTP2_LOST_BLOCK) {
		entry.position = side->block_at;
		entry.flags = side->block_flags & HTTP2_FLAG_END_STREAM;
		entry.known = side->known;
		hpack_read(&talk->block, side->block_begin, side->block_fill, side->names,
			   side->known, side->old_table);
		hpack_traceparent(&talk->block);
		entry.insertions = walk->insertions;
		entry.status = walk->status;
		entry.first = walk->first;
		entry.bad = walk->bad || event == HTTP2_LOST_BLOCK;
		entry.changes = walk->changes;
		entry.valid = talk->block.context.valid;
		entry.length = side->block_fill - side->block_begin;
		if (entry.valid) {
			memcpy(entry.trace_id, talk->block.context.trace_id, 16);
			memcpy(entry.span_id, talk->block.context.span_id, 8);
		}
		http2_learn(side, walk);
		if (side->block_stream > talk->highest)
			talk->highest = side->block_stream;
		side->known = walk->known;
		side->names = walk->names;
		side->block_stream = 0;
	}
	if (talk->used + sizeof(entry) + entry.length > sizeof(talk->found))
		return;
	memcpy(talk->found + talk->used, &entry, sizeof(entry));
	memcpy(talk->found + talk->used + sizeof(entry), talk->block.bytes + side->block_begin,
	       entry.length);
	talk->used += sizeof(entry) + entry.length;
	if (event == HTTP2_FOUND_NONSENSE)
		talk->over = 1;
}

/* Takes `available` bytes of data, of which none may be readable; returns how many. */
static u32 http2_talk_data(struct http2_talk *talk, u32 available, u32 readable, int *event)
{
	u32 at = talk->side.stream % TALK_STREAMS;
	u32 taken = http2_take_data(&talk->messages[at], &talk->window, available, readable);

	*event = HTTP2_NOTHING;
	if (!taken)
		return 0;
	talk->counts[at] += talk->messages[at].begun;
	talk->bytes[at] += taken;
	*event = http2_data_passed(&talk->side, taken);
	return taken;
}

/* As the kernel does it: what need not be read is passed, else a window is read. */
static u32 http2_talk_pass(struct http2_talk *talk, u32 left)
{
	struct http2_side *side = &talk->side;
	u32 taken = side->remain < left ? side->remain : left;
	int event;

	if (side->state == HTTP2_IN_DATA) {
		taken = http2_talk_data(talk, taken, 0, &event);
		if (event)
			http2_talk_log(talk, event);
		return taken;
	}
	if (side->state != HTTP2_SKIPPING)
		return 0;
	side->remain -= taken;
	if (!side->remain)
		http2_skip(side);
	return taken;
}

static void http2_talk_step(struct http2_talk *talk, u64 now)
{
	struct http2_window *window = &talk->window;
	int event = http2_step(&talk->side, window, &talk->block, now);

	if (event == HTTP2_FOUND_DATA)
		window->at += http2_talk_data(talk, http2_available(&talk->side, window), 1, &event);
	if (event)
		http2_talk_log(talk, event);
}

/* One call's bytes. */
static void http2_talk_feed(struct http2_talk *talk, const u8 *bytes, u32 length)
{
	struct http2_window *window = &talk->window;
	struct http2_side *side = &talk->side;
	u32 offset = 0;

	window->at = window->fill = 0;
	while (!talk->over) {
		if (window->at < window->fill ||
		    (side->state == HTTP2_IN_BLOCK && !side->remain)) {
			http2_talk_step(talk, 1);
			continue;
		}
		if (offset >= length)
			break;
		u32 passed = http2_talk_pass(talk, length - offset);

		offset += passed;
		if (passed)
			continue;
		window->at = 0;
		window->position = talk->position + offset;
		window->fill = length - offset < HTTP2_WINDOW ? length - offset : HTTP2_WINDOW;
		memcpy(window->bytes, bytes + offset, window->fill);
		offset += window->fill;
	}
	talk->position += length;
}
