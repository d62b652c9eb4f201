/* SPDX-License-Identifier: Apache-2.0
 *
 * Flavour B, `--capture probe`: where the kernel lets programs enter its own
 * functions (fentry, fexit). The same moments as flavour A, on kernels that lack
 * its tracepoints.
 */
#ifndef WAGGLE_CAPTURE_PROBE_H
#define WAGGLE_CAPTURE_PROBE_H

#include "endpoint.h"

SEC("fentry/tcp_sendmsg_locked")
int BPF_PROG(probe_send, struct sock *sk, struct msghdr *message, u64 size)
{
	struct endpoint endpoint;
	struct positions positions;
	struct memory memory;
	struct connection *connection;
	u16 family;

	if (!traced_mode() || !tcp_positions_of(sk, &family, &positions))
		return 0;
	tcp_endpoint(&endpoint, address_of(sk), family, &positions);
	endpoint.position = positions.write_seq;
	connection = connection_of(&endpoint, 0, 1);
	if (!connection || connection->flags & CONNECTION_DEAD)
		return 0;
	iterator_by_address(message, &memory);
	on_call(connection, &endpoint, &memory, 1);
	return 0;
}

/* inet_recvmsg and its IPv6 and UNIX likes are what recv, read and io_uring come to. */
INLINE int probe_receive(struct socket *socket, int result, int flags)
{
	struct call_arguments arguments;
	struct receipt receipt = { .result = result, .flags = flags, .mode = traced_mode() };

	if (!receipt.mode)
		return 0;
	receipt.sk = BPF_CORE_READ(socket, sk);
	current_arguments(&arguments);
	on_receive_by_address(&receipt, &arguments);
	return 0;
}

SEC("fexit/inet_recvmsg")
int BPF_PROG(probe_receive_inet, struct socket *socket, struct msghdr *message, u64 size,
	     int flags, int result)
{
	return probe_receive(socket, result, flags);
}

SEC("fexit/inet6_recvmsg")
int BPF_PROG(probe_receive_inet6, struct socket *socket, struct msghdr *message, u64 size,
	     int flags, int result)
{
	return probe_receive(socket, result, flags);
}

SEC("fexit/unix_stream_recvmsg")
int BPF_PROG(probe_receive_unix, struct socket *socket, struct msghdr *message, u64 size,
	     int flags, int result)
{
	return probe_receive(socket, result, flags);
}

SEC("fentry/unix_stream_sendmsg")
int BPF_PROG(probe_send_unix, struct socket *socket, struct msghdr *message, u64 size)
{
	struct memory memory;

	if (!traced_mode())
		return 0;
	iterator_by_address(message, &memory);
	on_unix_send(BPF_CORE_READ(socket, sk), &memory);
	return 0;
}

SEC("fexit/unix_stream_sendmsg")
int BPF_PROG(probe_sent_unix, struct socket *socket, struct msghdr *message, u64 size,
	     int result)
{
	if (traced_mode())
		on_unix_sent(BPF_CORE_READ(socket, sk), result);
	return 0;
}

#endif
