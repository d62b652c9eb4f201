/* SPDX-License-Identifier: Apache-2.0
 *
 * How an encrypted connection came about, told once: with its first exchange.
 */
#ifndef WAGGLE_TLS_HANDSHAKE_H
#define WAGGLE_TLS_HANDSHAKE_H

#include "http1.h"
#include "tls_maps.h"

const volatile u32 handshake_rate = 100; /* a second: spans with events leave one by one */

/* What the client's greeting calls the server becomes a kept field, behind the others. */
PROVEN_ONCE int keep_server_name(struct http1_head *head, const struct tls_connection *tls)
{
	u32 used;

	if (!head || !tls || !tls->name_length || head->out_used > HTTP1_OUT_MAX - 4 - TLS_NAME_MAX)
		return 0;
	used = head->out_used;
	store32(head->out + masked(used, HTTP1_OUT_MASK),
		WAGGLE_KEPT_HOST | tls->name_length << 16);
	copy_words(head->out + masked(used + 4, HTTP1_OUT_MASK), tls->name, TLS_NAME_MAX);
	head->out_used = used + 4 + tls->name_length;
	head->names_host = 1;
	return 0;
}

/* A request that does not say for whom it is. */
INLINE void name_server(struct http1_head *head, u64 sock)
{
	struct tls_connection *tls = head->names_host ? 0 : tls_of(sock);

	if (tls)
		keep_server_name(head, tls);
}

/* connect() of a traced process, and its success. */
INLINE void note_connecting(u64 sock)
{
	struct tls_connect fresh = { .connect_ns = bpf_ktime_get_ns() };

	bpf_map_update_elem(&tls_connects, &sock, &fresh, BPF_ANY);
}

INLINE void note_connected(u64 sock)
{
	struct tls_connect *connect = bpf_map_lookup_elem(&tls_connects, &sock);

	if (connect)
		connect->connected_ns = bpf_ktime_get_ns();
}

/* A client has greeted. */
INLINE void take_connect(struct tls_connection *tls, u64 sock)
{
	struct tls_connect *connect = bpf_map_lookup_elem(&tls_connects, &sock);

	if (!connect)
		return;
	tls->connect_ns = connect->connect_ns;
	tls->connected_ns = connect->connected_ns;
	bpf_map_delete_elem(&tls_connects, &sock);
}

INLINE void fill_handshake(struct waggle_handshake *told, const struct waggle_facts *facts,
			   const struct tls_connection *tls)
{
	__builtin_memset(told, 0, sizeof(*told));
	copy_span_id(told->span_id, facts->span_id);
	told->connect_ns = tls->connect_ns;
	told->connected_ns = tls->connected_ns;
	told->hello_ns = tls->seen_ns;
	told->done_ns = tls->done_ns;
	told->version = tls->version;
	told->name_length = tls->name_length;
	told->protocol_length = tls->protocol_length;
	copy_words(told->name, tls->name, TLS_NAME_MAX);
	told->not_after_length = tls->not_after_length;
	copy_words(told->protocol, tls->protocol, TLS_PROTOCOL_MAX);
	copy_words(told->not_after, tls->not_after, WAGGLE_NOT_AFTER);
}

/* The exchange has its ids: is it the first of a connection that began before our eyes? */
PROVEN_ONCE int tell_handshake(const struct waggle_facts *facts, u64 sock)
{
	struct tls_connection *tls = tls_of(sock);
	struct waggle_handshake *told;

	if (!facts || !tls || tls->told || !tls->role)
		return 0;
	tls->told = 1;
	if (facts->flags & WAGGLE_FLAG_UNSAMPLED)
		return 0;
	if (!within_budget(TLS_BUDGET_HANDSHAKES, handshake_rate)) {
		count(WAGGLE_COUNT_LOST_HANDSHAKE_RATE);
		return 0;
	}
	told = bpf_ringbuf_reserve(&handshake_ring, sizeof(*told), 0);
	if (!told) {
		count(WAGGLE_COUNT_LOST_HANDSHAKE_RING_FULL);
		return 0;
	}
	fill_handshake(told, facts, tls);
	bpf_ringbuf_submit(told, BPF_RB_NO_WAKEUP);
	return 0;
}

#endif
