/* SPDX-License-Identifier: Apache-2.0
 *
 * Objects of TLS libraries (OpenSSL's SSL), and threads that are in a function of one: what is
 * kept of a session, and of a call while it lasts.
 */
#ifndef WAGGLE_TLS_SESSION_H
#define WAGGLE_TLS_SESSION_H

#include "tls_maps.h"
#include "user_memory.h"

OUT_OF_LINE struct tls_session *tls_session_of(const struct tls_session_key *key, u32 epoch)
{
	struct tls_session fresh = { .epoch = epoch };
	struct tls_session *session = bpf_map_lookup_elem(&tls_sessions, key);

	if (session && session->epoch == epoch)
		return session;
	/* While there were no probes, nobody knows what was said. */
	fresh.missed = !!session;
	fresh.seen_ns = bpf_ktime_get_ns();
	if (session) {
		*session = fresh;
		return session;
	}
	/* Another thread may just have made it: what it wrote there must not go elsewhere. */
	bpf_map_update_elem(&tls_sessions, key, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&tls_sessions, key);
}

INLINE void session_key_of(struct tls_session_key *key, u64 ssl)
{
	key->ssl = ssl;
	key->tgid = bpf_get_current_pid_tgid() >> 32;
	key->reserved = 0;
}

/* What is known of an SSL in the current process. */
INLINE struct tls_session *find_session(u64 ssl)
{
	struct tls_session_key key;

	session_key_of(&key, ssl);
	return bpf_map_lookup_elem(&tls_sessions, &key);
}

/* The other session's plaintext is this one's ciphertext: neither is what it seems. */
INLINE void mark_nested(u64 ssl)
{
	struct tls_session *session = find_session(ssl);

	if (session)
		session->nested = 1;
}

/* What it says now, nobody hears. */
INLINE void mark_missed(u64 ssl)
{
	struct tls_session *session = find_session(ssl);

	if (session)
		session->missed = 1;
}

/* What passes now has no place. */
INLINE void lose_plaintext(struct tls_session *session)
{
	session->missed = 1;
	count(WAGGLE_COUNT_LOST_TLS_UNBOUND);
}

/* The thread enters a function. Returns what is kept of it. */
INLINE struct tls_thread *enter_tls(struct pt_regs *registers, u32 kind)
{
	u64 cookie, stack = registers->sp;
	struct tls_thread *thread = tls_thread_here(BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!thread)
		return 0;
	cookie = bpf_get_attach_cookie(registers);
	if (thread->ssl && thread->ssl != registers->di && stack < thread->stack)
		mark_nested(thread->ssl);
	thread->ssl = registers->di;
	thread->buffer = registers->si;
	thread->length = cookie & TLS_RESULT_IS_COUNT ? (u32)registers->dx :
			 registers->dx > 0x7fffffff	 ? 0x7fffffff :
							   (u32)registers->dx;
	thread->result = cookie & TLS_RESULT_IS_COUNT ? 0 : registers->cx;
	thread->stack = stack;
	thread->sock = 0;
	thread->unplaced = 0;
	thread->ahead = 0;
	thread->from = 0;
	thread->layout = cookie & (TLS_LAYOUTS - 1);
	thread->epoch = cookie >> TLS_EPOCH_SHIFT;
	thread->mode = 0; /* not asked for yet */
	thread->kind = kind;
	return thread;
}

/* The function returns: how many bytes, 0 for none. */
INLINE u32 tls_result(const struct tls_thread *thread, struct pt_regs *registers)
{
	s32 result = registers->ax;

	if (result <= 0)
		return 0;
	return thread->result ? (u32)word_at(thread->result) : (u32)result;
}

#endif
