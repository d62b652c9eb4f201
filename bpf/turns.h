/* SPDX-License-Identifier: Apache-2.0
 *
 * Rule `turn` where it is no more than a claim: on runtimes whose programs may keep to it
 * or not. A call that goes out in the turn of a request is told to user space, and so is
 * each answer: in the turn of its own request, of nobody, or of another, which ends the
 * rule for the process and takes back what has not been proven until then
 * (agent/waggle/turn_evidence.py).
 */
#ifndef WAGGLE_TURNS_H
#define WAGGLE_TURNS_H

#include "python.h"
#include "threads.h"

enum turn_verdict { TURN_SILENT = 0, TURN_AGREES = 1, TURN_REFUTES = 2 };

INLINE int turn_needs_proof(const struct waggle_process *process)
{
	u32 both = WAGGLE_PROCESS_RULE_TURN | WAGGLE_PROCESS_PROVE_TURN;

	return (process->mode & both) == both && !process->turn_contradicts;
}

/* Proven by responses; where that is enough without a look back, one request in the
 * process leaves no choice either. */
INLINE int turn_trusted(const struct waggle_process *process)
{
	if (process->turn_contradicts)
		return 0;
	if (process->turn_agrees >= turn_proof)
		return 1;
	return process->open == 1 && !(process->mode & WAGGLE_PROCESS_PROVE_TURN);
}

/* One contradiction ends the rule: from now on nobody asks whose turn it is. */
INLINE void turn_refuted(struct waggle_process *process)
{
	__sync_fetch_and_add(&process->turn_contradicts, 1);
	process->mode &= ~WAGGLE_PROCESS_RULE_TURN;
	count(WAGGLE_COUNT_RULE_CONTRADICTED);
}

/* A server's connection has a request that is not answered. */
INLINE void turn_waits(struct connection *connection, struct waggle_process *process)
{
	if (!turn_needs_proof(process))
		return;
	connection->flags |= CONNECTION_PROVES;
	__sync_fetch_and_add(&process->unanswered, 1);
}

INLINE void turn_waits_no_more(struct connection *connection, struct waggle_process *process)
{
	if (!(connection->flags & CONNECTION_PROVES))
		return;
	connection->flags &= ~CONNECTION_PROVES;
	if (process && process->unanswered)
		__sync_fetch_and_add(&process->unanswered, -1);
}

INLINE u64 span_word(const struct waggle_facts *facts)
{
	u64 word;

	__builtin_memcpy(&word, facts->span_id, sizeof(word));
	return word;
}

/* What a call may be part of is told to user space, which waits for a proof; `flags` say what
 * the call has until then. Whoever gets it adds what is claimed, and submits it. */
INLINE struct waggle_evidence *begin_claim(struct waggle_process *process,
					   struct waggle_facts *facts, u8 link, u32 flags)
{
	struct waggle_evidence *evidence = begin_evidence(WAGGLE_EVIDENCE_TURN_CALL, facts);

	if (!evidence)
		return 0;
	facts->flags |= flags;
	evidence->flags = facts->flags;
	evidence->link = link;
	__sync_fetch_and_add(&process->turn_calls, 1);
	count(WAGGLE_COUNT_TURN_CALLS);
	return evidence;
}

/* A call goes out in the turn of `request`, whose ids it has if it has a link already. */
INLINE void turn_claim(struct waggle_process *process, struct waggle_facts *facts,
		       const struct waggle_facts *request)
{
	u32 flags = facts->link ? WAGGLE_FLAG_UNPROVEN : WAGGLE_FLAG_TRACE_PENDING;
	struct waggle_evidence *evidence = begin_claim(process, facts, WAGGLE_LINK_TURN, flags);

	if (!evidence) { /* no proof will come of it */
		facts->link = WAGGLE_LINK_NONE;
		__builtin_memset(facts->parent_id, 0, sizeof(facts->parent_id));
		return;
	}
	evidence->unanswered = process->unanswered;
	evidence->contexts[0] = span_word(request);
	bpf_ringbuf_submit(evidence, wakeup(&evidence_ring));
}

/* A request is answered, or ends without an answer (`kind`). */
INLINE void turn_tell(const struct waggle_process *process, const struct waggle_facts *facts,
		      u8 kind, int proves, u8 link)
{
	struct waggle_evidence *evidence;

	if (!process->turn_calls)
		return;
	evidence = begin_evidence(kind, facts);
	if (!evidence)
		return;
	evidence->link = link;
	evidence->contexts[0] = proves ? span_word(facts) : 0;
	bpf_ringbuf_submit(evidence, wakeup(&evidence_ring));
}

INLINE void turn_answer(struct connection *connection, struct waggle_process *process,
			const struct waggle_facts *facts, int verdict)
{
	int proves = verdict == TURN_AGREES || (verdict == TURN_SILENT && turn_trusted(process));

	if (!(process->mode & WAGGLE_PROCESS_PROVE_TURN))
		return;
	turn_waits_no_more(connection, process);
	turn_tell(process, facts,
		  verdict == TURN_REFUTES ? WAGGLE_EVIDENCE_TURN_REFUTED : WAGGLE_EVIDENCE_TURN_ANSWER,
		  proves, WAGGLE_LINK_TURN);
}

PROVEN_ONCE int turn_gone(struct connection *connection, const struct waggle_facts *facts)
{
	struct waggle_process *process;
	u32 tgid;

	if (!connection || !facts || !(connection->flags & CONNECTION_PROVES))
		return 0;
	tgid = facts->tgid;
	process = bpf_map_lookup_elem(&processes, &tgid);
	if (process)
		turn_tell(process, facts, WAGGLE_EVIDENCE_TURN_GONE, 0, WAGGLE_LINK_TURN);
	return 0;
}

#endif
