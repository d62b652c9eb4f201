/* SPDX-License-Identifier: Apache-2.0
 *
 * Trace contexts of other formats than `traceparent` in the header blocks of requests. The
 * kernel has no table of HPACK's, but remembers of the entries that hold such a field which
 * it is and what it says, by their numbers. Pure but for that memory.
 */
#ifndef WAGGLE_NOTED_TEXTS_H
#define WAGGLE_NOTED_TEXTS_H

#include "trace_bin.h"

#define TABLE_TEXT_MAX 104 /* what is longer is known by its name only */

/* An entry of a table. Its text lies in a head where the value has its place. */
struct table_text {
	u16 length;
	u8 which; /* enum http1_context */
	u8 reserved[5];
	u8 text[TABLE_TEXT_MAX];
};

#define TABLE_TEXT_HEAD 8

struct table_text_key {
	u64 connection; /* http2_connection.id */
	u32 epoch;
	u32 entry;
};

/* What is remembered of an entry, null: nothing. Its memory is the kernel's or a test's. */
INLINE struct table_text *known_text(const struct table_text_key *key);
INLINE void know_text(const struct table_text_key *key, const struct table_text *text);

struct noted_walk {
	const struct hpack_block *block;
	struct http1_head *head;
	struct table_text_key key;
};

/* It has become an entry. */
INLINE void keep_text(struct noted_walk *walk, u32 entry, u32 which, u32 length)
{
	struct http1_head *head = walk->head;
	u32 at = text_place(which) - TABLE_TEXT_HEAD;

	store64(head->bytes + masked(at, HTTP1_HEAD_MASK), length | (u64)which << 16);
	walk->key.entry = entry;
	know_text(&walk->key, (void *)(head->bytes + masked(at, HTTP1_HEAD_MASK)));
}

INLINE u32 repeat_text(struct http1_head *head, const struct table_text *kept, u32 which)
{
	if (kept->length > TABLE_TEXT_MAX)
		return CONTEXT_VALUE_MAX + 1;
	copy_words(head->bytes + masked(text_place(which), HTTP1_HEAD_MASK), kept->text,
		   TABLE_TEXT_MAX);
	return kept->length;
}

static long noted_step(u32 index, void *context)
{
	struct noted_walk *walk = context;
	const struct hpack_noted *noted = &walk->block->noted[masked(index, HPACK_NOTED - 1)];
	struct table_text *kept = 0;
	u32 which = noted->which, length;

	if (index >= walk->block->walk.noted)
		return 1;
	if (noted->refers) {
		walk->key.entry = noted->refers;
		kept = known_text(&walk->key);
		if (!kept)
			return 0;
		which = kept->which;
	}
	if (kept && noted->repeated)
		length = repeat_text(walk->head, kept, which);
	else
		length = hpack_text(walk->block, walk->head, noted, text_place(which));
	if (noted->entry)
		keep_text(walk, noted->entry, which, length);
	found_text(walk->head, which, length);
	return 0;
}

/* Of a block that was walked: the values of all fields that hold a context, into the head. */
INLINE void read_noted(struct noted_walk *walk)
{
	no_texts(walk->head);
	LOOP(HPACK_NOTED, noted_step, walk);
	/* Of more there may be another of a name that was found. */
	if (walk->block->walk.noted > HPACK_NOTED)
		no_texts(walk->head);
}

#endif
