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
INLINE u64 load64(const u8 *at)
{
	u64 word;
	memcpy(&word, at, sizeof(word));
	return word;
}
INLINE void store64(u8 *at, u64 word)
{
	memcpy(at, &word, sizeof(word));
}
INLINE void store32(u8 *at, u32 word)
{
	memcpy(at, &word, sizeof(word));
}
#else
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#define LOOP(count, step, context) bpf_loop(count, step, context, 0)
INLINE void copy_bytes(u8 *to, u32 length, const u8 *from)
{
	bpf_probe_read_kernel(to, length, from);
}

/* Anywhere but on the stack: the compiler thinks that BPF must load and store byte by byte
 * what is not known to be aligned, while the processors that we run on need not. */
typedef u64 __attribute__((may_alias)) word64;
typedef u32 __attribute__((may_alias)) word32;
INLINE u64 load64(const u8 *at)
{
	return *(const word64 *)at;
}
INLINE void store64(u8 *at, u64 word)
{
	*(word64 *)at = word;
}
INLINE void store32(u8 *at, u32 word)
{
	*(word32 *)at = word;
}
#endif

/* `size` is a constant that eight divides. */
INLINE void copy_words(u8 *to, const u8 *from, u32 size)
{
#pragma clang loop unroll(full)
	for (u32 at = 0; at < size; at += 8)
		store64(to + at, load64(from + at));
}

INLINE void clear_words(u8 *at, u32 size)
{
#pragma clang loop unroll(full)
	for (u32 i = 0; i < size; i += 8)
		store64(at + i, 0);
}

/* What is read or written above this is so before what is below: for the compiler, and with it
 * for this machine. */
#define IN_THIS_ORDER() asm volatile("" ::: "memory")

/* An index the verifier must see masked, even where the compiler knows better. */
INLINE u64 masked(u64 index, u64 mask)
{
#ifndef WAGGLE_USER_MODE
	asm volatile("%0 &= %1" : "+r"(index) : "r"(mask));
#endif
	return index & mask;
}

#endif
