/* SPDX-License-Identifier: Apache-2.0
 *
 * What goroutines of Go's servers serve, net/http's and grpc's: a connection of HTTP/1, or a
 * stream of HTTP/2. On instructions as those of go_client_probes.h.
 */
#ifndef WAGGLE_GO_SERVER_PROBES_H
#define WAGGLE_GO_SERVER_PROBES_H

#include "go_contexts.h"
#include "go_names.h"
#include "go_sockets.h"

/* net/http.(*conn).serve(conn): the goroutine that will read all requests of a connection. */
SEC("uprobe")
int go_conn_serve(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	struct goroutine_key key = {};
	struct goroutine fresh = { .serves = GO_ARGUMENT_0(registers), .state = GO_SERVES };

	if (!go)
		return 0;
	key.goid = probed_goid(go, registers);
	key.epoch = go->epoch;
	if (key.goid)
		put_goroutine(&key, &fresh, BPF_ANY);
	return 0;
}

/* net/http.serverHandler.ServeHTTP(handler, writer, request): says the same of a connection
 * that is older than the agent. */
SEC("uprobe")
int go_serve_http(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 response = GO_ARGUMENT_2(registers), request = GO_ARGUMENT_3(registers);
	u64 goid = go ? probed_goid(go, registers) : 0;
	struct goroutine *goroutine = goid ? goroutine_of(go, goid) : 0;

	if (!goroutine || goroutine->state != GO_SERVES || goroutine->serves)
		return 0;
	/* Else the writer is no net/http.response. */
	if (!request || word_at(response + go->response_request) != request)
		return 0;
	goroutine->serves = word_at(response + go->response_conn);
	if (goroutine->serves)
		keep_conn_context(go, goroutine, goid);
	return 0;
}

#define EEXIST 17

/* Whether a goroutine lies in near_goroutines now: one of grpc's, of which each serves one stream.
 * Workers that serve one after the other (NumStreamWorkers) are told by the second. What is there
 * is asked first, so nothing of a stream before may stay. */
INLINE int keep_near(struct waggle_go *go, const struct goroutine_key *key,
		     const struct goroutine *fresh)
{
	long failed;

	if (fresh->serves)
		return 0;
	if (!go->near)
		go->near = 1;
	if (!go->stream_workers) {
		failed = bpf_map_update_elem(&near_goroutines, key, fresh, BPF_NOEXIST);
		if (failed != -EEXIST)
			return !failed;
		go->stream_workers = 1;
	}
	bpf_map_delete_elem(&near_goroutines, key);
	return 0;
}

/* The current goroutine serves this stream of HTTP/2, until it serves another; whoever is
 * handed its context works for it. Returns whether the stream's name may not be known. */
OUT_OF_LINE int serve_stream(struct waggle_go *go, u64 sock, u32 stream, u64 context, u64 request)
{
	struct goroutine_key key = { .epoch = go->epoch };
	struct go_context_key context_key = { .address = context, .epoch = go->epoch };
	struct go_context of_stream = {};
	struct goroutine fresh = {};
	struct open_stream *open;
	struct owner owner = { .sock = sock, .index = stream };

	count_served(go);
	open = sock && stream ? find_stream(sock, stream) : 0;
	key.goid = current_goid(go);
	if (!open || !key.goid || open->record.facts.role != WAGGLE_ROLE_SERVER)
		return 0;
	open->stream.owner.tid = HAS_CHILDREN;
	open->stream.handler = key.goid;
	open->stream.routed = request || go->routers;
	keep_request(&fresh.request, &owner, &open->record.facts);
	fresh.serves = request;
	fresh.state = GO_STREAM;
	of_stream.owner = fresh.request.owner;
	if (keep_near(go, &key, &fresh)) {
		open->stream.context = context;
		open->stream.epoch = go->epoch;
		if (!bpf_map_update_elem(&near_contexts, &context_key, &of_stream, BPF_ANY))
			context = 0;
	} else {
		put_goroutine(&key, &fresh, BPF_ANY);
		bpf_map_delete_elem(&near_contexts, &context_key);
	}
	if (context)
		bpf_map_update_elem(&go_contexts, &context_key, &of_stream, BPF_ANY);
	return ((struct waggle_http2 *)open->record.head)->flags & WAGGLE_HTTP2_FLAG_RESYNCED;
}

/* The stream for which runHandler() was given a writer. */
INLINE u64 stream_of_writer(u64 writer)
{
	return word_at(word_at(writer));
}

/* net/http.(*http2serverConn).runHandler(connection, writer, request, ...), bundled or x/net's:
 * the goroutine that was made for a stream. Its Request has the stream's context, which lies in
 * a stream elsewhere from version to version of the module. */
SEC("uprobe")
int go_http2_handler(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 request = GO_ARGUMENT_2(registers), sock;
	u32 stream;

	if (!go)
		return 0;
	sock = socket_of_conn(go, GO_ARGUMENT_0(registers) + go->http2_conn);
	stream = (u32)word_at(stream_of_writer(GO_ARGUMENT_1(registers)) + go->http2_stream);
	if (serve_stream(go, sock, stream, word_at(context_of_request(go, request)), request) &&
	    go->request_uri)
		name_served(sock, stream, request + go->request_method, request + go->request_uri);
	return 0;
}

/* The same of net/http/internal/http2, since Go 1.27: given no net/http.Request. */
SEC("uprobe")
int go_http2_own(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 stream_at = stream_of_writer(GO_ARGUMENT_1(registers)), sock;
	u64 request = GO_ARGUMENT_2(registers);
	u32 stream;

	if (!go)
		return 0;
	sock = socket_of_conn(go, GO_ARGUMENT_0(registers) + go->http2_own_conn);
	stream = (u32)word_at(stream_at + go->http2_stream);
	if (serve_stream(go, sock, stream, word_at(stream_at + go->http2_ctx + GO_INTERFACE_DATA),
			 GO_NO_REQUEST) &&
	    go->own_uri)
		name_served(sock, stream, request + go->own_method, request + go->own_uri);
	return 0;
}

/* grpc.(*Server).handleStream(server, transport, stream): in a goroutine of its own, or in
 * a worker that serves one stream after the other. */
SEC("uprobe")
int go_grpc_handler(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 transport = GO_ARGUMENT_2(registers), stream = GO_ARGUMENT_3(registers), sock;
	u32 number;

	if (!go)
		return 0;
	if (go->grpc_indirect)
		stream = word_at(stream);
	number = (u32)word_at(stream + go->grpc_stream);
	sock = socket_of_transport(go, transport, number);
	if (serve_stream(go, sock, number, word_at(stream + go->grpc_ctx + GO_INTERFACE_DATA), 0) &&
	    go->grpc_method)
		name_served(sock, number, 0, stream + go->grpc_method);
	return 0;
}

#endif
