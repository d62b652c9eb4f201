/* SPDX-License-Identifier: Apache-2.0
 *
 * Items that pass a channel, for go_claims.h. All of it happens under the channel's lock, so
 * what is written here is in the order in which items pass. An item goes from hand to hand
 * where one of the two waits (runtime.send, runtime.recv), else through a slot of the
 * channel's buffer, which is known by its address.
 */
#ifndef WAGGLE_GO_HANDOVER_H
#define WAGGLE_GO_HANDOVER_H

#include "go_calls.h"
#include "go_claims.h"

/* Of a runtime.hchan, a runtime._type and a runtime.g, since Go 1.17 at least. */
#define GO_CHANNEL_SLOTS 8
#define GO_CHANNEL_BUFFER 16
#define GO_CHANNEL_SLOT_SIZE 24
#define GO_TYPE_POINTERS 8 /* how much of a value of a type has pointers in it */
#define GO_STACK_HIGH 8

/* As goid_of(); timers send on a thread's own stack, which is nobody's. */
INLINE u64 g_on_channel(const struct waggle_go *go)
{
	u64 g = go_thread_g(go->slot);
	u64 thread = g ? word_at(g + go->m) : 0;

	return thread && word_at(thread + go->curg) == g ? g : 0;
}

/* Who is `g`, that sends an item? */
OUT_OF_LINE int sender_of(struct waggle_go *go, u64 g, struct go_item *item)
{
	struct go_claim *claim;

	__builtin_memset(item, 0, sizeof(*item));
	item->goid = g ? word_at(g + go->goid) : 0;
	if (!item->goid)
		return 0;
	if (own_request(go, item->goid, &item->owner)) {
		item->kind = GO_FROM_REQUEST;
		return 0;
	}
	claim = claim_of(go, item->goid);
	if (claim && claim->owner.sock) {
		item->kind = GO_FROM_WORKER;
		item->owner = claim->owner;
		item->turn = claim->turn;
		return 0;
	}
	if (is_pump(go, g))
		item->kind = GO_FROM_LIBRARY;
	if (go->parent_goid)
		item->maker = word_at(g + go->parent_goid);
	return 0;
}

/* One more request has had its answer from the worker that had its item. Enough of them tell more
 * than births of that function ever will (missed()). */
INLINE void answered_once_more(const struct waggle_go *go, const struct go_claim *claim,
			       struct go_pool *pool)
{
	struct waggle_go_function *function;

	__sync_fetch_and_add(&pool->answered, 1);
	if (pool->answered != WAGGLE_GO_LIMIT_ANSWERED)
		return;
	function = go_function_of(go, claim->function);
	if (function && !function->told)
		function->in_vain = WAGGLE_GO_LIMIT_IN_VAIN;
}

/* What a worker has sent is received, by a goroutine of request `receiver` (sock 0: of none).
 * With that it has answered. */
INLINE void worker_answered(const struct waggle_go *go, const struct go_item *item,
			    const struct owner *receiver)
{
	struct go_claim *claim = claim_of(go, item->goid);
	struct go_pool *pool;

	if (!claim || claim->turn != item->turn)
		return;
	if (item->is_slot)
		__sync_fetch_and_add(&claim->taken, 1);
	if (!receiver->sock || !claim->owner.sock)
		return;
	pool = judged_pool(go, claim);
	if (pool && same_request(receiver, &claim->owner))
		answered_once_more(go, claim, pool);
	else if (pool)
		pool->contradicted = 1;
	claim->owner.sock = 0;
}

/* A worker takes the next item, and has not answered the one before. */
INLINE void takes_another(const struct waggle_go *go, const struct go_claim *claim,
			  const struct go_item *item)
{
	struct go_pool *pool;

	if (!claim->owner.sock || claim->sent != claim->taken ||
	    same_request(&claim->owner, &item->owner) || !is_open_request(&claim->owner))
		return;
	pool = judged_pool(go, claim);
	if (pool)
		pool->contradicted = 1;
}

/* An item of a request is received by the goroutine `g`, which serves none. */
OUT_OF_LINE int take_claim(struct waggle_go *go, u64 g, const struct go_item *item, u64 type)
{
	struct goroutine_key key = { .goid = word_at(g + go->goid), .epoch = go->epoch };
	struct go_claim fresh = { .owner = item->owner, .type = type };
	struct go_claim *claim = bpf_map_lookup_elem(&go_claims, &key);

	if (is_pump(go, g))
		return 0;
	fresh.function = word_at(g + go->start);
	if (claim) {
		if (claim->type == type && claim->function == fresh.function)
			takes_another(go, claim, item);
		fresh.turn = claim->turn + 1;
		*claim = fresh;
	} else {
		bpf_map_update_elem(&go_claims, &key, &fresh, BPF_ANY);
	}
	return 0;
}

/* The goroutine `g` receives an item of a type. */
OUT_OF_LINE int received(struct waggle_go *go, u64 g, const struct go_item *item, u64 type)
{
	u64 goid = word_at(g + go->goid);
	struct goroutine *goroutine = goid ? goroutine_of(go, goid) : 0;
	struct owner receiver = {};
	struct go_claim *claim;

	if (!goid)
		return 0;
	if (goroutine && item->kind == GO_FROM_WORKER)
		own_request(go, goid, &receiver);
	if (item->kind == GO_FROM_WORKER)
		worker_answered(go, item, &receiver);
	if (goroutine && (goroutine->state != GO_BORN || receiver.sock))
		return 0;
	/* Whom it has made, or asked, answers it. */
	if (item->kind == GO_FROM_LIBRARY || item->goid == goid ||
	    (item->maker && item->maker == goid))
		return 0;
	/* A value without pointers says that there is something to do, not what. */
	if (item->kind == GO_FROM_REQUEST && word_at(type + GO_TYPE_POINTERS))
		return take_claim(go, g, item, type);
	claim = claim_of(go, goid);
	if (claim)
		claim->owner.sock = 0;
	return 0;
}

/* An item lies in a slot now. */
OUT_OF_LINE int put_item(struct waggle_go *go, u64 address, struct go_item *item)
{
	struct go_slot_key key = { .address = address, .epoch = go->epoch };
	struct go_item *before = bpf_map_lookup_elem(&go_slots, &key);
	struct go_claim *claim;

	if (item->kind == GO_FROM_WORKER) {
		claim = claim_of(go, item->goid);
		if (claim)
			claim->sent++;
	}
	item->is_slot = 1;
	if (before)
		*before = *item;
	else if (item->kind != GO_FROM_NOBODY || (item->maker && claim_of(go, item->maker)))
		bpf_map_update_elem(&go_slots, &key, item, BPF_ANY);
	return 0;
}

/* What lay in a slot, which is empty now. */
OUT_OF_LINE int take_item(struct waggle_go *go, u64 address, struct go_item *item)
{
	struct go_slot_key key = { .address = address, .epoch = go->epoch };
	struct go_item *found = bpf_map_lookup_elem(&go_slots, &key);

	__builtin_memset(item, 0, sizeof(*item));
	if (!found)
		return 0;
	*item = *found;
	found->kind = GO_FROM_NOBODY;
	found->goid = 0;
	found->maker = 0;
	return 0;
}

INLINE int is_on_stack(u64 g, u64 address)
{
	return address >= word_at(g) && address < word_at(g + GO_STACK_HIGH);
}

/* runtime.send(channel, waiting, ...): the current goroutine gives to one that waits. */
SEC("uprobe")
int go_channel_send(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	struct go_item item;

	/* Whoever jumps here comes again. */
	if (!go || go_jumps(registers))
		return 0;
	sender_of(go, g_on_channel(go), &item);
	received(go, word_at(GO_ARGUMENT_1(registers)), &item,
		 word_at(GO_ARGUMENT_0(registers) + go->channel_type));
	return 0;
}

/* runtime.recv(channel, waiting, ...): the current goroutine takes from one that waits or,
 * where the channel has a full buffer, what is first there; what the one that waits has
 * takes its place. */
SEC("uprobe")
int go_channel_receive(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 channel = GO_ARGUMENT_0(registers), g, slot;
	struct go_item item, first;

	g = go && !go_jumps(registers) ? g_on_channel(go) : 0;
	if (!g)
		return 0;
	sender_of(go, word_at(GO_ARGUMENT_1(registers)), &item);
	if (word_at(channel + GO_CHANNEL_SLOTS)) {
		slot = word_at(channel + GO_CHANNEL_BUFFER) +
		       word_at(channel + go->channel_next) *
			       (u16)word_at(channel + GO_CHANNEL_SLOT_SIZE);
		take_item(go, slot, &first);
		put_item(go, slot, &item);
		item = first;
	}
	received(go, g, &item, word_at(channel + go->channel_type));
	return 0;
}

/* The calls of runtime.typedmemmove(type, to, from) by which an item goes into a slot; one of
 * selectgo's is for what leaves a slot, and copies to the stack. */
SEC("uprobe")
int go_channel_put(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 slot = GO_ARGUMENT_1(registers), g;
	struct go_item item;

	if (!go)
		return 0;
	g = g_on_channel(go);
	if (g && is_on_stack(g, slot))
		return 0;
	sender_of(go, g, &item);
	put_item(go, slot, &item);
	return 0;
}

/* The calls of runtime.typedmemclr(type, at): a slot, from which an item was taken; or where
 * an item was to go, when there is none since the channel is closed. */
SEC("uprobe")
int go_channel_take(struct pt_regs *registers)
{
	struct waggle_go *go = current_go();
	u64 slot = GO_ARGUMENT_1(registers), g = go ? g_on_channel(go) : 0;
	struct go_item item;

	if (!g)
		return 0;
	take_item(go, is_on_stack(g, slot) ? 0 : slot, &item);
	received(go, g, &item, GO_ARGUMENT_0(registers));
	return 0;
}

#endif
