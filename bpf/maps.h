/* SPDX-License-Identifier: Apache-2.0
 *
 * Every map, its bound, and what is in it. What happens at a bound is said at
 * the place that inserts: a counter of enum waggle_counter goes up and the thing
 * is not recorded. Nothing here grows without one.
 */
#ifndef WAGGLE_MAPS_H
#define WAGGLE_MAPS_H

#include "code_walk.h"
#include "context.h"
#include "http1_body.h"
#include "kernel_types.h"
#include "propagators.h"
#include "waggle.h"

/* Set by user space before the object is loaded. */
const volatile u32 agent_tgid = 0;
const volatile u32 trace_all = 0;	  /* whoever has no entry is traced, provisionally */
const volatile u32 watch_processes = 0;	  /* provisional capture of every new program */
const volatile u64 shape_seed = 1;	  /* so that nobody can aim for collisions */
const volatile u32 turn_proof = 20;	  /* agreeing responses before rule `turn` is trusted */
const volatile u32 early_proof = 20;	  /* agreeing answers before a prediction is trusted */
const volatile u32 birth_proof = 1;	  /* goroutines that ended before others like them inherit */
const volatile u32 context_rate = 100000; /* contexts a process may copy in a second */

const volatile u32 inject_wanted = 0;	  /* headers may be written into requests (inject.h) */
const volatile u32 headers_first = 0;	  /* rather than wait for the proof of a parent */
/* Formats of trace context: the strongest, of which a request has a valid one, counts, and
 * has rank 1; rank 0: nobody looks for it. */
#define FORMATS 5
const volatile u32 rank_of_tracecontext = 1;
const volatile u32 rank_of_b3 = 2;
const volatile u32 rank_of_jaeger = 3;
const volatile u32 rank_of_xray = 4;
const volatile u32 rank_of_trace_bin = 5;
const volatile u32 keep_baggage = 0;

const volatile u32 tls_wanted = 0;    /* plaintext comes from libraries (tls_probes.h) */
const volatile u32 tcp_option_on = 0; /* tcp_option.h is attached */

const volatile u32 sampling_mode = 0;	  /* enum sampling_mode; 0: no sampler, no cost */
const volatile u32 sample_rules_for_all = 0; /* bits of the rules that ask for no service */

/* When a hand-off was last left, to the second: where nobody leaves any, nobody looks. */
u64 last_handoff_ns = 0;

/* Address of the bytes that a struct page at address 0 would stand for, 0: not known. With
 * it the bytes of a message of the kernel's own pages can be read (inject.h). */
u64 page_origin = 0;

enum connection_flag {
	CONNECTION_DEAD = 1,	    /* judged, and not HTTP */
	CONNECTION_SERVER_OPEN = 2, /* counted in its thread's and process's open requests */
	CONNECTION_BLOCKING = 4,    /* the request was read by a call that blocks */
	CONNECTION_RESYNCED = 8,    /* found in mid-stream, no response seen yet */
	CONNECTION_FRESH = 16,	    /* no request sent on it yet */
	CONNECTION_FROM_START = 32, /* seen from its first byte */
	CONNECTION_DELTA_KNOWN = 64, /* unix_delta holds */
	CONNECTION_PEER_CLOSED = 128,
	CONNECTION_COUNTED = 256, /* among its process's open requests */
	CONNECTION_RULES = 512,	  /* the response may prove a rule other than `thread` */
	CONNECTION_ROUTED = 2048, /* whoever answers can be asked for the route */
	CONNECTION_WATCHED = 1024, /* whoever answers has called: does he go on answering? */
	CONNECTION_UNSURE = 32768, /* where the next request begins is likely but not proven */
	CONNECTION_PROVES = 4096, /* among its process's `unanswered` */
	/* Of a protocol that we do not know, under rule `turn` (carry_turn): */
	CONNECTION_ASKS = 8192,	  /* something was written since it was read last, */
	CONNECTION_SHARED = 16384, /* and once by several requests at a time */
	/* Of HTTP/1 in Go, the same bit: answered by a handler that took it from net/http. */
	CONNECTION_TAKEN = CONNECTION_SHARED,
	/* Of a protocol that we do not know, the same bits: whose request it bears is known, */
	CONNECTION_CARRIED = CONNECTION_ROUTED,
	CONNECTION_ANSWERED = CONNECTION_WATCHED, /* and that has been answered, or begun to */
};

/* A request that something may be a child of. */
struct owner {
	u64 sock;  /* of the server connection, 0: nobody */
	u32 index; /* of the exchange on it */
	u32 tid;
};

struct exchange_key {
	u64 sock;
	u32 index;
	u32 reserved;
};

/* An exchange that is not finished: the record as it will leave, and who owns it. */
struct open_exchange {
	struct owner owner; /* the server exchange a client exchange is a child of */
	struct waggle_exchange record;
};

struct open_large_exchange {
	struct owner owner;
	struct waggle_large_exchange record;
};

/* What the next segments of a client's connection shall tell a machine elsewhere. */
#define OPTION_IDS 24
enum option_state { OPTION_NONE = 0, OPTION_OFFERED = 1 };
struct offered_option {
	u32 position; /* of the request's first byte: the segment that begins with it bears it */
	u8 state;     /* enum option_state */
	u8 tries;     /* segments that were sent with it */
	u8 sampled;
	u8 reserved;
	u8 ids[OPTION_IDS]; /* trace id, span id */
	u64 call_ns; /* when the call began that sends the request */
};

/* One socket of a process we look at. */
struct connection {
	struct http1_stream sent;
	struct http1_stream received;
	struct owner turn_owner; /* client: who called connect, then who sent the last request */
	u64 peer_sock;		    /* UNIX sockets: the other end, and our inode: */
	u64 inode;		    /* together they tell a reused address */
	u64 last_ns;		    /* of the last call with bytes */
	u32 sent_base;		    /* sequence number of the first byte ever sent */
	u32 received_base;
	u32 requests;  /* begun on this connection since we know it */
	u32 responses; /* finished; the difference is open */
	u32 owner_tid; /* who read the request that is open (server) */
	u32 tgid;
	u8 role; /* enum waggle_role */
	u8 tries; /* calls in mid-stream that looked like nothing */
	u16 flags;
	u32 unix_left; /* of a UNIX send that the kernel does in pieces */
	u64 unix_call; /* its buffer, to know the pieces belong together */
	u32 unix_delta; /* the receiver's position less ours */
	u32 unix_resend; /* bytes the kernel refused, which will come again */
	u32 current_index; /* of the exchange below */
	u8 current_used;   /* 0: none there */
	u8 family;
	u16 injected; /* bytes that we wrote into the request at injected_at, 0: none */
	u64 reader; /* rules `task`, `goroutine`: the context or goroutine that read the last request */
	u64 serves; /* Go: the net/http.conn that this is, while `reader` is sure to read it */
	u64 reader_g; /* where that goroutine's g lies; odd: it may be another's by now; 0: not known */
	u64 reader_ns; /* and when that was last looked at as a whole */
	u32 go_made; /* goroutines_made then */
	u32 go_goid;   /* with `serves`: of its process, as in waggle_go */
	u64 writer; /* and the generation and address of the one that wrote the last answer */
	u64 writer_context;
	u32 copied; /* index + 1 of the request for which a context was copied */
	u32 injected_at;
	u64 injected_piece; /* how many bytes of that request leave in one piece, ours included */
	u32 asked; /* rule `turn`: 1 when this side was seen to connect, 2 when turns are carried */
	u32 encrypted; /* 1 and more: what is parsed comes from its library; then 1 + its version (tls.h) */
	struct open_exchange current; /* most connections have one open at a time */
	struct offered_option option;
};

/* Whether it is encrypted. Where nobody asks, the verifier leaves out what follows. */
INLINE int is_tls(const struct connection *connection)
{
	return tls_wanted && connection->encrypted;
}

/* Says of an exchange that it passed encrypted, and by which version of TLS. */
INLINE void tell_tls(const struct connection *connection, struct waggle_facts *facts)
{
	if (!is_tls(connection))
		return;
	facts->flags |= WAGGLE_FLAG_TLS;
	facts->version |= (connection->encrypted - 1) << WAGGLE_VERSION_TLS_SHIFT;
}

/* What http1_head.prefix and .out hold in a request: begins like open_exchange. */
struct scratch_exchange {
	struct owner owner;
	struct waggle_facts facts;
	u8 head[HTTP1_OUT_BUFFER];
};

/* A head whose end has not come yet. */
struct partial_head {
	u32 fill;
	u32 reserved;
	u8 bytes[HTTP1_HEAD_MAX];
};

enum fate { FATE_FINE = 0, FATE_LOST = 1, FATE_OVER = 2 };

/* The bytes of one call on their way through the parser; in a map, so that the
 * verifier does not follow every combination of what is in it. */
struct feed_state {
	u64 base; /* address in the process's memory; 0: bytes we cannot read */
	u64 now;
	u64 skip;    /* bytes of the call's memory before the first that counts */
	u64 left;    /* bytes of the call not yet fed */
	u64 id;	     /* whose call: bpf_get_current_pid_tgid() */
	u64 likely_g; /* go_likely_g(), 0: not asked for */
	u32 gap;     /* bytes that passed unseen before this call */
	u32 segment; /* of the call's vector, to be fed next */
	u32 offset;
	u32 length;   /* of this piece */
	u32 position; /* of base[0] */
	u32 fill;     /* bytes of an unfinished head in the scratch buffer */
	u8 carry;     /* there are such bytes */
	u8 first_of_call;
	u8 blocking;
	u8 fate;     /* enum fate: what has become of the connection */
	u8 answered; /* a response is complete */
	u8 in_kernel; /* `base` is an address of the kernel's */
	u8 reserved[2];
	u32 why; /* enum waggle_counter, with fate */
	u32 unused;
};

struct scratch {
	struct feed_state state;
	struct trace_context header; /* of the request at hand */
	struct trace_context handed;
	struct random random; /* all zero: not seeded yet */
	struct http1_lines lines;
	struct hex_walk hex;
	struct http1_head head;
	struct code_walk code;
};

/* Programs that may run nested on one CPU (one preempts the other) never share. */
enum scratch_user {
	SCRATCH_SEND = 0,
	SCRATCH_RECEIVE = 1,
	SCRATCH_UNIX = 2,
	SCRATCH_MESSAGE = 3,
	SCRATCH_HOOKS = 4, /* those above: hooks of sockets */
	SCRATCH_TLS = 4,   /* plaintext of a library */
	SCRATCH_USERS = 5,
};

struct handoff_key {
	u32 sender_base;
	u32 receiver_base;
	u32 position;
	u32 kind; /* 0 TCP; odd: UNIX, the sender's inode and, as bases, the receiver's address */
};

#define HANDOFF_PENDING 0x100
#define HANDOFF_OPTION 0x8000 /* came from another machine, in an option of TCP */

struct handoff {
	struct handoff_key key;
	u8 trace_id[16];
	u8 span_id[8];
	u32 trace_flags; /* of W3C, HANDOFF_PENDING, and how it was sampled (sampling.h) */
	u32 threshold;
	u64 left_ns; /* 0: free */
	u64 proof;   /* of all but left_ns, so that half of it is never taken for the whole */
} __attribute__((aligned(8)));

/* Where a hand-off may lie: in the set that its key says, in any place. Of what nobody
 * takes the oldest in the set makes room. */
#define HANDOFF_WAYS 4
struct handoff_set {
	struct handoff ways[HANDOFF_WAYS];
};

/* What a thread is busy with. */
struct thread {
	u64 sock;      /* rule `thread`: the connection whose request it read */
	u32 open;      /* connections with an open request read by this thread */
	u32 bounded;   /* ends of its turns are told (node_probes.h) */
	struct owner turn; /* rule `turn`: what it read last */
	u64 turn_switches; /* its voluntary context switches at that time */
	struct owner read; /* rule `task`: the request read last, */
	u64 read_switches; /* and the thread's switches then */
	u64 carried; /* rule `thread`: the connection of a request that nobody reads (carried.h) */
};

/* Not 0 at the lowest bits of a process id: one that ends in them is, or was, among
 * `processes`. Everybody else is told apart by one load. Written before `processes` is,
 * by user space as well; a byte each, so that no writer can undo another's. */
#define PROCESS_HINTS 65536
struct process_hints {
	u8 known[PROCESS_HINTS];
};

struct partial_key {
	u64 sock;
	u32 sent; /* direction */
	u32 reserved;
};

#define MAP(map_name, map_type, entries, key_type, value_type, map_flag) \
	struct {                                                    \
		__uint(type, map_type);                             \
		__uint(max_entries, entries);                       \
		__uint(map_flags, map_flag);                        \
		__type(key, key_type);                              \
		__type(value, value_type);                          \
	} map_name SEC(".maps")

#define ON_DEMAND 1 /* BPF_F_NO_PREALLOC */
#define MAPPED 1024 /* BPF_F_MMAPABLE */

MAP(processes, BPF_MAP_TYPE_HASH, 16384, u32, struct waggle_process, ON_DEMAND);
MAP(process_hints, BPF_MAP_TYPE_ARRAY, 1, u32, struct process_hints, MAPPED);
MAP(connections, BPF_MAP_TYPE_HASH, 65536, u64, struct connection, ON_DEMAND);
/* What a connection has open beside its `current` exchange. */
MAP(exchanges, BPF_MAP_TYPE_HASH, 65536, struct exchange_key, struct open_exchange, ON_DEMAND);
MAP(large_exchanges, BPF_MAP_TYPE_HASH, 4096, struct exchange_key, struct open_large_exchange,
    ON_DEMAND);
MAP(partial_heads, BPF_MAP_TYPE_HASH, 1024, struct partial_key, struct partial_head, ON_DEMAND);
MAP(threads, BPF_MAP_TYPE_HASH, 65536, u32, struct thread, ON_DEMAND);
MAP(handoffs, BPF_MAP_TYPE_ARRAY, 8192, u32, struct handoff_set, 0);
MAP(scratches, BPF_MAP_TYPE_PERCPU_ARRAY, SCRATCH_USERS, u32, struct scratch, 0);
MAP(sample_rules, BPF_MAP_TYPE_ARRAY, WAGGLE_SAMPLE_RULES, u32, struct waggle_sample_rule, MAPPED);
/* Never written: what anything begins as that is too large for the stack. One map for all of them,
 * since a program may use no more than 64. */
struct blank {
	u64 words[256];
};
MAP(blanks, BPF_MAP_TYPE_ARRAY, 1, u32, struct blank, 0);
MAP(counters, BPF_MAP_TYPE_PERCPU_ARRAY, WAGGLE_COUNTERS, u32, u64, 0);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} exchange_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2 << 20);
} large_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 << 10);
} event_ring SEC(".maps");

INLINE void count(u32 what)
{
	u64 *value = bpf_map_lookup_elem(&counters, &what);

	if (value)
		*value += 1;
}

INLINE void count_by(u32 what, u32 times)
{
	u64 *value = bpf_map_lookup_elem(&counters, &what);

	if (value)
		*value += times;
}

INLINE void *blank_value(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&blanks, &zero);
}

/* What a `type` begins as, never to be written; null where the map is not there. */
#define BLANK(type)								\
	({									\
		_Static_assert(sizeof(type) <= sizeof(struct blank), "a larger blank");	\
		blank_value();							\
	})

INLINE u8 *process_hint(u32 tgid)
{
	u32 zero = 0;
	struct process_hints *hints = bpf_map_lookup_elem(&process_hints, &zero);

	return hints ? &hints->known[masked(tgid, PROCESS_HINTS - 1)] : 0;
}

INLINE struct scratch *scratch_of(u32 user)
{
	return bpf_map_lookup_elem(&scratches, &user);
}

INLINE struct random *random_of(struct scratch *scratch)
{
	if (!scratch->random.words[0])
		seed_random(&scratch->random);
	return &scratch->random;
}

#define WAKE_AT (512 << 10)
#define WAKE_WINDOW (16 << 10)

/* Wake the reader when much is waiting, around the moment that it comes to be so and
 * not for every record after: it looks by itself now and then. */
INLINE u64 wakeup(void *ring)
{
	u64 waiting = bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA);

	return waiting - WAKE_AT < WAKE_WINDOW ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

#endif
