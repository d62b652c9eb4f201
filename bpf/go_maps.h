/* SPDX-License-Identifier: Apache-2.0
 *
 * What is kept of Go programs, of their goroutines and contexts, and its bounds.
 */
#ifndef WAGGLE_GO_MAPS_H
#define WAGGLE_GO_MAPS_H

#include "http2_maps.h"

struct goroutine_key {
	u64 goid;
	u32 epoch; /* of the process */
	u32 reserved;
};

/* A request, and what a child of it needs even when it is answered. */
struct go_request {
	struct owner owner; /* tid: request_mark(); sock 0: nobody's */
	u8 trace_id[16];
	u8 span_id[8];
	u64 sampling;
	u32 trace_flags;
	u32 flags; /* enum waggle_flag, those that a child takes over */
};

enum go_state {
	GO_SERVES = 0, /* reads requests of HTTP/1 from owner.sock */
	GO_STREAM = 1, /* serves this one stream of HTTP/2 now */
	GO_BORN = 2,   /* was born in this request */
	GO_SHARED = 3, /* reads several requests at once: says nothing */
};

#define GO_ROUTE_PIECES 3 /* routers within routers */
#define GO_NO_REQUEST 1	  /* in goroutine.serves: of a stream that has its Request elsewhere */

struct goroutine {
	struct go_request request;
	u64 function; /* GO_BORN: what it runs */
	u64 serves;  /* the net/http.conn whose requests it reads; GO_STREAM: its Request, 0: grpc's */
	u64 context; /* that conn's context, once it is in go_contexts */
	u32 state;
	u32 calls;
	u32 pipelined; /* it once had two requests open: contexts do not tell them apart */
	u32 route_pieces; /* texts in the program (go_routers.h), */
	u32 routed_index; /* of this request of its connection, or this stream */
	u32 reserved;
	u64 route[GO_ROUTE_PIECES];
	u64 route_length[GO_ROUTE_PIECES];
	u64 handler; /* as WAGGLE_KEPT_HANDLER; 0: not known */
};

/* Where a request will be found that somebody has asked for: by the socket (net/http, one
 * at a time), with the stream (grpc); or, where grpc's connection cannot be had at once, by
 * the headers that are on their way to its writer, then by the writer and the stream. */
enum go_call_place { GO_BY_SOCKET = 0, GO_BY_HEADERS = 1, GO_BY_WRITER = 2 };

struct go_call_key {
	u64 at; /* socket, address of the headers, or goroutine */
	u32 stream;
	u32 epoch;
	u32 place; /* enum go_call_place */
	u32 reserved;
};

/* Who asked for the request that will be sent next on a connection. */
struct go_call {
	struct go_request request; /* owner.sock 0: nobody known */
	u64 goid;
	u32 after; /* the request was answered already */
	u32 swept; /* nobody has come for it for a while (sweep_go_calls()) */
};

MAP(go_processes, BPF_MAP_TYPE_HASH, 4096, u32, struct waggle_go, ON_DEMAND);
/* What is full forgets what was longest not used: such a call has no parent. */
MAP(goroutines, BPF_MAP_TYPE_LRU_HASH, 65536, struct goroutine_key, struct goroutine, 0);
u32 goroutines_made = 0; /* how often something was put there, more or less */
MAP(go_functions, BPF_MAP_TYPE_HASH, 16384, struct waggle_go_function_key, struct waggle_go_function,
    ON_DEMAND);
/* Most calls are sent as soon as they are asked for, so few wait: those lie in memory that the last
 * ones have left warm. When there is no room, and when nobody comes for long, they go into the large
 * one, which is looked at from then on. */
#define NEAR_CALLS 1024
MAP(near_calls, BPF_MAP_TYPE_HASH, NEAR_CALLS, struct go_call_key, struct go_call, 0);
MAP(go_calls, BPF_MAP_TYPE_LRU_HASH, 16384, struct go_call_key, struct go_call, 0);
u32 far_calls = 0; /* set once there was anything in go_calls */

INLINE void put_goroutine(const struct goroutine_key *key, const struct goroutine *fresh, u32 how)
{
	goroutines_made++;
	bpf_map_update_elem(&goroutines, key, fresh, how);
}

struct go_context_key {
	u64 address;
	u32 epoch;
	u32 reserved;
};

/* Whose a context is. An address may be used again: that what it says still holds is
 * checked when it is found (serving_request(), refresh_request()). */
struct go_context {
	struct owner owner; /* the stream's */
	u64 goid;	    /* or, not 0, who reads the requests of the connection */
};
MAP(go_contexts, BPF_MAP_TYPE_LRU_HASH, 32768, struct go_context_key, struct go_context, 0);

/* Which socket a grpc http2Server, or what sends requests, had its connection on. */
struct go_transport_key {
	u64 address;
	u32 epoch;
	u32 reserved;
};

struct go_transport {
	u64 sock;
	u64 connection; /* http2_connection.id; of what sends requests bases_of() */
	u32 uses;
	u32 reserved;
};
MAP(go_transports, BPF_MAP_TYPE_LRU_HASH, 4096, struct go_transport_key, struct go_transport, 0);

/* The same of goroutines that were made for a stream of grpc, for as long as that is open: all that
 * is there is warm, where a map that has to look for what was not used for long touches lines that
 * no cache has. When one is full the maps above have room. */
#define NEAR_HANDLERS 1024
MAP(near_goroutines, BPF_MAP_TYPE_HASH, NEAR_HANDLERS, struct goroutine_key, struct goroutine, 0);
MAP(near_contexts, BPF_MAP_TYPE_HASH, NEAR_HANDLERS, struct go_context_key, struct go_context, 0);

/* A stream ends, whose goroutine and context are in the two maps above: with its answer what that
 * goroutine was made for is done, else it may yet call somebody, for a request that is no more.
 * The keys are alike, and share their place on a short stack. */
INLINE void forget_handler(const struct http2_stream *stream, u32 end)
{
	struct goroutine_key key = { .goid = stream->handler, .epoch = stream->epoch };
	struct goroutine *goroutine;

	if (end != WAGGLE_END_DONE) {
		goroutine = bpf_map_lookup_elem(&near_goroutines, &key);
		if (goroutine)
			put_goroutine(&key, goroutine, BPF_NOEXIST);
	}
	bpf_map_delete_elem(&near_goroutines, &key);
	key.goid = stream->context;
	bpf_map_delete_elem(&near_contexts, &key);
}

#endif
