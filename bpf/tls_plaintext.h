/* SPDX-License-Identifier: Apache-2.0
 *
 * Plaintext that a library was given or gives becomes a call of its connection, and enters
 * where bytes of a socket do (on_call).
 */
#ifndef WAGGLE_TLS_PLAINTEXT_H
#define WAGGLE_TLS_PLAINTEXT_H

#include "endpoint.h"
#include "process.h"
#include "tls_binding.h"
#include "tls_position.h"
#include "tls_session.h"
#include "tls_socket.h"

/* Where no program can hold its CPU: one that is preempted here by its like. */
MAP(tls_busy, BPF_MAP_TYPE_PERCPU_ARRAY, 1, u32, u64, 0);

/* Gives the call what of the plaintext is new; 0 when nothing is. */
INLINE u32 take_plaintext(struct tls_thread *thread, struct tls_session *session,
			  struct tls_connection *tls, struct call *call, u64 sock)
{
	u32 length = thread->length, seen = 0;

	call->memory.base = thread->buffer;
	if (thread->kind == TLS_READS) {
		call->endpoint.position = read_position(tls, length);
		call->memory.length = length;
		return length;
	}
	/* A write that did not happen is tried again, with the same bytes to begin with. */
	seen = session->ahead < length ? session->ahead : length;
	if (thread->kind == TLS_WRITES) {
		thread->ahead = session->ahead > length ? session->ahead : length;
		session->ahead = 0; /* until it is known that not all of it was written */
	}
	if (seen == length)
		return 0;
	call->memory.base += seen;
	call->memory.length = length - seen;
	call->endpoint.position = written_position(tls, sock, length - seen);
	return length - seen;
}

/* Makes the plaintext that the thread has read or is about to write a call of its
 * connection. Returns 0 when there is nothing new in it. */
INLINE int plaintext_call(struct tls_thread *thread, struct tls_session *session,
			  struct tls_connection *tls, struct connection *connection,
			  struct call *call, u64 sock)
{
	struct http1_stream *stream;

	if (connection->flags & CONNECTION_DEAD)
		return 0;
	call->sent = thread->kind != TLS_READS;
	if (!take_plaintext(thread, session, tls, call, sock))
		return 0;
	call->sk = sock;
	call->endpoint.sock = sock;
	call->endpoint.family = connection->family;
	call->endpoint.sent_base = connection->sent_base;
	call->endpoint.received_base = connection->received_base;
	stream = call->sent ? &connection->sent : &connection->received;
	stream->started = 1;
	stream->next = call->endpoint.position; /* nothing of it passes unseen */
	if (!call->sent && thread->mode & WAGGLE_PROCESS_RULE_THREAD)
		call->endpoint.blocking =
			serves_what_it_reads((void *)sock, 0, thread->mode);
	return 1;
}

/* The session is the connection's from now on, if memory allows. A function of its own, since the
 * stack below its caller is needed whole. */
OUT_OF_LINE struct tls_connection *join_session(struct tls_thread *thread,
						struct tls_session *session,
						struct connection *connection, u64 sock)
{
	struct tls_connection *tls;
	struct tls_session_key key;

	if (!thread || !session || !connection)
		return 0;
	tls = tls_of(sock);
	if (!tls)
		tls = new_tls(sock);
	if (!tls)
		return 0;
	session_key_of(&key, thread->ssl);
	if (session->sock != sock || tls->ssl != key.ssl || session->missed) {
		session->by_bytes = thread->by_bytes;
		session->at_hand = thread->kind == TLS_READS  ? thread->length :
				   thread->kind == TLS_SHAKES ? 0 :
								TLS_WRITING;
		bind_tls(session, connection, tls, &key, sock);
	}
	tls->pulls = !thread->by_bytes;
	if (thread->kind == TLS_WRITES)
		thread->from = sock;
	if (tls->unsure)
		thread->unsure = key.ssl;
	return tls;
}

/* The connection whose plaintext is at hand, if the call is to be fed; null when not. */
OUT_OF_LINE struct connection *on_tls(struct tls_thread *thread, struct call *call)
{
	struct tls_connection *tls;
	struct connection *connection;
	struct tls_session_key key;
	struct tls_session *session;
	u64 sock, now;

	session_key_of(&key, thread->ssl);
	session = tls_session_of(&key, thread->epoch);
	if (!session || session->nested)
		return 0;
	sock = find_tls_socket(thread, session);
	connection = sock ? connection_of_socket(call, sock) : 0;
	if (!connection) {
		now = bpf_ktime_get_ns();
		bpf_map_update_elem(&tls_waiting, &key.tgid, &now, BPF_ANY);
		/* Before the handshake is over a write fails, and is tried again. */
		if (thread->kind == TLS_WRITES)
			thread->unplaced = 1;
		else if (thread->kind != TLS_SHAKES)
			lose_plaintext(session);
		return 0;
	}
	tls = join_session(thread, session, connection, sock);
	if (!tls || thread->kind == TLS_SHAKES ||
	    !plaintext_call(thread, session, tls, connection, call, sock))
		return 0;
	return connection;
}

/* One that holds its CPU, on its own stack as far as possible: what it calls needs the rest. */
INLINE void feed_tls(struct tls_thread *thread)
{
	struct call *call = call_of(SCRATCH_TLS);
	struct connection *connection = call ? on_tls(thread, call) : 0;

	thread->last = 0;
	if (!connection)
		return;
	if (thread->kind == TLS_READS)
		thread->last = thread->ssl;
	on_call(connection, call);
	if (!call->sent && thread->mode & WAGGLE_PROCESS_RULE_TURN)
		remember_turn(connection, call->sk, thread->mode);
}

/* Behind the probes of tls_probes.h and go_tls.h: attached to nothing. */
SEC("uprobe")
int tls_call(struct pt_regs *registers)
{
	struct tls_thread *thread = tls_thread_here(0);
	u32 zero = 0;
	u64 *busy = bpf_map_lookup_elem(&tls_busy, &zero);

	if (!thread || !thread->ssl || !busy)
		return 0;
	if (!thread->mode)
		thread->mode = traced_mode();
	if (!thread->mode) {
		thread->ssl = 0;
		return 0;
	}
	HOLD_CPU();
	if (*busy) {
		count(WAGGLE_COUNT_LOST_TLS_BUSY);
		mark_missed(thread->ssl);
	} else {
		*busy = 1;
		feed_tls(thread);
		*busy = 0;
	}
	if (thread->kind == TLS_READS || thread->kind == TLS_WROTE_ALL)
		thread->ssl = 0;
	return 0;
}

#endif
