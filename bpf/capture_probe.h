/* SPDX-License-Identifier: Apache-2.0
 *
 * Flavour B, `--capture probe`: where the kernel lets programs enter its own
 * functions (fentry, fexit). The same moments as flavour A, on kernels that lack
 * its tracepoints. A call that began before we attached ends unseen.
 */
#ifndef WAGGLE_CAPTURE_PROBE_H
#define WAGGLE_CAPTURE_PROBE_H

#include "endpoint.h"

SEC("fentry/tcp_sendmsg_locked")
int BPF_PROG(probe_send, struct sock *sk, struct msghdr *message, u64 size)
{
	struct connection *connection;
	struct call *call;

	if (!traced_mode())
		return 0;
	HOLD_CPU();
	call = call_of(SCRATCH_SEND);
	if (!call)
		return 0;
	put_address(&call->sk, sk);
	if (!tcp_call_by_address(call))
		return 0;
	connection = connection_of(call);
	if (!connection)
		return 0;
	iterator_by_address(message, &call->memory);
	on_call(connection, call);
	return 0;
}

/* inet_recvmsg and its IPv6 and UNIX likes are what recv, read and io_uring come to. */
INLINE void probe_receive(struct socket *socket, int result, int flags)
{
	u32 mode = traced_mode();
	struct call *call;

	if (!mode)
		return;
	HOLD_CPU();
	call = call_of(SCRATCH_RECEIVE);
	if (!call)
		return;
	call->sk = (u64)BPF_CORE_READ(socket, sk);
	call->result = result;
	call->flags = flags;
	call->mode = mode;
	current_arguments(call);
	on_receive_by_address(call);
}

SEC("fexit/inet_recvmsg")
int BPF_PROG(probe_receive_inet, struct socket *socket, struct msghdr *message, u64 size,
	     int flags, int result)
{
	probe_receive(socket, result, flags);
	return 0;
}

SEC("fexit/inet6_recvmsg")
int BPF_PROG(probe_receive_inet6, struct socket *socket, struct msghdr *message, u64 size,
	     int flags, int result)
{
	probe_receive(socket, result, flags);
	return 0;
}

SEC("fexit/unix_stream_recvmsg")
int BPF_PROG(probe_receive_unix, struct socket *socket, struct msghdr *message, u64 size,
	     int flags, int result)
{
	probe_receive(socket, result, flags);
	return 0;
}

SEC("fentry/unix_stream_sendmsg")
int BPF_PROG(probe_send_unix, struct socket *socket, struct msghdr *message, u64 size)
{
	struct call *call;

	if (!traced_mode())
		return 0;
	HOLD_CPU();
	call = call_of(SCRATCH_UNIX);
	if (!call)
		return 0;
	call->sk = (u64)BPF_CORE_READ(socket, sk);
	iterator_by_address(message, &call->memory);
	on_unix_send(call);
	return 0;
}

SEC("fexit/unix_stream_sendmsg")
int BPF_PROG(probe_sent_unix, struct socket *socket, struct msghdr *message, u64 size,
	     int result)
{
	if (!traced_mode())
		return 0;
	HOLD_CPU();
	on_unix_sent((u64)BPF_CORE_READ(socket, sk), result);
	return 0;
}

#endif
