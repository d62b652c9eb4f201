/* SPDX-License-Identifier: Apache-2.0
 *
 * One call that sends or receives: which connection, where in its stream, and
 * the pieces of memory its bytes lie in.
 */
#ifndef WAGGLE_CALL_H
#define WAGGLE_CALL_H

#include "closing.h"
#include "http1_feed.h"
#include "http2_feed.h"
#include "python_parts.h"
#include "tls_failure.h"
#include "tls_opaque.h"

#define SEGMENTS_MAX 1024 /* the kernel's own limit, UIO_MAXIOV */

#define CALL_STEPS 4096 /* pieces of memory and states passed in one call; a chunk is two */

struct piece {
	u64 base;
	u64 length;
};

/* The next piece of the call's memory, or 0 when it lies in what is to be skipped. */
INLINE int next_piece(struct feed_state *walk, const struct memory *memory, struct piece *piece)
{
	const struct iovec *at = (struct iovec *)memory->vector + walk->segment;
	struct iovec segment = {};

	piece->base = memory->base ? memory->base + walk->skip : 0;
	piece->length = walk->left;
	if (!memory->segments)
		return 1;
	piece->base = 0;
	if (walk->segment++ >= memory->segments ||
	    (memory->in_kernel & VECTOR_IN_KERNEL ? bpf_probe_read_kernel(&segment, sizeof(segment), at) :
						    bpf_probe_read_user(&segment, sizeof(segment), at)))
		return 1; /* the rest cannot be found */
	if (walk->skip >= segment.iov_len) {
		walk->skip -= segment.iov_len;
		return 0;
	}
	piece->base = (u64)segment.iov_base + walk->skip;
	piece->length = segment.iov_len - walk->skip;
	if (piece->length > walk->left)
		piece->length = walk->left;
	return 1;
}

/* One place feeds, whatever the piece: the verifier walks the parser once for it. */
/* Makes the next piece the current one: bytes that nobody saw, then the call's memory
 * in order. Returns 0 when there is none. */
INLINE int turn_to_next_piece(struct feed_state *state, const struct memory *memory)
{
	struct piece piece = { .length = state->gap };

	if (!state->gap) {
		if (!state->left)
			return 0;
		if (!next_piece(state, memory, &piece))
			return 1;
		state->skip = 0;
		state->left -= piece.length;
	}
	/* What follows bytes that nobody saw may well begin a message. */
	state->first_of_call = state->first_of_call && !state->base;
	state->gap = 0;
	state->position += state->length;
	state->base = piece.base;
	state->length = piece.length;
	state->offset = 0;
	return 1;
}

/* A response is complete while we have not seen all of the request's body, as when it
 * goes through splice. TCP's position says how much passed; of a UNIX connection
 * nothing does, so the next head is looked for anew. */
INLINE void catch_up(struct feed *feed)
{
	struct connection *connection = feed->connection;
	struct http1_stream *stream = request_stream(connection);
	struct tcp_sock *sk = (void *)feed->sock;
	s32 ahead;

	if (stream->state != HTTP1_LENGTH || open_requests(connection) != 1)
		return;
	if (connection->family == AF_UNIX || is_tls(connection)) {
		stream->state = HTTP1_LOST;
		return;
	}
	ahead = connection->role == WAGGLE_ROLE_SERVER ? BPF_CORE_READ(sk, copied_seq) :
							 BPF_CORE_READ(sk, write_seq);
	ahead -= stream->next;
	if (ahead <= 0)
		return;
	stream->next += http1_skip(stream, ahead);
	if (!stream->remain)
		stream->state = HTTP1_HEAD;
}

/* A step more would only find that out. */
INLINE int nothing_left(const struct feed_state *state)
{
	return state->offset >= state->length && !state->gap && !state->left;
}

static long call_step(u32 index, void *context)
{
	struct walk *walk = context;
	struct feed *feed = &walk->feed;
	struct feed_state *state = &feed->scratch->state;
	int stop;

	if (state->offset >= state->length) {
		if (!turn_to_next_piece(state, walk->memory))
			return 1;
		if (state->offset >= state->length)
			return 0;
	}
	stop = feed_state(feed);
	if (state->answered) {
		state->answered = 0;
		catch_up(feed);
		finish_exchange(feed->connection, feed->sock, state->now, WAGGLE_END_DONE);
	}
	return stop || state->fate || (feed->connection->flags & CONNECTION_DEAD) ||
	       is_http2(feed->connection) || nothing_left(state);
}

INLINE void feed_call(struct walk *walk)
{
	struct feed *feed = &walk->feed;
	struct feed_state *state = &feed->scratch->state;

	LOOP(CALL_STEPS, call_step, walk);
	if (is_http2(feed->connection))
		return;
	if (!state->fate && (state->left || state->offset < state->length) &&
	    !(feed->connection->flags & CONNECTION_DEAD))
		feed_lost(feed, WAGGLE_COUNT_LOST_FRAMING_BUDGET);
	if (!state->fate && state->carry)
		feed_end(feed);
	if (state->fate)
		meet_fate(feed);
}

/* Lines the call up with what was seen before: bytes that were seen already are
 * skipped, bytes that no hook saw become a gap. */
INLINE void align_position(struct feed_state *state, struct http1_stream *stream,
			   const struct endpoint *endpoint)
{
	s32 ahead;

	if (!stream->started) {
		stream->started = 1;
		stream->next = endpoint->position;
	}
	ahead = endpoint->position - stream->next;
	state->position = stream->next;
	if (ahead < 0) {
		u64 seen = -ahead;

		state->skip += seen;
		state->left -= seen < state->left ? seen : state->left;
	} else {
		state->gap = ahead;
	}
}

INLINE int from_start(const struct endpoint *endpoint, u8 sent)
{
	u32 base = sent ? endpoint->sent_base : endpoint->received_base;

	return endpoint->family != AF_UNIX && endpoint->position == base;
}

OUT_OF_LINE struct connection *new_connection(const struct endpoint *endpoint, u32 sent)
{
	u64 sock = endpoint->sock;
	struct connection *fresh = BLANK(struct connection);

	if (!fresh)
		return 0;
	if (bpf_map_update_elem(&connections, &sock, fresh, BPF_ANY)) {
		count(WAGGLE_COUNT_LOST_CONNECTION_MAP_FULL);
		return 0;
	}
	fresh = bpf_map_lookup_elem(&connections, &sock);
	if (!fresh)
		return 0;
	fresh->family = endpoint->family;
	fresh->flags = CONNECTION_FRESH;
	/* Of a UNIX socket it cannot be told, and is nothing to speak of. */
	if (endpoint->family != AF_UNIX)
		fresh->flags |= from_start(endpoint, sent) ? CONNECTION_FROM_START :
							     CONNECTION_RESYNCED;
	fresh->sent.state = HTTP1_LOST;
	fresh->received.state = HTTP1_LOST;
	return fresh;
}

/* Streams that begin less than this apart are taken for one: a FIN counts, and where a direction
 * moves while it is read, so does what passes meanwhile. */
#define BASES_APART (1 << 20)

INLINE int is_apart(u32 one, u32 other)
{
	return one - other + BASES_APART > 2 * BASES_APART;
}

/* The kernel does not run programs everywhere: the end of a connection may pass unseen, and its
 * socket's address is soon another's, whose streams begin elsewhere: both of them, but one may lie
 * near by chance (one of a thousand does so). Who comes here at all has met other bytes than
 * those that were next, so one that is elsewhere says enough. */
INLINE int is_of_before(const struct connection *connection, const struct call *call)
{
	const struct endpoint *endpoint = &call->endpoint;
	const struct http1_stream *stream = call->sent ? &connection->sent : &connection->received;

	/* A UNIX socket's end is seen by no hook: another inode, another connection. */
	if (connection->family == AF_UNIX || endpoint->family == AF_UNIX)
		return connection->peer_sock != call->peer || connection->inode != call->inode;
	if (stream->next == endpoint->position ||
	    (!connection->sent.started && !connection->received.started))
		return 0;
	return is_apart(connection->sent_base, endpoint->sent_base) ||
	       is_apart(connection->received_base, endpoint->received_base);
}

INLINE void forget_heads(u64 sock)
{
	struct partial_key key = { .sock = sock };

	bpf_map_delete_elem(&partial_heads, &key);
	key.sent = 1;
	bpf_map_delete_elem(&partial_heads, &key);
}

/* A connection is no more: what is open ends so, and what is kept beside its entry goes. */
INLINE void let_go(struct connection *connection, u64 sock, u8 end)
{
	if (!(connection->flags & CONNECTION_DEAD))
		end_connection(connection, sock, bpf_ktime_get_ns(), end);
	if (is_tls(connection))
		forget_tls(sock);
	forget_heads(sock);
}

/* `before`: what was at this address, whose end has passed unseen. */
OUT_OF_LINE struct connection *next_connection(struct connection *before, const struct call *call)
{
	struct connection *connection;

	if (before)
		let_go(before, call->endpoint.sock, local_end(before));
	connection = new_connection(&call->endpoint, call->sent);
	if (connection) {
		connection->peer_sock = call->peer;
		connection->inode = call->inode;
	}
	return connection;
}

/* The connection of a call, made when it is new; null when it is nothing to us. */
INLINE struct connection *connection_of(const struct call *call)
{
	u64 sock = call->endpoint.sock;
	struct connection *connection = bpf_map_lookup_elem(&connections, &sock);

	if (!connection || is_of_before(connection, call))
		connection = next_connection(connection, call);
	if (connection && is_carried(connection))
		carried_passes(connection, call->sent);
	return connection && !(connection->flags & CONNECTION_DEAD) ? connection : 0;
}

/* Rule `turn` wants to know what each read belongs to. */
OUT_OF_LINE int remember_turn(struct connection *connection, u64 sock, u32 mode)
{
	struct owner owner = {};
	struct found_exchange found;

	if (connection->role == WAGGLE_ROLE_SERVER && open_requests(connection)) {
		owner.index = connection->responses;
		if (find_exchange(connection, sock, owner.index, &found)) {
			owner.sock = sock;
			owner.tid = request_mark(found.facts);
		}
	} else if (connection->role == WAGGLE_ROLE_CLIENT || answers_carried(connection)) {
		owner = connection->turn_owner;
	}
	turn_begin((u32)bpf_get_current_pid_tgid(), &owner, mode & WAGGLE_PROCESS_PROVE_TURN);
	return 0;
}

INLINE u32 mode_of(u32 tgid)
{
	struct waggle_process *process = bpf_map_lookup_elem(&processes, &tgid);

	return process ? process->mode : 0;
}

/* Turns to the beginning of a call's bytes. Returns 0 when there is nothing new in it. */
INLINE int begin_call(struct feed_state *state, struct http1_stream *stream,
		      const struct call *call)
{
	state->carry = 0;
	state->first_of_call = 1;
	state->blocking = call->endpoint.blocking;
	state->skip = call->memory.skip;
	state->left = call->memory.length;
	state->gap = 0;
	state->segment = 0;
	state->base = 0;
	state->length = 0;
	state->offset = 0;
	state->fate = FATE_FINE;
	state->answered = 0;
	state->in_kernel = !!(call->memory.in_kernel & BYTES_IN_KERNEL);
	align_position(state, stream, &call->endpoint);
	return !!state->left;
}

INLINE int pass_wire(struct connection *connection, struct call *call)
{
	int news = on_wire(connection, call);

	if (news == WIRE_FAILED)
		tell_failure(connection, call->user, call->endpoint.sock);
	else if (news == WIRE_OPAQUE)
		pass_opaque(connection, call->user, call->endpoint.sock, call->sent);
	return 0;
}

/* All flavours meet here. A global function: the verifier proves it once, for any
 * arguments, and not again at each place that calls it. */
PROVEN_ONCE int on_call(struct connection *connection, struct call *call)
{
	struct walk walk = {};
	struct feed *feed = &walk.feed;
	struct scratch *scratch;
	struct feed_state *state;

	if (!connection || !call)
		return 0;
	feed->user = call->user;
	scratch = bpf_map_lookup_elem(&scratches, &feed->user);
	if (!scratch)
		return 0;
	scratch->state.id = call->id;
	scratch->state.likely_g = call->likely_g;
	resume_feed(feed, connection, scratch, call->endpoint.sock, call->sent);
	if (!connection->sent.started && !connection->received.started) {
		connection->sent_base = call->endpoint.sent_base;
		connection->received_base = call->endpoint.received_base;
	}
	if (is_tls(connection) && call->user != SCRATCH_TLS)
		return pass_wire(connection, call);
	walk.memory = &call->memory;
	state = &scratch->state;
	state->now = bpf_ktime_get_ns();
	connection->last_ns = state->now;
	if (feed->sent && connection->flags & CONNECTION_WATCHED)
		task_part(connection, feed->sock);
	if (!is_http2(connection)) {
		if (!begin_call(state, feed->stream, call))
			return 0;
		feed_call(&walk);
		/* Or has just turned out to be encrypted. */
		if (is_tls(connection) && call->user != SCRATCH_TLS)
			return pass_wire(connection, call);
	}
	/* From where it is, or has just turned out to be, HTTP/2. */
	if (is_http2(connection) && open_requests(connection))
		take_over_request(connection, feed->scratch, call->user, feed->sock);
	if (is_http2(connection)) {
		if (!begin_call(state, feed->stream, call))
			return 0;
		feed_http2(&walk);
	}
	feed->stream->next = call->endpoint.position + call->memory.length;
	return 0;
}

#endif
