/* SPDX-License-Identifier: Apache-2.0
 *
 * A value that is made of fields of hexadecimal digits, as far as it was read; the ids of a
 * trace and of a span from such fields. Pure.
 */
#ifndef WAGGLE_HEX_FIELDS_H
#define WAGGLE_HEX_FIELDS_H

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

#endif
