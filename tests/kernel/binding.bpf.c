// SPDX-License-Identifier: Apache-2.0
// What the binding is tested with: variables of every width, maps, hooks.
// GETPPID, the number of the system call, comes from the compiler's command line.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>


const volatile __u8 one = 0;
const volatile __u16 two = 0;
const volatile __u32 four = 0;
const volatile __u64 eight = 0;
const volatile __u8 seed[16] = {};
const volatile __u32 target = 0;

struct seen {
	__u64 calls;
	__u64 sum; /* of all variables, to prove that the kernel saw them */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct seen);
} per_cpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} narrow SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u64);
	__type(value, __u32);
} table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} cookies SEC(".maps");

static int mine(void)
{
	return bpf_get_current_pid_tgid() >> 32 == target;
}

SEC("raw_tp/sys_enter")
int on_getppid(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 key = 1;

	if (ctx->args[1] != GETPPID || !mine())
		return 0;
	struct seen *seen = bpf_map_lookup_elem(&per_cpu, &key);

	if (!seen)
		return 0;
	seen->calls += 1;
	seen->sum = eight + one + two + four;
	for (int i = 0; i < 16; i++)
		seen->sum += seed[i];
	__u64 *calls = bpf_map_lookup_elem(&narrow, &key);

	if (calls)
		*calls += 1;
	return 0;
}

SEC("uprobe")
int on_function(void *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx);
	__u32 key = 0;

	if (mine())
		bpf_map_update_elem(&cookies, &key, &cookie, BPF_ANY);
	return 0;
}

SEC("cgroup_skb/ingress")
int on_packet(struct __sk_buff *skb)
{
	return 1;
}

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
} __attribute__((preserve_access_index));

struct bpf_iter__bpf_map {
	struct bpf_iter_meta *meta;
} __attribute__((preserve_access_index));

SEC("iter/bpf_map")
int list_maps(struct bpf_iter__bpf_map *ctx)
{
	char line[] = "map\n";

	bpf_seq_write(ctx->meta->seq, line, sizeof(line) - 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
