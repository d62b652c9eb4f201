/* SPDX-License-Identifier: Apache-2.0
 *
 * What a turn of Node.js's event loop leaves for an immediate. Node.js numbers whatever runs later
 * (async_hooks), one number after the other on each thread, whether somebody asks for them or not.
 * So each turn has given out a row of numbers, and the one that an immediate runs under tells
 * in which turn it was asked for: fetch waits for one before it uses a connection again.
 *
 * Immediates run after each poll, before timers and before anything is read again. The number of
 * a timer says less, since one may do anybody's work, again and again: it is not looked at.
 */
#ifndef WAGGLE_NODE_TURNS_H
#define WAGGLE_NODE_TURNS_H

#include "feed.h"

#define NODE_TURNS 128 /* of one round of the loop; what later ones of it leave is nobody's */

struct node_turn {
	u64 before; /* the number given out last when it began */
	struct owner owner;
};

struct node_thread {
	u64 numbers; /* where they are */
	u64 until;   /* the number given out last in the last of these turns */
	u32 count;
	u32 is_full;
	u64 runs_immediates;
	struct node_turn turns[NODE_TURNS];
};

/* As they stand in memory: doubles, none below 0, so their bits are in the same order. */
struct node_numbers {
	u64 running; /* 0: nothing that was asked for */
	u64 trigger;
	u64 last;
};

/* By process: where a pointer to its numbers is, in bytes from the handle that libuv calls after
 * each poll (probes/node). */
MAP(node_machines, BPF_MAP_TYPE_HASH, 1024, u32, s64, ON_DEMAND);
MAP(node_threads, BPF_MAP_TYPE_HASH, 1024, u32, struct node_thread, ON_DEMAND);
/* Never written: too large for the stack. */
MAP(blank_node_thread, BPF_MAP_TYPE_ARRAY, 1, u32, struct node_thread, 0);

/* Returns 0 where memory looks otherwise. */
INLINE int read_numbers(const struct node_thread *node, struct node_numbers *numbers)
{
	if (bpf_probe_read_user(numbers, sizeof(*numbers), (void *)node->numbers))
		return 0;
	return numbers->last && !(numbers->last >> 63) && numbers->running <= numbers->last;
}

/* Another turn begins on the thread; after immediates it is the first of a round. */
OUT_OF_LINE int node_turn_begins(u32 tid, const struct owner *owner)
{
	struct node_thread *node = bpf_map_lookup_elem(&node_threads, &tid);
	struct node_numbers numbers = {};
	struct node_turn *turn;

	if (!node || !owner)
		return 0;
	if (node->runs_immediates) {
		node->runs_immediates = 0;
		node->is_full = 0;
		node->count = 0;
	}
	if (node->is_full || !read_numbers(node, &numbers))
		return 0;
	node->until = numbers.last;
	if (node->count >= NODE_TURNS) {
		node->is_full = 1;
		return 0;
	}
	turn = &node->turns[masked(node->count, NODE_TURNS - 1)];
	turn->before = numbers.last;
	turn->owner = *owner;
	node->count++;
	return 0;
}

INLINE struct node_thread *node_thread_of(u32 tid)
{
	struct node_thread *node = bpf_map_lookup_elem(&node_threads, &tid);
	u32 zero = 0;

	if (node)
		return node;
	node = bpf_map_lookup_elem(&blank_node_thread, &zero);
	if (node)
		bpf_map_update_elem(&node_threads, &tid, node, BPF_NOEXIST);
	return bpf_map_lookup_elem(&node_threads, &tid);
}

/* A poll is over, and immediates run. `handle`: what libuv calls then. */
OUT_OF_LINE int node_round_ends(u32 tgid, u32 tid, u64 handle)
{
	s64 *at = bpf_map_lookup_elem(&node_machines, &tgid);
	struct node_thread *node = at ? node_thread_of(tid) : 0;
	struct node_numbers numbers = {};

	if (!node)
		return 0;
	if (node->runs_immediates) /* nothing was read since the last one */
		node->count = 0;
	node->numbers = 0;
	bpf_probe_read_user(&node->numbers, sizeof(node->numbers), (void *)(handle + *at));
	if (!read_numbers(node, &numbers))
		node->count = 0;
	else if (!node->is_full)
		node->until = numbers.last;
	node->runs_immediates = 1;
	return 0;
}

/* Whose turn has asked for the immediate that runs; nobody's where none runs. */
PROVEN_ONCE int turn_of_immediate(u32 tid, struct owner *owner)
{
	struct node_thread *node = bpf_map_lookup_elem(&node_threads, &tid);
	struct node_numbers numbers = {};
	u32 at = 0;

	if (!node || !owner || !node->runs_immediates || !node->count ||
	    !read_numbers(node, &numbers) || !numbers.running || numbers.running > node->until)
		return 0;
#pragma clang loop unroll(full)
	for (u32 step = NODE_TURNS / 2; step; step /= 2) {
		u32 next = at + step;

		if (next < node->count &&
		    node->turns[masked(next, NODE_TURNS - 1)].before < numbers.running)
			at = next;
	}
	if (node->turns[masked(at, NODE_TURNS - 1)].before < numbers.running)
		*owner = node->turns[masked(at, NODE_TURNS - 1)].owner;
	return 0;
}

#endif
