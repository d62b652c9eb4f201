/* SPDX-License-Identifier: Apache-2.0
 *
 * A stream begins on a connection whose tables are not known, in a Go program: the name that
 * the caller left for it, by the stream (grpc) or by the goroutine that sends it (net/http).
 */
#ifndef WAGGLE_GO_STREAM_NAMES_H
#define WAGGLE_GO_STREAM_NAMES_H

#include "go.h"
#include "stream_names.h"

#define NAME_FRESH_NS (1000 * 1000000ULL) /* between a name and the head of its request */

/* grpc's call has left its name before the connection was judged. No socket that was there
 * before the agent has had the address of another one since. */
INLINE void take_early_name(const struct connection *connection,
			    const struct http2_connection *http2, struct stream_name *name)
{
	if (name->owner || connection->flags & CONNECTION_FROM_START)
		return;
	if (bpf_ktime_get_ns() - name->ns < NAME_FRESH_NS)
		name->owner = http2->id;
}

PROVEN_ONCE int name_call(struct connection *connection, struct http2_connection *http2, u64 sock,
			  u32 stream, const struct waggle_facts *facts)
{
	struct exchange_key of_stream = { .sock = sock, .index = stream };
	struct exchange_key key = { .reserved = NAME_OF_GOROUTINE };
	struct waggle_go *go;
	struct stream_name *name;

	if (!connection || !http2 || !facts)
		return 0;
	go = go_of(facts->tgid);
	if (!go)
		return 0;
	go->old = WAGGLE_GO_LIMIT_SERVED;
	go->old_calls++;
	name = bpf_map_lookup_elem(&stream_names, &of_stream);
	if (name) {
		take_early_name(connection, http2, name);
		if (name->owner != http2->id)
			return 0;
	} else {
		key.sock = current_goid(go);
		key.index = go->epoch;
		name = key.sock ? bpf_map_lookup_elem(&stream_names, &key) : 0;
		if (!name)
			return 0;
	}
	share_name(name, hop_of(facts));
	name->stream = stream;
	name->owner = http2->id;
	if (key.sock) {
		bpf_map_update_elem(&stream_names, &of_stream, name, BPF_ANY);
		bpf_map_delete_elem(&stream_names, &key);
	}
	return 0;
}

#endif
