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

/* exchange_key.reserved: the key is a stream's, or a goroutine and its process's waggle_go.epoch. */
enum name_place { NAME_OF_STREAM = 0, NAME_OF_GOROUTINE = 1 };

struct stream_name {
	u64 connection; /* http2_connection.id; 0: of a connection that nobody had judged yet */
	u64 ns;		/* when it was left */
	u32 stream;
	struct waggle_told told;
	u8 path[NAME_PATH_MAX + 1];
};

/* What is full forgets the name left longest ago: that one stays unknown. */
MAP(stream_names, BPF_MAP_TYPE_LRU_HASH, 4096, struct exchange_key, struct stream_name, 0);

/* Adds what is known of a stream's name behind `used` bytes of its record's head, which has
 * `size`. Returns how many bytes that took. The verifier wants a bound for each length. */
INLINE u32 add_name(u8 *head, u32 size, u64 used, const struct exchange_key *key)
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
	if (name->connection != ((const struct waggle_http2 *)head)->connection ||
	    name->stream != key->index)
		return 0;
	return sizeof(name->told) + length;
}

/* The same for a record that is about to leave: one of no upgraded request. */
INLINE void name_record(struct waggle_facts *facts, u8 *head, u32 size,
			const struct exchange_key *key)
{
	u32 added = add_name(head, size, facts->http2_len, key);

	((struct waggle_http2 *)head)->told_length = added;
	facts->http2_len += added;
	bpf_map_delete_elem(&stream_names, key);
}

#endif
