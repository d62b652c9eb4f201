/* SPDX-License-Identifier: Apache-2.0
 *
 * What a walk over a header block notes of its fields: where values lie that others will read,
 * and which entries of the table those have become. Pure.
 */
#ifndef WAGGLE_HPACK_NOTES_H
#define WAGGLE_HPACK_NOTES_H

#include "hpack_names.h"
#include "hpack_values.h"

/* How long the string read last is once it is decoded, at most: no code has less than 5 bits. */
INLINE u32 hpack_decoded(const struct hpack_walk *walk)
{
	return walk->coded ? walk->length * 8 / 5 : walk->length;
}

/* 55 characters, three of them dashes (6 bits in the Huffman code), the others digits
 * (5 or 6 bits): 278 to 330 bits. */
INLINE u32 hpack_may_be_traceparent(const struct hpack_walk *walk)
{
	if (walk->coded)
		return walk->length >= 35 && walk->length <= 42;
	return walk->length == TRACEPARENT_LENGTH;
}

/* A value was read whose name may be the one: `certain` where it surely is. Returns
 * whether its entry, if it becomes one, bears the name. */
INLINE u32 hpack_note_value(struct hpack_walk *walk, u32 certain)
{
	if (!certain && !hpack_may_be_traceparent(walk))
		return 0;
	walk->traceparents += walk->traceparents < 2;
	walk->traceparent = walk->string;
	walk->traceparent_len = walk->length;
	walk->traceparent_coded = walk->coded;
	walk->traceparent_entry = 0;
	return 1;
}

/* Is this the first of the fields that only one side sends, by its index of the static table? */
INLINE void hpack_first_field(struct hpack_block *block, u32 name, u32 indexed)
{
	struct hpack_walk *walk = &block->walk;

	if (walk->first)
		return;
	if (name >= 1 && name <= 7)
		walk->first = HPACK_FIRST_REQUEST;
	if (name < 8 || name > 14)
		return;
	walk->first = HPACK_FIRST_RESPONSE;
	walk->status = indexed ? hpack_statuses[masked(name - 8, 7)] : hpack_status(block);
}

INLINE void hpack_note_path(struct hpack_walk *walk, u32 inserts)
{
	walk->path = walk->string;
	walk->path_len = walk->length;
	walk->path_coded = walk->coded;
	walk->path_entry = inserts ? walk->known + 1 : 0;
}

/* A field that holds another context: with the string read last, or all of what it refers to. */
INLINE void hpack_note_other(struct hpack_block *block, u32 which, u32 refers, u32 repeated)
{
	struct hpack_walk *walk = &block->walk;
	struct hpack_noted *noted = &block->noted[masked(walk->noted, HPACK_NOTED - 1)];

	if (walk->noted < HPACK_NOTED) {
		noted->at = walk->string;
		noted->length = walk->length;
		noted->coded = walk->coded;
		noted->which = which;
		noted->refers = refers;
		noted->repeated = repeated;
		noted->entry = 0;
	}
	walk->noted += walk->noted < 255;
}

/* It has become an entry. */
INLINE void hpack_enter_other(struct hpack_block *block)
{
	struct hpack_walk *walk = &block->walk;
	u32 last = walk->noted - 1;

	if (last < HPACK_NOTED)
		block->noted[masked(last, HPACK_NOTED - 1)].entry = walk->known;
}

/* A field that says no more than its index. */
INLINE void hpack_note_repeat(struct hpack_walk *walk, u32 number)
{
	if (number == HPACK_PATH || number == HPACK_PATH + 1)
		walk->path_static = number;
	if (number <= HPACK_STATIC || walk->repeats >= HPACK_REPEATED)
		return;
	/* Of an entry from before this epoch it is a number that no entry has. */
	walk->repeated[masked(walk->repeats, HPACK_REPEATED - 1)] =
		walk->known - (number - HPACK_STATIC - 1);
	walk->repeats++;
}

#endif
