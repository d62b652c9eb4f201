/* SPDX-License-Identifier: Apache-2.0
 *
 * One call that sends or receives: which connection, where in its stream, and
 * the pieces of memory its bytes lie in.
 */
#ifndef WAGGLE_CALL_H
#define WAGGLE_CALL_H

#include "http1_feed.h"

#define SEGMENTS_MAX 1024 /* the kernel's own limit, UIO_MAXIOV */

/* Where the bytes of a call are. */
struct memory {
	const u8 *base;		    /* flat: one buffer, or null when we cannot know */
	const struct iovec *vector; /* else an array of them */
	u64 skip;		    /* bytes at the front that are not part of it */
	u64 length;		    /* bytes that passed, or will */
	u32 segments;		    /* 0: flat */
	u32 in_kernel;		    /* the vector itself is a kernel copy */
};

struct walk {
	struct feed *feed;
	const struct iovec *vector;
	u64 skip;
	u64 left;
	u32 segments;
	u32 in_kernel;
};

static long walk_step(u32 index, void *context)
{
	struct walk *walk = context;
	struct feed *feed = walk->feed;
	struct iovec piece;
	u64 length;
	long failed;

	if (index >= walk->segments || !walk->left)
		return 1;
	failed = walk->in_kernel ?
			 bpf_probe_read_kernel(&piece, sizeof(piece), &walk->vector[index]) :
			 bpf_probe_read_user(&piece, sizeof(piece), &walk->vector[index]);
	if (failed)
		return 1;
	length = piece.iov_len;
	if (walk->skip >= length) {
		walk->skip -= length;
		return 0;
	}
	length -= walk->skip;
	if (length > walk->left)
		length = walk->left;
	feed_piece(feed, (u64)piece.iov_base + walk->skip, length);
	walk->skip = 0;
	walk->left -= length;
	return 0;
}

INLINE void feed_memory(struct feed *feed, const struct memory *memory, u64 skip)
{
	u64 length = memory->length - skip;
	struct walk walk = {
		.feed = feed,
		.vector = memory->vector,
		.skip = memory->skip + skip,
		.left = length,
		.segments = memory->segments,
		.in_kernel = memory->in_kernel,
	};

	if (!memory->segments) {
		feed_piece(feed, memory->base ? (u64)memory->base + memory->skip + skip : 0,
			   length);
		return;
	}
	LOOP(SEGMENTS_MAX, walk_step, &walk);
	if (walk.left) /* the vector could not be read to its end */
		feed_piece(feed, 0, walk.left);
}

/* Lines the call up with what was seen before. Returns how many of its bytes were
 * seen already; bytes that no hook saw are fed as unreadable. */
INLINE u64 align_position(struct feed *feed, const struct endpoint *endpoint)
{
	struct http1_stream *stream = feed->stream;
	s32 ahead;

	if (!stream->started) {
		stream->started = 1;
		stream->next = endpoint->position;
	}
	ahead = endpoint->position - stream->next;
	feed->scratch->state.position = stream->next;
	if (ahead < 0)
		return -ahead;
	/* Data and the peer's FIN in one read move the position one further. */
	if (!ahead || (ahead == 1 && !feed->sent && (endpoint->shutdown & RCV_SHUTDOWN)))
		return 0;
	feed_piece(feed, 0, ahead);
	feed->scratch->state.first_of_call = 1;
	return 0;
}

INLINE int from_start(const struct endpoint *endpoint, u8 sent)
{
	u32 base = sent ? endpoint->sent_base : endpoint->received_base;
	u32 offset = endpoint->position - base;

	return endpoint->family != AF_UNIX &&
	       (!offset || (!sent && offset == 1 && (endpoint->shutdown & RCV_SHUTDOWN)));
}

static __attribute__((noinline)) struct connection *
new_connection(const struct endpoint *endpoint, u64 peer, u32 sent)
{
	u64 sock = endpoint->sock;
	u32 zero = 0;
	struct connection *fresh = bpf_map_lookup_elem(&blank, &zero);

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
	fresh->peer_sock = peer;
	fresh->flags = CONNECTION_FRESH;
	/* Of a UNIX socket it cannot be told, and is nothing to speak of. */
	if (endpoint->family != AF_UNIX)
		fresh->flags |= from_start(endpoint, sent) ? CONNECTION_FROM_START :
							     CONNECTION_RESYNCED;
	fresh->sent.state = HTTP1_LOST;
	fresh->received.state = HTTP1_LOST;
	return fresh;
}

/* The connection of a socket, made when it is new. */
INLINE struct connection *connection_of(const struct endpoint *endpoint, u64 peer, u8 sent)
{
	u64 sock = endpoint->sock;
	struct connection *connection = bpf_map_lookup_elem(&connections, &sock);

	/* A UNIX socket's end is seen by no hook: another peer, another connection. */
	if (connection && !(endpoint->family == AF_UNIX && connection->peer_sock != peer))
		return connection;
	return new_connection(endpoint, peer, sent);
}

/* Rule `turn` wants to know what each read belongs to. */
INLINE void remember_turn(struct connection *connection, u64 sock)
{
	struct owner owner = {};

	if (connection->role == WAGGLE_ROLE_SERVER && open_requests(connection)) {
		owner.sock = sock;
		owner.index = connection->responses;
	} else if (connection->role == WAGGLE_ROLE_CLIENT) {
		owner = connection->turn_owner;
	}
	turn_begin((u32)bpf_get_current_pid_tgid(), &owner);
}

INLINE int uses_turns(u32 tgid)
{
	struct waggle_process *process = bpf_map_lookup_elem(&processes, &tgid);

	return process && (process->mode & WAGGLE_PROCESS_RULE_TURN);
}

/* All flavours meet here. A global function: the verifier proves it once, for any
 * arguments, and not again at each place that calls it. */
__attribute__((noinline)) int on_call(struct connection *connection,
				      const struct endpoint *endpoint,
				      const struct memory *memory, u32 sent)
{
	u64 id = bpf_get_current_pid_tgid();
	struct feed feed = {
		.connection = connection,
		.tgid = id >> 32,
		.tid = (u32)id,
		.sent = sent,
	};
	struct feed_state *state;
	u64 seen;

	if (!connection || !endpoint || !memory)
		return 0;
	feed.sock = endpoint->sock;
	feed.stream = sent ? &connection->sent : &connection->received;
	feed.scratch = scratch_of(sent ? SCRATCH_SEND : SCRATCH_RECEIVE);
	if (!feed.scratch)
		return 0;
	state = &feed.scratch->state;
	state->now = bpf_ktime_get_ns();
	state->carry = 0;
	state->first_of_call = 1;
	state->blocking = endpoint->blocking;
	if (!connection->sent.started && !connection->received.started) {
		connection->sent_base = endpoint->sent_base;
		connection->received_base = endpoint->received_base;
	}
	seen = align_position(&feed, endpoint);
	if (seen >= memory->length)
		return 0;
	feed_memory(&feed, memory, seen);
	feed_end(&feed);
	feed.stream->next = endpoint->position + memory->length;
	return 0;
}

#endif
