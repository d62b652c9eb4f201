/* SPDX-License-Identifier: Apache-2.0
 *
 * What each thread is busy with: the evidence behind the rules `thread` and `turn`
 * (docs/parents.md).
 *
 * Rule `thread`: a thread that read a request by a call that blocks serves that
 * connection and no other until it answers. An event loop never blocks in a read,
 * and Go's sockets never block, so neither ever enters here.
 *
 * Rule `turn`: on an event loop a write belongs to what was last read on the
 * thread since it last slept. Sleeping shows in the thread's own count of
 * voluntary context switches, so no system call has to be watched for it.
 */
#ifndef WAGGLE_THREADS_H
#define WAGGLE_THREADS_H

#include "node_turns.h"

OUT_OF_LINE struct thread *thread_slot(u32 tid)
{
	struct thread *slot = bpf_map_lookup_elem(&threads, &tid);

	if (slot)
		return slot;
	slot = BLANK(struct thread);
	if (slot)
		bpf_map_update_elem(&threads, &tid, slot, BPF_NOEXIST);
	return bpf_map_lookup_elem(&threads, &tid);
}

/* Returns 1 when the thread was already busy with another connection. */
INLINE int thread_enter(u32 tid, u64 sock)
{
	struct thread *slot = thread_slot(tid);

	if (!slot)
		return 0;
	__sync_fetch_and_add(&slot->open, 1);
	if (slot->open > 1)
		return 1;
	slot->sock = sock;
	return 0;
}

INLINE void thread_leave(u32 tid, u64 sock)
{
	struct thread *slot = bpf_map_lookup_elem(&threads, &tid);

	if (!slot || !slot->open)
		return;
	__sync_fetch_and_add(&slot->open, -1);
	if (slot->sock == sock)
		slot->sock = 0;
}

/* Names that servers of Java give to threads which read a request and serve it: Tomcat's,
 * Jetty's, and what Javalin calls those. Loops have other names. */
INLINE int is_named_worker(void)
{
	char name[16] = {};
	u64 word;

	bpf_get_current_comm(name, sizeof(name));
	word = load64((const u8 *)name);
	return BEGINS(word, "http-nio") || BEGINS(word, "https-js") || BEGINS(word, "qtp") ||
	       BEGINS(word, "JettySer");
}

/* And to those that serve what another thread has read: Undertow's, "XNIO-1 task-1". */
INLINE int is_named_answerer(void)
{
	char name[16] = {};

	bpf_get_current_comm(name, sizeof(name));
	return BEGINS(load64((const u8 *)name), "XNIO-") && name[7] == 't';
}

#define ALONE_STREAM (1U << 31) /* in alone_index: a stream of HTTP/2, whose number it is */

/* Whether the process's latest request was a stream. No other rule than `alone` knows of those
 * whose handler they belong to, but in Go. */
INLINE int serves_streams(const struct waggle_process *process)
{
	return !!(process->alone_index & ALONE_STREAM);
}

INLINE u64 voluntary_switches(void)
{
	return bpf_get_current_task_btf()->nvcsw;
}

/* Whether ends of turns are told although none was yet: on the thread that a Node.js has begun
 * with, which runs its loop, from when it is looked into. An idle one may read first. */
INLINE int ends_are_told(u32 tid)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;

	return tid == tgid && bpf_map_lookup_elem(&node_machines, &tgid);
}

/* The thread has read something that belongs to `owner` (or to nobody). Where that needs
 * proof it says nothing before it is known that ends of turns are told. */
INLINE void turn_begin(u32 tid, const struct owner *owner, u32 needs_proof)
{
	struct thread *slot = thread_slot(tid);

	if (!slot)
		return;
	if (needs_proof && !slot->bounded) {
		if (!ends_are_told(tid))
			return;
		slot->bounded = 1;
	}
	slot->turn = *owner;
	slot->turn_switches = voluntary_switches();
	if (needs_proof)
		node_turn_begins(tid, owner);
}

/* The thread has read what no request can be in, a datagram: from here on it works on whatever asked
 * for that, a name to connect to, say, and nobody knows for whom. */
OUT_OF_LINE int turn_of_nobody(u32 mode)
{
	struct owner nobody = {};

	if (mode & WAGGLE_PROCESS_RULE_TURN)
		turn_begin((u32)bpf_get_current_pid_tgid(), &nobody,
			   mode & WAGGLE_PROCESS_PROVE_TURN);
	return 0;
}

/* Whose turn it is on this thread; `owner->sock` is 0 when nobody's. Where ends of turns are told
 * it may have slept within one, as for the collection of garbage. */
INLINE void turn_of_thread(u32 tid, struct owner *owner)
{
	struct thread *slot = bpf_map_lookup_elem(&threads, &tid);

	__builtin_memset(owner, 0, sizeof(*owner));
	if (slot && slot->turn.sock &&
	    (slot->bounded || slot->turn_switches == voluntary_switches()))
		*owner = slot->turn;
	else if (slot && slot->bounded)
		turn_of_immediate(tid, owner);
}

INLINE int same_owner(const struct owner *one, const struct owner *other)
{
	return one->sock == other->sock && one->index == other->index && one->tid == other->tid;
}

/* Something is written on a connection of a protocol that we do not know: what is read there
 * next belongs to the same request, unless another one asks before that. */
OUT_OF_LINE int carry_turn(u64 sock)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, &sock);
	struct owner owner;

	if (!connection || !connection->asked || !(connection->flags & CONNECTION_DEAD))
		return 0;
	turn_of_thread((u32)bpf_get_current_pid_tgid(), &owner);
	if (connection->flags & CONNECTION_ASKS && !same_owner(&owner, &connection->turn_owner))
		connection->flags |= CONNECTION_SHARED;
	connection->flags |= CONNECTION_ASKS;
	connection->asked = 2;
	connection->turn_owner = owner;
	return 0;
}

/* And something is read there. */
OUT_OF_LINE int carried_turn(u64 sock, u32 needs_proof)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, &sock);
	struct owner nobody = {};

	if (connection && connection->asked == 2 && connection->flags & CONNECTION_DEAD &&
	    !(connection->flags & CONNECTION_SHARED)) {
		connection->flags &= ~CONNECTION_ASKS;
		turn_begin((u32)bpf_get_current_pid_tgid(), &connection->turn_owner, needs_proof);
	} else {
		turn_begin((u32)bpf_get_current_pid_tgid(), &nobody, needs_proof);
	}
	return 0;
}

#endif
