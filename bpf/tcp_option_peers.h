/* SPDX-License-Identifier: Apache-2.0
 *
 * Which peers the option is sent to: those in networks of one's own, and of these the ones
 * from which something comes back.
 */
#ifndef WAGGLE_TCP_OPTION_PEERS_H
#define WAGGLE_TCP_OPTION_PEERS_H

#include "tcp_option_sockets.h"

#define OPTION_RESETS 2 /* connections that may end so before the peer is left alone */

/* By address: does anything come back? */
enum option_peer_state { OPTION_PEER_UNPROVEN = 0, OPTION_PEER_PROVEN = 1, OPTION_PEER_STOPPED = 2 };

struct option_address {
	u32 words[4]; /* IPv6, or IPv4 mapped into it, as on the wire */
};

struct option_peer {
	u32 state; /* enum option_peer_state */
	u32 resets;
};

/* Beyond the bound the peer that was used longest ago is forgotten, and proven again. */
MAP(option_peers, BPF_MAP_TYPE_LRU_HASH, 4096, struct option_address, struct option_peer, 0);

INLINE void address_of_peer(struct tcp_sock *tcp, struct option_address *address)
{
	struct sock *sk = (void *)tcp;

	__builtin_memset(address, 0, sizeof(*address));
	if (!tcp)
		return;
	if (sk->__sk_common.skc_family == AF_INET6) {
		bpf_core_read(address->words, 16, &sk->__sk_common.skc_v6_daddr);
		return;
	}
	address->words[2] = bpf_htonl(0xffff);
	address->words[3] = sk->__sk_common.skc_daddr;
}

INLINE void option_peer_address(struct bpf_sock_ops *ops, struct option_address *address)
{
	struct bpf_sock *sk = ops->sk;

	address_of_peer(sk ? bpf_skc_to_tcp_sock(sk) : 0, address);
}

/* Whether an address belongs to a network of one's own: what a trace is called is nobody
 * else's business, and who knows what stands on the way to others. Loopback is not one:
 * there is hand-off. */
INLINE int is_private(const struct option_address *address)
{
	u32 first = bpf_ntohl(address->words[0]), last = bpf_ntohl(address->words[3]);

	if (first | address->words[1])
		return first >> 25 == 0xfc >> 1 || first >> 22 == 0xfe80 >> 6;
	if (address->words[2] != bpf_htonl(0xffff))
		return 0;
	return last >> 24 == 10 || last >> 20 == 0xac1 || last >> 16 == 0xc0a8 ||
	       last >> 16 == 0xa9fe || last >> 22 == 0x6440 >> 6;
}

INLINE void judge_peer(struct bpf_sock_ops *ops, u32 state, u32 resets)
{
	struct option_peer verdict = { .state = state, .resets = resets };
	struct option_address address;
	struct option_peer *known;

	option_peer_address(ops, &address);
	known = bpf_map_lookup_elem(&option_peers, &address);
	if (known && known->state == OPTION_PEER_STOPPED)
		return;
	if (known && state == OPTION_PEER_UNPROVEN) {
		if (known->state == OPTION_PEER_PROVEN)
			return;
		verdict.resets += known->resets;
	}
	if (verdict.resets >= OPTION_RESETS)
		verdict.state = OPTION_PEER_STOPPED;
	bpf_map_update_elem(&option_peers, &address, &verdict, BPF_ANY);
	if (verdict.state == OPTION_PEER_STOPPED)
		count(WAGGLE_COUNT_OPTION_PEERS_STOPPED);
}

/* What other connections have found out about the peer. */
INLINE int peer_stopped(struct bpf_sock_ops *ops, struct option_socket *socket)
{
	struct option_address address;
	struct option_peer *peer;

	if (socket->proven)
		return 0;
	option_peer_address(ops, &address);
	peer = bpf_map_lookup_elem(&option_peers, &address);
	return peer && peer->state == OPTION_PEER_STOPPED;
}

#endif
