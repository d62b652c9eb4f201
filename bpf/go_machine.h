/* SPDX-License-Identifier: Apache-2.0
 *
 * What of Go depends on the processor: where a thread keeps its goroutine, and in
 * which registers functions get their arguments (Go's internal ABI). The choice of
 * instructions is the other half: probes/go/instructions.py.
 */
#ifndef WAGGLE_GO_MACHINE_H
#define WAGGLE_GO_MACHINE_H

#include "maps.h"

/* Arguments are counted in words from 0: an interface or a string is two, a slice three. */
#define GO_ARGUMENT_0(registers) BPF_CORE_READ(registers, ax)
#define GO_ARGUMENT_1(registers) BPF_CORE_READ(registers, bx)
#define GO_ARGUMENT_2(registers) BPF_CORE_READ(registers, cx)
#define GO_ARGUMENT_3(registers) BPF_CORE_READ(registers, di)

/* The address of the word that holds the thread's current g. */
INLINE u64 go_thread_slot(s32 slot)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, thread.fsbase) + (s64)slot;
}

#endif
