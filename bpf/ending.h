/* SPDX-License-Identifier: Apache-2.0
 *
 * How connections end: the peer closes, resets or falls silent, or we do. What
 * is open then becomes an exchange that says so.
 */
#ifndef WAGGLE_ENDING_H
#define WAGGLE_ENDING_H

#include "call.h"
#include "hold_cpu.h"

#define EAGAIN 11
#define ECONNRESET 104
#define EPIPE 32
#define ETIMEDOUT 110
#define SHUTDOWN_BOTH 3

enum tcp_state {
	TCP_ESTABLISHED = 1,
	TCP_FIN_WAIT1 = 4,
	TCP_CLOSE = 7,
	TCP_CLOSE_WAIT = 8,
	TCP_LAST_ACK = 9,
};

/* A UNIX socket that was closed has lost its descriptor's side, or is another's. One that waits to be
 * accepted has no such side yet. */
INLINE int unix_is_closed(u64 sock, u64 peer)
{
	struct sock *sk = (void *)sock;
	struct unix_sock *end = (void *)sock;

	return (!BPF_CORE_READ(sk, sk_socket) &&
		BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_CLOSE) ||
	       (u64)BPF_CORE_READ(end, peer) != peer;
}

/* The reader of a UNIX connection sees its end: was the other side closed? */
INLINE void end_unix_peer(u64 sock, u64 other, u64 now)
{
	struct connection *peer = bpf_map_lookup_elem(&connections, &other);

	if (!peer || (peer->flags & CONNECTION_DEAD))
		return;
	if (peer->role == WAGGLE_ROLE_SERVER || unix_is_closed(other, sock))
		end_connection(peer, other, now, local_end(peer));
}

/* A receive returned nothing or failed: `result` is 0 or minus an errno. */
OUT_OF_LINE int on_receive_end(struct connection *connection, const struct endpoint *endpoint,
			       s32 result)
{
	u64 now = bpf_ktime_get_ns();
	u64 sock = endpoint->sock;

	if (connection->flags & CONNECTION_DEAD)
		return 0;
	if (result == -ECONNRESET || result == -ETIMEDOUT || result == -EPIPE) {
		end_open_exchanges(connection, sock, now,
				   result == -ETIMEDOUT ? WAGGLE_END_TIMED_OUT : WAGGLE_END_RESET);
		return 0;
	}
	if (result || !(endpoint->shutdown & RCV_SHUTDOWN))
		return 0;
	if (connection->family == AF_UNIX)
		end_unix_peer(sock, connection->peer_sock, now);
	connection->flags |= CONNECTION_PEER_CLOSED;
	if (connection->role == WAGGLE_ROLE_CLIENT)
		end_connection(connection, sock, now, WAGGLE_END_PEER_CLOSED);
	return 0;
}

INLINE void forget_connection(struct connection *connection, u64 sock, u8 end)
{
	let_go(connection, sock, end);
	bpf_map_delete_elem(&connections, &sock);
}

/* How what is open ends when the kernel has given a TCP connection up: the error that
 * the peer or the network caused, or our own closing. */
INLINE u8 tcp_end(const struct connection *connection, int error)
{
	if (error == ETIMEDOUT)
		return WAGGLE_END_TIMED_OUT;
	if (error == ECONNRESET || error == EPIPE)
		return WAGGLE_END_RESET;
	return local_end(connection);
}

/* Raw, here and below: a socket as a number can be given to what is proven once. */
SEC("raw_tp/tcp_destroy_sock")
int BPF_PROG(tcp_destroy, struct sock *sk)
{
	u64 sock = (u64)sk;
	struct connection *connection = bpf_map_lookup_elem(&connections, &sock);

	if (!connection)
		return 0;
	HOLD_CPU();
	forget_connection(connection, sock, tcp_end(connection, BPF_CORE_READ(sk, sk_err)));
	return 0;
}

INLINE int asks_who_connects(u32 mode)
{
	u32 told = WAGGLE_PROCESS_RULE_WORKER | WAGGLE_PROCESS_WORKER_TOLD;

	return mode & WAGGLE_PROCESS_RULE_TURN || (mode & told) == told;
}

/* In place of a request's owner: the worker, whose requests are known only by answers. */
INLINE void note_who_connects(u32 tid, u32 mode, struct owner *owner)
{
	if (mode & WAGGLE_PROCESS_RULE_TURN)
		turn_of_thread(tid, owner);
	else
		owner->sock = current_worker(mode);
}

/* connect() under rule `turn`: the first request is written later, when the
 * connection is there, but it belongs to whoever asked for it. */
INLINE void on_connect(struct sock *sk, u32 tid, u32 mode)
{
	struct endpoint endpoint = { .sock = (u64)sk };
	struct connection *connection;

	if (!asks_who_connects(mode))
		return;
	endpoint.family = BPF_CORE_READ(sk, __sk_common.skc_family);
	connection = new_connection(&endpoint, 1);
	if (!connection)
		return;
	connection->flags = CONNECTION_FRESH | CONNECTION_FROM_START;
	connection->asked = 1;
	note_who_connects(tid, mode, &connection->turn_owner);
}

INLINE void on_close(struct connection *connection, u64 sock, u8 end)
{
	end_connection(connection, sock, bpf_ktime_get_ns(), end);
	/* Its addresses are no more: the socket may connect again. */
	connection->current.record.facts.family = 0;
}

INLINE void on_listen(struct sock *sk);

/* Both sides have closed in order, but what came before waits to be read by a client that
 * holds the socket still: it said early that it would ask no more. */
INLINE int waits_to_be_read(const struct connection *connection, struct sock *sk)
{
	return connection->role == WAGGLE_ROLE_CLIENT && !BPF_CORE_READ(sk, sk_err) &&
	       BPF_CORE_READ(sk, sk_socket) && BPF_CORE_READ(sk, sk_receive_queue.qlen);
}

/* An interrupt may run this hook while it runs for a call, and then the kernel leaves its
 * program out. So what packets do to a connection must show elsewhere as well: in what is read,
 * in how a call closes, or when the socket goes. */
SEC("raw_tp/inet_sock_set_state")
int BPF_PROG(tcp_state_change, struct sock *sk, int old_state, int new_state)
{
	u64 sock = (u64)sk, id;
	struct connection *connection;
	u32 mode;

	HOLD_CPU();
	if (new_state == TCP_SYN_SENT) {
		id = bpf_get_current_pid_tgid();
		mode = mode_of(id >> 32);
		if (tls_wanted && mode)
			note_connecting(sock);
		on_connect(sk, (u32)id, mode);
		return 0;
	}
	if (tls_wanted && new_state == TCP_ESTABLISHED) {
		note_connected(sock);
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
	if (new_state == TCP_CLOSE_WAIT) {
		connection->flags |= CONNECTION_PEER_CLOSED;
		return 0;
	}
	if (new_state == TCP_LAST_ACK)
		connection->flags |= CONNECTION_PEER_CLOSED;
	if (new_state == TCP_CLOSE && waits_to_be_read(connection, sk))
		return 0;
	/* Closed, and not only its sending side: nothing can come any more. */
	if (new_state == TCP_CLOSE ||
	    (BPF_CORE_READ(sk, sk_shutdown) & SHUTDOWN_BOTH) == SHUTDOWN_BOTH)
		on_close(connection, sock, tcp_end(connection, BPF_CORE_READ(sk, sk_err)));
	else if (connection->role == WAGGLE_ROLE_SERVER)
		finish_until_close(connection, sock, bpf_ktime_get_ns());
	return 0;
}

#endif
