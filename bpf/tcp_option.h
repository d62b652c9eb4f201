/* SPDX-License-Identifier: Apache-2.0
 *
 * From one machine to another, both with an agent: the ids travel in an option of the TCP
 * segment that begins with the request's first byte (docs/tcp-option.md). The payload is not
 * touched. Here is where a connection comes to it, new or older than the agent; sending and
 * receiving are tcp_option_send.h's and tcp_option_receive.h's.
 */
#ifndef WAGGLE_TCP_OPTION_H
#define WAGGLE_TCP_OPTION_H

#include "tcp_option_receive.h"
#include "tcp_option_send.h"

#define SOL_TCP 6
#define TCP_ESTABLISHED 1
#define TCP_BPF_SOCK_OPS_CB_FLAGS 1008

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
