/* SPDX-License-Identifier: Apache-2.0
 *
 * What a look at an interpreter's frames needs for as long as it lasts. In a map and
 * not on the stack, which is short.
 */
#ifndef WAGGLE_CODE_WALK_H
#define WAGGLE_CODE_WALK_H

#include "portable.h"
#include "waggle.h"

#define FRAME_WORDS 8 /* of a frame, a power of two */
/* Read of each: copying 64 bytes or more costs a start of its own (rep movsb) on many processors. */
#define FRAME_WORDS_READ 7
#define CODE_WORDS 20 /* and of its code object */
#define CODE_TEXT 256 /* of a text that tells code objects apart */

struct code_walk {
	u64 frame; /* looked at next */
	u64 kind_key; /* what the code object at hand is judged under */
	u64 id;	      /* and what it is known by, with all that it says of lines */
	u64 hash;
	u32 candidate; /* of the frames that may be the one, whose code object is being told of */
	u32 piece;     /* of its line table */
	u32 name;      /* of those that its code uses */
	u32 names;
	u32 runs_loop; /* one of them says so */
	u32 passed; /* next place in code_passed; 0: not begun */
	u32 count; /* of these frames, innermost first */
	u32 lost;
	u64 words[FRAME_WORDS];
	u64 code[CODE_WORDS];
	u64 addresses[WAGGLE_FRAMES];
	u64 keys[WAGGLE_FRAMES];
	u64 ids[WAGGLE_FRAMES];
	u32 offsets[WAGGLE_FRAMES]; /* of the instruction, in bytes */
	u8 text[2 * CODE_TEXT + 8];
};

#endif
