/* SPDX-License-Identifier: Apache-2.0
 *
 * A handshake that failed becomes an exchange: it began with the client's greeting and
 * ended with the alert, and its parent is whoever would have been that of the request.
 */
#ifndef WAGGLE_TLS_FAILURE_H
#define WAGGLE_TLS_FAILURE_H

#include "tls_wire.h"

/* Where its request would have begun: both ends come to the same. */
INLINE void at_greeting(struct connection *connection, const struct tls_connection *tls, u32 sent)
{
	struct http1_stream *stream = sent ? &connection->sent : &connection->received;

	stream->head_ns = tls->seen_ns;
	stream->head_at = sent ? connection->sent_base : connection->received_base;
}

PROVEN_ONCE int tell_failure(struct connection *connection, u32 user, u64 sock)
{
	struct scratch *scratch = scratch_of(user);
	struct tls_connection *tls = tls_of(sock);
	struct found_exchange found;
	u32 sent;

	if (!connection || !scratch || !tls || !tls->role || open_requests(connection))
		return 0;
	sent = tls->role == WAGGLE_ROLE_CLIENT;
	connection->role = tls->role;
	at_greeting(connection, tls, sent);
	http1_start(&scratch->head, 0, 1);
	keep_server_name(&scratch->head, tls);
	if (on_request_head(connection, user, sock, sent))
		return 0;
	if (find_exchange(connection, sock, connection->responses, &found)) {
		found.facts->protocol = WAGGLE_PROTOCOL_TLS;
		found.facts->status = tls->alert;
		found.facts->local_port = tls->local_port;
	}
	finish_exchange(connection, sock, scratch->state.now, WAGGLE_END_DONE);
	connection->flags |= CONNECTION_DEAD;
	return 0;
}

#endif
