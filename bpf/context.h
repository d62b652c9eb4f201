/* SPDX-License-Identifier: Apache-2.0
 *
 * Trace context: ids, and `traceparent` as W3C Trace Context has it
 * (https://www.w3.org/TR/trace-context/). A value that breaks a rule is rejected
 * whole. Pure but for the random numbers.
 */
#ifndef WAGGLE_CONTEXT_H
#define WAGGLE_CONTEXT_H

#include "portable.h"
#include "waggle.h"

#define TRACEPARENT_LENGTH 55

struct trace_context {
	u8 trace_id[16];
	u8 span_id[8];
	u8 flags;
	u8 valid;
	u8 pending; /* the trace id may stand for another */
	u8 link;    /* enum waggle_link: how it came */
	u8 undecided; /* whoever called leaves it to us whether it is sampled */
	u8 reserved[3];
	u64 sampling; /* as in waggle_facts, as far as whoever called said it */
	u64 random;   /* what they decided by, WAGGLE_EXPLICIT_RANDOMNESS with it; 0: the trace id */
};

#define WAGGLE_EXPLICIT_RANDOMNESS (1ULL << 63)
#define TRACE_FLAG_SAMPLED 1
#define TRACE_FLAGS_KNOWN 3
#define TRACE_FLAG_RANDOM 2 /* Trace Context, level 2: so are the trace id's last 56 bits */

#define EACH_BYTE 0x0101010101010101ULL
#define HIGH_BITS 0x8080808080808080ULL
#define PAIRS 0x00ff00ff00ff00ffULL

/* The high bit of each byte (none above 0x7f) that lies in [first, last]. */
INLINE u64 bytes_between(u64 word, u8 first, u8 last)
{
	return (word + EACH_BYTE * (0x80 - first)) & ~(word + EACH_BYTE * (0x7f - last)) & HIGH_BITS;
}

/* Eight lower-case hexadecimal digits to four bytes, in order, without a branch.
 * `bad` becomes nonzero when there is anything else among them. */
INLINE u32 unhex(u64 text, u64 *bad)
{
	u64 word = text & ~HIGH_BITS;
	u64 letters = bytes_between(word, 'a', 'f');
	u64 digits = bytes_between(word, '0', '9');
	u64 nibbles = (word & (EACH_BYTE * 0x0f)) + (letters >> 7) * 9;
	u64 pairs = ((nibbles & PAIRS) << 4) | ((nibbles >> 8) & PAIRS);

	*bad |= (HIGH_BITS & ~(letters | digits)) | (text & HIGH_BITS);
	return (pairs & 0xff) | ((pairs >> 8) & 0xff00) | ((pairs >> 16) & 0xff0000) |
	       ((pairs >> 24) & 0xff000000);
}

/* Two digits to one byte. */
INLINE u8 unhex_pair(u64 text, u64 *bad)
{
	return unhex((text & 0xffff) | 0x3030303030300000ULL, bad);
}

/* `text` must have 64 readable bytes, `length` is what the header really has. */
INLINE int parse_traceparent(const u8 *text, u32 length, struct trace_context *context)
{
	u64 bad = 0;
	u32 words[6], any_trace = 0;
	u8 version = unhex_pair(load64(text), &bad);
	u8 flags = unhex_pair(load64(text + 53), &bad);

	context->valid = 0;
	context->sampling = 0;
	context->random = 0;
	context->link = WAGGLE_LINK_TRACEPARENT;
	context->undecided = 0;
	/* The trace id lies at 3, the span id behind a dash at 36. */
#pragma clang loop unroll(disable)
	for (int i = 0; i < 6; i++) {
		words[i] = unhex(load64(text + 3 + 8 * i + (i >= 4)), &bad);
		any_trace |= i < 4 ? words[i] : 0;
	}
	bad |= (text[2] ^ '-') | (text[35] ^ '-') | (text[52] ^ '-');
	if (bad || length < TRACEPARENT_LENGTH || version == 0xff)
		return 0;
	/* A later version may append fields, after another dash. */
	if (length > TRACEPARENT_LENGTH && (version == 0 || text[55] != '-'))
		return 0;
	if (!any_trace || !(words[4] | words[5]))
		return 0;
	store64(context->trace_id, words[0] | (u64)words[1] << 32);
	store64(context->trace_id + 8, words[2] | (u64)words[3] << 32);
	store64(context->span_id, words[4] | (u64)words[5] << 32);
	context->flags = flags & TRACE_FLAGS_KNOWN; /* what means nothing yet is not passed on */
	context->valid = 1;
	return 1;
}

INLINE int same_trace(const u8 *a, const u8 *b)
{
	return load64(a) == load64(b) && load64(a + 8) == load64(b + 8);
}

/* The span that everything done for a request is a child of. Where an SDK in the process makes
 * that request's span its id is known to nobody here: then it is the caller's. */
INLINE const u8 *parent_of_children(const struct waggle_facts *facts)
{
	return facts->flags & WAGGLE_FLAG_SDK && facts->role == WAGGLE_ROLE_SERVER ?
		       facts->parent_id :
		       facts->span_id;
}

INLINE void copy_trace_id(u8 *to, const u8 *from)
{
	copy_words(to, from, 16);
}

INLINE void copy_span_id(u8 *to, const u8 *from)
{
	store64(to, load64(from));
}

#ifndef WAGGLE_USER_MODE
/* Where ids come from: xoshiro256++ (Blackman and Vigna, 2018), seeded by the kernel. The
 * kernel's own numbers have 32 bits and cost a call each: six of them a request. */
struct random {
	u64 words[4];
};

INLINE u64 rotated(u64 word, u32 bits)
{
	return word << bits | word >> (64 - bits);
}

PROVEN_ONCE int seed_random(struct random *random)
{
	if (!random)
		return 0;
#pragma clang loop unroll(full)
	for (int i = 0; i < 4; i++)
		random->words[i] = (u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
	return 0;
}

INLINE u64 draw(struct random *random)
{
	u64 a, b, c, d, number;

	a = random->words[0];
	b = random->words[1];
	c = random->words[2];
	d = random->words[3];
	number = rotated(a + d, 23) + a;
	c ^= a;
	d ^= b;
	random->words[0] = a ^ d;
	random->words[1] = b ^ c;
	random->words[2] = c ^ b << 17;
	random->words[3] = rotated(d, 45);
	return number;
}

PROVEN_ONCE u64 next_random(struct random *random)
{
	return random ? draw(random) : 0;
}

struct two_words {
	u64 words[2];
};

PROVEN_ONCE int next_randoms(struct random *random, struct two_words *numbers)
{
	if (!random || !numbers)
		return 0;
	numbers->words[0] = draw(random);
	numbers->words[1] = draw(random);
	return 0;
}

/* All zeros would be invalid; one in 2^64 is not worth a branch. */
INLINE void new_span_id(struct random *random, u8 *id)
{
	store64(id, next_random(random));
}

INLINE void new_trace_id(struct random *random, u8 *id)
{
	next_randoms(random, (struct two_words *)id);
}
#endif

#endif
