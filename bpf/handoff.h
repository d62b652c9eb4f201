/* SPDX-License-Identifier: Apache-2.0
 *
 * From one process to another on the same machine, by stream position: the
 * client's side leaves its ids under a key that the server's side computes from
 * its own socket. No byte on the wire changes and no address is in the key, so
 * it survives NAT, namespaces and connections older than the agent.
 *
 * TCP: (sender's first sequence number, receiver's, that of the request's first
 * byte). UNIX: (the receiver's socket, the sender's inode, bytes read before the
 * request).
 */
#ifndef WAGGLE_HANDOFF_H
#define WAGGLE_HANDOFF_H

#include "context.h"
#include "sampling.h"

#define HANDOFF_CLOCK_NS 1000000000ULL /* how fine last_handoff_ns is */
#define HANDOFF_QUIET_NS 60000000000LL /* no request waits longer to be read */

/* What is known of a request from before it came: it is part of that trace. */
INLINE void adopt(struct waggle_facts *facts, const struct trace_context *context, u8 link)
{
	copy_trace_id(facts->trace_id, context->trace_id);
	copy_span_id(facts->parent_id, context->span_id);
	facts->trace_flags = context->flags;
	facts->link = link;
	if (!(context->flags & 1))
		facts->flags |= WAGGLE_FLAG_UNSAMPLED;
	if (context->pending)
		facts->flags |= WAGGLE_FLAG_TRACE_PENDING;
}

/* The inode of a socket's descriptor, 0 before it has one: another for every socket,
 * while addresses come again. */
INLINE u64 inode_of(struct sock *sk)
{
	return BPF_CORE_READ(sk, sk_socket, file, f_inode, i_ino);
}

INLINE void handoff_key_of(struct handoff_key *key, const struct connection *connection, u64 sock,
			   u32 sent, u32 position)
{
	key->position = position;
	if (connection->family == AF_UNIX) {
		u64 receiver = sent ? connection->peer_sock : sock;

		struct sock *peer = (void *)connection->peer_sock;
		u32 sender = sent ? connection->inode : inode_of(peer);

		key->sender_base = receiver;
		key->receiver_base = receiver >> 32;
		key->kind = 1 | sender << 1;
		return;
	}
	key->sender_base = sent ? connection->sent_base : connection->received_base;
	key->receiver_base = sent ? connection->received_base : connection->sent_base;
	key->kind = 0;
}

/* The other end of a UNIX connection, null where nobody knows it. What we know under its address
 * may be of a socket that was there before. */
INLINE struct connection *other_end(const struct connection *connection, u64 sock)
{
	u64 address = connection->peer_sock;
	struct connection *other = bpf_map_lookup_elem(&connections, &address);

	if (!other || other->peer_sock != sock || other->inode != inode_of((void *)address))
		return 0;
	return other;
}

/* What is handed over of an exchange: its own ids, and how its trace was sampled. */
INLINE void hand_on(struct trace_context *handed, const struct waggle_facts *facts)
{
	copy_trace_id(handed->trace_id, facts->trace_id);
	copy_span_id(handed->span_id, facts->span_id);
	handed->flags = facts->trace_flags;
	handed->pending = !!(facts->flags & WAGGLE_FLAG_TRACE_PENDING);
	handed->sampling = inherited_sampling(facts->sampling);
}

/* The two ends of a UNIX connection count from when each was first seen. What is
 * between the counts shows when nothing else waits in the receiver's queue, and what
 * this call has put there (`own` buffers) still does: then the receiver has read exactly
 * up to where this call's bytes begin. One that was quicker may have counted them
 * already; a difference that is wrong by a request's length would hand this one's ids to
 * the next. So its count is taken first, and the queue looked at then. */
INLINE void unix_learn_delta(struct connection *connection, u64 sock, u32 own)
{
	struct sock *peer = (void *)connection->peer_sock;
	struct connection *other;
	u32 read;

	if (!peer)
		return;
	other = other_end(connection, sock);
	read = other ? *(volatile u32 *)&other->received.next : 0;
	if (BPF_CORE_READ(peer, sk_receive_queue.qlen) != own)
		return;
	connection->unix_delta = read - connection->sent.next;
	connection->flags |= CONNECTION_DELTA_KNOWN;
}

#define HANDOFF_WORDS 6 /* key, ids and flags */

/* Two programs that write or read one place at a time leave or find a mixture. */
INLINE u64 handoff_proof(const u8 *bytes)
{
	u64 proof = 0;

#pragma clang loop unroll(full)
	for (u32 i = 0; i < HANDOFF_WORDS; i++)
		proof ^= (load64(bytes + 8 * i) + i) * (0x9e3779b97f4a7c15ULL + 2 * i);
	return proof ^ proof >> 29;
}

/* A hash map with a list of what was used last would cost ten times as much. */
INLINE struct handoff_set *handoff_set_of(const struct handoff_key *key)
{
	u64 hash = (load64((const u8 *)key) ^ shape_seed) * 0x9e3779b97f4a7c15ULL;
	u32 index;

	hash = (hash ^ hash >> 32 ^ load64((const u8 *)key + 8)) * 0x9e3779b97f4a7c15ULL;
	index = (hash >> 32) * ((struct bpf_map *)&handoffs)->max_entries >> 32;
	return bpf_map_lookup_elem(&handoffs, &index);
}

INLINE int same_handoff(const struct handoff *way, const struct handoff_key *key)
{
	return load64((const u8 *)&way->key) == load64((const u8 *)key) &&
	       load64((const u8 *)&way->key + 8) == load64((const u8 *)key + 8);
}

/* Where what has the same key lies, else the oldest or a free place. */
INLINE struct handoff *place_for(struct handoff_set *set, const struct handoff_key *key)
{
	u64 oldest = ~0ULL, age;
	u32 place = 0;

#pragma clang loop unroll(full)
	for (u32 i = 0; i < HANDOFF_WAYS; i++) {
		age = same_handoff(&set->ways[i], key) ? 0 : set->ways[i].left_ns + 1;
		if (age < oldest) {
			oldest = age;
			place = i;
		}
	}
	return &set->ways[masked(place, HANDOFF_WAYS - 1)];
}

PROVEN_ONCE int leave_handoff(const struct connection *connection, u64 sock, u64 now, u32 position,
			      const struct waggle_facts *facts)
{
	struct handoff value = { .left_ns = now };
	struct handoff_set *set;

	if (!connection || !facts)
		return 0;
	value.trace_flags = facts->trace_flags;
	if (facts->flags & WAGGLE_FLAG_TRACE_PENDING)
		value.trace_flags |= HANDOFF_PENDING;
	if (sampling_mode & SAMPLING_ON)
		pack_sampling(&value, facts->sampling);
	if (connection->family == AF_UNIX) {
		if (!(connection->flags & CONNECTION_DELTA_KNOWN))
			return 0;
		position += connection->unix_delta;
	}
	handoff_key_of(&value.key, connection, sock, 1, position);
	copy_trace_id(value.trace_id, facts->trace_id);
	copy_span_id(value.span_id, facts->span_id);
	value.proof = handoff_proof((const u8 *)&value);
	set = handoff_set_of(&value.key);
	if (!set)
		return 0;
	*place_for(set, &value.key) = value;
	count(WAGGLE_COUNT_HANDOFF_LEFT);
	if (now - last_handoff_ns > HANDOFF_CLOCK_NS)
		last_handoff_ns = now;
	return 0;
}

/* Whether the other end must be on this machine, where hand-off finds it. */
INLINE int stays_here(const struct waggle_facts *facts)
{
	u64 peer_low = load64(facts->peer_addr + 8);

	if (load64(facts->peer_addr) == load64(facts->local_addr) &&
	    peer_low == load64(facts->local_addr + 8))
		return 1;
	/* 127.0.0.0/8 */
	return !load64(facts->peer_addr) && (peer_low & 0xffffffffffULL) == 0x7fffff0000ULL;
}

/* For another machine: what the segment shall bear that begins at `position` (tcp_option.h). */
INLINE void offer_option(struct connection *connection, u64 now, u32 position,
			 const struct waggle_facts *facts)
{
	struct offered_option *option = &connection->option;

	if (!tcp_option_on || connection->family == AF_UNIX || stays_here(facts))
		return;
	/* Of several requests in one call only the first can begin a segment. */
	if (option->call_ns == now && option->state == OPTION_OFFERED) {
		count(WAGGLE_COUNT_OPTION_NOT_SENT);
		return;
	}
	option->state = OPTION_NONE;
	option->call_ns = now;
	if (facts->flags & WAGGLE_FLAG_TRACE_PENDING) {
		count(WAGGLE_COUNT_OPTION_PENDING);
		return;
	}
	option->position = position;
	option->tries = 0;
	option->sampled = facts->trace_flags & TRACE_FLAG_SAMPLED;
	copy_trace_id(option->ids, facts->trace_id);
	copy_span_id(option->ids + 16, facts->span_id);
	option->state = OPTION_OFFERED;
}

/* Takes what lies at a place, if it is what the key says. */
INLINE int take_way(struct handoff *way, const struct handoff_key *key,
		    struct trace_context *context)
{
	struct handoff found;

	if (!same_handoff(way, key) || !way->left_ns)
		return 0;
	found = *(volatile struct handoff *)way; /* what is proven is what is used */
	if (found.proof != handoff_proof((const u8 *)&found))
		return 0;
	way->left_ns = 0;
	copy_trace_id(context->trace_id, found.trace_id);
	copy_span_id(context->span_id, found.span_id);
	context->flags = found.trace_flags;
	context->pending = !!(found.trace_flags & HANDOFF_PENDING);
	context->link = found.trace_flags & HANDOFF_OPTION ? WAGGLE_LINK_OPTION : WAGGLE_LINK_SOCKET;
	context->undecided = 0;
	context->random = 0;
	context->sampling = sampling_mode & SAMPLING_ON ? unpack_sampling(&found) : 0;
	context->valid = 1;
	return 1;
}

/* Returns 1 when there was one. expected: where there is none, that is counted too. */
PROVEN_ONCE int find_handoff(const struct connection *connection, u64 sock, u32 position,
			     struct trace_context *context, u32 expected)
{
	struct handoff_key key __attribute__((aligned(8)));
	struct handoff_set *set;

	if (!connection || !context)
		return 0;
	context->valid = 0;
	handoff_key_of(&key, connection, sock, 0, position);
	set = handoff_set_of(&key);
	if (!set)
		return 0;
#pragma clang loop unroll(full)
	for (u32 i = 0; i < HANDOFF_WAYS; i++)
		if (take_way(&set->ways[i], &key, context))
			break;
	if (context->valid)
		count(WAGGLE_COUNT_HANDOFF_FOUND);
	else if (expected)
		count(WAGGLE_COUNT_HANDOFF_MISSED);
	return context->valid;
}

INLINE int take_handoff(const struct connection *connection, u64 sock, u64 now, u32 position,
			struct trace_context *context)
{
	context->valid = 0;
	if (!last_handoff_ns || (s64)(now - last_handoff_ns) > HANDOFF_QUIET_NS)
		return 0;
	return find_handoff(connection, sock, position, context, 1);
}

#endif
