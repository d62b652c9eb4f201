/* SPDX-License-Identifier: Apache-2.0
 *
 * Encrypted exchanges of a client whose plaintext no library shows us: what it sends until it is
 * answered, and the answer until it sends again. Over HTTP/1 that is a request; over HTTP/2 what
 * is asked and answered at the same time is one. It ends when something else is sent, when
 * nothing has passed for a second (sweep.h), or with its connection.
 */
#ifndef WAGGLE_TLS_OPAQUE_H
#define WAGGLE_TLS_OPAQUE_H

#include "http1_exchange.h"
#include "tls_maps.h"

#define OPAQUE_IDLE_NS 1000000000ULL
#define OPAQUE_TICKETS_NS (30 * OPAQUE_IDLE_NS)
#define OPAQUE_TICKETS 2048 /* bytes: OpenSSL's two are 500 */

const volatile u32 opaque_rate = 1000; /* exchanges a second */

INLINE void begin_opaque(struct connection *connection, struct tls_connection *tls, u32 user,
			 u64 sock)
{
	struct scratch *scratch = scratch_of(user);
	struct found_exchange found;

	if (!scratch)
		return;
	if (!within_budget(TLS_BUDGET_OPAQUE, opaque_rate)) {
		count(WAGGLE_COUNT_LOST_OPAQUE_RATE);
		return;
	}
	connection->role = WAGGLE_ROLE_CLIENT;
	connection->sent.head_ns = scratch->state.now;
	connection->sent.head_at = tls->burst_at;
	http1_start(&scratch->head, 0, 1);
	if (on_request_head(connection, user, sock, SENT) ||
	    !find_exchange(connection, sock, connection->requests - 1, &found))
		return;
	found.facts->protocol = WAGGLE_PROTOCOL_OPAQUE;
	found.facts->request_body = tls->burst;
	found.facts->end_ns = found.facts->start_ns;
	tls->opaque = 1;
	tls->begun++;
	count(WAGGLE_COUNT_OPAQUE);
}

/* Nothing more belongs to an exchange that nobody could read. */
PROVEN_ONCE int end_opaque(struct connection *connection, u64 sock)
{
	struct tls_connection *tls = tls_of(sock);

	if (!connection || !tls || !tls->opaque)
		return 0;
	tls->opaque = 0;
	if (open_requests(connection))
		finish_exchange(connection, sock, bpf_ktime_get_ns(), WAGGLE_END_DONE);
	return 0;
}

/* A server of TLS 1.3 sends tickets once the handshake is over: what has come so far may be
 * those, and the answer be on its way. */
INLINE int may_be_tickets(const struct tls_connection *tls, const struct waggle_facts *facts)
{
	return tls->version == TLS_1_3 && tls->begun == 1 && facts->response_body < OPAQUE_TICKETS;
}

/* What is sent belongs to the exchange that is open. Else that one is over; or nothing has ever
 * answered it, and it was no request. */
INLINE int goes_on(struct connection *connection, struct waggle_facts *facts, u64 sock,
		   const struct tls_connection *tls, u64 now)
{
	if (facts->response_ns) {
		end_opaque(connection, sock);
		return 0;
	}
	if (now - facts->end_ns > OPAQUE_IDLE_NS) {
		forget_exchange(connection, sock, connection->responses);
		connection->responses++;
		count(WAGGLE_COUNT_OPAQUE_UNANSWERED);
		return 0;
	}
	facts->request_body += tls->burst;
	facts->end_ns = now;
	return 1;
}

INLINE void come_back(struct waggle_facts *facts, const struct tls_connection *tls, u64 now)
{
	if (!facts->response_ns)
		facts->response_ns = now;
	facts->response_body += tls->burst;
	facts->end_ns = now;
}

/* Data has begun to pass of a connection of a client that nobody can read. */
PROVEN_ONCE int pass_opaque(struct connection *connection, u32 user, u64 sock, u32 sent)
{
	struct tls_connection *tls = tls_of(sock);
	u64 now = bpf_ktime_get_ns();
	struct found_exchange found;

	if (!connection || !tls || !(connection->flags & CONNECTION_FROM_START))
		return 0;
	/* The sweep may have ended it at the same moment. */
	if (open_requests(connection) > 1)
		connection->responses = connection->requests;
	if (!open_requests(connection) ||
	    !find_exchange(connection, sock, connection->responses, &found))
		tls->opaque = 0;
	else if (!sent)
		come_back(found.facts, tls, now);
	else if (goes_on(connection, found.facts, sock, tls, now))
		return 0;
	if (sent)
		begin_opaque(connection, tls, user, sock);
	return 0;
}

#endif
