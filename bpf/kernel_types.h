/* SPDX-License-Identifier: Apache-2.0
 *
 * The few fields of the kernel's structs that Waggle reads. CO-RE finds each by
 * name in the running kernel's BTF, so a field's place here means nothing, and
 * no vmlinux.h of one particular kernel is needed to build.
 */
#ifndef WAGGLE_KERNEL_TYPES_H
#define WAGGLE_KERNEL_TYPES_H

#include "portable.h"

#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define IPPROTO_TCP 6
#define TCP_SYN_SENT 2
#define TCP_LISTEN 10
#define RCV_SHUTDOWN 1
#define MSG_OOB 1
#define MSG_PEEK 2
#define MSG_TRUNC 0x20
#define MSG_DONTWAIT 0x40
#define MSG_ERRQUEUE 0x2000
#define O_NONBLOCK 04000
#define S_IFMT 0170000
#define S_IFSOCK 0140000

#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wpadded" /* these are not our layouts */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct in6_addr {
	u8 in6_u[16];
};

struct sock_common {
	u32 skc_daddr;
	u32 skc_rcv_saddr;
	u16 skc_dport;
	u16 skc_num;
	u16 skc_family;
	volatile unsigned char skc_state;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	unsigned long skc_flags;
};

struct sk_buff {
	unsigned int len;
	unsigned int data_len;
	unsigned char *data;
};

struct sk_buff_head {
	struct sk_buff *prev;
	u32 qlen;
};

struct qstr {
	unsigned int len;
	const unsigned char *name;
};

struct dentry {
	struct qstr d_name;
};

struct path {
	struct dentry *dentry;
};

struct file {
	unsigned int f_flags;
	struct path f_path;
	void *private_data;
	struct inode *f_inode;
};

struct super_block {
	unsigned int s_dev;
};

struct inode {
	unsigned short i_mode;
	unsigned int i_rdev;
	struct super_block *i_sb;
	unsigned long i_ino;
};

struct socket {
	short type;
	struct file *file;
	struct sock *sk;
};

struct sock {
	struct sock_common __sk_common;
	struct sk_buff_head sk_receive_queue;
	struct socket *sk_socket;
	int sk_err;
	int sk_sndbuf;
	int sk_wmem_queued;
	u8 sk_shutdown;
	u16 sk_type;
	u16 sk_protocol;
};

enum sock_flags { SOCK_DONE = 1, SOCK_ZEROCOPY = 25 };

struct page {
	unsigned long flags;
};

struct bio_vec {
	struct page *bv_page;
	unsigned int bv_len;
	unsigned int bv_offset;
};

struct scatterlist {
	unsigned long page_link;
	unsigned int offset;
	unsigned int length;
};

struct sk_msg_sg {
	u32 start;
	struct scatterlist data[19];
};

struct sk_msg {
	struct sk_msg_sg sg;
};

struct tcp_sock {
	u32 snd_nxt;
	u32 rcv_nxt;
	u32 write_seq;
	u32 copied_seq;
	u32 mss_cache;
	u64 bytes_sent;
	u64 bytes_retrans;
	u64 bytes_received;
	u8 bpf_sock_ops_cb_flags;
	u8 nonagle : 4;
};

struct bpf_iter__tcp {
	struct sock_common *sk_common;
};

struct bpf_iter__task {
	struct task_struct *task;
};

struct sockaddr_un {
	unsigned short sun_family;
	char sun_path[108];
};

struct unix_address {
	int len;
	struct sockaddr_un name[0];
};

struct unix_sock {
	struct unix_address *addr;
	struct sock *peer;
};

struct iovec {
	void *iov_base;
	u64 iov_len;
};

struct iov_iter {
	u8 iter_type;
	u64 iov_offset;
	u64 count;
	const struct iovec *__iov; /* 6.4 */
	void *ubuf;		   /* 6.0 */
	const struct bio_vec *bvec;
	u64 nr_segs;
};

struct iov_iter___before_6_4 {
	const struct iovec *iov;
};

struct msghdr {
	struct iov_iter msg_iter;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct atomic {
	int counter;
};

struct signal_struct {
	struct atomic live;
};

struct thread_struct {
	unsigned long fsbase;
};

struct mm_struct {
	unsigned long start_code;
	unsigned long end_code;
};

struct task_struct {
	int pid;
	int tgid;
	u64 start_boottime;
	unsigned long nvcsw;
	struct mm_struct *mm;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct files_struct *files;
	struct signal_struct *signal;
	void *io_uring;
	char comm[16];
	struct thread_struct thread;
};

struct bpf_map {
	u32 max_entries;
};

struct pt_regs {
	unsigned long r14;
	unsigned long r10;
	unsigned long r9;
	unsigned long r8;
	unsigned long bx;
	unsigned long cx;
	unsigned long dx;
	unsigned long si;
	unsigned long di;
	unsigned long ax;
	unsigned long orig_ax;
	unsigned long sp;
	unsigned long flags;
};

enum iter_type { ITER_UBUF = 0, ITER_IOVEC = 1, ITER_BVEC = 2 };

#pragma clang attribute pop
#pragma clang diagnostic pop

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_endian.h>

#endif
