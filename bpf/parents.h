/* SPDX-License-Identifier: Apache-2.0
 *
 * Whose request is this part of, and how do we know? The one place that answers:
 * an ordered list of rules, strongest first, each with its name in enum
 * waggle_link, each off where it cannot hold. The last one is "no parent".
 */
#ifndef WAGGLE_PARENTS_H
#define WAGGLE_PARENTS_H

#include "carried.h"
#include "context.h"
#include "exchange.h"
#include "go_calls.h"
#include "late_handoff.h"
#include "python.h"
#include "workers.h"

INLINE int rule_thread(const struct waggle_process *process, u32 tid, struct owner *owner)
{
	struct thread *slot;
	struct connection *connection;
	u64 sock;

	if (!(process->mode & WAGGLE_PROCESS_RULE_THREAD) || process->thread_contradicts)
		return 0;
	slot = bpf_map_lookup_elem(&threads, &tid);
	if (!slot || slot->open != 1 || !slot->sock)
		return 0;
	sock = slot->sock;
	connection = bpf_map_lookup_elem(&connections, &sock);
	if (!connection || !(connection->flags & CONNECTION_SERVER_OPEN) ||
	    connection->owner_tid != tid)
		return 0;
	owner->sock = sock;
	owner->index = connection->responses;
	owner->tid = tid;
	return 1;
}

/* Says whose turn it is even where that is not yet trusted: what comes back on this
 * connection is then known to belong to the same, and responses can agree. */
INLINE int rule_turn(const struct waggle_process *process, struct connection *connection, u32 tid,
		     struct owner *owner)
{
	if (!(process->mode & WAGGLE_PROCESS_RULE_TURN))
		return 0;
	/* The first request on a connection is written when it is writable, in a turn of
	 * its own: it belongs to whoever called connect. Where others may have been read
	 * since, that is nobody if it was nobody's turn. */
	if (!(connection->flags & CONNECTION_FRESH) ||
	    (!connection->turn_owner.sock && !(turn_needs_proof(process) &&
					       connection->flags & CONNECTION_FROM_START)))
		turn_of_thread(tid, &connection->turn_owner);
	*owner = connection->turn_owner;
	return owner->sock && turn_trusted(process);
}

/* Whether its trace may still turn out to be another's (late_handoff.h). */
INLINE int may_be_adopted(const struct connection *server, const struct waggle_facts *facts)
{
	return server->peer_sock && !facts->link &&
	       !(facts->flags & WAGGLE_FLAG_HAD_TRACEPARENT) &&
	       (s64)(bpf_ktime_get_ns() - facts->start_ns) <= TOO_EARLY_NS;
}

/* Takes trace and parent from what `link` found, while that is still open; the link that
 * holds. What is written to a log (`is_log`) changes nothing for the request. */
INLINE int inherit(u8 link, struct owner *owner, struct waggle_facts *facts, int is_log)
{
	u64 sock = owner->sock;
	struct connection *server = link ? bpf_map_lookup_elem(&connections, &sock) : 0;
	struct found_exchange found;

	if (!server || !find_exchange(server, owner->sock, owner->index, &found) ||
	    (link != WAGGLE_LINK_THREAD &&
	     request_mark(found.facts) != owner->tid) ||
	    (is_log && may_be_adopted(server, found.facts))) {
		__builtin_memset(owner, 0, sizeof(*owner));
		return WAGGLE_LINK_NONE;
	}
	copy_trace_id(facts->trace_id, found.facts->trace_id);
	copy_span_id(facts->parent_id, parent_of_children(found.facts));
	facts->trace_flags = found.facts->trace_flags;
	facts->sampling = inherited_sampling(found.facts->sampling);
	facts->flags |= found.facts->flags & (WAGGLE_FLAG_UNSAMPLED | WAGGLE_FLAG_TRACE_PENDING);
	if (!is_log)
		found.owner->tid = HAS_CHILDREN;
	return link;
}

/* Fills the parent of an outgoing request from what this process is serving. */
PROVEN_ONCE int find_parent(struct connection *connection, u32 tgid, u32 tid,
			    struct waggle_facts *facts, struct owner *owner)
{
	struct waggle_process *process = bpf_map_lookup_elem(&processes, &tgid);
	u8 link = WAGGLE_LINK_NONE;

	if (!process || !connection || !facts || !owner)
		return link;
	/* What a thread sends on a connection of many streams may be another's. */
	if (!is_http2(connection) &&
	    (rule_thread(process, tid, owner) || rule_carried(process, tid, owner)))
		link = WAGGLE_LINK_THREAD;
	else if (rule_turn(process, connection, tid, owner))
		link = WAGGLE_LINK_TURN;
	else if (process->mode & WAGGLE_PROCESS_RULE_TASK && task_owner(tgid, owner))
		link = WAGGLE_LINK_TASK;
	/* Not trusted yet, but answers may prove it: turn_call() looks at the owner. */
	if (!link && turn_needs_proof(process))
		return link;
	return inherit(link, owner, facts, 0);
}

/* An outgoing request has its ids; whose turn it goes out in is a claim to be proven. */
PROVEN_ONCE int turn_call(struct waggle_facts *facts, const struct owner *owner)
{
	u32 tgid = facts ? facts->tgid : 0;
	struct waggle_process *process = bpf_map_lookup_elem(&processes, &tgid);
	struct connection *server;
	struct found_exchange found;
	u64 sock;

	if (!process || !facts || !owner || !turn_needs_proof(process))
		return 0;
	sock = owner->sock;
	server = bpf_map_lookup_elem(&connections, &sock);
	if (!server || !find_exchange(server, sock, owner->index, &found) ||
	    request_mark(found.facts) != owner->tid || found.facts->status)
		return 0;
	turn_claim(process, facts, found.facts);
	return 0;
}

/* Whose request the current thread works on, for what it writes to its log. Rule `turn` is
 * no evidence here: nginx also logs what no read has told it, as that nobody let it connect. */
PROVEN_ONCE int find_writer(struct waggle_facts *facts)
{
	u32 tgid = facts ? facts->tgid : 0;
	struct waggle_process *process = bpf_map_lookup_elem(&processes, &tgid);
	struct owner owner = {};
	u8 link = WAGGLE_LINK_NONE;

	if (!process || !facts)
		return link;
	if (rule_thread(process, facts->tid, &owner) || rule_carried(process, facts->tid, &owner))
		link = WAGGLE_LINK_THREAD;
	else if (process->mode & WAGGLE_PROCESS_RULE_TASK && task_owner(tgid, &owner))
		link = WAGGLE_LINK_TASK;
	else if (process->mode & WAGGLE_PROCESS_RULE_GOROUTINE && goroutine_writes(tgid, &owner))
		link = WAGGLE_LINK_GOROUTINE;
	return inherit(link, &owner, facts, 1);
}

/* The response is written in the turn of its own request, of nobody, or of another? */
INLINE void check_turn(struct connection *connection, struct waggle_process *process,
		       const struct waggle_facts *facts, u64 sock, u32 tid)
{
	int verdict = TURN_REFUTES;
	struct owner owner;

	turn_of_thread(tid, &owner);
	if (!owner.sock)
		verdict = TURN_SILENT;
	else if (owner.sock == sock && owner.index == connection->responses &&
		 owner.tid == request_mark(facts))
		verdict = TURN_AGREES;
	if (verdict == TURN_AGREES)
		__sync_fetch_and_add(&process->turn_agrees, 1);
	else if (verdict == TURN_REFUTES)
		turn_refuted(process);
	turn_answer(connection, process, facts, verdict);
}

/* The response of a request is being written: does it agree with what the rules
 * would have said? One contradiction ends a rule for the process. */
PROVEN_ONCE int check_rules(struct connection *connection, const struct waggle_facts *facts,
			    u64 sock, u32 tid)
{
	u32 tgid = facts ? facts->tgid : 0;
	struct waggle_process *process = bpf_map_lookup_elem(&processes, &tgid);

	if (!process || !connection || !facts)
		return 0;
	if (connection->flags & CONNECTION_BLOCKING) {
		if (connection->owner_tid == tid) {
			__sync_fetch_and_add(&process->thread_agrees, 1);
		} else {
			__sync_fetch_and_add(&process->thread_contradicts, 1);
			count(WAGGLE_COUNT_RULE_CONTRADICTED);
		}
	}
	if (process->mode & WAGGLE_PROCESS_RULE_TURN)
		check_turn(connection, process, facts, sock, tid);
	if (process->mode & WAGGLE_PROCESS_RULE_WORKER)
		worker_answers(connection, process, facts, sock, tid);
	if (process->alone_calls)
		turn_tell(process, facts, WAGGLE_EVIDENCE_TURN_ANSWER, 1, WAGGLE_LINK_ALONE);
	return 0;
}

#endif
