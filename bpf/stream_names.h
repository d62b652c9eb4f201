/* SPDX-License-Identifier: Apache-2.0
 *
 * What streams are called in the memory of who begins or serves them, for connections of
 * which nobody knows the HPACK tables. A probe that knows the stream leaves its name here
 * (go_names.h); the stream's record takes it along when it ends.
 */
#ifndef WAGGLE_STREAM_NAMES_H
#define WAGGLE_STREAM_NAMES_H

#include "http2_maps.h"

#define NAME_PATH_MAX 127 /* a mask */
#define NAME_SHORT 63

/* exchange_key.reserved: what the key is of. A stream; a goroutine, with its process's
 * waggle_go.epoch; or a stream whose two ends are both here, by the span id of its client. */
enum name_place { NAME_OF_STREAM = 0, NAME_OF_GOROUTINE = 1, NAME_OF_HOP = 2 };

struct stream_name {
	u64 owner; /* whose: http2_connection.id (0: nobody had judged it yet); of a hop its span */
	u64 ns;	   /* when it was left */
	u32 stream;
	struct waggle_told told;
	u8 path[NAME_PATH_MAX + 1];
};

/* What is full forgets the name left longest ago: that one stays unknown. */
MAP(stream_names, BPF_MAP_TYPE_LRU_HASH, 4096, struct exchange_key, struct stream_name, 0);

/* Adds what is known of a stream's name behind `used` bytes of its record's head, which has
 * `size`. Returns how many bytes that took. The verifier wants a bound for each length. */
INLINE u32 add_name(u8 *head, u32 size, u64 used, const struct exchange_key *key, u64 owner)
{
	struct stream_name *name = bpf_map_lookup_elem(&stream_names, key);
	u32 length = name ? name->told.length & NAME_PATH_MAX : 0;

	asm volatile("" : "+r"(used)); /* or the compiler checks another register */
	if (!length || used > size - sizeof(name->told) - NAME_SHORT)
		return 0;
	bpf_probe_read_kernel(head + used, sizeof(name->told), &name->told);
	used += sizeof(name->told);
	if (length <= NAME_SHORT)
		bpf_probe_read_kernel(head + used, masked(length, NAME_SHORT), name->path);
	else if (used <= size - NAME_PATH_MAX)
		bpf_probe_read_kernel(head + used, masked(length, NAME_PATH_MAX), name->path);
	else
		return 0;
	/* Looked at last: it may have become another's while it was copied. */
	IN_THIS_ORDER();
	if (name->owner != owner || name->stream != key->index)
		return 0;
	return sizeof(name->told) + length;
}

/* The span of the client of a stream, if its other end is known to be here too. */
INLINE u64 hop_of(const struct waggle_facts *facts)
{
	if (facts->role == WAGGLE_ROLE_CLIENT)
		return load64(facts->span_id);
	return facts->link == WAGGLE_LINK_SOCKET ? load64(facts->parent_id) : 0;
}

/* The name is left for the other end of its stream. `name` is nobody else's yet. */
INLINE void share_name(struct stream_name *name, u64 hop)
{
	struct exchange_key key = { .sock = hop, .reserved = NAME_OF_HOP };

	if (!hop)
		return;
	name->owner = hop;
	name->stream = 0;
	name->told.as |= WAGGLE_TOLD_AS_PEERS;
	bpf_map_update_elem(&stream_names, &key, name, BPF_ANY);
	name->told.as &= ~WAGGLE_TOLD_AS_PEERS;
}

/* A record is about to leave, of no upgraded request: it gets its own name, or that which the
 * other end has for the same stream. */
INLINE void name_record(struct waggle_facts *facts, u8 *head, u32 size, struct exchange_key *key)
{
	struct waggle_http2 *http2 = (void *)head;
	u32 added = add_name(head, size, facts->http2_len, key, http2->connection);

	bpf_map_delete_elem(&stream_names, key);
	if (!added) {
		key->sock = hop_of(facts);
		key->index = 0;
		key->reserved = NAME_OF_HOP;
		added = add_name(head, size, facts->http2_len, key, key->sock);
	}
	http2->told_length = added;
	facts->http2_len += added;
}

#endif
