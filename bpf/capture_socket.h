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
	struct connection *connection;
	struct tcp_sock *tcp;
	struct call *call;

	if (!traced_mode())
		return 0;
	HOLD_CPU();
	tcp = bpf_skc_to_tcp_sock(sk);
	call = call_of(SCRATCH_SEND);
	if (!tcp || !call)
		return 0;
	put_address(&call->sk, sk);
	positions_direct(tcp, &call->positions);
	tcp_endpoint(call, sk->__sk_common.skc_family);
	connection = connection_of(call);
	if (!connection)
		return 0;
	iterator_direct(message, &call->memory);
	/* One turn of the kernel's loop copies no more than this, and comes again. */
	if (size_goal > 0 && call->memory.length > (u32)size_goal)
		call->memory.length = size_goal;
	if (no_room(sk, connection, call->memory.length))
		return 0;
	on_call(connection, call);
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(socket_receive, struct sock *sk, int result, int flags)
{
	struct tcp_sock *tcp;
	struct call *call;
	u32 mode;

	if (!worth_a_look(result, flags))
		return 0;
	mode = traced_mode();
	if (!mode)
		return 0;
	HOLD_CPU();
	call = call_of(SCRATCH_RECEIVE);
	if (!call)
		return 0;
	put_address(&call->sk, sk);
	call->result = result;
	call->flags = flags;
	call->mode = mode;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (tcp) {
		positions_direct(tcp, &call->positions);
		tcp_endpoint(call, sk->__sk_common.skc_family);
	} else if (sk->__sk_common.skc_family == AF_UNIX && sk->sk_type == SOCK_STREAM) {
		unix_call(call);
	} else {
		return 0;
	}
	current_arguments(call);
	on_receive(call);
	return 0;
}

/* UNIX sockets: runs in the sender's context, with the receiver's socket, when the
 * bytes are queued and before anybody is woken. */
SEC("tp_btf/sk_data_ready")
int BPF_PROG(socket_unix_send, struct sock *receiver)
{
	struct call *call;

	if (receiver->__sk_common.skc_family != AF_UNIX || receiver->sk_type != SOCK_STREAM ||
	    receiver->__sk_common.skc_state == TCP_LISTEN)
		return 0;
	if (!traced_mode())
		return 0;
	HOLD_CPU();
	call = call_of(SCRATCH_UNIX);
	if (!call)
		return 0;
	put_address(&call->peer, receiver);
	current_arguments(call);
	on_unix_queued(call);
	return 0;
}

#endif
