/* SPDX-License-Identifier: Apache-2.0
 *
 * A header block (RFC 7541), what is found out about it, and the two things that it is written in:
 * integers and strings. Pure.
 */
#ifndef WAGGLE_HPACK_BLOCK_H
#define WAGGLE_HPACK_BLOCK_H

#include "context.h"
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

#endif
