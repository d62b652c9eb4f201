/* SPDX-License-Identifier: Apache-2.0
 *
 * The plain side: probes on functions of TLS libraries that are given plaintext or give it
 * (probes/tls). They note the call; what is at hand is tls_plaintext.h's, behind a tail call.
 */
#ifndef WAGGLE_TLS_PROBES_H
#define WAGGLE_TLS_PROBES_H

#include "tls_session.h"

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(u32));
	__uint(value_size, sizeof(u32));
} behind_tls SEC(".maps"); /* user space puts tls_call there */

SEC("uprobe")
int tls_write(struct pt_regs *registers)
{
	struct tls_thread *thread = enter_tls(registers, TLS_WRITES);

	if (thread && (s32)thread->length > 0)
		bpf_tail_call(registers, &behind_tls, 0);
	return 0;
}

/* Not all of it was written: what was given is given again. */
INLINE void keep_ahead(struct tls_thread *thread, u32 result)
{
	struct tls_session_key key;
	struct tls_session *session;

	session_key_of(&key, thread->ssl);
	session = bpf_map_lookup_elem(&tls_sessions, &key);
	if (!session)
		return;
	if (thread->ahead > result)
		session->ahead = thread->ahead - result;
	if (result && thread->unplaced)
		lose_plaintext(session);
}

SEC("uprobe")
int tls_wrote(struct pt_regs *registers)
{
	struct tls_thread *thread = tls_thread_here(0);
	u32 result;

	if (!thread || !thread->ssl)
		return 0;
	result = tls_result(thread, registers);
	if ((thread->ahead && thread->ahead != result) || thread->unplaced)
		keep_ahead(thread, result);
	thread->ssl = 0;
	return 0;
}

SEC("uprobe")
int tls_read(struct pt_regs *registers)
{
	struct tls_thread *thread = enter_tls(registers, TLS_READS);
	struct tls_session_key key;
	struct tls_session *session;

	if (!thread)
		return 0;
	/* Many ask until there is nothing more. */
	if (thread->last == thread->ssl) {
		thread->last = 0;
		return 0;
	}
	session_key_of(&key, thread->ssl);
	session = bpf_map_lookup_elem(&tls_sessions, &key);
	if (session && session->sock && session->epoch == thread->epoch)
		return 0;
	thread->kind = TLS_SHAKES; /* for now: only to find its connection */
	bpf_tail_call(registers, &behind_tls, 0);
	return 0;
}

/* The object asks for more: what its connection has received, but for a record that is not
 * whole, has been read. */
INLINE void has_read_all(struct tls_thread *thread)
{
	struct tls_session_key key;
	struct tls_session *session;
	struct tls_connection *tls;

	session_key_of(&key, thread->ssl);
	session = bpf_map_lookup_elem(&tls_sessions, &key);
	tls = session ? tls_of(session->sock) : 0;
	if (!tls || tls->ssl != key.ssl)
		return;
	tls->taken = tls->received - (tls->walk[RECEIVED].remain ? 1 : 0);
	tls->read_left = 0;
	tls->unsure = 0;
	thread->unsure = 0;
}

SEC("uprobe")
int tls_did_read(struct pt_regs *registers)
{
	struct tls_thread *thread = tls_thread_here(0);

	if (!thread || !thread->ssl)
		return 0;
	thread->kind = TLS_READS;
	thread->length = tls_result(thread, registers);
	if (thread->length)
		bpf_tail_call(registers, &behind_tls, 0);
	if (thread->unsure == thread->ssl)
		has_read_all(thread);
	thread->ssl = 0;
	return 0;
}

SEC("uprobe")
int tls_handshake(struct pt_regs *registers)
{
	if (enter_tls(registers, TLS_SHAKES))
		bpf_tail_call(registers, &behind_tls, 0);
	return 0;
}

SEC("uprobe")
int tls_shook(struct pt_regs *registers)
{
	struct tls_thread *thread = tls_thread_here(0);

	if (thread)
		thread->ssl = 0;
	return 0;
}

/* SSL_free: soon its address is another's. */
SEC("uprobe")
int tls_free(struct pt_regs *registers)
{
	struct tls_session_key key;

	session_key_of(&key, registers->di);
	bpf_map_delete_elem(&tls_sessions, &key);
	return 0;
}

#endif
