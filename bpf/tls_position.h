/* SPDX-License-Identifier: Apache-2.0
 *
 * Where plaintext lies on the wire: the position of the record that it is written into, or was
 * read from.
 */
#ifndef WAGGLE_TLS_POSITION_H
#define WAGGLE_TLS_POSITION_H

#include "tls_maps.h"
#include "typed.h"

/* Where plaintext that is written will begin on the wire: in the record that is sent next. */
INLINE u32 written_position(struct tls_connection *tls, u64 sock, u32 length)
{
	struct tcp_sock *tcp = (void *)sock;
	u32 at = has_types() ? TYPED(struct tcp_sock, sock)->write_seq :
			       BPF_CORE_READ(tcp, write_seq);

	/* What was written before may still wait in the program. */
	if (tls->written && (s32)(tls->expected - at) > 0)
		at = tls->expected;
	tls->written_at = at;
	tls->written = length;
	tls->placed = 0;
	tls->expected = at + tls_wire_length(length, tls->overhead);
	return at;
}

/* By how much records that are received are longer than what is in them, as far as is known. */
INLINE u32 read_overhead(const struct tls_connection *tls)
{
	if (tls->read_overhead)
		return tls->read_overhead;
	return tls->version && tls->version < TLS_1_3 ? TLS_OVERHEAD_GCM12 : TLS_OVERHEAD_13;
}

/* The plaintext that was just read is the first of this record. */
INLINE u32 begin_record(struct tls_connection *tls, const struct tls_record *record, u32 next,
			u32 length)
{
	tls->taken = next;
	tls->read_at = record->at;
	tls->read_used = length;
	tls->read_left = record->length - length;
	return record->at;
}

/* Nobody knows which record it was: where nothing can begin, in the header of one. */
INLINE u32 at_no_record(const struct tls_connection *tls)
{
	return tls->queue[masked(tls->received - 1, TLS_QUEUE - 1)].at + 3;
}

/* The first of the records that wait to be read, where it is certain that it is the next: what
 * a client has sent once its first plaintext was read is plaintext, and is read in order. A
 * server sends tickets in between, and there is a handshake before. */
INLINE struct tls_record *next_record(struct tls_connection *tls, u32 length)
{
	struct tls_record *record = &tls->queue[masked(tls->taken, TLS_QUEUE - 1)];

	if (!tls->pulls || tls->role != WAGGLE_ROLE_SERVER || !tls->taken ||
	    record->length < length + read_overhead(tls))
		return 0;
	return record;
}

/* Which record held the plaintext that was just read, and where in it: what is left of the
 * last one; or the next; or the first that fits it to the byte; or the first that is long
 * enough. */
INLINE u32 read_position(struct tls_connection *tls, u32 length)
{
	struct tls_record *record;
	u32 at = tls->taken, enough = 0, found = 0;

	if (tls->received - at > TLS_QUEUE)
		tls->unsure = 1;
	if (!tls->unsure && tls->read_left >= length + read_overhead(tls)) {
		at = tls->read_at + tls->read_used;
		tls->read_used += length;
		tls->read_left -= length;
		return at;
	}
	if (tls->unsure || tls->received == at)
		return at_no_record(tls);
	record = next_record(tls, length);
	if (record) {
		if (tls_holds(tls->version, record->length, length))
			tls->read_overhead = record->length - length;
		return begin_record(tls, record, at + 1, length);
	}
#pragma clang loop unroll(full)
	for (u32 i = 0; i < TLS_SEARCHED; i++, at++) {
		record = &tls->queue[masked(at, TLS_QUEUE - 1)];
		if ((s32)(tls->received - at) <= 0)
			continue;
		if (tls_holds(tls->version, record->length, length)) {
			tls->read_overhead = record->length - length;
			return begin_record(tls, record, at + 1, length);
		}
		if (!found && record->length >= length + TLS_OVERHEAD_CHACHA12) {
			enough = at;
			found = 1;
		}
	}
	if (!found)
		return at_no_record(tls);
	record = &tls->queue[masked(enough, TLS_QUEUE - 1)];
	return begin_record(tls, record, enough + 1, length);
}

#endif
