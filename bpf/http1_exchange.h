/* SPDX-License-Identifier: Apache-2.0
 *
 * A complete HTTP/1 head becomes the beginning or the end of an exchange.
 */
#ifndef WAGGLE_HTTP1_EXCHANGE_H
#define WAGGLE_HTTP1_EXCHANGE_H

#include "events.h"
#include "go_routes.h"
#include "handoff.h"
#include "http1_body.h"
#include "http1_peers.h"
#include "parents.h"
#include "sdk.h"
#include "python_code.h"
#include "tls_handshake.h"

struct shape_walk {
	struct http1_head *head;
	u64 hash;
	u32 at;
	u32 end;
};

/* Words at a step, each of which costs a call and a return. */
#define SHAPE_WORDS 4

/* The hash with one more word of what ends at `end`. */
INLINE u64 shape_word(u64 hash, const struct http1_head *head, u32 at, u32 end)
{
	u64 word = load64(head->out + masked(at, HTTP1_OUT_MASK));
	u32 left = end - at;

	if (left < 8)
		word &= (1ULL << (8 * left)) - 1;
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
	return hash ^ hash >> 32;
}

INLINE u64 shape_words(u64 hash, const struct http1_head *head, u32 at, u32 end)
{
#pragma clang loop unroll(full)
	for (u32 i = 0; i < SHAPE_WORDS; i++) {
		if (at < end)
			hash = shape_word(hash, head, at, end);
		at += 8;
	}
	return hash;
}

static long shape_step(u32 index, void *context)
{
	struct shape_walk *walk = context;

	walk->hash = shape_words(walk->hash, walk->head, walk->at, walk->end);
	walk->at += 8 * SHAPE_WORDS;
	return walk->at >= walk->end;
}

PROVEN_ONCE u64 shape_of_rest(struct http1_head *head, u64 hash, u32 at)
{
	struct shape_walk walk = { .head = head, .hash = hash, .at = at };

	if (!head)
		return 0;
	walk.end = head->out_used;
	LOOP(512, shape_step, &walk);
	return walk.hash;
}

/* A seeded hash of the kept fields, so that user space can group records fast. It
 * is a hint: user space compares the bytes before it trusts a group. */
INLINE u64 shape_of(struct http1_head *head)
{
	u32 at = head->target_len, end = head->out_used;
	u64 hash = shape_words(shape_seed, head, at, end);

	at += 8 * SHAPE_WORDS;
	return at < end ? shape_of_rest(head, hash, at) : hash;
}

PROVEN_ONCE int find_addresses(struct waggle_facts *facts, const struct connection *connection,
			       u64 sock)
{
	struct sock *sk = (void *)sock;
	u32 mapped = bpf_htonl(0xffff);
	u8 family;

	if (!facts || !connection)
		return 0;
	family = connection->family;
	__builtin_memset(facts->local_addr, 0, 32); /* both addresses */
	facts->family = family;
	facts->local_port = facts->peer_port = 0;
	if (family == AF_UNIX) {
		facts->flags |= WAGGLE_FLAG_NO_POSITION;
		return 0;
	}
	facts->local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
	facts->peer_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (family == AF_INET6) {
		bpf_core_read(facts->local_addr, 16, &sk->__sk_common.skc_v6_rcv_saddr);
		bpf_core_read(facts->peer_addr, 16, &sk->__sk_common.skc_v6_daddr);
		return 0;
	}
	__builtin_memcpy(facts->local_addr + 8, &mapped, 4);
	__builtin_memcpy(facts->peer_addr + 8, &mapped, 4);
	bpf_core_read(facts->local_addr + 12, 4, &sk->__sk_common.skc_rcv_saddr);
	bpf_core_read(facts->peer_addr + 12, 4, &sk->__sk_common.skc_daddr);
	return 0;
}

INLINE void fill_addresses(struct waggle_facts *facts, const struct connection *connection,
			   u64 sock)
{
	const struct waggle_facts *before = &connection->current.record.facts;
	u8 family = connection->family;

	/* A connected socket's addresses stay what they are (on_close): see the last exchange. */
	if (before->family != family || family == AF_UNIX) {
		find_addresses(facts, connection, sock);
		return;
	}
	__builtin_memcpy(facts->local_addr, before->local_addr, 32); /* both addresses */
	facts->family = family;
	facts->local_port = before->local_port;
	facts->peer_port = before->peer_port;
}

/* Everybody is traced, and here is somebody new. */
OUT_OF_LINE struct waggle_process *new_process(u32 tgid)
{
	struct task_struct *task, *leader;
	u64 start;

	task = (void *)bpf_get_current_task();
	leader = BPF_CORE_READ(task, group_leader);
	start = BPF_CORE_READ(leader, start_boottime);
	put_process(tgid, start, WAGGLE_PROCESS_UNCONFIRMED | WAGGLE_PROCESS_FOLLOW);
	tell(WAGGLE_PROCESS_SEEN, tgid, BPF_CORE_READ(leader, real_parent, tgid), start, 0,
	     leader->comm);
	return bpf_map_lookup_elem(&processes, &tgid);
}

/* The entry of the current process, made provisionally when everybody is traced. */
INLINE struct waggle_process *process_in(const u32 *tgid)
{
	struct waggle_process *process = bpf_map_lookup_elem(&processes, tgid);

	return process || !trace_all ? process : new_process(*tgid);
}

OUT_OF_LINE struct waggle_process *ensure_process(u32 tgid)
{
	return process_in(&tgid);
}

INLINE u64 process_start(struct waggle_process *process)
{
	struct task_struct *task;

	if (process && process->start_ns)
		return process->start_ns;
	task = (void *)bpf_get_current_task();
	return BPF_CORE_READ(task, group_leader, start_boottime);
}

INLINE void fill_request(struct feed *feed, struct http1_head *head,
			 struct waggle_facts *facts, struct waggle_process *process)
{
	struct http1_stream *stream = feed->stream;

	__builtin_memset(facts, 0, sizeof(*facts));
	facts->start_ns = stream->head_ns;
	facts->shape = shape_of(head);
	new_span_id(random_of(feed->scratch), facts->span_id);
	facts->process_start_ns = process_start(process);
	facts->tgid = feed->tgid;
	facts->tid = feed->tid;
	facts->role = feed->connection->role;
	facts->method = head->method;
	facts->version = head->version;
	facts->protocol = WAGGLE_PROTOCOL_HTTP1;
	facts->target_len = head->target_len;
	facts->target_full_len = head->target_full_len;
	facts->kept_len = head->out_used - head->target_len;
	if (head->target_len < head->target_full_len) {
		facts->flags |= WAGGLE_FLAG_TARGET_CUT;
		count(WAGGLE_COUNT_TARGET_CUT);
	}
	if (head->kept_cut) {
		facts->flags |= WAGGLE_FLAG_KEPT_CUT;
		count(WAGGLE_COUNT_KEPT_CUT);
	}
	if (head->chunked || (head->has_length && head->content_length))
		facts->flags |= WAGGLE_FLAG_REQUEST_BODY;
	if (!process || process->mode & WAGGLE_PROCESS_UNCONFIRMED)
		facts->flags |= WAGGLE_FLAG_PROVISIONAL;
	if (feed->connection->flags & CONNECTION_RESYNCED)
		facts->flags |= WAGGLE_FLAG_RESYNCED;
	tell_tls(feed->connection, facts);
	fill_addresses(facts, feed->connection, feed->sock);
}

PROVEN_ONCE int read_traceparent(struct http1_head *head, struct trace_context *context)
{
	if (!head || !context || !head->traceparent)
		return 0;
	if (parse_traceparent(head->bytes + masked(head->traceparent, HTTP1_HEAD_MASK),
			      head->traceparent_len, context))
		count(WAGGLE_COUNT_TRACEPARENT_READ);
	else
		count(WAGGLE_COUNT_TRACEPARENT_INVALID);
	return 0;
}

/* The single header wins (OpenTelemetry, "B3 Requirements"). */
INLINE void read_b3(const struct http1_head *head, struct trace_context *context,
		    struct hex_walk *walk)
{
	if (head->contexts[HTTP1_B3].at && read_b3_single(head, context, walk))
		return;
	if (head->contexts[HTTP1_B3_TRACE].at)
		read_b3_multi(head, context, walk);
}

INLINE void read_format(u32 rank, struct http1_head *head, struct trace_context *context,
			struct hex_walk *walk)
{
	if (rank == rank_of_tracecontext)
		read_traceparent(head, context);
	else if (rank == rank_of_b3)
		read_b3(head, context, walk);
	else if (rank == rank_of_jaeger && head->contexts[HTTP1_JAEGER].at)
		read_jaeger(head, context, walk);
	else if (rank == rank_of_xray && head->contexts[HTTP1_XRAY].at)
		read_xray(head, context, walk);
}

/* The trace context of a request: of the strongest format that it has a valid one of. */
PROVEN_ONCE int read_context(struct http1_head *head, struct trace_context *context,
			     struct hex_walk *walk)
{
	if (!head || !context || !walk)
		return 0;
#pragma clang loop unroll(full)
	for (u32 rank = 1; rank <= FORMATS; rank++)
		if (!context->valid)
			read_format(rank, head, context, walk);
	return context->valid;
}

INLINE void context_of_head(struct http1_head *head, struct scratch *scratch)
{
	scratch->header.valid = 0;
	scratch->header.pending = 0;
	if (head->traceparent || head->has_contexts)
		read_context(head, &scratch->header, &scratch->hex);
}

static long void_step(u32 index, void *context)
{
	struct shape_walk *walk = context;
	u8 *field = walk->head->out + masked(walk->at, HTTP1_OUT_MASK);

	if (walk->at >= walk->end)
		return 1;
	if (field[0] == WAGGLE_KEPT_TRACESTATE)
		field[0] = WAGGLE_KEPT_VOID;
	walk->at += 4 + (field[2] | (u32)field[3] << 8);
	return 0;
}

#define KEPT_FIELDS_MAX 64

/* Without a traceparent a tracestate means nothing (Trace Context 3.3.1). */
PROVEN_ONCE int void_tracestate(struct http1_head *head)
{
	struct shape_walk walk = { .head = head };

	if (!head)
		return 0;
	walk.at = head->target_len;
	walk.end = head->out_used;
	LOOP(KEPT_FIELDS_MAX, void_step, &walk);
	return 0;
}

/* As adopt(), and what that says of sampling. */
INLINE void adopt_sampled(struct feed *feed, struct waggle_facts *facts,
			  const struct trace_context *context,
			  const struct trace_context *header, u8 link)
{
	adopt(facts, context, link);
	sample_adopted(feed->scratch, facts, context, header);
}

/* An incoming request: the hand-off is nearer than the header, since many programs
 * copy the header they got; but where they name different traces somebody who knows
 * better has spoken. */
INLINE void join_incoming(struct feed *feed, const struct trace_context *header,
			  struct waggle_facts *facts)
{
	struct trace_context *handed = &feed->scratch->handed;

	if (take_handoff(feed->connection, feed->sock, feed->scratch->state.now,
			 feed->stream->head_at, handed) &&
	    (!header->valid || same_trace(header->trace_id, handed->trace_id)))
		adopt_sampled(feed, facts, handed, header, handed->link);
	else if (header->valid)
		adopt_sampled(feed, facts, header, header, header->link);
	else
		begin_trace(feed->scratch, facts);
	if (facts->link)
		facts->flags |= WAGGLE_FLAG_REMOTE_PARENT;
	if (header->valid)
		sdk_request(facts);
}

/* Whether the other end is told of the span: not where it may never be shown, or an SDK has
 * made the span, which the header then names. */
INLINE int may_tell(const struct waggle_facts *facts)
{
	return !(facts->flags & WAGGLE_FLAG_SDK) &&
	       (trace_all || !(facts->flags & WAGGLE_FLAG_PROVISIONAL));
}

/* An outgoing request: our own evidence where it names the header's trace or there
 * is no header, else the header, which the application made, or passes on. */
INLINE void join_outgoing(struct feed *feed, const struct waggle_process *process,
			  const struct trace_context *header, struct waggle_facts *facts,
			  struct owner *owner)
{
	if (is_go(process))
		facts->link = goroutine_parent(feed->connection, feed->sock,
					       stream_of(feed->connection, facts), facts, owner);
	else
		facts->link = find_parent(feed->connection, feed->tgid, feed->tid, facts, owner);
	if (header->valid)
		header_call(header, facts, owner);
	if (header->valid && !(facts->link && same_trace(header->trace_id, facts->trace_id))) {
		facts->flags &= ~WAGGLE_FLAG_TRACE_PENDING;
		adopt_sampled(feed, facts, header, header, header->link);
	} else if (!facts->link) {
		begin_trace(feed->scratch, facts);
	} else {
		compare_tracestate(facts, header);
	}
	if (owner->sock && (!facts->link || facts->link == WAGGLE_LINK_TURN))
		turn_call(facts, owner);
	else if (!facts->link || facts->link == WAGGLE_LINK_TASK)
		task_call(facts, WAGGLE_EVIDENCE_CALL);
	/* Who waits for a proof has no header: where those were asked for they go first. */
	if (!headers_first && !facts->link && !(facts->flags & WAGGLE_FLAG_TRACE_PENDING))
		claim_call(feed->connection, facts);
}

/* Processors pass the entry of a process to and fro when all write to it, so requests are
 * counted only where a rule may ask, now or once the process is decided about. */
INLINE int rules_may_ask(const struct waggle_process *process)
{
	u32 no_rule = WAGGLE_PROCESS_TRACED | WAGGLE_PROCESS_EXCLUDED | WAGGLE_PROCESS_FOLLOW |
		      WAGGLE_PROCESS_RULE_THREAD | WAGGLE_PROCESS_RULE_GOROUTINE |
		      WAGGLE_PROCESS_SDK | WAGGLE_PROCESS_SDK_SERVER |
		      WAGGLE_PROCESS_THREAD_READS | WAGGLE_PROCESS_NAMED_THREADS |
		      WAGGLE_PROCESS_CARRIED;

	return !!(process->mode & ~no_rule);
}

INLINE void count_open(struct connection *connection, struct waggle_process *process)
{
	if (!rules_may_ask(process))
		return;
	connection->flags |= CONNECTION_COUNTED | CONNECTION_RULES;
	__sync_fetch_and_add(&process->open, 1);
}

/* One more request is open on a server connection. */
INLINE void server_busy(struct feed *feed, struct waggle_process *process)
{
	struct connection *connection = feed->connection;

	if (connection->flags & CONNECTION_SERVER_OPEN)
		return;
	connection->flags |= CONNECTION_SERVER_OPEN;
	/* Goroutines of two processes may lie at one address. */
	if (connection->tgid != feed->tgid)
		connection->reader_g = 0;
	connection->flags &= ~(CONNECTION_BLOCKING | CONNECTION_COUNTED | CONNECTION_RULES |
			       CONNECTION_PROVES);
	connection->owner_tid = feed->tid;
	connection->tgid = feed->tgid;
	if (!process)
		return;
	count_open(connection, process);
	turn_waits(connection, process);
	claims_begin(connection, process, feed->sock, feed->tgid, feed->tid);
	if (!feed->scratch->state.blocking || !(process->mode & WAGGLE_PROCESS_RULE_THREAD))
		return;
	connection->flags |= CONNECTION_BLOCKING;
	/* Two open requests of different connections on one thread: it is a loop. */
	if (thread_enter(feed->tid, feed->sock)) {
		__sync_fetch_and_add(&process->thread_contradicts, 1);
		count(WAGGLE_COUNT_RULE_CONTRADICTED);
	}
}

static long clear_step(u32 index, void *context)
{
	struct shape_walk *walk = context;

	if (walk->at >= HTTP1_OUT_MAX)
		return 1;
	store64(walk->head->out + masked(walk->at, HTTP1_OUT_MASK), 0);
	walk->at += 8;
	return 0;
}

/* What lies behind the head in the buffer is of requests before: it ends here. */
INLINE void clear_behind(struct http1_head *head)
{
	clear_words(head->out + masked(head->out_used, HTTP1_OUT_MASK), HEAD_BLOCK);
}

/* A large record leaves as a whole. */
PROVEN_ONCE int clear_tail(struct http1_head *head)
{
	struct shape_walk walk = { .head = head };

	if (!head)
		return 0;
	walk.at = head->out_used;
	LOOP(512, clear_step, &walk);
	return 0;
}

/* Of several that are open, and of large ones. */
OUT_OF_LINE int store_beside(const struct connection *connection, u64 sock, struct http1_head *head)
{
	struct exchange_key key = { .sock = sock, .index = connection->requests };
	struct scratch_exchange *exchange = (void *)head->prefix;

	if (head->out_used <= WAGGLE_HEAD_SIZE)
		return !bpf_map_update_elem(&exchanges, &key, exchange, BPF_ANY);
	clear_tail(head);
	return !bpf_map_update_elem(&large_exchanges, &key, exchange, BPF_ANY);
}

INLINE int store_exchange(struct connection *connection, u64 sock, struct http1_head *head)
{
	struct scratch_exchange *exchange = (void *)head->prefix;
	struct open_exchange *current = &connection->current;

	clear_behind(head);
	if (head->out_used > WAGGLE_HEAD_SIZE || connection->current_used)
		return store_beside(connection, sock, head);
	connection->current_used = 1;
	connection->current_index = connection->requests;
	current->owner = exchange->owner;
	current->record.facts = exchange->facts;
	copy_head(current->record.head, exchange->head, head->out_used, 0);
	return 1;
}

/* Whether somebody else may see the next request begin at another byte than we do. */
INLINE int framing_is_odd(const struct http1_head *head)
{
	return head->odd || (head->chunked && (head->has_length || head->version == 10));
}

/* Returns 0, or the counter that says why the exchange cannot be followed. */
PROVEN_ONCE int on_request_head(struct connection *connection, u32 user, u64 sock, u32 sent)
{
	struct scratch_exchange *exchange;
	struct waggle_facts *facts;
	struct waggle_process *process;
	struct trace_context *header;
	struct http1_head *head;
	struct scratch *scratch = scratch_of(user);
	struct feed whole, *feed = &whole;

	if (!connection || !scratch)
		return WAGGLE_COUNT_LOST_BAD_FRAMING;
	resume_feed(feed, connection, scratch, sock, sent);
	head = &scratch->head;
	exchange = (void *)head->prefix;
	facts = &exchange->facts;
	header = &scratch->header;
	facts->tgid = feed->tgid;
	process = process_in(&facts->tgid);
	if (open_requests(connection) >= PIPELINE_MAX)
		return WAGGLE_COUNT_LOST_PIPELINE_TOO_DEEP;
	/* Found in mid-stream, and a second request before the first was answered: that
	 * may as well be a body that looks like requests. */
	if ((connection->flags & CONNECTION_RESYNCED) && open_requests(connection))
		return WAGGLE_COUNT_LOST_BAD_FRAMING;
	__builtin_memset(&exchange->owner, 0, sizeof(exchange->owner));
	keep_call_site(feed, head, process);
	context_of_head(head, scratch);
	if (head->tracestate && !(header->valid && header->link == WAGGLE_LINK_TRACEPARENT))
		void_tracestate(head);
	if (is_tls(connection) && connection->role == WAGGLE_ROLE_CLIENT)
		name_server(head, sock);
	fill_request(feed, head, facts, process);
	if (sampling_mode & SAMPLING_ON && header->valid && head->tracestate &&
	    header->link == WAGGLE_LINK_TRACEPARENT)
		read_tracestate(head, header);
	if (header->valid)
		facts->flags |= WAGGLE_FLAG_HAD_TRACEPARENT;
	if (connection->role == WAGGLE_ROLE_SERVER) {
		join_incoming(feed, header, facts);
		server_busy(feed, process);
		if (header->valid)
			keep_forwarded(header, facts, sock, connection->requests);
		if (process && process->mode & WAGGLE_PROCESS_RULE_GOROUTINE) {
			if (!surely_reads_again(connection, facts->start_ns,
						scratch->state.likely_g))
				goroutine_request(connection, facts, feed->sock);
		} else {
			task_request(connection, process, facts, feed->sock);
		}
	} else {
		join_outgoing(feed, process, header, facts, &exchange->owner);
		connection->flags &= ~CONNECTION_FRESH;
		if (framing_is_odd(head))
			connection->flags |= CONNECTION_UNSURE;
		connection->tgid = feed->tgid;
		if (may_tell(facts))
			hand_over(connection, feed->sock, feed->scratch->state.now,
				  feed->stream->head_at, facts);
	}
	if (is_tls(connection) && !connection->requests)
		tell_handshake(facts, sock);
	if (!store_exchange(connection, feed->sock, head))
		return WAGGLE_COUNT_LOST_EXCHANGE_MAP_FULL;
	connection->requests++;
	if (connection->role == WAGGLE_ROLE_SERVER)
		look_again(connection, feed->sock, feed->stream->head_at, &feed->scratch->handed);
	return 0;
}

/* The request's body is complete. */
INLINE void on_request_done(struct feed *feed)
{
	struct found_exchange found;

	if (feed->stream->body &&
	    find_exchange(feed->connection, feed->sock, feed->connection->requests - 1,
			  &found))
		found.facts->request_body = feed->stream->body;
}

enum response_kind { RESPONSE_UNKNOWN = 0, RESPONSE_INTERIM = 1, RESPONSE_FINAL = 2, RESPONSE_SWITCH = 3 };

/* What kind of response this is, and the method it answers. */
PROVEN_ONCE int on_response_head(struct connection *connection, u32 user, u64 sock, u32 sent)
{
	struct scratch *scratch = scratch_of(user);
	struct found_exchange found;
	struct feed whole, *feed = &whole;
	struct http1_head *head;

	if (!connection || !scratch)
		return RESPONSE_UNKNOWN;
	resume_feed(feed, connection, scratch, sock, sent);
	head = &scratch->head;
	if (!open_requests(connection) ||
	    !find_exchange(connection, feed->sock, connection->responses, &found))
		return RESPONSE_UNKNOWN;
	connection->flags &= ~CONNECTION_RESYNCED;
	head->method = found.facts->method;
	if (head->status < 200 && head->status != 101)
		return RESPONSE_INTERIM;
	found.facts->status = head->status;
	found.facts->response_ns = feed->stream->head_ns;
	if (connection->flags & CONNECTION_ROUTED && !found.large)
		keep_route(connection, (void *)found.facts);
	/* Answered before its end: what was announced of it may never come. */
	if (http1_in_body(request_stream(connection)))
		connection->flags |= CONNECTION_UNSURE;
	if (inject_wanted && connection->role == WAGGLE_ROLE_CLIENT && !connection->responses &&
	    !is_tls(connection))
		remember_peer(found.facts);
	if (connection->role == WAGGLE_ROLE_SERVER &&
	    (connection->flags & (CONNECTION_BLOCKING | CONNECTION_RULES))) {
		check_rules(connection, found.facts, feed->sock, feed->tid);
		task_answer(connection, found.facts, feed->sock);
	}
	if (head->status == 101 ||
	    (head->method == WAGGLE_METHOD_CONNECT && head->status < 300)) {
		found.facts->flags |= WAGGLE_FLAG_UPGRADED;
		return RESPONSE_SWITCH;
	}
	if (head->chunked || (head->has_length && head->content_length))
		found.facts->flags |= WAGGLE_FLAG_RESPONSE_BODY;
	return RESPONSE_FINAL;
}

#endif
