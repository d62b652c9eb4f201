/* SPDX-License-Identifier: Apache-2.0
 *
 * Rule `task`: the evidence. What a Python thread works on shows in its current
 * context (PEP 567): every task of an event loop has one of its own, and so has
 * every greenlet; a copy descends from what it was copied from.
 *
 * A call belongs to the request that its context, or one that it descends from,
 * will answer. That is known only when the answer is written, so each call leaves
 * its contexts and each answer leaves its own in a ring, and user space joins the
 * two (agent/waggle/evidence.py).
 *
 * What must go out with a call is predicted, where a prediction has proven itself in
 * the process: `copy`, the first context that a thread copies after it has read a request, before
 * it sleeps, serves that request, and so does all that descends from it;
 * `writer`, the context that wrote a connection's last answer serves its next request.
 * Every answer tests both. One answer that disagrees ends a prediction for the process.
 */
#ifndef WAGGLE_PYTHON_H
#define WAGGLE_PYTHON_H

#include "feed.h"
#include "threads.h"

struct context_key {
	u64 address;
	u32 tgid;
	u32 reserved;
};

/* A context of Python, as long as its address is not used again. */
struct context {
	u64 generations[WAGGLE_CONTEXTS]; /* its own, then those it descends from */
	u64 addresses[WAGGLE_CONTEXTS]; /* where each of them is, or was */
	struct owner copied_for; /* what it serves, by prediction `copy` */
	struct owner writes_for; /* by prediction `writer` */
	u64 answered_sock; /* where it has answered last, */
	u64 answered_ns;   /* and when */
	u32 epoch;
	u32 open; /* requests it has read and not answered */
	u32 called; /* enum context_called */
	u32 own; /* what it has answered last it had read itself */
	u64 sock; /* on which it has read or answered last, */
	u32 many; /* and whether there were others before */
	u32 inherited; /* what it serves: that of the one it was copied from */
	u32 after_call; /* a bit for each that was copied from the next when that had called itself */
	u32 made; /* and for each that may have been made for a request, which had been read */
};

enum context_called {
	CALLED_BELOW = 1, /* in it, or in what was copied from it: its end is told */
	CALLED_ITSELF = 2,
};

MAP(python_processes, BPF_MAP_TYPE_HASH, 4096, u32, struct waggle_python, ON_DEMAND);
/* What is full forgets what was longest not used: such a call has no parent. */
MAP(contexts, BPF_MAP_TYPE_LRU_HASH, 32768, struct context_key, struct context, 0);
/* Never written: what a context begins as, too large for the stack. */
MAP(blank_context, BPF_MAP_TYPE_ARRAY, 1, u32, struct context, 0);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2 << 20);
} evidence_ring SEC(".maps");

INLINE u64 word_at(u64 address)
{
	u64 word = 0;

	bpf_probe_read_user(&word, sizeof(word), (void *)address);
	return word;
}

/* The address of the current thread's context, 0 when it has none or we cannot tell. */
PROVEN_ONCE u64 current_context(const struct waggle_python *python)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u64 state, context;

	if (!python)
		return 0;
	state = word_at(BPF_CORE_READ(task, thread.fsbase) + (s64)python->slot);
	if (state && python->indirect >= 0)
		state = word_at(state + python->indirect);
	context = state ? word_at(state + python->context) : 0;
	if (!context || word_at(context + python->type) != python->context_type)
		return 0;
	return context;
}

INLINE struct context *known_context(const struct waggle_python *python, u32 tgid, u64 address)
{
	struct context_key key = { .address = address, .tgid = tgid };
	struct context *context = bpf_map_lookup_elem(&contexts, &key);

	return context && context->epoch == python->epoch ? context : 0;
}

/* A context that begins now: odd where its birth was seen, even where it was not. */
INLINE struct context *new_context(const struct waggle_python *python, u32 tgid, u64 address,
					u64 odd)
{
	struct context_key key = { .address = address, .tgid = tgid };
	u32 zero = 0;
	struct context *context = bpf_map_lookup_elem(&blank_context, &zero);

	if (!context)
		return 0;
	bpf_map_update_elem(&contexts, &key, context, BPF_ANY);
	context = bpf_map_lookup_elem(&contexts, &key);
	if (!context)
		return 0;
	context->generations[0] = (bpf_ktime_get_ns() & ~1ULL) | odd;
	context->addresses[0] = address;
	context->epoch = python->epoch;
	return context;
}

/* What is known of a context; one whose birth nobody saw begins now. */
OUT_OF_LINE struct context *context_at(const struct waggle_python *python, u32 tgid, u64 address)
{
	struct context *context = known_context(python, tgid, address);

	return context ? context : new_context(python, tgid, address, 0);
}

/* The process's entry while rule `task` may be tried on it. */
INLINE struct waggle_python *python_of(u32 tgid)
{
	struct waggle_python *python = bpf_map_lookup_elem(&python_processes, &tgid);

	return python && !python->too_many ? python : 0;
}

INLINE struct waggle_evidence *blank_evidence(u8 kind, u32 tgid)
{
	struct waggle_evidence *evidence =
		bpf_ringbuf_reserve(&evidence_ring, sizeof(*evidence), 0);

	if (!evidence) {
		count(WAGGLE_COUNT_LOST_EVIDENCE_RING_FULL);
		return 0;
	}
	__builtin_memset(evidence, 0, sizeof(*evidence));
	evidence->kind = kind;
	evidence->time_ns = bpf_ktime_get_ns();
	evidence->tgid = tgid;
	return evidence;
}

INLINE struct waggle_evidence *begin_evidence(u8 kind, const struct waggle_facts *facts)
{
	struct waggle_evidence *evidence = blank_evidence(kind, facts->tgid);

	if (!evidence)
		return 0;
	evidence->start_ns = facts->start_ns;
	evidence->flags = facts->flags;
	evidence->trace_flags = facts->trace_flags;
	evidence->sampling = facts->sampling;
	__builtin_memcpy(evidence->trace_id, facts->trace_id, 16);
	copy_span_id(evidence->span_id, parent_of_children(facts));
	return evidence;
}

INLINE int copy_trusted(const struct waggle_python *python)
{
	return !python->copy_contradicts && python->copy_agrees >= early_proof;
}

INLINE int writer_trusted(const struct waggle_python *python)
{
	return !python->writer_contradicts && python->writer_agrees >= early_proof;
}

/* A context on its way to the one that was made for the request. */
struct descent {
	const struct context *context;
	u32 tgid;
	u32 queued; /* one in between is over, and had called itself before it began the next */
};

static long descent_step(u32 index, void *argument)
{
	struct descent *descent = argument;
	u32 at = masked(index + 1, WAGGLE_CONTEXTS - 1);
	u64 generation = descent->context->generations[at];
	struct context_key key = {
		.address = descent->context->addresses[at],
		.tgid = descent->tgid,
	};
	struct context *context = bpf_map_lookup_elem(&contexts, &key);

	if (context && context->generations[0] == generation)
		return !context->inherited;
	if (!(descent->context->after_call >> masked(index, WAGGLE_CONTEXTS - 1) & 1))
		return 0;
	descent->queued = 1;
	return 1;
}

/* Whether what a context serves need not be what it was copied for: who is done may begin the
 * next of a queue, whoever put it there. */
INLINE int may_be_queued(const struct context *context, u32 tgid)
{
	struct descent descent = { .context = context, .tgid = tgid };

	if (context->inherited && context->after_call)
		LOOP(WAGGLE_CONTEXTS - 1, descent_step, &descent);
	return descent.queued;
}

/* What the current context serves, where a prediction is trusted to say. */
INLINE int task_owner(u32 tgid, struct owner *owner)
{
	struct waggle_python *python = python_of(tgid);
	struct context *context;
	u64 address;

	if (!python || !(copy_trusted(python) || writer_trusted(python)))
		return 0;
	address = current_context(python);
	context = address ? known_context(python, tgid, address) : 0;
	if (!context || may_be_queued(context, tgid))
		return 0;
	*owner = copy_trusted(python) ? context->copied_for : context->writes_for;
	return !!owner->sock;
}

/* A context and those that it descends from, one a step. */
struct lineage {
	struct context *context;
	u32 tgid;
	u32 elsewhere; /* a bit for each that may be at work on something else, */
	u32 over;      /* and for each that is no more */
	u32 reserved;
};

/* Whether a context may be at work on something else than what its evidence will say: it
 * is in the middle of an answer, which may be on its way out only. Somebody looks then
 * whether it goes on with it. Who reads by himself has no other request before he has read
 * one; unless we have not seen him read it, as the end of his last connection tells. */
INLINE int may_be_elsewhere(const struct context *context)
{
	u64 sock = context->answered_sock;
	struct connection *connection = sock ? bpf_map_lookup_elem(&connections, &sock) : 0;
	int alone = context->own && !context->open;

	if (!connection || connection->writer != context->generations[0])
		return sock && alone;
	if (!open_requests(connection) || !http1_in_body(&connection->sent))
		return 0;
	connection->flags |= CONNECTION_WATCHED;
	return !alone;
}

static long lineage_step(u32 index, void *argument)
{
	struct lineage *lineage = argument;
	u32 at = masked(index, WAGGLE_CONTEXTS - 1);
	u64 generation = lineage->context->generations[at];
	struct context_key key = {
		.address = lineage->context->addresses[at],
		.tgid = lineage->tgid,
	};
	struct context *context;

	if (!generation)
		return 1;
	context = bpf_map_lookup_elem(&contexts, &key);
	if (!context || context->generations[0] != generation) {
		lineage->over |= 1U << at;
		return 0;
	}
	context->called |= CALLED_BELOW;
	if (may_be_elsewhere(context))
		lineage->elsewhere |= 1U << at;
	return 0;
}

/* Whether no request can turn out to be what a call was part of: none was ever read. Then its
 * ids hold at once, and may go out in a header. */
INLINE int serves_nobody(const struct waggle_python *python, u32 tgid)
{
	struct waggle_process *process;

	if (!inject_wanted || python->served)
		return 0;
	process = bpf_map_lookup_elem(&processes, &tgid);
	return process && !process->open;
}

/* A request goes out whose parent is not known yet, or not proven, or something is written to
 * a log (`kind`). Where evidence can come, the trace id of the first is given out as one that
 * may stand for another. */
PROVEN_ONCE int task_call(struct waggle_facts *facts, u8 kind)
{
	struct waggle_python *python;
	struct waggle_evidence *evidence;
	struct context *context;
	u64 address;
	struct lineage lineage = {};
	u32 tgid;

	if (!facts)
		return 0;
	tgid = facts->tgid;
	python = python_of(tgid);
	if (python && kind == WAGGLE_EVIDENCE_CALL && serves_nobody(python, tgid))
		return 0;
	address = python ? current_context(python) : 0;
	context = address ? context_at(python, tgid, address) : 0;
	/* A context that reads several requests at once tells none from the other. */
	if (!context || context->open > 1)
		return 0;
	/* What becomes of them is told. */
	lineage.context = context;
	lineage.tgid = tgid;
	LOOP(WAGGLE_CONTEXTS, lineage_step, &lineage);
	if (kind == WAGGLE_EVIDENCE_CALL)
		context->called |= CALLED_ITSELF;
	evidence = begin_evidence(kind, facts);
	if (!evidence)
		return 0;
	facts->flags |= facts->link ? WAGGLE_FLAG_UNPROVEN : WAGGLE_FLAG_TRACE_PENDING;
	evidence->flags = facts->flags;
	evidence->unanswered = python->unanswered;
	evidence->answering = lineage.elsewhere;
	evidence->over = lineage.over;
	evidence->queued = lineage.over & context->after_call << 1;
	evidence->made = context->made;
	bpf_probe_read_kernel(evidence->contexts, sizeof(evidence->contexts),
			      context->generations);
	bpf_ringbuf_submit(evidence, wakeup(&evidence_ring));
	__sync_fetch_and_add(&python->calls, 1);
	if (kind == WAGGLE_EVIDENCE_CALL)
		count(WAGGLE_COUNT_TASK_CALLS);
	return 1;
}

/* What a predicted owner has in place of a thread, to know the request again: a socket's
 * address is used for another connection some time. */
INLINE u32 request_mark(const struct waggle_facts *facts)
{
	return facts->start_ns;
}

/* A request has been read by connection->reader: what both predictions need to know. */
INLINE void predict(struct connection *connection, const struct waggle_python *python, u64 sock,
		    u32 tgid, u32 mark)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct owner owner = { .sock = sock, .index = connection->requests, .tid = mark };
	struct thread *thread = python->copy_contradicts ? 0 : thread_slot(tid);
	struct context *writer;

	if (thread) {
		thread->read = owner;
		thread->read_switches = voluntary_switches();
	}
	if (!connection->writer || python->writer_contradicts)
		return;
	writer = known_context(python, tgid, connection->writer_context);
	if (writer && writer->generations[0] == connection->writer) {
		writer->writes_for = owner;
		writer->inherited = 0;
	}
}

INLINE int is_open(const struct owner *owner)
{
	u64 sock = owner->sock;
	struct connection *connection = sock ? bpf_map_lookup_elem(&connections, &sock) : 0;

	return connection && connection->requests - owner->index <=
				     connection->requests - connection->responses &&
	       connection->requests != owner->index;
}

/* The answer to the connection's oldest request is written by `context`: would the
 * predictions have said so? */
INLINE void test_predictions(struct connection *connection, struct waggle_python *python, u64 sock,
			     u64 address, const struct context *context)
{
	const struct owner *copied_for = &context->copied_for;

	if (copied_for->sock == sock && copied_for->index == connection->responses)
		__sync_fetch_and_add(&python->copy_agrees, 1);
	else if (connection->copied == connection->responses + 1 || is_open(copied_for))
		__sync_fetch_and_add(&python->copy_contradicts, 1);
	if (connection->writer && connection->writer == context->generations[0])
		__sync_fetch_and_add(&python->writer_agrees, 1);
	else if (connection->writer)
		__sync_fetch_and_add(&python->writer_contradicts, 1);
	connection->writer = context->generations[0];
	connection->writer_context = address;
}

/* The context reads or answers on this connection. */
INLINE void context_meets(struct context *context, u64 sock)
{
	if (context->sock && context->sock != sock)
		context->many = 1;
	context->sock = sock;
}

/* A request has been read. */
PROVEN_ONCE int task_request(struct connection *connection, const struct waggle_process *process,
			     const struct waggle_facts *facts, u64 sock)
{
	struct waggle_python *python;
	struct context *context;
	u64 address;
	u32 tgid;

	if (!connection || !facts)
		return 0;
	connection->reader = 0;
	if (!process || !(process->mode & WAGGLE_PROCESS_RULE_TASK))
		return 0;
	tgid = facts->tgid;
	python = python_of(tgid);
	if (!python)
		return 0;
	__sync_fetch_and_add(&python->unanswered, 1);
	if (!python->served)
		python->served = 1;
	if (connection->flags & CONNECTION_BLOCKING)
		return 0; /* the thread tells */
	address = current_context(python);
	context = address ? context_at(python, tgid, address) : 0;
	if (!context)
		return 0;
	connection->reader = address;
	context_meets(context, sock);
	__sync_fetch_and_add(&context->open, 1);
	predict(connection, python, sock, tgid, request_mark(facts));
	return 0;
}

/* The request that a connection's reader has read is read no more. Returns whether the
 * reader has read others meanwhile. */
INLINE int reader_done(struct connection *connection, const struct waggle_python *python, u32 tgid)
{
	u64 address = connection->reader;
	struct context *context = address ? known_context(python, tgid, address) : 0;
	int shared = context && context->open > 1;

	connection->reader = 0;
	if (context && context->open)
		__sync_fetch_and_add(&context->open, -1);
	return shared;
}

INLINE void answered(struct waggle_python *python)
{
	if (python->unanswered)
		__sync_fetch_and_add(&python->unanswered, -1);
}

/* The context that answers, as its evidence tells. */
INLINE void fill_answer(struct waggle_evidence *evidence, const struct connection *connection,
			const struct context *context, u64 sock)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();

	bpf_probe_read_kernel(evidence->contexts, sizeof(evidence->contexts),
			      context->generations);
	evidence->before_ns = context->answered_ns;
	evidence->kept = context->answered_sock == sock;
	if (connection->flags & CONNECTION_BLOCKING && connection->owner_tid == tid)
		evidence->own = 1;
}

/* Whether the context that answers need be known: a thread that blocks tells by itself. */
INLINE int context_tells(const struct connection *connection, const struct waggle_python *python)
{
	return !(connection->flags & CONNECTION_BLOCKING) || python->calls;
}

/* The response's head is being written, and by whom says whose request it was. */
PROVEN_ONCE int task_answer(struct connection *connection, const struct waggle_facts *facts,
			    u64 sock)
{
	struct waggle_python *python;
	struct waggle_evidence *evidence;
	u64 address, reader;
	struct context *context;
	int shared;
	u32 tgid;

	if (!connection || !facts)
		return 0;
	tgid = facts->tgid;
	python = python_of(tgid);
	if (!python)
		return 0;
	reader = connection->reader;
	answered(python);
	address = context_tells(connection, python) ? current_context(python) : 0;
	context = address ? context_at(python, tgid, address) : 0;
	if (context) {
		test_predictions(connection, python, sock, address, context);
		context_meets(context, sock);
	}
	shared = reader_done(connection, python, tgid);
	if (!context_tells(connection, python))
		return 0; /* nobody has asked */
	evidence = begin_evidence(WAGGLE_EVIDENCE_ANSWER, facts);
	if (!evidence)
		return 0;
	if (context) {
		fill_answer(evidence, connection, context, sock);
		evidence->many = context->many;
	}
	evidence->own |= reader && reader == address;
	evidence->shared = shared && reader == address;
	if (context) {
		context->answered_sock = sock;
		context->answered_ns = evidence->time_ns;
		context->own = evidence->own;
	}
	bpf_ringbuf_submit(evidence, wakeup(&evidence_ring));
	return 0;
}

/* A context in which was called is freed: whoever worked in it is done. */
INLINE void task_over(u32 tgid, u64 generation)
{
	struct waggle_evidence *evidence = blank_evidence(WAGGLE_EVIDENCE_OVER, tgid);

	if (!evidence)
		return;
	evidence->contexts[0] = generation;
	bpf_ringbuf_submit(evidence, wakeup(&evidence_ring));
}

/* A request ends without an answer: nobody need wait for one. */
PROVEN_ONCE int task_gone(struct connection *connection, const struct waggle_facts *facts)
{
	struct waggle_python *python;
	struct waggle_evidence *evidence;
	u32 tgid;

	if (!connection || !facts)
		return 0;
	tgid = facts->tgid;
	python = python_of(tgid);
	if (!python)
		return 0;
	answered(python);
	reader_done(connection, python, tgid);
	if (!python->calls)
		return 0;
	evidence = begin_evidence(WAGGLE_EVIDENCE_GONE, facts);
	if (evidence)
		bpf_ringbuf_submit(evidence, wakeup(&evidence_ring));
	return 0;
}

#endif
