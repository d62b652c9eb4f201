// SPDX-License-Identifier: Apache-2.0
// A producer for tests: one record per getppid() of the two processes in
// `targets`, every `discard_every`th thrown away after it was reserved.
// GETPPID, the number of the system call, comes from the compiler's command line.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define PAYLOAD 504
#define WAKE_BYTES (64 << 10)

struct record {
	__u64 sequence;
	__u64 words[(PAYLOAD - 16) / 8];
	__u64 check; /* equals sequence: a torn record differs */
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} records SEC(".maps");

enum { MADE, LOST, DISCARDED, COUNTERS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

const volatile __u32 discard_every = 0;
const volatile __u32 targets[2] = {};

static __u64 count(__u32 which)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &which);

	return counter ? __sync_fetch_and_add(counter, 1) : 0;
}

SEC("raw_tp/sys_enter")
int produce(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 caller = bpf_get_current_pid_tgid() >> 32;

	if (ctx->args[1] != GETPPID || (caller != targets[0] && caller != targets[1]))
		return 0;
	struct record *record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);

	if (!record) {
		count(LOST);
		return 0;
	}
	record->sequence = count(MADE);
	for (int i = 0; i < (PAYLOAD - 16) / 8; i++)
		record->words[i] = record->sequence;
	record->check = record->sequence;
	if (discard_every && record->sequence % discard_every == 0) {
		count(DISCARDED);
		bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);
		return 0;
	}
	__u64 waiting = bpf_ringbuf_query(&records, BPF_RB_AVAIL_DATA);

	bpf_ringbuf_submit(record, waiting >= WAKE_BYTES ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
