/* SPDX-License-Identifier: Apache-2.0
 *
 * Hands over whose request it is that goes out by FastCGI. That is not read beyond its first eight
 * bytes, which say what it is, and there is no span of it: what is called for it is part of the
 * request behind it, nginx's, say (carried.h).
 */
#ifndef WAGGLE_CARRY_H
#define WAGGLE_CARRY_H

#include "http1_exchange.h"

/* Version 1, FCGI_BEGIN_REQUEST, whose body is of 8 bytes. */
INLINE int begins_fastcgi(u64 word, u32 length)
{
	return length == 8 && (word & 0xffff) == 0x0101 && (word >> 32 & 0xffff) == 0x0800;
}

/* It goes out: for whom? Only what holds at once is handed over; that answers agree with rule `turn`
 * must show from the first on. */
INLINE void carry_on(struct feed *feed, const struct waggle_process *process)
{
	struct connection *connection = feed->connection;
	struct feed_state *state = &feed->scratch->state;
	struct waggle_facts *facts = &connection->current.record.facts;
	struct owner owner = {};
	u8 link;

	facts->tgid = feed->tgid;
	if (is_go(process))
		link = goroutine_parent(connection, feed->sock, 0, facts, &owner);
	else
		link = find_parent(connection, feed->tgid, feed->tid, facts, &owner);
	if (process->mode & WAGGLE_PROCESS_RULE_TURN && !turn_needs_proof(process)) {
		connection->flags |= CONNECTION_CARRIED;
		connection->asked = 2;
	}
	if (link != WAGGLE_LINK_THREAD && link != WAGGLE_LINK_TURN && link != WAGGLE_LINK_GOROUTINE)
		return;
	copy_span_id(facts->span_id, facts->parent_id);
	leave_handoff(connection, feed->sock, state->now, state->position + state->offset, facts);
}

/* It comes in, and the thread that reads it serves it. Two at a time are a loop's: that ends the
 * rule before either can be taken for the other. */
INLINE void carry_in(struct feed *feed, struct waggle_process *process)
{
	struct connection *connection = feed->connection;
	struct feed_state *state = &feed->scratch->state;
	struct trace_context *handed = &feed->scratch->handed;
	struct waggle_facts *facts = &connection->current.record.facts;
	struct thread *slot = thread_slot(feed->tid);
	struct owner before;

	if (!slot || process->thread_contradicts)
		return;
	if (carried_owner(feed->tid, &before)) {
		__sync_fetch_and_add(&process->thread_contradicts, 1);
		count(WAGGLE_COUNT_RULE_CONTRADICTED);
		return;
	}
	if (!take_handoff(connection, feed->sock, state->now, state->position + state->offset, handed))
		return;
	adopt(facts, handed, WAGGLE_LINK_SOCKET);
	copy_span_id(facts->span_id, handed->span_id);
	facts->sampling = handed->sampling;
	connection->current_index = 0;
	connection->current_used = 1;
	connection->owner_tid = feed->tid;
	connection->inode = inode_of((void *)feed->sock);
	connection->flags |= CONNECTION_CARRIED;
	connection->flags &= ~CONNECTION_ANSWERED;
	slot->carried = feed->sock;
}

/* A connection begins with what is not read. */
OUT_OF_LINE int carry(struct feed *feed)
{
	u32 tgid = feed->tgid;
	struct waggle_process *process = bpf_map_lookup_elem(&processes, &tgid);

	if (!process)
		return 0;
	if (feed->sent)
		carry_on(feed, process);
	else if (process->mode & WAGGLE_PROCESS_CARRIED)
		carry_in(feed, process);
	return 0;
}

#endif
