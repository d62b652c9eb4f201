/* SPDX-License-Identifier: Apache-2.0
 *
 * What a socket tells about a call, and the parts of a call that several
 * flavours of capture share. `sk` is read by address: the verifier need not know
 * what it is, so all flavours can use the same code.
 */
#ifndef WAGGLE_ENDPOINT_H
#define WAGGLE_ENDPOINT_H

#include "ending.h"
#include "process.h"
#include "syscalls.h"

/* Where a TCP socket is in its two streams. */
struct positions {
	u32 sent_base; /* first sequence number of each direction */
	u32 received_base;
	u32 write_seq;
	u32 copied_seq;
};

#define READ_DIRECT(pointer, field) ((pointer)->field)
#define READ_BY_ADDRESS(pointer, field) BPF_CORE_READ(pointer, field)

/* A base is where a direction is now, less what passed. The receiving side may move
 * while we look, so look until it stood still. */
#define DEFINE_POSITIONS(name, READ)                                                       \
	INLINE void name(struct tcp_sock *tcp, struct positions *positions)                \
	{                                                                                  \
		u32 next = READ(tcp, rcv_nxt), again;                                      \
                                                                                           \
		positions->write_seq = READ(tcp, write_seq);                               \
		positions->copied_seq = READ(tcp, copied_seq);                             \
		positions->sent_base = READ(tcp, snd_nxt) - (u32)READ(tcp, bytes_sent) +   \
				       (u32)READ(tcp, bytes_retrans);                      \
		for (int i = 0; i < 3; i++) {                                              \
			positions->received_base = next - (u32)READ(tcp, bytes_received);  \
			again = READ(tcp, rcv_nxt);                                        \
			if (again == next)                                                 \
				break;                                                     \
			next = again;                                                      \
		}                                                                          \
	}

/* For flavours whose socket the verifier knows, and for those that found it. */
DEFINE_POSITIONS(positions_direct, READ_DIRECT)
DEFINE_POSITIONS(positions_by_address, READ_BY_ADDRESS)

/* The address of a socket as a number: a key, with which the verifier lets us count. */
INLINE u64 address_of(struct sock *sk)
{
	u64 address = 0;

	bpf_probe_read_kernel(&address, sizeof(address), &sk);
	return address;
}

INLINE void tcp_endpoint(struct endpoint *endpoint, u64 sock, u16 family,
			 const struct positions *positions)
{
	__builtin_memset(endpoint, 0, sizeof(*endpoint));
	endpoint->sock = sock;
	endpoint->family = family;
	endpoint->sent_base = positions->sent_base;
	endpoint->received_base = positions->received_base;
}

/* Returns 0 where the socket is no TCP socket over IP. */
INLINE int tcp_positions_of(struct sock *sk, u16 *family, struct positions *positions)
{
	if (BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	*family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (*family != AF_INET && *family != AF_INET6)
		return 0;
	positions_by_address((void *)sk, positions);
	return 1;
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

INLINE void unix_endpoint(struct sock *sk, struct endpoint *endpoint)
{
	__builtin_memset(endpoint, 0, sizeof(*endpoint));
	endpoint->sock = address_of(sk);
	endpoint->family = AF_UNIX;
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

	arguments->number = regs->orig_ax;
	arguments->second = regs->si;
	arguments->third = regs->dx;
	arguments->reserved = 0;
}

/* What a receiving call came to. */
struct receipt {
	struct sock *sk;
	u64 peer; /* UNIX sockets */
	s32 result; /* bytes, 0 or minus an errno */
	u32 flags;
	u32 mode; /* of the process */
	u32 reserved;
};

INLINE int worth_a_look(s32 result, u32 flags)
{
	return result != -EAGAIN && !(flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE));
}

INLINE void received_nothing(struct endpoint *endpoint, const struct receipt *receipt)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, &endpoint->sock);
	struct sock *sk = receipt->sk;

	if (!connection)
		return;
	endpoint->shutdown = BPF_CORE_READ(sk, sk_shutdown);
	if (receipt->mode & WAGGLE_PROCESS_RULE_TURN)
		remember_turn(connection, endpoint->sock);
	on_receive_end(connection, endpoint, receipt->result);
}

/* A receive has ended; `endpoint` knows its position, if it is TCP. */
INLINE void on_receive(struct endpoint *endpoint, const struct receipt *receipt,
		       const struct call_arguments *arguments)
{
	struct connection *connection;
	struct memory memory;
	struct sock *sk = receipt->sk;

	if (receipt->result <= 0) {
		received_nothing(endpoint, receipt);
		return;
	}
	connection = connection_of(endpoint, receipt->peer, 0);
	if (!connection || connection->flags & CONNECTION_DEAD)
		return;
	if (endpoint->family == AF_UNIX)
		endpoint->position = connection->received.next;
	else if (endpoint->position != connection->received.next)
		endpoint->shutdown = BPF_CORE_READ(sk, sk_shutdown);
	memory_of_call(&memory, arguments);
	if (receipt->flags & MSG_TRUNC) { /* TCP: thrown away, not copied */
		memory.base = 0;
		memory.segments = 0;
	}
	memory.length = receipt->result;
	if (receipt->mode & WAGGLE_PROCESS_RULE_THREAD)
		endpoint->blocking = is_blocking(sk, receipt->flags);
	on_call(connection, endpoint, &memory, 0);
	if (receipt->mode & WAGGLE_PROCESS_RULE_TURN)
		remember_turn(connection, endpoint->sock);
}

/* The same for flavours that have nothing but the socket's address. */
INLINE void on_receive_by_address(struct receipt *receipt, const struct call_arguments *arguments)
{
	struct endpoint endpoint;
	struct positions positions;
	struct sock *sk = receipt->sk;
	u16 family;

	if (!worth_a_look(receipt->result, receipt->flags))
		return;
	if (tcp_positions_of(sk, &family, &positions)) {
		tcp_endpoint(&endpoint, address_of(sk), family, &positions);
		endpoint.position = positions.copied_seq - receipt->result;
	} else if (is_unix_stream(sk)) {
		unix_endpoint(sk, &endpoint);
		receipt->peer = (u64)BPF_CORE_READ((struct unix_sock *)sk, peer);
	} else {
		return;
	}
	on_receive(&endpoint, receipt, arguments);
}

/* The message's iterator: what is left to send, at this turn of the kernel's loop.
 * Pages of the kernel's, as sendfile and splice give, stay unreadable. */
#define DEFINE_ITERATOR(name, READ)                                                        \
	INLINE void name(struct msghdr *message, struct memory *memory)                    \
	{                                                                                  \
		struct iov_iter___before_6_4 *old = (void *)&message->msg_iter;            \
		u8 type = READ(message, msg_iter.iter_type);                               \
                                                                                           \
		__builtin_memset(memory, 0, sizeof(*memory));                              \
		memory->length = READ(message, msg_iter.count);                            \
		if (type == bpf_core_enum_value(enum iter_type, ITER_IOVEC)) {             \
			memory->skip = READ(message, msg_iter.iov_offset);                 \
			memory->segments = READ(message, msg_iter.nr_segs);                \
			memory->in_kernel = VECTOR_IN_KERNEL;                                             \
			if (bpf_core_field_exists(message->msg_iter.__iov))                \
				memory->vector = READ(message, msg_iter.__iov);            \
			else                                                               \
				memory->vector = BPF_CORE_READ(old, iov);                  \
		} else if (bpf_core_enum_value_exists(enum iter_type, ITER_UBUF) &&        \
			   type == bpf_core_enum_value(enum iter_type, ITER_UBUF)) {       \
			memory->skip = READ(message, msg_iter.iov_offset);                 \
			memory->base = READ(message, msg_iter.ubuf);                       \
		}                                                                          \
	}

DEFINE_ITERATOR(iterator_direct, READ_DIRECT)
DEFINE_ITERATOR(iterator_by_address, READ_BY_ADDRESS)

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

/* Calls whose arguments do not say how much was queued, or from where: look at the
 * buffer itself, which is the last in the receiver's queue unless it is read already.
 * Its first part can be read; pages behind it, as sendfile gives, only be counted. */
INLINE int queued_buffer(struct sock *receiver, struct iovec *parts, struct memory *memory)
{
	struct sk_buff *buffer = BPF_CORE_READ(receiver, sk_receive_queue.prev);
	u32 length = BPF_CORE_READ(buffer, len), paged = BPF_CORE_READ(buffer, data_len);

	if (!BPF_CORE_READ(receiver, sk_receive_queue.qlen) || paged > length)
		return 0;
	__builtin_memset(memory, 0, sizeof(*memory));
	parts[0].iov_base = BPF_CORE_READ(buffer, data);
	parts[0].iov_len = length - paged;
	parts[1].iov_base = 0;
	parts[1].iov_len = paged;
	memory->vector = parts;
	memory->segments = 2;
	memory->in_kernel = VECTOR_IN_KERNEL | BYTES_IN_KERNEL;
	memory->length = length;
	return 1;
}

/* Which bytes of a call were queued just now? A call larger than one buffer comes
 * here once per buffer. */
INLINE void queued_piece(struct sock *sk, struct connection *connection,
			 const struct call_arguments *arguments, struct memory *memory, u64 whole)
{
	u32 piece;

	if (!connection->unix_left || connection->unix_call != (arguments->second ^ whole)) {
		connection->unix_left = whole;
		connection->unix_call = arguments->second ^ whole;
		unix_learn_delta(connection, 1);
	}
	memory->skip = whole - connection->unix_left;
	piece = unix_piece(connection->unix_left, BPF_CORE_READ(sk, sk_sndbuf));
	connection->unix_left -= piece;
	memory->length = piece;
}

/* Some bytes were queued on a UNIX connection. */
INLINE void on_unix_queued(struct sock *receiver, const struct call_arguments *arguments)
{
	struct sock *sk = BPF_CORE_READ((struct unix_sock *)receiver, peer);
	struct iovec parts[2];
	struct endpoint endpoint;
	struct connection *connection;
	struct memory memory;
	u64 whole;

	if (!sk)
		return;
	unix_endpoint(sk, &endpoint);
	connection = connection_of(&endpoint, (u64)receiver, 1);
	if (!connection || connection->flags & CONNECTION_DEAD)
		return;
	memory_of_call(&memory, arguments);
	whole = requested_length(arguments, &memory);
	if (whole) {
		queued_piece(sk, connection, arguments, &memory, whole);
	} else {
		unix_learn_delta(connection, 1);
		if (!queued_buffer(receiver, parts, &memory))
			return;
	}
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
