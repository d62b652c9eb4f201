/* SPDX-License-Identifier: Apache-2.0
 *
 * The walk over a thread's frames of CPython (3.11 and later), from the innermost outwards.
 *
 * What is known to be a library's is passed, and the walk ends at the first frame that is known to be the
 * application's, or to run other people's work (an event loop: what is written there is nobody's on this
 * stack). What nobody has judged yet may be the one.
 *
 * A code object's address is used again for another. So it is known by its line table and
 * the name of its file themselves; only a library's function, which is there for good, is
 * passed by its address and its module's, which is all that its frame has to be read for.
 */
#ifndef WAGGLE_PYTHON_FRAMES_H
#define WAGGLE_PYTHON_FRAMES_H

#include "feed.h"
#include "python.h"
#include "python_judged.h"

#define OBJECT_SIZE 16	  /* of a str or bytes: where its length is */
#define BYTES_DATA 32	  /* of a bytes: where its bytes are */

INLINE u64 mix(u64 hash, u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
	return hash ^ hash >> 29;
}

INLINE u64 frame_word(const struct code_walk *walk, u32 offset)
{
	return walk->words[masked(offset / 8, FRAME_WORDS - 1)];
}

INLINE u64 code_word(const struct code_walk *walk, u32 offset)
{
	u32 index = offset / 8;

	return index < CODE_WORDS ? walk->code[index] : 0;
}

/* Adds the beginning of a text, and its length, to walk->hash. Returns 0 when it cannot. */
INLINE int hash_text(struct code_walk *walk, u64 object, u32 data)
{
	u64 length = word_at(object + OBJECT_SIZE), hash = mix(walk->hash, length);
	u32 size = length < CODE_TEXT ? length : CODE_TEXT;

	if (bpf_probe_read_user(walk->text, masked(size, 2 * CODE_TEXT - 1) & (2 * CODE_TEXT - 1),
				(void *)(object + data)))
		return 0;
	store64(walk->text + masked(size, 2 * CODE_TEXT - 1), 0);
	for (u32 at = 0; at < CODE_TEXT && at < size; at += 8)
		hash = mix(hash, load64(walk->text + at));
	walk->hash = hash;
	return 1;
}

/* Reads a code object whole, and works out what it is known by: what it says of lines, and
 * where it lies. Returns 0 when that cannot be read, -1 for what is no code object. */
INLINE int identify(struct code_walk *walk, const struct waggle_code_layout *layout, u64 address)
{
	if (bpf_probe_read_user(walk->code, sizeof(walk->code), (void *)address))
		return 0;
	if (walk->code[1] != layout->code_type)
		return -1;
	walk->hash = mix(layout->salt ^ address, code_word(walk, layout->first_line));
	if (!hash_text(walk, code_word(walk, layout->line_table), BYTES_DATA) ||
	    !hash_text(walk, code_word(walk, layout->file_name), layout->text))
		return 0;
	walk->id = walk->hash | 1;
	return 1;
}

/* Adds the frame at hand to those that may be the one. Returns 0 when it cannot be one. */
INLINE int add_candidate(struct code_walk *walk, u64 address, u64 key, u64 offset)
{
	u32 count = walk->count;

	/* One that has not begun: what was built for it is not this call's. */
	if (offset > 1 << 24)
		return 0;
	if (count >= WAGGLE_FRAMES) {
		walk->lost = 1;
		return 0;
	}
	count = masked(count, WAGGLE_FRAMES - 1);
	walk->addresses[count] = address;
	walk->keys[count] = key;
	walk->ids[count] = walk->id;
	walk->offsets[count] = offset;
	walk->count++;
	return 1;
}

static long frame_step(u32 index, void *context)
{
	struct frame_walk *at = context;
	struct code_walk *walk = at->walk;
	const struct waggle_code_layout *layout = at->layout;
	u64 address, key = 0, frame = walk->frame, offset;
	int found, added;
	u32 kind;

	if (!frame)
		return 1;
	if (bpf_probe_read_user(walk->words, 8 * FRAME_WORDS_READ, (void *)frame)) {
		walk->lost = 1;
		return 1;
	}
	walk->frame = frame_word(walk, layout->frame_previous);
	address = frame_word(walk, layout->frame_code) & ~7ULL;
	/* Code that is no function's (a module's, exec) often lives no longer than it runs. */
	if (!frame_word(walk, layout->frame_locals))
		key = mix(mix(layout->salt, address), frame_word(walk, layout->frame_globals)) & ~3ULL;
	kind = key ? kind_of_function(at, key) : WAGGLE_CODE_UNKNOWN;
	if (kind == WAGGLE_CODE_LIBRARY)
		return 0;
	if (kind == WAGGLE_CODE_LOOP)
		return 1;
	offset = word_at(frame + layout->frame_instruction) - address - layout->instructions;
	found = identify(walk, layout, address);
	if (found < 0)
		return 0; /* a frame between C and Python */
	if (!found) {
		walk->lost = 1;
		return 1;
	}
	kind = kind_of(walk->id & ~3ULL);
	if (kind == WAGGLE_CODE_LIBRARY)
		return 0;
	if (kind == WAGGLE_CODE_LOOP)
		return 1;
	added = add_candidate(walk, address, key, offset);
	return walk->lost || (added && kind == WAGGLE_CODE_APPLICATION);
}

INLINE u64 current_frame(const struct waggle_code_layout *layout)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u64 state = word_at(BPF_CORE_READ(task, thread.fsbase) + (s64)layout->slot);

	if (state && layout->indirect >= 0)
		state = word_at(state + layout->indirect);
	if (state && layout->c_frame >= 0)
		state = word_at(state + layout->c_frame);
	return state ? word_at(state + layout->frame) : 0;
}

#endif
