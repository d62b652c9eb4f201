/* SPDX-License-Identifier: Apache-2.0
 *
 * Births and deaths of Python's contexts: PyContext_CopyCurrent returns, and a context
 * is freed, whose address is soon another's. Attached only to the interpreters that are
 * traced; one that runs no event loop hardly ever comes here.
 */
#ifndef WAGGLE_PYTHON_PROBES_H
#define WAGGLE_PYTHON_PROBES_H

#include "python.h"

#define SECOND_NS 1000000000ULL

/* Whether a process still copies few enough contexts to be followed. */
INLINE int within_rate(struct waggle_python *python, u64 now)
{
	if (now - python->second_ns > SECOND_NS) {
		python->second_ns = now;
		python->copied = 0;
	}
	if (++python->copied <= context_rate)
		return 1;
	python->too_many = 1;
	return 0;
}

/* The first context that a thread copies after it has read a request, and before it
 * sleeps, is made for that request. */
INLINE void copied_for_request(struct context *child)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct thread *thread = bpf_map_lookup_elem(&threads, &tid);
	struct connection *connection;
	u64 sock;

	if (!thread || !thread->read.sock)
		return;
	sock = thread->read.sock;
	thread->read.sock = 0;
	connection = thread->read_switches == voluntary_switches() ?
			     bpf_map_lookup_elem(&connections, &sock) :
			     0;
	if (!connection)
		return;
	child->copied_for = thread->read;
	child->copied_for.sock = sock;
	child->inherited = 0;
	child->made |= 1;
	connection->copied = thread->read.index + 1;
}

/* Who ends an answer begins the next request of that connection, where it has been read
 * meanwhile. */
INLINE int begins_next_request(const struct context *parent)
{
	u64 sock = parent->answered_sock;
	struct connection *connection = sock ? bpf_map_lookup_elem(&connections, &sock) : 0;

	return connection && open_requests(connection);
}

INLINE void descend(struct context *child, struct context *parent)
{
	bpf_probe_read_kernel(&child->generations[1], sizeof(child->generations) - sizeof(u64),
			      parent->generations);
	bpf_probe_read_kernel(&child->addresses[1], sizeof(child->addresses) - sizeof(u64),
			      parent->addresses);
	child->copied_for = parent->copied_for;
	child->writes_for = parent->writes_for;
	child->inherited = 1;
	child->made = (parent->made << 1 & 0xff) | begins_next_request(parent);
	child->after_call = parent->after_call << 1 & 0xff;
	if (parent->called & CALLED_ITSELF)
		child->after_call |= 1;
}

/* `child` was copied from what the current thread works on. */
INLINE void context_copied(struct waggle_python *python, u32 tgid, u64 address)
{
	u64 current;
	struct context *child, *parent;

	if (!within_rate(python, bpf_ktime_get_ns())) {
		count(WAGGLE_COUNT_CONTEXTS_IGNORED);
		return;
	}
	current = current_context(python);
	parent = current && current != address ? context_at(python, tgid, current) : 0;
	child = new_context(python, tgid, address, 1);
	if (!child)
		return;
	if (parent)
		descend(child, parent);
	copied_for_request(child);
	count(WAGGLE_COUNT_CONTEXTS_COPIED);
}

SEC("uprobe")
int python_context_copied(struct pt_regs *registers)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct waggle_python *python = python_of(tgid);
	u64 child = BPF_CORE_READ(registers, ax);

	if (python && child)
		context_copied(python, tgid, child);
	return 0;
}

/* The destructor of contexts: its argument is forgotten. */
SEC("uprobe")
int python_context_freed(struct pt_regs *registers)
{
	struct context_key key = {
		.address = BPF_CORE_READ(registers, di),
		.tgid = bpf_get_current_pid_tgid() >> 32,
	};
	struct context *context = bpf_map_lookup_elem(&contexts, &key);

	if (!context)
		return 0;
	if (context->called)
		task_over(key.tgid, context->generations[0]);
	bpf_map_delete_elem(&contexts, &key);
	return 0;
}

#endif
