/* SPDX-License-Identifier: Apache-2.0
 *
 * How streams end: each in one record, whatever happens to its connection.
 */
#ifndef WAGGLE_HTTP2_ENDING_H
#define WAGGLE_HTTP2_ENDING_H

#include "go_maps.h"
#include "http2_table.h"
#include "stream_names.h"
#include "turns.h"

#define HTTP2_END_STEPS 4096 /* streams looked for when a connection ends; a sweep has time */

/* Streams end on whichever CPU sees it, at times on two at once: only who takes the
 * entry out sends the record. */
struct stream_ending {
	u64 sock;
	u64 now;
	u32 stream;
	u32 error;
	u32 end; /* enum waggle_end */
	u32 reserved;
};

/* A stream that was counted ends. Rule `alone` is told at the end and not with the answer: what
 * is called meanwhile refutes nothing. */
INLINE void stream_left(const struct waggle_facts *facts, u8 counted)
{
	u32 tgid = facts->tgid;
	struct waggle_process *process;

	if (!counted)
		return;
	process = bpf_map_lookup_elem(&processes, &tgid);
	if (!process)
		return;
	if (process->open)
		__sync_fetch_and_add(&process->open, -1);
	if (process->alone_calls)
		turn_tell(process, facts, WAGGLE_EVIDENCE_TURN_ANSWER, !!facts->response_ns,
			  WAGGLE_LINK_ALONE);
}

INLINE void end_facts(struct waggle_facts *facts, u8 *head, u32 used,
		      const struct stream_ending *ending)
{
	struct waggle_http2 *http2 = (void *)head;

	facts->end_ns = ending->now;
	facts->end = ending->end;
	facts->http2_len = used - facts->target_len - facts->kept_len;
	if (ending->error)
		http2->error = ending->error;
}

INLINE void stream_taken(const struct waggle_facts *facts, u8 counted,
			 struct http2_connection *http2)
{
	stream_left(facts, counted);
	if (http2)
		__sync_fetch_and_add(&http2->open, -1);
}

/* `http2` is null where the connection is gone.
 * The record is copied before the entry is taken out, since then it may be another's. */
#define DEFINE_FINISH(name, map, ring, type, why)						\
	PROVEN_ONCE int name(const struct stream_ending *ending,				\
			     struct http2_connection *http2)				\
	{											\
		struct exchange_key key = {};						\
		struct type *open;							\
		__typeof__(open->record) *record;						\
		u8 counted;								\
		u32 used;									\
												\
		if (!ending)								\
			return 0;								\
		key.sock = ending->sock;							\
		key.index = ending->stream;						\
		open = bpf_map_lookup_elem(&map, &key);					\
		if (!open)								\
			return 0;								\
		if (open->stream.epoch)							\
			forget_handler(&open->stream, ending->end);				\
		record = bpf_ringbuf_reserve(&ring, sizeof(*record), 0);			\
		if (!record) {								\
			stream_taken(&open->record.facts, open->stream.counted, http2);		\
			bpf_map_delete_elem(&map, &key);					\
			count(why);							\
			return 1;								\
		}										\
		counted = open->stream.counted;						\
		used = open->stream.used;							\
		bpf_probe_read_kernel(record, sizeof(*record), &open->record);		\
		if (bpf_map_delete_elem(&map, &key)) {					\
			bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);			\
			return 1;								\
		}										\
		end_facts(&record->facts, record->head, used, ending);			\
		stream_taken(&record->facts, counted, http2);				\
		if (((struct waggle_http2 *)record->head)->flags & WAGGLE_HTTP2_FLAG_RESYNCED)	\
			name_record(&record->facts, record->head, sizeof(record->head), &key);	\
		bpf_ringbuf_submit(record, wakeup(&ring));				\
		count(WAGGLE_COUNT_EXCHANGES);						\
		return 1;									\
	}

DEFINE_FINISH(finish_near_stream, near_streams, exchange_ring, open_stream,
	      WAGGLE_COUNT_LOST_RING_FULL)
DEFINE_FINISH(finish_far_stream, http2_streams, exchange_ring, open_stream,
	      WAGGLE_COUNT_LOST_RING_FULL)
DEFINE_FINISH(finish_large_stream, large_streams, large_ring, open_large_stream,
	      WAGGLE_COUNT_LOST_LARGE_RING_FULL)

/* Ends one stream, if it is open, and sends its record. */
INLINE void finish_stream(const struct stream_ending *ending, struct http2_connection *http2)
{
	if (!finish_near_stream(ending, http2) && !finish_far_stream(ending, http2))
		finish_large_stream(ending, http2);
}

struct end_walk {
	struct stream_ending *ending;
	struct http2_connection *http2;
	u32 above; /* streams above this one */
	u32 reserved;
};

/* Downwards from the latest: most open streams are new. */
static long end_stream_step(u32 index, void *context)
{
	struct end_walk *walk = context;
	struct stream_ending *ending = walk->ending;

	if (!walk->http2->open || ending->stream <= walk->above || ending->stream > 0x7fffffff)
		return 1;
	finish_stream(ending, walk->http2);
	ending->stream -= 2;
	return 0;
}

/* Ends the client's streams above `above`, as far as they are found in time. */
INLINE void end_streams_above(struct stream_ending *ending, struct http2_connection *http2,
			      u32 from, u32 above)
{
	struct end_walk walk = { .ending = ending, .http2 = http2, .above = above };

	ending->stream = from;
	LOOP(HTTP2_END_STEPS, end_stream_step, &walk);
}

/* The connection is over, or nobody can follow it any more. Streams that are not found
 * in time are left to a sweep. */
PROVEN_ONCE int end_http2(u64 sock, u64 now, u32 end)
{
	struct http2_connection *http2 = bpf_map_lookup_elem(&http2_connections, &sock);
	struct stream_ending ending = { .sock = sock, .now = now, .end = end };

	if (!http2 || http2->ended_ns)
		return 0;
	ending.error = http2->error;
	end_streams_above(&ending, http2, http2->highest, 0);
	if (http2->pushed)
		end_streams_above(&ending, http2, http2->pushed, 0);
	tell_table_closed(http2, now);
	http2->end = end;
	http2->ended_ns = now;
	if (http2->open)
		http2_left_open = 1;
	else
		bpf_map_delete_elem(&http2_connections, &sock);
	return 0;
}

#endif
