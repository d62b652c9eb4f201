/* SPDX-License-Identifier: Apache-2.0
 *
 * What lets the parsers compile twice: for BPF, and for user mode, where pytest
 * runs them on golden bytes without root (-DWAGGLE_USER_MODE).
 */
#ifndef WAGGLE_PORTABLE_H
#define WAGGLE_PORTABLE_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed int s32;
typedef signed long long s64;

#define INLINE static __attribute__((always_inline)) inline
/* A function that the verifier proves once, for any arguments, and not again at each
 * place and in each state that calls it. Pointers to it must be checked for null. */
#define PROVEN_ONCE __attribute__((noinline))
/* A function of its own, so that its stack is free again after it. */
#define OUT_OF_LINE static __attribute__((noinline))

#ifdef WAGGLE_USER_MODE
#include <string.h>
typedef long (*loop_step)(u32 index, void *context);
INLINE long waggle_loop(u32 count, loop_step step, void *context)
{
	for (u32 i = 0; i < count; i++)
		if (step(i, context))
			return i + 1;
	return count;
}
#define LOOP(count, step, context) waggle_loop(count, step, context)
INLINE void copy_bytes(u8 *to, u32 length, const u8 *from)
{
	memcpy(to, from, length);
}
#else
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#define LOOP(count, step, context) bpf_loop(count, step, context, 0)
INLINE void copy_bytes(u8 *to, u32 length, const u8 *from)
{
	bpf_probe_read_kernel(to, length, from);
}
#endif

INLINE u64 load64(const u8 *at)
{
	u64 word;
	__builtin_memcpy(&word, at, sizeof(word));
	return word;
}

/* An index the verifier must see masked, even where the compiler knows better. */
INLINE u64 masked(u64 index, u64 mask)
{
#ifndef WAGGLE_USER_MODE
	asm volatile("%0 &= %1" : "+r"(index) : "r"(mask));
#endif
	return index & mask;
}

#endif
