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

/* Bytes that each byte of a struct page stands for: pages of 4 KB, structs of 64 bytes. */
#define PAGE_STRUCT_SIZE 64
#define PAGE_STRUCT_SCALE 64

#define READ_DIRECT(pointer, field) ((pointer)->field)
#define READ_BY_ADDRESS(pointer, field) BPF_CORE_READ(pointer, field)

/* The flag of a socket that has the peer's FIN. */
INLINE u64 fin_came(void)
{
	return 1ULL << (bpf_core_enum_value(enum sock_flags, SOCK_DONE) & 63);
}

/* A base is where a direction is now, less what passed. The receiving side may move
 * while we look, so look until it stood still. Once the FIN has come nothing moves. */
#define DEFINE_POSITIONS(name, READ)                                                       \
	INLINE void name(struct tcp_sock *tcp, struct positions *positions)                \
	{                                                                                  \
		u64 flags = READ(((struct sock *)tcp), __sk_common.skc_flags);             \
		u32 next, again;                                                           \
                                                                                           \
		IN_THIS_ORDER();                                                           \
		next = READ(tcp, rcv_nxt);                                                 \
		positions->write_seq = READ(tcp, write_seq);                               \
		positions->copied_seq = READ(tcp, copied_seq);                             \
		positions->end_read = (flags & fin_came()) && positions->copied_seq == next; \
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

/* The address of a socket as a number, with which the verifier lets us count: what has
 * been in a map is no pointer to it any more. */
INLINE void put_address(u64 *room, struct sock *sk)
{
	*(volatile u64 *)room = (u64)sk;
}

INLINE void tcp_endpoint(struct call *call, u16 family)
{
	call->endpoint.sock = call->sk;
	call->endpoint.family = family;
	call->endpoint.sent_base = call->positions.sent_base;
	call->endpoint.received_base = call->positions.received_base;
	call->endpoint.position = call->sent ? call->positions.write_seq :
					       call->positions.copied_seq - call->result -
						       call->positions.end_read;
}

/* We have written into the request at `injected_at`. When it comes again without that, the
 * kernel had no room for any of it, and the application tries once more. */
INLINE void watch_injected(struct connection *connection, const struct call *call)
{
	s32 ahead = call->endpoint.position - connection->injected_at;

	if (!ahead && call->memory.length == connection->injected_piece)
		return;
	if (!ahead)
		connection->sent.next -= connection->injected;
	connection->injected = 0;
}

/* Returns 0 where the socket is no TCP socket over IP. */
INLINE int tcp_call_by_address(struct call *call)
{
	struct sock *sk = (void *)call->sk;
	u16 family;

	if (BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (family != AF_INET && family != AF_INET6)
		return 0;
	positions_by_address((void *)sk, &call->positions);
	tcp_endpoint(call, family);
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

INLINE void unix_call(struct call *call)
{
	struct unix_sock *end = (void *)call->sk;
	struct sock *sk = (void *)call->sk;

	call->endpoint.sock = call->sk;
	call->endpoint.family = AF_UNIX;
	call->inode = inode_of(sk);
	if (!call->peer)
		call->peer = (u64)BPF_CORE_READ(end, peer);
}

/* Whether the descriptor makes calls wait. */
INLINE int is_blocking(struct sock *sk, int flags)
{
	if (flags & MSG_DONTWAIT)
		return 0;
	return !(BPF_CORE_READ(sk, sk_socket, file, f_flags) & O_NONBLOCK);
}

/* Whether what is read now may be a request that the reading thread will serve. */
INLINE int serves_what_it_reads(struct sock *sk, int flags, u32 mode)
{
	if (mode & WAGGLE_PROCESS_THREAD_READS || is_blocking(sk, flags))
		return 1;
	return mode & WAGGLE_PROCESS_NAMED_THREADS && is_named_worker();
}

INLINE void current_arguments(struct call *call)
{
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());

	call->number = regs->orig_ax;
	call->second = regs->si;
	call->third = regs->dx;
	call->likely_g = go_likely_g_in(regs);
}

INLINE int worth_a_look(s32 result, u32 flags)
{
	return result != -EAGAIN && !(flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE));
}

OUT_OF_LINE int received_nothing(struct call *call)
{
	u64 sock = call->sk;
	struct sock *sk = (void *)call->sk;
	struct connection *connection = bpf_map_lookup_elem(&connections, &sock);

	if (!connection) {
		if (call->mode & WAGGLE_PROCESS_RULE_TURN)
			carried_turn(sock, call->mode & WAGGLE_PROCESS_PROVE_TURN);
		return 0;
	}
	call->endpoint.shutdown = BPF_CORE_READ(sk, sk_shutdown);
	if (call->mode & WAGGLE_PROCESS_RULE_TURN)
		remember_turn(connection, sock, call->mode);
	on_receive_end(connection, &call->endpoint, call->result);
	return 0;
}

/* A receive has ended; its endpoint is filled but for a UNIX socket's position. */
INLINE int on_receive(struct call *call)
{
	struct connection *connection;
	struct endpoint *endpoint = &call->endpoint;
	struct sock *sk = (void *)call->sk;

	if (call->result <= 0)
		return received_nothing(call);
	connection = connection_of(call);
	if (!connection) {
		if (call->mode & WAGGLE_PROCESS_RULE_TURN)
			carried_turn(endpoint->sock, call->mode & WAGGLE_PROCESS_PROVE_TURN);
		return 0;
	}
	if (endpoint->family == AF_UNIX)
		endpoint->position = connection->received.next;
	if (!(call->flags & MSG_TRUNC)) /* TCP: thrown away, not copied */
		memory_of_call(call);
	call->memory.length = call->result;
	if (call->mode & WAGGLE_PROCESS_RULE_THREAD)
		endpoint->blocking = serves_what_it_reads(sk, call->flags, call->mode);
	on_call(connection, call);
	if (call->mode & WAGGLE_PROCESS_RULE_TURN)
		remember_turn(connection, endpoint->sock, call->mode);
	return 0;
}

/* The same for flavours that have nothing but the socket's address. */
INLINE void on_receive_by_address(struct call *call)
{
	struct sock *sk = (void *)call->sk;

	if (!worth_a_look(call->result, call->flags))
		return;
	if (!tcp_call_by_address(call)) {
		if (!is_unix_stream(sk)) {
			turn_of_nobody(call->mode);
			return;
		}
		unix_call(call);
	}
	on_receive(call);
}

/* Where the bytes of one piece of the kernel's own pages lie, given page_origin. */
INLINE u64 page_bytes(const struct bio_vec *piece)
{
	u64 page = (u64)BPF_CORE_READ(piece, bv_page);

	return page_origin + page * PAGE_STRUCT_SCALE + BPF_CORE_READ(piece, bv_offset);
}

/* The message's iterator: what is left to send, at this turn of the kernel's loop.
 * Pages of the kernel's, as sendfile and splice give, stay unreadable, but for those
 * of one piece where page_origin is known. */
#define DEFINE_ITERATOR(name, READ)                                                        \
	INLINE void name(struct msghdr *message, struct memory *memory)                    \
	{                                                                                  \
		struct iov_iter___before_6_4 *old = (void *)&message->msg_iter;            \
		u8 type = READ(message, msg_iter.iter_type);                               \
                                                                                           \
		memory->length = READ(message, msg_iter.count);                            \
		if (type == bpf_core_enum_value(enum iter_type, ITER_IOVEC)) {             \
			memory->skip = READ(message, msg_iter.iov_offset);                 \
			memory->segments = READ(message, msg_iter.nr_segs);                \
			memory->in_kernel = VECTOR_IN_KERNEL;                                             \
			if (bpf_core_field_exists(message->msg_iter.__iov))                \
				memory->vector = (u64)READ(message, msg_iter.__iov);       \
			else                                                               \
				memory->vector = (u64)BPF_CORE_READ(old, iov);             \
		} else if (bpf_core_enum_value_exists(enum iter_type, ITER_UBUF) &&        \
			   type == bpf_core_enum_value(enum iter_type, ITER_UBUF)) {       \
			memory->skip = READ(message, msg_iter.iov_offset);                 \
			memory->base = (u64)READ(message, msg_iter.ubuf);                  \
		} else if (page_origin &&                                                  \
			   type == bpf_core_enum_value(enum iter_type, ITER_BVEC) &&       \
			   READ(message, msg_iter.nr_segs) == 1) {                         \
			memory->skip = READ(message, msg_iter.iov_offset);                 \
			memory->base = page_bytes(READ(message, msg_iter.bvec));           \
			memory->in_kernel = BYTES_IN_KERNEL;                               \
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
INLINE int queued_buffer(struct call *call)
{
	struct sock *receiver = (void *)call->peer;
	struct sk_buff *buffer = BPF_CORE_READ(receiver, sk_receive_queue.prev);
	u32 length = BPF_CORE_READ(buffer, len), paged = BPF_CORE_READ(buffer, data_len);

	if (!BPF_CORE_READ(receiver, sk_receive_queue.qlen) || paged > length)
		return 0;
	call->parts[0].iov_base = BPF_CORE_READ(buffer, data);
	call->parts[0].iov_len = length - paged;
	call->parts[1].iov_len = paged;
	call->memory.vector = (u64)call->parts;
	call->memory.segments = 2;
	call->memory.in_kernel = VECTOR_IN_KERNEL | BYTES_IN_KERNEL;
	call->memory.length = length;
	return 1;
}

/* Which bytes of a call were queued just now? A call larger than one buffer comes
 * here once per buffer. */
INLINE void queued_piece(struct connection *connection, struct call *call, u64 whole)
{
	struct sock *sk = (void *)call->sk;
	u32 piece;

	if (!connection->unix_left || connection->unix_call != (call->second ^ whole)) {
		connection->unix_left = whole;
		connection->unix_call = call->second ^ whole;
		unix_learn_delta(connection, call->sk, 1);
	}
	call->memory.skip = whole - connection->unix_left;
	piece = unix_piece(connection->unix_left, BPF_CORE_READ(sk, sk_sndbuf));
	connection->unix_left -= piece;
	call->memory.length = piece;
}

/* Some bytes were queued on a UNIX connection; `peer` is the receiver. */
INLINE void on_unix_queued(struct call *call)
{
	struct unix_sock *receiver = (void *)call->peer;
	struct connection *connection;
	u64 whole;

	call->sk = (u64)BPF_CORE_READ(receiver, peer);
	if (!call->sk)
		return;
	unix_call(call);
	connection = connection_of(call);
	if (!connection)
		return;
	memory_of_call(call);
	whole = requested_length(call);
	if (whole) {
		queued_piece(connection, call, whole);
	} else {
		unix_learn_delta(connection, call->sk, 1);
		if (!queued_buffer(call)) {
			/* The reader was quicker than we are. */
			if (!(connection->flags & CONNECTION_DEAD))
				count(WAGGLE_COUNT_LOST_BYTES_UNSEEN);
			return;
		}
	}
	call->endpoint.position = connection->sent.next;
	on_call(connection, call);
}

/* Flavours that see a UNIX call before it is done feed it whole; what the kernel
 * then refuses will be sent again and must not be fed twice. */
INLINE void on_unix_send(struct call *call)
{
	struct sock *sk = (void *)call->sk;
	struct connection *connection;

	if (!is_unix_stream(sk))
		return;
	unix_call(call);
	connection = call->peer ? connection_of(call) : 0;
	if (!connection)
		return;
	if (!call->sent_before && !connection->unix_resend)
		unix_learn_delta(connection, call->sk, 0);
	call->endpoint.position = connection->sent.next - connection->unix_resend;
	connection->unix_left = call->sent_before + call->memory.length;
	on_call(connection, call);
}

INLINE void on_unix_sent(u64 sock, long result)
{
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
