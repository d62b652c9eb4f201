/* SPDX-License-Identifier: Apache-2.0
 *
 * Which of the things that a process writes to are its logs, and where the bytes of such a
 * write lie.
 */
#ifndef WAGGLE_LOG_TARGETS_H
#define WAGGLE_LOG_TARGETS_H

#include "process.h"
#include "syscalls.h"

#define SYS_PWRITE64 18
#define SYS_PWRITEV 296
#define S_IFREG 0100000
#define S_IFCHR 0020000
#define S_IFIFO 0010000
#define SOCK_DGRAM 2
#define DEV_NULL (1 << 20 | 3)
#define USER_MSGHDR_NAME 0

struct log_target {
	u64 inode;
	u64 name; /* address of a sockaddr in the process's memory, or 0 */
	u32 device;
	u32 descriptor;
	u32 source; /* enum waggle_log_source */
	u32 reserved;
};

struct log_memory {
	u64 base; /* of the bytes, where they lie in one piece */
	u64 vector;
	u64 name; /* of a message: to whom it goes */
	u32 segments;
	u32 reserved;
};

INLINE int is_log_write(u64 number)
{
	return number == SYS_WRITE || number == SYS_WRITEV || number == SYS_PWRITE64 ||
	       number == SYS_SENDTO || number == SYS_SENDMSG || number == SYS_PWRITEV ||
	       number == SYS_PWRITEV2;
}

INLINE void log_memory(struct log_memory *memory, u64 number, u64 second, u64 third,
		       u64 fifth)
{
	u64 segments = 0;

	memory->base = second;
	memory->vector = 0;
	memory->name = number == SYS_SENDTO ? fifth : 0;
	memory->segments = 0;
	if (number == SYS_WRITEV || number == SYS_PWRITEV || number == SYS_PWRITEV2) {
		memory->vector = second;
		segments = third;
	} else if (number == SYS_SENDMSG) {
		bpf_probe_read_user(&memory->vector, 8, (void *)(second + USER_MSGHDR_IOV));
		bpf_probe_read_user(&segments, 8, (void *)(second + USER_MSGHDR_IOVLEN));
		bpf_probe_read_user(&memory->name, 8, (void *)(second + USER_MSGHDR_NAME));
	} else {
		return;
	}
	memory->segments = segments > SEGMENTS_MAX ? SEGMENTS_MAX : segments;
}

INLINE struct file *file_of_descriptor(u32 descriptor)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	struct files_struct *files = task->files;
	struct fdtable *table = files ? files->fdt : 0;
	struct file *file = 0;

	if (!table || descriptor >= table->max_fds)
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), table->fd + descriptor);
	return file;
}

/* Paths compared by words: what is shorter than 32 bytes ends in zeros. */
struct socket_path {
	u64 words[4];
};

INLINE int same_path(const struct socket_path *path, const char *other)
{
	const u64 *words = (const u64 *)other;

	return path->words[0] == words[0] && path->words[1] == words[1] &&
	       path->words[2] == words[2] && path->words[3] == words[3];
}

const char journal_socket[32] __attribute__((aligned(8))) = "/run/systemd/journal/socket";
const char journal_stream[32] __attribute__((aligned(8))) = "/run/systemd/journal/stdout";
const char journal_syslog[32] __attribute__((aligned(8))) = "/run/systemd/journal/dev-log";
const char syslog_socket[32] __attribute__((aligned(8))) = "/dev/log";

INLINE u32 source_of_path(const struct socket_path *path)
{
	if (same_path(path, journal_socket))
		return WAGGLE_LOG_SOURCE_JOURNAL;
	if (same_path(path, journal_syslog) || same_path(path, syslog_socket))
		return WAGGLE_LOG_SOURCE_SYSLOG;
	if (same_path(path, journal_stream))
		return WAGGLE_LOG_SOURCE_STDOUT;
	return WAGGLE_LOG_SOURCE_NONE;
}

/* Behind the family of a sockaddr_un. */
#define SOCKADDR_PATH 2

/* Where a socket's bytes go, by the address of the message or of the other end. */
OUT_OF_LINE u32 source_of_address(struct sock *sk, u64 name)
{
	struct socket_path path = {};
	struct sock *peer;
	struct unix_address *address;

	if (name) {
		bpf_probe_read_user_str(&path, sizeof(path), (void *)(name + SOCKADDR_PATH));
		return source_of_path(&path);
	}
	peer = BPF_CORE_READ((struct unix_sock *)sk, peer);
	address = peer ? BPF_CORE_READ((struct unix_sock *)peer, addr) : 0;
	if (!address)
		return WAGGLE_LOG_SOURCE_NONE;
	bpf_probe_read_kernel_str(&path, sizeof(path), &address->name[0].sun_path);
	return source_of_path(&path);
}

/* stdout and stderr may be a socket, of a service manager or of a parent that reads them:
 * but not one that requests and responses pass. */
INLINE u32 source_of_socket(struct file *file, const struct log_target *target)
{
	struct socket *socket = BPF_CORE_READ(file, private_data);
	struct sock *sk = BPF_CORE_READ(socket, sk);
	u64 key = (u64)sk;
	struct connection *connection;

	if (BPF_CORE_READ(sk, __sk_common.skc_family) != AF_UNIX)
		return WAGGLE_LOG_SOURCE_NONE;
	if (target->descriptor == 1 || target->descriptor == 2) {
		connection = bpf_map_lookup_elem(&connections, &key);
		if (connection && connection->role && !(connection->flags & CONNECTION_DEAD))
			return WAGGLE_LOG_SOURCE_NONE;
		return target->descriptor;
	}
	return source_of_address(sk, target->name);
}

INLINE int is_log_file(struct file *file)
{
	struct dentry *entry = BPF_CORE_READ(file, f_path.dentry);
	u32 length = BPF_CORE_READ(entry, d_name.len);
	const unsigned char *name = BPF_CORE_READ(entry, d_name.name);
	u32 end = 0;

	if (length < 4)
		return 0;
	bpf_probe_read_kernel(&end, 4, name + length - 4);
	return end == ('.' | 'l' << 8 | 'o' << 16 | 'g' << 24);
}

/* Another descriptor may lead to the pipe or terminal that stdout or stderr is: /dev/stderr,
 * opened anew. */
INLINE u32 source_of_inode(struct inode *inode)
{
	for (u32 stream = 1; stream <= 2; stream++) {
		struct file *file = file_of_descriptor(stream);

		if (file && BPF_CORE_READ(file, f_inode) == inode)
			return stream;
	}
	return WAGGLE_LOG_SOURCE_NONE;
}

/* Whether the descriptor's file is a log of the current process; fills the target. */
OUT_OF_LINE int find_log_target(struct log_target *target)
{
	struct file *file = file_of_descriptor(target->descriptor);
	struct inode *inode = file ? BPF_CORE_READ(file, f_inode) : 0;
	u32 type;

	if (!inode)
		return 0;
	type = BPF_CORE_READ(inode, i_mode) & S_IFMT;
	if (type == S_IFSOCK)
		target->source = source_of_socket(file, target);
	/* Where everything is traced, what people see on their terminals is none of our business. */
	else if (type == S_IFCHR && (trace_all || BPF_CORE_READ(inode, i_rdev) == DEV_NULL))
		return 0;
	else if (target->descriptor == 1 || target->descriptor == 2)
		target->source = target->descriptor;
	else if (type == S_IFREG && is_log_file(file))
		target->source = WAGGLE_LOG_SOURCE_FILE;
	else if (type == S_IFIFO || type == S_IFCHR)
		target->source = source_of_inode(inode);
	if (!target->source)
		return 0;
	target->inode = BPF_CORE_READ(inode, i_ino);
	target->device = BPF_CORE_READ(inode, i_sb, s_dev);
	return target->source;
}

#endif
