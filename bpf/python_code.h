/* SPDX-License-Identifier: Apache-2.0
 *
 * The line of code that makes a call: read from the frames of CPython (3.11 and later)
 * at the moment of the write.
 *
 * The walk goes outwards from the innermost frame. What is known to be a library's is
 * passed, and it ends at the first frame that is known to be the application's, or to
 * run other people's work (an event loop: what is written there is nobody's on this
 * stack). What nobody has judged yet may be the one: user space is given its code object
 * and judges (probes/python/owners.py). So a program that has warmed up is asked for
 * one frame, and the record carries one word that stands for the place in its code.
 *
 * A code object's address is used again for another. So it is known by its line table and
 * the name of its file themselves; only a library's function, which is there for good, is
 * passed by its address and its module's, which is all that its frame has to be read for.
 */
#ifndef WAGGLE_PYTHON_CODE_H
#define WAGGLE_PYTHON_CODE_H

#include "feed.h"
#include "python.h"

#define KIND_SLOTS 32768
#define PASSED_SLOTS 256
#define TOLD_SLOTS 16384
#define OBJECT_SIZE 16	  /* of a str or bytes: where its length is */
#define BYTES_DATA 32	  /* of a bytes: where its bytes are */
#define TEXT_HEADER 24	  /* of a str, from its length on: length, hash, state */
#define TABLE_PIECES 16
#define NAMES_READ 256 /* most names of a code object that are looked at */

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

MAP(python_code, BPF_MAP_TYPE_HASH, 4096, u32, struct waggle_code_layout, ON_DEMAND);
MAP(code_kinds, BPF_MAP_TYPE_ARRAY, 1, u32, struct code_kinds, MAPPED);
MAP(code_told, BPF_MAP_TYPE_ARRAY, 1, u32, struct code_told, MAPPED);
MAP(code_passed, BPF_MAP_TYPE_PERCPU_ARRAY, 1, u32, struct code_passed, 0);
/* Never written: what a new event begins as. */
MAP(blank_code, BPF_MAP_TYPE_ARRAY, 1, u32, struct waggle_code_event, 0);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} code_ring SEC(".maps");

/* What the loops are given: pointers that the verifier knows. */
struct frame_walk {
	struct code_walk *walk;
	const struct waggle_code_layout *layout;
	struct code_passed *passed;
};

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

INLINE struct waggle_code_event *begin_code_event(u8 kind, u64 id)
{
	u32 zero = 0;
	struct waggle_code_event *event =
		bpf_ringbuf_reserve(&code_ring, sizeof(*event), 0);
	void *blank = bpf_map_lookup_elem(&blank_code, &zero);

	if (!event) {
		count(WAGGLE_COUNT_LOST_CODE_RING_FULL);
		return 0;
	}
	if (blank)
		bpf_probe_read_kernel(event, sizeof(*event), blank);
	event->kind = kind;
	event->id = id;
	event->tgid = bpf_get_current_pid_tgid() >> 32;
	return event;
}

/* A str, from its length on, as it lies in memory: what follows its state and how wide
 * its characters are is for user space to know. Returns how many bytes were read. */
INLINE u32 copy_str(u8 *to, u32 room, u64 object, u32 data)
{
	u64 length = word_at(object + OBJECT_SIZE);
	u32 narrow = length < room ? length : room, wide = length < room / 4 ? 4 * length : room;
	u32 size = narrow + data - OBJECT_SIZE;

	wide += 32 + TEXT_HEADER;
	wide = wide < room ? wide : room;
	size = size < room ? size : room;
	wide = masked(wide, 511);
	if (wide <= room && !bpf_probe_read_user(to, wide, (void *)(object + OBJECT_SIZE)))
		return wide;
	/* Whose end is near that of readable memory. */
	size = masked(size, 511);
	if (size <= room && !bpf_probe_read_user(to, size, (void *)(object + OBJECT_SIZE)))
		return size;
	return 0;
}

/* Tells of the code object at hand, with the next piece of its line table. Returns
 * whether that was the last. */
INLINE int tell_code(struct code_walk *walk, const struct waggle_code_layout *layout)
{
	u64 table = code_word(walk, layout->line_table), length = word_at(table + OBJECT_SIZE);
	u32 offset = walk->piece * WAGGLE_LINE_TABLE, size;
	/* Nothing may come between the two checks for null, or both are in the code, and Linux
	 * 6.1 does not know that the second never finds one. */
	struct waggle_code_event *event = begin_code_event(WAGGLE_CODE_OBJECT, walk->id);

	if (!event) {
		walk->lost = 1;
		return 1;
	}
	event->kind_key = walk->kind_key;
	event->first_line = code_word(walk, layout->first_line) >> 8 * (layout->first_line & 4);
	event->file_name_size = copy_str(event->file_name, sizeof(event->file_name),
					 code_word(walk, layout->file_name), layout->text);
	event->function_size = copy_str(event->function, sizeof(event->function),
					code_word(walk, layout->function), layout->text);
	event->text = layout->text;
	event->runs_loop = walk->runs_loop;
	event->table_size = length;
	event->offset = offset;
	size = length - offset < WAGGLE_LINE_TABLE ? length - offset : WAGGLE_LINE_TABLE;
	size = masked(size, 1023);
	if (size <= WAGGLE_LINE_TABLE &&
	    !bpf_probe_read_user(event->line_table, size, (void *)(table + BYTES_DATA + offset)))
		event->length = size;
	bpf_ringbuf_submit(event, wakeup(&code_ring));
	walk->piece++;
	return walk->piece >= TABLE_PIECES || walk->piece * WAGGLE_LINE_TABLE >= length;
}

/* Makes a frame that may be the one the one at hand again, when its code is to be told of. */
INLINE int recall(struct code_walk *walk, const struct waggle_code_layout *layout, u32 i)
{
	walk->id = walk->ids[i];
	walk->kind_key = walk->keys[i];
	return is_told(walk->id) || !bpf_probe_read_user(walk->code, sizeof(walk->code),
							 (void *)walk->addresses[i]);
}

/* Looks at the next of the names that the code object at hand uses. Event loops written in
 * C have no frames; who names what starts them may be running one. Returns whether that
 * was the last. */
INLINE int read_name(struct code_walk *walk, const struct waggle_code_layout *layout)
{
	u64 names = code_word(walk, layout->names), name, begin;

	if (!walk->name) {
		walk->names = word_at(names + OBJECT_SIZE);
		walk->runs_loop = walk->names > NAMES_READ; /* nobody can tell */
	}
	if (walk->name >= walk->names || walk->name >= NAMES_READ)
		return 1;
	name = word_at(names + layout->items + 8 * walk->name);
	begin = word_at(name + layout->text);
	walk->name++;
	if (BEGINS(begin, "run_unti") || BEGINS(begin, "run_fore"))
		walk->runs_loop = 1;
	return 0;
}

/* A step further with the frames that may be the one: what is new is told, piece by piece. */
static long candidate_step(u32 index, void *context)
{
	struct frame_walk *at = context;
	struct code_walk *walk = at->walk;
	u32 i = masked(walk->candidate, WAGGLE_FRAMES - 1);
	int done;

	if (walk->candidate >= walk->count)
		return 1;
	if (!walk->piece && !walk->name && !recall(walk, at->layout, i)) {
		walk->lost = 1;
		return 1;
	}
	done = !walk->piece && is_told(walk->id);
	if (!done && !walk->piece && !read_name(walk, at->layout))
		return 0;
	if (!done && tell_code(walk, at->layout)) {
		if (walk->lost)
			return 1;
		note_told(walk->id);
		done = 1;
	}
	if (done) {
		walk->candidate++;
		walk->piece = 0;
		walk->name = 0;
		walk->runs_loop = 0;
	}
	return 0;
}

/* Tells of what is new among the frames that may be the one. */
INLINE void tell_codes(struct frame_walk *at)
{
	struct code_walk *walk = at->walk;

	walk->candidate = 0;
	walk->piece = 0;
	walk->name = 0;
	walk->runs_loop = 0;
	LOOP(WAGGLE_FRAMES * (TABLE_PIECES + NAMES_READ + 2), candidate_step, at);
}

static long site_step(u32 index, void *context)
{
	struct frame_walk *at = context;
	struct code_walk *walk = at->walk;
	u32 i = masked(index, WAGGLE_FRAMES - 1);

	if (index >= walk->count)
		return 1;
	walk->hash = mix(mix(walk->hash, walk->ids[i]), walk->offsets[i]);
	return 0;
}

/* Tells which frames a place stands for. */
INLINE void tell_site(struct code_walk *walk, u64 site)
{
	struct waggle_code_event *event = begin_code_event(WAGGLE_CODE_SITE, site);

	if (!event) {
		walk->lost = 1;
		return;
	}
	event->frames = walk->count;
	bpf_probe_read_kernel(event->codes, sizeof(event->codes), walk->ids);
	bpf_probe_read_kernel(event->offsets, sizeof(event->offsets), walk->offsets);
	bpf_ringbuf_submit(event, wakeup(&code_ring));
	note_told(site);
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

/* What stands for the line of code that the current thread is at, 0 when that is not to
 * be had. Ids and offsets of what is not among the frames are left over from other calls. */
PROVEN_ONCE u64 find_call_site(struct code_walk *walk)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32, zero = 0;
	struct frame_walk at = { .walk = walk };
	u64 site;

	if (!walk)
		return 0;
	at.layout = bpf_map_lookup_elem(&python_code, &tgid);
	at.passed = bpf_map_lookup_elem(&code_passed, &zero);
	if (!at.layout || !at.passed)
		return 0;
	walk->passed = 0;
	walk->count = 0;
	walk->lost = 0;
	walk->frame = current_frame(at.layout);
	LOOP(WAGGLE_WALK, frame_step, &at);
	if (!walk->count || walk->lost)
		return 0;
	walk->hash = at.layout->salt;
	LOOP(WAGGLE_FRAMES, site_step, &at);
	site = walk->hash | 1;
	/* Who knows a place knows the code objects of its frames. */
	if (!is_told(site)) {
		tell_codes(&at);
		if (!walk->lost)
			tell_site(walk, site);
		if (walk->lost)
			return 0;
	}
	count(WAGGLE_COUNT_CALL_SITES);
	return site;
}

/* A request goes out: keeps the place in the code that made it. */
INLINE void keep_call_site(struct feed *feed, struct http1_head *head,
			   const struct waggle_process *process)
{
	u32 used = head->out_used;
	u64 site;

	if (feed->connection->role != WAGGLE_ROLE_CLIENT || !process ||
	    !(process->mode & WAGGLE_PROCESS_RULE_TASK) || used + 12 > HTTP1_OUT_MAX)
		return;
	site = find_call_site(&feed->scratch->code);
	if (!site)
		return;
	store32(head->out + masked(used, HTTP1_OUT_MASK), WAGGLE_KEPT_CALL_SITE | 8 << 16);
	store64(head->out + masked(used + 4, HTTP1_OUT_MASK), site);
	head->out_used = used + 12;
}

#endif
