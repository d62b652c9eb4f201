/* SPDX-License-Identifier: Apache-2.0
 *
 * The plain side: functions of TLS libraries that are given plaintext or give it
 * (probes/tls). It enters where bytes of a socket do (on_call), as bytes of the
 * connection that the object belongs to.
 *
 * Which connection? Never by a guess: by the descriptor that the object itself holds; by
 * the call that passes ciphertext within the same function of the same thread (bind_in_call);
 * or, where a library is only given bytes, by these bytes, which came from one socket.
 */
#ifndef WAGGLE_TLS_PROBES_H
#define WAGGLE_TLS_PROBES_H

#include "endpoint.h"
#include "fd_socket.h"
#include "process.h"
#include "tls_wire.h"

#define BIO_TYPE_MASK 0xffff
#define BIO_MEMORY 0x0401 /* OpenSSL's bio.h: bytes in memory, */
#define BIO_SOCKET 0x0505 /* a socket, */
#define BIO_DESCRIPTOR 0x0504 /* and any descriptor */
#define BIO_WORDS 8 /* of a BIO that say what it is; where they lie further on it is not asked */

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(u32));
	__uint(value_size, sizeof(u32));
} behind_tls SEC(".maps"); /* user space puts tls_call there */

/* Where no program can hold its CPU: one that is preempted here by its like. */
MAP(tls_busy, BPF_MAP_TYPE_PERCPU_ARRAY, 1, u32, u64, 0);

OUT_OF_LINE struct tls_session *tls_session_of(const struct tls_session_key *key, u32 epoch)
{
	struct tls_session fresh = { .epoch = epoch };
	struct tls_session *session = bpf_map_lookup_elem(&tls_sessions, key);

	if (session && session->epoch == epoch)
		return session;
	/* While there were no probes, nobody knows what was said. */
	fresh.missed = !!session;
	fresh.seen_ns = bpf_ktime_get_ns();
	if (session) {
		*session = fresh;
		return session;
	}
	/* Another thread may just have made it: what it wrote there must not go elsewhere. */
	bpf_map_update_elem(&tls_sessions, key, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&tls_sessions, key);
}

INLINE void session_key_of(struct tls_session_key *key, u64 ssl)
{
	key->ssl = ssl;
	key->tgid = bpf_get_current_pid_tgid() >> 32;
	key->reserved = 0;
}

/* The other session's plaintext is this one's ciphertext: neither is what it seems. */
INLINE void mark_nested(u64 ssl)
{
	struct tls_session_key key;
	struct tls_session *session;

	session_key_of(&key, ssl);
	session = bpf_map_lookup_elem(&tls_sessions, &key);
	if (session)
		session->nested = 1;
}

/* What it says now, nobody hears. */
INLINE void mark_missed(u64 ssl)
{
	struct tls_session_key key;
	struct tls_session *session;

	session_key_of(&key, ssl);
	session = bpf_map_lookup_elem(&tls_sessions, &key);
	if (session)
		session->missed = 1;
}

/* What passes now has no place. */
INLINE void lose_plaintext(struct tls_session *session)
{
	session->missed = 1;
	count(WAGGLE_COUNT_LOST_TLS_UNBOUND);
}

/* The thread enters a function. Returns what is kept of it. */
INLINE struct tls_thread *enter_tls(struct pt_regs *registers, u32 kind)
{
	u64 cookie, stack = registers->sp;
	struct tls_thread *thread = tls_thread_here(BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!thread)
		return 0;
	cookie = bpf_get_attach_cookie(registers);
	if (thread->ssl && thread->ssl != registers->di && stack < thread->stack)
		mark_nested(thread->ssl);
	thread->ssl = registers->di;
	thread->buffer = registers->si;
	thread->length = cookie & TLS_RESULT_IS_COUNT ? (u32)registers->dx :
			 registers->dx > 0x7fffffff	 ? 0x7fffffff :
							   (u32)registers->dx;
	thread->result = cookie & TLS_RESULT_IS_COUNT ? 0 : registers->cx;
	thread->stack = stack;
	thread->sock = 0;
	thread->unplaced = 0;
	thread->ahead = 0;
	thread->from = 0;
	thread->layout = cookie & (TLS_LAYOUTS - 1);
	thread->epoch = cookie >> TLS_EPOCH_SHIFT;
	thread->mode = 0; /* not asked for yet */
	thread->kind = kind;
	return thread;
}

/* The function returns: how many bytes, 0 for none. */
INLINE u32 tls_result(const struct tls_thread *thread, struct pt_regs *registers)
{
	s32 result = registers->ax;

	if (result <= 0)
		return 0;
	return thread->result ? (u32)word_at(thread->result) : (u32)result;
}

SEC("uprobe")
int tls_write(struct pt_regs *registers)
{
	struct tls_thread *thread = enter_tls(registers, TLS_WRITES);

	if (thread && (s32)thread->length > 0)
		bpf_tail_call(registers, &behind_tls, 0);
	return 0;
}

/* Not all of it was written: what was given is given again. */
INLINE void keep_ahead(struct tls_thread *thread, u32 result)
{
	struct tls_session_key key;
	struct tls_session *session;

	session_key_of(&key, thread->ssl);
	session = bpf_map_lookup_elem(&tls_sessions, &key);
	if (!session)
		return;
	if (thread->ahead > result)
		session->ahead = thread->ahead - result;
	if (result && thread->unplaced)
		lose_plaintext(session);
}

SEC("uprobe")
int tls_wrote(struct pt_regs *registers)
{
	struct tls_thread *thread = tls_thread_here(0);
	u32 result;

	if (!thread || !thread->ssl)
		return 0;
	result = tls_result(thread, registers);
	if ((thread->ahead && thread->ahead != result) || thread->unplaced)
		keep_ahead(thread, result);
	thread->ssl = 0;
	return 0;
}

SEC("uprobe")
int tls_read(struct pt_regs *registers)
{
	struct tls_thread *thread = enter_tls(registers, TLS_READS);
	struct tls_session_key key;
	struct tls_session *session;

	if (!thread)
		return 0;
	/* Many ask until there is nothing more. */
	if (thread->last == thread->ssl) {
		thread->last = 0;
		return 0;
	}
	session_key_of(&key, thread->ssl);
	session = bpf_map_lookup_elem(&tls_sessions, &key);
	if (session && session->sock && session->epoch == thread->epoch)
		return 0;
	thread->kind = TLS_SHAKES; /* for now: only to find its connection */
	bpf_tail_call(registers, &behind_tls, 0);
	return 0;
}

/* The object asks for more: what its connection has received, but for a record that is not
 * whole, has been read. */
INLINE void has_read_all(struct tls_thread *thread)
{
	struct tls_session_key key;
	struct tls_session *session;
	struct tls_connection *tls;

	session_key_of(&key, thread->ssl);
	session = bpf_map_lookup_elem(&tls_sessions, &key);
	tls = session ? tls_of(session->sock) : 0;
	if (!tls || tls->ssl != key.ssl)
		return;
	tls->taken = tls->received - (tls->walk[RECEIVED].remain ? 1 : 0);
	tls->read_left = 0;
	tls->unsure = 0;
	thread->unsure = 0;
}

SEC("uprobe")
int tls_did_read(struct pt_regs *registers)
{
	struct tls_thread *thread = tls_thread_here(0);

	if (!thread || !thread->ssl)
		return 0;
	thread->kind = TLS_READS;
	thread->length = tls_result(thread, registers);
	if (thread->length)
		bpf_tail_call(registers, &behind_tls, 0);
	if (thread->unsure == thread->ssl)
		has_read_all(thread);
	thread->ssl = 0;
	return 0;
}

SEC("uprobe")
int tls_handshake(struct pt_regs *registers)
{
	if (enter_tls(registers, TLS_SHAKES))
		bpf_tail_call(registers, &behind_tls, 0);
	return 0;
}

SEC("uprobe")
int tls_shook(struct pt_regs *registers)
{
	struct tls_thread *thread = tls_thread_here(0);

	if (thread)
		thread->ssl = 0;
	return 0;
}

/* SSL_free: soon its address is another's. */
SEC("uprobe")
int tls_free(struct pt_regs *registers)
{
	struct tls_session_key key;

	session_key_of(&key, registers->di);
	bpf_map_delete_elem(&tls_sessions, &key);
	return 0;
}

/* The socket that was the last to receive what ends there. */
INLINE u64 socket_of_tail(u64 end)
{
	struct tls_tail tail = {};
	u64 *sock;

	if (bpf_probe_read_user(&tail, sizeof(tail), (void *)(end - sizeof(tail))))
		return 0;
	sock = bpf_map_lookup_elem(&tls_tails, &tail);
	return sock ? *sock : 0;
}

/* Of a BIO in memory. Whose it is does not matter: what is not a place where received
 * bytes end has no bytes that were received. */
INLINE u64 socket_of_bytes(const struct waggle_tls_layout *layout, u64 bio)
{
	u64 data = word_at(bio + layout->data), memory, sock;

	/* OpenSSL's struct bio_buf_mem_st: two BUF_MEM (length, data), the second is read from. */
	memory = word_at(data + 8);
	sock = socket_of_tail(word_at(memory) + word_at(memory + 8));
	if (sock)
		return sock;
	/* Node's NodeBIO: the buffer that is written to, with its bytes' end and place. */
	memory = word_at(data + 48);
	return socket_of_tail(word_at(memory + 16) + word_at(memory + 40));
}

/* A BIO as far as it says what it is: as many words of it as hold its kind and its descriptor. */
struct bio {
	u64 words[BIO_WORDS];
};

/* What a BIO is. Asked for once while an object has the same kind of BIO: what says it is a table of
 * functions that lives as long. */
INLINE u32 type_of_bio(struct tls_session *session, u64 method)
{
	if (session->method != method) {
		session->type = word_at(method) & BIO_TYPE_MASK;
		session->method = method;
	}
	return session->type;
}

/* The socket that the object itself says it reads from: 0 where it has none or does not say. */
INLINE u64 socket_of_ssl(const struct waggle_tls_layout *layout, struct tls_thread *thread,
			 struct tls_session *session)
{
	u64 address = word_at(thread->ssl + layout->reader), sock = 0;
	struct bio bio = {};
	u32 type, number;

	/* It is given another only when that has been made: the same address is the same BIO. */
	if (address && address == session->memory && session->sock) {
		thread->by_bytes = 1;
		return session->sock;
	}
	session->memory = 0;
	if (bpf_probe_read_user(&bio, sizeof(bio), (void *)address))
		return 0;
	type = type_of_bio(session, bio.words[masked(layout->method / 8, BIO_WORDS - 1)]);
	thread->by_bytes = type == BIO_MEMORY;
	if (type == BIO_SOCKET || type == BIO_DESCRIPTOR) {
		number = bio.words[masked(layout->number / 8, BIO_WORDS - 1)] >>
			 (layout->number & 4 ? 32 : 0);
		sock = socket_of_fd(number);
	} else if (thread->by_bytes) {
		session->memory = address;
		sock = session->sock ? session->sock : socket_of_bytes(layout, address);
	}
	return sock;
}

/* The socket of the current call's object; 0: not known. */
OUT_OF_LINE u64 find_tls_socket(struct tls_thread *thread, struct tls_session *session)
{
	u32 index = thread->layout & (TLS_LAYOUTS - 1);
	struct waggle_tls_layout *layout;
	u64 sock;

	thread->by_bytes = 0;
	if (thread->sock)
		return thread->sock;
	/* What it received just now came from the connection that it was known by before. */
	if (thread->from && thread->from == session->sock)
		return thread->from;
	layout = bpf_map_lookup_elem(&tls_layouts, &index);
	if (!layout || !layout->known || layout->number >= sizeof(struct bio) ||
	    layout->method >= sizeof(struct bio))
		return session->sock;
	sock = socket_of_ssl(layout, thread, session);
	return sock ? sock : session->sock;
}

/* The connection may have been given up, since what passes it is no HTTP: in the clear. */
INLINE void begin_tls(struct connection *connection)
{
	if (is_tls(connection))
		return;
	if (connection->sent.started || connection->received.started ||
	    connection->flags & CONNECTION_DEAD) {
		connection->flags &= ~(CONNECTION_DEAD | CONNECTION_FROM_START);
		connection->flags |= CONNECTION_RESYNCED;
		connection->responses = connection->requests;
		connection->role = WAGGLE_ROLE_NONE;
		connection->sent.state = HTTP1_LOST;
		connection->received.state = HTTP1_LOST;
	}
	connection->encrypted = 1;
}

/* The connection of a socket, made when no call has shown it yet. */
OUT_OF_LINE struct connection *connection_of_socket(struct call *call, u64 sock)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, &sock);

	if (!connection) {
		call->sk = sock;
		if (!tcp_call_by_address(call))
			return 0;
		connection = connection_of(call);
		if (!connection)
			return 0;
		connection->sent_base = call->endpoint.sent_base;
		connection->received_base = call->endpoint.received_base;
	}
	if (connection->family == AF_UNIX)
		return 0;
	begin_tls(connection);
	return connection;
}

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

/* Gives the call what of the plaintext is new; 0 when nothing is. */
INLINE u32 take_plaintext(struct tls_thread *thread, struct tls_session *session,
			  struct tls_connection *tls, struct call *call, u64 sock)
{
	u32 length = thread->length, seen = 0;

	call->memory.base = thread->buffer;
	if (thread->kind == TLS_READS) {
		call->endpoint.position = read_position(tls, length);
		call->memory.length = length;
		return length;
	}
	/* A write that did not happen is tried again, with the same bytes to begin with. */
	seen = session->ahead < length ? session->ahead : length;
	if (thread->kind == TLS_WRITES) {
		thread->ahead = session->ahead > length ? session->ahead : length;
		session->ahead = 0; /* until it is known that not all of it was written */
	}
	if (seen == length)
		return 0;
	call->memory.base += seen;
	call->memory.length = length - seen;
	call->endpoint.position = written_position(tls, sock, length - seen);
	return length - seen;
}

/* Makes the plaintext that the thread has read or is about to write a call of its
 * connection. Returns 0 when there is nothing new in it. */
INLINE int plaintext_call(struct tls_thread *thread, struct tls_session *session,
			  struct tls_connection *tls, struct connection *connection,
			  struct call *call, u64 sock)
{
	struct http1_stream *stream;

	if (connection->flags & CONNECTION_DEAD)
		return 0;
	call->sent = thread->kind != TLS_READS;
	if (!take_plaintext(thread, session, tls, call, sock))
		return 0;
	call->sk = sock;
	call->endpoint.sock = sock;
	call->endpoint.family = connection->family;
	call->endpoint.sent_base = connection->sent_base;
	call->endpoint.received_base = connection->received_base;
	stream = call->sent ? &connection->sent : &connection->received;
	stream->started = 1;
	stream->next = call->endpoint.position; /* nothing of it passes unseen */
	if (!call->sent && thread->mode & WAGGLE_PROCESS_RULE_THREAD)
		call->endpoint.blocking =
			serves_what_it_reads((void *)sock, 0, thread->mode);
	return 1;
}

/* The session is the connection's from now on, if memory allows. A function of its own, since the
 * stack below its caller is needed whole. */
OUT_OF_LINE struct tls_connection *join_session(struct tls_thread *thread,
						struct tls_session *session,
						struct connection *connection, u64 sock)
{
	struct tls_connection *tls;
	struct tls_session_key key;

	if (!thread || !session || !connection)
		return 0;
	tls = tls_of(sock);
	if (!tls)
		tls = new_tls(sock);
	if (!tls)
		return 0;
	session_key_of(&key, thread->ssl);
	if (session->sock != sock || tls->ssl != key.ssl || session->missed) {
		session->by_bytes = thread->by_bytes;
		session->at_hand = thread->kind == TLS_READS  ? thread->length :
				   thread->kind == TLS_SHAKES ? 0 :
								TLS_WRITING;
		bind_tls(session, connection, tls, &key, sock);
	}
	tls->pulls = !thread->by_bytes;
	if (thread->kind == TLS_WRITES)
		thread->from = sock;
	if (tls->unsure)
		thread->unsure = key.ssl;
	return tls;
}

/* The connection whose plaintext is at hand, if the call is to be fed; null when not. */
OUT_OF_LINE struct connection *on_tls(struct tls_thread *thread, struct call *call)
{
	struct tls_connection *tls;
	struct connection *connection;
	struct tls_session_key key;
	struct tls_session *session;
	u64 sock, now;

	session_key_of(&key, thread->ssl);
	session = tls_session_of(&key, thread->epoch);
	if (!session || session->nested)
		return 0;
	sock = find_tls_socket(thread, session);
	connection = sock ? connection_of_socket(call, sock) : 0;
	if (!connection) {
		now = bpf_ktime_get_ns();
		bpf_map_update_elem(&tls_waiting, &key.tgid, &now, BPF_ANY);
		/* Before the handshake is over a write fails, and is tried again. */
		if (thread->kind == TLS_WRITES)
			thread->unplaced = 1;
		else if (thread->kind != TLS_SHAKES)
			lose_plaintext(session);
		return 0;
	}
	tls = join_session(thread, session, connection, sock);
	if (!tls || thread->kind == TLS_SHAKES ||
	    !plaintext_call(thread, session, tls, connection, call, sock))
		return 0;
	return connection;
}

/* One that holds its CPU, on its own stack as far as possible: what it calls needs the rest. */
INLINE void feed_tls(struct tls_thread *thread)
{
	struct call *call = call_of(SCRATCH_TLS);
	struct connection *connection = call ? on_tls(thread, call) : 0;

	thread->last = 0;
	if (!connection)
		return;
	if (thread->kind == TLS_READS)
		thread->last = thread->ssl;
	on_call(connection, call);
	if (!call->sent && thread->mode & WAGGLE_PROCESS_RULE_TURN)
		remember_turn(connection, call->sk, thread->mode);
}

/* Behind the probes above: attached to nothing. */
SEC("uprobe")
int tls_call(struct pt_regs *registers)
{
	struct tls_thread *thread = tls_thread_here(0);
	u32 zero = 0;
	u64 *busy = bpf_map_lookup_elem(&tls_busy, &zero);

	if (!thread || !thread->ssl || !busy)
		return 0;
	if (!thread->mode)
		thread->mode = traced_mode();
	if (!thread->mode) {
		thread->ssl = 0;
		return 0;
	}
	HOLD_CPU();
	if (*busy) {
		count(WAGGLE_COUNT_LOST_TLS_BUSY);
		mark_missed(thread->ssl);
	} else {
		*busy = 1;
		feed_tls(thread);
		*busy = 0;
	}
	if (thread->kind == TLS_READS || thread->kind == TLS_WROTE_ALL)
		thread->ssl = 0;
	return 0;
}

#endif
