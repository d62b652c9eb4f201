/* SPDX-License-Identifier: Apache-2.0
 *
 * Which sockets are enrolled, so that the kernel hands us what they send (inject.h), and how
 * they leave. Enrolling is done where the kernel allows it without a risk: as the connection
 * comes to be. Leaving in a callback that the kernel makes in the middle of a send, under the
 * socket's lock: what has sent its first bytes is no different from any other socket then.
 *
 * inject_header must not know the map of sockets, or each would keep the other alive, and the
 * sockets enrolled, when the agent is gone.
 */
#ifndef WAGGLE_ENROL_H
#define WAGGLE_ENROL_H

#include "http1_peers.h"
#include "uring.h"
#include "zerocopy.h"

MAP(inject_rules, BPF_MAP_TYPE_ARRAY, WAGGLE_INJECT_RULES, u32, struct waggle_inject_rule, 0);

struct destination_walk {
	u64 address[2];
	u32 port;
	u32 rules;
	u32 wanted;
	u32 reserved;
};

static long destination_step(u32 index, void *context)
{
	struct destination_walk *walk = context;
	struct waggle_inject_rule *rule = bpf_map_lookup_elem(&inject_rules, &index);

	if (!rule || index >= walk->rules)
		return 1;
	if (((walk->address[0] ^ load64(rule->address)) & load64(rule->mask)) ||
	    ((walk->address[1] ^ load64(rule->address + 8)) & load64(rule->mask + 8)) ||
	    (rule->port && rule->port != walk->port))
		return 0;
	if (rule->never) {
		walk->wanted = 0;
		return 1;
	}
	walk->wanted = 1;
	return 0;
}

/* A field of the context must be read as it is, not through a pointer that the compiler
 * makes of two of them: the kernel takes no other. */
#define CONTEXT_FIELD(field)                             \
	({                                               \
		u32 value = (field);                     \
		asm volatile("" : "+r"(value));          \
		value;                                   \
	})

/* Where a socket connects to, as rules and http1_peers have it. */
INLINE void destination_of(struct bpf_sock_ops *ops, struct peer_key *key)
{
	u32 version4 = CONTEXT_FIELD(ops->remote_ip4), port = CONTEXT_FIELD(ops->remote_port);
	u32 a = CONTEXT_FIELD(ops->remote_ip6[0]), b = CONTEXT_FIELD(ops->remote_ip6[1]);
	u32 c = CONTEXT_FIELD(ops->remote_ip6[2]), d = CONTEXT_FIELD(ops->remote_ip6[3]);
	u64 low = (u64)a | (u64)b << 32, high = (u64)c | (u64)d << 32;

	if (ops->family == AF_INET) {
		low = 0;
		high = (u64)bpf_htonl(0xffff) | (u64)version4 << 32;
	}
	__builtin_memset(key, 0, sizeof(*key));
	key->port = bpf_ntohl(port);
	__builtin_memcpy(key->address, &low, 8);
	__builtin_memcpy(key->address + 8, &high, 8);
}

INLINE int is_wanted_destination(const struct peer_key *key, u32 rules)
{
	struct destination_walk walk = { .port = key->port, .rules = rules };

	__builtin_memcpy(walk.address, key->address, 16);
	LOOP(WAGGLE_INJECT_RULES, destination_step, &walk);
	return walk.wanted;
}

/* connect() of a process that is traced, in its own context. */
INLINE void on_connecting(struct bpf_sock_ops *ops, const struct waggle_inject_settings *settings)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u32 tgid = BPF_CORE_READ(task, tgid);
	struct waggle_process *process;
	struct bpf_sock *sk = ops->sk;
	struct enrolment *mine;
	struct peer_key key;
	u32 trial;

	if (!sk || (ops->family != AF_INET && ops->family != AF_INET6))
		return;
	trial = tgid == agent_tgid && settings->trial &&
		settings->trial == bpf_ntohl(ops->remote_port);
	if (!trial) {
		process = bpf_map_lookup_elem(&processes, &tgid);
		if (tgid == agent_tgid || !process || !(process->mode & WAGGLE_PROCESS_TRACED) ||
		    process->mode & WAGGLE_PROCESS_EXCLUDED)
			return;
		destination_of(ops, &key);
		if (!is_wanted_destination(&key, settings->rules)) {
			count(WAGGLE_COUNT_INJECT_ELSEWHERE);
			return;
		}
	}
	mine = bpf_sk_storage_get(&enrolments, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!mine)
		return;
	if (may_use_ring(task))
		mine->stage = ENROL_NEVER;
	if (mine->stage == ENROL_NEVER) {
		count(WAGGLE_COUNT_INJECT_BUSY);
		return;
	}
	if (trial)
		prepare_leavers();
	mine->trial = trial;
	mine->stage = ENROL_WANTED;
}

/* Whether something has been sent, or will be in a way that enrolled sockets cannot. */
INLINE int is_busy(struct bpf_sock_ops *ops, struct enrolment *mine)
{
	struct tcp_sock *tcp;
	struct sock *sk;
	u64 zerocopy = 1ULL << (bpf_core_enum_value(enum sock_flags, SOCK_ZEROCOPY) & 63);

	*(volatile u64 *)&mine->sock = (u64)ops->sk;
	sk = (void *)*(volatile u64 *)&mine->sock;
	tcp = (void *)sk;
	return ops->data_segs_out || BPF_CORE_READ(tcp, write_seq) != BPF_CORE_READ(tcp, snd_nxt) ||
	       BPF_CORE_READ(sk, __sk_common.skc_flags) & zerocopy;
}

/* Whoever else wants this callback has asked for it as the socket began to connect. */
INLINE void no_more_callbacks(struct bpf_sock_ops *ops, const struct enrolment *mine)
{
	if (mine->own_callback)
		bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags &
						       ~BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
}

/* The connection is there: no byte of it has passed. */
INLINE void on_established(struct bpf_sock_ops *ops, const struct waggle_inject_settings *settings)
{
	u64 cookie = bpf_get_socket_cookie(ops);
	struct bpf_sock *sk = ops->sk;
	struct enrolment *mine;
	struct peer_key key;

	if (!sk)
		return;
	mine = bpf_sk_storage_get(&enrolments, sk, 0, 0);
	if (!mine || mine->stage != ENROL_WANTED)
		return;
	mine->stage = ENROL_NOT;
	if (is_busy(ops, mine)) {
		count(WAGGLE_COUNT_INJECT_BUSY);
		return;
	}
	destination_of(ops, &key);
	if (settings->mode != WAGGLE_INJECT_ALWAYS && !mine->trial &&
	    !bpf_map_lookup_elem(&http1_peers, &key)) {
		count(WAGGLE_COUNT_INJECT_UNKNOWN_PEER);
		return;
	}
	mine->own_callback =
		!(ops->bpf_sock_ops_cb_flags & BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
	/* First the callback by which it can leave, then the rest. */
	if (bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags |
						   BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG))
		return;
	mine->cookie = cookie;
	if (bpf_sock_hash_update(ops, &enrolled, &cookie, BPF_NOEXIST)) {
		no_more_callbacks(ops, mine);
		return;
	}
	mine->stage = ENROL_IN;
	count(WAGGLE_COUNT_INJECT_ENROLLED);
}

/* Before every segment, and in every send before its bytes are taken. */
INLINE void on_segment(struct bpf_sock_ops *ops)
{
	u64 cookie = bpf_get_socket_cookie(ops);
	struct bpf_sock *sk = ops->sk;
	struct enrolment *mine;

	if (!sk)
		return;
	mine = bpf_sk_storage_get(&enrolments, sk, 0, 0);
	if (!mine)
		return;
	if (mine->stage == ENROL_STAYS) {
		no_more_callbacks(ops, mine);
		return;
	}
	/* A socket that sends what inject_header has not seen shall not stay. */
	if (mine->stage == ENROL_IN && ops->args[0] != BPF_WRITE_HDR_TCP_CURRENT_MSS &&
	    ops->skb_len)
		mine->stage = ENROL_LEAVES;
	if (mine->stage != ENROL_LEAVES)
		return;
	mine->stage = ENROL_LEFT;
	if (!bpf_map_delete_elem(&enrolled, &cookie))
		count(WAGGLE_COUNT_INJECT_LEFT);
	no_more_callbacks(ops, mine);
}

SEC("sockops")
int inject_enrol(struct bpf_sock_ops *ops)
{
	struct waggle_inject_settings *settings = inject_settings_now();

	if (ops->op == BPF_SOCK_OPS_HDR_OPT_LEN_CB)
		on_segment(ops);
	if (!settings || !settings->mode)
		return 1;
	if (ops->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		on_connecting(ops, settings);
	else if (ops->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		on_established(ops, settings);
	return 1;
}

#endif
