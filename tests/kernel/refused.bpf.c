// SPDX-License-Identifier: Apache-2.0
// Programs that a verifier or a kernel refuses, each for a reason of its own.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} values SEC(".maps");

SEC("raw_tp/sys_enter")
int unchecked_pointer(void *ctx)
{
	__u32 key = 0;
	__u64 *value = bpf_map_lookup_elem(&values, &key);

	*value = 1; /* may be NULL */
	return 0;
}

SEC("raw_tp/sys_enter")
int writes_user_memory(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 value = 0;

	bpf_probe_write_user((void *)ctx->args[0], &value, sizeof(value));
	return 0;
}

struct no_such_type {
	int field;
} __attribute__((preserve_access_index));

SEC("raw_tp/sys_enter")
int reads_missing_field(struct bpf_raw_tracepoint_args *ctx)
{
	struct no_such_type *p = (void *)ctx->args[0];
	int field = 0;

	bpf_probe_read_kernel(&field, sizeof(field), &p->field);
	return field;
}

SEC("tp_btf/no_such_tracepoint")
int missing_hook(void *ctx)
{
	return 0;
}

SEC("raw_tp/no_such_tracepoint")
int missing_raw_hook(void *ctx)
{
	return 0;
}

SEC("fentry/tcp_sendmsg")
int function_entry(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
