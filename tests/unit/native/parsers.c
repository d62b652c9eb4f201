/* The kernel's parsers as a shared library for pytest: nothing is added but a way in. */
#define WAGGLE_USER_MODE
#include "../../../bpf/http1_body.h"
#include "../../../bpf/context.h"

unsigned int head_size(void)
{
	return sizeof(struct http1_head);
}

void parse_head(struct http1_head *head, u32 fill, u8 want_request)
{
	http1_start(head, fill, want_request);
	http1_parse(head);
}

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
