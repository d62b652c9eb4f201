/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests that came by a protocol which nobody reads: FastCGI, or uWSGI's own. Whose they are was
 * handed over with their first byte (carry.h), and who reads that serves the request (rule `thread`).
 * Of the connection no more is known than whether it is there still.
 */
#ifndef WAGGLE_CARRIED_H
#define WAGGLE_CARRIED_H

#include "exchange.h"
#include "handoff.h"
#include "threads.h"

INLINE int is_carried(const struct connection *connection)
{
	u16 both = CONNECTION_DEAD | CONNECTION_CARRIED;

	return (connection->flags & both) == both;
}

/* Bytes pass on such a connection. What comes after an answer may be another request, and whose
 * is not known: neither for who reads it nor, under rule `turn`, for who has asked. */
INLINE void carried_passes(struct connection *connection, u32 sent)
{
	u32 is_answer = connection->current_used ? sent : !sent;

	if (is_answer)
		connection->flags |= CONNECTION_ANSWERED;
	else if (connection->flags & CONNECTION_ANSWERED)
		connection->flags &= ~CONNECTION_CARRIED;
	if (!is_carried(connection))
		connection->asked = 0;
}

/* Rule `turn`: what is read there is the answer to a request that was carried. */
INLINE int answers_carried(const struct connection *connection)
{
	return is_carried(connection) && !connection->current_used;
}

/* The request whose first bytes the thread has read, as long as its connection is open. */
OUT_OF_LINE int carried_owner(u32 tid, struct owner *owner)
{
	struct thread *slot = bpf_map_lookup_elem(&threads, &tid);
	struct connection *connection;
	u64 sock;

	if (!slot || !slot->carried || !owner)
		return 0;
	sock = slot->carried;
	connection = bpf_map_lookup_elem(&connections, &sock);
	if (!connection || !is_carried(connection) || connection->owner_tid != tid ||
	    !connection->inode || inode_of((void *)sock) != connection->inode) {
		slot->carried = 0;
		return 0;
	}
	if (!connection->current.record.facts.link) /* whose, nobody has said, or not yet */
		return 0;
	owner->sock = sock;
	owner->index = 0;
	owner->tid = tid;
	return 1;
}

INLINE int rule_carried(const struct waggle_process *process, u32 tid, struct owner *owner)
{
	if (!process->is_carried || process->thread_contradicts)
		return 0;
	return carried_owner(tid, owner);
}

#endif
