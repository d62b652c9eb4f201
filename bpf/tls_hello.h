/* SPDX-License-Identifier: Apache-2.0
 *
 * Records of a handshake that pass in the clear: both hellos, an alert, and a server's
 * certificate up to TLS 1.2. They tell who is the client, what both speak, and why it failed.
 */
#ifndef WAGGLE_TLS_HELLO_H
#define WAGGLE_TLS_HELLO_H

#include "tls_certificate.h"
#include "tls_maps.h"
#include "user_memory.h"

struct hello_walk {
	struct tls_hello hello;
	u64 base;
	u64 length; /* of what is at hand */
};

static long hello_step(u32 index, void *context)
{
	struct hello_walk *walk = context;

	if (walk->hello.at >= walk->length)
		return 1;
	return tls_hello_step(&walk->hello, word_at(walk->base + walk->hello.at),
			      (u32)walk->length - walk->hello.at);
}

/* Who is the client, and what does it call the server? */
INLINE void on_client_hello(struct tls_connection *tls, const struct hello_walk *walk, u32 sent)
{
	u32 length = walk->hello.name_length;

	tls->role = sent ? WAGGLE_ROLE_CLIENT : WAGGLE_ROLE_SERVER;
	if (walk->hello.name && length && length < TLS_NAME_MAX &&
	    walk->hello.name + length <= walk->length &&
	    !bpf_probe_read_user(tls->name, masked(length, TLS_NAME_MAX - 1),
				 (void *)(walk->base + walk->hello.name)))
		tls->name_length = masked(length, TLS_NAME_MAX - 1);
}

/* What do both speak? */
INLINE void on_server_hello(struct tls_connection *tls, const struct hello_walk *walk)
{
	u32 length = walk->hello.name_length;

	tls->version = walk->hello.version;
	if (walk->hello.name && length && length < TLS_PROTOCOL_MAX &&
	    walk->hello.name + length <= walk->length &&
	    !bpf_probe_read_user(tls->protocol, masked(length, TLS_PROTOCOL_MAX - 1),
				 (void *)(walk->base + walk->hello.name)))
		tls->protocol_length = masked(length, TLS_PROTOCOL_MAX - 1);
}

/* A record of the handshake begins. */
PROVEN_ONCE int read_hello(struct tls_connection *tls, u64 base, u64 length, u32 sent)
{
	struct hello_walk walk = { .base = base, .length = length };

	if (!tls || tls->version || !base)
		return 0;
	LOOP(TLS_HELLO_STEPS, hello_step, &walk);
	if (walk.hello.kind == TLS_CLIENT_HELLO && !tls->role)
		on_client_hello(tls, &walk, sent);
	else if (walk.hello.kind == TLS_SERVER_HELLO && walk.hello.stage == TLS_AT_END)
		on_server_hello(tls, &walk);
	return 0;
}

/* An alert in the clear, which ends the handshake unless it is a warning. */
INLINE void read_alert(struct tls_connection *tls, u64 base, u64 length)
{
	u64 word = base && length >= 2 ? word_at(base) : 0;

	if ((word & 0xff) != TLS_FATAL || tls->failed)
		return;
	tls->failed = TLS_FAILED;
	tls->alert = word >> 8 & 0xff;
}

struct certificate_walk {
	struct tls_certificate certificate;
	u64 base;
	u64 length; /* of what is at hand */
};

static long certificate_step(u32 index, void *context)
{
	struct certificate_walk *walk = context;

	if (walk->certificate.at + sizeof(u64) > walk->length)
		return 1;
	return tls_certificate_step(&walk->certificate,
				    word_at(walk->base + walk->certificate.at));
}

/* A record of a server's handshake that is in the clear: until when is it who it says? */
PROVEN_ONCE int read_certificate(struct tls_connection *tls, u64 base, u64 length)
{
	struct certificate_walk walk = { .base = base, .length = length };
	u32 size;

	if (!tls || !base)
		return 0;
	LOOP(TLS_CERTIFICATE_STEPS, certificate_step, &walk);
	size = masked(walk.certificate.length, WAGGLE_NOT_AFTER - 1);
	if (walk.certificate.stage == CERTIFICATE_DONE && walk.certificate.at + size <= length &&
	    !bpf_probe_read_user(tls->not_after, size, (void *)(base + walk.certificate.at)))
		tls->not_after_length = size;
	return 0;
}

INLINE int may_hold_certificate(const struct tls_connection *tls, u32 sent)
{
	return tls->version && tls->version < TLS_1_3 && !tls->not_after_length &&
	       sent == (tls->role == WAGGLE_ROLE_SERVER);
}

/* A record begins whose first bytes are at hand. */
INLINE void on_record(struct tls_connection *tls, const struct tls_walk *at, u64 base, u64 length,
		      u32 sent)
{
	if (at->begun == TLS_HANDSHAKE) {
		read_hello(tls, base, length, sent);
		if (may_hold_certificate(tls, sent))
			read_certificate(tls, base, length);
	}
	if (at->begun == TLS_ALERT && at->remain == 2)
		read_alert(tls, base, length);
}

#endif
