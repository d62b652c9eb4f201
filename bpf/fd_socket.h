/* SPDX-License-Identifier: Apache-2.0
 *
 * The socket of an open file of the current process, by the number of its descriptor.
 */
#ifndef WAGGLE_FD_SOCKET_H
#define WAGGLE_FD_SOCKET_H

#include "endpoint.h"
#include "typed.h"

/* An open file's socket, 0 for other files. */
#define DEFINE_SOCKET_OF(name, TYPE, READ)                                        \
	INLINE u64 name(struct file *file)                                         \
	{                                                                          \
		struct inode *inode = READ(TYPE(struct file, file), f_inode);       \
		struct socket *socket;                                             \
                                                                                   \
		if ((READ(inode, i_mode) & S_IFMT) != S_IFSOCK)                    \
			return 0;                                                  \
		socket = READ(TYPE(struct file, file), private_data);              \
		return (u64)BPF_CORE_READ(socket, sk);                             \
	}

#define AS_IT_IS(type, address) (address)
DEFINE_SOCKET_OF(socket_of_typed, TYPED, READ_DIRECT)
DEFINE_SOCKET_OF(socket_of_address, AS_IT_IS, READ_BY_ADDRESS)

INLINE u64 socket_of_fd(u32 descriptor)
{
	struct files_struct *opened = bpf_get_current_task_btf()->files;
	struct fdtable *table = opened ? opened->fdt : 0;
	struct file *file = 0;

	if (!table || descriptor >= table->max_fds)
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), table->fd + descriptor);
	if (!file)
		return 0;
	return has_types() ? socket_of_typed(file) : socket_of_address(file);
}

INLINE u16 family_of(u64 sock)
{
	struct sock *sk = (void *)sock;

	return has_types() ? TYPED(struct sock, sock)->__sk_common.skc_family :
			     BPF_CORE_READ(sk, __sk_common.skc_family);
}

#endif
