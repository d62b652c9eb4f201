/* SPDX-License-Identifier: Apache-2.0
 *
 * The current context of a Python thread (PEP 567), and what is known of it: every task of an
 * event loop has one of its own, and so has every greenlet; a copy descends from what it was
 * copied from.
 */
#ifndef WAGGLE_PYTHON_CONTEXT_H
#define WAGGLE_PYTHON_CONTEXT_H

#include "feed.h"
#include "threads.h"
#include "user_memory.h"

struct context_key {
	u64 address;
	u32 tgid;
	u32 reserved;
};

/* A context of Python, as long as its address is not used again. */
struct context {
	u64 generations[WAGGLE_CONTEXTS]; /* its own, then those it descends from */
	u64 addresses[WAGGLE_CONTEXTS]; /* where each of them is, or was */
	struct owner copied_for; /* what it serves, by prediction `copy` */
	struct owner writes_for; /* by prediction `writer` */
	u64 answered_sock; /* where it has answered last, */
	u64 answered_ns;   /* and when */
	u32 epoch;
	u32 open; /* requests it has read and not answered */
	u32 called; /* enum context_called */
	u32 own; /* what it has answered last it had read itself */
	u64 sock; /* on which it has read or answered last, */
	u32 many; /* and whether there were others before */
	u32 inherited; /* what it serves: that of the one it was copied from */
	u32 after_call; /* a bit for each that was copied from the next when that had called itself */
	u32 made; /* and for each that may have been made for a request, which had been read */
};

enum context_called {
	CALLED_BELOW = 1, /* in it, or in what was copied from it: its end is told */
	CALLED_ITSELF = 2,
};

MAP(python_processes, BPF_MAP_TYPE_HASH, 4096, u32, struct waggle_python, ON_DEMAND);
/* What is full forgets what was longest not used: such a call has no parent. */
MAP(contexts, BPF_MAP_TYPE_LRU_HASH, 32768, struct context_key, struct context, 0);

/* The address of the current thread's context, 0 when it has none or we cannot tell. */
PROVEN_ONCE u64 current_context(const struct waggle_python *python)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u64 state, context;

	if (!python)
		return 0;
	state = word_at(BPF_CORE_READ(task, thread.fsbase) + (s64)python->slot);
	if (state && python->indirect >= 0)
		state = word_at(state + python->indirect);
	context = state ? word_at(state + python->context) : 0;
	if (!context || word_at(context + python->type) != python->context_type)
		return 0;
	return context;
}

INLINE struct context *known_context(const struct waggle_python *python, u32 tgid, u64 address)
{
	struct context_key key = { .address = address, .tgid = tgid };
	struct context *context = bpf_map_lookup_elem(&contexts, &key);

	return context && context->epoch == python->epoch ? context : 0;
}

/* A context that begins now: odd where its birth was seen, even where it was not. */
INLINE struct context *new_context(const struct waggle_python *python, u32 tgid, u64 address,
					u64 odd)
{
	struct context_key key = { .address = address, .tgid = tgid };
	struct context *context = BLANK(struct context);

	if (!context)
		return 0;
	bpf_map_update_elem(&contexts, &key, context, BPF_ANY);
	context = bpf_map_lookup_elem(&contexts, &key);
	if (!context)
		return 0;
	context->generations[0] = (bpf_ktime_get_ns() & ~1ULL) | odd;
	context->addresses[0] = address;
	context->epoch = python->epoch;
	return context;
}

/* What is known of a context; one whose birth nobody saw begins now. */
OUT_OF_LINE struct context *context_at(const struct waggle_python *python, u32 tgid, u64 address)
{
	struct context *context = known_context(python, tgid, address);

	return context ? context : new_context(python, tgid, address, 0);
}

/* The process's entry while rule `task` may be tried on it. */
INLINE struct waggle_python *python_of(u32 tgid)
{
	struct waggle_python *python = bpf_map_lookup_elem(&python_processes, &tgid);

	return python && !python->too_many ? python : 0;
}

#endif
