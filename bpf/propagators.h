/* SPDX-License-Identifier: Apache-2.0
 *
 * Trace contexts in other clothes than `traceparent`: B3 in one header and in several
 * (github.com/openzipkin/b3-propagation), Jaeger's `uber-trace-id` and AWS X-Ray's
 * `X-Amzn-Trace-Id`. A value that breaks its format's rules is rejected whole. All of them
 * are fields of hexadecimal digits, so one walk reads them: fields are what differs. Pure.
 */
#ifndef WAGGLE_PROPAGATORS_H
#define WAGGLE_PROPAGATORS_H

#include "context.h"
#include "http1.h"
#include "tracestate.h"

#define CONTEXT_VALUE_MAX 256 /* longer values are none of these */
#define SPAN_DIGITS 16
#define TRACE_DIGITS 32
#define TRACE_DIGITS_SHORT 16 /* of old B3: the left half is zero */

/* What separates fields, by format. */
struct hex_format {
	u8 delimiter;
	u8 escaped; /* the delimiter may come as %XX */
	u8 keyed;   /* fields have names: X-Ray */
	u8 reserved;
};

/* One field, as it was found between two delimiters. */
struct hex_field {
	u64 high; /* its digits as a number of 128 bits */
	u64 low;
	u32 digits;
	u8 bad;	 /* there was something else than digits */
	u8 text; /* its first character */
	u8 dashes;
	u8 reserved;
};

/* Lives in a map, so that the verifier does not follow what is in it. */
struct hex_walk {
	struct hex_field field;
	u64 key; /* keyed: the last bytes of the field's name, lower case */
	u64 trace_high;
	u64 trace_low;
	u64 span;
	u32 at;
	u32 end;
	u32 fields; /* that are complete */
	struct hex_format format;
	u8 in_key;
	u8 escape; /* characters of %XX that were seen */
	u8 link;   /* enum waggle_link: the format */
	u8 sampled; /* enum said_sampled */
	u8 bad;
	u8 has_trace;
	u8 has_span;
	u8 reserved;
};

/* What a loop is given. */
struct hex_step_context {
	const struct http1_head *head;
	struct hex_walk *walk;
};

/* What a context says about sampling. B3 and X-Ray let it say: you decide. */
enum said_sampled { SAMPLED_UNSAID = 0, SAMPLED_YES = 1, SAMPLED_NO = 2 };

INLINE void hex_digit_of(struct hex_field *field, u8 byte)
{
	u32 digit = hex_digit(byte);

	if (!field->digits && !field->text)
		field->text = byte;
	field->bad |= digit > 15 || field->digits >= TRACE_DIGITS;
	field->high = field->high << 4 | field->low >> 60;
	field->low = field->low << 4 | (digit & 15);
	field->digits += field->digits < 255;
}

INLINE void take_trace(struct hex_walk *walk, u32 least)
{
	struct hex_field *field = &walk->field;

	walk->bad |= field->bad || field->digits < least || walk->has_trace;
	walk->trace_high = field->high;
	walk->trace_low = field->low;
	walk->has_trace = 1;
}

INLINE void take_span(struct hex_walk *walk, u32 least)
{
	struct hex_field *field = &walk->field;

	walk->bad |= field->bad || field->digits < least || field->digits > SPAN_DIGITS ||
		     walk->has_span;
	walk->span = field->low;
	walk->has_span = 1;
}

/* B3: 1, 0, d (debug, which implies yes), and the words true and false of old. */
INLINE void take_b3_sampled(struct hex_walk *walk)
{
	u8 text = walk->field.text | 0x20;

	if (text == ('1' | 0x20) || text == 'd' || text == 't')
		walk->sampled = SAMPLED_YES;
	else if (text == ('0' | 0x20) || text == 'f')
		walk->sampled = SAMPLED_NO;
	else
		walk->bad = 1;
}

INLINE void b3_field(struct hex_walk *walk)
{
	u32 digits = walk->field.digits;

	switch (walk->fields) {
	case 0:
		take_trace(walk, TRACE_DIGITS_SHORT);
		walk->bad |= digits != TRACE_DIGITS_SHORT && digits != TRACE_DIGITS;
		break;
	case 1:
		take_span(walk, SPAN_DIGITS);
		break;
	case 2:
		walk->bad |= digits != 1;
		take_b3_sampled(walk);
		break;
	case 3: /* the parent of the caller's span: its own business, but it must be an id */
		walk->bad |= walk->field.bad || digits != SPAN_DIGITS;
		break;
	default:
		walk->bad = 1;
	}
}

/* {trace}:{span}:{parent}:{flags}: leading zeros may be left out, the parent is deprecated. */
INLINE void jaeger_field(struct hex_walk *walk)
{
	u32 digits = walk->field.digits;

	switch (walk->fields) {
	case 0:
		take_trace(walk, 1);
		break;
	case 1:
		take_span(walk, 1);
		break;
	case 2:
		walk->bad |= walk->field.bad || digits > SPAN_DIGITS;
		break;
	case 3:
		walk->bad |= walk->field.bad || !digits || digits > 2;
		walk->sampled = walk->field.low & 1 ? SAMPLED_YES : SAMPLED_NO;
		break;
	default:
		walk->bad = 1;
	}
}

#define KEY_ROOT 0x726f6f74ULL		/* "root" */
#define KEY_PARENT 0x706172656e74ULL	/* "parent" */
#define KEY_SAMPLED 0x73616d706c6564ULL /* "sampled" */

/* Root=1-{8 digits}-{24 digits};Parent={16 digits};Sampled=1, in any order among others. */
INLINE void xray_field(struct hex_walk *walk)
{
	if (walk->key == KEY_ROOT) {
		take_trace(walk, TRACE_DIGITS);
		walk->bad |= walk->field.dashes != 2;
	} else if (walk->key == KEY_PARENT) {
		take_span(walk, SPAN_DIGITS);
	} else if (walk->key == KEY_SAMPLED) {
		walk->bad |= walk->field.digits != 1;
		if (walk->field.text == '1')
			walk->sampled = SAMPLED_YES;
		else if (walk->field.text == '0')
			walk->sampled = SAMPLED_NO;
		else /* ?: you decide */
			walk->bad |= walk->field.text != '?';
	}
}

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

/* The version of a Root, and the two dashes in it, which must stand where they belong. */
INLINE void xray_dash(struct hex_walk *walk)
{
	struct hex_field *field = &walk->field;

	field->dashes += field->dashes < 3;
	if (field->dashes == 1) {
		walk->bad |= walk->key == KEY_ROOT && (field->digits != 1 || field->low != 1);
		field->digits = 0;
		field->low = 0;
	} else {
		walk->bad |= walk->key == KEY_ROOT && field->digits != 8;
	}
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
