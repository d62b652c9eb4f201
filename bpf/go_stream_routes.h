/* SPDX-License-Identifier: Apache-2.0
 *
 * The route of a stream of HTTP/2, when its answer's head is written: by the connection's own
 * goroutine, for which the one that serves the stream waits. That one's Request has the pattern
 * of net/http's ServeMux; other routers have told it theirs (go_routers.h).
 */
#ifndef WAGGLE_GO_STREAM_ROUTES_H
#define WAGGLE_GO_STREAM_ROUTES_H

#include "go_routes.h"
#include "http2_maps.h"

/* The pattern that the goroutine's Request has, as its only piece. */
INLINE int pattern_of_stream(const struct waggle_go *go, struct goroutine *goroutine)
{
	struct go_string pattern = {};

	if (!go->request_pattern || goroutine->serves <= GO_NO_REQUEST)
		return 0;
	bpf_probe_read_user(&pattern, sizeof(pattern),
			    (void *)(goroutine->serves + go->request_pattern));
	if (!pattern.length || pattern.length > GO_ROUTE_MAX)
		return 0;
	goroutine->route[0] = pattern.text;
	goroutine->route_length[0] = pattern.length;
	goroutine->route_pieces = 1;
	return 1;
}

/* Adds a route to the record of an open stream, if a small one has room for it. */
INLINE int add_stream_route(struct open_stream *open, const struct goroutine *goroutine)
{
	struct waggle_http2 *http2 = (void *)open->record.head;
	u32 used = open->stream.used, at = used - WAGGLE_HTTP2_SIZE;
	u32 total = goroutine->handler ? HANDLER_SIZE : 0;

#pragma clang loop unroll(full)
	for (u32 i = 0; i < GO_ROUTE_PIECES; i++)
		total += i < goroutine->route_pieces ? (u32)goroutine->route_length[i] : 0;
	if (used < WAGGLE_HTTP2_SIZE || used + total > WAGGLE_HEAD_SIZE)
		return 0;
	http2->route_offset = used;
	http2->route_length = total;
	open->stream.used = used + total;
#pragma clang loop unroll(full)
	for (u32 i = 0; i < GO_ROUTE_PIECES; i++) {
		u32 length = masked((u32)goroutine->route_length[i], GO_ROUTE_MAX);

		if (i >= goroutine->route_pieces)
			break;
		bpf_probe_read_user(open->record.head + WAGGLE_HTTP2_SIZE + masked(at, 255), length,
				    (void *)goroutine->route[i]);
		at += length;
	}
	if (goroutine->handler) {
		http2->flags |= WAGGLE_HTTP2_FLAG_HANDLER;
		store64(open->record.head + WAGGLE_HTTP2_SIZE + masked(at, 255),
			goroutine->handler);
	}
	return 1;
}

/* A stream is answered that a goroutine serves. */
PROVEN_ONCE int keep_stream_route(u64 sock, u32 stream)
{
	struct open_stream *open = find_stream(sock, stream);
	struct waggle_go *go = open ? go_of(open->record.facts.tgid) : 0;
	struct goroutine *goroutine = go ? goroutine_of(go, open->stream.handler) : 0;

	if (!goroutine || goroutine->state != GO_STREAM ||
	    goroutine->request.owner.sock != sock || goroutine->request.owner.index != stream)
		return 0;
	if (!goroutine->route_pieces && !pattern_of_stream(go, goroutine)) {
		if (goroutine->serves)
			without_route(go, open->record.facts.response_ns);
		return 0;
	}
	return add_stream_route(open, goroutine);
}

#endif
