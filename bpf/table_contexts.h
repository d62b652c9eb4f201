/* SPDX-License-Identifier: Apache-2.0
 *
 * A `traceparent` that a client repeats from its HPACK table. The kernel has no table, but
 * remembers of the latest entries those that are one, by their numbers.
 */
#ifndef WAGGLE_TABLE_CONTEXTS_H
#define WAGGLE_TABLE_CONTEXTS_H

#include "http2_maps.h"

#define UNCOUNTED_EPOCH 255 /* shared by all further ones: numbers say nothing */

INLINE void keep_entry(struct table_context *kept, const struct trace_context *context, u32 entry,
		       u8 epoch)
{
	kept->entry = context->valid ? entry : 0;
	kept->epoch = epoch;
	kept->flags = context->flags;
	copy_words(kept->trace_id, context->trace_id, 16);
	copy_words(kept->span_id, context->span_id, 8);
}

INLINE void repeat_entry(const struct table_context *kept, struct trace_context *context)
{
	context->link = WAGGLE_LINK_TRACEPARENT;
	context->flags = kept->flags;
	context->undecided = 0;
	context->pending = 0;
	context->sampling = 0;
	context->random = 0;
	copy_words(context->trace_id, kept->trace_id, 16);
	copy_words(context->span_id, kept->span_id, 8);
	context->valid = 1;
}

/* The block has one traceparent: one that has become an entry, with its value read into
 * block->context, or one that repeats an entry, whose value goes there. */
PROVEN_ONCE int turn_to_entry(struct http2_connection *http2, struct hpack_block *block, u32 epoch)
{
	struct table_context *kept;
	struct hpack_walk *walk;
	u32 entry;

	if (!http2 || !block || epoch >= UNCOUNTED_EPOCH)
		return 0;
	walk = &block->walk;
	entry = walk->traceparent_entry;
	if (walk->bad || walk->traceparents != 1)
		return 0;
	kept = &http2->contexts[masked(entry, HTTP2_CONTEXTS - 1)];
	if (walk->traceparent) {
		keep_entry(kept, &block->context, entry, epoch);
	} else if (kept->entry == entry && kept->epoch == epoch) {
		repeat_entry(kept, &block->context);
		count(WAGGLE_COUNT_TRACEPARENT_READ);
	}
	return 0;
}

#endif
