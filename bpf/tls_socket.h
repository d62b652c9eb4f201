/* SPDX-License-Identifier: Apache-2.0
 *
 * The connection that an object of a TLS library belongs to. Never by a guess: by the
 * descriptor that the object itself holds; by the call that passes ciphertext within the same
 * function of the same thread (bind_in_call); or, where a library is only given bytes, by
 * these bytes, which came from one socket. An SSL reads from a BIO, which is a descriptor or
 * memory.
 */
#ifndef WAGGLE_TLS_SOCKET_H
#define WAGGLE_TLS_SOCKET_H

#include "endpoint.h"
#include "fd_socket.h"
#include "tls_session.h"

#define BIO_TYPE_MASK 0xffff
#define BIO_MEMORY 0x0401 /* OpenSSL's bio.h: bytes in memory, */
#define BIO_SOCKET 0x0505 /* a socket, */
#define BIO_DESCRIPTOR 0x0504 /* and any descriptor */
#define BIO_WORDS 8 /* of a BIO that say what it is; where they lie further on it is not asked */

/* The socket that was the last to receive what ends there. */
INLINE u64 socket_of_tail(u64 end)
{
	struct tls_tail tail = {};
	u64 *sock;

	if (bpf_probe_read_user(&tail, sizeof(tail), (void *)(end - sizeof(tail))))
		return 0;
	sock = bpf_map_lookup_elem(&tls_tails, &tail);
	return sock ? *sock : 0;
}

/* Of a BIO in memory. Whose it is does not matter: what is not a place where received
 * bytes end has no bytes that were received. */
INLINE u64 socket_of_bytes(const struct waggle_tls_layout *layout, u64 bio)
{
	u64 data = word_at(bio + layout->data), memory, sock;

	/* OpenSSL's struct bio_buf_mem_st: two BUF_MEM (length, data), the second is read from. */
	memory = word_at(data + 8);
	sock = socket_of_tail(word_at(memory) + word_at(memory + 8));
	if (sock)
		return sock;
	/* Node's NodeBIO: the buffer that is written to, with its bytes' end and place. */
	memory = word_at(data + 48);
	return socket_of_tail(word_at(memory + 16) + word_at(memory + 40));
}

/* A BIO as far as it says what it is: as many words of it as hold its kind and its descriptor. */
struct bio {
	u64 words[BIO_WORDS];
};

/* What a BIO is. Asked for once while an object has the same kind of BIO: what says it is a table of
 * functions that lives as long. */
INLINE u32 type_of_bio(struct tls_session *session, u64 method)
{
	if (session->method != method) {
		session->type = word_at(method) & BIO_TYPE_MASK;
		session->method = method;
	}
	return session->type;
}

/* The socket that the object itself says it reads from: 0 where it has none or does not say. */
INLINE u64 socket_of_ssl(const struct waggle_tls_layout *layout, struct tls_thread *thread,
			 struct tls_session *session)
{
	u64 address = word_at(thread->ssl + layout->reader), sock = 0;
	struct bio bio = {};
	u32 type, number;

	/* It is given another only when that has been made: the same address is the same BIO. */
	if (address && address == session->memory && session->sock) {
		thread->by_bytes = 1;
		return session->sock;
	}
	session->memory = 0;
	if (bpf_probe_read_user(&bio, sizeof(bio), (void *)address))
		return 0;
	type = type_of_bio(session, bio.words[masked(layout->method / 8, BIO_WORDS - 1)]);
	thread->by_bytes = type == BIO_MEMORY;
	if (type == BIO_SOCKET || type == BIO_DESCRIPTOR) {
		number = bio.words[masked(layout->number / 8, BIO_WORDS - 1)] >>
			 (layout->number & 4 ? 32 : 0);
		sock = socket_of_fd(number);
	} else if (thread->by_bytes) {
		session->memory = address;
		sock = session->sock ? session->sock : socket_of_bytes(layout, address);
	}
	return sock;
}

/* The socket of the current call's object; 0: not known. */
OUT_OF_LINE u64 find_tls_socket(struct tls_thread *thread, struct tls_session *session)
{
	u32 index = thread->layout & (TLS_LAYOUTS - 1);
	struct waggle_tls_layout *layout;
	u64 sock;

	thread->by_bytes = 0;
	if (thread->sock)
		return thread->sock;
	/* What it received just now came from the connection that it was known by before. */
	if (thread->from && thread->from == session->sock)
		return thread->from;
	layout = bpf_map_lookup_elem(&tls_layouts, &index);
	if (!layout || !layout->known || layout->number >= sizeof(struct bio) ||
	    layout->method >= sizeof(struct bio))
		return session->sock;
	sock = socket_of_ssl(layout, thread, session);
	return sock ? sock : session->sock;
}

/* The connection may have been given up, since what passes it is no HTTP: in the clear. */
INLINE void begin_tls(struct connection *connection)
{
	if (is_tls(connection))
		return;
	if (connection->sent.started || connection->received.started ||
	    connection->flags & CONNECTION_DEAD) {
		connection->flags &= ~(CONNECTION_DEAD | CONNECTION_FROM_START);
		connection->flags |= CONNECTION_RESYNCED;
		connection->responses = connection->requests;
		connection->role = WAGGLE_ROLE_NONE;
		connection->sent.state = HTTP1_LOST;
		connection->received.state = HTTP1_LOST;
	}
	connection->encrypted = 1;
}

/* The connection of a socket, made when no call has shown it yet. */
OUT_OF_LINE struct connection *connection_of_socket(struct call *call, u64 sock)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, &sock);

	if (!connection) {
		call->sk = sock;
		if (!tcp_call_by_address(call))
			return 0;
		connection = connection_of(call);
		if (!connection)
			return 0;
		connection->sent_base = call->endpoint.sent_base;
		connection->received_base = call->endpoint.received_base;
	}
	if (connection->family == AF_UNIX)
		return 0;
	begin_tls(connection);
	return connection;
}

#endif
