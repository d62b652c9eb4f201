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
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

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
