/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a socket alone does not tell: work that passes from one goroutine to another.
 * Each probe sits on an instruction that the kernel emulates (probes/go/instructions.py),
 * in the processes that are traced and have the library. None returns anything to wait for.
 */
#ifndef WAGGLE_GO_PROBES_H
#define WAGGLE_GO_PROBES_H

#include "go.h"

#define GO_INTERFACE_DATA 8 /* of an interface: behind its type */
#define GO_WRAPPERS 3	    /* connections in connections */
#define GO_DEAD 6	    /* runtime._Gdead, since Go 1.0 */

INLINE struct sock *socket_of_fd(u32 descriptor)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **files, *file = 0;
	struct socket *socket;

	if (descriptor >= BPF_CORE_READ(table, max_fds))
		return 0;
	files = BPF_CORE_READ(table, fd);
	bpf_probe_read_kernel(&file, sizeof(file), files + descriptor);
	if (!file || (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	socket = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(socket, sk);
}

/* The socket under a net.Conn whose two words are at `address`. A wrapper (tls.Conn, a
 * buffered connection) begins with the net.Conn it wraps: with an address in the program. */
OUT_OF_LINE u64 socket_of_conn(const struct waggle_go *go, u64 address)
{
	u64 connection = word_at(address + GO_INTERFACE_DATA), first = 0, family;
	struct sock *sk;

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
	sk = socket_of_fd((u32)word_at(first + go->descriptor));
	if (!sk || BPF_CORE_READ(sk, __sk_common.skc_family) != family)
		return 0;
	return (u64)sk;
}

INLINE struct waggle_go *current_go(void)
{
	return go_of(bpf_get_current_pid_tgid() >> 32);
}

#define GO_CONTEXTS_DEEP 16

struct context_walk {
	u64 at;
	struct owner *found;
	u32 epoch;
	u32 reserved;
};

static long context_step(u32 index, void *context)
{
	struct context_walk *walk = context;
	struct go_context_key key = { .address = walk->at, .epoch = walk->epoch };

	if (!walk->at)
		return 1;
	walk->found = bpf_map_lookup_elem(&go_contexts, &key);
	if (walk->found)
		return 1;
	/* A context begins with the one it was made from. */
	walk->at = word_at(walk->at + GO_INTERFACE_DATA);
	return 0;
}

/* The open request whose context `context` is or was made from. */
OUT_OF_LINE int context_request(const struct waggle_go *go, u64 context, struct go_request *request)
{
	struct context_walk walk = { .at = context, .epoch = go->epoch };

	LOOP(GO_CONTEXTS_DEEP, context_step, &walk);
	if (!walk.found)
		return 0;
	request->owner = *walk.found;
	return refresh_request(request);
}

/* The current goroutine asks for what will be found at `at`, with a context. What a
 * goroutine itself serves is surest; then the context; then its birth. */
INLINE void leave_go_call(struct waggle_go *go, u64 at, u32 place, u64 context)
{
	struct go_call_key key = { .at = at, .epoch = go->epoch, .place = place };
	struct go_request request;
	struct go_call call;
	u64 goid = current_goid(go);
	struct goroutine *goroutine;

	if (!at || !goid)
		return;
	ask_goroutine(go, goid, &call);
	goroutine = goroutine_of(go, goid);
	if (context && (!goroutine || goroutine->state == GO_BORN) &&
	    context_request(go, context, &request)) {
		call.request = request;
		call.after = 0;
		if (!go->used)
			go->used = 1;
	}
	bpf_map_update_elem(&go_calls, &key, &call, BPF_ANY);
}

/* net/http.(*persistConn).roundTrip(pc, request): runs in the caller's goroutine; what it
 * asks for is written by the connection's own. */
SEC("uprobe")
int go_round_trip(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 connection = GO_ARGUMENT_0(registers), request, context;

	if (!go)
		return 0;
	request = word_at(GO_ARGUMENT_1(registers));
	context = word_at(request + go->request_ctx + GO_INTERFACE_DATA);
	leave_go_call(go, socket_of_conn(go, connection + go->persist_conn), GO_BY_SOCKET, context);
	return 0;
}

/* net/http.serverHandler.ServeHTTP(handler, writer, request): the goroutine that serves it
 * is here, and so is the context that it may hand to others. */
SEC("uprobe")
int go_serve_http(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	struct go_context_key key = {};
	struct go_request request;
	struct goroutine *goroutine;
	u64 goid;

	if (go && go->served < WAGGLE_GO_ENOUGH)
		go->served++;
	goid = go ? current_goid(go) : 0;
	goroutine = goid ? goroutine_of(go, goid) : 0;
	if (!goroutine || goroutine->state == GO_BORN ||
	    works_on(goroutine, goid, &request) != GO_ON_OPEN)
		return 0;
	key.epoch = go->epoch;
	key.address = word_at(GO_ARGUMENT_3(registers) + go->request_ctx + GO_INTERFACE_DATA);
	if (key.address)
		bpf_map_update_elem(&go_contexts, &key, &request.owner, BPF_ANY);
	return 0;
}

/* The call of controlBuffer.executeAndPut in grpc's (*http2Client).NewStream: the caller's
 * goroutine gives the headers of a new stream to the connection's writer. */
SEC("uprobe")
int go_grpc_new_stream(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();

	if (go)
		leave_go_call(go, GO_ARGUMENT_3(registers), GO_BY_HEADERS, 0);
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
	key.at = current_goid(go);
	key.place = GO_BY_WRITER;
	if (key.at && key.stream)
		bpf_map_update_elem(&go_calls, &key, &call, BPF_ANY);
	return 0;
}

/* The current goroutine serves this stream of HTTP/2, until it serves another. */
OUT_OF_LINE int serve_stream(struct waggle_go *go, u64 sock, u32 stream)
{
	struct goroutine_key key = { .epoch = go->epoch };
	struct goroutine fresh = {};
	struct open_stream *open;
	struct owner owner = { .sock = sock, .index = stream };

	open = sock && stream ? find_stream(sock, stream) : 0;
	key.goid = current_goid(go);
	if (!open || !key.goid || open->record.facts.role != WAGGLE_ROLE_SERVER)
		return 0;
	open->stream.owner.tid = HAS_CHILDREN;
	keep_request(&fresh.request, &owner, &open->record.facts);
	fresh.state = GO_STREAM;
	bpf_map_update_elem(&goroutines, &key, &fresh, BPF_ANY);
	return 0;
}

/* net/http.(*http2serverConn).runHandler(connection, writer, ...), by its names: the
 * goroutine that was made for a stream. */
SEC("uprobe")
int go_http2_handler(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 connection = GO_ARGUMENT_0(registers), stream;

	if (!go)
		return 0;
	stream = word_at(word_at(GO_ARGUMENT_1(registers)));
	serve_stream(go, socket_of_conn(go, connection + go->http2_conn),
		     (u32)word_at(stream + go->http2_stream));
	return 0;
}

/* grpc.(*Server).handleStream(server, transport, stream): in a goroutine of its own, or in
 * a worker that serves one stream after the other. */
SEC("uprobe")
int go_grpc_handler(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 transport = GO_ARGUMENT_2(registers), stream = GO_ARGUMENT_3(registers);

	if (!go)
		return 0;
	if (go->grpc_indirect)
		stream = word_at(stream);
	serve_stream(go, socket_of_conn(go, transport + go->grpc_conn),
		     (u32)word_at(stream + go->grpc_stream));
	return 0;
}

/* Whether the goroutine that was watched has ended: its g is dead, or another's now. */
INLINE int watched_ended(const struct waggle_go *go, const struct waggle_go_function *function)
{
	u32 status = (u32)word_at(function->watched + go->status);

	return word_at(function->watched + go->goid) != function->goid || status == GO_DEAD;
}

/* A goroutine that runs `address` was born in a request: watch one of each function. */
INLINE void watch_birth(const struct waggle_go *go, struct waggle_go_function *function, u64 address,
			u64 g, u64 goid)
{
	struct waggle_go_function_key key = { .address = address, .epoch = go->epoch };
	struct waggle_go_function fresh = { .watched = g, .goid = goid };

	if (!function) {
		if (bpf_map_update_elem(&go_functions, &key, &fresh, BPF_NOEXIST))
			count(WAGGLE_COUNT_GO_FUNCTIONS_FULL);
		return;
	}
	if (function->ended >= birth_proof || !watched_ended(go, function))
		return;
	function->ended++;
	function->watched = g;
	function->goid = goid;
}

/* Whether what the maker of a goroutine works on is handed on to it. */
INLINE int hands_on(const struct waggle_go *go, struct goroutine *maker, u64 goid,
		    struct go_request *request)
{
	if (!layout_holds(go) || works_on(maker, goid, request) != GO_ON_OPEN)
		return 0;
	return maker->state != GO_BORN || function_trusted(go_function_of(go, maker->function));
}

INLINE void born(const struct waggle_go *go, u64 maker_goid, u64 g)
{
	struct goroutine_key key = { .epoch = go->epoch };
	struct goroutine fresh = {}, *maker;
	struct waggle_go_function *function;

	fresh.function = word_at(g + go->start);
	function = go_function_of(go, fresh.function);
	if (function && (function->verdict == WAGGLE_GO_PUMP ||
			 function->verdict == WAGGLE_GO_WORKS_ON))
		return;
	maker = goroutine_of(go, maker_goid);
	if (!maker || !hands_on(go, maker, maker_goid, &fresh.request))
		return;
	key.goid = word_at(g + go->goid);
	if (!function || function->verdict == WAGGLE_GO_UNKNOWN)
		watch_birth(go, function, fresh.function, g, key.goid);
	fresh.state = GO_BORN;
	bpf_map_update_elem(&goroutines, &key, &fresh, BPF_ANY);
}

/* The call of runtime.runqput in runtime.newproc.func1: a goroutine is ready to run, made
 * by the one for which the thread's own g0 works. */
SEC("uprobe")
int go_birth(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 g = GO_ARGUMENT_1(registers), own, thread, maker, goid;

	if (!go)
		return 0;
	own = word_at(go_thread_slot(go->slot));
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
	born(go, goid, g);
	return 0;
}

#endif
