/* SPDX-License-Identifier: Apache-2.0
 *
 * Which sampling rules are for the path of a stream. A path that is told as a string is
 * compared; what came of it is remembered under the number of the table's entry that it
 * becomes, for the streams that only repeat that entry.
 */
#ifndef WAGGLE_STREAM_PATHS_H
#define WAGGLE_STREAM_PATHS_H

#include "hpack_path.h"
#include "http2_maps.h"
#include "sampling.h"

struct stream_path_walk {
	const struct hpack_block *block;
	u32 rules;
	u32 reserved;
};

static long stream_path_step(u32 index, void *context)
{
	struct stream_path_walk *walk = context;
	const struct hpack_walk *told = &walk->block->walk;
	struct waggle_sample_rule *rule;
	u32 number = index + 1, suits;

	rule = bpf_map_lookup_elem(&sample_rules, &number);
	if (!rule)
		return 1;
	suits = rule->static_paths >> (told->path_static & 31) & 1;
	if (told->path)
		suits = hpack_path_suits(rule, walk->block, told->path, told->path_len,
					 told->path_coded);
	walk->rules |= suits << (number & 31);
	return 0;
}

struct repeated_walk {
	const struct hpack_walk *told;
	struct stream_path_key key;
	u32 rules;
	u32 reserved;
};

static long repeated_step(u32 index, void *context)
{
	struct repeated_walk *walk = context;
	u32 *rules;

	if (index >= walk->told->repeats)
		return 1;
	walk->key.entry = walk->told->repeated[masked(index, HPACK_REPEATED - 1)];
	rules = bpf_map_lookup_elem(&stream_paths, &walk->key);
	if (!rules)
		return 0;
	walk->rules = *rules;
	return 1;
}

/* One bit for each rule whose path the block at hand names. None where nobody knows its
 * path: it repeats an entry older than the agent. */
PROVEN_ONCE u32 stream_path_rules(const struct http2_connection *http2,
				  const struct http2_side *side, const struct hpack_block *block)
{
	struct stream_path_walk said = { .block = block };
	struct repeated_walk walk = {};
	const struct hpack_walk *told;

	if (!http2 || !side || !block)
		return 0;
	told = &block->walk;
	walk.told = told;
	walk.key.connection = http2->id;
	walk.key.epoch = side->epoch;
	if (told->path || told->path_static) {
		LOOP(WAGGLE_SAMPLE_RULES - 1, stream_path_step, &said);
		walk.key.entry = told->path_entry;
		/* Numbers begin again with each epoch, as long as these are counted. */
		if (told->path && told->path_entry && side->epoch < 255)
			bpf_map_update_elem(&stream_paths, &walk.key, &said.rules, BPF_ANY);
		return said.rules;
	}
	LOOP(HPACK_REPEATED, repeated_step, &walk);
	return walk.rules;
}

#endif
