/* SPDX-License-Identifier: Apache-2.0
 *
 * What becomes of the exchanges that are open when their connection is no more.
 */
#ifndef WAGGLE_CLOSING_H
#define WAGGLE_CLOSING_H

#include "exchange.h"

/* A body that lasts until the connection closes is complete when it does. */
INLINE void finish_until_close(struct connection *connection, u64 sock, u64 now)
{
	struct http1_stream *stream = response_stream(connection);

	if (stream->state != HTTP1_UNTIL_CLOSE || !open_requests(connection))
		return;
	stream->state = HTTP1_OVER;
	finish_exchange(connection, sock, now, WAGGLE_END_DONE);
}

/* Whether the process that a connection belonged to is there no more. */
INLINE int is_gone(const struct connection *connection)
{
	u32 tgid = connection->tgid;

	return tgid && !bpf_map_lookup_elem(&processes, &tgid);
}

/* How what is open ends when this side closes. */
INLINE u8 local_end(const struct connection *connection)
{
	if (connection->flags & CONNECTION_PEER_CLOSED)
		return WAGGLE_END_PEER_CLOSED;
	return is_gone(connection) ? WAGGLE_END_PROCESS_EXIT : WAGGLE_END_LOCAL_CLOSED;
}

/* Nothing will be sent or received on this connection any more. */
PROVEN_ONCE int end_connection(struct connection *connection, u64 sock, u64 now, u32 end)
{
	if (!connection)
		return 0;
	if (end != WAGGLE_END_RESET && end != WAGGLE_END_TIMED_OUT)
		finish_until_close(connection, sock, now);
	end_open_exchanges(connection, sock, now, end);
	return 0;
}

#endif
