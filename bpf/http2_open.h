/* SPDX-License-Identifier: Apache-2.0
 *
 * A stream begins: whose it is, and what is told of it from its first block on.
 */
#ifndef WAGGLE_HTTP2_OPEN_H
#define WAGGLE_HTTP2_OPEN_H

#include "go_stream_names.h"
#include "hpack_values.h"
#include "http1_exchange.h"
#include "http2_record.h"
#include "table_contexts.h"
#include "table_texts.h"

#define HTTP2_VERSION 20

/* Where fill_addresses() looks for those of the exchange before. */
INLINE void remember_addresses(struct connection *connection, const struct waggle_facts *facts)
{
	struct waggle_facts *before = &connection->current.record.facts;

	if (before->family == facts->family)
		return;
	__builtin_memcpy(before->local_addr, facts->local_addr, 32);
	before->local_port = facts->local_port;
	before->peer_port = facts->peer_port;
	before->family = facts->family;
}

INLINE void fill_stream(struct feed *feed, struct http2_connection *http2,
			const struct block_at_hand *given, struct waggle_facts *facts,
			struct waggle_process *process)
{
	__builtin_memset(facts, 0, sizeof(*facts));
	facts->start_ns = given->ns;
	new_span_id(random_of(feed->scratch), facts->span_id);
	facts->process_start_ns = process_start(process);
	facts->tgid = feed->tgid;
	facts->tid = feed->tid;
	facts->role = feed->connection->role;
	facts->version = HTTP2_VERSION;
	facts->protocol = WAGGLE_PROTOCOL_HTTP2;
	if (!(given->flags & WAGGLE_BLOCK_FLAG_END_STREAM))
		facts->flags |= WAGGLE_FLAG_REQUEST_BODY;
	if (!process || process->mode & WAGGLE_PROCESS_UNCONFIRMED)
		facts->flags |= WAGGLE_FLAG_PROVISIONAL;
	if (http2->resynced)
		facts->flags |= WAGGLE_FLAG_RESYNCED;
	tell_tls(feed->connection, facts);
	fill_addresses(facts, feed->connection, feed->sock);
	remember_addresses(feed->connection, facts);
}

/* As count_open() does for requests of HTTP/1. */
INLINE void count_stream(struct http2_stream *stream, struct waggle_process *process, u64 sock,
			 u32 number)
{
	if (!process || !rules_may_ask(process))
		return;
	stream->counted = 1;
	process->alone_sock = sock;
	process->alone_index = number | ALONE_STREAM;
	__sync_fetch_and_add(&process->open, 1);
}

/* Whose trace the stream belongs to, by the rules of any request. */
INLINE void join_stream(struct feed *feed, struct http2_scratch *scratch,
			struct http2_connection *http2, struct waggle_process *process)
{
	struct connection *connection = feed->connection;
	struct waggle_facts *facts = &scratch->fresh.record.facts;
	struct trace_context *header = &scratch->block.context;

	header->valid = 0;
	if (rank_of_tracecontext && hpack_traceparent(&scratch->block))
		count(header->valid ? WAGGLE_COUNT_TRACEPARENT_READ :
				      WAGGLE_COUNT_TRACEPARENT_INVALID);
	if (rank_of_tracecontext && scratch->block.walk.traceparent_entry)
		turn_to_entry(http2, &scratch->block, scratch->given.epoch);
	if (scratch->block.walk.noted)
		stronger_context(&feed->scratch->head, &feed->scratch->header, &feed->scratch->hex,
				 header);
	if (!header->valid || header->link != WAGGLE_LINK_TRACEPARENT)
		((struct waggle_http2 *)scratch->fresh.record.head)->flags |=
			WAGGLE_HTTP2_FLAG_NO_TRACESTATE;
	if (header->valid)
		facts->flags |= WAGGLE_FLAG_HAD_TRACEPARENT;
	if (connection->role == WAGGLE_ROLE_SERVER) {
		join_incoming(feed, header, facts);
		count_stream(&scratch->fresh.stream, process, feed->sock, scratch->given.stream);
		return;
	}
	join_outgoing(feed, process, header, facts, &scratch->fresh.stream.owner);
	if (http2->resynced)
		name_call(connection, http2, feed->sock, scratch->given.stream, facts);
	connection->flags &= ~CONNECTION_FRESH;
	connection->tgid = feed->tgid;
	/* What comes back on a connection of several streams is nobody's in particular. */
	if (http2->open)
		__builtin_memset(&connection->turn_owner, 0, sizeof(connection->turn_owner));
	if (may_tell(facts)) {
		offer_option(connection, feed->scratch->state.now, feed->stream->head_at, facts);
		leave_handoff(connection, feed->sock, feed->scratch->state.now,
			      feed->stream->head_at, facts);
	}
}

/* It is kept: so may be what it came with. */
PROVEN_ONCE int keep_stream_header(u32 user)
{
	struct http2_scratch *scratch = http2_scratch_of(user);
	struct waggle_facts *facts;

	if (!scratch)
		return 0;
	facts = &scratch->fresh.record.facts;
	if (facts->role == WAGGLE_ROLE_SERVER && facts->flags & WAGGLE_FLAG_HAD_TRACEPARENT)
		keep_forwarded(&scratch->block.context, facts, scratch->sock, scratch->given.stream);
	return 0;
}

/* A stream begins with the block at hand. */
PROVEN_ONCE int open_stream(struct connection *connection, struct http2_connection *http2, u32 user,
			    u32 pushed)
{
	struct http2_scratch *scratch = http2_scratch_of(user);
	struct scratch *state = scratch_of(user);
	struct open_large_stream *fresh;
	struct block_at_hand *given;
	struct waggle_facts *facts;
	struct waggle_http2 *head;
	struct waggle_process *process;
	struct feed whole, *feed = &whole;

	if (!connection || !http2 || !scratch || !state)
		return 0;
	begin_feed(feed, connection, state, scratch->sock, scratch->sent);
	given = &scratch->given;
	fresh = &scratch->fresh;
	facts = &fresh->record.facts;
	head = (void *)fresh->record.head;
	process = ensure_process(feed->tgid);
	__builtin_memset(&fresh->stream, 0, sizeof(fresh->stream));
	__builtin_memset(head, 0, WAGGLE_HEAD_SIZE);
	fresh->stream.connection = http2->id;
	fresh->stream.used = WAGGLE_HTTP2_SIZE;
	head->connection = http2->id;
	head->stream = given->stream;
	if (http2->resynced)
		head->flags |= WAGGLE_HTTP2_FLAG_RESYNCED;
	if (given->length > HTTP2_SMALL_BLOCKS)
		clear_head(scratch);
	keep_block_fresh(scratch, given);
	fill_stream(feed, http2, given, facts, process);
	feed->scratch->head.suitable_rules = given->path_rules;
	if (pushed) {
		head->flags |= WAGGLE_HTTP2_FLAG_PUSHED | WAGGLE_HTTP2_FLAG_REQUEST_ENDED;
		facts->flags &= ~WAGGLE_FLAG_REQUEST_BODY;
		begin_trace(feed->scratch, facts);
		if (facts->role == WAGGLE_ROLE_SERVER)
			count_stream(&fresh->stream, process, feed->sock, given->stream);
	} else {
		feed->stream->head_at = given->at;
		join_stream(feed, scratch, http2, process);
		if (given->flags & WAGGLE_BLOCK_FLAG_END_STREAM) {
			head->flags |= WAGGLE_HTTP2_FLAG_REQUEST_ENDED;
			head->request_end_ns = feed->scratch->state.now;
		}
	}
	/* Some clients leave stream 1 to an upgrade that there is none of. */
	if (is_tls(connection) && given->stream <= 3)
		tell_handshake(facts, feed->sock);
	http2->tgid = feed->tgid;
	if (!store_fresh(scratch, http2, feed->sock, given->stream))
		stream_left(facts, fresh->stream.counted);
	else
		keep_stream_header(user);
	return 0;
}

#endif
