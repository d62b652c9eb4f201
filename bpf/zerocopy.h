/* SPDX-License-Identifier: Apache-2.0
 *
 * SO_ZEROCOPY. The kernel completes what an enrolled socket sends with MSG_ZEROCOPY piece by
 * piece, so the program is told of more completions than it made sends. A socket that has the
 * option when its connection comes to be is not enrolled (enrol.h). One that is given it later
 * leaves while that call is still under way: before it returns, the socket is as any other.
 *
 * What sees the call may not take a socket out of its map, but it can start a timer whose
 * callback may, and wait for it. The timer's interrupt comes at once, on this very CPU.
 */
#ifndef WAGGLE_ZEROCOPY_H
#define WAGGLE_ZEROCOPY_H

#include "inject.h"

#define SOL_SOCKET 1
#define CLOCK_MONOTONIC 1
#define SO_ZEROCOPY 60
#define LEAVE_STEPS (1 << 20) /* looks at whether the timer has run, */
#define LEAVE_NS 20000000     /* and how long they may go on */
#define LEAVERS_MOST 8192

/* By the socket's cookie. */
MAP(enrolled, BPF_MAP_TYPE_SOCKHASH, 65536, u64, u64, 0);

/* One for each CPU, whose number user space knows. */
struct leaver {
	struct bpf_timer timer;
	u64 cookie;
	u64 waits; /* the timer has not run yet */
};

MAP(leavers, BPF_MAP_TYPE_ARRAY, 1, u32, struct leaver, 0);

/* User space has taken a kernel's word for it that this works; should it fail once all the
 * same, no other socket is touched from then on. */
INLINE void give_up_injecting(void)
{
	struct waggle_inject_settings *settings = inject_settings_now();

	count(WAGGLE_COUNT_INJECT_STAYED);
	if (settings)
		settings->mode = WAGGLE_INJECT_OFF;
}

static int take_out(void *map, u32 *cpu, struct leaver *leaver)
{
	u64 cookie = leaver->cookie;

	bpf_map_delete_elem(&enrolled, &cookie);
	*(volatile u64 *)&leaver->waits = 0;
	return 0;
}

static long prepare_step(u32 cpu, void *context)
{
	struct leaver *leaver = bpf_map_lookup_elem(&leavers, &cpu);

	if (!leaver)
		return 1;
	if (!bpf_timer_init(&leaver->timer, &leavers, CLOCK_MONOTONIC))
		bpf_timer_set_callback(&leaver->timer, take_out);
	return 0;
}

/* By a program that may change the map of sockets: that is what its callback may do then. */
INLINE void prepare_leavers(void)
{
	u64 unused = 0;

	LOOP(LEAVERS_MOST, prepare_step, &unused);
}

struct leave_wait {
	u64 until;
	u32 cpu;
	u32 reserved;
};

static long wait_step(u32 index, void *context)
{
	struct leave_wait *wait = context;
	struct leaver *leaver = bpf_map_lookup_elem(&leavers, &wait->cpu);

	return !leaver || !*(volatile u64 *)&leaver->waits || bpf_ktime_get_ns() > wait->until;
}

/* Takes the socket out of the map. Returns 0 where it is still there. */
INLINE int leave_at_once(u64 cookie)
{
	struct leave_wait wait = { .cpu = bpf_get_smp_processor_id() };
	struct leaver *leaver = bpf_map_lookup_elem(&leavers, &wait.cpu);

	if (!leaver)
		return 0;
	leaver->cookie = cookie;
	*(volatile u64 *)&leaver->waits = 1;
	if (bpf_timer_start(&leaver->timer, 0, 0))
		return 0;
	wait.until = bpf_ktime_get_ns() + LEAVE_NS;
	LOOP(LEAVE_STEPS, wait_step, &wait);
	return !*(volatile u64 *)&leaver->waits;
}

/* The option is about to be set, under the socket's lock. */
INLINE void on_zerocopy(struct bpf_sock *sk)
{
	int fresh = sk->state == BPF_TCP_CLOSE || sk->state == BPF_TCP_SYN_SENT;
	struct enrolment *mine;
	u32 stage;

	/* One thread may connect the socket while another sets the option. */
	mine = bpf_sk_storage_get(&enrolments, sk, 0, fresh ? BPF_SK_STORAGE_GET_F_CREATE : 0);
	if (!mine)
		return;
	stage = mine->stage;
	if (stage == ENROL_NEVER || stage == ENROL_LEFT)
		return;
	if (stage != ENROL_NOT && !mine->trial)
		count(WAGGLE_COUNT_INJECT_BUSY);
	if (stage == ENROL_NOT || stage == ENROL_WANTED) {
		mine->stage = ENROL_NEVER;
		return;
	}
	mine->stage = ENROL_LEAVES;
	if (!leave_at_once(mine->cookie))
		give_up_injecting();
}

/* Every setsockopt() of the machine comes here. */
SEC("cgroup/setsockopt")
int inject_watch_options(struct bpf_sockopt *call)
{
	struct bpf_sock *sk = call->sk;

	/* The kernel is to take the caller's own bytes, of which it shows us some at most. */
	call->optlen = 0;
	if (call->level != SOL_SOCKET || call->optname != SO_ZEROCOPY)
		return 1;
	if (!sk || sk->protocol != IPPROTO_TCP || !can_hold_cpu())
		return 1;
	HOLD_CPU();
	on_zerocopy(sk);
	return 1;
}

#endif
