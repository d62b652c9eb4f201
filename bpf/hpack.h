/* SPDX-License-Identifier: Apache-2.0
 *
 * HPACK header blocks (RFC 7541) as far as the kernel reads them: how many entries a
 * block adds to its side's table, `:status` where it can be read without one, and
 * where the values of `traceparent`, other contexts and `:path` lie. No table is kept, no name
 * decoded. Pure.
 */
#ifndef WAGGLE_HPACK_H
#define WAGGLE_HPACK_H

#include "context.h"
#include "context_names.h"
#include "waggle.h"

#define HPACK_BLOCK_MAX 16384 /* a power of two; longer blocks are given up */
#define HPACK_BLOCK_MASK (HPACK_BLOCK_MAX - 1)
#define HPACK_BLOCK_ROOM (HPACK_BLOCK_MAX + 1024) /* room to look and copy past the mask */
#define HPACK_FIELDS_MAX 1024 /* of one block; of more the count is lost */
#define HPACK_STATIC 61	      /* entries of the static table */
#define HPACK_PATH 4	      /* of these: `:path: /`, and behind it `:path: /index.html` */
#define HPACK_REPEATED 4      /* a power of two: fields repeated from the table that are noted */
#define HPACK_NAMES 64	      /* entries whose names are remembered */
#define HPACK_FIELD_OVERHEAD 32 /* what RFC 7541 4.1 adds to each field */
#define HPACK_NAME_MOST 32    /* at most, for names that are told by an index */
#define HPACK_NOTED 8	      /* a power of two: fields of other contexts that are noted */

/* What the pseudo-header fields say of a block. On an old connection the first of them may be
 * an entry of a table that nobody saw. */
enum hpack_first { HPACK_FIRST_OTHER = 0, HPACK_FIRST_REQUEST = 1, HPACK_FIRST_RESPONSE = 2 };

/* What is found out about a block. Lives in a map, so that the verifier does not
 * follow what is in it. */
struct hpack_walk {
	u64 names;    /* bit d: the entry d insertions ago is named traceparent */
	u64 others[2]; /* the same for the names of other contexts (context_names.h), of twice as many
			* entries: all that a table of the default size may have */
	u32 at;
	u32 end;
	u32 known;    /* insertions of this epoch, with those of this block so far */
	u32 insertions;
	u32 string;   /* of the string read last: where, */
	u32 length;   /* how long */
	u32 coded;    /* and whether Huffman coded */
	u32 traceparent; /* where the value lies, 0: none */
	u32 traceparent_len;
	u32 traceparent_coded;
	u32 path;	 /* the same of the `:path` that was told as a string */
	u32 path_len;
	u32 path_coded;
	u32 path_static; /* else its entry of the static table, 0: none */
	u32 path_entry;	 /* the number of the entry that it became, from 1 on; 0: none */
	u32 traceparent_entry; /* of the traceparent: the entry that it became, or, without a value,
				* repeats; from 1 on, 0: none */
	u32 repeats;	 /* fields that were repeated from the dynamic table, so far */
	u32 repeated[HPACK_REPEATED]; /* the first of these: their entries' numbers */
	u32 size;     /* of the fields, at most, as RFC 9113 10.5.1 counts it: but for those repeated */
	u32 inserted; /* and of those that became entries */
	u32 resized;  /* the largest size of the table that was asked for */
	u16 status;
	u8 first;     /* enum hpack_first */
	u8 changes;   /* inserts or resizes */
	u8 bad;	      /* no HPACK, or more than we walk */
	u8 old_table; /* there may be entries older than those we know of */
	u8 traceparents;
	u8 whole; /* the end was reached */
	u8 states;    /* it has a field named tracestate */
	u8 forgets;   /* an entry named traceparent is older than what `names` knows of now */
	u8 refers_far; /* it refers to an entry of that age */
	u8 noted; /* fields that hold other contexts, as far as it can count */
	u8 reserved[4];
};

/* A field that holds a context and is no traceparent. */
struct hpack_noted {
	u32 at; /* where the value lies */
	u32 length;
	u32 refers; /* the number of the entry that has its name, 0: the name was told */
	u32 entry;  /* of the entry that it became, 0: none */
	u8 which;   /* enum http1_context, where the name was told */
	u8 coded;
	u8 repeated; /* the value is that entry's too */
	u8 reserved[5];
};

struct hpack_block {
	struct hpack_walk walk;
	struct hpack_noted noted[HPACK_NOTED]; /* walk.noted of them */
	struct trace_context context; /* of the traceparent, if one was valid */
	u8 text[64];
	u8 bytes[HPACK_BLOCK_ROOM];
};

INLINE u8 hpack_byte(const struct hpack_block *block, u32 at)
{
	return block->bytes[masked(at, HPACK_BLOCK_MASK)];
}

INLINE u64 hpack_word(const struct hpack_block *block, u32 at)
{
	return load64(block->bytes + masked(at, HPACK_BLOCK_MASK));
}

/* An integer with a prefix of `bits`, at most four bytes behind it, without a branch. */
PROVEN_ONCE u32 hpack_number(struct hpack_block *block, u32 bits)
{
	struct hpack_walk *walk;
	u32 most, value, more, at;
	u8 byte;

	if (!block)
		return 0;
	walk = &block->walk;
	at = walk->at;
	most = (1U << (bits & 7)) - 1;
	value = hpack_byte(block, at) & most;
	more = value == most;
	at++;
#pragma clang loop unroll(full)
	for (int i = 0; i < 4; i++) {
		byte = hpack_byte(block, at);
		value += ((u32)(byte & 0x7f) * more) << (7 * i);
		at += more;
		more &= byte >> 7;
	}
	walk->bad |= more;
	walk->at = at;
	return value;
}

/* Passes a string and notes where it lies. */
INLINE void hpack_string(struct hpack_block *block)
{
	struct hpack_walk *walk = &block->walk;

	walk->coded = hpack_byte(block, walk->at) >> 7;
	walk->length = hpack_number(block, 7);
	walk->string = walk->at;
	walk->at += walk->length;
}

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

/* By the first six bits of a code: the character, and 0x80 if it has six; else five. */
#define C5(c) c, c
#define C6(c) (0x80 | c)
#define HPACK_DIGITS                                                                      \
	{                                                                                 \
		C5('0'), C5('1'), C5('2'), C5('a'), C5('c'), C5('e'), [22] = C6('-'),     \
		[25] = C6('3'), C6('4'), C6('5'), C6('6'), C6('7'), C6('8'), C6('9'),     \
		[35] = C6('b'), C6('d'), C6('f'),                                         \
	}
const u8 hpack_digits[64] = HPACK_DIGITS;

/* The next character of a Huffman-coded string of digits and dashes. `*bit` counts in
 * bits from `from`; `*bad` becomes nonzero where there is another character. */
INLINE u8 hpack_digit(const struct hpack_block *block, u32 from, u32 *bit, u32 *bad)
{
	u32 at = from + (*bit >> 3);
	u32 pair = (u32)hpack_byte(block, at) << 8 | hpack_byte(block, at + 1);
	u8 found = hpack_digits[masked(pair >> (10 - (*bit & 7)), 63)];

	*bit += 5 + (found >> 7);
	*bad |= ((u32)found - 1) >> 31;
	return found & 0x7f;
}

/* What `:status` says, from a string of three digits; 0 if it is none. */
INLINE u16 hpack_status(const struct hpack_block *block)
{
	const struct hpack_walk *walk = &block->walk;
	u32 from = walk->string, bit = 0, bad = 0, a, b, c;

	if (walk->coded) {
		a = hpack_digit(block, from, &bit, &bad) - '0';
		b = hpack_digit(block, from, &bit, &bad) - '0';
		c = hpack_digit(block, from, &bit, &bad) - '0';
		bad |= (bit + 7) / 8 != walk->length;
	} else {
		a = hpack_byte(block, from) - '0';
		b = hpack_byte(block, from + 1) - '0';
		c = hpack_byte(block, from + 2) - '0';
		bad |= walk->length != 3;
	}
	bad |= a < 1 || a > 9 || b > 9 || c > 9;
	return bad ? 0 : a * 100 + b * 10 + c;
}

const u16 hpack_statuses[8] = { 200, 204, 206, 304, 400, 404, 500, 0 };

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

INLINE void hpack_note_path(struct hpack_walk *walk, u32 inserts)
{
	walk->path = walk->string;
	walk->path_len = walk->length;
	walk->path_coded = walk->coded;
	walk->path_entry = inserts ? walk->known + 1 : 0;
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

/* Whether the entry `ago` insertions ago has the name of a context that is no traceparent. */
INLINE u32 hpack_is_other(const struct hpack_walk *walk, u32 ago)
{
	u64 others = ago < HPACK_NAMES ? walk->others[0] : walk->others[1];

	return ago < 2 * HPACK_NAMES && (others >> (ago & (HPACK_NAMES - 1))) & 1;
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

/* The context of a block that was walked, into block->context. Of several none is to be
 * taken (Trace Context 3.2). Returns whether there was anything to read. */
PROVEN_ONCE int hpack_traceparent(struct hpack_block *block)
{
	struct hpack_walk *walk;
	u32 bit = 0, bad = 0, bits;

	if (!block)
		return 0;
	walk = &block->walk;
	block->context.valid = 0;
	if (walk->bad || walk->traceparents != 1 || !walk->traceparent)
		return walk->traceparents > 1;
	if (!walk->traceparent_coded) {
		parse_traceparent(block->bytes + masked(walk->traceparent, HPACK_BLOCK_MASK),
				  walk->traceparent_len, &block->context);
		return 1;
	}
	bits = walk->traceparent_len * 8;
#pragma clang loop unroll(disable)
	for (int i = 0; i < TRACEPARENT_LENGTH; i++)
		block->text[i] = hpack_digit(block, walk->traceparent, &bit, &bad);
	/* Less than a byte may follow, of ones. */
	if (!bad && bit <= bits && bits - bit < 8)
		parse_traceparent(block->text, TRACEPARENT_LENGTH, &block->context);
	return 1;
}

#endif
