/* SPDX-License-Identifier: Apache-2.0
 *
 * What is kept of HTTP/2 connections and their streams, and its bounds.
 */
#ifndef WAGGLE_HTTP2_MAPS_H
#define WAGGLE_HTTP2_MAPS_H

#include "grpc_messages.h"
#include "http2_side.h"
#include "maps.h"

/* http1_stream.state of both directions of a connection that speaks HTTP/2. */
#define HTTP1_IS_HTTP2 64

INLINE int is_http2(const struct connection *connection)
{
	return connection->sent.state == HTTP1_IS_HTTP2;
}

#define HTTP2_CONTEXTS 32 /* a power of two */

/* A `traceparent` that became an entry of the client's table. */
struct table_context {
	u32 entry; /* its number, from 1 on; 0: none */
	u8 epoch;
	u8 flags;
	u8 reserved[2];
	u8 trace_id[16];
	u8 span_id[8];
};

struct http2_connection {
	u64 id;	      /* waggle_http2.connection */
	u64 ended_ns; /* the connection is over; a sweep ends the streams that are left */
	u64 mark;     /* tells it from others that had the same address (http2_mark()) */
	struct http2_side side[2]; /* by enum direction */
	u32 highest;  /* the latest stream that the client began, or was seen to use */
	u32 pushed;   /* the latest that the server promised */
	u32 open;     /* streams in the maps below */
	u32 large;    /* of those, in large_streams */
	u32 error;    /* of the last GOAWAY */
	u32 tgid;
	u8 end;	      /* enum waggle_end, with ended_ns */
	u8 resynced;  /* found in mid-stream */
	u8 from[2];   /* by enum direction: enum waggle_side */
	u8 reserved[4];
	struct table_context contexts[HTTP2_CONTEXTS]; /* by the entry's number */
};

/* In which of the maps below a stream lies. */
enum stream_place { STREAM_NEAR = 0, STREAM_FAR = 1, STREAM_LARGE = 2 };

/* A stream that is not finished. `index` in exchange_key is its number. */
struct http2_stream {
	struct owner owner; /* the server exchange that a client's stream is a child of */
	u64 connection;	    /* http2_connection.id */
	u64 handler;	    /* the goroutine that serves it; 0: none, or not known */
	u64 context;	    /* of grpc: what that one was handed */
	struct http2_messages messages[WAGGLE_SIDES];
	u32 used; /* bytes of head */
	u8 data;  /* the response's data has begun */
	u8 counted; /* among its process's open requests */
	u8 place;   /* enum stream_place */
	u8 routed;  /* `handler` may know the route */
	u32 epoch;  /* of the handler's process, where near_goroutines has it; else 0 */
	u32 reserved;
};

#define HTTP2_SMALL_BLOCKS (WAGGLE_HEAD_SIZE - WAGGLE_HTTP2_SIZE) /* bytes, of a small record */

struct open_stream {
	struct http2_stream stream;
	struct waggle_exchange record;
	u8 behind[2 * 256 - HTTP2_SMALL_BLOCKS]; /* place and length are bounded by masks */
};

struct open_large_stream {
	struct http2_stream stream;
	struct waggle_large_exchange record;
};

/* A header block on its way into a record. */
struct block_at_hand {
	u64 ns;	      /* when its first byte passed */
	u32 at;	      /* sequence number of the frame's first byte */
	u32 begin;    /* in the buffer */
	u32 inserted; /* before it */
	u32 length;
	u8 epoch;
	u8 flags; /* enum waggle_block_flag */
	u8 slot;  /* enum waggle_block */
	u8 bad;
	u32 promised; /* the stream that PUSH_PROMISE begins */
	u32 stream;
	u32 type; /* enum http2_type */
	u32 path_rules; /* one bit for each sampling rule whose path it names */
	u32 reserved;
};

/* An entry of a table that is a path. */
struct stream_path_key {
	u64 connection; /* http2_connection.id */
	u32 epoch;
	u32 entry;
};

/* One CPU's room for a call. */
struct http2_scratch {
	u64 sock; /* of the call: */
	u32 sent; /* enum direction */
	u32 from; /* enum waggle_side */
	struct block_at_hand given;
	struct http2_window window;
	struct open_large_stream fresh; /* being made or moved */
	u8 behind[8192 - WAGGLE_LARGE_HEAD_SIZE];
	struct hpack_block block;
	struct http2_connection beginning; /* one that turns out to be */
};

/* Set when a connection ended with more streams than could be ended at once. */
u32 http2_left_open = 0;

MAP(http2_connections, BPF_MAP_TYPE_HASH, 16384, u64, struct http2_connection, ON_DEMAND);
/* Most streams are short, and few are open: those lie in memory that the last ones have left warm.
 * To have it given and to give it back would take longer than all else that is done for a stream:
 * it goes by batches, each in an interrupt of its own, from one processor to another. */
#define NEAR_STREAMS 1024
MAP(near_streams, BPF_MAP_TYPE_HASH, NEAR_STREAMS, struct exchange_key, struct open_stream, 0);
MAP(http2_streams, BPF_MAP_TYPE_HASH, 65536 - NEAR_STREAMS, struct exchange_key,
    struct open_stream, ON_DEMAND);
/* Whose header blocks are too long for a small record. */
MAP(large_streams, BPF_MAP_TYPE_HASH, 4096, struct exchange_key, struct open_large_stream,
    ON_DEMAND);
MAP(http2_scratches, BPF_MAP_TYPE_PERCPU_ARRAY, SCRATCH_USERS, u32, struct http2_scratch, 0);

/* Which sampling rules are for the paths in tables; a few entries where no rule has a path. */
MAP(stream_paths, BPF_MAP_TYPE_LRU_HASH, 65536, struct stream_path_key, u32, 0);

/* Everything that changes an HPACK table, in the order of the wire. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2 << 20);
} table_ring SEC(".maps");

INLINE struct http2_scratch *http2_scratch_of(u32 user)
{
	return bpf_map_lookup_elem(&http2_scratches, &user);
}

INLINE struct open_stream *find_stream(u64 sock, u32 stream)
{
	struct exchange_key key = { .sock = sock, .index = stream };
	struct open_stream *open = bpf_map_lookup_elem(&near_streams, &key);

	if (!open)
		open = bpf_map_lookup_elem(&http2_streams, &key);
	/* A large one begins as a small one does. */
	return open ? open : bpf_map_lookup_elem(&large_streams, &key);
}

#endif
