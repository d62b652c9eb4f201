/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether a field of a header block has a name that we look for: as a string, compared in the
 * Huffman code too, or as an entry of the dynamic table whose name is remembered. Pure.
 */
#ifndef WAGGLE_HPACK_NAMES_H
#define WAGGLE_HPACK_NAMES_H

#include "context_names.h"
#include "hpack_block.h"

#define TRACEPARENT_NAME 0x7261706563617274ULL	    /* "tracepar", then "ent" */
#define TRACEPARENT_NAME_END 0x746e65ULL
#define TRACEPARENT_NAME_CODED 0x3fa9851d6b21834dULL /* its eight bytes in the Huffman code */

/* Whether the string read last is the name we look for. */
INLINE u32 hpack_is_traceparent(const struct hpack_block *block)
{
	const struct hpack_walk *walk = &block->walk;
	u64 word = hpack_word(block, walk->string);

	if (walk->coded)
		return walk->length == 8 && word == TRACEPARENT_NAME_CODED;
	return walk->length == 11 && word == TRACEPARENT_NAME &&
	       (hpack_word(block, walk->string + 8) & 0xffffff) == TRACEPARENT_NAME_END;
}

#define TRACESTATE_WORD 0x6174736563617274ULL /* "tracesta", then "te" */
#define TRACESTATE_CODED 0xbfa4915021834dULL  /* its seven bytes in the Huffman code */

/* Whether the string read last is the name `tracestate`. */
INLINE u32 hpack_is_tracestate(const struct hpack_block *block)
{
	const struct hpack_walk *walk = &block->walk;
	u64 word = hpack_word(block, walk->string);

	if (walk->coded)
		return walk->length == 7 && (word & 0xffffffffffffffULL) == TRACESTATE_CODED;
	return walk->length == 10 && word == TRACESTATE_WORD &&
	       (hpack_word(block, walk->string + 8) & 0xffff) == 0x6574;
}

#define PATH_NAME 0x687461703aULL     /* ":path" */
#define PATH_NAME_CODED 0x3fd358b9ULL /* its four bytes in the Huffman code */

/* Whether the string read last is the name `:path`: gRPC's C-core spells it. */
INLINE u32 hpack_is_path(const struct hpack_block *block)
{
	const struct hpack_walk *walk = &block->walk;
	u64 word = hpack_word(block, walk->string);

	if (walk->coded)
		return walk->length == 4 && (word & 0xffffffff) == PATH_NAME_CODED;
	return walk->length == 5 && (word & 0xffffffffff) == PATH_NAME;
}

/* Whose name the string read last is: enum http1_context, HTTP1_CONTEXTS for none. */
INLINE u32 hpack_context_name(const struct hpack_block *block)
{
	const struct hpack_walk *walk = &block->walk;

	if (!may_name_context(walk->length, walk->coded))
		return HTTP1_CONTEXTS;
	return context_name(hpack_word(block, walk->string), hpack_word(block, walk->string + 8),
			    walk->length, walk->coded);
}

/* Looks up the name of dynamic entry `ago` insertions ago: 1 that it is the name, 2
 * that nobody knows, since it is older than what we have seen. */
INLINE u32 hpack_entry_name(const struct hpack_walk *walk, u32 ago)
{
	if (ago >= walk->known)
		return walk->old_table ? 2 : 0;
	return ago < HPACK_NAMES && ((walk->names >> (ago & (HPACK_NAMES - 1))) & 1);
}

/* The same of an entry that a field refers to. */
INLINE u32 hpack_refer(struct hpack_walk *walk, u32 ago)
{
	walk->refers_far |= ago >= HPACK_NAMES;
	return hpack_entry_name(walk, ago);
}

/* Whether the entry `ago` insertions ago has the name of a context that is no traceparent. */
INLINE u32 hpack_is_other(const struct hpack_walk *walk, u32 ago)
{
	u64 others = ago < HPACK_NAMES ? walk->others[0] : walk->others[1];

	return ago < 2 * HPACK_NAMES && (others >> (ago & (HPACK_NAMES - 1))) & 1;
}

#endif
