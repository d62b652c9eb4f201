/* SPDX-License-Identifier: Apache-2.0
 *
 * Where turns of Node.js's event loop end without a read: after each poll, before immediates run
 * (Environment::CheckImmediate), before timers do (Environment::RunTimers), and where work comes
 * back from other threads (uv__async_io). What runs then belongs to whoever asked for it, which
 * for immediates node_turns.h tells, and for the others nothing.
 */
#ifndef WAGGLE_NODE_PROBES_H
#define WAGGLE_NODE_PROBES_H

#include "threads.h"

INLINE int turn_over(u32 tid)
{
	struct thread *slot = thread_slot(tid);

	if (!slot)
		return 0;
	slot->turn.sock = 0;
	slot->bounded = 1;
	return 1;
}

SEC("uprobe")
int node_turn_over(struct pt_regs *registers)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct owner nobody = {};

	if (turn_over(tid))
		node_turn_begins(tid, &nobody);
	return 0;
}

SEC("uprobe")
int node_round_over(struct pt_regs *registers)
{
	u64 id = bpf_get_current_pid_tgid();

	if (turn_over((u32)id))
		node_round_ends(id >> 32, (u32)id, registers->di);
	return 0;
}

#endif
