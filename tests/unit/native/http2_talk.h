/* SPDX-License-Identifier: Apache-2.0
 *
 * One direction of HTTP/2 through the kernel's machine, and a log of what it found: what
 * the kernel makes streams of, written down instead. Bytes of data are added up, so that
 * the same conversation gives the same log however it is cut.
 */
#define TALK_STREAMS 512
#define TALK_TEXTS 512 /* entries that hold a context, by their numbers */

/* What the kernel keeps in a map. */
static struct table_text *talk_texts;

INLINE struct table_text *known_text(const struct table_text_key *key)
{
	struct table_text *kept = &talk_texts[key->entry % TALK_TEXTS];

	return kept->reserved[0] ? kept : 0;
}

INLINE void know_text(const struct table_text_key *key, const struct table_text *text)
{
	struct table_text *kept = &talk_texts[key->entry % TALK_TEXTS];

	memcpy(kept, text, sizeof(*kept));
	kept->reserved[0] = 1;
}

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
	u32 link;      /* of a valid one: enum waggle_link */
	u32 undecided;
	u32 trace_flags;
	u32 reserved;
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
	struct table_text texts[TALK_TEXTS];
	struct http1_head head;
	u8 found[1 << 17];
};

/* The context that the block names: traceparent before all others, as the kernel has it where
 * nobody says otherwise. */
static void talk_context(struct http2_talk *talk, struct trace_context *context)
{
	struct noted_walk walk = { .block = &talk->block, .head = &talk->head };
	struct http1_head *head = &talk->head;
	struct hex_walk hex;

	hpack_traceparent(&talk->block);
	*context = talk->block.context;
	talk_texts = talk->texts;
	if (!talk->block.walk.noted || talk->block.walk.bad)
		return;
	read_noted(&walk);
	if (context->valid || (head->contexts[HTTP1_B3].at && read_b3_single(head, context, &hex)) ||
	    (head->contexts[HTTP1_B3_TRACE].at && read_b3_multi(head, context, &hex)) ||
	    (head->contexts[HTTP1_JAEGER].at && read_jaeger(head, context, &hex)) ||
	    (head->contexts[HTTP1_XRAY].at && read_xray(head, context, &hex)))
		return;
	if (head->contexts[HTTP1_TRACE_BIN].at)
		read_trace_bin(head, context);
}

static void http2_talk_log(struct http2_talk *talk, int event)
{
	struct http2_side *side = &talk->side;
	struct hpack_walk *walk = &talk->block.walk;
	struct talk_entry entry = { .event = event, .stream = side->stream };
	u32 at = side->stream % TALK_STREAMS;
	struct trace_context context = {};

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
			   side->others, side->known, side->old_table);
		talk_context(talk, &context);
		entry.insertions = walk->insertions;
		entry.status = walk->status;
		entry.first = walk->first;
		entry.bad = walk->bad || event == HTTP2_LOST_BLOCK;
		entry.changes = walk->changes;
		entry.valid = context.valid;
		entry.length = side->block_fill - side->block_begin;
		if (entry.valid) {
			entry.link = context.link;
			entry.undecided = context.undecided;
			entry.trace_flags = context.flags;
			memcpy(entry.trace_id, context.trace_id, 16);
			memcpy(entry.span_id, context.span_id, 8);
		}
		http2_learn(side, walk);
		if (side->block_stream > talk->highest)
			talk->highest = side->block_stream;
		side->known = walk->known;
		side->names = walk->names;
		side->others[0] = walk->others[0];
		side->others[1] = walk->others[1];
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
