/* SPDX-License-Identifier: Apache-2.0
 *
 * How connections end: the peer closes, resets or falls silent, or we do. What
 * is open then becomes an exchange that says so.
 */
#ifndef WAGGLE_ENDING_H
#define WAGGLE_ENDING_H

#include "call.h"

#define EAGAIN 11
#define ECONNRESET 104
#define EPIPE 32
#define ETIMEDOUT 110

enum tcp_state { TCP_FIN_WAIT1 = 4, TCP_CLOSE = 7, TCP_CLOSE_WAIT = 8, TCP_LAST_ACK = 9 };

/* A body that lasts until the connection closes is complete when it does. */
INLINE void finish_until_close(struct connection *connection, u64 sock, u64 now)
{
	struct http1_stream *stream = response_stream(connection);

	if (stream->state != HTTP1_UNTIL_CLOSE || !open_requests(connection))
		return;
	stream->state = HTTP1_OVER;
	finish_exchange(connection, sock, now, WAGGLE_END_DONE);
}

/* A receive returned nothing or failed: `result` is 0 or minus an errno. */
OUT_OF_LINE int on_receive_end(struct connection *connection,
						    const struct endpoint *endpoint, s32 result)
{
	u64 now = bpf_ktime_get_ns();
	u64 sock = endpoint->sock, other = connection->peer_sock;
	struct connection *peer;

	if (connection->flags & CONNECTION_DEAD)
		return 0;
	if (result == -ECONNRESET || result == -ETIMEDOUT || result == -EPIPE) {
		end_open_exchanges(connection, sock, now,
				   result == -ETIMEDOUT ? WAGGLE_END_TIMED_OUT : WAGGLE_END_RESET);
		return 0;
	}
	if (result || !(endpoint->shutdown & RCV_SHUTDOWN))
		return 0;
	if (connection->family == AF_UNIX) {
		/* The only moment at which the other end's close can be seen. */
		peer = bpf_map_lookup_elem(&connections, &other);
		if (peer && peer->role == WAGGLE_ROLE_SERVER)
			finish_until_close(peer, other, now);
	}
	if (connection->role == WAGGLE_ROLE_CLIENT) {
		finish_until_close(connection, sock, now);
		end_open_exchanges(connection, sock, now, WAGGLE_END_PEER_CLOSED);
	}
	return 0;
}

INLINE void forget_connection(u64 sock)
{
	struct partial_key key = { .sock = sock };

	bpf_map_delete_elem(&partial_heads, &key);
	key.sent = 1;
	bpf_map_delete_elem(&partial_heads, &key);
	bpf_map_delete_elem(&connections, &sock);
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(tcp_destroy, struct sock *sk)
{
	u64 sock = (u64)sk, now;
	struct connection *connection = bpf_map_lookup_elem(&connections, &sock);
	int error;
	u8 end = WAGGLE_END_LOCAL_CLOSED;

	if (!connection)
		return 0;
	if (!(connection->flags & CONNECTION_DEAD)) {
		now = bpf_ktime_get_ns();
		error = sk->sk_err;
		if (error == ETIMEDOUT)
			end = WAGGLE_END_TIMED_OUT;
		else if (error == ECONNRESET || error == EPIPE)
			end = WAGGLE_END_RESET;
		else if (connection->flags & CONNECTION_PEER_CLOSED)
			end = WAGGLE_END_PEER_CLOSED;
		finish_until_close(connection, sock, now);
		end_open_exchanges(connection, sock, now, end);
	}
	forget_connection(sock);
	return 0;
}

/* connect() under rule `turn`: the first request is written later, when the
 * connection is there, but it belongs to whoever asked for it. */
INLINE void on_connect(struct sock *sk)
{
	u64 id = bpf_get_current_pid_tgid(), sock = (u64)sk;
	struct endpoint endpoint = { .sock = sock };
	struct connection *connection;

	if (!uses_turns(id >> 32))
		return;
	endpoint.family = sk->__sk_common.skc_family;
	connection = new_connection(&endpoint, 0, 1);
	if (!connection)
		return;
	connection->flags = CONNECTION_FRESH | CONNECTION_FROM_START;
	turn_of_thread((u32)id, &connection->turn_owner);
}

INLINE void on_listen(struct sock *sk);

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(tcp_state_change, struct sock *sk, int old_state, int new_state)
{
	u64 sock = (u64)sk;
	struct connection *connection;

	if (new_state == TCP_SYN_SENT) {
		on_connect(sk);
		return 0;
	}
	if (new_state == TCP_LISTEN) {
		on_listen(sk);
		return 0;
	}
	if (new_state != TCP_FIN_WAIT1 && new_state != TCP_LAST_ACK &&
	    new_state != TCP_CLOSE_WAIT && new_state != TCP_CLOSE)
		return 0;
	connection = bpf_map_lookup_elem(&connections, &sock);
	if (!connection || connection->flags & CONNECTION_DEAD)
		return 0;
	if (new_state == TCP_CLOSE_WAIT)
		connection->flags |= CONNECTION_PEER_CLOSED;
	else if (connection->role == WAGGLE_ROLE_SERVER)
		finish_until_close(connection, sock, bpf_ktime_get_ns());
	return 0;
}

#endif
