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
#include "pass_on.h"

/* Arguments of the tracepoints; a hook may read no more than it has. */
enum send_argument { SEND_SOCK = 0, SEND_MESSAGE = 1, SEND_ROOM = 3 };
enum receive_argument { RECEIVE_SOCK = 0, RECEIVE_RESULT = 1, RECEIVE_FLAGS = 2 };
enum ready_argument { READY_SOCK = 0 };

SEC("raw_tp/tcp_sendmsg_locked")
int socket_send(struct bpf_raw_tracepoint_args *context)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 mode = traced_mode_of(id >> 32);

	if (mode)
		pass_on(context, SCRATCH_SEND, mode, id);
	return 0;
}

SEC("raw_tp/sock_recv_length")
int socket_receive(struct bpf_raw_tracepoint_args *context)
{
	u32 mode;
	u64 id;

	if (!worth_a_look(context->args[RECEIVE_RESULT], context->args[RECEIVE_FLAGS]))
		return 0;
	id = bpf_get_current_pid_tgid();
	mode = traced_mode_of(id >> 32);
	if (mode)
		pass_on(context, SCRATCH_RECEIVE, mode, id);
	return 0;
}

/* UNIX sockets: runs in the sender's context, with the receiver's socket, when the
 * bytes are queued and before anybody is woken. */
SEC("raw_tp/sk_data_ready")
int socket_unix_send(struct bpf_raw_tracepoint_args *context)
{
	struct sock *receiver;
	u32 mode;
	u64 id;

	if (!has_types())
		return 0;
	receiver = TYPED(struct sock, context->args[READY_SOCK]);
	if (receiver->__sk_common.skc_family != AF_UNIX || receiver->sk_type != SOCK_STREAM ||
	    receiver->__sk_common.skc_state == TCP_LISTEN)
		return 0;
	id = bpf_get_current_pid_tgid();
	mode = traced_mode_of(id >> 32);
	if (mode)
		pass_on(context, SCRATCH_UNIX, mode, id);
	return 0;
}

INLINE int is_tcp(const struct sock *sk)
{
	return sk->sk_protocol == IPPROTO_TCP && (sk->__sk_common.skc_family == AF_INET ||
						  sk->__sk_common.skc_family == AF_INET6);
}

/* The kernel has no room for more: it waits and comes again, or the caller does. */
INLINE int no_room(struct sock *sk, const struct connection *connection, u64 length)
{
	return counts_only(&connection->sent, length) && sk->sk_wmem_queued >= sk->sk_sndbuf;
}

INLINE void on_socket_send(struct bpf_raw_tracepoint_args *context, struct call *call)
{
	struct sock *sk = TYPED(struct sock, context->args[SEND_SOCK]);
	int room = context->args[SEND_ROOM];
	struct connection *connection;

	call->sk = context->args[SEND_SOCK];
	positions_direct(TYPED(struct tcp_sock, call->sk), &call->positions);
	tcp_endpoint(call, sk->__sk_common.skc_family);
	connection = connection_of(call);
	if (!connection) {
		if (call->mode & WAGGLE_PROCESS_PROVE_TURN)
			carry_turn(call->sk);
		return;
	}
	iterator_direct(TYPED(struct msghdr, context->args[SEND_MESSAGE]), &call->memory);
	if (connection->injected)
		watch_injected(connection, call);
	/* One turn of the kernel's loop copies no more than this, and comes again. */
	if (room > 0 && call->memory.length > (u32)room)
		call->memory.length = room;
	if (!no_room(sk, connection, call->memory.length))
		on_call(connection, call);
}

INLINE void on_socket_receive(struct bpf_raw_tracepoint_args *context, struct call *call)
{
	struct sock *sk = TYPED(struct sock, context->args[RECEIVE_SOCK]);

	call->sk = context->args[RECEIVE_SOCK];
	call->result = context->args[RECEIVE_RESULT];
	call->flags = context->args[RECEIVE_FLAGS];
	if (is_tcp(sk)) {
		positions_direct(TYPED(struct tcp_sock, call->sk), &call->positions);
		tcp_endpoint(call, sk->__sk_common.skc_family);
	} else if (sk->__sk_common.skc_family == AF_UNIX && sk->sk_type == SOCK_STREAM) {
		unix_call(call);
	} else {
		turn_of_nobody(call->mode);
		return;
	}
	current_arguments(call);
	on_receive(call);
}

INLINE void on_socket_unix_send(struct bpf_raw_tracepoint_args *context, struct call *call)
{
	call->peer = context->args[READY_SOCK];
	current_arguments(call);
	on_unix_queued(call);
}

/* Behind the three hooks above: attached to nothing. */
SEC("raw_tp/socket_call")
int socket_call(struct bpf_raw_tracepoint_args *context)
{
	struct call *call;

	if (!has_types())
		return 0;
	HOLD_CPU();
	call = take_over(context);
	if (!call)
		return 0;
	if (call->user == SCRATCH_SEND)
		on_socket_send(context, call);
	else if (call->user == SCRATCH_RECEIVE)
		on_socket_receive(context, call);
	else
		on_socket_unix_send(context, call);
	return 0;
}

#endif
