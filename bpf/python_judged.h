/* SPDX-License-Identifier: Apache-2.0
 *
 * What user space has judged of code objects of CPython, and what it has been told of.
 */
#ifndef WAGGLE_PYTHON_JUDGED_H
#define WAGGLE_PYTHON_JUDGED_H

#include "feed.h"

#define KIND_SLOTS 32768
#define PASSED_SLOTS 256
#define TOLD_SLOTS 16384

/* Judgements by user space: a key or an id, its lowest bits replaced by enum
 * waggle_code_kind. Two places for each, side by side. */
struct code_kinds {
	u64 slots[KIND_SLOTS];
};

/* Ids of code objects and of places in them that user space has been told of. */
struct code_told {
	u64 slots[TOLD_SLOTS];
};

/* Keys of libraries' functions that walks on this CPU have passed, one walk's side by side: most
 * walks pass what the one before has passed, and `code_kinds` is large and seldom in a cache.
 * Whoever preempts a walk may write here too: a word is always a key that was judged so. */
struct code_passed {
	u64 keys[PASSED_SLOTS];
};

MAP(code_kinds, BPF_MAP_TYPE_ARRAY, 1, u32, struct code_kinds, MAPPED);
MAP(code_told, BPF_MAP_TYPE_ARRAY, 1, u32, struct code_told, MAPPED);
MAP(code_passed, BPF_MAP_TYPE_PERCPU_ARRAY, 1, u32, struct code_passed, 0);

/* What the loops are given: pointers that the verifier knows. */
struct frame_walk {
	struct code_walk *walk;
	const struct waggle_code_layout *layout;
	struct code_passed *passed;
};

INLINE u32 kind_of(u64 key)
{
	u32 zero = 0, at = masked(key >> 40, KIND_SLOTS - 2);
	struct code_kinds *kinds = bpf_map_lookup_elem(&code_kinds, &zero);

	if (!kinds)
		return WAGGLE_CODE_UNKNOWN;
	if ((kinds->slots[at] ^ key) < 4)
		return kinds->slots[at] & 3;
	if ((kinds->slots[at + 1] ^ key) < 4)
		return kinds->slots[at + 1] & 3;
	return WAGGLE_CODE_UNKNOWN;
}

/* Whether a function is a library's, by its key. The first of a walk says where its keys are. */
INLINE u32 kind_of_function(struct frame_walk *at, u64 key)
{
	struct code_walk *walk = at->walk;
	u64 *passed;
	u32 kind;

	if (!walk->passed)
		walk->passed = key >> 40 | 1 << 24;
	passed = &at->passed->keys[masked(walk->passed++, PASSED_SLOTS - 1)];
	if (*passed == key)
		return WAGGLE_CODE_LIBRARY;
	kind = kind_of(key);
	if (kind == WAGGLE_CODE_LIBRARY)
		*passed = key;
	return kind;
}

INLINE u64 *told_slots(u64 id)
{
	u32 zero = 0;
	struct code_told *told = bpf_map_lookup_elem(&code_told, &zero);

	return told ? &told->slots[masked(id >> 40, TOLD_SLOTS - 2)] : 0;
}

INLINE int is_told(u64 id)
{
	u64 *slots = told_slots(id);

	return slots && (slots[0] == id || slots[1] == id);
}

INLINE void note_told(u64 id)
{
	u64 *slots = told_slots(id);

	if (!slots)
		return;
	if (!slots[0] || (slots[1] && id & 2))
		slots[0] = id;
	else
		slots[1] = id;
}

#endif
