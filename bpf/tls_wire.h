/* SPDX-License-Identifier: Apache-2.0
 *
 * The encrypted side of a connection: what passes the socket is read only as far as where
 * its records begin, and which object of a library it belongs to.
 */
#ifndef WAGGLE_TLS_WIRE_H
#define WAGGLE_TLS_WIRE_H

#include "http1_feed.h"
#include "tls_certificate.h"
#include "tls_maps.h"

#define TLS_STEPS 4096 /* records and pieces of memory of one call */

INLINE int turn_to_next_piece(struct feed_state *state, const struct memory *memory);
INLINE int begin_call(struct feed_state *state, struct http1_stream *stream,
		      const struct call *call);

struct wire_walk {
	struct scratch *scratch;
	struct tls_connection *tls;
	const struct memory *memory;
	u32 sent;
	u32 reserved;
};

/* A record is sent while one is expected: is it that? A client may send the end of its
 * handshake, or what waited in the program, before. */
INLINE void on_tls_written(struct tls_connection *tls, u32 at, u32 length)
{
	u32 plain = tls->written < TLS_PLAIN_MAX ? tls->written : TLS_PLAIN_MAX;

	if (at == tls->written_at) {
		tls->placed = 1;
		if (length > plain && length - plain < 256)
			tls->overhead = TLS_HEADER + length - plain;
		tls->expected = at + tls_wire_length(tls->written, tls->overhead);
	} else if ((s32)(at - tls->written_at) > 0 && tls_holds(tls->version, length, plain)) {
		tls->placed = 1;
		tls->shift = at - tls->written_at;
	}
}

/* Counts the data that begins in a call, but for what is no request. Without a change of ciphers
 * before, the first that a client of TLS 1.3 sends is the end of its handshake. */
INLINE void count_burst(struct tls_connection *tls, u32 sent, u32 at, u32 length)
{
	if (sent && ((!tls->sent && tls->version == TLS_1_3 && !(tls->changed & 1 << SENT)) ||
		     tls_says_little(tls->version, length)))
		return;
	if (!tls->burst)
		tls->burst_at = at;
	tls->burst += length;
}

/* A record of application data begins at `at`. */
INLINE void on_tls_data(struct tls_connection *tls, u32 sent, u32 at, u32 length)
{
	struct tls_record *record;

	count_burst(tls, sent, at, length);
	if (sent) {
		tls->sent++;
		if (tls->written && !tls->placed)
			on_tls_written(tls, at, length);
		return;
	}
	record = &tls->queue[masked(tls->received, TLS_QUEUE - 1)];
	record->at = at;
	record->length = length;
	tls->received++;
}

/* Reads what comes next of a header. */
PROVEN_ONCE int wire_header(struct scratch *scratch, struct tls_connection *tls, u32 sent)
{
	u64 bytes = 0, header = 0;
	struct feed_state *state;
	struct tls_walk *at;
	u32 left, want;

	if (!scratch || !tls)
		return 0;
	state = &scratch->state;
	at = &tls->walk[sent & 1];
	left = state->length - state->offset;
	want = TLS_HEADER - at->have;
	if (want > left)
		want = left;
	if (!state->base || (!at->known && (state->offset || !state->first_of_call)) ||
	    read_bytes(state, &bytes, masked(want, 7) & 7, state->base + state->offset)) {
		at->known = 0;
		at->have = 0;
		at->header = 0;
		state->offset = state->length;
		return 0;
	}
	state->offset += want;
	if (!tls_take_header(at, bytes, want, &header))
		return 0;
	if (tls->role && sent == (tls->role == WAGGLE_ROLE_CLIENT) && !tls->failed &&
	    tls_is_refusal(at, header))
		tls->failed = TLS_FAILED;
	if (!at->known)
		state->offset = state->length;
	else if (tls_is_data(at, header))
		on_tls_data(tls, sent, state->position + state->offset - TLS_HEADER, at->remain);
	if (at->changed) {
		tls->changed |= 1 << (sent & 1);
		tls->done_ns = state->now;
	}
	return 0;
}

struct hello_walk {
	struct tls_hello hello;
	u64 base;
	u64 length; /* of what is at hand */
};

static long hello_step(u32 index, void *context)
{
	struct hello_walk *walk = context;

	if (walk->hello.at >= walk->length)
		return 1;
	return tls_hello_step(&walk->hello, word_at(walk->base + walk->hello.at),
			      (u32)walk->length - walk->hello.at);
}

/* Who is the client, and what does it call the server? */
INLINE void on_client_hello(struct tls_connection *tls, const struct hello_walk *walk, u32 sent)
{
	u32 length = walk->hello.name_length;

	tls->role = sent ? WAGGLE_ROLE_CLIENT : WAGGLE_ROLE_SERVER;
	if (walk->hello.name && length && length < TLS_NAME_MAX &&
	    walk->hello.name + length <= walk->length &&
	    !bpf_probe_read_user(tls->name, masked(length, TLS_NAME_MAX - 1),
				 (void *)(walk->base + walk->hello.name)))
		tls->name_length = masked(length, TLS_NAME_MAX - 1);
}

/* What do both speak? */
INLINE void on_server_hello(struct tls_connection *tls, const struct hello_walk *walk)
{
	u32 length = walk->hello.name_length;

	tls->version = walk->hello.version;
	if (walk->hello.name && length && length < TLS_PROTOCOL_MAX &&
	    walk->hello.name + length <= walk->length &&
	    !bpf_probe_read_user(tls->protocol, masked(length, TLS_PROTOCOL_MAX - 1),
				 (void *)(walk->base + walk->hello.name)))
		tls->protocol_length = masked(length, TLS_PROTOCOL_MAX - 1);
}

/* A record of the handshake begins. */
PROVEN_ONCE int read_hello(struct tls_connection *tls, u64 base, u64 length, u32 sent)
{
	struct hello_walk walk = { .base = base, .length = length };

	if (!tls || tls->version || !base)
		return 0;
	LOOP(TLS_HELLO_STEPS, hello_step, &walk);
	if (walk.hello.kind == TLS_CLIENT_HELLO && !tls->role)
		on_client_hello(tls, &walk, sent);
	else if (walk.hello.kind == TLS_SERVER_HELLO && walk.hello.stage == TLS_AT_END)
		on_server_hello(tls, &walk);
	return 0;
}

/* An alert in the clear, which ends the handshake unless it is a warning. */
INLINE void read_alert(struct tls_connection *tls, u64 base, u64 length)
{
	u64 word = base && length >= 2 ? word_at(base) : 0;

	if ((word & 0xff) != TLS_FATAL || tls->failed)
		return;
	tls->failed = TLS_FAILED;
	tls->alert = word >> 8 & 0xff;
}

struct certificate_walk {
	struct tls_certificate certificate;
	u64 base;
	u64 length; /* of what is at hand */
};

static long certificate_step(u32 index, void *context)
{
	struct certificate_walk *walk = context;

	if (walk->certificate.at + sizeof(u64) > walk->length)
		return 1;
	return tls_certificate_step(&walk->certificate,
				    word_at(walk->base + walk->certificate.at));
}

/* A record of a server's handshake that is in the clear: until when is it who it says? */
PROVEN_ONCE int read_certificate(struct tls_connection *tls, u64 base, u64 length)
{
	struct certificate_walk walk = { .base = base, .length = length };
	u32 size;

	if (!tls || !base)
		return 0;
	LOOP(TLS_CERTIFICATE_STEPS, certificate_step, &walk);
	size = masked(walk.certificate.length, WAGGLE_NOT_AFTER - 1);
	if (walk.certificate.stage == CERTIFICATE_DONE && walk.certificate.at + size <= length &&
	    !bpf_probe_read_user(tls->not_after, size, (void *)(base + walk.certificate.at)))
		tls->not_after_length = size;
	return 0;
}

INLINE int may_hold_certificate(const struct tls_connection *tls, u32 sent)
{
	return tls->version && tls->version < TLS_1_3 && !tls->not_after_length &&
	       sent == (tls->role == WAGGLE_ROLE_SERVER);
}

/* A record begins whose first bytes are at hand. */
INLINE void on_record(struct tls_connection *tls, const struct tls_walk *at, u64 base, u64 length,
		      u32 sent)
{
	if (at->begun == TLS_HANDSHAKE) {
		read_hello(tls, base, length, sent);
		if (may_hold_certificate(tls, sent))
			read_certificate(tls, base, length);
	}
	if (at->begun == TLS_ALERT && at->remain == 2)
		read_alert(tls, base, length);
}

static long wire_step(u32 index, void *context)
{
	struct wire_walk *walk = context;
	struct feed_state *state = &walk->scratch->state;
	struct tls_walk *at = &walk->tls->walk[walk->sent & 1];
	u32 left;

	if (state->offset >= state->length)
		return !turn_to_next_piece(state, walk->memory);
	left = state->length - state->offset;
	if (!at->remain) {
		wire_header(walk->scratch, walk->tls, walk->sent);
		return 0;
	}
	if (left > at->remain)
		left = at->remain;
	if (at->begun)
		on_record(walk->tls, at, state->base ? state->base + state->offset : 0, left,
			  walk->sent);
	at->begun = 0;
	at->remain -= left;
	state->offset += left;
	return 0;
}

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

/* Before what a call has received is looked at: an object that asks for more has read all
 * that came before, but for a record that is not whole. */
INLINE void settle_reads(struct tls_connection *tls, u32 position)
{
	const struct tls_record *last = &tls->queue[masked(tls->received - 1, TLS_QUEUE - 1)];

	if (!tls->ssl || !tls->pulls || !tls->received)
		return;
	tls->taken = tls->received;
	if ((s32)(position - last->at - TLS_HEADER - last->length) < 0)
		tls->taken--;
	tls->read_left = 0;
	tls->unsure = 0;
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

/* Nothing more belongs to an exchange that nobody could read. */
PROVEN_ONCE int end_opaque(struct connection *connection, u64 sock)
{
	struct tls_connection *tls = tls_of(sock);

	if (!connection || !tls || !tls->opaque)
		return 0;
	tls->opaque = 0;
	if (open_requests(connection))
		finish_exchange(connection, sock, bpf_ktime_get_ns(), WAGGLE_END_DONE);
	return 0;
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

/* What was left for the other end lies where the plaintext was expected to begin: leave it
 * where it does begin. */
PROVEN_ONCE int hand_over_again(struct connection *connection, const struct tls_connection *tls,
			       u64 sock)
{
	struct found_exchange found;
	u32 at;

	if (!connection || !tls)
		return 0;
	at = connection->sent.head_at;
	if (is_http2(connection) || connection->role != WAGGLE_ROLE_CLIENT ||
	    open_requests(connection) != 1 || at - tls->written_at >= tls->written ||
	    !find_exchange(connection, sock, connection->requests - 1, &found) ||
	    (!trace_all && found.facts->flags & WAGGLE_FLAG_PROVISIONAL))
		return 0;
	leave_handoff(connection, sock, bpf_ktime_get_ns(), at + tls->shift, found.facts);
	return 0;
}

enum wire_news { WIRE_NOTHING = 0, WIRE_FAILED = 1, WIRE_OPAQUE = 2 };

/* What a call was, beyond its bytes: the end of a handshake that failed; or a part of an exchange
 * of a client that no library shows us. */
INLINE int wire_news(struct tls_connection *tls)
{
	if (tls->failed == TLS_FAILED) {
		tls->failed = TLS_TOLD;
		return WIRE_FAILED;
	}
	return tls->burst && !tls->ssl && tls->role == WAGGLE_ROLE_CLIENT ? WIRE_OPAQUE :
									    WIRE_NOTHING;
}

/* Whether nobody asks where the records of these bytes begin: a server's, when plaintext has been read
 * from its object, so that the handshake is over. */
INLINE int is_answer(struct tls_connection *tls, u32 sent)
{
	return sent && tls->ssl && tls->taken && tls->role == WAGGLE_ROLE_SERVER;
}

/* Whether these bytes are within a record of data whose header came before, as where a library
 * asks for the header by itself. */
INLINE int is_rest(struct tls_connection *tls, const struct call *call)
{
	struct tls_walk *at = &tls->walk[RECEIVED];

	return !call->sent && tls->ssl && at->known && call->memory.length <= at->remain &&
	       (!at->begun || at->begun == TLS_DATA) &&
	       tls->wire[RECEIVED].next == call->endpoint.position;
}

INLINE void take_rest(struct tls_connection *tls, const struct call *call)
{
	struct tls_walk *at = &tls->walk[RECEIVED];

	settle_reads(tls, call->endpoint.position);
	at->begun = 0;
	at->remain -= call->memory.length;
	tls->wire[RECEIVED].next += call->memory.length;
}

/* A call that passes bytes of an encrypted connection. Returns enum wire_news. */
PROVEN_ONCE int on_wire(struct connection *connection, struct call *call)
{
	struct wire_walk walk = {};
	struct http1_stream *stream;
	struct scratch *scratch;
	struct sock *sk;
	u32 user;

	if (!connection || !call)
		return 0;
	sk = (void *)call->endpoint.sock;
	user = call->user;
	scratch = bpf_map_lookup_elem(&scratches, &user);
	walk.tls = tls_of(call->endpoint.sock);
	if (!walk.tls)
		walk.tls = new_tls(call->endpoint.sock);
	if (!scratch || !walk.tls)
		return 0;
	bind_in_call(connection, walk.tls, call->endpoint.sock, call->sent);
	if (is_answer(walk.tls, call->sent)) {
		walk.tls->sent++;
		return WIRE_NOTHING;
	}
	if (is_rest(walk.tls, call)) {
		take_rest(walk.tls, call);
		return WIRE_NOTHING;
	}
	scratch->state.now = bpf_ktime_get_ns();
	connection->last_ns = scratch->state.now;
	walk.scratch = scratch;
	walk.memory = &call->memory;
	walk.sent = call->sent;
	walk.tls->burst = 0;
	stream = &walk.tls->wire[walk.sent & 1];
	if (!walk.sent)
		settle_reads(walk.tls, call->endpoint.position);
	if (begin_call(&scratch->state, stream, call))
		LOOP(TLS_STEPS, wire_step, &walk);
	stream->next = call->endpoint.position + call->memory.length;
	if (walk.tls->version)
		connection->encrypted = 1 + walk.tls->version;
	if (!walk.sent)
		keep_tail(walk.tls, call);
	if (walk.tls->shift)
		hand_over_again(connection, walk.tls, call->endpoint.sock);
	walk.tls->shift = 0;
	if (walk.tls->role && !walk.tls->local_port) {
		walk.tls->local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
		if (walk.tls->role == WAGGLE_ROLE_CLIENT)
			take_connect(walk.tls, call->endpoint.sock);
	}
	return wire_news(walk.tls);
}

#endif
