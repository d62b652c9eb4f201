/* SPDX-License-Identifier: Apache-2.0
 *
 * Small programs at the hooks, and one behind them that does the work: what each of them
 * would contain is verified, compiled and cached once. A hook's program only sees
 * whether its event is worth the work, and jumps.
 *
 * Raw tracepoints, since their programs may jump to each other whatever the hook's
 * arguments are; typed ones may not. What they lack, a socket whose fields can be read
 * directly, TYPED gives.
 */
#ifndef WAGGLE_PASS_ON_H
#define WAGGLE_PASS_ON_H

#include "feed.h"
#include "hold_cpu.h"
#include "typed.h"

/* What hooks of this CPU are passing on, by enum scratch_user. */
struct passed {
	u64 context[SCRATCH_HOOKS]; /* 0: nothing */
};

MAP(passed_on, BPF_MAP_TYPE_PERCPU_ARRAY, 1, u32, struct passed, 0);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(u32));
	__uint(value_size, sizeof(u32));
} behind_hooks SEC(".maps"); /* user space puts the program there */

INLINE struct passed *passed_here(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&passed_on, &zero);
}

/* Goes on in the program behind the hooks. That cannot be told anything but the context,
 * which is an address that no other event has meanwhile: by it it finds what is here. Should
 * somebody preempt us on the way, the kernel keeps this hook from running again here, and
 * other hooks have other places. */
INLINE void pass_on(void *context, u32 user, u32 mode, u64 id)
{
	struct passed *passed = passed_here();
	struct call *call = call_by(user, id);

	if (!passed || !call)
		return;
	call->mode = mode;
	passed->context[user] = (u64)context;
	bpf_tail_call(context, &behind_hooks, 0);
	passed->context[user] = 0;
}

/* What a hook has passed on, null for nothing. */
INLINE struct call *take_over(void *context)
{
	struct passed *passed = passed_here();

	if (!passed)
		return 0;
#pragma clang loop unroll(full)
	for (u32 user = 0; user < SCRATCH_HOOKS; user++) {
		if (passed->context[user] == (u64)context) {
			passed->context[user] = 0;
			return bpf_map_lookup_elem(&calls, &user);
		}
	}
	return 0;
}

#endif
