/* SPDX-License-Identifier: Apache-2.0
 *
 * What is kept of connections that are encrypted, of the objects that encrypt them, and
 * of threads that are inside of such a library.
 */
#ifndef WAGGLE_TLS_MAPS_H
#define WAGGLE_TLS_MAPS_H

#include "feed.h"
#include "tls.h"

#define TLS_WRITING 0xffffffff
#define TLS_WAITING_NS 1000000000ULL
#define TLS_TAILS 16 /* calls of a connection whose end is kept until its object is known */

/* A connection whose bytes on the wire are records. Its `struct connection` is about
 * the plaintext, whose position is where its record begins, and bytes after that. */
struct tls_connection {
	struct http1_stream wire[2]; /* by enum direction: only what aligns calls */
	struct tls_walk walk[2];
	struct tls_record queue[TLS_QUEUE]; /* received, with data */
	u64 ssl; /* the object whose plaintext this is; 0: not known */
	u64 seen_ns; /* first */
	u32 tgid; /* and its process */
	u32 received; /* records with data so far; the latest lies at that less 1 */
	u32 taken;    /* whose plaintext was read */
	u32 read_at;  /* the record that was read last, */
	u32 read_used; /* how much of its plaintext, */
	u32 read_left; /* and of its payload what was not */
	u32 sent;     /* records with data so far */
	u32 written_at; /* where the plaintext written last was expected to begin, */
	u32 written;  /* its length, */
	u32 expected; /* and where what is written next will, once that has left */
	u32 overhead; /* of a record that is sent, its header too */
	u32 tails;
	u32 unsure; /* which of the queue were read already is not known */
	u32 pulls;  /* its object takes from the socket only when it has nothing left to read */
	u32 placed; /* the record of that has been sent, */
	u32 shift;  /* and began so much later than was expected */
	u32 version; /* of TLS, as in struct tls_hello */
	u32 role; /* enum waggle_role: who greeted first */
	u32 failed; /* enum tls_failure */
	u32 read_overhead; /* of a record that was received; 0: not known yet */
	u32 local_port; /* when it began: a socket that was reset has none any more */
	u32 alert; /* that ended the handshake, where it came in the clear */
	u32 name_length; /* of the server's, as the client calls it; 0: not known */
	u32 protocol_length; /* ALPN, where the server says it in the clear */
	u64 connect_ns; /* of a client: connect() was called, */
	u64 connected_ns; /* and the connection was there */
	u64 done_ns; /* the last change of ciphers */
	u32 changed; /* a bit for each direction in which there was one */
	u32 told; /* the handshake is */
	u32 burst; /* payload of records with data that began in the call at hand, */
	u32 burst_at; /* and where the first of them did */
	u32 opaque; /* an exchange is open that nobody can read (tls_opaque.h), */
	u32 begun;  /* and how many of those there were */
	u8 name[TLS_NAME_MAX];
	u8 protocol[TLS_PROTOCOL_MAX];
	u8 not_after[WAGGLE_NOT_AFTER]; /* of the server's certificate, as it is written there */
	u32 not_after_length;		/* 0: not known */
	u32 reserved;
};

/* When a socket was told to connect, until its first record. */
struct tls_connect {
	u64 connect_ns;
	u64 connected_ns;
};

/* What may be told in a second, on the whole machine. */
enum tls_budget_of { TLS_BUDGET_OPAQUE = 0, TLS_BUDGET_HANDSHAKES = 1, TLS_BUDGETS = 2 };

struct tls_budget {
	u64 second;
	u64 used;
};

enum tls_failure { TLS_FINE = 0, TLS_FAILED = 1, TLS_TOLD = 2 };

struct tls_session_key {
	u64 ssl;
	u32 tgid;
	u32 reserved;
};

/* What is known of an object of a library (OpenSSL: SSL). */
struct tls_session {
	u64 sock;    /* its connection; 0: not known */
	u64 seen_ns; /* first */
	u32 ahead;   /* plaintext we were given of a write that did not happen (yet) */
	u8 missed;   /* plaintext has passed that nobody could place */
	u8 nested;   /* carries or is carried by another session: not followed */
	u8 by_bytes; /* has no socket of its own, and is known by what it is given */
	u8 reserved;
	u32 epoch; /* of the probes that saw it last */
	u32 at_hand; /* plaintext that is read now: bytes; TLS_WRITING where it is written */
	u64 memory; /* it reads from this, which is bytes in memory; 0: from something else */
	u64 method; /* of what it reads from, which says what that is: */
	u32 type;   /* OpenSSL's BIO_TYPE */
	u32 padding;
};

/* WROTE_ALL: a function that writes all it is given, or breaks the connection. */
enum tls_call_kind { TLS_READS = 1, TLS_WRITES = 2, TLS_SHAKES = 3, TLS_WROTE_ALL = 4 };

/* The function of the library that a thread is in. */
struct tls_thread {
	u64 ssl; /* 0: in none */
	u64 buffer;
	u64 result; /* where the function leaves how many bytes; 0: it returns that */
	u64 stack;
	u64 sock; /* the object's, where the probe knows it; else 0 */
	u32 length; /* of plaintext: asked for, then read */
	u32 layout; /* index into tls_layouts */
	u32 mode;   /* of the process */
	u32 kind;   /* enum tls_call_kind */
	u32 epoch;  /* another whenever probes are put into a process */
	u32 by_bytes; /* the object has no socket of its own */
	u32 unplaced; /* what it writes now has no place yet: lost, if it is written */
	u32 ahead; /* of what is written now is new: bytes */
	u64 from; /* in this call the object has passed bytes of its connection, or says that it
		   * will: that; else 0 */
	u64 last; /* the object whose plaintext was read in the call before; else 0 */
	u64 unsure; /* an object of which some that was received may have been read before */
};

/* The last bytes of what a socket has received, which a library is given next: ciphertext
 * and random, so that they are found nowhere else. */
struct tls_tail {
	u64 words[2];
};

#define TLS_RESULT_IS_COUNT 0x10000 /* of an attach cookie; below it the layout's index, */
#define TLS_EPOCH_SHIFT 32	    /* and above it the epoch of the probes */
#define TLS_LAYOUTS 256

MAP(tls_connections, BPF_MAP_TYPE_HASH, 16384, u64, struct tls_connection, ON_DEMAND);
MAP(tls_sessions, BPF_MAP_TYPE_LRU_HASH, 16384, struct tls_session_key, struct tls_session, 0);
MAP(tls_tails, BPF_MAP_TYPE_LRU_HASH, 4096, struct tls_tail, u64, 0);
/* Since when all probes are in a process, by user space. */
MAP(tls_since, BPF_MAP_TYPE_LRU_HASH, 4096, u32, u64, 0);
/* Processes in which something waits to be told by its bytes which connection it is, and since
 * when it did last. */
MAP(tls_waiting, BPF_MAP_TYPE_LRU_HASH, 1024, u32, u64, 0);
MAP(tls_connects, BPF_MAP_TYPE_LRU_HASH, 4096, u64, struct tls_connect, 0);
MAP(tls_budgets, BPF_MAP_TYPE_ARRAY, TLS_BUDGETS, u32, struct tls_budget, 0);
MAP(tls_layouts, BPF_MAP_TYPE_ARRAY, TLS_LAYOUTS, u32, struct waggle_tls_layout, 0);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 << 10);
} handshake_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, ON_DEMAND);
	__type(key, int);
	__type(value, struct tls_thread);
} tls_threads SEC(".maps");

INLINE struct tls_thread *tls_thread_here(u64 flags)
{
	return bpf_task_storage_get(&tls_threads, (struct task_struct *)bpf_get_current_task_btf(), 0,
				    flags);
}

INLINE struct tls_connection *tls_of(u64 sock)
{
	return bpf_map_lookup_elem(&tls_connections, &sock);
}

OUT_OF_LINE struct tls_connection *new_tls(u64 sock)
{
	struct tls_connection *fresh = BLANK(struct tls_connection);

	if (!fresh || bpf_map_update_elem(&tls_connections, &sock, fresh, BPF_NOEXIST))
		count(WAGGLE_COUNT_LOST_CONNECTION_MAP_FULL);
	else
		count(WAGGLE_COUNT_TLS_CONNECTIONS);
	fresh = tls_of(sock);
	if (fresh) {
		fresh->overhead = TLS_HEADER + TLS_OVERHEAD_13;
		fresh->seen_ns = bpf_ktime_get_ns();
	}
	return fresh;
}

/* Roughly: processors that count at once may count one for two. */
INLINE int within_budget(u32 which, u32 rate)
{
	struct tls_budget *budget = bpf_map_lookup_elem(&tls_budgets, &which);
	u64 second = bpf_ktime_get_ns() / 1000000000;

	if (!budget)
		return 0;
	if (budget->second != second) {
		budget->second = second;
		budget->used = 0;
	}
	return budget->used++ < rate;
}

/* The connection is gone, and so is what was known of its object. */
INLINE void forget_tls(u64 sock)
{
	struct tls_session_key key = {};
	struct tls_connection *tls;
	struct tls_session *session;

	tls = tls_of(sock);
	if (tls && tls->ssl) {
		key.ssl = tls->ssl;
		key.tgid = tls->tgid;
		session = bpf_map_lookup_elem(&tls_sessions, &key);
		if (session && session->sock == sock)
			bpf_map_delete_elem(&tls_sessions, &key);
	}
	bpf_map_delete_elem(&tls_connections, &sock);
}

#endif
