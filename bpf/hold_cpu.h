/* SPDX-License-Identifier: Apache-2.0
 *
 * One CPU, one program at a time. The kernel does not run a program on a CPU where
 * it has not ended yet, and ours share memory per CPU. Until about Linux 7.0
 * tracepoints kept preemption off; since then (and at fentry always) another thread
 * may come in between: its call would go unseen, or spoil what the first was about.
 */
#ifndef WAGGLE_HOLD_CPU_H
#define WAGGLE_HOLD_CPU_H

#include "kernel_types.h"

extern void bpf_preempt_disable(void) __ksym __weak;
extern void bpf_preempt_enable(void) __ksym __weak;

/* As the verifier has it since it allows global functions meanwhile (Linux 6.15). */
struct bpf_subprog_info___sleepy {
	_Bool might_sleep;
} __attribute__((preserve_access_index));

/* Known when the object is loaded: elsewhere the verifier removes the calls. */
INLINE int can_hold_cpu(void)
{
	struct bpf_subprog_info___sleepy *info = 0;

	return bpf_core_field_exists(info->might_sleep);
}

INLINE void hold_cpu(void)
{
	if (can_hold_cpu())
		bpf_preempt_disable();
}

INLINE void release_cpu(const int *unused)
{
	if (can_hold_cpu())
		bpf_preempt_enable();
}

/* From here to the end of the block nobody preempts us. After the checks that most
 * calls end with, for those are too short to matter. */
#define HOLD_CPU()                                       \
	int held __attribute__((cleanup(release_cpu), unused)) = 0; \
	hold_cpu()

#endif
