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
INLINE struct call *current_call(u32 user, u32 number, struct pt_regs *regs)
{
	struct sock *sk = socket_of_descriptor(BPF_CORE_READ(regs, di));
	struct call *call = sk ? call_of(user) : 0;

	if (!call)
		return 0;
	call->sk = (u64)sk;
	call->number = number;
	call->second = BPF_CORE_READ(regs, si);
	call->third = BPF_CORE_READ(regs, dx);
	return call;
}

SEC("raw_tp/sys_enter")
int syscall_enter(struct bpf_raw_tracepoint_args *context)
{
	u32 number = context->args[1];
	struct connection *connection;
	struct call *call;

	if (!traced_mode() || !is_send(number))
		return 0;
	call = current_call(SCRATCH_SEND, number, (void *)context->args[0]);
	if (!call)
		return 0;
	memory_of_call(call);
	call->memory.length = requested_length(call);
	if (!call->memory.length)
		return 0;
	if (!tcp_call_by_address(call)) {
		on_unix_send(call);
		return 0;
	}
	connection = connection_of(call);
	if (connection)
		on_call(connection, call);
	return 0;
}

/* What sendfile put into the connection is known by the position it reached. */
INLINE void syscall_sent_file(struct call *call, u32 length)
{
	struct connection *connection;

	if (!tcp_call_by_address(call))
		return;
	call->memory.length = length;
	call->endpoint.position -= length;
	connection = connection_of(call);
	if (connection)
		on_call(connection, call);
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
	u32 mode = traced_mode(), number;
	struct call *call;

	if (!mode)
		return 0;
	number = BPF_CORE_READ(regs, orig_ax);
	if (!is_receive(number) && !is_send(number) && number != SYS_SENDFILE)
		return 0;
	call = current_call(is_receive(number) ? SCRATCH_RECEIVE : SCRATCH_UNIX, number, regs);
	if (!call)
		return 0;
	call->mode = mode;
	call->result = result;
	if (is_receive(number))
		syscall_received(call, regs);
	else if (number == SYS_SENDFILE && result > 0)
		syscall_sent_file(call, result);
	else if (is_send(number))
		on_unix_sent(call->sk, result);
	return 0;
}

#endif
