/* SPDX-License-Identifier: Apache-2.0
 *
 * Trace contexts in other clothes than `traceparent`: B3 in one header and in several
 * (github.com/openzipkin/b3-propagation), Jaeger's `uber-trace-id` and AWS X-Ray's
 * `X-Amzn-Trace-Id`. A value that breaks its format's rules is rejected whole. All of them
 * are fields of hexadecimal digits, so one walk reads them: fields are what differs
 * (propagator_fields.h). Pure.
 */
#ifndef WAGGLE_PROPAGATORS_H
#define WAGGLE_PROPAGATORS_H

#include "propagator_fields.h"

INLINE void hex_field_over(struct hex_walk *walk)
{
	if (walk->link == WAGGLE_LINK_B3)
		b3_field(walk);
	else if (walk->link == WAGGLE_LINK_JAEGER)
		jaeger_field(walk);
	else
		xray_field(walk);
	__builtin_memset(&walk->field, 0, sizeof(walk->field));
	walk->fields++;
	walk->in_key = walk->format.keyed;
	walk->key = 0;
}

INLINE void hex_key(struct hex_walk *walk, u8 byte)
{
	if (byte == '=')
		walk->in_key = 0;
	else if (byte != ' ' && byte != '\t')
		walk->key = walk->key << 8 | (byte | 0x20);
}

/* Returns the character that %XX means once it is whole, 0 before; only delimiters come so. */
INLINE u8 unescaped(struct hex_walk *walk, u8 byte)
{
	if (!walk->escape) {
		walk->escape = byte == '%';
		return walk->escape ? 0 : byte;
	}
	if (walk->escape == 1) {
		walk->bad |= byte != '3';
		walk->escape = 2;
		return 0;
	}
	walk->bad |= (byte | 0x20) != 'a';
	walk->escape = 0;
	return ':';
}

static long hex_step(u32 index, void *context)
{
	const struct http1_head *head = ((struct hex_step_context *)context)->head;
	struct hex_walk *walk = ((struct hex_step_context *)context)->walk;
	u8 byte;

	if (walk->at >= walk->end) {
		hex_field_over(walk);
		return 1;
	}
	byte = http1_byte(head, walk->at);
	walk->at++;
	if (walk->format.escaped) {
		byte = unescaped(walk, byte);
		if (!byte)
			return 0;
	}
	if (byte == walk->format.delimiter)
		hex_field_over(walk);
	else if (walk->in_key)
		hex_key(walk, byte);
	else if (byte == '-' && walk->format.keyed)
		xray_dash(walk);
	else
		hex_digit_of(&walk->field, byte);
	return 0;
}

INLINE void walk_value(struct hex_walk *walk, const struct http1_head *head,
		       const struct http1_value *value)
{
	struct hex_step_context context = { .head = head, .walk = walk };

	walk->at = value->at;
	walk->end = value->at + value->length;
	walk->bad |= !value->length || value->length > CONTEXT_VALUE_MAX;
	walk->fields = 0;
	walk->in_key = walk->format.keyed;
	LOOP(CONTEXT_VALUE_MAX + 1, hex_step, &context);
	walk->bad |= walk->escape;
}

/* What was found becomes a context, if it is one. */
INLINE int context_found(const struct hex_walk *walk, struct trace_context *context)
{
	context->valid = 0;
	context->pending = 0;
	context->sampling = 0;
	context->random = 0;
	if (walk->bad || !walk->has_trace || !walk->has_span || !walk->span ||
	    !(walk->trace_high | walk->trace_low))
		return 0;
	store64(context->trace_id, __builtin_bswap64(walk->trace_high));
	store64(context->trace_id + 8, __builtin_bswap64(walk->trace_low));
	store64(context->span_id, __builtin_bswap64(walk->span));
	context->flags = walk->sampled != SAMPLED_NO;
	context->undecided = walk->sampled == SAMPLED_UNSAID;
	context->link = walk->link;
	context->valid = 1;
	return 1;
}

INLINE void begin_walk(struct hex_walk *walk, u8 link, u8 delimiter)
{
	__builtin_memset(walk, 0, sizeof(*walk));
	walk->link = link;
	walk->format.delimiter = delimiter;
}

PROVEN_ONCE int read_b3_single(const struct http1_head *head, struct trace_context *context,
			       struct hex_walk *walk)
{
	if (!head || !context || !walk)
		return 0;
	begin_walk(walk, WAGGLE_LINK_B3, '-');
	walk_value(walk, head, &head->contexts[HTTP1_B3]);
	return context_found(walk, context);
}

static long b3_part_step(u32 index, void *context)
{
	const struct http1_head *head = ((struct hex_step_context *)context)->head;
	struct hex_walk *walk = ((struct hex_step_context *)context)->walk;

	if (walk->at >= walk->end)
		return 1;
	hex_digit_of(&walk->field, http1_byte(head, walk->at));
	walk->at++;
	return 0;
}

/* One of the headers of B3, as the field that it would be of the single one. */
INLINE void walk_b3_part(struct hex_walk *walk, const struct http1_head *head, u32 which)
{
	struct hex_step_context context = { .head = head, .walk = walk };

	walk->at = head->contexts[which].at;
	walk->end = walk->at + head->contexts[which].length;
	LOOP(TRACE_DIGITS + 1, b3_part_step, &context);
	hex_field_over(walk);
}

PROVEN_ONCE int read_b3_multi(const struct http1_head *head, struct trace_context *context,
			      struct hex_walk *walk)
{
	if (!head || !context || !walk)
		return 0;
	begin_walk(walk, WAGGLE_LINK_B3, '-');
	walk_b3_part(walk, head, HTTP1_B3_TRACE);
	walk_b3_part(walk, head, HTTP1_B3_SPAN);
	if (head->contexts[HTTP1_B3_SAMPLED].at) {
		walk->field.text = http1_byte(head, head->contexts[HTTP1_B3_SAMPLED].at);
		take_b3_sampled(walk);
	}
	if (head->contexts[HTTP1_B3_FLAGS].length == 1 &&
	    http1_byte(head, head->contexts[HTTP1_B3_FLAGS].at) == '1') /* debug */
		walk->sampled = SAMPLED_YES;
	return context_found(walk, context);
}

PROVEN_ONCE int read_jaeger(const struct http1_head *head, struct trace_context *context,
			    struct hex_walk *walk)
{
	if (!head || !context || !walk)
		return 0;
	begin_walk(walk, WAGGLE_LINK_JAEGER, ':');
	walk->format.escaped = 1;
	walk_value(walk, head, &head->contexts[HTTP1_JAEGER]);
	walk->bad |= walk->fields != 4;
	return context_found(walk, context);
}

PROVEN_ONCE int read_xray(const struct http1_head *head, struct trace_context *context,
			  struct hex_walk *walk)
{
	if (!head || !context || !walk)
		return 0;
	begin_walk(walk, WAGGLE_LINK_XRAY, ';');
	walk->format.keyed = 1;
	walk_value(walk, head, &head->contexts[HTTP1_XRAY]);
	return context_found(walk, context);
}

#endif
