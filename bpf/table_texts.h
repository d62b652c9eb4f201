/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory of noted_texts.h, and what a request says in one of these formats.
 */
#ifndef WAGGLE_TABLE_TEXTS_H
#define WAGGLE_TABLE_TEXTS_H

#include "http1_exchange.h"
#include "http2_maps.h"
#include "noted_texts.h"

/* A few entries where nobody looks for such a format. */
MAP(table_texts, BPF_MAP_TYPE_LRU_HASH, 8192, struct table_text_key, struct table_text, 0);

INLINE struct table_text *known_text(const struct table_text_key *key)
{
	return bpf_map_lookup_elem(&table_texts, key);
}

INLINE void know_text(const struct table_text_key *key, const struct table_text *text)
{
	struct table_text *blank = BLANK(struct table_text), *entry;

	/* Before 6.2 memory that came as an argument cannot be given to an update. */
	if (!blank || bpf_map_update_elem(&table_texts, key, blank, BPF_ANY))
		return;
	entry = bpf_map_lookup_elem(&table_texts, key);
	if (entry)
		bpf_probe_read_kernel(entry, sizeof(*entry), text);
}

/* A block of the client's has fields that hold a context: their values into the head. */
PROVEN_ONCE int take_texts(const struct http2_connection *http2, struct http2_scratch *scratch,
			   struct http1_head *head)
{
	struct noted_walk walk = { .head = head };

	if (!http2 || !scratch || !head)
		return 0;
	no_texts(head);
	/* Once epochs are not counted any more, numbers say nothing. */
	if (scratch->given.bad || scratch->given.epoch >= UNCOUNTED_EPOCH)
		return 0;
	walk.block = &scratch->block;
	walk.key.connection = http2->id;
	walk.key.epoch = scratch->given.epoch;
	read_noted(&walk);
	return 0;
}

/* Where a format is stronger than traceparent, or there is no valid one of that in `header`:
 * the strongest of which the head has a valid one, into `header`. */
PROVEN_ONCE int stronger_context(struct http1_head *head, struct trace_context *found,
				 struct hex_walk *walk, struct trace_context *header)
{
	if (!head || !found || !walk || !header || !head->has_contexts)
		return 0;
	head->traceparent = 0;
	found->valid = 0;
	found->pending = 0;
#pragma clang loop unroll(full)
	for (u32 rank = 1; rank <= FORMATS; rank++) {
		if (rank == rank_of_tracecontext && header->valid)
			return 0;
		if (rank == rank_of_trace_bin && head->contexts[HTTP1_TRACE_BIN].at)
			read_trace_bin(head, found);
		else
			read_format(rank, head, found, walk);
		if (!found->valid)
			continue;
		*header = *found;
		return 1;
	}
	return 0;
}

#endif
