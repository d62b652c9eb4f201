/* SPDX-License-Identifier: Apache-2.0
 *
 * The option as it is written, and what is kept of sockets whose segments may bear it.
 *
 * An option of 28 bytes is all that fits beside timestamps: kind, length, two bytes of magic
 * (RFC 6994), trace id, span id. There is no room for flags: there are two magics.
 */
#ifndef WAGGLE_TCP_OPTION_SOCKETS_H
#define WAGGLE_TCP_OPTION_SOCKETS_H

#include "endpoint.h"

#define OPTION_LENGTH 28
#define OPTION_KIND 254 /* for experiments (RFC 4727) */
#define OPTION_MAGIC_1 0x57
#define OPTION_SAMPLED 0x67
#define OPTION_UNSAMPLED 0x68

/* What we know of a socket, beside `connections`: there before its first request, and for
 * callbacks that come too often for a look into a hash map. */
struct option_socket {
	u8 room;   /* the size of segments, as last computed, leaves room for the option */
	u8 proven; /* the peer, or what is between, answers segments with it */
	u8 probe;  /* the agent's own, at its start: each segment bears an empty one */
	u8 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, ON_DEMAND);
	__type(key, int);
	__type(value, struct option_socket);
} option_sockets SEC(".maps");

/* By user space: sockets that are older than the agent, of processes that it traces; and for
 * its trial the sender's, and OPTION_TRIAL_PORT with the receiver's port. */
#define OPTION_TRIAL_PORT (1ULL << 63)
MAP(option_inodes, BPF_MAP_TYPE_HASH, 16384, u64, u32, ON_DEMAND);

INLINE struct option_socket *option_socket_of(struct bpf_sock_ops *ops, u64 flags)
{
	struct bpf_sock *sk = ops->sk;

	return sk ? bpf_sk_storage_get(&option_sockets, sk, 0, flags) : 0;
}

INLINE struct connection *option_connection(struct bpf_sock_ops *ops)
{
	volatile u64 address = (u64)ops->sk;

	return bpf_map_lookup_elem(&connections, (void *)&address);
}

INLINE void add_callbacks(struct bpf_sock_ops *ops, int flags)
{
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | flags);
}

/* The sequence number of the segment at hand; 0 in `*found` where it cannot be read. */
INLINE u32 segment_position(struct bpf_sock_ops *ops, u32 *found)
{
	const u8 *header = (void *)(long)ops->skb_data, *end = (void *)(long)ops->skb_data_end;

	*found = header + 20 <= end;
	return *found ? bpf_ntohl(*(const u32 *)(header + 4)) : 0;
}

#endif
