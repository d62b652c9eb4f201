/* SPDX-License-Identifier: Apache-2.0
 *
 * The arguments of the system calls that move bytes through sockets (x86-64).
 * Where a hook does not hand us the buffer, the call's own arguments do.
 */
#ifndef WAGGLE_SYSCALLS_H
#define WAGGLE_SYSCALLS_H

#include "call.h"

enum system_call {
	SYS_READ = 0,
	SYS_WRITE = 1,
	SYS_READV = 19,
	SYS_WRITEV = 20,
	SYS_SENDFILE = 40,
	SYS_SENDTO = 44,
	SYS_RECVFROM = 45,
	SYS_SENDMSG = 46,
	SYS_RECVMSG = 47,
	SYS_SPLICE = 275,
	SYS_RECVMMSG = 299,
	SYS_SENDMMSG = 307,
	SYS_PREADV2 = 327,
	SYS_PWRITEV2 = 328,
};

/* struct user_msghdr and struct mmsghdr, whose layout is part of the ABI. */
#define USER_MSGHDR_IOV 16
#define USER_MSGHDR_IOVLEN 24
#define USER_MMSGHDR_SIZE 64
#define USER_MMSGHDR_LENGTH 56

INLINE void message_memory(struct memory *memory, u64 message)
{
	u64 vector = 0, segments = 0;

	if (bpf_probe_read_user(&vector, 8, (void *)(message + USER_MSGHDR_IOV)) ||
	    bpf_probe_read_user(&segments, 8, (void *)(message + USER_MSGHDR_IOVLEN)))
		return;
	memory->vector = vector;
	memory->segments = segments > SEGMENTS_MAX ? SEGMENTS_MAX : segments;
}

/* Where the bytes of a call lie, by its arguments. `length` is for the caller to fill;
 * memory that cannot be known stays flat with a base of 0. */
INLINE void memory_of_call(struct call *call)
{
	struct memory *memory = &call->memory;

	switch (call->number) {
	case SYS_READ:
	case SYS_WRITE:
	case SYS_RECVFROM:
	case SYS_SENDTO:
		memory->base = call->second;
		return;
	case SYS_READV:
	case SYS_WRITEV:
	case SYS_PREADV2:
	case SYS_PWRITEV2:
		memory->vector = call->second;
		memory->segments = call->third > SEGMENTS_MAX ? SEGMENTS_MAX : call->third;
		return;
	case SYS_RECVMSG:
	case SYS_SENDMSG:
		message_memory(memory, call->second);
		return;
	case SYS_RECVMMSG:
		/* One message: no doubt which. Of several, see docs/limitations.md. */
		if (call->third == 1)
			message_memory(memory, call->second);
		return;
	}
}

struct total {
	u64 vector;
	u64 length;
	u32 segments;
	u32 reserved;
};

static long total_step(u32 index, void *context)
{
	struct total *total = context;
	struct iovec piece;

	if (index >= total->segments ||
	    bpf_probe_read_user(&piece, sizeof(piece), (struct iovec *)total->vector + index))
		return 1;
	total->length += piece.iov_len;
	return 0;
}

/* How many bytes a sending call asks for; 0 when its arguments do not say. */
OUT_OF_LINE u64 requested_length(const struct call *call)
{
	struct total total = {
		.vector = call->memory.vector,
		.segments = call->memory.segments,
	};

	if (!total.segments)
		return call->number == SYS_WRITE || call->number == SYS_SENDTO ? call->third : 0;
	LOOP(SEGMENTS_MAX, total_step, &total);
	return total.length;
}

#endif
