/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests by uWSGI's own protocol, which web servers send to it (uwsgi_pass): what a connection
 * must begin with to be one. Pure: no map, no helper; also compiled for user mode and tested there.
 *
 * A packet is a modifier (0: a request for a program in Python), its size in two bytes, lowest first,
 * and a second modifier. In it are the variables of CGI: each a name and a value, both behind two
 * bytes with their length.
 */
#ifndef WAGGLE_UWSGI_H
#define WAGGLE_UWSGI_H

#include "text_words.h"

#define UWSGI_HEADER 4
#define UWSGI_WINDOW 32 /* bytes that are looked at; no server sends a request of fewer */
#define UWSGI_NAME_MIN 9
#define UWSGI_NAME_MAX 16

/* Whether the first eight bytes are worth a look at more of them. */
INLINE int uwsgi_may_begin(u64 word, u32 length)
{
	u32 size = word >> 8 & 0xffff, name = word >> 32 & 0xffff;

	return length == 8 && !(word & 0xff) && !(word >> 24 & 0xff) &&
	       size >= UWSGI_WINDOW - UWSGI_HEADER && name >= UWSGI_NAME_MIN &&
	       name <= UWSGI_NAME_MAX;
}

struct uwsgi_name {
	u64 low; /* its first eight bytes, */
	u64 high; /* the others, and zeros */
	u32 length;
	u32 reserved;
};

#define IS_NAME(name, s) \
	((name)->length == sizeof(s) - 1 && (name)->low == TEXT_WORD(s, 0) && (name)->high == TEXT_WORD(s, 1))

/* Whether a variable has this name: of those that web servers send, and people put before them. */
INLINE int is_cgi_name(const struct uwsgi_name *name)
{
	return IS_NAME(name, "QUERY_STRING") || IS_NAME(name, "REQUEST_METHOD") ||
	       IS_NAME(name, "REQUEST_URI") || IS_NAME(name, "REQUEST_SCHEME") ||
	       IS_NAME(name, "CONTENT_TYPE") || IS_NAME(name, "CONTENT_LENGTH") ||
	       IS_NAME(name, "PATH_INFO") || IS_NAME(name, "DOCUMENT_ROOT") ||
	       IS_NAME(name, "SCRIPT_NAME") || IS_NAME(name, "SCRIPT_FILENAME") ||
	       IS_NAME(name, "SERVER_PROTOCOL") || IS_NAME(name, "SERVER_NAME") ||
	       IS_NAME(name, "SERVER_PORT") || IS_NAME(name, "SERVER_ADDR") ||
	       IS_NAME(name, "REMOTE_ADDR") || IS_NAME(name, "REMOTE_PORT") ||
	       IS_NAME(name, "REMOTE_USER") || IS_NAME(name, "HTTP_HOST") ||
	       IS_NAME(name, "UWSGI_SCRIPT") || IS_NAME(name, "UWSGI_SCHEME") ||
	       IS_NAME(name, "UWSGI_CHDIR") || IS_NAME(name, "UWSGI_PYHOME");
}

/* Whether a connection that begins with these bytes (UWSGI_WINDOW) begins with such a request. */
INLINE int begins_uwsgi(const u64 *words)
{
	struct uwsgi_name name = {};
	u32 size, over, value;
	u64 third;

	if (!uwsgi_may_begin(words[0], 8))
		return 0;
	size = words[0] >> 8 & 0xffff;
	name.length = words[0] >> 32 & 0xffff;
	name.low = words[0] >> 48 | words[1] << 16;
	name.high = words[1] >> 48 | words[2] << 16;
	third = words[2] >> 48 | words[3] << 16;
	over = 8 * (name.length - 8);
	value = (over == 64 ? third : name.high >> over | third << (64 - over)) & 0xffff;
	name.high &= over == 64 ? ~0ULL : (1ULL << over) - 1;
	return 2 + name.length + 2 + value <= size && is_cgi_name(&name);
}

#endif
