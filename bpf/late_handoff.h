/* SPDX-License-Identifier: Apache-2.0
 *
 * A request on a UNIX socket that was read before its sender's hook ran. The kernel
 * puts the bytes into the receiver's queue first and calls the tracepoint after, so
 * a reader on another CPU can be quicker by a microsecond or two: it finds no
 * hand-off and begins a trace of its own. The sender then sees that exchange open,
 * and makes it what it is: its own child.
 */
#ifndef WAGGLE_LATE_HANDOFF_H
#define WAGGLE_LATE_HANDOFF_H

#include "handoff.h"

#define TOO_EARLY_NS 50000LL /* a reader that was this much earlier read something else */

/* Marks a request as having children, who have its trace id. */
#define HAS_CHILDREN 1

/* What the other end has open, if that can only be the request being sent now. */
INLINE struct open_exchange *read_too_early(const struct connection *connection, u64 sock, u64 now,
					    struct connection **receiver)
{
	struct connection *other = other_end(connection, sock);
	struct open_exchange *open;

	if (!other || other->role != WAGGLE_ROLE_SERVER || open_requests(connection) ||
	    open_requests(other) != 1 || !other->current_used ||
	    other->current_index != other->responses)
		return 0;
	*receiver = other;
	open = &other->current;
	if (open->record.facts.link || open->owner.tid == HAS_CHILDREN ||
	    (open->record.facts.flags & WAGGLE_FLAG_HAD_TRACEPARENT) ||
	    (s64)(now - open->record.facts.start_ns) > TOO_EARLY_NS)
		return 0;
	return open;
}

INLINE void become_child(struct waggle_facts *child, const struct trace_context *handed)
{
	child->flags &= ~WAGGLE_FLAG_UNSAMPLED;
	adopt(child, handed, WAGGLE_LINK_SOCKET);
	child->sampling = handed->sampling;
	child->flags |= WAGGLE_FLAG_REMOTE_PARENT;
}

/* Returns 1 when the receiver has the request already and is its child now. */
PROVEN_ONCE int hand_over_late(struct connection *connection, u64 sock, u64 now, u32 position,
			       struct waggle_facts *facts)
{
	struct trace_context handed __attribute__((aligned(8))) = {};
	struct connection *receiver = 0;
	struct open_exchange *open;

	if (!connection || !facts)
		return 0;
	open = read_too_early(connection, sock, now, &receiver);
	if (!open || !receiver)
		return 0;
	hand_on(&handed, facts);
	become_child(&open->record.facts, &handed);
	count(WAGGLE_COUNT_HANDOFF_FOUND);
	/* Sent before it was read, whenever the hooks ran. */
	if (open->record.facts.start_ns < facts->start_ns)
		facts->start_ns = open->record.facts.start_ns;
	connection->unix_delta = receiver->received.head_at - position;
	connection->flags |= CONNECTION_DELTA_KNOWN;
	return 1;
}

/* Whether the receiver has read and answered what is being sent here. Then its span is
 * written, and stays nobody's child. A receiver that only begins to read has not counted
 * it yet. Where one end has missed a request their counts differ for ever; but of an answer
 * that nobody waits for nothing is left to read. */
INLINE int answered_before(const struct connection *connection, u64 sock)
{
	const struct connection *other = other_end(connection, sock);

	return other && other->role == WAGGLE_ROLE_SERVER &&
	       other->responses == connection->requests + 1 &&
	       other->sent.next != connection->received.next;
}

/* Leaves the ids for the receiver. One that looked before they were there has its
 * exchange open after: whoever of the two comes last sees what the other did. */
INLINE void hand_over(struct connection *connection, u64 sock, u64 now, u32 position,
		      struct waggle_facts *facts)
{
	u32 is_unix = connection->family == AF_UNIX;

	/* Where the request was read already, the positions may be those of the next. */
	if (is_unix && hand_over_late(connection, sock, now, position, facts))
		return;
	offer_option(connection, now, position, facts);
	leave_handoff(connection, sock, now, position, facts);
	if (is_unix && !hand_over_late(connection, sock, now, position, facts) &&
	    answered_before(connection, sock))
		count(WAGGLE_COUNT_LOST_HANDOFF_TOO_LATE);
}

/* The receiver's part: its exchange is open now for the sender to see. */
INLINE void look_again(struct connection *connection, u64 sock, u32 position,
		       struct trace_context *handed)
{
	struct open_exchange *open = &connection->current;

	if (connection->family != AF_UNIX || !last_handoff_ns || !connection->current_used ||
	    connection->current_index != connection->requests - 1 || open->record.facts.link ||
	    (open->record.facts.flags & WAGGLE_FLAG_HAD_TRACEPARENT))
		return;
	if (find_handoff(connection, sock, position, handed, 0))
		become_child(&open->record.facts, handed);
}

#endif
