/* SPDX-License-Identifier: Apache-2.0
 *
 * The side that receives the option: it leaves the ids where a hand-off on its own machine
 * would be (handoff.h), so whoever reads the request looks in one place.
 */
#ifndef WAGGLE_TCP_OPTION_RECEIVE_H
#define WAGGLE_TCP_OPTION_RECEIVE_H

#include "tcp_option_sockets.h"

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

#endif
