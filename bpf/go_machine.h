/* SPDX-License-Identifier: Apache-2.0
 *
 * What of Go depends on the processor: where a thread keeps its goroutine, and in
 * which registers functions get their arguments (Go's internal ABI). The choice of
 * instructions is the other half: probes/go/instructions.py. For arm64 it is compiled,
 * and has not run.
 */
#ifndef WAGGLE_GO_MACHINE_H
#define WAGGLE_GO_MACHINE_H

#include "maps.h"
#include "user_memory.h"

/* Arguments are counted in words from 0: an interface or a string is two, a slice three. Results
 * are in the same registers.
 * go_word_in() is what is in a register that user space has chosen (enum waggle_register);
 * go_jumps() whether the jump with which a function begins is taken: its stack must grow, or its
 * goroutine make room for another; then it begins anew, and comes there once more;
 * go_thread_g() the g that the current thread runs; go_probed_g() the same at a probe in one of the
 * program's own functions, and go_likely_g() where that is to be proven yet: no memory is read. */
#if defined(__TARGET_ARCH_arm64)

/* How a struct pt_regs begins there. */
struct user_pt_regs {
	u64 regs[31];
	u64 sp;
	u64 pc;
	u64 pstate;
} __attribute__((preserve_access_index));

#define GO_G 28 /* the register that has the g, whatever the thread does */
#define GO_WORD(registers, n) BPF_CORE_READ((struct user_pt_regs *)(registers), regs[n])
#define GO_STACK(registers) BPF_CORE_READ((struct user_pt_regs *)(registers), sp)
#define GO_ARGUMENT_0(registers) GO_WORD(registers, 0)
#define GO_ARGUMENT_1(registers) GO_WORD(registers, 1)
#define GO_ARGUMENT_2(registers) GO_WORD(registers, 2)
#define GO_ARGUMENT_3(registers) GO_WORD(registers, 3)
#define GO_ARGUMENT_4(registers) GO_WORD(registers, 4)
#define GO_REGISTERS 31

/* b.ls: the carry is clear or zero is set. */
INLINE int go_jumps(struct pt_regs *registers)
{
	u64 flags = BPF_CORE_READ((struct user_pt_regs *)(registers), pstate);

	return !(flags >> 29 & 1) || (flags >> 30 & 1);
}

/* Registers have no names there: they are counted from 1 on. */
INLINE u64 go_word_in(struct pt_regs *registers, u32 which)
{
	struct user_pt_regs *user = (void *)registers;
	u64 value = 0;

	if (which && which <= GO_REGISTERS)
		bpf_probe_read_kernel(&value, sizeof(value), &user->regs[which - 1]);
	return value;
}

INLINE u64 go_thread_g(s32 slot)
{
	void *registers = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());

	return GO_WORD(registers, GO_G);
}

INLINE u64 go_probed_g(struct pt_regs *registers)
{
	return GO_WORD(registers, GO_G);
}

INLINE u64 go_likely_g_in(struct pt_regs *registers)
{
	return GO_WORD(registers, GO_G);
}

#else

#define GO_STACK(registers) BPF_CORE_READ(registers, sp)

/* jbe: carry or zero is set. */
INLINE int go_jumps(struct pt_regs *registers)
{
	return !!(BPF_CORE_READ(registers, flags) & (1 << 0 | 1 << 6));
}

#define GO_ARGUMENT_0(registers) BPF_CORE_READ(registers, ax)
#define GO_ARGUMENT_1(registers) BPF_CORE_READ(registers, bx)
#define GO_ARGUMENT_2(registers) BPF_CORE_READ(registers, cx)
#define GO_ARGUMENT_3(registers) BPF_CORE_READ(registers, di)
#define GO_ARGUMENT_4(registers) BPF_CORE_READ(registers, si)

INLINE u64 go_word_in(struct pt_regs *registers, u32 which)
{
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

/* `slot`: from the thread's pointer on. */
INLINE u64 go_thread_g(s32 slot)
{
	return word_at(bpf_get_current_task_btf()->thread.fsbase + (s64)slot);
}

/* Functions of Go have it in a register, which is not the system's to change. */
INLINE u64 go_probed_g(struct pt_regs *registers)
{
	return registers->r14;
}

/* `registers`: of the kernel's own making (bpf_task_pt_regs()). */
INLINE u64 go_likely_g_in(struct pt_regs *registers)
{
	return registers->r14;
}

#endif

INLINE u64 go_likely_g(void)
{
	return go_likely_g_in((void *)bpf_task_pt_regs(bpf_get_current_task_btf()));
}

/* What is in a register, or on the stack, that user space has chosen. */
INLINE u64 go_register(struct pt_regs *registers, u32 which)
{
	if (which >= WAGGLE_REGISTER_STACK)
		return word_at(GO_STACK(registers) + which - WAGGLE_REGISTER_STACK);
	return go_word_in(registers, which);
}

#endif
