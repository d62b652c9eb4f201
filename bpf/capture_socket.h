/* SPDX-License-Identifier: Apache-2.0
 *
 * Flavour A, `--capture socket` (Linux 6.16): tracepoints in the socket layer.
 * A process that nobody traces pays nothing for its system calls. Sending is
 * seen under the socket's lock before the bytes are copied, with the exact
 * position in the stream; receiving after they were.
 */
#ifndef WAGGLE_CAPTURE_SOCKET_H
#define WAGGLE_CAPTURE_SOCKET_H

#include "endpoint.h"

/* The kernel has no room for more: it waits and comes again, or the caller does. */
INLINE int no_room(struct sock *sk, const struct connection *connection, u64 length)
{
	return counts_only(&connection->sent, length) && sk->sk_wmem_queued >= sk->sk_sndbuf;
}

SEC("tp_btf/tcp_sendmsg_locked")
int BPF_PROG(socket_send, struct sock *sk, struct msghdr *message, void *skb, int size_goal)
{
	struct endpoint endpoint;
	struct positions positions;
	struct memory memory;
	struct connection *connection;
	struct tcp_sock *tcp;

	if (!traced_mode())
		return 0;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp)
		return 0;
	positions_direct(tcp, &positions);
	tcp_endpoint(&endpoint, address_of(sk), sk->__sk_common.skc_family, &positions);
	endpoint.position = positions.write_seq;
	connection = connection_of(&endpoint, 0, 1);
	if (!connection || connection->flags & CONNECTION_DEAD)
		return 0;
	iterator_direct(message, &memory);
	/* One turn of the kernel's loop copies no more than this, and comes again. */
	if (size_goal > 0 && memory.length > (u32)size_goal)
		memory.length = size_goal;
	if (no_room(sk, connection, memory.length))
		return 0;
	on_call(connection, &endpoint, &memory, 1);
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(socket_receive, struct sock *sk, int result, int flags)
{
	struct receipt receipt = { .sk = sk, .result = result, .flags = flags };
	struct call_arguments arguments;
	struct endpoint endpoint;
	struct positions positions;
	struct tcp_sock *tcp;

	if (!worth_a_look(result, flags))
		return 0;
	receipt.mode = traced_mode();
	if (!receipt.mode)
		return 0;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (tcp) {
		positions_direct(tcp, &positions);
		tcp_endpoint(&endpoint, address_of(sk), sk->__sk_common.skc_family, &positions);
		endpoint.position = positions.copied_seq - result;
	} else if (sk->__sk_common.skc_family == AF_UNIX && sk->sk_type == SOCK_STREAM) {
		unix_endpoint(sk, &endpoint);
		receipt.peer = (u64)BPF_CORE_READ((struct unix_sock *)sk, peer);
	} else {
		return 0;
	}
	current_arguments(&arguments);
	on_receive(&endpoint, &receipt, &arguments);
	return 0;
}

/* UNIX sockets: runs in the sender's context, with the receiver's socket, when the
 * bytes are queued and before anybody is woken. */
SEC("tp_btf/sk_data_ready")
int BPF_PROG(socket_unix_send, struct sock *receiver)
{
	struct call_arguments arguments;

	if (receiver->__sk_common.skc_family != AF_UNIX || receiver->sk_type != SOCK_STREAM ||
	    receiver->__sk_common.skc_state == TCP_LISTEN)
		return 0;
	if (!traced_mode())
		return 0;
	current_arguments(&arguments);
	on_unix_queued(receiver, &arguments);
	return 0;
}

#endif
