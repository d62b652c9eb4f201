/* SPDX-License-Identifier: Apache-2.0
 *
 * What the fields of a value say, by format: B3 (github.com/openzipkin/b3-propagation),
 * Jaeger's and AWS X-Ray's, each with its own rules of what may stand there. Pure.
 */
#ifndef WAGGLE_PROPAGATOR_FIELDS_H
#define WAGGLE_PROPAGATOR_FIELDS_H

#include "hex_fields.h"

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

#endif
