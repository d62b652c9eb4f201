/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls of Go's clients, net/http's and grpc's: one goroutine asks, and the connection's own
 * writes. Each probe sits on an instruction that the kernel emulates
 * (probes/go/instructions.py), in the processes that are traced and have the library. None
 * returns anything to wait for.
 */
#ifndef WAGGLE_GO_CLIENT_PROBES_H
#define WAGGLE_GO_CLIENT_PROBES_H

#include "go_calls.h"
#include "go_names.h"
#include "go_sockets.h"

/* The current goroutine asks for what will be found at `key`, with the context whose address
 * lies at `context_at`, 0: none. */
INLINE void leave_go_call(struct waggle_go *go, struct pt_regs *registers, struct go_call_key *key,
			  u64 context_at)
{
	struct go_call call;
	u64 goid = probed_goid(go, registers);

	if (!key->at || !goid)
		return;
	key->epoch = go->epoch;
	ask_with_context(go, go_probed_g(registers), goid, context_at, &call);
	keep_go_call(key, &call);
}

/* net/http.(*persistConn).roundTrip(pc, request): runs in the caller's goroutine; what it
 * asks for is written by the connection's own. */
SEC("uprobe")
int go_round_trip(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	struct go_call_key key = { .place = GO_BY_SOCKET };
	u64 request;

	if (!go)
		return 0;
	request = word_at(GO_ARGUMENT_1(registers));
	key.at = socket_of_sender(go, GO_ARGUMENT_0(registers), go->persist_conn);
	leave_go_call(go, registers, &key, context_of_request(go, request));
	return 0;
}

/* The assignment of a new stream in grpc's (*http2Client).NewStream, in the goroutine of who
 * calls: to a map of streams by their numbers. */
SEC("uprobe")
int go_grpc_call(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	struct go_call_key key = { .stream = (u32)GO_ARGUMENT_2(registers), .place = GO_BY_SOCKET };
	u64 client, stream;

	if (!go)
		return 0;
	client = go_register(registers, go->grpc_call_client);
	stream = go_register(registers, go->grpc_call_stream);
	/* Where the registers hold something else there is no parent. */
	if (!key.stream || (u32)word_at(stream + go->grpc_stream) != key.stream)
		return 0;
	key.at = socket_of_sender(go, client, go->grpc_client_conn);
	leave_go_call(go, registers, &key, stream + go->grpc_ctx + GO_INTERFACE_DATA);
	if (go->old && go->grpc_method && key.at)
		name_grpc_call(go, key.at, key.stream, stream + go->grpc_method);
	return 0;
}

/* The call of controlBuffer.executeAndPut in grpc's (*http2Client).NewStream: the caller's
 * goroutine gives the headers of a new stream to the connection's writer. */
SEC("uprobe")
int go_grpc_new_stream(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	struct go_call_key key = { .at = GO_ARGUMENT_3(registers), .place = GO_BY_HEADERS };

	if (go)
		leave_go_call(go, registers, &key, 0);
	return 0;
}

/* grpc's (*loopyWriter).headerHandler(headers), since 1.77 clientHeaderHandler: the writer
 * has taken them, and they have the number of their stream, which is their first word. */
SEC("uprobe")
int go_grpc_send_headers(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	struct go_call_key key = { .place = GO_BY_HEADERS };
	struct go_call call;

	if (!go)
		return 0;
	key.at = GO_ARGUMENT_1(registers);
	key.epoch = go->epoch;
	if (!take_go_call(&key, &call))
		return 0;
	key.stream = (u32)word_at(key.at);
	key.at = probed_goid(go, registers);
	key.place = GO_BY_WRITER;
	call.swept = 0;
	if (key.at && key.stream)
		keep_go_call(&key, &call);
	return 0;
}

/* net/http.(*http2clientStream).encodeAndWriteHeaders(stream, request), bundled or x/net's: the
 * goroutine that will send the head of a request. There while it may be one whose path is not
 * known otherwise. */
SEC("uprobe")
int go_http2_call(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 request = GO_ARGUMENT_1(registers);

	if (go && go->url_path)
		name_request(go, current_goid(go), request + go->request_method,
			     word_at(request + go->request_url));
	return 0;
}

/* The same in net/http/internal/http2, since Go 1.27. */
SEC("uprobe")
int go_http2_own_call(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 request = GO_ARGUMENT_1(registers);

	if (go && go->url_path && go->own_call_url)
		name_request(go, current_goid(go), request + go->own_call_method,
			     word_at(request + go->own_call_url));
	return 0;
}

#endif
