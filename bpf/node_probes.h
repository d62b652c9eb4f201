/* SPDX-License-Identifier: Apache-2.0
 *
 * Where turns of Node.js's event loop end without a read: after each poll, before immediates
 * and timers run (Environment::CheckImmediate), and where work comes back from other threads
 * (uv__async_io). What runs then belongs to whoever asked for it, which nothing tells.
 */
#ifndef WAGGLE_NODE_PROBES_H
#define WAGGLE_NODE_PROBES_H

#include "threads.h"

SEC("uprobe")
int node_turn_over(struct pt_regs *registers)
{
	struct thread *slot = thread_slot((u32)bpf_get_current_pid_tgid());

	if (!slot)
		return 0;
	slot->turn.sock = 0;
	slot->bounded = 1;
	return 0;
}

#endif
