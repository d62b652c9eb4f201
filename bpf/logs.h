/* SPDX-License-Identifier: Apache-2.0
 *
 * What traced processes write to their logs: stdout, stderr, files whose name ends in
 * .log, journald's sockets and /dev/log. Loaded with --logs only, for it is attached to
 * the exit of every system call, which every process on the machine pays for.
 *
 * At the exit the result is known, so what was not written is not told, and both the
 * arguments and the bytes are where they were. Nothing the application does is changed.
 */
#ifndef WAGGLE_LOGS_H
#define WAGGLE_LOGS_H

#include "log_targets.h"
#include "parents.h"

const volatile u32 log_rate = 5000; /* records of one process a second */

#define LOG_WRITE_MAX (64 << 10) /* bytes kept of one write from one buffer, */
#define LOG_GATHER 8192		 /* and from several */
#define LOG_PIECES (LOG_WRITE_MAX / WAGGLE_LOG_BYTES + 1)
#define LOG_SECOND_NS 1000000000ULL

/* What a process may still write in this second, and what it wrote in vain. */
struct log_budget {
	u64 second_ns;
	u32 used;
	u32 lost;
};

/* One write on its way into the ring. */
struct log_write {
	struct waggle_log head; /* of all its pieces; its bytes stay zero */
	struct waggle_facts facts;
	struct random random;
	struct log_memory memory;
	u32 done; /* bytes in pieces that were sent, or that were gathered */
	u32 failed; /* enum waggle_counter */
	u8 gathered[2 * LOG_GATHER];
};

MAP(log_budgets, BPF_MAP_TYPE_LRU_HASH, 4096, u32, struct log_budget, 0);
MAP(log_writes, BPF_MAP_TYPE_PERCPU_ARRAY, 1, u32, struct log_write, 0);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} log_ring SEC(".maps");

INLINE struct log_budget *log_budget_of(u32 tgid)
{
	struct log_budget *budget = bpf_map_lookup_elem(&log_budgets, &tgid);
	struct log_budget fresh = {};

	if (budget)
		return budget;
	bpf_map_update_elem(&log_budgets, &tgid, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&log_budgets, &tgid);
}

INLINE int within_log_rate(struct log_budget *budget, u32 pieces, u64 now)
{
	if (now - budget->second_ns > LOG_SECOND_NS) {
		budget->second_ns = now;
		budget->used = 0;
	}
	if (budget->used + pieces > log_rate)
		return 0;
	__sync_fetch_and_add(&budget->used, pieces);
	return 1;
}

struct log_walk {
	struct log_write *write;
};

/* One segment of a vector more, behind those before it. */
static long gather_step(u32 index, void *context)
{
	struct log_write *write = ((struct log_walk *)context)->write;
	u32 room = write->head.kept - write->done;
	struct iovec segment;
	u64 length;

	if (index >= write->memory.segments || !room || room > LOG_GATHER)
		return 1;
	if (bpf_probe_read_user(&segment, sizeof(segment),
				(struct iovec *)write->memory.vector + index))
		return 1;
	length = masked(segment.iov_len < room ? segment.iov_len : room, 2 * LOG_GATHER - 1);
	if (length > LOG_GATHER ||
	    bpf_probe_read_user(write->gathered + masked(write->done, LOG_GATHER - 1), length,
				segment.iov_base))
		return 1;
	write->done += length;
	return 0;
}

/* Brings the segments of a vector together; 0 when some cannot be read. */
INLINE int gather(struct log_write *write)
{
	struct log_walk walk = { .write = write };

	write->done = 0;
	LOOP(SEGMENTS_MAX, gather_step, &walk);
	return write->done == write->head.kept;
}

INLINE int read_piece(struct waggle_log *piece, struct log_write *write, u32 offset, u64 length)
{
	length = masked(length, 1023);
	if (length > WAGGLE_LOG_BYTES)
		return 1;
	if (!write->memory.segments)
		return bpf_probe_read_user(piece->bytes, length,
					   (void *)(write->memory.base + offset));
	return bpf_probe_read_kernel(piece->bytes, length,
				     write->gathered + masked(offset, LOG_GATHER - 1));
}

static long piece_step(u32 index, void *context)
{
	struct log_write *write = ((struct log_walk *)context)->write;
	u32 offset = write->done, length = write->head.kept - offset;
	struct waggle_log *piece;

	if (!length)
		return 1;
	if (length > WAGGLE_LOG_BYTES)
		length = WAGGLE_LOG_BYTES;
	piece = bpf_ringbuf_reserve(&log_ring, sizeof(*piece), 0);
	if (!piece) {
		write->failed = WAGGLE_COUNT_LOST_LOG_RING_FULL;
		return 1;
	}
	bpf_probe_read_kernel(piece, sizeof(*piece), &write->head);
	piece->offset = offset;
	piece->length = length;
	if (read_piece(piece, write, offset, length)) {
		bpf_ringbuf_discard(piece, BPF_RB_NO_WAKEUP);
		write->failed = WAGGLE_COUNT_LOST_LOG_UNREADABLE;
		return 1;
	}
	bpf_ringbuf_submit(piece, wakeup(&log_ring));
	write->done = offset + length;
	return 0;
}

/* What tells writes of one task from those of another where the request is not known yet. */
INLINE u64 log_context(u32 tgid)
{
	struct waggle_python *python = python_of(tgid);
	u64 address = python ? current_context(python) : 0;
	struct context *context = address ? known_context(python, tgid, address) : 0;

	return context ? context->generations[0] : 0;
}

/* Whose request it is part of. What is known only later gets ids that evidence follows to. */
OUT_OF_LINE int log_owner(struct log_write *write)
{
	struct waggle_log *head = &write->head;
	struct waggle_facts *facts = &write->facts;

	__builtin_memset(facts, 0, sizeof(*facts));
	facts->tgid = head->tgid;
	facts->tid = head->tid;
	facts->flags = head->flags;
	facts->link = find_writer(facts);
	if (!facts->link || facts->link == WAGGLE_LINK_TASK) {
		if (!write->random.words[0])
			seed_random(&write->random);
		new_span_id(&write->random, facts->span_id);
		if (!facts->link)
			new_trace_id(&write->random, facts->trace_id);
		if (!task_call(facts, WAGGLE_EVIDENCE_LOG))
			return 0;
		head->context = log_context(head->tgid);
	}
	copy_trace_id(head->trace_id, facts->trace_id);
	copy_span_id(head->span_id, facts->span_id);
	copy_span_id(head->parent_id, facts->parent_id);
	head->flags = facts->flags;
	head->link = facts->link;
	head->trace_flags = facts->trace_flags;
	return 0;
}

/* What all pieces of a write have in common, but for the owner. */
INLINE void begin_log(struct log_write *write, const struct log_target *target, u32 mode, u32 written)
{
	struct waggle_log *head = &write->head;
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	u32 most = write->memory.segments ? LOG_GATHER : LOG_WRITE_MAX;

	head->time_ns = bpf_ktime_get_ns();
	head->process_start_ns = task->group_leader->start_boottime;
	head->tgid = task->tgid;
	head->tid = task->pid;
	head->inode = target->inode;
	head->device = target->device;
	head->descriptor = target->descriptor;
	head->source = target->source;
	head->role = WAGGLE_ROLE_CLIENT;
	head->flags = mode & WAGGLE_PROCESS_UNCONFIRMED ? WAGGLE_FLAG_PROVISIONAL : 0;
	head->link = WAGGLE_LINK_NONE;
	head->trace_flags = 0;
	head->context = 0;
	head->written = written;
	head->kept = written > most ? most : written;
	clear_words(head->trace_id, 32);
	write->failed = 0;
}

INLINE void send_pieces(struct log_write *write)
{
	struct log_walk walk = { .write = write };

	if (write->memory.segments && !gather(write)) {
		write->failed = WAGGLE_COUNT_LOST_LOG_UNREADABLE;
		return;
	}
	write->done = 0;
	LOOP(LOG_PIECES, piece_step, &walk);
}

OUT_OF_LINE int record_log(struct log_write *write)
{
	struct log_budget *budget = log_budget_of(write->head.tgid);
	u32 pieces = write->head.kept / WAGGLE_LOG_BYTES + 1;

	if (!budget)
		return 0;
	write->head.lost = budget->lost;
	if (within_log_rate(budget, pieces, write->head.time_ns)) {
		log_owner(write);
		send_pieces(write);
	} else {
		write->failed = WAGGLE_COUNT_LOST_LOG_RATE;
	}
	if (write->failed)
		__sync_fetch_and_add(&budget->lost, 1);
	count(write->failed ? write->failed : WAGGLE_COUNT_LOGS_WRITTEN);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(log_written, struct pt_regs *regs, long result)
{
	u64 number = regs->orig_ax;
	struct log_target target = {};
	struct log_write *write;
	u32 mode, zero = 0;

	if (result <= 0 || !is_log_write(number))
		return 0;
	mode = traced_mode();
	/* Where everything is traced, whoever speaks no protocol is never decided about. */
	if (!mode || (trace_all && mode & WAGGLE_PROCESS_UNCONFIRMED))
		return 0;
	HOLD_CPU();
	write = bpf_map_lookup_elem(&log_writes, &zero);
	if (!write)
		return 0;
	target.descriptor = regs->di;
	log_memory(&write->memory, number, regs->si, regs->dx, regs->r8);
	target.name = write->memory.name;
	if (!find_log_target(&target))
		return 0;
	begin_log(write, &target, mode, result);
	record_log(write);
	return 0;
}

#endif
