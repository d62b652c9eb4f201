/* SPDX-License-Identifier: Apache-2.0
 *
 * The one function in which all flavours of capture meet: some bytes of one
 * direction of a connection, with their position in the stream.
 */
#ifndef WAGGLE_FEED_H
#define WAGGLE_FEED_H

#include "maps.h"

enum direction { RECEIVED = 0, SENT = 1 };

/* What a hook knows of a socket at the moment of a call. */
struct endpoint {
	u64 sock; /* also the key in `connections` */
	u32 sent_base; /* first sequence number of each direction */
	u32 received_base;
	u32 position; /* sequence number of the call's first byte */
	u16 family;
	u8 blocking;
	u8 shutdown;
};

/* Where the bytes of a call are. */
struct memory {
	u64 base;      /* flat: one buffer, or 0 when we cannot know */
	u64 vector;    /* else an array of struct iovec */
	u64 skip;      /* bytes at the front that are not part of it */
	u64 length;    /* bytes that passed, or will */
	u32 segments;  /* 0: flat */
	u32 in_kernel; /* enum memory_place */
};

/* What lies in the kernel's memory and not in the process's. */
enum memory_place { MEMORY_OF_PROCESS = 0, VECTOR_IN_KERNEL = 1, BYTES_IN_KERNEL = 2 };

/* Where a TCP socket is in its two streams. */
struct positions {
	u32 sent_base;
	u32 received_base;
	u32 write_seq;
	u32 copied_seq;
	u32 end_read; /* 1 when copied_seq is beyond the peer's FIN, which is no byte */
	u32 reserved;
};

/* One call that sends or receives. In a map and not on the stack, which is short. */
struct call {
	struct endpoint endpoint;
	struct memory memory;
	struct positions positions;
	struct iovec parts[2];
	u64 sk;	      /* the socket's address */
	u64 peer;     /* UNIX sockets: the other end's */
	u64 inode;    /* UNIX sockets: our own, another for every socket */
	u64 second;   /* arguments: buffer, vector or message */
	u64 third;    /* length or count */
	u32 number;   /* of the system call */
	u32 sent;     /* enum direction */
	s32 result;   /* of a receive: bytes, 0 or minus an errno */
	u32 flags;
	u32 mode; /* of the process */
	u32 user; /* enum scratch_user */
	u64 sent_before; /* by earlier messages of the same call */
	u64 id; /* whose: bpf_get_current_pid_tgid() */
	u64 likely_g; /* go_likely_g(), 0: not asked for */
};

MAP(calls, BPF_MAP_TYPE_PERCPU_ARRAY, SCRATCH_USERS, u32, struct call, 0);

INLINE struct call *call_by(u32 user, u64 id)
{
	struct call *call = bpf_map_lookup_elem(&calls, &user);

	if (call) {
		__builtin_memset(call, 0, sizeof(*call));
		call->user = user;
		call->sent = user != SCRATCH_RECEIVE;
		call->id = id;
	}
	return call;
}

INLINE struct call *call_of(u32 user)
{
	return call_by(user, bpf_get_current_pid_tgid());
}

/* What the parser is given. On the stack, since the verifier must know the pointers;
 * everything else of a call is in scratch->state. */
struct feed {
	struct connection *connection;
	struct http1_stream *stream;
	struct scratch *scratch;
	u64 sock;
	u32 tgid;
	u32 tid;
	u32 sent; /* enum direction */
	u32 user; /* enum scratch_user */
};

/* What the loops over one call are given. */
struct walk {
	struct feed feed;
	const struct memory *memory;
	struct http2_connection *http2;
	struct http2_scratch *scratch;
};

/* Anew in every function that is proven once, which is given no pointers in memory. Nor the
 * scratch memory itself: Linux 6.1 puts into maps only what it knows to be of a map. */
INLINE void feed_by(struct feed *feed, struct connection *connection, struct scratch *scratch,
		    u64 sock, u32 sent, u64 id)
{
	feed->connection = connection;
	feed->stream = sent ? &connection->sent : &connection->received;
	feed->scratch = scratch;
	feed->sock = sock;
	feed->tgid = id >> 32;
	feed->tid = (u32)id;
	feed->sent = sent;
}

INLINE void begin_feed(struct feed *feed, struct connection *connection, struct scratch *scratch,
		       u64 sock, u32 sent)
{
	scratch->state.id = bpf_get_current_pid_tgid();
	scratch->state.likely_g = 0;
	feed_by(feed, connection, scratch, sock, sent, scratch->state.id);
}

/* The same further down, where it has begun. */
INLINE void resume_feed(struct feed *feed, struct connection *connection, struct scratch *scratch,
			u64 sock, u32 sent)
{
	feed_by(feed, connection, scratch, sock, sent, scratch->state.id);
}

INLINE int feed_is_request(const struct feed *feed)
{
	return feed->connection->role == (feed->sent ? WAGGLE_ROLE_CLIENT : WAGGLE_ROLE_SERVER);
}

INLINE struct http1_stream *request_stream(struct connection *connection)
{
	return connection->role == WAGGLE_ROLE_CLIENT ? &connection->sent : &connection->received;
}

INLINE struct http1_stream *response_stream(struct connection *connection)
{
	return connection->role == WAGGLE_ROLE_CLIENT ? &connection->received : &connection->sent;
}

INLINE u32 open_requests(const struct connection *connection)
{
	return connection->requests - connection->responses;
}

#endif
