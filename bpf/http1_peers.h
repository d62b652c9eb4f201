/* SPDX-License-Identifier: Apache-2.0
 *
 * Where somebody has answered by HTTP/1. A socket that is enrolled (enrol.h) and then only
 * listens behaves a little differently on some kernels, so what speaks first, or something
 * else, shall never be enrolled there.
 */
#ifndef WAGGLE_HTTP1_PEERS_H
#define WAGGLE_HTTP1_PEERS_H

#include "feed.h"

struct peer_key {
	u8 address[16]; /* IPv6 or IPv4-mapped */
	u32 port;
	u32 reserved;
};

MAP(http1_peers, BPF_MAP_TYPE_LRU_HASH, 4096, struct peer_key, u64, 0);

OUT_OF_LINE int remember_peer(const struct waggle_facts *facts)
{
	struct peer_key key = { .port = facts->peer_port };
	u64 now = facts->response_ns;

	if (facts->family == AF_UNIX)
		return 0;
	__builtin_memcpy(key.address, facts->peer_addr, 16);
	if (!bpf_map_lookup_elem(&http1_peers, &key))
		bpf_map_update_elem(&http1_peers, &key, &now, BPF_ANY);
	return 0;
}

#endif
