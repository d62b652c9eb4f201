/* SPDX-License-Identifier: Apache-2.0
 *
 * Names of streams, as Go programs have them in memory: of a request that is served, the text
 * that was sent; of one that is made, what the text will be made of. Copied at once: what is
 * in memory later may be another's.
 */
#ifndef WAGGLE_GO_NAMES_H
#define WAGGLE_GO_NAMES_H

#include "go_stream_names.h"
#include "go_routes.h"

#define NAME_METHOD_MAX 7 /* a mask */
#define GO_STRING_LENGTH 8 /* of a string: behind its text */

/* A string of the program; `most` is a mask. Returns its length, or more than `most` where it
 * is longer, or cannot be read. */
INLINE u32 read_string(u8 *to, u32 most, u64 address)
{
	struct go_string string = {};

	if (bpf_probe_read_user(&string, sizeof(string), (void *)address) || string.length > most)
		return most + 1;
	if (bpf_probe_read_user(to, masked(string.length, most), (void *)string.text))
		return most + 1;
	return (u32)string.length;
}

/* A longer one is not told. */
INLINE void read_method(struct stream_name *name, u64 address)
{
	u32 length = read_string(name->told.method, NAME_METHOD_MAX, address);

	name->told.method_length = length <= NAME_METHOD_MAX ? length : 0;
}

/* A stream that somebody serves, on a connection whose table is not known. `method`: where its
 * method is; 0: it is a gRPC call, whose path is its method. */
OUT_OF_LINE int name_served(u64 sock, u32 stream, u64 method, u64 path)
{
	struct exchange_key key = { .sock = sock, .index = stream };
	struct open_stream *open = find_stream(sock, stream);
	struct stream_name name = { .stream = stream };
	u32 length;

	if (!open)
		return 0;
	name.owner = open->stream.connection;
	name.told.as = method ? WAGGLE_TOLD_AS_REQUEST : WAGGLE_TOLD_AS_CALL;
	if (method)
		read_method(&name, method);
	length = read_string(name.path, NAME_PATH_MAX, path);
	if (!length || length > NAME_PATH_MAX)
		return 0;
	name.told.length = length;
	bpf_map_update_elem(&stream_names, &key, &name, BPF_ANY);
	share_name(&name, hop_of(&open->record.facts));
	return 0;
}

/* A call of grpc's client that got its number on a connection of which nobody has seen the
 * beginning. */
OUT_OF_LINE int name_grpc_call(struct waggle_go *go, u64 sock, u32 stream, u64 method)
{
	struct exchange_key key = { .sock = sock, .index = stream };
	struct connection *connection = bpf_map_lookup_elem(&connections, &sock);
	struct http2_connection *http2 = bpf_map_lookup_elem(&http2_connections, &sock);
	struct stream_name name = { .stream = stream };
	u32 length;

	if (http2 ? !http2->resynced : connection && connection->flags & CONNECTION_FROM_START) {
		go->old--;
		return 0;
	}
	name.owner = http2 ? http2->id : 0;
	name.ns = bpf_ktime_get_ns();
	name.told.as = WAGGLE_TOLD_AS_CALL;
	length = read_string(name.path, NAME_PATH_MAX, method);
	if (!length || length > NAME_PATH_MAX)
		return 0;
	name.told.length = length;
	bpf_map_update_elem(&stream_names, &key, &name, BPF_ANY);
	return 0;
}

/* The path of a URL, and its query where that lies behind it, as where both were read from one
 * text. What else a URL may have changes what is sent. */
INLINE int read_url(struct stream_name *name, const struct waggle_go *go, u64 url)
{
	struct go_string path = {}, query = {};
	u64 length;

	if (!url || word_at(url + go->url_opaque + GO_STRING_LENGTH) ||
	    word_at(url + go->url_raw_path + GO_STRING_LENGTH) ||
	    bpf_probe_read_user(&path, sizeof(path), (void *)(url + go->url_path)) ||
	    bpf_probe_read_user(&query, sizeof(query), (void *)(url + go->url_query)))
		return 0;
	length = path.length;
	if (query.length) {
		if (query.text != path.text + path.length + 1)
			return 0;
		length += 1 + query.length;
	} else if ((u8)word_at(url + go->url_force_query)) {
		return 0; /* a question mark that nothing follows */
	}
	if (path.length > NAME_PATH_MAX || length > NAME_PATH_MAX ||
	    bpf_probe_read_user(name->path, masked(length, NAME_PATH_MAX), (void *)path.text))
		return 0;
	name->told.path_length = path.length;
	name->told.length = length;
	return 1;
}

/* A request that this goroutine is about to send; what it left before is void. */
OUT_OF_LINE int name_request(const struct waggle_go *go, u64 goid, u64 method, u64 url)
{
	struct exchange_key key = { .sock = goid, .reserved = NAME_OF_GOROUTINE };
	struct stream_name name = {};

	key.index = go->epoch;
	bpf_map_delete_elem(&stream_names, &key);
	if (!goid || !read_url(&name, go, url))
		return 0;
	name.told.as = WAGGLE_TOLD_AS_URL;
	read_method(&name, method);
	bpf_map_update_elem(&stream_names, &key, &name, BPF_ANY);
	return 0;
}

#endif
