/* SPDX-License-Identifier: Apache-2.0
 *
 * When a server's certificate expires: TLS 1.2 and older say it in the clear. Pure: no map, no
 * helper; also compiled for user mode and tested there.
 */
#ifndef WAGGLE_TLS_CERTIFICATE_H
#define WAGGLE_TLS_CERTIFICATE_H

#include "tls.h"

#define TLS_CERTIFICATE 11	/* type of the message (RFC 5246, section 7.4.2) */
#define TLS_CERTIFICATE_STEPS 12 /* messages and elements on the way there, and one more */
#define DER_INTEGER 0x02
#define DER_UTC_TIME 0x17     /* YYMMDDHHMMSSZ */
#define DER_GENERAL_TIME 0x18 /* YYYYMMDDHHMMSSZ */
#define DER_SEQUENCE 0x30
#define DER_VERSION 0xa0

/* Elements of a certificate (RFC 5280, section 4.1) up to the one that is looked for. */
enum tls_certificate_at {
	CERTIFICATE_MESSAGE,
	CERTIFICATE_WHOLE,
	CERTIFICATE_SIGNED,
	CERTIFICATE_VERSION,
	CERTIFICATE_NUMBER,
	CERTIFICATE_ALGORITHM,
	CERTIFICATE_ISSUER,
	CERTIFICATE_VALIDITY,
	CERTIFICATE_NOT_BEFORE,
	CERTIFICATE_NOT_AFTER,
	CERTIFICATE_DONE,
};

/* A walk through a record of the server's handshake, by words of eight bytes. */
struct tls_certificate {
	u32 at;	    /* where the next word is wanted; at CERTIFICATE_DONE: where the time is */
	u32 stage;  /* enum tls_certificate_at */
	u32 length; /* of the time: 13 or 15 */
	u32 reserved;
};

/* The greeting may be in the same record, before it. */
INLINE int certificate_message(struct tls_certificate *walk, u64 word)
{
	u32 type = word & 0xff, length = (word >> 8 & 0xff) << 16 | tls_big16(word, 2);

	if (type == TLS_SERVER_HELLO && !walk->at) {
		walk->at = 4 + length;
		return 0;
	}
	if (type != TLS_CERTIFICATE)
		return 1;
	walk->at += 10; /* its header, the length of the list and that of the first in it */
	walk->stage = CERTIFICATE_WHOLE;
	return 0;
}

INLINE int is_der_time(u32 tag, u32 length)
{
	return (tag == DER_UTC_TIME && length == 13) || (tag == DER_GENERAL_TIME && length == 15);
}

INLINE u32 certificate_tag(u32 stage)
{
	return stage == CERTIFICATE_VERSION ? DER_VERSION :
	       stage == CERTIFICATE_NUMBER  ? DER_INTEGER :
					      DER_SEQUENCE;
}

/* Takes the word at `at`: 1 when there is nothing more to take. */
INLINE int tls_certificate_step(struct tls_certificate *walk, u64 word)
{
	u32 tag = word & 0xff, length = word >> 8 & 0xff, header = 2;

	if (walk->stage == CERTIFICATE_MESSAGE)
		return certificate_message(walk, word);
	if (length == 0x81) {
		length = word >> 16 & 0xff;
		header = 3;
	} else if (length == 0x82) {
		length = tls_big16(word, 2);
		header = 4;
	} else if (length >= 0x80) {
		return 1;
	}
	if (walk->stage >= CERTIFICATE_NOT_BEFORE) {
		if (!is_der_time(tag, length))
			return 1;
		if (walk->stage == CERTIFICATE_NOT_AFTER)
			walk->length = length;
	} else if (tag != certificate_tag(walk->stage)) {
		/* Of the first version no version is told. */
		if (walk->stage != CERTIFICATE_VERSION || tag != DER_INTEGER)
			return 1;
		walk->stage = CERTIFICATE_NUMBER;
	}
	walk->at += header;
	if (walk->stage != CERTIFICATE_WHOLE && walk->stage != CERTIFICATE_SIGNED &&
	    walk->stage != CERTIFICATE_VALIDITY && walk->stage != CERTIFICATE_NOT_AFTER)
		walk->at += length;
	walk->stage++;
	return walk->stage == CERTIFICATE_DONE;
}

#endif
