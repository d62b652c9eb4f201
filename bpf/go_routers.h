/* SPDX-License-Identifier: Apache-2.0
 *
 * Routers other than net/http's: each is asked once a request, when it has found the handler
 * and before that runs. What a pattern is written as stays where it is for as long as the
 * program routes by it, so the goroutine notes where; it is read when the answer's head is
 * written (go_routes.h, go_stream_routes.h). Middleware that serves in a goroutine of its own
 * (http.TimeoutHandler) is found by the request's context: who serves that notes it.
 */
#ifndef WAGGLE_GO_ROUTERS_H
#define WAGGLE_GO_ROUTERS_H

#include "go_routes.h"

/* The goroutine that has the route of a request: it reads that from its connection, and no
 * other is open there; or it was made for that stream. Who asks is known already, if anybody. */
INLINE struct goroutine *server_of(const struct waggle_go *go, const struct owner *owner,
				   struct goroutine *asking, u64 asking_goid)
{
	u64 sock = owner->sock, goid;
	struct connection *connection = sock ? bpf_map_lookup_elem(&connections, &sock) : 0;
	struct goroutine *goroutine = asking;
	struct open_stream *open;
	u32 index;

	if (!connection)
		return 0;
	if (is_http2(connection)) {
		index = owner->index;
		open = find_stream(sock, index);
		goid = open ? open->stream.handler : 0;
	} else {
		index = connection->responses;
		goid = open_requests(connection) == 1 ? connection->reader : 0;
	}
	if (goid != asking_goid)
		goroutine = goid ? goroutine_of(go, goid) : 0;
	if (goroutine)
		goroutine->routed_index = index;
	return goroutine;
}

/* Who has the route of what goroutine `goid`, the current one, serves; where that serves nothing itself, of
 * the request whose context, or one made from it, has its address at `context_at`. */
OUT_OF_LINE struct goroutine *serving(struct waggle_go *go, u64 goid, u64 context_at)
{
	struct goroutine *goroutine = goid ? goroutine_of(go, goid) : 0, *server;
	struct go_request request;

	if (goroutine && goroutine->state != GO_BORN) {
		server = server_of(go, &goroutine->request.owner, goroutine, goid);
		return server == goroutine ? server : 0;
	}
	if (!goid || !context_request(go, word_at(context_at), &request))
		return 0;
	return server_of(go, &request.owner, goroutine, goid);
}

INLINE int note_piece(struct goroutine *goroutine, u32 index, u64 string)
{
	struct go_string found = {};

	bpf_probe_read_user(&found, sizeof(found), (void *)string);
	if (!found.length || found.length > GO_ROUTE_MAX)
		return 0;
	goroutine->route[index] = found.text;
	goroutine->route_length[index] = found.length;
	return 1;
}

#define GO_HANDLER_EPOCHS 65535 /* what a record has room for */

/* What stands in records for the function that a closure runs, 0 where it is none. No two programs
 * that were ever looked into have one number. */
INLINE u64 function_number(const struct waggle_go *go, u64 closure)
{
	u64 code = closure && go->epoch <= GO_HANDLER_EPOCHS ? word_at(closure) : 0;

	return code >= go->low && code < go->high ? code | (u64)go->epoch << 48 : 0;
}

/* The route of what goroutine `goid`, the current one, serves is the string at an address, none:
 * nothing matched. Its handler is a closure. */
OUT_OF_LINE int note_route(struct waggle_go *go, u64 goid, u64 string, u64 request, u64 handler)
{
	struct goroutine *goroutine = serving(go, goid, context_of_request(go, request));

	if (!goroutine)
		return 0;
	goroutine->route_pieces = note_piece(goroutine, 0, string);
	goroutine->handler = function_number(go, handler);
	return 0;
}

/* How a slice begins. */
struct go_slice {
	u64 first;
	u64 count;
};

/* Of a slice of gin's handlers the last: those before it are middleware. */
INLINE u64 last_handler(u64 slice)
{
	struct go_slice handlers = {};

	bpf_probe_read_user(&handlers, sizeof(handlers), (void *)slice);
	return handlers.count ? word_at(handlers.first + (handlers.count - 1) * sizeof(u64)) : 0;
}

/* gin.(*Engine).handleHTTPRequest: the context has its fullPath, and no handler has run. */
SEC("uprobe")
int go_route_gin(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 context = go ? go_register(registers, go->gin_place) : 0;

	if (go)
		note_route(go, probed_goid(go, registers), context + go->gin_path,
			   word_at(context + go->gin_request),
			   last_handler(context + go->gin_handlers));
	return 0;
}

/* What echo chooses is always a closure of its own, over the program's handler. */
INLINE u64 echo_handler(const struct waggle_go *go, u64 context)
{
	u64 closure = go->echo_captured ? word_at(context + go->echo_handler) : 0;

	return closure && word_at(closure) == go->echo_closure ?
		       word_at(closure + go->echo_captured) :
		       0;
}

/* echo's router has set the path of its context. */
INLINE int note_echo(struct waggle_go *go, struct pt_regs *registers, u64 context)
{
	if (go)
		note_route(go, probed_goid(go, registers), context + go->echo_path,
			   word_at(context + go->echo_request), echo_handler(go, context));
	return 0;
}

/* echo.(*Echo).ServeHTTP, behind the router. */
SEC("uprobe")
int go_route_echo(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();

	return note_echo(go, registers, go ? go_register(registers, go->echo_place) : 0);
}

/* The same where middleware runs before the router. */
SEC("uprobe")
int go_route_echo_before(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();

	return note_echo(go, registers, go ? go_register(registers, go->echo_before_place) : 0);
}

/* mux.requestWithRoute(request, route): the one that matched; its text is that of all routers
 * down to it. */
SEC("uprobe")
int go_route_mux(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 route = GO_ARGUMENT_1(registers), path;

	if (!go)
		return 0;
	path = word_at(route + go->mux_path);
	note_route(go, probed_goid(go, registers), path ? path + go->mux_template : 0,
		   GO_ARGUMENT_0(registers), word_at(route + go->mux_handler + GO_INTERFACE_DATA));
	return 0;
}

/* Whether a Request is another than the one that a connection or stream keeps, whose Pattern can
 * be read when that is answered. */
INLINE int is_copy(const struct waggle_go *go, const struct goroutine *goroutine, u64 request)
{
	if (goroutine->state == GO_STREAM)
		return !go->request_pattern || goroutine->serves != request;
	return goroutine->serves && (!go->request_pattern ||
				     request_of_conn(go, goroutine->serves) != request);
}

/* net/http.(*ServeMux).ServeHTTP, behind the call of findHandler, whose results are the handler,
 * the text of its pattern and the pattern, which begins with that text. */
SEC("uprobe")
int go_route_servemux(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 request = go ? go_register(registers, go->servemux_place) : 0;
	struct goroutine *goroutine = request ? serving(go, probed_goid(go, registers),
							context_of_request(go, request)) :
						0;
	u64 pattern = GO_ARGUMENT_4(registers);

	if (!goroutine)
		return 0;
	goroutine->route_pieces = 0;
	if (!pattern || word_at(pattern) != GO_ARGUMENT_2(registers))
		return 0;
	if (!go->servemux_told) {
		if (!is_copy(go, goroutine, request))
			return 0;
		go->servemux_told = 1;
		go->routers = 1;
	}
	goroutine->route_pieces = note_piece(goroutine, 0, pattern);
	goroutine->handler = function_number(go, GO_ARGUMENT_1(registers));
	return 0;
}

/* net/http.(*timeoutHandler).ServeHTTP: who serves will be given a copy of the Request. */
SEC("uprobe")
int go_timeout(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();

	if (go)
		without_route(go, bpf_ktime_get_ns());
	return 0;
}

/* chi.(*Mux).routeHTTP: of each router within another the pattern that matched so far. */
SEC("uprobe")
int go_route_chi(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 context = go ? go_register(registers, go->chi_place) : 0, patterns, first, count;
	struct goroutine *goroutine =
		go ? serving(go, probed_goid(go, registers), context + go->chi_parent + GO_INTERFACE_DATA) :
		     0;

	if (!goroutine)
		return 0;
	patterns = context + go->chi_patterns;
	first = word_at(patterns);
	count = word_at(patterns + sizeof(u64));
	goroutine->route_pieces = 0;
	goroutine->handler = function_number(go, go_register(registers, go->chi_handler));
	if (count > GO_ROUTE_PIECES)
		return 0;
#pragma clang loop unroll(full)
	for (u32 i = 0; i < GO_ROUTE_PIECES; i++) {
		goroutine->route_length[i] = 0;
		goroutine->route[i] = 0;
		if (i < count && !note_piece(goroutine, i, first + i * sizeof(struct go_string)))
			return 0;
	}
	goroutine->route_pieces = (u32)count;
	return 0;
}

#endif
