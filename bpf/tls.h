/* SPDX-License-Identifier: Apache-2.0
 *
 * Records of TLS (RFC 8446 section 5): where each begins in a stream of bytes that nobody
 * here can read. Pure: no map, no helper; also compiled for user mode and tested there.
 */
#ifndef WAGGLE_TLS_H
#define WAGGLE_TLS_H

#include "portable.h"

#define TLS_HEADER 5
#define TLS_PLAIN_MAX 16384		     /* bytes of plaintext in one record */
#define TLS_PAYLOAD_MAX (TLS_PLAIN_MAX + 2048) /* what TLS 1.2 allows; 1.3 allows less */
#define TLS_QUEUE 128 /* received records whose plaintext has not been asked for yet */
#define TLS_SEARCHED 8 /* of these, among which one is looked for that fits */

enum tls_type { TLS_CHANGE_CIPHER = 20, TLS_ALERT = 21, TLS_HANDSHAKE = 22, TLS_DATA = 23 };

/* How much longer a record is than what is in it: the tag, and what TLS 1.3 (a type) or 1.2
 * (a nonce, but for ChaCha20) add. */
#define TLS_1_3 4 /* as versions are numbered here */
enum tls_overhead { TLS_OVERHEAD_CHACHA12 = 16, TLS_OVERHEAD_13 = 17, TLS_OVERHEAD_GCM12 = 24 };

/* One direction: the record that bytes are passing of. */
struct tls_walk {
	u64 header; /* what has come of the next header, first byte lowest */
	u32 remain; /* bytes of the current record that have not passed */
	u8 have;    /* bytes in `header` */
	u8 known;   /* where records begin is known */
	u8 changed; /* the last record was CHANGE_CIPHER */
	u8 begun;   /* enum tls_type: what comes next begins a record of that */
};

#define TLS_HELLO_STEPS 24 /* extensions of a server's greeting that are looked at, and what is before */
#define TLS_CLIENT_HELLO 1
#define TLS_SERVER_HELLO 2
#define TLS_SERVER_NAME 0
#define TLS_NEXT_PROTOCOL 16
#define TLS_SUPPORTED_VERSIONS 43
#define TLS_NAME_MAX 64
#define TLS_PROTOCOL_MAX 16
#define TLS_FATAL 2
#define TLS_SEALED_ALERT 19 /* bytes of an alert that TLS 1.3 encrypts: two, a type and a tag */

enum tls_hello_at {
	TLS_AT_HEAD,
	TLS_AT_SESSION,
	TLS_AT_CIPHERS,
	TLS_AT_COMPRESSIONS,
	TLS_AT_EXTENSIONS,
	TLS_AT_EXTENSION,
	TLS_AT_END,
};

/* A walk through a greeting (RFC 8446 sections 4.1.2 and 4.1.3), by words of eight bytes. */
struct tls_hello {
	u32 at;	     /* where the next word is wanted */
	u32 end;     /* of the greeting */
	u32 version; /* the server's, 1 to 4 for TLS 1.0 to 1.3; true at TLS_AT_END */
	u32 stage;   /* enum tls_hello_at */
	u32 kind;    /* TLS_CLIENT_HELLO, TLS_SERVER_HELLO, 0: not known yet */
	u32 name;    /* where a client names the server, or a server the protocol; 0: nowhere */
	u32 name_length;
	u32 reserved;
};

struct tls_record {
	u32 at;	    /* sequence number of its first byte */
	u32 length; /* of its payload */
};

/* A header as eight bytes of which five count: the payload's length, 0 for what is none. */
INLINE u32 tls_payload(u64 header)
{
	u32 type = header & 0xff, major = header >> 8 & 0xff, minor = header >> 16 & 0xff;
	u32 length = (header >> 24 & 0xff) << 8 | (header >> 32 & 0xff);

	if (type < TLS_CHANGE_CIPHER || type > TLS_DATA || major != 3 || minor > 4 ||
	    length > TLS_PAYLOAD_MAX)
		return 0;
	return length;
}

INLINE u32 tls_type(u64 header)
{
	return header & 0xff;
}

/* Whether a connection may be one of TLS whose first bytes are these: it begins with a
 * handshake. Of one that is found in its middle a record of data must begin a call. */
INLINE int tls_may_begin(u64 word, u32 length, u32 from_start)
{
	u32 begin = word & 0xffffff;

	if (length < TLS_HEADER || !tls_payload(word))
		return 0;
	return from_start ? (begin & 0xffff) == (3 << 8 | TLS_HANDSHAKE) :
			    begin == (3 << 16 | 3 << 8 | TLS_DATA) ||
				    (begin & 0xffff) == (3 << 8 | TLS_HANDSHAKE);
}

/* Whether a record of `length` bytes can hold just `plain` bytes, by the ciphers of TLS 1.3
 * and those of 1.2 that authenticate as they encrypt. version: as in struct tls_hello. */
INLINE int tls_holds(u32 version, u32 length, u32 plain)
{
	u32 more = length - plain;

	if (version == TLS_1_3)
		return more == TLS_OVERHEAD_13;
	return (more == TLS_OVERHEAD_13 && !version) || more == TLS_OVERHEAD_GCM12 ||
	       more == TLS_OVERHEAD_CHACHA12;
}

/* Whether a record that a client sends holds no request, by its length: a frame of HTTP/2 that asks
 * for nothing (an acknowledgement of settings: 9 bytes, a window or the end of a stream: 13, a
 * ping: 17), an update of keys, an alert, or the last chunk of a body. */
INLINE int tls_says_little(u32 version, u32 length)
{
	u32 overhead = version && version < TLS_1_3 ? TLS_OVERHEAD_GCM12 : TLS_OVERHEAD_13;

	return length <= overhead + 9 || length == overhead + 13 || length == overhead + 17;
}

/* How many bytes `plain` bytes become, each record being `overhead` longer. */
INLINE u32 tls_wire_length(u32 plain, u32 overhead)
{
	return plain + overhead * ((plain + TLS_PLAIN_MAX - 1) / TLS_PLAIN_MAX);
}

/* Whether a record holds application data. TLS 1.3 calls everything so that is encrypted; what
 * comes right after CHANGE_CIPHER, which it sends for the sake of old boxes on the way, is
 * the handshake's. */
INLINE int tls_is_data(struct tls_walk *walk, u64 header)
{
	u32 type = tls_type(header), changed = walk->changed;

	walk->changed = type == TLS_CHANGE_CIPHER;
	return type == TLS_DATA && !changed;
}

/* Whether a client's first encrypted record, of `length` bytes, is an alert: nothing else is
 * so short there, since it would have to be the end of its handshake. */
INLINE int tls_is_refusal(const struct tls_walk *walk, u64 header)
{
	return walk->changed && tls_type(header) == TLS_DATA &&
	       tls_payload(header) == TLS_SEALED_ALERT;
}

INLINE u32 tls_big16(u64 word, u32 at)
{
	return (word >> (8 * at) & 0xff) << 8 | (word >> (8 * at + 8) & 0xff);
}

/* The version by its number on the wire, 0 for none that is known. */
INLINE u32 tls_minor(u32 version)
{
	return version >= 0x0301 && version <= 0x0304 ? version & 0xff : 0;
}

/* RFC 7301, section 3.1: of a server a list of one protocol. TLS 1.3 says it encrypted. */
INLINE void tls_take_protocol(struct tls_hello *hello, u64 word)
{
	u32 length = word >> 48 & 0xff;

	if (tls_big16(word, 2) != length + 3 || tls_big16(word, 4) != length + 1)
		return;
	hello->name = hello->at + 7; /* behind type and three lengths */
	hello->name_length = length;
}

/* An extension: 1 when it is the one that was looked for, or cannot be told. */
INLINE int tls_take_extension(struct tls_hello *hello, u64 word, u32 have)
{
	u32 type = tls_big16(word, 0), length = tls_big16(word, 2);
	u32 wanted = hello->kind == TLS_CLIENT_HELLO ? TLS_SERVER_NAME : TLS_SUPPORTED_VERSIONS;

	if (type == wanted && have < 6)
		return 1;
	if (type == wanted && wanted == TLS_SERVER_NAME) {
		hello->name = hello->at + 9; /* behind both lengths, its type and its own length */
		hello->name_length = tls_big16(word, 4) - 3;
		return 1;
	}
	if (type == wanted && length == 2) {
		hello->version = tls_minor(tls_big16(word, 4));
		hello->stage = TLS_AT_END;
		return 1;
	}
	if (type == TLS_NEXT_PROTOCOL && hello->kind == TLS_SERVER_HELLO && have >= 7)
		tls_take_protocol(hello, word);
	hello->at += 4 + length;
	if (hello->at == hello->end)
		hello->stage = TLS_AT_END;
	return 0;
}

/* Takes the word at `at`, of which `have` bytes are at hand: 1 when there is nothing more to take.
 * TLS 1.3 hides in an extension, and calls itself 1.2 before. */
INLINE int tls_hello_step(struct tls_hello *hello, u64 word, u32 have)
{
	if (have < (hello->stage == TLS_AT_HEAD ? 6 : 4))
		return 1;
	switch (hello->stage) {
	case TLS_AT_HEAD:
		hello->kind = word & 0xff;
		if (hello->kind != TLS_SERVER_HELLO && hello->kind != TLS_CLIENT_HELLO)
			return 1;
		hello->end = 4 + ((word >> 8 & 0xff) << 16 | tls_big16(word, 2));
		hello->version = tls_minor(tls_big16(word, 4));
		hello->at = 38; /* behind 4 bytes of header, version and random */
		hello->stage = TLS_AT_SESSION;
		return 0;
	case TLS_AT_SESSION:
		hello->at += 1 + (word & 0xff);
		hello->stage = TLS_AT_CIPHERS;
		if (hello->kind == TLS_CLIENT_HELLO)
			break;
		hello->at += 3; /* one cipher and one compression */
		hello->stage = hello->at == hello->end ? TLS_AT_END : TLS_AT_EXTENSIONS;
		break;
	case TLS_AT_CIPHERS:
		hello->at += 2 + tls_big16(word, 0);
		hello->stage = TLS_AT_COMPRESSIONS;
		break;
	case TLS_AT_COMPRESSIONS:
		hello->at += 1 + (word & 0xff);
		hello->stage = TLS_AT_EXTENSIONS;
		break;
	case TLS_AT_EXTENSIONS:
		hello->at += 2;
		hello->stage = TLS_AT_EXTENSION;
		break;
	default:
		if (tls_take_extension(hello, word, have))
			return 1;
	}
	return hello->at >= hello->end;
}

/* Takes up to five bytes of headers: 1 when one is whole. `known` tells whether it is one,
 * `remain` how much follows. */
INLINE int tls_take_header(struct tls_walk *walk, u64 bytes, u32 count, u64 *header)
{
	walk->header |= bytes << (8 * (walk->have & 7));
	walk->have += count;
	if (walk->have < TLS_HEADER)
		return 0;
	*header = walk->header;
	walk->header = 0;
	walk->have = 0;
	walk->remain = tls_payload(*header);
	walk->known = walk->remain != 0;
	walk->begun = tls_type(*header);
	return 1;
}

#endif
