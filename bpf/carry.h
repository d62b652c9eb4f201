/* SPDX-License-Identifier: Apache-2.0
 *
 * Hands over whose request it is that goes out by FastCGI, or by uWSGI's own protocol. That is not
 * read beyond its first bytes, which say what it is, and there is no span of it: what is called for
 * it is part of the request behind it, nginx's, say (carried.h).
 */
#ifndef WAGGLE_CARRY_H
#define WAGGLE_CARRY_H

#include "http1_exchange.h"

/* Version 1, FCGI_BEGIN_REQUEST, whose body is of 8 bytes. */
INLINE int begins_fastcgi(u64 word, u32 length)
{
	return length == 8 && (word & 0xffff) == 0x0101 && (word >> 32 & 0xffff) == 0x0800;
}

/* Whose request it is that has come. */
INLINE void carried_for(struct waggle_facts *facts, const struct trace_context *handed)
{
	copy_span_id(facts->span_id, handed->span_id);
	facts->sampling = handed->sampling;
	adopt(facts, handed, WAGGLE_LINK_SOCKET);
}

/* The other end of a UNIX socket, if the beginning of this connection passes there now: what it has
 * begun with is judged once, and nobody asks again before he is answered. */
INLINE struct connection *carried_end(const struct connection *connection, u64 sock)
{
	struct connection *other = other_end(connection, sock);

	return other && is_carried(other) && !(other->flags & CONNECTION_ANSWERED) ? other : 0;
}

/* Of such a socket each end knows the other, so nothing is left anywhere: of sender and reader, who
 * may be on two CPUs, the one whose program comes last finds what the other has put down. */
OUT_OF_LINE int carry_over(const struct connection *sender, struct connection *reader)
{
	struct trace_context handed __attribute__((aligned(8))) = {};
	const struct waggle_facts *facts;

	if (!sender || !reader)
		return 0;
	facts = &sender->current.record.facts;
	if (sender->current_used || !facts->link || !reader->current_used ||
	    reader->current.record.facts.link)
		return 0;
	hand_on(&handed, facts);
	carried_for(&reader->current.record.facts, &handed);
	count(WAGGLE_COUNT_HANDOFF_FOUND);
	return 0;
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
	if (turn_needs_proof(process)) /* no answer that is read here could take it back */
		return;
	connection->flags |= CONNECTION_CARRIED | CONNECTION_DEAD;
	if (process->mode & WAGGLE_PROCESS_RULE_TURN)
		connection->asked = 2;
	if (link != WAGGLE_LINK_THREAD && link != WAGGLE_LINK_TURN && link != WAGGLE_LINK_GOROUTINE)
		return;
	copy_span_id(facts->span_id, facts->parent_id);
	facts->link = link;
	if (connection->family == AF_UNIX)
		carry_over(connection, carried_end(connection, feed->sock));
	else
		leave_handoff(connection, feed->sock, state->now,
			      state->position + state->offset, facts);
}

/* Whether the thread that reads such a request serves it, and nothing else until it is over. In PHP
 * always. uWSGI has loops that do not (gevent's, asyncio's), so its memory must say at this moment
 * that it runs its own. */
INLINE int serves_what_is_carried(const struct waggle_process *process, u32 tgid)
{
	struct waggle_scheduler *scheduler = bpf_map_lookup_elem(&schedulers, &tgid);

	if (scheduler && scheduler->held_at)
		return word_at(scheduler->held_at) == scheduler->function;
	return !!(process->mode & WAGGLE_PROCESS_CARRIED);
}

/* It comes in, and the thread that reads it serves it. Two at a time are a loop's: that ends the
 * rule before either can be taken for the other. */
INLINE void carry_in(struct feed *feed, struct waggle_process *process)
{
	struct connection *connection = feed->connection;
	struct feed_state *state = &feed->scratch->state;
	struct trace_context *handed = &feed->scratch->handed;
	struct waggle_facts *facts = &connection->current.record.facts;
	struct thread *slot;
	struct owner before;

	if (process->thread_contradicts || !serves_what_is_carried(process, feed->tgid))
		return;
	slot = thread_slot(feed->tid);
	if (!slot)
		return;
	if (carried_owner(feed->tid, &before)) {
		__sync_fetch_and_add(&process->thread_contradicts, 1);
		count(WAGGLE_COUNT_RULE_CONTRADICTED);
		return;
	}
	if (connection->family != AF_UNIX &&
	    !take_handoff(connection, feed->sock, state->now, state->position + state->offset,
			  handed))
		return;
	facts->link = WAGGLE_LINK_NONE;
	connection->current_index = 0;
	connection->current_used = 1;
	connection->owner_tid = feed->tid;
	connection->inode = inode_of((void *)feed->sock);
	connection->flags |= CONNECTION_CARRIED | CONNECTION_DEAD;
	connection->flags &= ~CONNECTION_ANSWERED;
	slot->carried = feed->sock;
	process->is_carried = 1;
	if (connection->family == AF_UNIX)
		carry_over(carried_end(connection, feed->sock), connection);
	else
		carried_for(facts, handed);
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
	else
		carry_in(feed, process);
	return 0;
}

#endif
