/* SPDX-License-Identifier: Apache-2.0
 *
 * The line of code that makes a call: read from the frames of CPython (3.11 and later)
 * at the moment of the write.
 *
 * User space is given what nobody has judged yet and judges. So a program that has warmed up is asked for
 * one frame, and the record carries one word that stands for the place in its code.
 */
#ifndef WAGGLE_PYTHON_CODE_H
#define WAGGLE_PYTHON_CODE_H

#include "feed.h"
#include "python.h"
#include "python_code_events.h"
#include "python_frames.h"
#include "python_judged.h"

MAP(python_code, BPF_MAP_TYPE_HASH, 4096, u32, struct waggle_code_layout, ON_DEMAND);

/* What stands for the line of code that the current thread is at, 0 when that is not to
 * be had. Ids and offsets of what is not among the frames are left over from other calls. */
PROVEN_ONCE u64 find_call_site(struct code_walk *walk)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32, zero = 0;
	struct frame_walk at = { .walk = walk };
	u64 site;

	if (!walk)
		return 0;
	at.layout = bpf_map_lookup_elem(&python_code, &tgid);
	at.passed = bpf_map_lookup_elem(&code_passed, &zero);
	if (!at.layout || !at.passed)
		return 0;
	walk->passed = 0;
	walk->count = 0;
	walk->lost = 0;
	walk->frame = current_frame(at.layout);
	LOOP(WAGGLE_WALK, frame_step, &at);
	if (!walk->count || walk->lost)
		return 0;
	walk->hash = at.layout->salt;
	LOOP(WAGGLE_FRAMES, site_step, &at);
	site = walk->hash | 1;
	/* Who knows a place knows the code objects of its frames. */
	if (!is_told(site)) {
		tell_codes(&at);
		if (!walk->lost)
			tell_site(walk, site);
		if (walk->lost)
			return 0;
	}
	count(WAGGLE_COUNT_CALL_SITES);
	return site;
}

/* A request goes out: keeps the place in the code that made it. */
INLINE void keep_call_site(struct feed *feed, struct http1_head *head,
			   const struct waggle_process *process)
{
	u32 used = head->out_used;
	u64 site;

	if (feed->connection->role != WAGGLE_ROLE_CLIENT || !process ||
	    !(process->mode & WAGGLE_PROCESS_RULE_TASK) || used + 12 > HTTP1_OUT_MAX)
		return;
	site = find_call_site(&feed->scratch->code);
	if (!site)
		return;
	store32(head->out + masked(used, HTTP1_OUT_MASK), WAGGLE_KEPT_CALL_SITE | 8 << 16);
	store64(head->out + masked(used + 4, HTTP1_OUT_MASK), site);
	head->out_used = used + 12;
}

#endif
