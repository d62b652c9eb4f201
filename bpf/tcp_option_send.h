/* SPDX-License-Identifier: Apache-2.0
 *
 * The side that sends the option: which segment bears it, how often, and what became of that.
 */
#ifndef WAGGLE_TCP_OPTION_SEND_H
#define WAGGLE_TCP_OPTION_SEND_H

#include "tcp_option_peers.h"

#define OPTION_TRIES 3 /* times that a segment is sent with it, if nobody answers */
#define ECONNRESET 104
#define TCP_CLOSE 7

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

#endif
