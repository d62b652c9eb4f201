/* SPDX-License-Identifier: Apache-2.0
 *
 * The plain side of Go's crypto/tls, at instructions that the kernel emulates and without
 * a return probe, which Go does not survive: what is read is seen where it is copied to
 * whoever asked (the one call of memmove in (*Conn).Read), what is written at the entry.
 * The connection's descriptor is in the tls.Conn itself.
 */
#ifndef WAGGLE_GO_TLS_H
#define WAGGLE_GO_TLS_H

#include "go_sockets.h"
#include "tls_probes.h"

struct go_read_key {
	u64 goid;
	u32 epoch; /* of the process */
	u32 reserved;
};

/* The tls.Conn that a goroutine reads from. A goroutine may wait in there and go on on
 * another thread. */
MAP(go_tls_reads, BPF_MAP_TYPE_LRU_HASH, 16384, struct go_read_key, u64, 0);

/* The current thread has plaintext of a tls.Conn at hand. */
INLINE void go_plaintext(struct pt_regs *registers, const struct waggle_go *go, u64 conn,
			 u64 buffer, u64 length, u32 kind)
{
	struct tls_thread *thread;
	u32 mode = traced_mode();

	if (!mode || !conn || !length || length > 0x7fffffff)
		return;
	thread = tls_thread_here(BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!thread)
		return;
	thread->sock = socket_of_conn(go, conn);
	if (!thread->sock)
		return;
	thread->ssl = conn;
	thread->buffer = buffer;
	thread->result = 0;
	thread->length = length;
	thread->layout = 0;
	thread->epoch = go->epoch;
	thread->mode = mode;
	thread->kind = kind;
	bpf_tail_call(registers, &behind_tls, 0);
	thread->ssl = 0;
}

/* crypto/tls.(*Conn).Write(conn, bytes). */
SEC("uprobe")
int go_tls_write(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();

	/* Whoever jumps here comes again, and must not be heard twice. */
	if (go && !go_jumps(registers))
		go_plaintext(registers, go, GO_ARGUMENT_0(registers), GO_ARGUMENT_1(registers),
			     GO_ARGUMENT_2(registers), TLS_WROTE_ALL);
	return 0;
}

/* crypto/tls.(*Conn).Read(conn, bytes). */
SEC("uprobe")
int go_tls_read(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 conn = GO_ARGUMENT_0(registers);
	struct go_read_key key = {};

	if (!go)
		return 0;
	key.goid = current_goid(go);
	key.epoch = go->epoch;
	if (key.goid)
		bpf_map_update_elem(&go_tls_reads, &key, &conn, BPF_ANY);
	return 0;
}

/* The call of runtime.memmove(to, from, bytes) there. */
SEC("uprobe")
int go_tls_did_read(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	struct go_read_key key = {};
	u64 *conn;

	if (!go)
		return 0;
	key.goid = current_goid(go);
	key.epoch = go->epoch;
	conn = key.goid ? bpf_map_lookup_elem(&go_tls_reads, &key) : 0;
	if (conn)
		go_plaintext(registers, go, *conn, GO_ARGUMENT_1(registers),
			     GO_ARGUMENT_2(registers), TLS_READS);
	return 0;
}

#endif
