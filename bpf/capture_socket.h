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

SEC("tp_btf/tcp_sendmsg_locked")
int BPF_PROG(socket_send, struct sock *sk, struct msghdr *message, void *skb, int size_goal)
{
	struct endpoint endpoint;
	struct memory memory;
	struct connection *connection;

	if (!is_traced(bpf_get_current_pid_tgid() >> 32))
		return 0;
	if (!tcp_endpoint(sk, &endpoint))
		return 0;
	endpoint.position = send_position(sk);
	connection = connection_of(&endpoint, 0, 1);
	if (!connection || connection->flags & CONNECTION_DEAD)
		return 0;
	message_iterator(message, &memory);
	/* One turn of the kernel's loop copies no more than this, and comes again. */
	if (size_goal > 0 && memory.length > (u32)size_goal)
		memory.length = size_goal;
	if (counts_only(&connection->sent, memory.length) &&
	    sk->sk_wmem_queued >= sk->sk_sndbuf)
		return 0; /* no room: the kernel waits and comes again, or the caller does */
	on_call(connection, &endpoint, &memory, 1);
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(socket_receive, struct sock *sk, int result, int flags)
{
	struct call_arguments arguments;

	if (!is_traced(bpf_get_current_pid_tgid() >> 32))
		return 0;
	current_arguments(&arguments);
	on_receive(sk, result, flags, &arguments);
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
	if (!is_traced(bpf_get_current_pid_tgid() >> 32))
		return 0;
	current_arguments(&arguments);
	on_unix_queued(receiver, &arguments);
	return 0;
}

#endif
