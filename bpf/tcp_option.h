/* SPDX-License-Identifier: Apache-2.0
 *
 * From one machine to another, both with an agent: the ids travel in an option of the TCP
 * segment that begins with the request's first byte (docs/tcp-option.md). The payload is
 * not touched. The receiving side leaves them where a hand-off on its own machine would
 * be (handoff.h), so whoever reads the request looks in one place.
 *
 * An option of 28 bytes is all that fits beside timestamps: kind, length, two bytes of
 * magic (RFC 6994), trace id, span id. There is no room for flags: there are two magics.
 */
#ifndef WAGGLE_TCP_OPTION_H
#define WAGGLE_TCP_OPTION_H

#include "endpoint.h"

#define OPTION_LENGTH 28
#define OPTION_KIND 254 /* for experiments (RFC 4727) */
#define OPTION_MAGIC_1 0x57
#define OPTION_SAMPLED 0x67
#define OPTION_UNSAMPLED 0x68
#define OPTION_TRIES 3	  /* times that a segment is sent with it, if nobody answers */
#define OPTION_RESETS 2	  /* connections that may end so before the peer is left alone */
#define SOL_TCP 6
#define ECONNRESET 104
#define TCP_ESTABLISHED 1
#define TCP_CLOSE 7
#define TCP_BPF_SOCK_OPS_CB_FLAGS 1008

/* What we know of a socket, beside `connections`: there before its first request, and for
 * callbacks that come too often for a look into a hash map. */
struct option_socket {
	u8 room;   /* the size of segments, as last computed, leaves room for the option */
	u8 proven; /* the peer, or what is between, answers segments with it */
	u8 probe;  /* the agent's own, at its start: each segment bears an empty one */
	u8 reserved;
};

/* By address: does anything come back? */
enum option_peer_state { OPTION_PEER_UNPROVEN = 0, OPTION_PEER_PROVEN = 1, OPTION_PEER_STOPPED = 2 };

struct option_address {
	u32 words[4]; /* IPv6, or IPv4 mapped into it, as on the wire */
};

struct option_peer {
	u32 state; /* enum option_peer_state */
	u32 resets;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, ON_DEMAND);
	__type(key, int);
	__type(value, struct option_socket);
} option_sockets SEC(".maps");

/* Beyond the bound the peer that was used longest ago is forgotten, and proven again. */
MAP(option_peers, BPF_MAP_TYPE_LRU_HASH, 4096, struct option_address, struct option_peer, 0);
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

INLINE void add_callbacks(struct bpf_sock_ops *ops, int flags)
{
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | flags);
}

/* The agent's own connection, by which it tries what it is about to do to others. */
INLINE void option_trial(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : 0;
	u64 inode = tcp ? inode_of((struct sock *)tcp) : 0;
	struct option_socket *socket;

	if (!inode || !bpf_map_lookup_elem(&option_inodes, &inode))
		return;
	socket = option_socket_of(ops, BPF_SK_STORAGE_GET_F_CREATE);
	if (!socket)
		return;
	socket->probe = 1;
	add_callbacks(ops, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
}

/* A process connects, in its own time: is it one that we trace? */
INLINE void option_connect(struct bpf_sock_ops *ops)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	struct option_address address;
	struct option_socket *socket;
	struct option_peer *peer;

	if ((u32)task->tgid == agent_tgid)
		option_trial(ops);
	if (!traced_mode_of(task->tgid))
		return;
	option_peer_address(ops, &address);
	peer = is_private(&address) ? bpf_map_lookup_elem(&option_peers, &address) : 0;
	if (!is_private(&address) || (peer && peer->state == OPTION_PEER_STOPPED))
		return;
	socket = option_socket_of(ops, BPF_SK_STORAGE_GET_F_CREATE);
	if (!socket)
		return;
	socket->proven = peer && peer->state == OPTION_PEER_PROVEN;
	add_callbacks(ops, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG |
				   (socket->proven ? 0 : BPF_SOCK_OPS_STATE_CB_FLAG));
}

/* The callback for what is received runs for segments with options that nobody knows only.
 * Nobody from elsewhere shall tell us what our requests are part of. */
INLINE void option_accept(struct bpf_sock_ops *ops)
{
	u64 trial = OPTION_TRIAL_PORT | ops->local_port;
	struct option_address address;

	option_peer_address(ops, &address);
	if (is_private(&address) || bpf_map_lookup_elem(&option_inodes, &trial))
		add_callbacks(ops, BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG);
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

/* The peer has answered what came after the request's first byte, or with the option. */
INLINE void option_arrived(struct bpf_sock_ops *ops, struct option_socket *socket,
			   struct connection *connection)
{
	connection->option.state = OPTION_NONE;
	if (!connection->option.tries) {
		count(WAGGLE_COUNT_OPTION_NOT_SENT);
		return;
	}
	if (socket->proven)
		return;
	socket->proven = 1;
	judge_peer(ops, OPTION_PEER_PROVEN, 0);
}

/* Sent again and again, with the option, and nobody has answered: without it, then. */
INLINE void option_silence(struct bpf_sock_ops *ops, struct option_socket *socket,
			   struct connection *connection)
{
	connection->option.state = OPTION_NONE;
	count(WAGGLE_COUNT_OPTION_GIVEN_UP);
	if (!socket->proven)
		judge_peer(ops, OPTION_PEER_STOPPED, 0);
}

/* Is the segment at hand the one that begins with the request's first byte, sent for the
 * first time or once more? Those behind it cannot be told apart here from it being sent
 * again: they get the room, and padding. */
INLINE int option_wanted(struct bpf_sock_ops *ops, struct option_socket *socket)
{
	struct connection *connection;
	u32 position;

	if (!ops->skb_len && socket->proven)
		return 0;
	connection = option_connection(ops);
	if (!connection || connection->option.state != OPTION_OFFERED)
		return 0;
	position = connection->option.position;
	if ((s32)(ops->snd_una - position) > 0) {
		option_arrived(ops, socket, connection);
		return 0;
	}
	if (!ops->skb_len || (s32)(ops->snd_nxt - position) < 0 || peer_stopped(ops, socket))
		return 0;
	if (connection->option.tries < OPTION_TRIES)
		return 1;
	option_silence(ops, socket, connection);
	return 0;
}

/* Room is made twice: where the size of segments is computed, or a full one would not fit
 * its link and never leave; and in the segment itself. */
INLINE void option_reserve(struct bpf_sock_ops *ops)
{
	struct option_socket *socket = option_socket_of(ops, 0);

	if (!socket)
		return;
	if (ops->args[0] == BPF_WRITE_HDR_TCP_CURRENT_MSS) {
		socket->room = !bpf_reserve_hdr_opt(ops, OPTION_LENGTH, 0);
		return;
	}
	if (socket->room && ((socket->probe && ops->skb_len) || option_wanted(ops, socket)))
		bpf_reserve_hdr_opt(ops, OPTION_LENGTH, 0);
}

/* The sequence number of the segment at hand; 0 in `*found` where it cannot be read. */
INLINE u32 segment_position(struct bpf_sock_ops *ops, u32 *found)
{
	const u8 *header = (void *)(long)ops->skb_data, *end = (void *)(long)ops->skb_data_end;

	*found = header + 20 <= end;
	return *found ? bpf_ntohl(*(const u32 *)(header + 4)) : 0;
}

INLINE void option_write(struct bpf_sock_ops *ops)
{
	u8 option[32] __attribute__((aligned(8))) = { OPTION_KIND, OPTION_LENGTH, OPTION_MAGIC_1,
						      OPTION_SAMPLED };
	struct option_socket *socket = option_socket_of(ops, 0);
	struct connection *connection;
	u32 found, position = segment_position(ops, &found);

	if (!socket || !found)
		return;
	if (socket->probe) {
		bpf_store_hdr_opt(ops, option, OPTION_LENGTH, 0);
		return;
	}
	connection = option_connection(ops);
	if (!connection || connection->option.state != OPTION_OFFERED ||
	    connection->option.position != position)
		return;
	if (!connection->option.sampled)
		option[3] = OPTION_UNSAMPLED;
	__builtin_memcpy(option + 4, connection->option.ids, OPTION_IDS);
	if (bpf_store_hdr_opt(ops, option, OPTION_LENGTH, 0))
		return;
	if (!connection->option.tries)
		count(WAGGLE_COUNT_OPTION_SENT);
	connection->option.tries++;
}

/* Leaves what an option says as a hand-off, unless there is one already: then both ends are
 * on this machine. */
INLINE void keep_option(const struct handoff *value)
{
	struct handoff_set *set = handoff_set_of(&value->key);
	struct handoff *place = set ? place_for(set, &value->key) : 0;

	if (!place || (place->left_ns && same_handoff(place, &value->key)))
		return;
	*place = *value;
	count(WAGGLE_COUNT_OPTION_RECEIVED);
	if (value->left_ns - last_handoff_ns > HANDOFF_CLOCK_NS)
		last_handoff_ns = value->left_ns;
}

/* Loads our option of the segment at hand, of either magic; 0: there is none. */
INLINE int load_option(struct bpf_sock_ops *ops, u8 *option)
{
	option[0] = OPTION_KIND;
	option[1] = 4; /* of these bytes it is found by */
	option[2] = OPTION_MAGIC_1;
	option[3] = OPTION_SAMPLED;
	if (bpf_load_hdr_opt(ops, option, OPTION_LENGTH, 0) == OPTION_LENGTH)
		return 1;
	option[0] = OPTION_KIND;
	option[1] = 4;
	option[2] = OPTION_MAGIC_1;
	option[3] = OPTION_UNSAMPLED;
	return bpf_load_hdr_opt(ops, option, OPTION_LENGTH, 0) == OPTION_LENGTH;
}

INLINE void option_read(struct bpf_sock_ops *ops)
{
	u8 option[32] __attribute__((aligned(8))) = {};
	struct handoff value = {};
	struct positions positions;
	struct bpf_sock *sk = ops->sk;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : 0;
	u32 found, position = segment_position(ops, &found);

	if (!tcp || !found || !load_option(ops, option))
		return;
	__builtin_memcpy(value.trace_id, option + 4, OPTION_IDS);
	if (!(load64(value.trace_id) | load64(value.trace_id + 8))) {
		count(WAGGLE_COUNT_OPTION_PROBED);
		return;
	}
	if (!load64(value.span_id))
		return;
	positions_direct(tcp, &positions);
	value.key.sender_base = positions.received_base;
	value.key.receiver_base = positions.sent_base;
	value.key.position = position;
	value.trace_flags = HANDOFF_OPTION | (option[3] == OPTION_SAMPLED);
	value.left_ns = bpf_ktime_get_ns();
	value.proof = handoff_proof((const u8 *)&value);
	keep_option(&value);
}

/* A connection ends. By a reset that followed an option to a peer that has answered none yet? */
INLINE void option_state(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : 0;
	struct option_socket *socket = option_socket_of(ops, 0);
	struct connection *connection;

	if (!tcp || !socket || socket->proven || ops->args[1] != TCP_CLOSE)
		return;
	connection = option_connection(ops);
	if (!connection || connection->option.state != OPTION_OFFERED ||
	    !connection->option.tries || (s32)(ops->snd_una - connection->option.position) > 0)
		return;
	if (((struct sock *)tcp)->sk_err == ECONNRESET)
		judge_peer(ops, OPTION_PEER_UNPROVEN, 1);
}

SEC("sockops")
int tcp_option(struct bpf_sock_ops *ops)
{
	switch (ops->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		option_connect(ops);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		option_accept(ops);
		break;
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
		option_reserve(ops);
		break;
	case BPF_SOCK_OPS_WRITE_HDR_OPT_CB:
		option_write(ops);
		break;
	case BPF_SOCK_OPS_PARSE_HDR_OPT_CB:
		option_read(ops);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		option_state(ops);
		break;
	}
	return 1;
}

/* Connections that are older than the agent: run once in each network namespace. */
SEC("iter/tcp")
int tcp_option_old(struct bpf_iter__tcp *context)
{
	struct sock_common *common = context->sk_common;
	struct option_address address;
	struct option_socket *socket;
	struct tcp_sock *tcp;
	u64 inode;
	int flags;

	tcp = common ? bpf_skc_to_tcp_sock(common) : 0;
	if (!tcp || ((struct sock *)tcp)->__sk_common.skc_state != TCP_ESTABLISHED)
		return 0;
	inode = inode_of((struct sock *)tcp);
	if (!bpf_map_lookup_elem(&option_inodes, &inode))
		return 0;
	/* As option_connect() and option_accept(): each segment would pay for nothing. */
	address_of_peer(tcp, &address);
	if (!is_private(&address))
		return 0;
	socket = bpf_sk_storage_get(&option_sockets, tcp, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!socket)
		return 0;
	flags = tcp->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG |
		BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG;
	if (bpf_setsockopt(tcp, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof(flags)))
		count(WAGGLE_COUNT_OPTION_OLD_REFUSED);
	return 0;
}

#endif
