/* SPDX-License-Identifier: Apache-2.0
 *
 * The encrypted side of a connection: what passes the socket is read only as far as where
 * its records begin, and which object of a library it belongs to.
 */
#ifndef WAGGLE_TLS_WIRE_H
#define WAGGLE_TLS_WIRE_H

#include "http1_feed.h"
#include "tls_binding.h"
#include "tls_hello.h"
#include "tls_records.h"

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
