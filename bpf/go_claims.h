/* SPDX-License-Identifier: Apache-2.0
 *
 * Workers that are fed through a channel, without a context: whose request is what they do
 * now? Only with --go-handover, since it costs a stop for each item that passes a channel.
 *
 * Who receives an item from a goroutine that serves a request has a claim to that request.
 * It holds until the worker hands something back to that request, receives anything else, or
 * the request is answered. It is believed only where what a function's goroutines do with
 * items of a type has proven itself: each request had its answer from the one that had its
 * item (struct go_pool). One that answers another, or takes the next item first, ends it.
 */
#ifndef WAGGLE_GO_CLAIMS_H
#define WAGGLE_GO_CLAIMS_H

#include "go_births.h"

const volatile u32 go_handover_wanted = 0;

/* What the current request of a worker is, as far as what it received says. */
struct go_claim {
	struct owner owner; /* sock 0: nobody's */
	u64 function;	    /* that the worker runs */
	u64 type;	    /* of the item */
	u32 turn;	    /* another for each item; */
	u32 sent;	    /* what it has put into buffers since, */
	u32 taken;	    /* and how much of that somebody has */
	u32 reserved;
};

struct go_pool_key {
	u64 function;
	u64 type;
	u32 epoch; /* of the process; user space finds it after the two addresses */
	u32 reserved;
};

/* Whether workers answer those whose items they have, each before it takes another. */
struct go_pool {
	u32 answered;
	u32 contradicted;
};

enum go_sender {
	GO_FROM_NOBODY = 0,
	GO_FROM_REQUEST = 1, /* a goroutine that is part of a request */
	GO_FROM_WORKER = 2,  /* one that has a claim */
	GO_FROM_LIBRARY = 3, /* one that does what others ask for (WAGGLE_GO_PUMP) */
};

/* Who has sent an item. */
struct go_item {
	struct owner owner;
	u64 goid;
	u64 maker; /* who made that goroutine, 0: not known */
	u32 kind;  /* enum go_sender */
	u32 turn;  /* GO_FROM_WORKER: of its claim */
	u32 is_slot; /* it lay in a buffer */
	u32 reserved;
};

struct go_slot_key {
	u64 address; /* in the buffer of a channel */
	u32 epoch;
	u32 reserved;
};

/* What is full forgets what was longest not used: such an item is nobody's. But who was once
 * contradicted must never be forgotten: there, nobody new is believed. */
MAP(go_claims, BPF_MAP_TYPE_LRU_HASH, 16384, struct goroutine_key, struct go_claim, 0);
MAP(go_pools, BPF_MAP_TYPE_HASH, 4096, struct go_pool_key, struct go_pool, ON_DEMAND);
MAP(go_slots, BPF_MAP_TYPE_LRU_HASH, 65536, struct go_slot_key, struct go_item, 0);

INLINE struct go_claim *claim_of(const struct waggle_go *go, u64 goid)
{
	struct goroutine_key key = { .goid = goid, .epoch = go->epoch };

	return bpf_map_lookup_elem(&go_claims, &key);
}

INLINE struct go_pool *pool_of(const struct waggle_go *go, const struct go_claim *claim)
{
	struct go_pool_key key = { .function = claim->function,
				   .type = claim->type,
				   .epoch = go->epoch };

	return bpf_map_lookup_elem(&go_pools, &key);
}

INLINE struct go_pool *judged_pool(const struct waggle_go *go, const struct go_claim *claim)
{
	struct go_pool_key key = { .function = claim->function,
				   .type = claim->type,
				   .epoch = go->epoch };
	struct go_pool fresh = {}, *pool = bpf_map_lookup_elem(&go_pools, &key);

	if (pool)
		return pool;
	if (bpf_map_update_elem(&go_pools, &key, &fresh, BPF_NOEXIST))
		count(WAGGLE_COUNT_GO_FUNCTIONS_FULL);
	return bpf_map_lookup_elem(&go_pools, &key);
}

INLINE int same_request(const struct owner *one, const struct owner *other)
{
	return one->sock == other->sock && one->index == other->index && one->tid == other->tid;
}

INLINE int is_open_request(const struct owner *owner)
{
	struct go_request request = {};

	request.owner = *owner;
	return refresh_request(&request);
}

/* The open request that a goroutine is for by itself into `owner`, whatever it has received.
 * Returns 0 when there is none. */
OUT_OF_LINE int own_request(const struct waggle_go *go, u64 goid, struct owner *owner)
{
	struct goroutine *goroutine = goroutine_of(go, goid);
	struct go_request request;

	if (!goroutine || works_on(goroutine, goid, &request) != GO_ON_OPEN)
		return 0;
	if (goroutine->state == GO_BORN &&
	    !function_trusted(go_function_of(go, goroutine->function)))
		return 0;
	*owner = request.owner;
	return 1;
}

/* The request that a worker's goroutine was handed, into `request`, where that is believed. */
OUT_OF_LINE int claimed_request(const struct waggle_go *go, u64 goid, struct go_request *request)
{
	struct go_claim *claim = claim_of(go, goid);
	struct go_pool *pool;

	/* What it has put into a buffer may be its answer, which nobody has taken yet. */
	if (!claim || !claim->owner.sock || claim->sent != claim->taken)
		return 0;
	pool = pool_of(go, claim);
	if (!pool || pool->contradicted || pool->answered < WAGGLE_GO_LIMIT_ANSWERED)
		return 0;
	request->owner = claim->owner;
	return refresh_request(request);
}

#endif
