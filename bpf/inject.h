/* SPDX-License-Identifier: Apache-2.0
 *
 * `traceparent` for strangers: a header line into outgoing HTTP/1 requests, a field into HEADERS
 * frames of HTTP/2 and gRPC (inject_stream.h), by sk_msg. This is the only place where bytes of
 * an application are touched, so whatever is not proven means that nothing is done, and is
 * counted (docs/propagation.md).
 *
 * The kernel hands us what an enrolled socket sends before it leaves: its own copy, which
 * the application cannot change any more. The head that begins there is fed to the state
 * machine, which gives the call its ids; the line goes behind the request line; the rest is
 * seen by the other hooks, at the positions that it then has in the stream.
 */
#ifndef WAGGLE_INJECT_H
#define WAGGLE_INJECT_H

#include "endpoint.h"
#include "inject_head.h"
#include "inject_stream.h"
#include "traceparent_text.h"

/* Up to here a request leaves in one piece after we wrote into it, beyond in two: small
 * pieces are small segments. */
#define ONE_PIECE_MAX 6144
#define JOINED_MAX 98304
#define NAGLE_OFF 1	     /* TCP_NAGLE_OFF */
#define INJECT_TRIAL_LINE 21 /* bytes of the request line of a trial */
#define TRIAL_OF_FRAMES 2    /* enrolment.trial, from a preface on */

enum enrolment_stage {
	ENROL_NOT = 0,
	ENROL_WANTED = 1, /* the process and where it connects to are right */
	ENROL_IN = 2,	  /* enrolled; what it speaks is not known yet */
	ENROL_STAYS = 3,  /* enrolled for as long as it lives */
	ENROL_LEAVES = 4, /* to be taken out at the next occasion, in the same send */
	ENROL_LEFT = 5,
	ENROL_NEVER = 6, /* has SO_ZEROCOPY, or is about to */
};

/* What is known of a socket, in its own storage. */
struct enrolment {
	u64 sock;    /* addresses, as numbers */
	u64 message;
	u64 data;
	u64 data_end;
	u32 stage; /* enum enrolment_stage */
	u32 trial; /* the agent's own (waggle_inject_settings) */
	u8 trial_ids[16];
	u64 own_callback; /* nobody else wants to be called before segments */
	u64 cookie;	  /* its key in the map of sockets */
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct enrolment);
} enrolments SEC(".maps");

MAP(header_texts, BPF_MAP_TYPE_PERCPU_ARRAY, 1, u32, struct header_text, 0);
MAP(inject_settings, BPF_MAP_TYPE_ARRAY, 1, u32, struct waggle_inject_settings, 0);

INLINE struct waggle_inject_settings *inject_settings_now(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&inject_settings, &zero);
}

INLINE u8 *data_of(struct sk_msg_md *message)
{
	return (u8 *)(long)message->data;
}

INLINE u8 *data_end_of(struct sk_msg_md *message)
{
	return (u8 *)(long)message->data_end;
}

/* Where the first piece of the message lies. */
INLINE u32 look_at_data(struct sk_msg_md *message, struct enrolment *mine)
{
	*(volatile u64 *)&mine->data = (u64)data_of(message);
	*(volatile u64 *)&mine->data_end = (u64)data_end_of(message);
	return *(volatile u64 *)&mine->data_end - *(volatile u64 *)&mine->data;
}

INLINE struct scatterlist *first_of(const struct enrolment *mine)
{
	struct sk_msg *message = (void *)mine->message;
	u64 first = BPF_CORE_READ(message, sg.start), size = bpf_core_type_size(struct scatterlist);

	return (void *)((u64)__builtin_preserve_access_index(&message->sg.data) + first * size);
}

/* How much of the message the kernel takes at once, which is more than it may let us read. */
INLINE u32 piece_length(const struct enrolment *mine)
{
	struct scatterlist *piece = first_of(mine);

	return BPF_CORE_READ(piece, length);
}

/* The kernel says of this piece where it lies and which page that is: so we know of all. */
INLINE void learn_page_origin(const struct enrolment *mine)
{
	struct scatterlist *piece = first_of(mine);
	u64 page;

	if (page_origin || bpf_core_type_size(struct page) != PAGE_STRUCT_SIZE)
		return;
	page = BPF_CORE_READ(piece, page_link) & ~3ULL;
	if (page)
		page_origin = mine->data - BPF_CORE_READ(piece, offset) - page * PAGE_STRUCT_SCALE;
}

/* The bytes of the text that one bit of its length stands for, behind those of higher bits. Where
 * they go is reckoned from the length alone, so that the verifier need not tell apart which of
 * the parts before were written. */
#define WRITE_PART(size)                                                  \
	do {                                                              \
		u32 from = masked(length, HEADER_TEXT_ROOM - 2 * (size)); \
		u8 *part = to + from;                                     \
									  \
		if (!masked(length, size))                                \
			break;                                            \
		if (part + (size) > end)                                  \
			return 0;                                         \
		copy_words(part, text->bytes + from, size);               \
	} while (0)

/* Writes the text into the message, which has `length` bytes of room from `at` on. */
INLINE int write_text(struct sk_msg_md *message, const struct header_text *text)
{
	u32 length = text->length, at = text->at, last;
	u8 *to, *end;

	if (length < TRACEPARENT_FIELD || length > HEADER_TEXT_MAX ||
	    bpf_msg_pull_data(message, at, at + length, 0))
		return 0;
	to = data_of(message);
	end = data_end_of(message);
	WRITE_PART(512);
	WRITE_PART(256);
	WRITE_PART(128);
	WRITE_PART(64);
	WRITE_PART(32);
	WRITE_PART(16);
	WRITE_PART(8);
	/* What is left begins within the word that ends the text. */
	last = masked(length - 8, HEADER_TEXT_ROOM - 1);
	to += last;
	if (to + 8 > end)
		return 0;
	store64(to, load64(text->bytes + last));
	return 1;
}

/* A frame of HTTP/2 says how long its payload is, in its first three bytes. */
INLINE int grow_frame(struct sk_msg_md *message, const struct header_text *text)
{
	u32 payload = text->payload + text->length, at = text->frame;
	u8 *to, *end;

	if (bpf_msg_pull_data(message, at, at + HTTP2_HEADER, 0))
		return 0;
	to = data_of(message);
	end = data_end_of(message);
	if (to + 3 > end)
		return 0;
	to[0] = payload >> 16;
	to[1] = payload >> 8;
	to[2] = payload;
	return 1;
}

/* Inserts the text: a line, or a field where framed. Returns 0 when nothing was changed, minus one
 * when what was cannot be undone: then the message must not leave. */
PROVEN_ONCE int insert_text(struct sk_msg_md *message, struct header_text *text, int framed)
{
	u32 size, length, at;

	if (!text)
		return 0;
	size = message->size;
	length = text->length;
	at = text->at;
	if (bpf_msg_push_data(message, at, length, 0))
		return 0;
	if (!write_text(message, text) || (framed && !grow_frame(message, text)))
		return bpf_msg_pop_data(message, at, length, 0) ? -1 : 0;
	/* Otherwise it leaves in three segments. Where that fails, it does. */
	if (size <= ONE_PIECE_MAX)
		bpf_msg_pull_data(message, 0, size + length, 0);
	else
		bpf_msg_pull_data(message, 0, at + length, 0);
	return 1;
}

/* The head may lie in several pieces, of which only the first can be read. */
INLINE u32 first_piece(struct sk_msg_md *message, struct enrolment *mine)
{
	u32 want = message->size < INJECT_HEAD_MAX ? message->size : INJECT_HEAD_MAX;
	u32 length = look_at_data(message, mine);

	if (length >= want || bpf_msg_pull_data(message, 0, want, 0))
		return length;
	return look_at_data(message, mine);
}

INLINE u32 begins_with_preface(const struct enrolment *mine)
{
	u64 word = 0;

	return mine->data_end - mine->data >= HTTP2_PREFACE_LENGTH &&
	       !bpf_probe_read_kernel(&word, 8, (void *)mine->data) && word == PREFACE_WORD;
}

INLINE int frames_on_trial(struct sk_msg_md *message, struct enrolment *mine,
			   struct header_text *text, u32 begins)
{
	text->passed = 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < PLACE_STREAMS; i++) {
		u32 length = first_piece(message, mine);
		int written = 0;

		if (stream_on_trial(text, mine->data, length, begins))
			written = insert_text(message, text, 1);
		if (written <= 0)
			return written ? SK_DROP : SK_PASS;
		text->passed = text->at + text->length;
	}
	return SK_PASS;
}

/* What the kernel can do with such messages is tried on connections of our own. */
INLINE int inject_on_trial(struct sk_msg_md *message, struct enrolment *mine,
			   struct header_text *text)
{
	u32 begins = begins_with_preface(mine);

	if (mine->stage == ENROL_IN)
		mine->stage = ENROL_STAYS;
	if (begins)
		mine->trial = TRIAL_OF_FRAMES;
	if (mine->trial == TRIAL_OF_FRAMES)
		return frames_on_trial(message, mine, text, begins);
	put_traceparent(text->bytes, mine->trial_ids, mine->trial_ids, 0);
	text->stream = 0;
	text->length = TRACEPARENT_LINE;
	text->at = INJECT_TRIAL_LINE;
	return insert_text(message, text, 0) < 0 ? SK_DROP : SK_PASS;
}

/* Writes the text, which is ready, into the message. Returns as insert_text() does. */
INLINE int inject_text(struct sk_msg_md *message, struct header_text *text,
		       struct connection *connection, int framed)
{
	int written = insert_text(message, text, framed);

	if (written <= 0) {
		count(WAGGLE_COUNT_INJECT_REFUSED);
		return written;
	}
	count(WAGGLE_COUNT_INJECT_WRITTEN);
	connection->sent.next += text->length;
	text->added += text->length;
	return 1;
}

/* Every stream that begins in the message, one after the other. In no loop of the kernel's, whose
 * steps would need stack of their own. */
INLINE int inject_streams(struct sk_msg_md *message, struct enrolment *mine,
			  struct header_text *text, struct connection *connection,
			  struct call *call)
{
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < PLACE_STREAMS; i++) {
		u32 before = text->passed;
		int why, written;

		call->memory.length = first_piece(message, mine);
		call->memory.base = mine->data;
		why = field_of_message(connection, call, text);
		if (!why) {
			written = inject_text(message, text, connection, 1);
			if (written <= 0)
				return written ? SK_DROP : SK_PASS;
			text->passed += text->length;
		} else if (why != WAGGLE_COUNT_INJECT_NOT_A_HEAD || !before) {
			count(why);
		}
		if (text->passed == before)
			break;
	}
	count_by(WAGGLE_COUNT_INJECT_PIPELINED, text->later);
	return SK_PASS;
}

INLINE int inject_line(struct sk_msg_md *message, struct enrolment *mine,
		       struct header_text *text, struct connection *connection, struct call *call)
{
	int why;

	call->memory.length = first_piece(message, mine);
	call->memory.base = mine->data;
	why = feed_message(connection, call);
	if (!why)
		why = place_for_line(connection, call, text);
	if (why) {
		count(why);
		return SK_PASS;
	}
	return inject_text(message, text, connection, 0) < 0 ? SK_DROP : SK_PASS;
}

/* frames: HTTP/2 may be written into. into: the connection, where something was written. */
INLINE int inject_request(struct sk_msg_md *message, struct enrolment *mine,
			  struct header_text *text, u32 frames, struct connection **into)
{
	struct connection *connection;
	struct call *call;
	int result;

	call = call_of(SCRATCH_MESSAGE);
	if (!call)
		return SK_PASS;
	call->sk = mine->sock;
	call->mode = traced_mode();
	if (!(call->mode & WAGGLE_PROCESS_TRACED) || !tcp_call_by_address(call))
		return SK_PASS;
	connection = connection_of(call);
	if (!connection) {
		count(WAGGLE_COUNT_INJECT_NOT_A_HEAD);
		return SK_PASS;
	}
	text->stream = 0;
	text->passed = 0;
	text->added = 0;
	call->memory.length = look_at_data(message, mine);
	call->memory.base = mine->data;
	if (sends_frames(connection, call)) {
		if (!frames) {
			count(WAGGLE_COUNT_INJECT_FORM);
			mine->stage = ENROL_LEAVES;
			return SK_PASS;
		}
		result = inject_streams(message, mine, text, connection, call);
	} else {
		result = inject_line(message, mine, text, connection, call);
	}
	if (text->added) {
		connection->injected = text->added;
		connection->injected_at = call->endpoint.position;
		*into = connection;
	}
	return result;
}

/* The kernel sends an enrolled socket's pieces one by one. Who has not set TCP_NODELAY would wait
 * behind the first, where it fills no segment, for the other end's acknowledgement: that may take
 * it 40 ms. So what fills no two segments is one piece. Where there is no memory for that, it
 * waits. */
INLINE void join_pieces(struct sk_msg_md *message, const struct enrolment *mine)
{
	struct tcp_sock *tcp = (void *)mine->sock;
	u32 size = message->size;

	if (size <= piece_length(mine) || size > JOINED_MAX ||
	    size > 2 * BPF_CORE_READ(tcp, mss_cache) ||
	    BPF_CORE_READ_BITFIELD_PROBED(tcp, nonagle) & NAGLE_OFF)
		return;
	bpf_msg_pull_data(message, 0, size, 0);
}

INLINE int sends_requests(u64 sock)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, &sock);

	return connection && connection->role == WAGGLE_ROLE_CLIENT &&
	       !(connection->flags & CONNECTION_DEAD);
}

/* Everything that an enrolled socket sends comes here, under the socket's lock. */
SEC("sk_msg")
int inject_header(struct sk_msg_md *message)
{
	struct waggle_inject_settings *settings = inject_settings_now();
	struct bpf_sock *sk = message->sk;
	struct connection *into = 0;
	struct header_text *text;
	struct enrolment *mine;
	u32 zero = 0;
	int result;

	/* What an earlier run asked for would still hold, and messages pass unseen. */
	bpf_msg_apply_bytes(message, 0);
	text = bpf_map_lookup_elem(&header_texts, &zero);
	if (!sk || !settings || !text)
		return SK_PASS;
	mine = bpf_sk_storage_get(&enrolments, sk, 0, 0);
	if (!mine || (mine->stage != ENROL_IN && mine->stage != ENROL_STAYS))
		return SK_PASS;
	if (settings->mode != WAGGLE_INJECT_ALWAYS)
		mine->stage = ENROL_LEAVES;
	if (!can_hold_cpu() || settings->mode == WAGGLE_INJECT_OFF)
		return SK_PASS;
	*(volatile u64 *)&mine->sock = (u64)sk;
	*(volatile u64 *)&mine->message = (u64)message;
	HOLD_CPU();
	look_at_data(message, mine);
	learn_page_origin(mine);
	if (mine->trial)
		result = inject_on_trial(message, mine, text);
	else
		result = inject_request(message, mine, text, settings->frames, &into);
	join_pieces(message, mine);
	if (into)
		into->injected_piece = piece_length(mine);
	if (mine->trial)
		return result;
	/* Where requests go out now, more of them may follow. */
	if (mine->stage == ENROL_IN)
		mine->stage = sends_requests(mine->sock) ? ENROL_STAYS : ENROL_LEAVES;
	return result;
}

#endif
