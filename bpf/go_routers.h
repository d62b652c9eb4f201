/* SPDX-License-Identifier: Apache-2.0
 *
 * Routers other than net/http's: each is asked once a request, when it has found the handler
 * and before that runs. What a pattern is written as stays where it is for as long as the
 * program routes by it, so the goroutine notes where; it is read when the answer's head is
 * written (go_routes.h). A middleware that serves in another goroutine has no route.
 */
#ifndef WAGGLE_GO_ROUTERS_H
#define WAGGLE_GO_ROUTERS_H

#include "go_probes.h"
#include "go_routes.h"

/* The goroutine that runs, if it serves a request of HTTP/1: the only one that is open. */
INLINE struct goroutine *serving(struct waggle_go *go)
{
	u64 goid = current_goid(go), sock;
	struct goroutine *goroutine = goid ? goroutine_of(go, goid) : 0;
	struct connection *connection;

	if (!goroutine || goroutine->state != GO_SERVES)
		return 0;
	sock = goroutine->request.owner.sock;
	connection = sock ? bpf_map_lookup_elem(&connections, &sock) : 0;
	if (!connection || connection->reader != goid || open_requests(connection) != 1)
		return 0;
	goroutine->routed_index = connection->responses;
	return goroutine;
}

INLINE int note_piece(struct goroutine *goroutine, u32 index, u64 string)
{
	u64 length = word_at(string + sizeof(u64));

	if (!length || length > GO_ROUTE_MAX)
		return 0;
	goroutine->route[index] = word_at(string);
	goroutine->route_length[index] = length;
	return 1;
}

/* The route of what is served now is the string at an address, none: nothing matched. */
OUT_OF_LINE int note_route(struct waggle_go *go, u64 string)
{
	struct goroutine *goroutine = serving(go);

	if (goroutine)
		goroutine->route_pieces = note_piece(goroutine, 0, string);
	return 0;
}

/* gin.(*Engine).handleHTTPRequest: the context has its fullPath, and no handler has run. */
SEC("uprobe")
int go_route_gin(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();

	if (go)
		note_route(go, go_register(registers, go->gin_place) + go->gin_path);
	return 0;
}

/* echo.(*Echo).ServeHTTP: the router has set the context's path. */
SEC("uprobe")
int go_route_echo(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();

	if (go)
		note_route(go, go_register(registers, go->echo_place) + go->echo_path);
	return 0;
}

/* The same where middleware runs before the router. */
SEC("uprobe")
int go_route_echo_before(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();

	if (go)
		note_route(go, go_register(registers, go->echo_before_place) + go->echo_path);
	return 0;
}

/* mux.requestWithRoute(request, route): the one that matched; its text is that of all routers
 * down to it. */
SEC("uprobe")
int go_route_mux(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 path;

	if (!go)
		return 0;
	path = word_at(GO_ARGUMENT_1(registers) + go->mux_path);
	note_route(go, path ? path + go->mux_template : 0);
	return 0;
}

/* chi.(*Mux).routeHTTP: of each router within another the pattern that matched so far. */
SEC("uprobe")
int go_route_chi(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	struct goroutine *goroutine = go ? serving(go) : 0;
	u64 patterns, first, count;

	if (!goroutine)
		return 0;
	patterns = go_register(registers, go->chi_place) + go->chi_patterns;
	first = word_at(patterns);
	count = word_at(patterns + sizeof(u64));
	goroutine->route_pieces = 0;
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
