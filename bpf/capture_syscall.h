/* SPDX-License-Identifier: Apache-2.0
 *
 * Flavour C, `--capture syscall`: entry and exit of every system call, which is
 * there on every kernel. Every process on the machine pays for it (about 0.1 us a
 * call), io_uring is not seen, and positions are read without the socket's lock.
 */
#ifndef WAGGLE_CAPTURE_SYSCALL_H
#define WAGGLE_CAPTURE_SYSCALL_H

#include "endpoint.h"

INLINE int is_send(u32 number)
{
	return number == SYS_WRITE || number == SYS_WRITEV || number == SYS_SENDTO ||
	       number == SYS_SENDMSG || number == SYS_SENDMMSG || number == SYS_PWRITEV2;
}

INLINE int is_file(u32 number)
{
	return number == SYS_SENDFILE || number == SYS_SPLICE;
}

INLINE int is_receive(u32 number)
{
	return number == SYS_READ || number == SYS_READV || number == SYS_RECVFROM ||
	       number == SYS_RECVMSG || number == SYS_RECVMMSG || number == SYS_PREADV2;
}

/* The socket behind a descriptor of the current process, or null. */
INLINE struct sock *socket_of_descriptor(u32 descriptor)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **files, *file = 0;
	struct socket *socket;

	if (descriptor >= BPF_CORE_READ(table, max_fds))
		return 0;
	files = BPF_CORE_READ(table, fd);
	bpf_probe_read_kernel(&file, sizeof(file), files + descriptor);
	if (!file || (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	socket = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(socket, sk);
}

/* The call that is being made, on a socket; null otherwise. */
OUT_OF_LINE struct call *current_call(u32 user, u32 number, struct pt_regs *regs)
{
	/* splice sends to its third argument. */
	u32 descriptor = number == SYS_SPLICE ? BPF_CORE_READ(regs, dx) : BPF_CORE_READ(regs, di);
	struct sock *sk = socket_of_descriptor(descriptor);
	struct call *call = sk ? call_of(user) : 0;

	if (!call)
		return 0;
	call->sk = (u64)sk;
	call->number = number;
	call->second = BPF_CORE_READ(regs, si);
	call->third = BPF_CORE_READ(regs, dx);
	return call;
}

/* Looks at the bytes that a call is about to send. */
INLINE void syscall_send(struct call *call)
{
	struct connection *connection;

	memory_of_call(call);
	call->memory.length = requested_length(call);
	if (!call->memory.length)
		return;
	if (!tcp_call_by_address(call)) {
		on_unix_send(call);
		return;
	}
	call->endpoint.position += call->sent_before;
	connection = connection_of(call);
	if (connection)
		on_call(connection, call);
}

struct messages {
	struct call *call;
	u64 first;
	u32 count;
	u32 several; /* made by sendmmsg */
};

/* One message of sendmmsg after the other, each where the one before it will end; or the
 * one of another call, so that there is one place that sends. */
static long message_step(u32 index, void *context)
{
	struct messages *messages = context;
	struct call *call = messages->call;

	if (index >= messages->count)
		return 1;
	if (messages->several) {
		call->second = messages->first + index * USER_MMSGHDR_SIZE;
		call->number = SYS_SENDMSG;
		__builtin_memset(&call->memory, 0, sizeof(call->memory));
	}
	syscall_send(call);
	call->sent_before += call->memory.length;
	return 0;
}

INLINE void syscall_send_messages(struct call *call)
{
	struct messages messages = {
		.call = call,
		.first = call->second,
		.count = 1,
	};

	if (call->number == SYS_SENDMMSG) {
		messages.count = call->third;
		messages.several = 1;
	}
	LOOP(SEGMENTS_MAX, message_step, &messages);
}

SEC("raw_tp/sys_enter")
int syscall_enter(struct bpf_raw_tracepoint_args *context)
{
	u32 number = context->args[1];
	struct call *call;

	/* First of all: these run for every call of every process, so that even the short
	 * way to "not ours" is long enough for somebody else to come in between. */
	HOLD_CPU();
	if (!traced_mode() || !is_send(number))
		return 0;
	call = current_call(SCRATCH_SEND, number, (void *)context->args[0]);
	if (!call)
		return 0;
	syscall_send_messages(call);
	return 0;
}

/* What sendfile or splice put into a connection can only be counted. */
INLINE void syscall_sent_file(struct call *call, u32 length)
{
	struct sock *sk = (void *)call->sk;
	struct connection *connection;

	call->memory.length = length;
	if (tcp_call_by_address(call)) {
		call->endpoint.position -= length;
	} else {
		if (!is_unix_stream(sk))
			return;
		unix_call(call);
	}
	connection = connection_of(call);
	if (!connection)
		return;
	if (call->endpoint.family == AF_UNIX)
		call->endpoint.position = connection->sent.next;
	on_call(connection, call);
}

struct message_sum {
	u64 first;
	u64 bytes;
	u32 count;
	u32 reserved;
};

static long sum_step(u32 index, void *context)
{
	struct message_sum *sum = context;
	u32 length = 0;

	if (index >= sum->count)
		return 1;
	bpf_probe_read_user(&length, 4,
			    (void *)(sum->first + index * USER_MMSGHDR_SIZE + USER_MMSGHDR_LENGTH));
	sum->bytes += length;
	return 0;
}

/* sendmmsg returns how many messages it sent; their sizes are in the vector. */
OUT_OF_LINE long sum_of_messages(const struct call *call)
{
	struct message_sum sum = {
		.first = call->second,
		.count = call->result > 0 ? call->result : 0,
	};

	LOOP(SEGMENTS_MAX, sum_step, &sum);
	return sum.bytes;
}

INLINE void syscall_received(struct call *call, struct pt_regs *regs)
{
	if (call->number == SYS_RECVFROM || call->number == SYS_RECVMMSG)
		call->flags = BPF_CORE_READ(regs, r10);
	else if (call->number == SYS_RECVMSG)
		call->flags = call->third;
	if (call->number == SYS_RECVMMSG && call->result > 0)
		bpf_probe_read_user(&call->result, 4,
				    (void *)(call->second + USER_MMSGHDR_LENGTH));
	on_receive_by_address(call);
}

/* The arguments are still in the registers, so a call that began before we were
 * attached is seen as well. */
SEC("raw_tp/sys_exit")
int syscall_exit(struct bpf_raw_tracepoint_args *context)
{
	struct pt_regs *regs = (void *)context->args[0];
	long result = context->args[1];
	u32 mode, number;
	struct call *call;

	HOLD_CPU();
	mode = traced_mode();
	if (!mode)
		return 0;
	number = BPF_CORE_READ(regs, orig_ax);
	if (!is_receive(number) && !is_send(number) && !is_file(number))
		return 0;
	call = current_call(is_receive(number) ? SCRATCH_RECEIVE : SCRATCH_UNIX, number, regs);
	if (!call)
		return 0;
	call->mode = mode;
	call->result = result;
	if (is_receive(number))
		syscall_received(call, regs);
	else if (is_file(number) && result > 0)
		syscall_sent_file(call, result);
	else if (is_send(number))
		on_unix_sent(call->sk, number == SYS_SENDMMSG ? sum_of_messages(call) : result);
	return 0;
}

#endif
