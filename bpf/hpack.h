/* SPDX-License-Identifier: Apache-2.0
 *
 * HPACK header blocks (RFC 7541) as far as the kernel reads them: how many entries a
 * block adds to its side's table, `:status` where it can be read without one, and
 * where the values of `traceparent`, other contexts and `:path` lie. No table is kept, no name
 * decoded. Pure.
 */
#ifndef WAGGLE_HPACK_H
#define WAGGLE_HPACK_H

#include "hpack_notes.h"

INLINE void hpack_literal(struct hpack_block *block, u8 byte)
{
	struct hpack_walk *walk = &block->walk;
	u32 inserts = byte & 0x40, name, named = 0, path, size = HPACK_FIELD_OVERHEAD;
	u32 other = HTTP1_CONTEXTS, refers = 0;

	name = hpack_number(block, inserts ? 6 : 4);
	path = name == HPACK_PATH || name == HPACK_PATH + 1;
	if (!name) {
		hpack_string(block);
		named = hpack_is_traceparent(block);
		path = hpack_is_path(block);
		walk->states |= hpack_is_tracestate(block);
		other = hpack_context_name(block);
		size += hpack_decoded(walk);
	} else {
		size += HPACK_NAME_MOST;
		if (name > HPACK_STATIC) {
			named = hpack_refer(walk, name - HPACK_STATIC - 1);
			if (hpack_is_other(walk, name - HPACK_STATIC - 1))
				refers = walk->known - (name - HPACK_STATIC - 1);
		}
	}
	hpack_string(block);
	if (walk->at > walk->end)
		return;
	size += hpack_decoded(walk);
	walk->size += size;
	hpack_first_field(block, name, 0);
	if (path)
		hpack_note_path(walk, inserts);
	if (named)
		named = hpack_note_value(walk, named == 1);
	if (other < HTTP1_CONTEXTS || refers)
		hpack_note_other(block, other, refers, 0);
	if (inserts) {
		walk->inserted += size;
		walk->forgets |= walk->names >> (HPACK_NAMES - 1);
		walk->names = walk->names << 1 | named;
		walk->others[1] = walk->others[1] << 1 | walk->others[0] >> (HPACK_NAMES - 1);
		walk->others[0] = walk->others[0] << 1 | (other < HTTP1_CONTEXTS || refers);
		walk->insertions++;
		walk->known++;
		walk->changes = 1;
		if (named)
			walk->traceparent_entry = walk->known;
		if (walk->others[0] & 1)
			hpack_enter_other(block);
	}
}

struct hpack_step_context {
	struct hpack_block *block;
};

/* One field, or one change of the table's size. */
static long hpack_step(u32 index, void *context)
{
	struct hpack_block *block = ((struct hpack_step_context *)context)->block;
	struct hpack_walk *walk = &block->walk;
	u32 number;
	u8 byte;

	if (walk->at >= walk->end) {
		walk->whole = 1;
		return 1;
	}
	byte = hpack_byte(block, walk->at);
	if (byte & 0x80) {
		number = hpack_number(block, 7);
		walk->bad |= !number;
		/* Repeated whole: what it says was read when it became an entry. */
		if (number > HPACK_STATIC &&
		    hpack_refer(walk, number - HPACK_STATIC - 1) == 1) {
			walk->traceparents += walk->traceparents < 2;
			walk->traceparent_entry = walk->known - (number - HPACK_STATIC - 1);
		}
		if (number > HPACK_STATIC && hpack_is_other(walk, number - HPACK_STATIC - 1))
			hpack_note_other(block, HTTP1_CONTEXTS,
					 walk->known - (number - HPACK_STATIC - 1), 1);
		if (number <= HPACK_STATIC)
			walk->size += HPACK_FIELD_OVERHEAD + HPACK_NAME_MOST;
		hpack_first_field(block, number, 1);
		hpack_note_repeat(walk, number);
	} else if ((byte & 0xe0) == 0x20) {
		number = hpack_number(block, 5);
		if (number > walk->resized)
			walk->resized = number;
		walk->changes = 1;
	} else {
		hpack_literal(block, byte);
	}
	walk->bad |= walk->at > walk->end;
	return !!walk->bad;
}

/* Walks block->bytes[from, to). `names`, `others` and `known` are of the side so far. */
INLINE void hpack_read(struct hpack_block *block, u32 from, u32 to, u64 names,
		       const u64 *others, u32 known, u8 old_table)
{
	struct hpack_step_context context = { .block = block };
	struct hpack_walk *walk = &block->walk;

	__builtin_memset(walk, 0, sizeof(*walk));
	walk->at = from;
	walk->end = to;
	walk->names = names;
	walk->others[0] = others[0];
	walk->others[1] = others[1];
	walk->known = known;
	walk->old_table = old_table;
	LOOP(HPACK_FIELDS_MAX + 1, hpack_step, &context);
	walk->bad |= !walk->whole;
}

#endif
