/* SPDX-License-Identifier: Apache-2.0
 *
 * Headers of TLS records (RFC 8446, 5.1) as they pass the socket, and the records of
 * application data that begin with them: those that were received wait until their plaintext
 * is read.
 */
#ifndef WAGGLE_TLS_RECORDS_H
#define WAGGLE_TLS_RECORDS_H

#include "http1_feed.h"
#include "tls_maps.h"

/* A record is sent while one is expected: is it that? A client may send the end of its
 * handshake, or what waited in the program, before. */
INLINE void on_tls_written(struct tls_connection *tls, u32 at, u32 length)
{
	u32 plain = tls->written < TLS_PLAIN_MAX ? tls->written : TLS_PLAIN_MAX;

	if (at == tls->written_at) {
		tls->placed = 1;
		if (length > plain && length - plain < 256)
			tls->overhead = TLS_HEADER + length - plain;
		tls->expected = at + tls_wire_length(tls->written, tls->overhead);
	} else if ((s32)(at - tls->written_at) > 0 && tls_holds(tls->version, length, plain)) {
		tls->placed = 1;
		tls->shift = at - tls->written_at;
	}
}

/* Counts the data that begins in a call, but for what is no request. Without a change of ciphers
 * before, the first that a client of TLS 1.3 sends is the end of its handshake. */
INLINE void count_burst(struct tls_connection *tls, u32 sent, u32 at, u32 length)
{
	if (sent && ((!tls->sent && tls->version == TLS_1_3 && !(tls->changed & 1 << SENT)) ||
		     tls_says_little(tls->version, length)))
		return;
	if (!tls->burst)
		tls->burst_at = at;
	tls->burst += length;
}

/* A record of application data begins at `at`. */
INLINE void on_tls_data(struct tls_connection *tls, u32 sent, u32 at, u32 length)
{
	struct tls_record *record;

	count_burst(tls, sent, at, length);
	if (sent) {
		tls->sent++;
		if (tls->written && !tls->placed)
			on_tls_written(tls, at, length);
		return;
	}
	record = &tls->queue[masked(tls->received, TLS_QUEUE - 1)];
	record->at = at;
	record->length = length;
	tls->received++;
}

/* Reads what comes next of a header. */
PROVEN_ONCE int wire_header(struct scratch *scratch, struct tls_connection *tls, u32 sent)
{
	u64 bytes = 0, header = 0;
	struct feed_state *state;
	struct tls_walk *at;
	u32 left, want;

	if (!scratch || !tls)
		return 0;
	state = &scratch->state;
	at = &tls->walk[sent & 1];
	left = state->length - state->offset;
	want = TLS_HEADER - at->have;
	if (want > left)
		want = left;
	if (!state->base || (!at->known && (state->offset || !state->first_of_call)) ||
	    read_bytes(state, &bytes, masked(want, 7) & 7, state->base + state->offset)) {
		at->known = 0;
		at->have = 0;
		at->header = 0;
		state->offset = state->length;
		return 0;
	}
	state->offset += want;
	if (!tls_take_header(at, bytes, want, &header))
		return 0;
	if (tls->role && sent == (tls->role == WAGGLE_ROLE_CLIENT) && !tls->failed &&
	    tls_is_refusal(at, header))
		tls->failed = TLS_FAILED;
	if (!at->known)
		state->offset = state->length;
	else if (tls_is_data(at, header))
		on_tls_data(tls, sent, state->position + state->offset - TLS_HEADER, at->remain);
	if (at->changed) {
		tls->changed |= 1 << (sent & 1);
		tls->done_ns = state->now;
	}
	return 0;
}

#endif
