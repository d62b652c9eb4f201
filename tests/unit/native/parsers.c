/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel's parsers as a shared library for pytest. Nothing is added but ways in,
 * and tables that say where things lie, so that Python need not repeat a layout.
 */
#define WAGGLE_USER_MODE
#include "../../../bpf/context.h"
#include "../../../bpf/http1_body.h"
#include "../../../bpf/hpack.h"
#include "../../../bpf/hpack_path.h"
#include "../../../bpf/noted_texts.h"
#include "../../../bpf/grpc_messages.h"
#include "../../../bpf/http2.h"
#include "../../../bpf/http2_place.h"
#include "../../../bpf/http2_seek.h"
#include "../../../bpf/traceparent_text.h"
#include "../../../bpf/propagators.h"
#include "../../../bpf/tls.h"
#include "../../../bpf/tls_certificate.h"
#include "../../../bpf/tracestate.h"
#include "../../../bpf/uwsgi.h"
#include <stddef.h>
#include <stdlib.h>

struct member {
	const char *type;
	const char *name;
	unsigned int offset;
	unsigned int size;
};

struct constant {
	const char *name;
	unsigned int value;
};

#define MEMBER(type, name) \
	{ #type, #name, offsetof(struct type, name), sizeof(((struct type *)0)->name) }
#define WHOLE(type) { #type, "", 0, sizeof(struct type) }
#define CONSTANT(name) { #name, name }

#include "http2_talk.h"
#include "http2_growing.h"

const struct member members[] = {
	WHOLE(http1_head),
	MEMBER(http1_head, content_length),
	MEMBER(http1_head, length),
	MEMBER(http1_head, out_used),
	MEMBER(http1_head, target_len),
	MEMBER(http1_head, target_full_len),
	MEMBER(http1_head, traceparent),
	MEMBER(http1_head, traceparent_len),
	MEMBER(http1_head, tracestate),
	MEMBER(http1_head, tracestate_len),
	MEMBER(http1_head, status),
	MEMBER(http1_head, verdict),
	MEMBER(http1_head, method),
	MEMBER(http1_head, version),
	MEMBER(http1_head, has_length),
	MEMBER(http1_head, chunked),
	MEMBER(http1_head, other_encoding),
	MEMBER(http1_head, kept_cut),
	MEMBER(http1_head, odd),
	MEMBER(http1_head, first_line),
	MEMBER(http1_head, fields),
	MEMBER(http1_head, prefix),
	MEMBER(http1_head, out),
	MEMBER(http1_head, bytes),
	WHOLE(http1_stream),
	MEMBER(http1_stream, remain),
	MEMBER(http1_stream, body),
	MEMBER(http1_stream, state),
	WHOLE(http1_lines),
	MEMBER(http1_lines, length),
	MEMBER(http1_lines, taken),
	MEMBER(http1_lines, outcome),
	MEMBER(http1_lines, bytes),
	WHOLE(trace_context),
	MEMBER(trace_context, trace_id),
	MEMBER(trace_context, span_id),
	MEMBER(trace_context, flags),
	MEMBER(trace_context, valid),
	MEMBER(trace_context, link),
	MEMBER(trace_context, undecided),
	MEMBER(trace_context, sampling),
	MEMBER(trace_context, random),
	WHOLE(http2_talk),
	MEMBER(http2_talk, used),
	MEMBER(http2_talk, found),
	{ 0 },
};

const struct constant constants[] = {
	CONSTANT(HTTP1_INCOMPLETE),
	CONSTANT(HTTP1_COMPLETE),
	CONSTANT(HTTP1_NOT_HTTP),
	CONSTANT(HTTP1_BAD),
	CONSTANT(HTTP1_HEAD),
	CONSTANT(HTTP1_LENGTH),
	CONSTANT(HTTP1_CHUNK_LINE),
	CONSTANT(HTTP1_CHUNK_DATA),
	CONSTANT(HTTP1_TRAILER),
	CONSTANT(HTTP1_UNTIL_CLOSE),
	CONSTANT(HTTP1_CONTINUES),
	CONSTANT(HTTP1_MESSAGE_DONE),
	CONSTANT(HTTP1_NONSENSE),
	CONSTANT(HTTP1_HEAD_MAX),
	CONSTANT(HTTP1_OUT_MAX),
	CONSTANT(HTTP1_TARGET_MAX),
	CONSTANT(HTTP1_KEPT_MAX),
	CONSTANT(HTTP1_METHOD_MAX),
	CONSTANT(HTTP1_LINE_WINDOW),
	CONSTANT(TRACEPARENT_LENGTH),
	CONSTANT(TRACEPARENT_FIELD),
	CONSTANT(TRACESTATE_MAX),
	CONSTANT(PLACE_STREAMS),
	CONSTANT(TRACESTATE_LOOKED_AT),
	CONSTANT(HPACK_BLOCK_MAX),
	CONSTANT(HPACK_FIELDS_MAX),
	{ 0 },
};

void parse_head(struct http1_head *head, u32 fill, u8 want_request)
{
	http1_start(head, fill, want_request);
	http1_parse(head);
}

u32 write_traceparent(u8 *to, const u8 *trace_id, const u8 *span_id, u8 flags)
{
	put_traceparent(to, trace_id, span_id, flags);
	return TRACEPARENT_LINE;
}

unsigned int write_tracestate_prefix(u8 *to, unsigned int length)
{
	return put_tracestate_prefix(to, length);
}

/* The feed reads at most eight bytes into a word that was zero. */
int may_begin_request(const u8 *bytes, u32 length)
{
	u64 word = 0;

	memcpy(&word, bytes, length < 8 ? length : 8);
	return http1_may_begin_request(word, length);
}

int enter_request_body(struct http1_stream *stream, const struct http1_head *head)
{
	return http1_enter_request_body(stream, head);
}

int enter_response_body(struct http1_stream *stream, const struct http1_head *head, u8 method)
{
	return http1_enter_response_body(stream, head, method);
}

void enter_chunk_line(struct http1_stream *stream)
{
	http1_enter_chunk_line(stream);
}

u64 skip(struct http1_stream *stream, u64 available)
{
	return http1_skip(stream, available);
}

void read_lines(struct http1_stream *stream, struct http1_lines *lines)
{
	http1_read_lines(stream, lines);
}

int traceparent(const u8 *text, u32 length, struct trace_context *context)
{
	return parse_traceparent(text, length, context);
}

void tracestate(const struct http1_head *head, struct trace_context *context)
{
	read_tracestate(head, context);
}

/* The context of a parsed head in one format: 'b' for B3 in one header, 'm' in several, 'j', 'x'. */
int read_format(const struct http1_head *head, u8 format, struct trace_context *context)
{
	struct hex_walk walk;

	switch (format) {
	case 'b':
		return read_b3_single(head, context, &walk);
	case 'm':
		return read_b3_multi(head, context, &walk);
	case 'j':
		return read_jaeger(head, context, &walk);
	default:
		return read_xray(head, context, &walk);
	}
}

u32 block_sender(const u8 *block, u32 length)
{
	u64 word = 0;

	memcpy(&word, block, length < 8 ? length : 8);
	return http2_block_sender(word, length);
}

/* What a block says of its path: whether the rule is for it, the entry of the static table
 * that it is or 0, the entry that it becomes or 0, the first entry that is repeated or 0. */
void block_path(const u8 *bytes, u32 length, u32 known, const void *rule, u32 *told)
{
	static struct hpack_block block;
	struct hpack_walk *walk = &block.walk;
	const u64 others[2] = {};

	memset(block.bytes, 0xff, sizeof(block.bytes));
	memcpy(block.bytes, bytes, length);
	hpack_read(&block, 0, length, 0, others, known, 0);
	told[0] = walk->path && hpack_path_suits(rule, &block, walk->path, walk->path_len,
						 walk->path_coded);
	told[1] = walk->path_static;
	told[2] = walk->path_entry;
	told[3] = walk->repeats ? walk->repeated[0] : 0;
}

void talk_begin(struct http2_talk *talk, u8 with_preface)
{
	memset(talk, 0, sizeof(*talk));
	talk->side.state = with_preface ? HTTP2_AT_PREFACE : HTTP2_AT_HEADER;
}

void talk_feed(struct http2_talk *talk, const u8 *bytes, u32 length)
{
	http2_talk_feed(talk, bytes, length);
}

/* What follows condenses all that a parser found into one number. It is run once in
 * this library and once with sanitizers, where every struct is an allocation of its
 * own and so has a forbidden zone behind it; both must find the same. */

static u64 condense(u64 hash, const void *bytes, u32 length)
{
	const u8 *each = bytes;

	for (u32 i = 0; i < length; i++)
		hash = (hash ^ each[i]) * 0x100000001b3ULL;
	return hash;
}

static u64 examine_head(const u8 *bytes, u32 length, u8 want_request)
{
	struct http1_head *head = malloc(sizeof(*head));
	u64 found;

	if (length > HTTP1_HEAD_MAX)
		length = HTTP1_HEAD_MAX;
	memset(head, '\n', sizeof(*head));
	memcpy(head->bytes, bytes, length);
	parse_head(head, length, want_request);
	found = condense(0, head, offsetof(struct http1_head, prefix));
	found = condense(found, head->out, head->out_used);
	free(head);
	return found;
}

static u32 examine_some(struct http1_stream *stream, struct http1_lines *lines,
			const u8 *bytes, u32 length)
{
	if (stream->state == HTTP1_CHUNK_DATA) {
		length = skip(stream, length);
		if (!stream->remain)
			enter_chunk_line(stream);
		return length;
	}
	lines->length = length < HTTP1_LINE_WINDOW ? length : HTTP1_LINE_WINDOW;
	memcpy(lines->bytes, bytes, lines->length);
	read_lines(stream, lines);
	return lines->taken;
}

static u64 examine_chunks(const u8 *bytes, u32 length)
{
	struct http1_stream *stream = calloc(1, sizeof(*stream));
	struct http1_lines *lines = calloc(1, sizeof(*lines));
	u64 found = 0;

	enter_chunk_line(stream);
	for (u32 at = 0; at < length && !lines->outcome;) {
		at += examine_some(stream, lines, bytes + at, length - at);
		found = condense(found, stream, sizeof(*stream));
	}
	found = condense(found, lines, offsetof(struct http1_lines, bytes));
	free(lines);
	free(stream);
	return found;
}

static u64 examine_traceparent(const u8 *bytes, u32 length)
{
	struct trace_context *context = calloc(1, sizeof(*context));
	u8 *text = malloc(64); /* what parse_traceparent asks for, no more */
	u64 found;

	memset(text, '0', 64);
	memcpy(text, bytes, length < 64 ? length : 64);
	traceparent(text, length, context);
	found = condense(0, context, sizeof(*context));
	free(text);
	free(context);
	return found;
}

static u64 examine_http2(const u8 *bytes, u32 length)
{
	struct http2_talk *talk = calloc(1, sizeof(*talk));
	u64 found;

	http2_talk_feed(talk, bytes, length);
	found = condense(0, talk->found, talk->used);
	free(talk);
	return found;
}

static u64 examine_growing(const u8 *bytes, u32 length)
{
	struct http2_talk *talk = calloc(1, sizeof(*talk));
	u8 *out = malloc(length + PLACE_STREAMS * TRACEPARENT_FIELD); /* and no more */
	u8 ids[25] = { 1, 2, 3 };
	struct growing told;
	u64 found;

	talk_grow(talk, bytes, length, ids, out, &told);
	found = condense(0, out, told.length) ^ condense(0, &told, sizeof(told));
	free(out);
	free(talk);
	return found;
}

/* `kind`: 'Q' request head, 'S' response head, 'C' chunks, 'T' traceparent, 'M' a beginning, '2' HTTP/2
 * from its preface, 'G' the same as one message that is given fields. */
u64 examine(u8 kind, const u8 *bytes, u32 length)
{
	switch (kind) {
	case 'Q':
	case 'S':
		return examine_head(bytes, length, kind == 'Q');
	case 'C':
		return examine_chunks(bytes, length);
	case 'T':
		return examine_traceparent(bytes, length);
	case '2':
		return examine_http2(bytes, length);
	case 'G':
		return examine_growing(bytes, length);
	case 'M':
		return may_begin_request(bytes, length);
	}
	abort();
}

/* Where the records begin and how long they are, when bytes come in pieces of `step`: pairs at
 * `found`. Returns how many, and stops where what comes is no record. */
u32 tls_records(const u8 *bytes, u32 length, u32 step, u32 *found, u32 room)
{
	struct tls_walk walk = {};
	u32 count = 0;

	for (u32 at = 0; at < length && count < room;) {
		u32 left = step - at % step, want = walk.remain ? walk.remain : TLS_HEADER - walk.have;
		u64 word = 0, header = 0;

		if (left > length - at)
			left = length - at;
		if (want > left)
			want = left;
		at += want;
		if (walk.remain) {
			walk.remain -= want;
			continue;
		}
		memcpy(&word, bytes + at - want, want);
		if (!tls_take_header(&walk, word, want, &header))
			continue;
		if (!walk.known)
			break;
		found[2 * count] = at - TLS_HEADER;
		found[2 * count++ + 1] = walk.remain;
	}
	return count;
}

/* What a greeting says of which `length` bytes are at hand: the version that a server agrees on;
 * where, and in how many bytes, a client names the server, or a server the protocol. */
u32 tls_greeting(const u8 *bytes, u32 length, u32 *name)
{
	struct tls_hello hello = {};
	u64 word;

	for (u32 i = 0; i < TLS_HELLO_STEPS && hello.at < length; i++) {
		word = 0;
		memcpy(&word, bytes + hello.at, length - hello.at < 8 ? length - hello.at : 8);
		if (tls_hello_step(&hello, word, length - hello.at))
			break;
	}
	name[0] = hello.name;
	name[1] = hello.name_length;
	return hello.kind == TLS_SERVER_HELLO && hello.stage == TLS_AT_END ? hello.version : 0;
}

/* Where a record of a server's handshake has the end of its certificate's validity, and how long
 * it is; 0 where it has none. */
u32 tls_expiry(const u8 *bytes, u32 length, u32 *size)
{
	struct tls_certificate walk = {};
	u64 word;

	for (u32 i = 0; i < TLS_CERTIFICATE_STEPS && walk.at + sizeof(word) <= length; i++) {
		memcpy(&word, bytes + walk.at, sizeof(word));
		if (tls_certificate_step(&walk, word))
			break;
	}
	*size = walk.length;
	return walk.stage == CERTIFICATE_DONE && walk.at + walk.length <= length ? walk.at : 0;
}

u32 tls_little(u32 version, u32 length)
{
	return tls_says_little(version, length);
}

u32 tls_begins(const u8 *bytes, u32 length, u32 from_start)
{
	u64 word = 0;

	memcpy(&word, bytes, length < 8 ? length : 8);
	return tls_may_begin(word, length < 8 ? length : 8, from_start);
}

/* As the feed asks: by eight bytes first, then by the window, where a call has as many. */
u32 uwsgi_begins(const u8 *bytes, u32 length)
{
	u64 words[UWSGI_WINDOW / 8];

	if (length < UWSGI_WINDOW)
		return 0;
	memcpy(words, bytes, sizeof(words));
	return uwsgi_may_begin(words[0], 8) && begins_uwsgi(words);
}
