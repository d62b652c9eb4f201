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

INLINE void syscall_send(struct sock *sk, const struct call_arguments *arguments)
{
	struct endpoint endpoint;
	struct positions positions;
	struct connection *connection;
	struct memory memory;
	u16 family;

	memory_of_call(&memory, arguments);
	memory.length = requested_length(arguments, &memory);
	if (!memory.length)
		return;
	if (!tcp_positions_of(sk, &family, &positions)) {
		if (is_unix_stream(sk))
			on_unix_send(sk, &memory);
		return;
	}
	tcp_endpoint(&endpoint, (u64)sk, family, &positions);
	endpoint.position = positions.write_seq;
	connection = connection_of(&endpoint, 0, 1);
	if (connection && !(connection->flags & CONNECTION_DEAD))
		on_call(connection, &endpoint, &memory, 1);
}

INLINE void remember_call(struct sock *sk, u32 tid, const struct call_arguments *arguments)
{
	struct pending_call call = {
		.sock = (u64)sk,
		.args = { arguments->second, arguments->third },
		.number = arguments->number,
	};

	bpf_map_update_elem(&pending_calls, &tid, &call, BPF_ANY);
}

SEC("raw_tp/sys_enter")
int syscall_enter(struct bpf_raw_tracepoint_args *context)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 number = context->args[1];
	struct pt_regs *regs = (void *)context->args[0];
	struct call_arguments arguments = { .number = number };
	struct sock *sk;

	if (!traced_mode())
		return 0;
	if (!is_send(number) && !is_receive(number) && number != SYS_SENDFILE)
		return 0;
	sk = socket_of_descriptor(BPF_CORE_READ(regs, di));
	if (!sk)
		return 0;
	arguments.second = BPF_CORE_READ(regs, si);
	arguments.third = BPF_CORE_READ(regs, dx);
	if (is_send(number))
		syscall_send(sk, &arguments);
	if (is_receive(number) || number == SYS_SENDFILE || is_unix_stream(sk))
		remember_call(sk, (u32)id, &arguments);
	return 0;
}

/* What sendfile put into the connection is known by the position it reached. */
INLINE void syscall_sent_file(struct sock *sk, u32 length)
{
	struct endpoint endpoint;
	struct positions positions;
	struct connection *connection;
	struct memory memory = { .length = length };
	u16 family;

	if (!tcp_positions_of(sk, &family, &positions))
		return;
	tcp_endpoint(&endpoint, (u64)sk, family, &positions);
	endpoint.position = positions.write_seq - length;
	connection = connection_of(&endpoint, 0, 1);
	if (connection && !(connection->flags & CONNECTION_DEAD))
		on_call(connection, &endpoint, &memory, 1);
}

INLINE void syscall_received(struct receipt *receipt, const struct call_arguments *arguments)
{
	if (arguments->number == SYS_RECVMMSG && receipt->result > 0)
		bpf_probe_read_user(&receipt->result, 4,
				    (void *)(arguments->second + USER_MMSGHDR_LENGTH));
	on_receive_by_address(receipt, arguments);
}

INLINE u32 receive_flags(u32 number, struct pt_regs *regs)
{
	if (number == SYS_RECVFROM || number == SYS_RECVMMSG)
		return BPF_CORE_READ(regs, r10);
	return number == SYS_RECVMSG ? BPF_CORE_READ(regs, dx) : 0;
}

SEC("raw_tp/sys_exit")
int syscall_exit(struct bpf_raw_tracepoint_args *context)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = id;
	long result = context->args[1];
	struct pt_regs *regs = (void *)context->args[0];
	struct call_arguments arguments = {};
	struct pending_call *found, call;
	struct receipt receipt = { .mode = traced_mode() };

	if (!receipt.mode)
		return 0;
	found = bpf_map_lookup_elem(&pending_calls, &tid);
	if (!found)
		return 0;
	call = *found;
	bpf_map_delete_elem(&pending_calls, &tid);
	receipt.sk = (void *)call.sock;
	receipt.result = result;
	arguments.number = call.number;
	arguments.second = call.args[0];
	arguments.third = call.args[1];
	if (is_receive(call.number)) {
		receipt.flags = receive_flags(call.number, regs);
		syscall_received(&receipt, &arguments);
	} else if (call.number == SYS_SENDFILE && result > 0) {
		syscall_sent_file(receipt.sk, result);
	} else if (is_send(call.number)) {
		on_unix_sent(receipt.sk, result);
	}
	return 0;
}

#endif
