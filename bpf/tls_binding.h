/* SPDX-License-Identifier: Apache-2.0
 *
 * Which object of a library a connection belongs to: bound by the call that passes ciphertext
 * within the same function of the same thread, or by the end of what the connection received,
 * which is kept for it.
 */
#ifndef WAGGLE_TLS_BINDING_H
#define WAGGLE_TLS_BINDING_H

#include "tls_maps.h"
#include "tls_opaque.h"

/* Whether the end of what a connection receives may still be asked for: of a new one, or
 * where somebody asks. */
INLINE int wants_tail(const struct tls_connection *tls)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	u64 *waiting;

	if (tls->ssl)
		return 0;
	if (tls->tails < TLS_TAILS)
		return 1;
	waiting = bpf_map_lookup_elem(&tls_waiting, &tgid);
	return waiting && bpf_ktime_get_ns() - *waiting < TLS_WAITING_NS;
}

/* Keeps the end of what was received, for a library that is given it without its socket. */
INLINE void keep_tail(struct tls_connection *tls, const struct call *call)
{
	u64 sock = call->endpoint.sock, from = call->memory.base + call->memory.length;
	struct tls_tail tail = {};
	u64 *known;

	if (!wants_tail(tls) || !call->memory.base ||
	    call->memory.length < sizeof(tail) ||
	    bpf_probe_read_user(&tail, sizeof(tail), (void *)(from - sizeof(tail))))
		return;
	/* Padding is the same everywhere. */
	if (!tail.words[0] || !tail.words[1] || tail.words[0] == tail.words[1])
		return;
	tls->tails++;
	known = bpf_map_lookup_elem(&tls_tails, &tail);
	if (known && *known != sock)
		sock = 0; /* says nothing after all */
	bpf_map_update_elem(&tls_tails, &tail, &sock, BPF_ANY);
}

/* Whether nothing was said before we saw the object: there was none yet, or no data; the probes
 * were there before the connection was; or what is at hand is the first. */
INLINE int seen_whole(const struct tls_session *session, const struct connection *connection,
		      const struct tls_connection *tls)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	u64 *since;

	if (session->seen_ns <= tls->seen_ns || (!tls->received && !tls->sent))
		return 1;
	if (!(connection->flags & CONNECTION_FROM_START))
		return 0;
	since = bpf_map_lookup_elem(&tls_since, &tgid);
	if (since && tls->seen_ns > *since)
		return 1;
	if (session->at_hand == TLS_WRITING)
		return !tls->sent;
	return session->at_hand && tls->received == 1 &&
	       tls_holds(tls->version, tls->queue[0].length, session->at_hand);
}

/* From here on the connection can be read: what it speaks is yet to be judged. */
INLINE void leave_opaque(struct connection *connection, struct tls_connection *tls, u64 sock)
{
	end_opaque(connection, sock);
	tls->begun = 0;
	connection->role = WAGGLE_ROLE_NONE;
	connection->requests = 0;
	connection->responses = 0;
	connection->current_used = 0;
}

/* The plaintext of an object is that of this connection, from here on. */
OUT_OF_LINE int bind_tls(struct tls_session *session, struct connection *connection,
			 struct tls_connection *tls, const struct tls_session_key *key, u64 sock)
{
	session->sock = sock;
	session->ahead = 0;
	if (tls->begun)
		leave_opaque(connection, tls, sock);
	if (tls->ssl == key->ssl && tls->tgid == key->tgid && !session->missed)
		return 0;
	if (tls->ssl || session->missed || !seen_whole(session, connection, tls)) {
		/* An object that reads from its socket itself reads one record at a time, and has
		 * read all that came. */
		tls->taken = tls->received;
		tls->read_left = 0;
		tls->unsure = session->by_bytes;
		connection->flags &= ~CONNECTION_FROM_START;
		connection->flags |= CONNECTION_RESYNCED;
	}
	/* Was it another's? Then what is open will not be answered. */
	if (tls->ssl && !is_http2(connection)) {
		connection->sent.state = HTTP1_LOST;
		connection->received.state = HTTP1_LOST;
	}
	session->missed = 0;
	tls->ssl = key->ssl;
	tls->tgid = key->tgid;
	count(WAGGLE_COUNT_TLS_BOUND);
	return 0;
}

/* A thread that passes ciphertext while it is in a function of a library does that for the
 * object that the function is about. */
INLINE void bind_in_call(struct connection *connection, struct tls_connection *tls, u64 sock,
			 u32 sent)
{
	struct tls_thread *thread = tls_thread_here(0);
	struct tls_session_key key = {};
	struct tls_session *session;

	if (!thread || !thread->ssl || thread->from == sock)
		return;
	thread->from = 0;
	key.ssl = thread->ssl;
	key.tgid = bpf_get_current_pid_tgid() >> 32;
	session = bpf_map_lookup_elem(&tls_sessions, &key);
	if (!session || session->nested)
		return;
	if (session->sock != sock) {
		session->by_bytes = 0;
		session->memory = 0;
		bind_tls(session, connection, tls, &key, sock);
	} else if (!sent && tls->ssl == key.ssl) {
		thread->from = sock;
	}
}

#endif
