/* SPDX-License-Identifier: Apache-2.0
 *
 * Is this trace recorded? Decided once, where the trace begins, before any other program
 * is told of it, so that the flag which leaves is true. By consistent probability
 * (OpenTelemetry, "TraceState: Probability Sampling"): a trace whose random number, the
 * last 56 bits of its id, is not below the threshold is kept. User space chooses the
 * thresholds and may change them at any time.
 */
#ifndef WAGGLE_SAMPLING_H
#define WAGGLE_SAMPLING_H

#include "feed.h"
#include "tracestate.h"

/* Bits of sampling_mode. */
enum sampling_mode {
	SAMPLING_ON = 1,
	SAMPLING_INDEPENDENT = 2, /* also where the caller has decided: not parentbased_ */
	SAMPLING_BY_RULES = 4,	  /* there are others than rule 0 */
	SAMPLING_BY_PATHS = 8,	  /* some of which ask for a path */
};

struct rule_walk {
	const struct http1_head *head; /* whose `out` begins with the target */
	u32 length;		       /* of it, 0 where it is not known */
	u32 allowed;
	u32 found;
	u32 suitable; /* of a stream of HTTP/2: the rules whose path it has */
};

static long rule_step(u32 index, void *context)
{
	struct rule_walk *walk = context;
	struct waggle_sample_rule *rule;
	u32 number = index + 1;
	u64 differs = 0;

	if (!(walk->allowed >> (number & 31) & 1))
		return 0;
	rule = bpf_map_lookup_elem(&sample_rules, &number);
	if (!rule)
		return 1;
	if (walk->suitable >> (number & 31) & 1) {
		walk->found = number;
		return 1;
	}
#pragma clang loop unroll(full)
	for (u32 at = 0; at < WAGGLE_SAMPLE_PATH; at += 8)
		differs |= (load64(walk->head->out + at) ^ load64(rule->path + at)) &
			   load64(rule->mask + at);
	if (differs || walk->length < rule->path_len)
		return 0;
	if (rule->exact && walk->length > rule->path_len &&
	    walk->head->out[masked(rule->path_len, 2 * WAGGLE_SAMPLE_PATH - 1)] != '?')
		return 0;
	walk->found = number;
	return 1;
}

/* The number of the first rule for this request of this process. */
INLINE u32 rule_for(const struct http1_head *head, const struct waggle_facts *facts)
{
	struct rule_walk walk = { .head = head, .length = facts->target_len };
	u32 tgid = facts->tgid;
	struct waggle_process *process = bpf_map_lookup_elem(&processes, &tgid);

	walk.allowed = process ? process->sample_rules : 0;
	if (!walk.allowed)
		walk.allowed = sample_rules_for_all;
	if (facts->protocol == WAGGLE_PROTOCOL_HTTP2)
		walk.suitable = head->suitable_rules;
	if (walk.allowed)
		LOOP(WAGGLE_SAMPLE_RULES - 1, rule_step, &walk);
	return walk.found;
}

/* Decides about the trace of `facts`. random: 0 for the trace id's own. */
PROVEN_ONCE int sample(const struct http1_head *head, struct waggle_facts *facts, u64 random)
{
	struct waggle_sample_rule *rule;
	u64 threshold;
	u32 number = 0;

	if (!head || !facts)
		return 0;
	if (sampling_mode & SAMPLING_BY_RULES)
		number = rule_for(head, facts);
	rule = bpf_map_lookup_elem(&sample_rules, &number);
	if (!rule)
		return 0;
	threshold = rule->threshold;
	random = random ? random & WAGGLE_THRESHOLD_MASK : randomness_of(facts->trace_id);
	facts->sampling = (u64)WAGGLE_SAMPLING_HERE << WAGGLE_SAMPLING_SHIFT |
			  (u64)number << WAGGLE_SAMPLING_RULE_SHIFT;
	facts->trace_flags &= ~TRACE_FLAG_SAMPLED;
	facts->flags &= ~WAGGLE_FLAG_UNSAMPLED;
	if (random >= threshold) {
		facts->trace_flags |= TRACE_FLAG_SAMPLED;
		facts->sampling |= threshold |
				   (u64)WAGGLE_SAMPLING_KNOWN << WAGGLE_SAMPLING_SHIFT;
	} else {
		facts->flags |= WAGGLE_FLAG_UNSAMPLED;
	}
	if (facts->link != WAGGLE_LINK_SOCKET && facts->link != WAGGLE_LINK_OPTION)
		count(facts->flags & WAGGLE_FLAG_UNSAMPLED ? WAGGLE_COUNT_TRACES_UNSAMPLED :
							     WAGGLE_COUNT_TRACES_SAMPLED);
	return 0;
}

/* A trace begins here. */
INLINE void begin_trace(struct scratch *scratch, struct waggle_facts *facts)
{
	new_trace_id(random_of(scratch), facts->trace_id);
	facts->trace_flags = TRACE_FLAG_SAMPLED | TRACE_FLAG_RANDOM;
	if (sampling_mode & SAMPLING_ON)
		sample(&scratch->head, facts, 0);
}

#define SAMPLING_BIT(name) ((u64)WAGGLE_SAMPLING_##name << WAGGLE_SAMPLING_SHIFT)

/* The request has a tracestate of its own, in which a member `ot` may say how the trace was
 * sampled: the same as we know, or something else, which user space then corrects. */
INLINE void compare_tracestate(struct waggle_facts *facts, const struct trace_context *header)
{
	u64 said = sampling_mode & SAMPLING_ON && header->valid ? header->sampling : 0;
	u64 differs = (facts->sampling ^ said) & (SAMPLING_BIT(KNOWN) | WAGGLE_THRESHOLD_MASK);

	if (said & SAMPLING_BIT(SAID) && !differs)
		facts->sampling |= SAMPLING_BIT(SAID);
	else if (said)
		facts->sampling |= SAMPLING_BIT(EDIT);
}

/* Whoever called has begun the trace, as `context` says. header: of the request, which
 * may say the same, something else or nothing. */
INLINE void sample_adopted(struct scratch *scratch, struct waggle_facts *facts,
			   const struct trace_context *context, const struct trace_context *header)
{
	if (!(sampling_mode & SAMPLING_ON))
		return;
	facts->sampling = context->sampling;
	if (sampling_mode & SAMPLING_INDEPENDENT || context->undecided) {
		sample(&scratch->head, facts, context->random);
		/* Decided by a number that nobody further down will see. */
		if (context->random)
			facts->sampling = (facts->sampling & ~(SAMPLING_BIT(KNOWN) |
							       WAGGLE_THRESHOLD_MASK)) |
					  SAMPLING_BIT(EDIT);
	} else if (context == header) {
		return;
	}
	compare_tracestate(facts, header);
}

/* What a child inherits: whatever a tracestate said, it was not the child's own. */
INLINE u64 inherited_sampling(u64 sampling)
{
	return sampling & ~(SAMPLING_BIT(SAID) | SAMPLING_BIT(EDIT));
}

/* How a trace was sampled in the bits that a hand-off has left: of trace_flags those from
 * 9 on, and `threshold`. Eight bits of a threshold have no room: nobody's has them. */
INLINE void pack_sampling(struct handoff *handoff, u64 sampling)
{
	if (sampling & 0xff)
		sampling &= ~(SAMPLING_BIT(KNOWN) | WAGGLE_THRESHOLD_MASK);
	handoff->trace_flags |= (sampling >> WAGGLE_SAMPLING_SHIFT & 3) << 9 |
				(sampling >> WAGGLE_SAMPLING_RULE_SHIFT) << 11 |
				(sampling >> 8 & 0xffff) << 16;
	handoff->threshold = sampling >> 24;
}

INLINE u64 unpack_sampling(const struct handoff *handoff)
{
	u64 flags = handoff->trace_flags;

	return (flags >> 9 & 3) << WAGGLE_SAMPLING_SHIFT |
	       (flags >> 11 & 15) << WAGGLE_SAMPLING_RULE_SHIFT | (flags >> 16 & 0xffff) << 8 |
	       (u64)handoff->threshold << 24;
}

#endif
