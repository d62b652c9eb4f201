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

/* What is in a register, or on the stack, that user space has chosen (enum waggle_register). */
INLINE u64 go_register(struct pt_regs *registers, u32 which)
{
	if (which >= WAGGLE_REGISTER_STACK)
		return word_at(BPF_CORE_READ(registers, sp) + which - WAGGLE_REGISTER_STACK);
	switch (which) {
	case WAGGLE_REGISTER_AX:
		return BPF_CORE_READ(registers, ax);
	case WAGGLE_REGISTER_BX:
		return BPF_CORE_READ(registers, bx);
	case WAGGLE_REGISTER_CX:
		return BPF_CORE_READ(registers, cx);
	case WAGGLE_REGISTER_DX:
		return BPF_CORE_READ(registers, dx);
	case WAGGLE_REGISTER_SI:
		return BPF_CORE_READ(registers, si);
	case WAGGLE_REGISTER_DI:
		return BPF_CORE_READ(registers, di);
	case WAGGLE_REGISTER_R8:
		return BPF_CORE_READ(registers, r8);
	case WAGGLE_REGISTER_R9:
		return BPF_CORE_READ(registers, r9);
	case WAGGLE_REGISTER_R10:
		return BPF_CORE_READ(registers, r10);
	}
	return 0;
}

/* The address of the word that holds the thread's current g. */
INLINE u64 go_thread_slot(s32 slot)
{
	return bpf_get_current_task_btf()->thread.fsbase + (s64)slot;
}

#endif
