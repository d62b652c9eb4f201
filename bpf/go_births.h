/* SPDX-License-Identifier: Apache-2.0
 *
 * Goroutines that are born in a request, and whether they may be taken for a part of it: those
 * of functions that are known to end. What births tell costs a probe for every goroutine, so
 * calls are counted of which they might have told (missed()); user space does the rest.
 */
#ifndef WAGGLE_GO_BIRTHS_H
#define WAGGLE_GO_BIRTHS_H

#include "go.h"

#define GO_DEAD 6			 /* runtime._Gdead, since Go 1.0 */
#define GO_A_WHILE_NS (100 * 1000000ULL) /* how often a call in vain counts */
#define GO_LIVES_ON_NS (5 * 1000000000ULL)

INLINE int function_trusted(const struct waggle_go_function *function)
{
	if (!function)
		return 0;
	return function->verdict == WAGGLE_GO_ENDS ||
	       (function->verdict == WAGGLE_GO_UNKNOWN && function->ended >= birth_proof);
}

/* A goroutine that was born in a request calls. One that has called before and goes on
 * after the answer may be a worker, and so may all that run this function. */
INLINE int born_may_call(const struct waggle_go *go, struct goroutine *goroutine, int works)
{
	struct waggle_go_function *function = go_function_of(go, goroutine->function);
	u32 before = goroutine->calls++;

	if (function && works == GO_ON_ANSWERED && before &&
	    function->verdict == WAGGLE_GO_UNKNOWN)
		function->verdict = WAGGLE_GO_WORKS_ON;
	return function_trusted(function);
}

/* A birth has told whose a call is. */
INLINE void birth_told(struct waggle_go *go, const struct goroutine *goroutine)
{
	struct waggle_go_function *function = go_function_of(go, goroutine->function);

	if (!go->used)
		go->used = 1;
	if (function && !function->told)
		function->told = 1;
}

/* Whether somebody who calls again this late is a worker, of which no birth tells. */
INLINE int works_for_long(struct waggle_go_function *function, u64 goid, u64 now)
{
	if (function->caller == goid)
		return now - function->caller_ns > GO_LIVES_ON_NS;
	function->caller = goid;
	function->caller_ns = now;
	return 0;
}

INLINE struct waggle_go_function *new_function(const struct waggle_go_function_key *key)
{
	struct waggle_go_function *blank = BLANK(struct waggle_go_function);

	if (!blank || bpf_map_update_elem(&go_functions, key, blank, BPF_NOEXIST))
		count(WAGGLE_COUNT_GO_FUNCTIONS_FULL);
	return bpf_map_lookup_elem(&go_functions, key);
}

/* A goroutine calls of which nothing is known: would its birth have told, had it been seen? Not
 * where births were seen, and such calls came all the same. */
OUT_OF_LINE int missed(struct waggle_go *go, u64 g, u64 goid)
{
	struct waggle_go_function_key key = go_function_key(go, word_at(g + go->start));
	struct waggle_go_function *function = bpf_map_lookup_elem(&go_functions, &key);
	u64 now = bpf_ktime_get_ns();

	if (!function)
		function = new_function(&key);
	if (!function)
		return 0;
	if (function->verdict == WAGGLE_GO_PUMP || function->verdict == WAGGLE_GO_WORKS_ON)
		return 0;
	if (!function->told) {
		if (function->in_vain >= WAGGLE_GO_LIMIT_IN_VAIN)
			return 0;
		if (works_for_long(function, goid, now)) {
			function->in_vain = WAGGLE_GO_LIMIT_IN_VAIN;
			return 0;
		}
		if (now - go->birth_ns < GO_A_WHILE_NS && now - function->vain_ns > GO_A_WHILE_NS) {
			function->vain_ns = now;
			function->in_vain++;
		}
	}
	go->wanted++;
	return 0;
}

/* Whether the goroutine that was watched has ended: its g is dead, or another's now. */
INLINE int watched_ended(const struct waggle_go *go, const struct waggle_go_function *function)
{
	u32 status = (u32)word_at(function->watched + go->status);

	return word_at(function->watched + go->goid) != function->goid || status == GO_DEAD;
}

/* A goroutine that runs `address` was born in a request: watch one of each function. */
INLINE void watch_birth(const struct waggle_go *go, struct waggle_go_function *function, u64 address,
			u64 g, u64 goid)
{
	struct waggle_go_function_key key = go_function_key(go, address);
	struct waggle_go_function fresh = { .watched = g, .goid = goid };

	if (!function) {
		if (bpf_map_update_elem(&go_functions, &key, &fresh, BPF_NOEXIST))
			count(WAGGLE_COUNT_GO_FUNCTIONS_FULL);
		return;
	}
	if (function->ended >= birth_proof)
		return;
	if (function->watched) {
		if (!watched_ended(go, function))
			return;
		function->ended++;
	}
	function->watched = g;
	function->goid = goid;
}

/* Whether what the maker of a goroutine works on is handed on to it. */
INLINE int hands_on(const struct waggle_go *go, struct goroutine *maker, u64 goid,
		    struct go_request *request)
{
	if (!layout_holds(go) || works_on(maker, goid, request) != GO_ON_OPEN)
		return 0;
	return maker->state != GO_BORN || function_trusted(go_function_of(go, maker->function));
}

INLINE void born(const struct waggle_go *go, u64 maker_goid, u64 g)
{
	struct goroutine_key key = { .epoch = go->epoch };
	struct goroutine fresh = {}, *maker;
	struct waggle_go_function *function;

	fresh.function = word_at(g + go->start);
	function = go_function_of(go, fresh.function);
	if (function && (function->verdict == WAGGLE_GO_PUMP ||
			 function->verdict == WAGGLE_GO_WORKS_ON))
		return;
	maker = goroutine_of(go, maker_goid);
	if (!maker || !hands_on(go, maker, maker_goid, &fresh.request))
		return;
	key.goid = word_at(g + go->goid);
	if (!function || function->verdict == WAGGLE_GO_UNKNOWN)
		watch_birth(go, function, fresh.function, g, key.goid);
	fresh.state = GO_BORN;
	put_goroutine(&key, &fresh, BPF_ANY);
}

#endif
