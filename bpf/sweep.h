/* SPDX-License-Identifier: Apache-2.0
 *
 * No hook sees a UNIX socket go, so user space runs this program now and then: it
 * ends what belongs to processes that are gone and forgets connections that have
 * been idle for long. One that wakes up again is found as any old connection is.
 */
#ifndef WAGGLE_SWEEP_H
#define WAGGLE_SWEEP_H

#include "ending.h"
#include "go_calls.h"
#include "http2_sweep.h"

#define UNIX_IDLE_NS (60ULL * 1000000000)
#define UNIX_OPEN_IDLE_NS (3600ULL * 1000000000)

struct sweep {
	u64 now;
	u64 removed;
};

/* By user space: nothing is captured any more, so what has an answer is over. */
MAP(sweep_last, BPF_MAP_TYPE_ARRAY, 1, u32, u32, 0);

INLINE u64 idle_of_opaque(const struct waggle_facts *facts, u64 sock)
{
	u32 zero = 0, *last = bpf_map_lookup_elem(&sweep_last, &zero);
	struct tls_connection *tls = tls_of(sock);

	if (last && *last)
		return 0;
	return tls && may_be_tickets(tls, facts) ? OPAQUE_TICKETS_NS : OPAQUE_IDLE_NS;
}

/* Who keeps his connection and says nothing more ends no exchange that nobody can read. */
INLINE void sweep_opaque(struct connection *connection, u64 sock, u64 now)
{
	struct found_exchange found;

	if (!is_tls(connection) || is_http2(connection) || connection->flags & CONNECTION_DEAD ||
	    connection->role != WAGGLE_ROLE_CLIENT || !open_requests(connection))
		return;
	if (find_exchange(connection, sock, connection->responses, &found) &&
	    found.facts->protocol == WAGGLE_PROTOCOL_OPAQUE && found.facts->response_ns &&
	    now - connection->last_ns >= idle_of_opaque(found.facts, sock))
		end_opaque(connection, sock);
}

/* A TCP socket that is no more, whose end passed unseen. */
INLINE int is_left_over(const struct connection *connection, u64 sock, u64 now)
{
	struct sock *sk = (void *)sock;

	return now - connection->last_ns > UNIX_IDLE_NS &&
	       BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_CLOSE && !BPF_CORE_READ(sk, sk_socket);
}

static long sweep_step(void *map, const u64 *key, struct connection *connection, void *context)
{
	struct sweep *sweep = context;
	u64 sock = *key, idle = sweep->now - connection->last_ns;
	int gone, closed;

	if (connection->last_ns > sweep->now)
		return 0;
	if (connection->family != AF_UNIX) {
		sweep_opaque(connection, sock, sweep->now);
		if (!is_left_over(connection, sock, sweep->now))
			return 0;
		forget_connection(connection, sock, local_end(connection));
		sweep->removed++;
		return 0;
	}
	gone = is_gone(connection);
	closed = unix_is_closed(sock, connection->peer_sock);
	if (!closed && unix_is_closed(connection->peer_sock, sock)) {
		connection->flags |= CONNECTION_PEER_CLOSED;
		closed = 1;
	}
	if (!gone && !closed &&
	    idle < (open_requests(connection) ? UNIX_OPEN_IDLE_NS : UNIX_IDLE_NS))
		return 0;
	forget_connection(connection, sock, local_end(connection));
	sweep->removed++;
	return 0;
}

/* Run by bpf_prog_test_run, attached to nothing. */
SEC("raw_tp/sweep")
int sweep_connections(void *context)
{
	struct sweep sweep = { .now = bpf_ktime_get_ns() };

	bpf_for_each_map_elem(&connections, sweep_step, &sweep, 0);
	sweep_http2(sweep.now);
	bpf_for_each_map_elem(&near_calls, sweep_go_call, &sweep, 0);
	return sweep.removed;
}

#endif
