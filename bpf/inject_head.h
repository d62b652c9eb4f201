/* SPDX-License-Identifier: Apache-2.0
 *
 * Does a request begin at this byte, may a line be written into it, and which?
 */
#ifndef WAGGLE_INJECT_HEAD_H
#define WAGGLE_INJECT_HEAD_H

#include "endpoint.h"
#include "inject_state.h"

#define INJECT_HEAD_MAX 8192 /* what servers take of a head, our line included */
#define INJECT_FIELDS_MAX 90 /* and of fields: 100 is the least bound we know of */
#define TCP_OPTIONS_MAX 40 /* of a segment, which mss_cache may not have taken off */
#define INJECT_STEPS (INJECT_HEAD_MAX / READ_AT_ONCE + 1)

/* What the kernel must be able to take at once: all up to the end of our line. Of a part
 * that it took it would tell the application a wrong number. So nothing may wait to be
 * sent, what matters fits the first segment, and there is room for more than that. */
INLINE int has_room(const struct call *call, u32 upto)
{
	struct tcp_sock *tcp = (void *)call->sk;
	struct sock *sk = (void *)call->sk;
	s64 room = BPF_CORE_READ(sk, sk_sndbuf);

	room -= BPF_CORE_READ(sk, sk_wmem_queued);
	return BPF_CORE_READ(tcp, snd_nxt) == call->endpoint.position &&
	       upto + TCP_OPTIONS_MAX <= BPF_CORE_READ(tcp, mss_cache) && room >= 2 * (s64)upto + 8192;
}

/* The first bytes of a new connection: whatever they are, if they turn out to be a head,
 * this side sends requests. */
INLINE int judge_first(struct feed *feed, const struct call *call)
{
	struct connection *connection = feed->connection;
	u64 word = 0;

	if (connection->role != WAGGLE_ROLE_NONE || feed->stream->state != HTTP1_LOST ||
	    !(connection->flags & CONNECTION_FROM_START) ||
	    call->endpoint.position != call->endpoint.sent_base || call->memory.length < 8 ||
	    bpf_probe_read_kernel(&word, 8, (void *)call->memory.base) ||
	    BEGINS(word, "PRI * HT") || !http1_may_begin_request(word, 8))
		return 0;
	connection->role = WAGGLE_ROLE_CLIENT;
	feed->stream->state = HTTP1_HEAD;
	return 1;
}

/* Where the stream was when this message came to be sent. */
INLINE void line_up(struct feed *feed, const struct call *call)
{
	struct connection *connection = feed->connection;
	struct http1_stream *stream = feed->stream;

	if (!stream->started) {
		stream->started = 1;
		stream->next = call->endpoint.position;
		if (!connection->received.started) {
			connection->sent_base = call->endpoint.sent_base;
			connection->received_base = call->endpoint.received_base;
		}
	}
	if (connection->injected && call->endpoint.position == connection->injected_at)
		stream->next -= connection->injected; /* nothing of it has left */
	connection->injected = 0;
}

/* Whether the framing proves that a request begins with this message's first byte. */
INLINE u32 begins_here(struct feed *feed, const struct call *call)
{
	struct connection *connection = feed->connection;
	struct http1_stream *stream = feed->stream;

	if (is_tls(connection)) /* its streams are of another layer */
		return WAGGLE_COUNT_INJECT_NOT_A_HEAD;
	line_up(feed, call);
	if (is_http2(connection) || stream->next != call->endpoint.position ||
	    connection->flags & CONNECTION_RESYNCED)
		return WAGGLE_COUNT_INJECT_NOT_A_HEAD;
	if (connection->role != WAGGLE_ROLE_CLIENT || stream->state != HTTP1_HEAD)
		return judge_first(feed, call) ? 0 : WAGGLE_COUNT_INJECT_NOT_A_HEAD;
	if (connection->flags & CONNECTION_UNSURE)
		return WAGGLE_COUNT_INJECT_UNSURE;
	return open_requests(connection) ? WAGGLE_COUNT_INJECT_PIPELINED : 0;
}

static long head_step(u32 index, void *context)
{
	struct walk *walk = context;
	struct feed *feed = &walk->feed;
	struct feed_state *state = &feed->scratch->state;
	struct connection *connection = feed->connection;

	if (connection->requests != state->segment || state->offset >= state->length ||
	    state->fate || connection->flags & CONNECTION_DEAD)
		return 1;
	return feed_head(feed);
}

/* Feeds one head and not a byte more. What follows is seen at its place in the stream. */
INLINE void feed_one_head(struct walk *walk, const struct call *call)
{
	struct feed *feed = &walk->feed;
	struct feed_state *state = &feed->scratch->state;

	state->now = bpf_ktime_get_ns();
	feed->connection->last_ns = state->now;
	state->base = call->memory.base;
	state->length = call->memory.length;
	state->offset = 0;
	state->position = call->endpoint.position;
	state->carry = 0;
	state->fill = 0;
	state->left = 0;
	state->gap = 0;
	state->fate = FATE_FINE;
	state->answered = 0;
	state->first_of_call = 0;
	state->blocking = 0;
	state->in_kernel = 1;
	state->segment = feed->connection->requests; /* head_step: to be one more */
	LOOP(INJECT_STEPS, head_step, walk);
	if (!state->fate && state->carry)
		feed_end(feed);
	if (state->fate)
		meet_fate(feed);
	feed->stream->next = call->endpoint.position + state->offset;
}

/* Why the line must not be written into the head that was fed; 0: it may. */
INLINE u32 head_objection(const struct http1_head *head, const struct waggle_facts *facts,
			  const struct connection *connection)
{
	if (head->traceparent || head->tracestate)
		return WAGGLE_COUNT_INJECT_HAS_ONE;
	if (connection->flags & CONNECTION_UNSURE)
		return WAGGLE_COUNT_INJECT_UNSURE;
	if (head->method == WAGGLE_METHOD_CONNECT || head->out[0] != '/')
		return WAGGLE_COUNT_INJECT_FORM;
	if (head->length + HEADER_TEXT_MAX > INJECT_HEAD_MAX || head->fields > INJECT_FIELDS_MAX)
		return WAGGLE_COUNT_INJECT_TOO_LARGE;
	/* Nobody shall have a parent that may never be shown, or has other ids then. */
	if (facts->flags & (WAGGLE_FLAG_TRACE_PENDING | WAGGLE_FLAG_PROVISIONAL))
		return WAGGLE_COUNT_INJECT_UNDECIDED;
	return 0;
}

/* Feeds the head that this message begins with: it gets its ids. Returns 0, or the counter
 * that says why it is left alone. Apart from place_for_line, since calls lie deep below. */
PROVEN_ONCE int feed_message(struct connection *connection, struct call *call)
{
	struct scratch *scratch = scratch_of(SCRATCH_MESSAGE);
	struct walk walk = {};
	u32 why, before;

	if (!connection || !call || !scratch)
		return WAGGLE_COUNT_INJECT_NOT_A_HEAD;
	walk.feed.user = SCRATCH_MESSAGE;
	begin_feed(&walk.feed, connection, scratch, call->endpoint.sock, SENT);
	why = begins_here(&walk.feed, call);
	if (why)
		return why;
	before = connection->requests;
	feed_one_head(&walk, call);
	if (connection->requests != before)
		return 0;
	return connection->sent.state == HTTP1_PARTIAL_HEAD ? WAGGLE_COUNT_INJECT_CUT :
							      WAGGLE_COUNT_INJECT_NOT_A_HEAD;
}

/* Writes the line that the request just fed shall have, and where it goes. Returns 0, or the
 * counter that says why it shall have none. */
PROVEN_ONCE int place_for_line(struct connection *connection, struct call *call,
			       struct header_text *text)
{
	struct scratch *scratch = scratch_of(SCRATCH_MESSAGE);
	struct found_exchange found;
	struct http1_head *head;
	u32 why;

	if (!connection || !call || !text || !scratch)
		return WAGGLE_COUNT_INJECT_NOT_A_HEAD;
	head = &scratch->head;
	if (!find_exchange(connection, call->endpoint.sock, connection->requests - 1, &found))
		return WAGGLE_COUNT_INJECT_NOT_A_HEAD;
	why = head_objection(head, found.facts, connection);
	if (why)
		return why;
	text->at = head->first_line;
	text->length = TRACEPARENT_LINE;
	put_traceparent(text->bytes, found.facts->trace_id, found.facts->span_id,
			found.facts->trace_flags);
	text->length += put_tracestate(text, found.owner, found.facts, 0);
	if (!has_room(call, text->at + text->length))
		return WAGGLE_COUNT_INJECT_NO_ROOM;
	return 0;
}

#endif
