/* SPDX-License-Identifier: Apache-2.0
 *
 * What user space is told of code objects, piece by piece, to judge them
 * (probes/python/owners.py), and of the places in them that call.
 */
#ifndef WAGGLE_PYTHON_CODE_EVENTS_H
#define WAGGLE_PYTHON_CODE_EVENTS_H

#include "feed.h"
#include "python.h"
#include "python_frames.h"
#include "python_judged.h"

#define TEXT_HEADER 24 /* of a str, from its length on: length, hash, state */
#define TABLE_PIECES 16
#define NAMES_READ 256 /* most names of a code object that are looked at */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} code_ring SEC(".maps");

INLINE struct waggle_code_event *begin_code_event(u8 kind, u64 id)
{
	struct waggle_code_event *event =
		bpf_ringbuf_reserve(&code_ring, sizeof(*event), 0);
	void *blank = BLANK(struct waggle_code_event);

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

#endif
