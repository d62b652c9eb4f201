/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls whose request is known only by its answer, without a word from the runtime:
 *
 * Workers. Who serves one request at a time, from its beginning to its answer, has made the
 * calls between two of its answers for the second. A worker is a thread (Ruby's, where others
 * read for them), a virtual thread (Java's), or what a loop's task works on (HAProxy's streams).
 * Its life ends with its answer: that another one has its number or address then is no matter.
 *
 * Rule `alone`. A call while the process serves exactly one request belongs to that, unless the
 * process calls by itself as well. That it does shows while it serves none, and ends the rule.
 *
 * User space takes the claims and proofs together (agent/waggle/turn_evidence.py).
 */
#ifndef WAGGLE_WORKERS_H
#define WAGGLE_WORKERS_H

#include "http2_maps.h"
#include "turns.h"
#include "user_memory.h"

struct worker_key {
	u64 worker;
	u32 tgid;
	u32 reserved;
};

struct worker {
	u64 life;	 /* when it began, in ns: no two of a process are the same */
	u64 answered_ns; /* its last answer before, 0: none is known */
	u64 sock;	 /* of a virtual thread: whose request it has read, 0: none since */
};

MAP(schedulers, BPF_MAP_TYPE_HASH, 1024, u32, struct waggle_scheduler, ON_DEMAND);
MAP(java_machines, BPF_MAP_TYPE_HASH, 1024, u32, struct waggle_java, ON_DEMAND);
MAP(workers, BPF_MAP_TYPE_LRU_HASH, 16384, struct worker_key, struct worker, 0);

#define VIRTUAL_WORKER (1ULL << 63)

/* The virtual thread that runs here, 0: none. Where garbage is being collected, or memory looks
 * otherwise, this is a number that nobody answers with. */
INLINE u64 virtual_thread(u32 tgid, struct task_struct *thread)
{
	struct waggle_java *java = bpf_map_lookup_elem(&java_machines, &tgid);
	u64 own, carrier, mounted, number;

	if (!java)
		return 0;
	own = word_at(BPF_CORE_READ(thread, thread.fsbase) + (s64)java->slot);
	if (!own)
		return 0;
	carrier = word_at(word_at(own + java->carrier_at));
	mounted = word_at(word_at(own + java->mounted_at));
	if (!mounted || mounted == carrier)
		return 0;
	number = word_at(mounted + java->number_at);
	return number ? number | VIRTUAL_WORKER : 0;
}

/* What works here now, 0: nobody who is known to serve a request. */
OUT_OF_LINE u64 current_worker(u32 mode)
{
	u64 id = bpf_get_current_pid_tgid(), task;
	struct task_struct *thread = (void *)bpf_get_current_task();
	struct waggle_scheduler *scheduler;
	u32 tgid = id >> 32;

	if (!(mode & WAGGLE_PROCESS_RULE_WORKER))
		return 0;
	if (mode & WAGGLE_PROCESS_NAMED_THREADS) {
		task = virtual_thread(tgid, thread);
		return task || !is_named_answerer() ? task : (u32)id;
	}
	if (!(mode & WAGGLE_PROCESS_WORKER_TOLD))
		return (u32)id;
	scheduler = bpf_map_lookup_elem(&schedulers, &tgid);
	if (!scheduler)
		return 0;
	task = word_at(BPF_CORE_READ(thread, thread.fsbase) + (s64)scheduler->slot);
	task = task ? word_at(task + scheduler->task_at) : 0;
	if (!task || word_at(task + scheduler->function_at) != scheduler->function)
		return 0;
	return word_at(task + scheduler->object_at);
}

INLINE u8 link_of_workers(const struct waggle_process *process)
{
	return process->mode & WAGGLE_PROCESS_WORKER_TOLD ? WAGGLE_LINK_TASK : WAGGLE_LINK_THREAD;
}

OUT_OF_LINE struct worker *worker_of(const struct worker_key *key)
{
	struct worker *worker = bpf_map_lookup_elem(&workers, key), fresh = {};

	if (worker)
		return worker;
	fresh.life = bpf_ktime_get_ns();
	bpf_map_update_elem(&workers, key, &fresh, BPF_ANY);
	return bpf_map_lookup_elem(&workers, key);
}

/* Whose request a thread has read, or the virtual one on it. */
OUT_OF_LINE int worker_reads(u32 mode, u32 tgid, u64 sock, u32 tid)
{
	struct worker_key key = { .tgid = tgid };
	struct worker *worker;
	struct thread *slot;

	key.worker = mode & WAGGLE_PROCESS_NAMED_THREADS ? current_worker(mode) : 0;
	if (key.worker & VIRTUAL_WORKER) {
		worker = worker_of(&key);
		if (worker)
			worker->sock = sock;
		return 0;
	}
	slot = thread_slot(tid);
	if (slot)
		slot->sock = sock;
	return 0;
}

/* A request has been read. */
INLINE void claims_begin(const struct connection *connection, struct waggle_process *process,
			 u64 sock, u32 tgid, u32 tid)
{
	u32 told = WAGGLE_PROCESS_RULE_WORKER | WAGGLE_PROCESS_WORKER_TOLD;

	if (process->mode & WAGGLE_PROCESS_RULE_ALONE) {
		process->alone_sock = sock;
		process->alone_index = connection->requests;
	}
	if ((process->mode & told) == WAGGLE_PROCESS_RULE_WORKER)
		worker_reads(process->mode, tgid, sock, tid);
}

/* The call has ids of its own until the claim is proven. Returns 0 when nobody is known to
 * work here. */
INLINE int worker_calls(const struct connection *connection, struct waggle_process *process,
			struct waggle_facts *facts)
{
	struct worker_key key = { .tgid = facts->tgid };
	struct waggle_evidence *evidence;
	struct worker *worker;

	key.worker = current_worker(process->mode);
	/* A connection's first request is written when it is there, wherever that shows:
	 * somebody has asked for it. */
	if (!key.worker && connection->flags & CONNECTION_FRESH)
		key.worker = connection->turn_owner.sock;
	worker = key.worker ? worker_of(&key) : 0;
	if (!worker)
		return 0;
	evidence = begin_claim(process, facts, link_of_workers(process),
			       WAGGLE_FLAG_TRACE_PENDING);
	if (!evidence)
		return 1;
	evidence->contexts[0] = worker->life;
	evidence->before_ns = worker->answered_ns;
	bpf_ringbuf_submit(evidence, wakeup(&evidence_ring));
	return 1;
}

/* A call while nobody is served: the process does so by itself. */
INLINE void alone_refuted(struct waggle_process *process, const struct waggle_facts *facts)
{
	__sync_fetch_and_add(&process->alone_contradicts, 1);
	process->mode &= ~WAGGLE_PROCESS_RULE_ALONE;
	count(WAGGLE_COUNT_RULE_CONTRADICTED);
	if (process->alone_calls)
		turn_tell(process, facts, WAGGLE_EVIDENCE_TURN_REFUTED, 0, WAGGLE_LINK_ALONE);
}

/* The request that may be the only one, as long as it is not answered; null: there is none. */
OUT_OF_LINE struct waggle_facts *alone_request(const struct waggle_process *process)
{
	u64 sock = process->alone_sock;
	struct connection *server;
	struct open_stream *stream;
	struct found_exchange found;

	if (process->open != 1)
		return 0;
	if (process->alone_index & ALONE_STREAM) {
		stream = find_stream(sock, process->alone_index & ~ALONE_STREAM);
		if (!stream || stream->record.facts.response_ns || !stream->stream.counted)
			return 0;
		return &stream->record.facts;
	}
	server = bpf_map_lookup_elem(&connections, &sock);
	if (!server || open_requests(server) != 1 ||
	    !find_exchange(server, sock, process->alone_index, &found) || found.facts->status)
		return 0;
	return found.facts;
}

INLINE void alone_calls(struct waggle_process *process, struct waggle_facts *facts)
{
	struct waggle_evidence *evidence;
	struct waggle_facts *request;

	if (!process->alone_sock) /* what a program calls before it has ever served says nothing */
		return;
	if (!process->open) {
		alone_refuted(process, facts);
		return;
	}
	request = alone_request(process);
	if (!request)
		return;
	evidence = begin_claim(process, facts, WAGGLE_LINK_ALONE, WAGGLE_FLAG_TRACE_PENDING);
	if (!evidence)
		return;
	evidence->contexts[0] = span_word(request);
	bpf_ringbuf_submit(evidence, wakeup(&evidence_ring));
	__sync_fetch_and_add(&process->alone_calls, 1);
}

/* A call that no rule knows the parent of yet. */
PROVEN_ONCE int claim_call(const struct connection *connection, struct waggle_facts *facts)
{
	u32 tgid = facts ? facts->tgid : 0;
	struct waggle_process *process = bpf_map_lookup_elem(&processes, &tgid);

	if (!process || !connection || !facts)
		return 0;
	if (process->mode & WAGGLE_PROCESS_RULE_WORKER && worker_calls(connection, process, facts))
		return 0;
	if ((process->mode & WAGGLE_PROCESS_RULE_ALONE || serves_streams(process)) &&
	    !process->alone_contradicts)
		alone_calls(process, facts);
	return 0;
}

/* Who answers what it read itself, but has read another request since, serves several at once.
 * Of a virtual thread it is enough to have read another: nobody knows who has read this one. */
INLINE int reads_ahead(const struct connection *connection, const struct worker *worker,
		       u64 virtual, u64 sock, u32 tid)
{
	struct thread *slot;

	if (virtual)
		return worker && worker->sock && worker->sock != sock;
	slot = bpf_map_lookup_elem(&threads, &tid);
	return slot && connection->owner_tid == tid && slot->sock && slot->sock != sock;
}

INLINE void workers_refuted(struct waggle_process *process, const struct waggle_facts *facts)
{
	__sync_fetch_and_add(&process->thread_contradicts, 1);
	process->mode &= ~WAGGLE_PROCESS_RULE_WORKER;
	count(WAGGLE_COUNT_RULE_CONTRADICTED);
	turn_tell(process, facts, WAGGLE_EVIDENCE_TURN_REFUTED, 0, WAGGLE_LINK_THREAD);
}

/* A request is being answered: what its worker has called until now was for that. */
INLINE void worker_answers(const struct connection *connection, struct waggle_process *process,
			   const struct waggle_facts *facts, u64 sock, u32 tid)
{
	struct worker_key key = { .tgid = facts->tgid };
	int told = !!(process->mode & WAGGLE_PROCESS_WORKER_TOLD);
	struct waggle_evidence *evidence;
	struct worker *worker;

	key.worker = current_worker(process->mode);
	worker = key.worker ? bpf_map_lookup_elem(&workers, &key) : 0;
	if (!told && reads_ahead(connection, worker, key.worker & VIRTUAL_WORKER, sock, tid)) {
		workers_refuted(process, facts);
		return;
	}
	if (!worker && key.worker && !told)
		worker = worker_of(&key);
	if (!worker)
		return;
	__sync_fetch_and_add(&process->thread_agrees, 1);
	evidence = process->turn_calls ? begin_evidence(WAGGLE_EVIDENCE_TURN_ANSWER, facts) : 0;
	if (evidence) {
		evidence->link = link_of_workers(process);
		evidence->contexts[0] = worker->life;
		bpf_ringbuf_submit(evidence, wakeup(&evidence_ring));
	}
	worker->life = worker->answered_ns = bpf_ktime_get_ns();
	worker->sock = 0;
	if (told)
		bpf_map_delete_elem(&workers, &key);
}

#endif
