/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams of connections that ended with more of them than could be ended at once.
 */
#ifndef WAGGLE_HTTP2_SWEEP_H
#define WAGGLE_HTTP2_SWEEP_H

#include "http2_ending.h"

struct http2_sweep {
	u64 now;
};

/* Ends a stream whose connection is over, or has another one at its address. The map that it is
 * found in may not be the only one with its number: another may have been begun there since. */
#define DEFINE_SWEEP(name, finish)								\
	static long name(void *map, const struct exchange_key *key, struct open_stream *open,	\
			 void *context)							\
	{											\
		u64 sock = key->sock;								\
		struct http2_connection *http2 = bpf_map_lookup_elem(&http2_connections, &sock); \
		struct stream_ending ending = {							\
			.sock = sock,								\
			.now = ((struct http2_sweep *)context)->now,				\
			.stream = key->index,							\
			.end = WAGGLE_END_LOCAL_CLOSED,						\
		};										\
												\
		if (http2 && http2->id != open->stream.connection)				\
			http2 = 0;								\
		if (http2) {									\
			if (!http2->ended_ns)							\
				return 0;							\
			ending.now = http2->ended_ns;						\
			ending.end = http2->end;						\
			ending.error = http2->error;						\
		}										\
		finish(&ending, http2);								\
		return 0;									\
	}

DEFINE_SWEEP(sweep_near_stream, finish_near_stream)
DEFINE_SWEEP(sweep_far_stream, finish_far_stream)
DEFINE_SWEEP(sweep_large_stream, finish_large_stream)

static long sweep_http2_connection(void *map, const u64 *key, struct http2_connection *http2,
				   void *context)
{
	u64 sock = *key;

	if (http2->ended_ns && !http2->open)
		bpf_map_delete_elem(&http2_connections, &sock);
	return 0;
}

INLINE void sweep_http2(u64 now)
{
	struct http2_sweep sweep = { .now = now };

	if (!http2_left_open)
		return;
	http2_left_open = 0;
	bpf_for_each_map_elem(&near_streams, sweep_near_stream, &sweep, 0);
	bpf_for_each_map_elem(&http2_streams, sweep_far_stream, &sweep, 0);
	bpf_for_each_map_elem(&large_streams, sweep_large_stream, &sweep, 0);
	bpf_for_each_map_elem(&http2_connections, sweep_http2_connection, &sweep, 0);
}

#endif
