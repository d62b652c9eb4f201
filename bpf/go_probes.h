/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a socket alone does not tell: work that passes from one goroutine to another.
 * Each probe sits on an instruction that the kernel emulates (probes/go/instructions.py),
 * in the processes that are traced and have the library. None returns anything to wait for.
 */
#ifndef WAGGLE_GO_PROBES_H
#define WAGGLE_GO_PROBES_H

#include "endpoint.h"
#include "go_calls.h"
#include "go_names.h"
#include "typed.h"

#define GO_WRAPPERS 3 /* connections in connections */
#define GO_CLOSED 1   /* of internal/poll.fdMutex.state, a descriptor's first word: since Go 1.9 */

/* An open file's socket, 0 for other files. */
#define DEFINE_SOCKET_OF(name, TYPE, READ)                                        \
	INLINE u64 name(struct file *file)                                         \
	{                                                                          \
		struct inode *inode = READ(TYPE(struct file, file), f_inode);       \
		struct socket *socket;                                             \
                                                                                   \
		if ((READ(inode, i_mode) & S_IFMT) != S_IFSOCK)                    \
			return 0;                                                  \
		socket = READ(TYPE(struct file, file), private_data);              \
		return (u64)BPF_CORE_READ(socket, sk);                             \
	}

#define AS_IT_IS(type, address) (address)
DEFINE_SOCKET_OF(socket_of_typed, TYPED, READ_DIRECT)
DEFINE_SOCKET_OF(socket_of_address, AS_IT_IS, READ_BY_ADDRESS)

INLINE u64 socket_of_fd(u32 descriptor)
{
	struct files_struct *opened = bpf_get_current_task_btf()->files;
	struct fdtable *table = opened ? opened->fdt : 0;
	struct file *file = 0;

	if (!table || descriptor >= table->max_fds)
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), table->fd + descriptor);
	if (!file)
		return 0;
	return has_types() ? socket_of_typed(file) : socket_of_address(file);
}

INLINE u16 family_of(u64 sock)
{
	struct sock *sk = (void *)sock;

	return has_types() ? TYPED(struct sock, sock)->__sk_common.skc_family :
			     BPF_CORE_READ(sk, __sk_common.skc_family);
}

/* The socket under a net.Conn whose two words are at `address`. A wrapper (tls.Conn, a
 * buffered connection) begins with the net.Conn it wraps: with an address in the program. */
OUT_OF_LINE u64 socket_of_conn(const struct waggle_go *go, u64 address)
{
	u64 connection = word_at(address + GO_INTERFACE_DATA), first = 0, family, sock;

	for (int i = 0; i < GO_WRAPPERS; i++) {
		first = connection ? word_at(connection) : 0;
		if (first < go->low || first >= go->high)
			break;
		connection = word_at(connection + GO_INTERFACE_DATA);
		first = 0;
	}
	if (!first)
		return 0;
	/* A net.netFD: it says its family, and the kernel's socket must be of the same. */
	family = word_at(first + go->family);
	sock = socket_of_fd((u32)word_at(first + go->descriptor));
	if (!sock || family_of(sock) != family)
		return 0;
	/* Last: before a descriptor is closed this is set, and after that it may be another's. */
	if (word_at(first) & GO_CLOSED)
		return 0;
	return sock;
}

INLINE struct waggle_go *current_go(void)
{
	return go_of(bpf_get_current_pid_tgid() >> 32);
}

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

#define TRANSPORT_USES 64 /* before its socket is looked for again; a power of two */

/* Where a connection's two streams begin: no other has both at the same bytes. 0: not known. */
INLINE u64 bases_of(u64 sock)
{
	struct connection *connection = sock ? bpf_map_lookup_elem(&connections, &sock) : 0;

	if (!connection || connection->family == AF_UNIX || !connection->sent.started)
		return 0;
	return (u64)connection->sent_base << 32 | connection->received_base;
}

/* The socket on which `sender`, a net/http.persistConn or a grpc http2Client, sends requests. It
 * has one net.Conn while it lives, at `conn` from its beginning, so where the socket that was found
 * by the program's memory and the kernel's still has the same connection, it is the one: before
 * its memory can be another's that is closed. */
OUT_OF_LINE u64 socket_of_sender(const struct waggle_go *go, u64 sender, u32 conn)
{
	struct go_transport_key key = { .address = sender, .epoch = go->epoch };
	struct go_transport *known = bpf_map_lookup_elem(&go_transports, &key), fresh = {};

	if (known && ++known->uses & (TRANSPORT_USES - 1) &&
	    known->connection == bases_of(known->sock))
		return known->sock;
	fresh.sock = socket_of_conn(go, sender + conn);
	fresh.connection = bases_of(fresh.sock);
	if (fresh.connection)
		bpf_map_update_elem(&go_transports, &key, &fresh, BPF_ANY);
	return fresh.sock;
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

/* The socket on which this stream of a grpc http2Server is. Found once by the program's memory and
 * the kernel's: a connection's transport has no other, so where that socket still has the same
 * connection, and on it this stream, which nobody has begun to serve, it is the one. */
OUT_OF_LINE u64 socket_of_transport(const struct waggle_go *go, u64 transport, u32 stream)
{
	struct go_transport_key key = { .address = transport, .epoch = go->epoch };
	struct go_transport *known = bpf_map_lookup_elem(&go_transports, &key), fresh = {};
	struct open_stream *open;

	if (known && ++known->uses & (TRANSPORT_USES - 1)) {
		open = find_stream(known->sock, stream);
		if (open && open->stream.connection == known->connection && !open->stream.handler)
			return known->sock;
	}
	fresh.sock = socket_of_conn(go, transport + go->grpc_conn);
	open = fresh.sock ? find_stream(fresh.sock, stream) : 0;
	if (open) {
		fresh.connection = open->stream.connection;
		bpf_map_update_elem(&go_transports, &key, &fresh, BPF_ANY);
	}
	return fresh.sock;
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

/* The call of runtime.runqput in runtime.newproc.func1: a goroutine is ready to run, made
 * by the one for which the thread's own g0 works. */
SEC("uprobe")
int go_birth(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 g = GO_ARGUMENT_1(registers), own, thread, maker, goid, now = bpf_ktime_get_ns();

	if (!go)
		return 0;
	if (now - go->birth_ns > GO_A_WHILE_NS / 2)
		go->birth_ns = now;
	own = go_thread_g(go->slot);
	thread = own ? word_at(own + go->m) : 0;
	maker = thread ? word_at(thread + go->curg) : 0;
	goid = maker ? word_at(maker + go->goid) : 0;
	if (!goid)
		return 0;
	/* From Go 1.21 on the runtime says itself who made it. */
	if (go->parent_goid) {
		if (word_at(g + go->parent_goid) != goid) {
			__sync_fetch_and_add(&go->disagrees, 1);
			return 0;
		}
		if (!go->agrees)
			__sync_fetch_and_add(&go->agrees, 1);
	}
	if (go_handover_wanted && !goroutine_of(go, goid))
		born_of_worker(go, goid, g);
	else
		born(go, goid, g);
	return 0;
}

#endif
