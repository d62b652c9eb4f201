/* SPDX-License-Identifier: Apache-2.0
 *
 * A goroutine is made: the probe of what go_births.h tells, there while it is wanted.
 */
#ifndef WAGGLE_GO_BIRTH_PROBE_H
#define WAGGLE_GO_BIRTH_PROBE_H

#include "go_births.h"
#include "go_calls.h"

/* The call of runtime.runqput in runtime.newproc.func1: a goroutine is ready to run, made
 * by the one for which the thread's own g0 works. */
SEC("uprobe")
int go_birth(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 g = GO_ARGUMENT_1(registers), own, thread, maker, goid, now = bpf_ktime_get_ns();

	if (!go)
		return 0;
	if (now - go->birth_ns > GO_A_WHILE_NS / 2)
		go->birth_ns = now;
	own = go_thread_g(go->slot);
	thread = own ? word_at(own + go->m) : 0;
	maker = thread ? word_at(thread + go->curg) : 0;
	goid = maker ? word_at(maker + go->goid) : 0;
	if (!goid)
		return 0;
	/* From Go 1.21 on the runtime says itself who made it. */
	if (go->parent_goid) {
		if (word_at(g + go->parent_goid) != goid) {
			__sync_fetch_and_add(&go->disagrees, 1);
			return 0;
		}
		if (!go->agrees)
			__sync_fetch_and_add(&go->agrees, 1);
	}
	if (go_handover_wanted && !goroutine_of(go, goid))
		born_of_worker(go, goid, g);
	else
		born(go, goid, g);
	return 0;
}

#endif
