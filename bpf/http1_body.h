/* SPDX-License-Identifier: Apache-2.0
 *
 * HTTP/1 bodies (RFC 9112 section 6 and 7): how many bytes lie between one head
 * and the next. Pure: no kernel, no maps. Bodies are counted, never read; only
 * the lines between chunks are.
 */
#ifndef WAGGLE_HTTP1_BODY_H
#define WAGGLE_HTTP1_BODY_H

#include "http1.h"

#define HTTP1_LINE_WINDOW 64 /* bytes of chunk lines looked at in one go */

enum http1_state {
	HTTP1_HEAD = 0,	      /* the next byte begins a head */
	HTTP1_PARTIAL_HEAD = 1, /* a head has begun and is kept aside */
	HTTP1_LENGTH = 2,     /* `remain` bytes of body */
	HTTP1_CHUNK_LINE = 3, /* in the line that gives a chunk's size */
	HTTP1_CHUNK_DATA = 4, /* `remain` bytes of a chunk, its line end included */
	HTTP1_TRAILER = 5,    /* in the lines after the last chunk */
	HTTP1_UNTIL_CLOSE = 6,
	HTTP1_LOST = 7, /* position unknown: wait for a head at the beginning of a call */
	HTTP1_OVER = 8, /* not HTTP any more */
};

/* One direction of a connection. */
struct http1_stream {
	u64 remain;
	u64 body;  /* bytes of the current message's body so far */
	u64 head_ns; /* when the current head's first byte passed */
	u32 next;  /* sequence number of the first byte not yet seen */
	u32 head_at; /* sequence number of the current head's first byte */
	u64 held;    /* a partial head of no more than eight bytes */
	u8 state;
	u8 line;    /* bytes of the current trailer line, capped at 255; of a size: any yet */
	u8 in_size; /* still reading hexadecimal digits */
	u8 started; /* `next` is known */
	u8 held_fill; /* how many; 0: the partial head lies elsewhere */
	u8 reserved[3];
};

enum http1_outcome { HTTP1_CONTINUES = 0, HTTP1_MESSAGE_DONE = 1, HTTP1_NONSENSE = 2 };

/* Takes up to `available` bytes of a counted body; returns how many. */
INLINE u64 http1_skip(struct http1_stream *stream, u64 available)
{
	u64 taken = stream->remain < available ? stream->remain : available;

	stream->remain -= taken;
	stream->body += taken;
	return taken;
}

INLINE void http1_enter_chunk_line(struct http1_stream *stream)
{
	stream->state = HTTP1_CHUNK_LINE;
	stream->remain = 0;
	stream->line = 0;
	stream->in_size = 1;
}

/* How the body after a request head is framed. */
/* Whether a message has begun whose end has not passed. */
INLINE int http1_in_body(const struct http1_stream *stream)
{
	return stream->state >= HTTP1_LENGTH && stream->state <= HTTP1_UNTIL_CLOSE;
}

INLINE int http1_enter_request_body(struct http1_stream *stream, const struct http1_head *head)
{
	stream->body = 0;
	stream->remain = 0;
	if (head->chunked) {
		http1_enter_chunk_line(stream);
		return HTTP1_CONTINUES;
	}
	if (head->other_encoding)
		return HTTP1_NONSENSE;
	if (head->has_length && head->content_length) {
		stream->state = HTTP1_LENGTH;
		stream->remain = head->content_length;
		return HTTP1_CONTINUES;
	}
	stream->state = HTTP1_HEAD;
	return HTTP1_MESSAGE_DONE;
}

/* How the body after the head of a final response is framed. */
INLINE int http1_enter_response_body(struct http1_stream *stream, const struct http1_head *head,
				     u8 method)
{
	u16 status = head->status;

	stream->body = 0;
	stream->remain = 0;
	stream->state = HTTP1_HEAD;
	if (method == WAGGLE_METHOD_HEAD || status == 204 || status == 304)
		return HTTP1_MESSAGE_DONE;
	if (head->chunked) {
		http1_enter_chunk_line(stream);
		return HTTP1_CONTINUES;
	}
	if (head->has_length && !head->other_encoding) {
		if (!head->content_length)
			return HTTP1_MESSAGE_DONE;
		stream->state = HTTP1_LENGTH;
		stream->remain = head->content_length;
		return HTTP1_CONTINUES;
	}
	stream->state = HTTP1_UNTIL_CLOSE;
	return HTTP1_CONTINUES;
}

INLINE int http1_hex(u8 byte)
{
	u8 lower = byte | 0x20;

	if (byte >= '0' && byte <= '9')
		return byte - '0';
	return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/* Lines between chunks; in a map, as http1_head is. */
struct http1_lines {
	u32 length;
	u32 taken;
	u32 outcome;
	u32 reserved;
	u8 bytes[2 * HTTP1_LINE_WINDOW]; /* twice: a length is bounded by a mask */
};

struct http1_lines_walk {
	struct http1_stream *stream;
	struct http1_lines *lines;
};

INLINE u32 http1_chunk_byte(struct http1_stream *stream, u8 byte)
{
	int digit;

	if (byte == '\n') {
		if (!stream->line)
			return HTTP1_NONSENSE;
		stream->line = 0;
		if (!stream->remain) {
			stream->state = HTTP1_TRAILER;
			return HTTP1_CONTINUES;
		}
		stream->state = HTTP1_CHUNK_DATA;
		stream->remain += 2; /* the line end after the data */
		return HTTP1_CONTINUES;
	}
	if (!stream->in_size)
		return HTTP1_CONTINUES;
	digit = http1_hex(byte);
	if (digit < 0) {
		if (!stream->line || (byte != ';' && byte != '\r' && byte != ' ' && byte != '\t'))
			return HTTP1_NONSENSE;
		stream->in_size = 0;
		return HTTP1_CONTINUES;
	}
	/* Leading zeros are no size; one that is lost at the top would be. */
	if (stream->remain >> 56)
		return HTTP1_NONSENSE;
	stream->line = 1;
	stream->remain = stream->remain * 16 + digit;
	return HTTP1_CONTINUES;
}

INLINE u32 http1_trailer_byte(struct http1_stream *stream, u8 byte)
{
	if (byte == '\n') {
		if (!stream->line) {
			stream->state = HTTP1_HEAD;
			return HTTP1_MESSAGE_DONE;
		}
		stream->line = 0;
	} else if (byte != '\r' && stream->line < 255) {
		stream->line++;
	}
	return HTTP1_CONTINUES;
}

static long http1_line_byte(u32 index, void *context)
{
	struct http1_lines_walk *walk = context;
	struct http1_lines *lines = walk->lines;
	struct http1_stream *stream = walk->stream;
	u8 byte;

	if (lines->taken >= lines->length)
		return 1;
	byte = lines->bytes[masked(lines->taken, HTTP1_LINE_WINDOW - 1)];
	lines->taken++;
	if (stream->state == HTTP1_CHUNK_LINE)
		lines->outcome = http1_chunk_byte(stream, byte);
	else
		lines->outcome = http1_trailer_byte(stream, byte);
	return lines->outcome || stream->state == HTTP1_CHUNK_DATA;
}

/* Reads chunk or trailer lines; `taken` and `outcome` are in `lines`. */
INLINE void http1_read_lines(struct http1_stream *stream, struct http1_lines *lines)
{
	struct http1_lines_walk walk = { .stream = stream, .lines = lines };

	lines->taken = 0;
	lines->outcome = HTTP1_CONTINUES;
	LOOP(HTTP1_LINE_WINDOW, http1_line_byte, &walk);
}

#endif
