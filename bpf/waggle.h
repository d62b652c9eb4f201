/* SPDX-License-Identifier: Apache-2.0
 *
 * Everything that crosses the border between the kernel and user space.
 *
 * This header is the one source: `make generate` turns the BTF of the compiled
 * object into agent/waggle/layout.py, and CI fails when the two differ. Rules:
 * no packed structs, padding is explicit and zeroed, every enumerator that is
 * shared lives in one of the enums below.
 */
#ifndef WAGGLE_H
#define WAGGLE_H

/* A ring record has an 8 byte header of the kernel's, so 504 and 4088 make
 * records of 512 and 4096 bytes: a batch of them is one numpy array. */
#define WAGGLE_RECORD_SIZE 504
#define WAGGLE_LARGE_RECORD_SIZE 4088
#define WAGGLE_FACTS_SIZE 160
#define WAGGLE_HEAD_SIZE (WAGGLE_RECORD_SIZE - WAGGLE_FACTS_SIZE)
#define WAGGLE_LARGE_HEAD_SIZE (WAGGLE_LARGE_RECORD_SIZE - WAGGLE_FACTS_SIZE)
#define WAGGLE_COMM_SIZE 16
#define WAGGLE_HTTP2_SIZE 120
#define WAGGLE_TABLE_BYTES (WAGGLE_RECORD_SIZE - 48)

enum waggle_protocol {
	WAGGLE_PROTOCOL_NONE = 0,
	WAGGLE_PROTOCOL_HTTP1 = 1,
	WAGGLE_PROTOCOL_HTTP2 = 2, /* a stream of HTTP/2: head begins with struct waggle_http2 */
	WAGGLE_PROTOCOL_TLS = 3, /* a handshake that failed; status: the alert, 0 where it is not known */
	/* An exchange of a client within TLS that nobody can read: bodies are payloads of records. */
	WAGGLE_PROTOCOL_OPAQUE = 4,
};

enum waggle_role {
	WAGGLE_ROLE_NONE = 0,
	WAGGLE_ROLE_SERVER = 1,
	WAGGLE_ROLE_CLIENT = 2,
};

/* How we know an exchange's parent: waggle.link.method. */
enum waggle_link {
	WAGGLE_LINK_NONE = 0,	      /* no parent, a new trace */
	WAGGLE_LINK_TRACEPARENT = 1,  /* the header of the request */
	WAGGLE_LINK_SOCKET = 2,	      /* hand-off by stream position on this machine */
	WAGGLE_LINK_THREAD = 3,	      /* the one request open on a thread that blocks */
	WAGGLE_LINK_TURN = 4,	      /* the turn of an event loop, proven by responses */
	WAGGLE_LINK_GOROUTINE = 5,    /* the goroutine of Go that asked for it */
	WAGGLE_LINK_TASK = 6,	      /* the context of a task, greenlet or thread of Python */
	WAGGLE_LINK_OPTION = 7,	      /* a TCP option, from an agent on another machine */
	WAGGLE_LINK_B3 = 8,	      /* as TRACEPARENT, in other formats: one or several headers */
	WAGGLE_LINK_JAEGER = 9,	      /* uber-trace-id */
	WAGGLE_LINK_XRAY = 10,	      /* X-Amzn-Trace-Id */
	WAGGLE_LINK_ALONE = 11,	      /* the one request that the process served at the call */
	WAGGLE_LINK_TRACE_BIN = 12,   /* as B3: gRPC's grpc-trace-bin */
	WAGGLE_LINK_FORWARDED = 13,   /* the one request that came with the header of the call */
};

/* How an exchange ended. Everything above WAGGLE_END_DONE is an error. */
enum waggle_end {
	WAGGLE_END_OPEN = 0,	  /* never leaves the kernel but by a sweep */
	WAGGLE_END_DONE = 1,	  /* request and response are complete */
	WAGGLE_END_RESET = 2,	  /* the peer reset the connection */
	WAGGLE_END_TIMED_OUT = 3, /* the kernel gave up on the peer */
	WAGGLE_END_PEER_CLOSED = 4,  /* the peer closed before the response was whole */
	WAGGLE_END_LOCAL_CLOSED = 5, /* this side closed before the response was whole */
	WAGGLE_END_PROCESS_EXIT = 6, /* the process ended with the exchange open */
	/* Streams of HTTP/2 only; waggle_http2.error has the code of the frame. */
	WAGGLE_END_STREAM_CANCELLED = 7, /* this side sent RST_STREAM */
	WAGGLE_END_STREAM_RESET = 8,	 /* the peer sent RST_STREAM */
	WAGGLE_END_GOAWAY = 9,	 /* a GOAWAY said that the stream was not processed */
	WAGGLE_END_UNSEEN = 10,	 /* bytes passed unseen or made no sense: the rest is unknown */
};

enum waggle_method {
	WAGGLE_METHOD_OTHER = 0, /* the text is kept under WAGGLE_KEPT_METHOD */
	WAGGLE_METHOD_GET = 1,
	WAGGLE_METHOD_HEAD = 2,
	WAGGLE_METHOD_POST = 3,
	WAGGLE_METHOD_PUT = 4,
	WAGGLE_METHOD_DELETE = 5,
	WAGGLE_METHOD_CONNECT = 6,
	WAGGLE_METHOD_OPTIONS = 7,
	WAGGLE_METHOD_TRACE = 8,
	WAGGLE_METHOD_PATCH = 9,
};

/* Bits of waggle_facts.flags. */
enum waggle_flag {
	WAGGLE_FLAG_TARGET_CUT = 1,	   /* the request target is longer than what is kept */
	WAGGLE_FLAG_KEPT_CUT = 2,	   /* a kept header did not fit */
	WAGGLE_FLAG_REQUEST_BODY = 4,	   /* the request announced a body */
	WAGGLE_FLAG_RESPONSE_BODY = 8,	   /* the response announced a body */
	WAGGLE_FLAG_RESYNCED = 16,	   /* found in the middle of a connection */
	WAGGLE_FLAG_PROVISIONAL = 32,	   /* the process was not yet confirmed */
	WAGGLE_FLAG_REMOTE_PARENT = 64,	   /* the parent span is another process's */
	WAGGLE_FLAG_UPGRADED = 128,	   /* ended by 101 or a CONNECT tunnel */
	WAGGLE_FLAG_HAD_TRACEPARENT = 256, /* the request itself carried a trace context */
	WAGGLE_FLAG_UNSAMPLED = 512,	   /* whoever decided about the trace said: not sampled */
	WAGGLE_FLAG_NO_POSITION = 1024,	   /* a UNIX socket: ports and addresses mean nothing */
	WAGGLE_FLAG_TRACE_PENDING = 2048,  /* the trace id may stand for another: evidence follows */
	WAGGLE_FLAG_UNPROVEN = 4096,	   /* the parent is predicted: evidence follows */
	WAGGLE_FLAG_AFTER_RESPONSE = 8192, /* sent when its parent had been answered */
	WAGGLE_FLAG_SDK = 16384, /* the process exports a span of this itself: left to it */
	WAGGLE_FLAG_TLS = 32768,	   /* plaintext of an encrypted connection */
};

/* Of waggle_facts.version: what of it is HTTP's, and above that TLS's: 1 to 4 for 1.0 to 1.3. */
enum waggle_version {
	WAGGLE_VERSION_HTTP_MASK = 31,
	WAGGLE_VERSION_TLS_SHIFT = 5,
};

/* What is known of how a trace was sampled: waggle_facts.sampling. Its low bits are the
 * rejection threshold that the trace passed, out of 2^56; the four bits from
 * WAGGLE_SAMPLING_SHIFT on are these; the four above them the number of the rule that
 * decided, 0 where none did. All zero while there is no sampler. */
#define WAGGLE_THRESHOLD_MASK 0x00ffffffffffffffULL
#define WAGGLE_NEVER 0x0100000000000000ULL /* the threshold that nothing passes */
#define WAGGLE_SAMPLING_SHIFT 56
#define WAGGLE_SAMPLING_RULE_SHIFT 60
enum waggle_sampling {
	WAGGLE_SAMPLING_KNOWN = 1, /* the threshold holds for this span: `ot=th` */
	WAGGLE_SAMPLING_HERE = 2,  /* decided on this machine and not by who called */
	WAGGLE_SAMPLING_SAID = 4,  /* the request's own tracestate says so already */
	WAGGLE_SAMPLING_EDIT = 8,  /* what it says of the threshold is not true (any more) */
};

/* The samplers: map `sample_rules`. Number 0 is for whatever no other one is for. */
#define WAGGLE_SAMPLE_RULES 16
#define WAGGLE_SAMPLE_PATH 64
struct waggle_sample_rule {
	unsigned long long threshold; /* at most WAGGLE_NEVER */
	unsigned int path_len;	      /* bytes that the target must begin with */
	unsigned int exact;	      /* and then end, or go on with its query */
	unsigned char path[WAGGLE_SAMPLE_PATH];
	unsigned char mask[WAGGLE_SAMPLE_PATH]; /* 0xff for each of these bytes */
	/* The same for HTTP/2, where most paths come in HPACK's Huffman code. */
	unsigned char coded[WAGGLE_SAMPLE_PATH];
	unsigned char coded_mask[WAGGLE_SAMPLE_PATH]; /* a one for each of its bits */
	unsigned int coded_bits;
	unsigned int static_paths; /* bit n: it is for entry n of HPACK's static table */
};

/* Kept fields of the request head, in waggle_facts' head after the target, each
 * as { u8 tag, u8 zero, u16 length, bytes }. Nothing else of a head is stored. */
enum waggle_kept {
	WAGGLE_KEPT_END = 0,
	WAGGLE_KEPT_METHOD = 1,
	WAGGLE_KEPT_HOST = 2,
	WAGGLE_KEPT_USER_AGENT = 3,
	WAGGLE_KEPT_X_FORWARDED_FOR = 4,
	WAGGLE_KEPT_X_FORWARDED_PROTO = 5,
	WAGGLE_KEPT_FORWARDED = 6,
	WAGGLE_KEPT_TRACESTATE = 7,
	WAGGLE_KEPT_UPGRADE = 8,
	WAGGLE_KEPT_CALL_SITE = 9, /* the last: a number that stands for a line of the caller's code */
	WAGGLE_KEPT_ROUTE = 10, /* behind the others, of a server: what its router matched */
	WAGGLE_KEPT_BAGGAGE = 11,  /* only where attributes are to be made of it */
	WAGGLE_KEPT_HANDLER = 13, /* behind the route: the function that it chose, its address (48
				   * bits) and its process's waggle_go.epoch (16) */
	WAGGLE_KEPT_VOID = 12,	   /* a tracestate without a valid traceparent: means nothing */
};

/* The part of a record that does not depend on its size. Times are
 * CLOCK_MONOTONIC nanoseconds, ports are in host order, addresses are IPv6 or
 * IPv4-mapped, ids are as on the wire. */
struct waggle_facts {
	unsigned long long start_ns;	/* first byte of the request */
	unsigned long long response_ns; /* first byte of the final response, or 0 */
	unsigned long long end_ns;	/* last byte of the response, or of the attempt */
	unsigned long long shape;	/* seeded hash of the kept fields, not of the target */
	unsigned char trace_id[16];
	unsigned char span_id[8];
	unsigned char parent_id[8]; /* all zero: no parent */
	unsigned long long request_body;
	unsigned long long response_body;
	unsigned long long process_start_ns; /* with tgid: which process, even after reuse */
	unsigned int tgid;
	unsigned int tid; /* of whoever began the exchange on this side */
	unsigned char local_addr[16];
	unsigned char peer_addr[16];
	unsigned short local_port;
	unsigned short peer_port;
	unsigned short status; /* of the response, or 0 */
	unsigned short flags;  /* enum waggle_flag */
	unsigned char family;  /* AF_INET, AF_INET6 or AF_UNIX */
	unsigned char role;    /* enum waggle_role */
	unsigned char link;    /* enum waggle_link */
	unsigned char end;     /* enum waggle_end */
	unsigned char method;  /* enum waggle_method */
	unsigned char version; /* 10, 11 or 20: HTTP/1.0, HTTP/1.1, HTTP/2; enum waggle_version */
	unsigned char protocol; /* enum waggle_protocol */
	unsigned char trace_flags; /* of the W3C context this exchange passes on */
	unsigned short target_len; /* bytes of head that are the request target */
	unsigned short kept_len;   /* bytes of head after it that are kept fields */
	unsigned short target_full_len; /* of the target as it was sent */
	unsigned short http2_len; /* of struct waggle_http2 and header blocks, 0 elsewhere */
	unsigned long long sampling; /* enum waggle_sampling */
};

struct waggle_exchange {
	struct waggle_facts facts;
	unsigned char head[WAGGLE_HEAD_SIZE];
};

struct waggle_large_exchange {
	struct waggle_facts facts;
	unsigned char head[WAGGLE_LARGE_HEAD_SIZE];
};

/* HTTP/2. The client's side of a connection is that which sent the preface. */
enum waggle_side { WAGGLE_SIDE_CLIENT = 0, WAGGLE_SIDE_SERVER = 1, WAGGLE_SIDES = 2 };

/* Which header block of a stream lies in which column of waggle_http2. */
enum waggle_block {
	WAGGLE_BLOCK_REQUEST = 0,
	/* The final response as far as the kernel could tell. It reads `:status` where that
	 * is static or literal, and keeps no 1xx. Where `:status` is indexed in the dynamic
	 * table it goes by frames: a block without END_STREAM that another one without
	 * END_STREAM follows was 1xx. */
	WAGGLE_BLOCK_RESPONSE = 1,
	/* What came with END_STREAM after RESPONSE. If it decodes to a `:status`, then it is
	 * the response, without trailers, and what lies under RESPONSE was 1xx. */
	WAGGLE_BLOCK_TRAILERS = 2,
	WAGGLE_BLOCK_REQUEST_TRAILERS = 3,
	WAGGLE_BLOCKS = 4,
};

/* Bits of waggle_http2.block_flags and waggle_table_event.block_flags. */
enum waggle_block_flag {
	WAGGLE_BLOCK_FLAG_PRESENT = 1,	  /* there was such a block */
	WAGGLE_BLOCK_FLAG_CUT = 2,	  /* not all of it is here; block_full has its length */
	WAGGLE_BLOCK_FLAG_CHANGES = 4,	  /* it changes the table: events have it whole */
	WAGGLE_BLOCK_FLAG_END_STREAM = 8, /* its HEADERS frame had END_STREAM */
};

/* Bits of waggle_http2.flags and waggle_table_event.flags. */
enum waggle_http2_flag {
	WAGGLE_HTTP2_FLAG_RESYNCED = 1, /* found in the middle of its connection: in epoch 0
					 * the table may hold entries that nobody saw */
	WAGGLE_HTTP2_FLAG_REQUEST_ENDED = 2, /* END_STREAM of the request was seen */
	WAGGLE_HTTP2_FLAG_UPGRADED = 4, /* stream 1 of an `Upgrade: h2c`: no block REQUEST; the
					 * target and kept fields follow struct waggle_http2 */
	WAGGLE_HTTP2_FLAG_PUSHED = 8, /* begun by PUSH_PROMISE: block REQUEST came from the
				       * server, so it is decoded by the server's table */
	WAGGLE_HTTP2_FLAG_NOT_GRPC = 16, /* DATA is not framed as gRPC has it: message counts
					  * mean nothing. Unset says nothing of itself */
	WAGGLE_HTTP2_FLAG_HANDLER = 32,  /* the route's last 8 bytes are WAGGLE_KEPT_HANDLER's */
	WAGGLE_HTTP2_FLAG_NO_TRACESTATE = 64, /* there is no valid traceparent */
};

/* What facts.head begins with when facts.protocol is HTTP2; then, if there is one, the
 * target and kept fields of the upgraded request, then the bytes of header blocks, as
 * they are in the frames: HPACK (RFC 7541), padding and priority taken off, CONTINUATION
 * joined.
 *
 * Of facts: start_ns is the first byte of the frame that opened the stream, response_ns
 * that of the final response's HEADERS, end_ns when what ended it was complete.
 * request_body and response_body are bytes of DATA without padding. status is 0 where
 * the kernel could not read it. method, shape and the lengths of target and kept fields
 * are 0 but for an upgraded request. A stream ends at END_STREAM of the response, or by
 * whatever `end` says; what the client sends after that is not counted.
 *
 * How a block is decoded: each side of a connection has a table of its own, which is
 * what its blocks inserted in the order of frames on the wire. Insertions are numbered
 * from 0 within (connection, side, epoch). A block's dynamic index i (62 is the latest)
 * means insertion n - (i - 61), where n is `inserted` and those the block made itself
 * so far. A number below zero is an entry older than we know; one that is in no event
 * was lost. Either is to be called unknown. */
struct waggle_http2 {
	unsigned long long connection;	/* random; another for every connection */
	unsigned long long request_end_ns;  /* END_STREAM of the request, or 0 */
	/* By enum waggle_side: messages that the client sent, and that the server sent, by
	 * gRPC's prefixes of five bytes. First: when its prefix was whole; last: when the
	 * last byte of the latest whole message passed. 0: none. */
	unsigned long long first_message_ns[WAGGLE_SIDES];
	unsigned long long last_message_ns[WAGGLE_SIDES];
	unsigned int messages[WAGGLE_SIDES]; /* prefixes seen */
	unsigned int stream;
	unsigned int error; /* of RST_STREAM or GOAWAY, see facts.end */
	/* By enum waggle_block. */
	unsigned int block_inserted[WAGGLE_BLOCKS]; /* insertions before it in its epoch */
	unsigned short block_offset[WAGGLE_BLOCKS]; /* of its bytes, in head */
	unsigned short block_length[WAGGLE_BLOCKS]; /* bytes that are here */
	unsigned short block_full[WAGGLE_BLOCKS];   /* bytes that it had */
	unsigned char block_epoch[WAGGLE_BLOCKS];   /* see waggle_table_event */
	unsigned char block_flags[WAGGLE_BLOCKS];   /* enum waggle_block_flag */
	unsigned char flags;			    /* enum waggle_http2_flag */
	unsigned char interims; /* 1xx responses known as such, at most 255 */
	unsigned short route_offset; /* in head: what a server's router matched, no HPACK, */
	unsigned short route_length; /* 0: not known */
	unsigned short told_length; /* what follows all else in head: struct waggle_told and texts */
};

enum waggle_told_as {
	WAGGLE_TOLD_AS_REQUEST = 1, /* a request as it came: the path is as it was sent */
	WAGGLE_TOLD_AS_URL = 2,	 /* a request to be made: of its URL path and query, unescaped */
	WAGGLE_TOLD_AS_CALL = 3,	 /* a gRPC call: the path is its method, as it is sent */
	WAGGLE_TOLD_AS_PEERS = 128, /* a bit beside these: in the memory of the other end */
};

/* A stream's name out of the program's own memory (bpf/stream_names.h), on connections whose
 * tables are not known; the path follows. */
struct waggle_told {
	unsigned char as; /* enum waggle_told_as */
	unsigned char method_length;
	unsigned char path_length; /* of a URL: up to its query, */
	unsigned char length;	   /* of all of it */
	unsigned char method[8]; /* of HTTP; a longer one is not told */
};

enum waggle_table_event_kind {
	/* A header block that changes its side's table: it inserts (01xxxxxx) or resizes
	 * (001xxxxx). Every such block is told at once, whole: in pieces of
	 * WAGGLE_TABLE_BYTES that come in order of `offset`. */
	WAGGLE_TABLE_BLOCK = 1,
	/* The connection is over: nothing will come of it but records that are in the
	 * rings already, and those of streams that a sweep still has to end. */
	WAGGLE_TABLE_CLOSED = 2,
	/* The kernel lost count (a block too large, malformed or unseen): insertions of
	 * this side are counted from 0 again in `epoch`, over a table nobody knows. */
	WAGGLE_TABLE_EPOCH = 3,
};

/* Ring `table_ring`. Whoever reads a batch of exchanges and then all that waits in
 * this ring has every insertion that their blocks need. `sequence` has no holes but
 * where events were lost; blocks after a hole are still numbered right. */
struct waggle_table_event {
	unsigned long long connection; /* as in waggle_http2 */
	unsigned long long time_ns;
	unsigned int tgid;
	unsigned int sequence; /* of events of this side of this connection, from 0 */
	unsigned int inserted; /* insertions before this block in its epoch */
	unsigned int insertions; /* that this block makes */
	unsigned short offset; /* of this piece in the block */
	unsigned short length; /* of this piece */
	unsigned short block_full; /* of the block */
	unsigned char kind;  /* enum waggle_table_event_kind */
	unsigned char side;  /* enum waggle_side: whose table */
	unsigned char epoch; /* 0 at first; of a side, at most 255, which then never decodes */
	unsigned char flags; /* enum waggle_http2_flag: RESYNCED */
	unsigned char block_flags;
	unsigned char reserved[5];
	unsigned char bytes[WAGGLE_TABLE_BYTES];
};

enum waggle_process_event_kind {
	WAGGLE_PROCESS_EXEC = 1,
	WAGGLE_PROCESS_FORK = 2,
	WAGGLE_PROCESS_EXIT = 3,
	WAGGLE_PROCESS_LISTEN = 4, /* port holds the port */
	WAGGLE_PROCESS_SEEN = 5,   /* first HTTP of a process nobody had decided about */
};

struct waggle_process_event {
	unsigned long long time_ns;
	unsigned long long process_start_ns;
	unsigned int tgid;
	unsigned int parent_tgid;
	unsigned int port;
	unsigned int kind; /* enum waggle_process_event_kind */
	unsigned char comm[WAGGLE_COMM_SIZE];
	unsigned char reserved[8];
};

/* What user space has decided about a process: value of the map `processes`,
 * bits of waggle_process.mode. A process that is in no entry is not traced,
 * unless the agent runs with trace_all. */
enum waggle_process_mode {
	WAGGLE_PROCESS_TRACED = 1,	/* record its exchanges */
	WAGGLE_PROCESS_EXCLUDED = 2,	/* never record, whatever the rest says */
	WAGGLE_PROCESS_FOLLOW = 4,	/* its children inherit this mode */
	WAGGLE_PROCESS_UNCONFIRMED = 8, /* recorded provisionally until decided */
	WAGGLE_PROCESS_RULE_THREAD = 16, /* rule `thread` may be tried */
	WAGGLE_PROCESS_RULE_TURN = 32,	 /* rule `turn` may be tried */
	WAGGLE_PROCESS_RULE_TASK = 64,	 /* rule `task` may be tried */
	WAGGLE_PROCESS_RULE_GOROUTINE = 128, /* rule `goroutine` may be tried */
	WAGGLE_PROCESS_SDK = 256, /* it exports spans itself: of calls whose header names one, */
	WAGGLE_PROCESS_SDK_SERVER = 512, /* and of requests that come with a header */
	WAGGLE_PROCESS_PROVE_TURN = 1024, /* what rule `turn` says needs proof by the answer */
	WAGGLE_PROCESS_THREAD_READS = 2048, /* rule `thread`: whoever reads a request serves it, */
	WAGGLE_PROCESS_NAMED_THREADS = 4096, /* or does so if his name says it (bpf/threads.h) */
	WAGGLE_PROCESS_RULE_WORKER = 8192, /* who answers a request has made its calls (workers.h) */
	WAGGLE_PROCESS_WORKER_TOLD = 16384, /* and is no thread: map `schedulers` tells */
	WAGGLE_PROCESS_RULE_ALONE = 32768, /* rule `alone` may be tried */
	WAGGLE_PROCESS_CARRIED = 65536, /* is asked by FastCGI, by one at a time (carry.h) */
};

struct waggle_process {
	unsigned long long start_ns;
	unsigned int mode;
	unsigned int open;		  /* server exchanges without a whole response */
	unsigned int thread_agrees;	  /* responses that prove rule `thread` */
	unsigned int thread_contradicts;  /* and those that refute it */
	unsigned int turn_agrees;
	unsigned int turn_contradicts;
	unsigned int sample_rules; /* bit n: rule n may be for it; 0: nobody has said yet */
	unsigned int unanswered; /* server connections whose request may yet prove a turn */
	unsigned int turn_calls; /* that wait for such proof, or did */
	unsigned int alone_contradicts; /* calls while no request was open */
	unsigned long long alone_sock; /* rule `alone`: the request read last, 0: none yet */
	unsigned int alone_index;
	unsigned int alone_calls; /* claimed by it */
	unsigned int is_carried; /* a request has come by a protocol that nobody reads (carry.h) */
	unsigned int reserved;
};

/* Where a loop keeps the task that a thread runs: value of the map `schedulers`, found by user
 * space (probes/haproxy). *(fs base + slot) is the thread's own. Offsets are in bytes.
 * Or which of its loops uWSGI runs (probes/uwsgi): its own while `held_at` holds `function`. */
struct waggle_scheduler {
	unsigned long long function; /* what a task runs that works on a request */
	unsigned long long held_at;  /* address; 0: not uWSGI */
	int slot;
	unsigned int task_at;	  /* of what is the thread's: the task that it runs */
	unsigned int function_at; /* of a task: what it runs, */
	unsigned int object_at;	  /* and on what */
};

/* Where a Java virtual machine keeps the virtual thread that a thread runs: value of the map
 * `java_machines`, found and verified by user space (probes/java). *(fs base + slot) is the
 * machine's thread. Offsets are in bytes. */
struct waggle_java {
	int slot;
	unsigned int carrier_at; /* of that: its own java.lang.Thread, */
	unsigned int mounted_at; /* and the one that runs on it; both by a word that points to it */
	unsigned int number_at;	 /* of a java.lang.Thread: its number, never given again */
};

/* Where a Python interpreter keeps what its threads are busy with: value of the map
 * `python_processes`, found and verified by user space (probes/python). A thread's
 * state is at fs base + slot, or, where the C library keeps slots elsewhere, at
 * *(fs base + slot) + indirect. */
struct waggle_python {
	unsigned long long context_type; /* address of PyContext_Type: what a context must be */
	int slot;
	int indirect; /* -1: the slot holds the state itself */
	unsigned int context; /* of the thread state: its current context */
	unsigned int type;    /* of an object: its type */
	unsigned int unanswered; /* requests read and not yet answered */
	unsigned int calls;	 /* made under rule `task` */
	unsigned int copy_agrees; /* answers that prove prediction `copy`, and that refute it */
	unsigned int copy_contradicts;
	unsigned int writer_agrees; /* the same for prediction `writer` */
	unsigned int writer_contradicts;
	unsigned long long second_ns; /* when the second began that is counted: */
	unsigned int copied;   /* contexts copied in it */
	unsigned int too_many; /* copied faster than shall be followed: nothing holds any more */
	unsigned int epoch;    /* another for every time the process was looked at */
	unsigned int served; /* it has read a request */
};

/* Where a Go program keeps what its goroutines are: value of the map `go_processes`,
 * found by user space (probes/go). Offsets are in bytes. */
struct waggle_go {
	unsigned long long low; /* addresses of the program's own parts, as mapped */
	unsigned long long high;
	int slot; /* of the current g, from a thread's pointer on */
	unsigned int epoch; /* another for every time the process was looked at */
	unsigned int goid; /* of a g: its number, */
	unsigned int parent_goid; /* its maker's (0: before Go 1.21), */
	unsigned int start; /* the function it runs, */
	unsigned int status;
	unsigned int m; /* and its thread, */
	unsigned int curg; /* which has its g here */
	unsigned int persist_conn; /* of a net/http.persistConn: its net.Conn */
	unsigned int descriptor; /* of a net.netFD: Sysfd, */
	unsigned int family; /* and family */
	unsigned int not_on_goroutine; /* times that a thread did not point back to its g */
	unsigned int agrees; /* births whose maker is whom the runtime names, */
	unsigned int disagrees; /* and others */
	unsigned int must_agree; /* the layout is a guess: nothing holds before a birth agrees,
				  * or after one disagrees */
	unsigned int request_ctx; /* of a net/http.Request: its context */
	unsigned int http2_conn; /* of a connection of HTTP/2, net/http's or x/net's: its net.Conn */
	unsigned int http2_stream; /* of a stream there: its number */
	unsigned int grpc_conn; /* of a grpc http2Server: its net.Conn */
	unsigned int grpc_stream; /* of a transport.Stream: its number */
	unsigned int grpc_indirect; /* a ServerStream holds the address of its Stream */
	unsigned int grpc_ctx; /* of a transport.Stream: its context */
	unsigned int grpc_client_conn; /* of a grpc http2Client: its net.Conn */
	unsigned int grpc_call_client; /* enum waggle_register: where go_grpc_call finds
					* the http2Client, */
	unsigned int grpc_call_stream; /* and the Stream; 0: the other two probes are there */
	unsigned int http2_ctx; /* of a stream of net/http/internal/http2: its context */
	unsigned int conn_cancel; /* of a net/http.conn: what cancels its context, */
	unsigned int conn_response; /* and the response under way */
	unsigned int response_conn; /* of a net/http.response: its conn, */
	unsigned int response_request; /* and its Request */
	unsigned int request_pattern; /* of a net/http.Request: its Pattern (0: before Go 1.23) */
	unsigned int http2_own_conn; /* as http2_conn, of net/http/internal/http2 (0: before Go 1.27) */
	unsigned int served;  /* requests and streams, up to a limit */
	unsigned int strangers; /* requests of HTTP/1 by goroutines whose net/http.conn is not known */
	unsigned int used;    /* a birth has told whose a call is */
	unsigned int wanted;  /* calls of which a birth might have told */
	unsigned int unknown; /* calls of goroutines that serve nobody known */
	unsigned int routers; /* there is one that is asked for the route (bpf/go_routers.h) */
	unsigned int gin_place; /* enum waggle_register: where go_route_gin finds the Context */
	unsigned int gin_path; /* of a gin.Context: its fullPath, */
	unsigned int gin_request; /* its Request, */
	unsigned int gin_handlers; /* and what serves it */
	unsigned int chi_place; /* where go_route_chi finds the Context of a request */
	unsigned int chi_patterns; /* of a chi.Context: its RoutePatterns, */
	unsigned int chi_parent; /* and the context it was made from */
	unsigned int chi_handler; /* where go_route_chi finds the handler (0: nowhere) */
	unsigned int echo_place; /* where go_route_echo finds the context, */
	unsigned int echo_before_place; /* and go_route_echo_before */
	unsigned int echo_path; /* of an echo.context: its path, */
	unsigned int echo_request; /* and its Request */
	unsigned int mux_path; /* of a mux.Route: the routeRegexp of its path, */
	unsigned int mux_template; /* and of that the text */
	unsigned int mux_handler; /* of a mux.Route: its handler */
	unsigned int servemux_place; /* where go_route_servemux finds the Request (0: nowhere) */
	unsigned int servemux_told; /* that has told a route which no memory does */
	unsigned int echo_handler; /* of an echo.context: its handler, */
	unsigned int echo_captured; /* and of that closure the program's own (0: not known) */
	unsigned int channel_type; /* of a runtime.hchan: its elements' type, */
	unsigned int channel_next; /* and which of its buffer's is received next */
	unsigned int conn_hijacked; /* of a net/http.conn: whether a handler has taken it over */
	unsigned int request_method; /* of a net/http.Request: its Method, */
	unsigned int request_uri; /* its RequestURI (0: names are left alone), */
	unsigned int request_url; /* and its URL */
	unsigned int url_opaque; /* of a net/url.URL: its Opaque, */
	unsigned int url_path; /* its Path (0: names are left alone), */
	unsigned int url_raw_path; /* its RawPath, */
	unsigned int url_query; /* its RawQuery, */
	unsigned int url_force_query; /* and its ForceQuery */
	unsigned int own_method; /* of a ServerRequest of net/http/internal/http2: its Method, */
	unsigned int own_uri; /* and its RequestURI (0: before Go 1.27) */
	unsigned int own_call_method; /* of a ClientRequest there: its Method, */
	unsigned int own_call_url; /* and its URL (0: before Go 1.27) */
	unsigned int grpc_method; /* of a transport.Stream: its method (0: names are left alone) */
	unsigned int old; /* calls of grpc whose names are still kept: goes up to WAGGLE_GO_LIMIT_SERVED
			   * where an HTTP/2 connection may be one whose tables are not known */
	unsigned int old_calls; /* streams begun on such */
	unsigned int stream_workers; /* a goroutine has served one stream of grpc after another */
	unsigned int arrives; /* its process will execute it: addresses are still the file's */
	unsigned int certain; /* times in a row that a thread pointed back to its g, up to a limit */
	unsigned int near; /* goroutines of its own may be in the map near_goroutines */
	unsigned int reserved;
	unsigned long long bias; /* what is added to the file's addresses */
	unsigned long long code_start; /* of what is executed of the file: its lowest address, */
	unsigned long long code_end;   /* and where that ends */
	unsigned long long echo_closure; /* the code of such closures */
	unsigned long long birth_ns; /* when a birth was last seen, within a tenth of a second */
	unsigned long long unrouted_ns; /* when an answer had no route, within a second */
};

/* How much is enough to judge by. */
enum waggle_go_limit {
	WAGGLE_GO_LIMIT_SERVED = 1000, /* waggle_go.served goes no further */
	WAGGLE_GO_LIMIT_IN_VAIN = 16,  /* waggle_go_function.in_vain */
	WAGGLE_GO_LIMIT_ANSWERED = 20, /* requests, before workers are believed (bpf/go_claims.h) */
	WAGGLE_GO_LIMIT_CERTAIN = 64,  /* waggle_go.certain: a layout does not change any more */
};

/* Where a probe finds a value; 0: nowhere. */
enum waggle_register {
	WAGGLE_REGISTER_NONE = 0,
	WAGGLE_REGISTER_AX = 1,
	WAGGLE_REGISTER_BX = 2,
	WAGGLE_REGISTER_CX = 3,
	WAGGLE_REGISTER_DX = 4,
	WAGGLE_REGISTER_SI = 5,
	WAGGLE_REGISTER_DI = 6,
	WAGGLE_REGISTER_R8 = 7,
	WAGGLE_REGISTER_R9 = 8,
	WAGGLE_REGISTER_R10 = 9,
	WAGGLE_REGISTER_STACK = 64, /* and so many bytes: there on the stack */
};

/* What is known of a function that goroutines run: in the map `go_functions`. */
struct waggle_go_function_key {
	unsigned long long address; /* as in the file */
	unsigned int epoch; /* waggle_go.epoch */
	unsigned int reserved;
};

struct waggle_go_function {
	unsigned long long watched; /* the g of a goroutine that was born in a request */
	unsigned long long goid;    /* and its number */
	unsigned int ended;	    /* of those that were watched */
	unsigned int verdict;	    /* enum waggle_go_verdict */
	unsigned long long caller;  /* one of which nothing is known, and has called */
	unsigned long long caller_ns; /* when it first did */
	unsigned long long vain_ns; /* when last somebody unknown called while births were seen */
	unsigned int in_vain; /* times that was so, up to a limit */
	unsigned int told;    /* a birth has told whose a call of one is */
};


enum waggle_go_verdict {
	WAGGLE_GO_UNKNOWN = 0,	/* its goroutines are watched: do they end? */
	WAGGLE_GO_ENDS = 1,	/* it ends with what it was made for: born in a request, part of it */
	WAGGLE_GO_PUMP = 2,	/* it does what other goroutines ask for */
	WAGGLE_GO_WORKS_ON = 3, /* one went on to call after its request's answer: a worker */
};

/* What later proves whose request a call was part of. */
enum waggle_evidence_kind {
	WAGGLE_EVIDENCE_CALL = 1,   /* a request went out, its contexts are these */
	WAGGLE_EVIDENCE_ANSWER = 2, /* a request was answered by contexts[0], which descends from the others */
	WAGGLE_EVIDENCE_GONE = 3,   /* a request ended without an answer */
	WAGGLE_EVIDENCE_PART = 4,   /* contexts[0] has called, and goes on with its answer */
	WAGGLE_EVIDENCE_OVER = 5,   /* contexts[0], in which or below which was called, is freed */
	WAGGLE_EVIDENCE_LOG = 6,    /* something was written to a log, in these contexts */
	/* Claims of rules (bpf/turns.h): contexts[0] is the span id of a request, or the life of
	 * a worker (bpf/workers.h), with its last answer in before_ns. */
	WAGGLE_EVIDENCE_TURN_CALL = 7,	  /* a request went out in the turn of that one */
	WAGGLE_EVIDENCE_TURN_ANSWER = 8,  /* it was answered in its own turn; 0: that says nothing */
	WAGGLE_EVIDENCE_TURN_REFUTED = 9, /* a request was answered in the turn of another */
	WAGGLE_EVIDENCE_TURN_GONE = 10,	  /* a request ended without an answer */
};

/* Generations of contexts: the time of the copy, in ns, made odd when it was seen and
 * even when the context was there before. Nearest first: itself, what it was copied
 * from, and so on; 0 ends the list. */
#define WAGGLE_CONTEXTS 8

struct waggle_evidence {
	unsigned long long time_ns;  /* of the call, the response or the end */
	unsigned long long start_ns; /* of the request that was answered */
	unsigned long long before_ns; /* ANSWER: when the context answered before, 0: never */
	unsigned char trace_id[16];  /* of the call or the request, as it was given out */
	unsigned char span_id[8];
	unsigned long long contexts[WAGGLE_CONTEXTS];
	unsigned long long sampling; /* as in waggle_facts */
	unsigned int tgid;
	unsigned short unanswered; /* CALL: requests open in the process at that time */
	unsigned short flags;	   /* enum waggle_flag of the exchange */
	unsigned char kind;	   /* enum waggle_evidence_kind */
	unsigned char trace_flags;
	unsigned char shared; /* the context serves several requests at once: says nothing */
	unsigned char own;    /* ANSWER: the context read the request itself */
	unsigned char kept;   /* ANSWER: it answered on the same connection before */
	unsigned char answering; /* CALL: a bit for each context in the middle of an answer, */
	unsigned char over;	 /* and for each that is freed already */
	unsigned char many; /* ANSWER: it read or answered on several connections: a loop's own */
	unsigned char queued; /* CALL: a bit for each that is over, and that had called itself when it
			       * began what the call is made in: the next of a queue, perhaps */
	unsigned char made;   /* CALL: a bit for each that may have been made for a request: what
			       * it was copied from is another's */
	unsigned char link;   /* TURN_*: enum waggle_link, the rule that speaks */
	unsigned char reserved[5];
};

/* Where CPython keeps frames and code objects: value of the map `python_code`, measured
 * per version and verified in the process (probes/python). Bytes, of words of 8. */
struct waggle_code_layout {
	unsigned long long code_type; /* address of PyCode_Type: what a code object must be */
	unsigned long long salt;      /* random: of this look at this process */
	int slot; /* where a thread's state is: see waggle_python */
	int indirect;
	int c_frame; /* of the state: what holds the innermost frame; -1: the state does */
	unsigned int frame; /* of that: the innermost frame */
	unsigned int frame_code; /* of a frame */
	unsigned int frame_globals;
	unsigned int frame_locals;
	unsigned int frame_previous;
	unsigned int frame_instruction;
	unsigned int file_name; /* of a code object */
	unsigned int function;
	unsigned int line_table;
	unsigned int first_line;
	unsigned int instructions;
	unsigned int names;
	unsigned int items; /* of a tuple */
	unsigned int text;  /* of a str: its characters, when they are ASCII */
	unsigned int reserved;
};

/* By user space: whose code it is. */
enum waggle_code_kind {
	WAGGLE_CODE_UNKNOWN = 0,
	WAGGLE_CODE_LIBRARY = 1,
	WAGGLE_CODE_APPLICATION = 2,
	WAGGLE_CODE_LOOP = 3, /* runs other people's work: who is further out did not call */
};

enum waggle_code_event_kind {
	WAGGLE_CODE_OBJECT = 1, /* a code object, with a piece of its line table */
	WAGGLE_CODE_SITE = 2,	/* which frames a place stands for */
};

#define WAGGLE_WALK 64	 /* frames that are looked at for a call */
#define WAGGLE_FRAMES 32 /* and that may be the one, a power of two */
#define WAGGLE_LINE_TABLE 1008

/* Ring `code_ring`: once for everything. Whoever reads a record and then all that waits
 * here knows what its place stands for. */
struct waggle_code_event {
	unsigned long long id;	     /* of the code object, or of the place */
	unsigned long long kind_key; /* OBJECT: if not 0, it may be passed by this as well */
	unsigned int tgid;
	unsigned int first_line;
	unsigned int table_size; /* of the line table, all of it */
	unsigned int offset;	 /* of this piece */
	unsigned short length;	 /* of this piece */
	unsigned short file_name_size;
	unsigned short function_size;
	unsigned char kind;   /* enum waggle_code_event_kind */
	unsigned char frames; /* SITE: that may be the one, innermost first */
	unsigned char runs_loop; /* OBJECT: it names what runs an event loop */
	unsigned char text;   /* OBJECT: as in waggle_code_layout */
	unsigned char reserved[6];
	unsigned long long codes[WAGGLE_FRAMES]; /* ids of their code objects */
	unsigned int offsets[WAGGLE_FRAMES];	 /* of the instructions that they are at, in bytes */
	unsigned char file_name[352]; /* str objects from their lengths on, as they lie in memory */
	unsigned char function[248];
	unsigned char line_table[WAGGLE_LINE_TABLE];
};

/* What a process writes to its log (bpf/logs.h), with --logs only. One write is one record
 * or several: its pieces, in the order of `offset`, which lie one behind the other among
 * the records of their thread. */
#define WAGGLE_LOG_RECORD_SIZE 1016
#define WAGGLE_LOG_FACTS_SIZE 112
#define WAGGLE_LOG_BYTES (WAGGLE_LOG_RECORD_SIZE - WAGGLE_LOG_FACTS_SIZE)

enum waggle_log_source {
	WAGGLE_LOG_SOURCE_NONE = 0,
	WAGGLE_LOG_SOURCE_STDOUT = 1,
	WAGGLE_LOG_SOURCE_STDERR = 2,
	WAGGLE_LOG_SOURCE_FILE = 3,    /* its name ends in .log */
	WAGGLE_LOG_SOURCE_JOURNAL = 4, /* journald's own protocol: fields, one entry a write */
	WAGGLE_LOG_SOURCE_SYSLOG = 5,  /* /dev/log: one entry a write */
};

struct waggle_log {
	unsigned long long time_ns;
	unsigned long long process_start_ns;
	unsigned long long inode; /* with device: what was written to */
	/* Of the request that it is part of, all zero: of none. While flags say that evidence
	 * follows, the trace is one that may stand for another, and span_id the evidence's. */
	unsigned char trace_id[16];
	unsigned char span_id[8];
	unsigned char parent_id[8]; /* the request's own span */
	unsigned int tgid;
	unsigned int tid;
	unsigned int device;
	unsigned int descriptor;
	unsigned int written; /* bytes of the write */
	unsigned int kept;    /* of them in all its pieces together, from its beginning */
	unsigned int offset;  /* of this piece */
	unsigned int lost;    /* writes of this process that were not recorded, so far */
	unsigned short length; /* of this piece */
	unsigned short flags;  /* enum waggle_flag */
	unsigned char source;  /* enum waggle_log_source */
	unsigned char link;    /* enum waggle_link */
	unsigned char trace_flags;
	unsigned char role; /* enum waggle_role: CLIENT, as evidence has it */
	unsigned char reserved[8];
	unsigned long long context; /* of Python: the generation of the current one, or 0 */
	unsigned char bytes[WAGGLE_LOG_BYTES];
};

/* Where a TLS library keeps what its objects read from: in the map `tls_layouts`, found and
 * verified by user space (probes/tls). Bytes. */
struct waggle_tls_layout {
	unsigned int reader; /* of an SSL: its BIO to read from */
	unsigned int method; /* of a BIO: its kind, */
	unsigned int number; /* its descriptor, */
	unsigned int data;   /* and what its kind keeps */
	unsigned int known;  /* these hold */
};

#define WAGGLE_SERVER_NAME 64
#define WAGGLE_NEXT_PROTOCOL 16
#define WAGGLE_NOT_AFTER 16

/* How an encrypted connection came about, in the ring `handshake_ring`: told with its first
 * exchange. Times are as in waggle_facts, 0: not seen. */
struct waggle_handshake {
	unsigned char span_id[8];	 /* of that exchange */
	unsigned long long connect_ns;	 /* connect() was called, */
	unsigned long long connected_ns; /* and the connection was there */
	unsigned long long hello_ns;	 /* the client's greeting */
	unsigned long long done_ns;	 /* the last change of ciphers, of either side */
	unsigned char version; /* 1 to 4 for TLS 1.0 to 1.3, 0: not known */
	unsigned char name_length;
	unsigned char protocol_length;
	unsigned char not_after_length; /* 0: not known */
	unsigned char reserved[4];
	unsigned char name[WAGGLE_SERVER_NAME];	      /* what the client calls the server */
	unsigned char protocol[WAGGLE_NEXT_PROTOCOL]; /* ALPN, where the server says it in the clear */
	unsigned char not_after[WAGGLE_NOT_AFTER]; /* of its certificate: YY or YYYY, MMDDHHMMSS, Z */
};

/* Why something was not recorded, or what happened, in the map `counters`. */
enum waggle_counter {
	WAGGLE_COUNT_EXCHANGES = 0,	   /* records written to a ring */
	WAGGLE_COUNT_LOST_RING_FULL = 1,
	WAGGLE_COUNT_LOST_LARGE_RING_FULL = 2,
	WAGGLE_COUNT_LOST_EVENT_RING_FULL = 3,
	WAGGLE_COUNT_LOST_CONNECTION_MAP_FULL = 4,
	WAGGLE_COUNT_LOST_EXCHANGE_MAP_FULL = 5,
	WAGGLE_COUNT_LOST_PARTIAL_MAP_FULL = 6,
	WAGGLE_COUNT_LOST_HEAD_TOO_LARGE = 7,
	WAGGLE_COUNT_LOST_BYTES_UNREADABLE = 8, /* the page was not there when we looked */
	WAGGLE_COUNT_LOST_BYTES_UNSEEN = 9,	/* bytes passed by no hook of ours */
	WAGGLE_COUNT_LOST_BAD_FRAMING = 10,	/* HTTP that ended in nonsense */
	WAGGLE_COUNT_LOST_FRAMING_BUDGET = 11,	/* too many chunks in one call */
	WAGGLE_COUNT_LOST_PIPELINE_TOO_DEEP = 12,
	WAGGLE_COUNT_LOST_PROCESS_MAP_FULL = 13,
	WAGGLE_COUNT_LOST_RESPONSE_UNMATCHED = 14, /* a response to a request we never saw */
	WAGGLE_COUNT_CONNECTIONS_GIVEN_UP = 15,	   /* not HTTP: judged once, never again */
	WAGGLE_COUNT_HANDOFF_LEFT = 16,
	WAGGLE_COUNT_HANDOFF_FOUND = 17,
	WAGGLE_COUNT_HANDOFF_MISSED = 18,
	WAGGLE_COUNT_TRACEPARENT_READ = 19,
	WAGGLE_COUNT_TRACEPARENT_INVALID = 20,
	WAGGLE_COUNT_TARGET_CUT = 21,
	WAGGLE_COUNT_KEPT_CUT = 22,
	WAGGLE_COUNT_RULE_CONTRADICTED = 23,
	WAGGLE_COUNT_RESYNCED = 24,
	WAGGLE_COUNT_LOST_EVIDENCE_RING_FULL = 25, /* calls that stay without a parent */
	WAGGLE_COUNT_CONTEXTS_COPIED = 26,
	WAGGLE_COUNT_CONTEXTS_IGNORED = 27, /* copied faster than shall be followed */
	WAGGLE_COUNT_TASK_CALLS = 28,	    /* whose parent the evidence decides */
	WAGGLE_COUNT_LOST_HTTP2_MAP_FULL = 29,	/* connections of HTTP/2 */
	WAGGLE_COUNT_LOST_STREAM_MAP_FULL = 30, /* streams, and blocks too long for the map */
	WAGGLE_COUNT_LOST_TABLE_RING_FULL = 31, /* events of HPACK tables */
	WAGGLE_COUNT_LOST_TABLE_COUNT = 32,	/* insertions uncounted: an epoch begins */
	WAGGLE_COUNT_HTTP2_CONNECTIONS = 33,
	WAGGLE_COUNT_HTTP2_STREAMS = 34,	/* begun */
	WAGGLE_COUNT_HTTP2_RESYNCED = 35,	/* connections found in mid-stream */
	WAGGLE_COUNT_TRACES_SAMPLED = 36, /* begun here, and decided about by a sampler */
	WAGGLE_COUNT_TRACES_UNSAMPLED = 37,
	WAGGLE_COUNT_CALL_SITES = 38, /* calls with a line of code, or what may turn out to be one */
	WAGGLE_COUNT_LOST_CODE_RING_FULL = 39, /* lines of code that stay unknown */
	WAGGLE_COUNT_LOGS_WRITTEN = 40, /* writes to logs that were recorded */
	WAGGLE_COUNT_LOST_LOG_RATE = 41, /* writes of a process that writes too much */
	WAGGLE_COUNT_LOST_LOG_RING_FULL = 42,
	WAGGLE_COUNT_LOST_LOG_UNREADABLE = 43,
	WAGGLE_COUNT_GOROUTINE_CALLS = 44,	/* whose parent a goroutine told */
	WAGGLE_COUNT_GOROUTINE_UNKNOWN = 45,	/* calls of Go whose goroutine serves nobody known */
	WAGGLE_COUNT_GO_FUNCTIONS_FULL = 46,	/* functions whose goroutines hand nothing on, or are
						 * handed nothing */
	WAGGLE_COUNT_INJECT_ENROLLED = 47, /* connections into which a header may be written */
	WAGGLE_COUNT_INJECT_LEFT = 48,	   /* of those, that are as they were again */
	WAGGLE_COUNT_INJECT_WRITTEN = 49,  /* headers written */
	/* And requests that were left alone, by why. */
	WAGGLE_COUNT_INJECT_HAS_ONE = 50,     /* it has a traceparent or tracestate */
	WAGGLE_COUNT_INJECT_NOT_A_HEAD = 51,  /* no request is proven to begin at this byte */
	WAGGLE_COUNT_INJECT_CUT = 52,	      /* its head does not end in this message */
	WAGGLE_COUNT_INJECT_PIPELINED = 53,   /* another one is not answered yet */
	WAGGLE_COUNT_INJECT_UNSURE = 54,      /* framing that others may read differently */
	WAGGLE_COUNT_INJECT_FORM = 55,	      /* CONNECT, or a target that is no path */
	WAGGLE_COUNT_INJECT_TOO_LARGE = 56,   /* a head that some servers would refuse then */
	WAGGLE_COUNT_INJECT_UNDECIDED = 57,   /* its ids may stand for others */
	WAGGLE_COUNT_INJECT_NO_ROOM = 58,     /* the kernel might take a part of it only */
	WAGGLE_COUNT_INJECT_REFUSED = 59,     /* the kernel gave no memory for it */
	/* Connections that were never enrolled, by why. */
	WAGGLE_COUNT_INJECT_ELSEWHERE = 60,   /* to where no header shall go (--inject-to) */
	WAGGLE_COUNT_INJECT_UNKNOWN_PEER = 61, /* nobody has answered there by HTTP/1 so far */
	WAGGLE_COUNT_INJECT_BUSY = 62,	      /* data sent with SYN, SO_ZEROCOPY, or io_uring */
	WAGGLE_COUNT_OPTION_SENT = 63, /* requests whose first segment bore the TCP option */
	WAGGLE_COUNT_OPTION_RECEIVED = 64,
	WAGGLE_COUNT_OPTION_NOT_SENT = 65, /* no segment began with the request, or had no room */
	WAGGLE_COUNT_OPTION_PENDING = 66, /* the trace may turn out to be another's: not told */
	WAGGLE_COUNT_OPTION_GIVEN_UP = 67, /* segments that nobody answered while they bore it */
	WAGGLE_COUNT_OPTION_PEERS_STOPPED = 68, /* who did not answer it: left alone from then on */
	WAGGLE_COUNT_OPTION_PROBED = 69, /* empty ones, which the agent sends itself at its start */
	WAGGLE_COUNT_OPTION_OLD_REFUSED = 70, /* old connections that this kernel lets no one change */
	WAGGLE_COUNT_TURN_CALLS = 71, /* whose parent rule `turn` claims, until answers prove it */
	WAGGLE_COUNT_TLS_CONNECTIONS = 72, /* encrypted, of processes that are traced */
	WAGGLE_COUNT_TLS_BOUND = 73,	/* whose plaintext is known to be theirs */
	WAGGLE_COUNT_LOST_TLS_UNBOUND = 74, /* plaintext of which nobody knows whose it is */
	WAGGLE_COUNT_LOST_TLS_BUSY = 75, /* plaintext that came while another was looked at */
	WAGGLE_COUNT_LOST_EXCHANGE_GONE = 76, /* exchanges that were open and are not there */
	WAGGLE_COUNT_OPAQUE = 77, /* exchanges within TLS that nobody can read */
	WAGGLE_COUNT_LOST_OPAQUE_RATE = 78,
	WAGGLE_COUNT_OPAQUE_UNANSWERED = 79, /* dropped: something else was sent, and much later */
	WAGGLE_COUNT_LOST_HANDSHAKE_RATE = 80, /* connections whose handshake no span tells of */
	WAGGLE_COUNT_LOST_HANDSHAKE_RING_FULL = 81,
	WAGGLE_COUNT_INJECT_STAYED = 82, /* given SO_ZEROCOPY, and still enrolled: no more are */
	WAGGLE_COUNT_LOST_HANDOFF_TOO_LATE = 83, /* answered, on a UNIX socket, before its ids were left */
	WAGGLE_COUNT_TLS_LEFT_ALONE = 84, /* encrypted connections, while nobody wants to see into them */
	WAGGLE_COUNTERS = 85,
};

/* How headers come into requests: map `inject_settings`, by user space (bpf/inject.h). */
enum waggle_inject_mode {
	WAGGLE_INJECT_OFF = 0,
	WAGGLE_INJECT_FIRST = 1,  /* into the first request of a connection, which then leaves */
	WAGGLE_INJECT_ALWAYS = 2, /* into all of them */
};

struct waggle_inject_settings {
	unsigned int mode;  /* enum waggle_inject_mode */
	unsigned int trial; /* the agent's own connections to this port are enrolled as well */
	unsigned int rules; /* of map inject_rules, in use */
	unsigned int frames; /* into HTTP/2 as well, whose own trial went well */
};

/* Where headers may go. A destination that a rule of kind `never` matches is left alone,
 * and one that no other rule matches. */
#define WAGGLE_INJECT_RULES 64
struct waggle_inject_rule {
	unsigned char address[16]; /* IPv6 or IPv4-mapped, */
	unsigned char mask[16];	   /* 0xff or less for each byte that counts */
	unsigned short port;	   /* 0: any */
	unsigned short never;
	unsigned int reserved;
};

_Static_assert(sizeof(struct waggle_facts) == WAGGLE_FACTS_SIZE, "facts");
_Static_assert(sizeof(struct waggle_exchange) == WAGGLE_RECORD_SIZE, "exchange");
_Static_assert(sizeof(struct waggle_large_exchange) == WAGGLE_LARGE_RECORD_SIZE, "large exchange");
_Static_assert(sizeof(struct waggle_process_event) == 56, "process event");
_Static_assert(sizeof(struct waggle_evidence) == 144, "evidence");
_Static_assert(sizeof(struct waggle_http2) == WAGGLE_HTTP2_SIZE, "stream");
_Static_assert(sizeof(struct waggle_handshake) == 144, "handshake");
_Static_assert(sizeof(struct waggle_log) == WAGGLE_LOG_RECORD_SIZE, "log");
_Static_assert(sizeof(struct waggle_table_event) == WAGGLE_RECORD_SIZE, "table event");
_Static_assert(sizeof(struct waggle_code_event) == 2040, "code event");

#endif
