/* SPDX-License-Identifier: Apache-2.0
 *
 * Words in the memory of the program that runs, whose objects Python's, Go's, Java's and TLS
 * libraries' probes follow from pointer to pointer.
 */
#ifndef WAGGLE_USER_MEMORY_H
#define WAGGLE_USER_MEMORY_H

#include "portable.h"

/* 0 where there is none. */
INLINE u64 word_at(u64 address)
{
	u64 word = 0;

	bpf_probe_read_user(&word, sizeof(word), (void *)address);
	return word;
}

#endif
