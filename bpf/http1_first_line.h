/* SPDX-License-Identifier: Apache-2.0
 *
 * The first line of a head: method and target, or status (RFC 9112, 3 and 4).
 */
#ifndef WAGGLE_HTTP1_FIRST_LINE_H
#define WAGGLE_HTTP1_FIRST_LINE_H

#include "http1_head.h"

INLINE u8 http1_known_method(u64 word)
{
	if (BEGINS(word, "GET "))
		return WAGGLE_METHOD_GET;
	if (BEGINS(word, "POST "))
		return WAGGLE_METHOD_POST;
	if (BEGINS(word, "HEAD "))
		return WAGGLE_METHOD_HEAD;
	if (BEGINS(word, "PUT "))
		return WAGGLE_METHOD_PUT;
	if (BEGINS(word, "DELETE "))
		return WAGGLE_METHOD_DELETE;
	if (BEGINS(word, "PATCH "))
		return WAGGLE_METHOD_PATCH;
	if (BEGINS(word, "OPTIONS "))
		return WAGGLE_METHOD_OPTIONS;
	if (BEGINS(word, "CONNECT "))
		return WAGGLE_METHOD_CONNECT;
	if (BEGINS(word, "TRACE "))
		return WAGGLE_METHOD_TRACE;
	return WAGGLE_METHOD_OTHER;
}

/* Length of the method token at `at`, 0 if there is none that ends in a space. */
INLINE u32 http1_method_length(const struct http1_head *head, u32 at)
{
	u32 length = find_byte(http1_word(head, at), ' ');

	if (length == 8)
		length += find_byte(http1_word(head, at + 8), ' ');
	if (length == 16)
		length += find_byte(http1_word(head, at + 16), ' ');
	return length < HTTP1_METHOD_MAX ? length : 0;
}

/* HTTP/1.0 -> 10, HTTP/1.1 -> 11, anything else -> 0. */
INLINE u8 http1_version(u64 word)
{
	if (word == TEXT_WORD("HTTP/1.1", 0))
		return 11;
	return word == TEXT_WORD("HTTP/1.0", 0) ? 10 : 0;
}

INLINE void http1_request_line(struct http1_head *head, u32 line, u32 length)
{
	u32 method_len = http1_method_length(head, line);
	u32 target = line + method_len + 1, target_len, kept;

	head->verdict = HTTP1_NOT_HTTP;
	/* method SP target SP HTTP/1.x: at least one byte of each */
	if (!method_len || length < method_len + 1 + 1 + 9)
		return;
	head->version = http1_version(http1_word(head, line + length - 8));
	if (!head->version || http1_byte(head, line + length - 9) != ' ')
		return;
	target_len = length - 9 - method_len - 1;
	kept = target_len > HTTP1_TARGET_MAX ? HTTP1_TARGET_MAX : target_len;
	http1_copy(head, 0, target, kept, HTTP1_TARGET_MAX);
	head->target_len = kept;
	head->target_full_len = target_len > 65535 ? 65535 : target_len;
	head->out_used = kept;
	head->method = http1_known_method(http1_word(head, line));
	if (head->method == WAGGLE_METHOD_OTHER)
		http1_keep(head, WAGGLE_KEPT_METHOD, line, method_len);
	head->verdict = HTTP1_INCOMPLETE;
}

INLINE void http1_status_line(struct http1_head *head, u32 line, u32 length)
{
	u64 code = http1_word(head, line + 8); /* " 200 OK.." */
	u32 a = ((code >> 8) & 0xff) - '0', b = ((code >> 16) & 0xff) - '0',
	    c = ((code >> 24) & 0xff) - '0';

	head->verdict = HTTP1_NOT_HTTP;
	head->version = http1_version(http1_word(head, line));
	if (length < 12 || !head->version || (code & 0xff) != ' ')
		return;
	if (length > 12 && ((code >> 32) & 0xff) != ' ')
		return;
	if (a < 1 || a > 9 || b > 9 || c > 9)
		return;
	head->status = a * 100 + b * 10 + c;
	head->verdict = HTTP1_INCOMPLETE;
}

#endif
