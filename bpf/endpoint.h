/* SPDX-License-Identifier: Apache-2.0
 *
 * What a socket tells about a call, and the parts of a call that several
 * flavours of capture share. `sk` is read by address: the verifier need not know
 * what it is, so all flavours can use the same code.
 */
#ifndef WAGGLE_ENDPOINT_H
#define WAGGLE_ENDPOINT_H

#include "process.h"
#include "syscalls.h"

/* The first sequence number of each direction: where it is now, less what passed.
 * The receiving side may move while we look, so look until it stood still. */
INLINE void read_bases(struct tcp_sock *tcp, struct endpoint *endpoint)
{
	u32 next = BPF_CORE_READ(tcp, rcv_nxt), again;

	endpoint->sent_base =
		BPF_CORE_READ(tcp, snd_nxt) -
		(u32)(BPF_CORE_READ(tcp, bytes_sent) - BPF_CORE_READ(tcp, bytes_retrans));
#pragma unroll
	for (int i = 0; i < 3; i++) {
		endpoint->received_base = next - (u32)BPF_CORE_READ(tcp, bytes_received);
		again = BPF_CORE_READ(tcp, rcv_nxt);
		if (again == next)
			break;
		next = again;
	}
}

/* The address of a socket as a number: a key, with which the verifier lets us count. */
INLINE u64 address_of(struct sock *sk)
{
	u64 address = 0;

	bpf_probe_read_kernel(&address, sizeof(address), &sk);
	return address;
}

/* Returns 0 where the socket is no TCP socket over IP. */
INLINE int tcp_endpoint(struct sock *sk, struct endpoint *endpoint)
{
	u64 sock = address_of(sk);
	struct connection *known;

	__builtin_memset(endpoint, 0, sizeof(*endpoint));
	if (BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	endpoint->sock = sock;
	endpoint->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (endpoint->family != AF_INET && endpoint->family != AF_INET6)
		return 0;
	known = bpf_map_lookup_elem(&connections, &sock);
	if (known && (known->sent.started || known->received.started)) {
		endpoint->sent_base = known->sent_base;
		endpoint->received_base = known->received_base;
	} else {
		read_bases((void *)sk, endpoint);
	}
	return 1;
}

INLINE u32 send_position(struct sock *sk)
{
	return BPF_CORE_READ((struct tcp_sock *)sk, write_seq);
}

INLINE int is_unix_stream(struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_family) == AF_UNIX &&
	       BPF_CORE_READ(sk, sk_type) == SOCK_STREAM;
}

/* Whether the next `length` bytes are body, so that only their number matters. */
INLINE int counts_only(const struct http1_stream *stream, u64 length)
{
	if (stream->state == HTTP1_UNTIL_CLOSE)
		return 1;
	return (stream->state == HTTP1_LENGTH || stream->state == HTTP1_CHUNK_DATA) &&
	       stream->remain >= length;
}

/* Whether the descriptor makes calls wait. */
INLINE int is_blocking(struct sock *sk, int flags)
{
	if (flags & MSG_DONTWAIT)
		return 0;
	return !(BPF_CORE_READ(sk, sk_socket, file, f_flags) & O_NONBLOCK);
}

INLINE void current_arguments(struct call_arguments *arguments)
{
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());

	arguments->number = BPF_CORE_READ(regs, orig_ax);
	arguments->second = BPF_CORE_READ(regs, si);
	arguments->third = BPF_CORE_READ(regs, dx);
	arguments->reserved = 0;
}

INLINE void on_receive_bytes(struct sock *sk, struct connection *connection,
			     struct endpoint *endpoint, u32 length, int flags,
			     const struct call_arguments *arguments)
{
	struct memory memory;

	memory_of_call(&memory, arguments);
	if (flags & MSG_TRUNC) { /* TCP: thrown away, not copied */
		memory.base = 0;
		memory.segments = 0;
	}
	memory.length = length;
	endpoint->blocking = is_blocking(sk, flags);
	on_call(connection, endpoint, &memory, 0);
}

INLINE void unix_endpoint(struct sock *sk, struct endpoint *endpoint)
{
	__builtin_memset(endpoint, 0, sizeof(*endpoint));
	endpoint->sock = address_of(sk);
	endpoint->family = AF_UNIX;
}

/* A receive has ended in `result` bytes, 0 or minus an errno. */
INLINE void on_receive(struct sock *sk, int result, int flags,
		       const struct call_arguments *arguments)
{
	struct endpoint endpoint;
	struct connection *connection;
	u64 peer = 0;
	u32 tgid = bpf_get_current_pid_tgid() >> 32;

	if (flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE))
		return;
	if (!tcp_endpoint(sk, &endpoint)) {
		if (!is_unix_stream(sk))
			return;
		unix_endpoint(sk, &endpoint);
		peer = (u64)BPF_CORE_READ((struct unix_sock *)sk, peer);
	}
	endpoint.shutdown = BPF_CORE_READ(sk, sk_shutdown);
	if (result <= 0) {
		connection = bpf_map_lookup_elem(&connections, &endpoint.sock);
		if (connection) {
			if (uses_turns(tgid))
				remember_turn(connection, endpoint.sock);
			on_receive_end(connection, &endpoint, result);
		}
		return;
	}
	if (endpoint.family != AF_UNIX)
		endpoint.position = BPF_CORE_READ((struct tcp_sock *)sk, copied_seq) - result;
	connection = connection_of(&endpoint, peer, 0);
	if (!connection || connection->flags & CONNECTION_DEAD)
		return;
	if (endpoint.family == AF_UNIX)
		endpoint.position = connection->received.next;
	on_receive_bytes(sk, connection, &endpoint, result, flags, arguments);
	if (uses_turns(tgid))
		remember_turn(connection, endpoint.sock);
}

/* The message's iterator: what is left to send, at this turn of the kernel's loop. */
INLINE void message_iterator(struct msghdr *message, struct memory *memory)
{
	struct iov_iter___before_6_4 *old = (void *)&message->msg_iter;
	u8 type = BPF_CORE_READ(message, msg_iter.iter_type);
	u64 iovec_type = bpf_core_enum_value_exists(enum iter_type, ITER_IOVEC) ?
				 bpf_core_enum_value(enum iter_type, ITER_IOVEC) :
				 1;

	__builtin_memset(memory, 0, sizeof(*memory));
	memory->length = BPF_CORE_READ(message, msg_iter.count);
	memory->skip = BPF_CORE_READ(message, msg_iter.iov_offset);
	if (type == iovec_type) {
		memory->segments = BPF_CORE_READ(message, msg_iter.nr_segs);
		memory->in_kernel = 1;
		memory->vector = bpf_core_field_exists(message->msg_iter.__iov) ?
					 BPF_CORE_READ(message, msg_iter.__iov) :
					 BPF_CORE_READ(old, iov);
		return;
	}
	if (bpf_core_enum_value_exists(enum iter_type, ITER_UBUF) &&
	    type == bpf_core_enum_value(enum iter_type, ITER_UBUF))
		memory->base = BPF_CORE_READ(message, msg_iter.ubuf);
	else
		memory->skip = 0; /* pages of the kernel's, as sendfile and splice give */
}

/* How much the kernel puts into one buffer of a UNIX stream: half the send buffer
 * less 64, and 32 KiB beyond what fits a page (net/unix/af_unix.c). */
#define UNIX_PIECE_MAX (3776 + 32768)

INLINE u32 unix_piece(u64 left, int send_buffer)
{
	u32 most = (send_buffer >> 1) - 64;

	if (most > UNIX_PIECE_MAX)
		most = UNIX_PIECE_MAX;
	return left < most ? left : most;
}

/* Some bytes of a call were queued on a UNIX connection: which ones? A call larger
 * than one buffer comes here once per buffer. */
INLINE void on_unix_queued(struct sock *receiver, const struct call_arguments *arguments)
{
	struct sock *sk = BPF_CORE_READ((struct unix_sock *)receiver, peer);
	struct endpoint endpoint;
	struct connection *connection;
	struct memory memory;
	u64 whole;
	u32 piece;

	if (!sk)
		return;
	unix_endpoint(sk, &endpoint);
	connection = connection_of(&endpoint, (u64)receiver, 1);
	if (!connection || connection->flags & CONNECTION_DEAD)
		return;
	memory_of_call(&memory, arguments);
	whole = requested_length(arguments, &memory);
	if (!connection->unix_left || connection->unix_call != (arguments->second ^ whole)) {
		connection->unix_left = whole;
		connection->unix_call = arguments->second ^ whole;
		unix_learn_delta(connection, 1);
	}
	memory.skip = whole - connection->unix_left;
	piece = unix_piece(connection->unix_left, BPF_CORE_READ(sk, sk_sndbuf));
	connection->unix_left -= piece;
	memory.length = piece;
	endpoint.position = connection->sent.next;
	on_call(connection, &endpoint, &memory, 1);
}

/* Flavours that see a UNIX call before it is done feed it whole; what the kernel
 * then refuses will be sent again and must not be fed twice. */
INLINE void on_unix_send(struct sock *sk, struct memory *memory)
{
	struct endpoint endpoint;
	struct connection *connection;
	u64 peer = (u64)BPF_CORE_READ((struct unix_sock *)sk, peer);

	if (!peer || !is_unix_stream(sk))
		return;
	unix_endpoint(sk, &endpoint);
	connection = connection_of(&endpoint, peer, 1);
	if (!connection || connection->flags & CONNECTION_DEAD)
		return;
	unix_learn_delta(connection, 0);
	endpoint.position = connection->sent.next - connection->unix_resend;
	connection->unix_left = memory->length;
	on_call(connection, &endpoint, memory, 1);
}

INLINE void on_unix_sent(struct sock *sk, long result)
{
	u64 sock = (u64)sk;
	struct connection *connection = bpf_map_lookup_elem(&connections, &sock);
	u32 sent = result > 0 ? result : 0;

	if (!connection || connection->family != AF_UNIX ||
	    connection->flags & CONNECTION_DEAD)
		return;
	/* What has been fed beyond what was taken comes again. */
	if (connection->unix_left > connection->unix_resend)
		connection->unix_resend = connection->unix_left;
	connection->unix_resend -= sent < connection->unix_resend ? sent : connection->unix_resend;
}

#endif
