/* SPDX-License-Identifier: Apache-2.0
 *
 * Addresses of the kernel's as what lies there: a field is then one load, where reading it by
 * its address is a call.
 */
#ifndef WAGGLE_TYPED_H
#define WAGGLE_TYPED_H

#include "kernel_types.h"

extern void *bpf_rdonly_cast(const void *address, u32 type) __ksym __weak;

/* An argument as what it points to; a field's load cannot fault (Linux 6.2). */
#define TYPED(type, address) \
	((type *)bpf_rdonly_cast((void *)(address), bpf_core_type_id_kernel(type)))

/* Where it is not, such programs shall load all the same: that their hook is missing too says
 * more to whoever asks why. */
INLINE int has_types(void)
{
	return !!bpf_rdonly_cast;
}

#endif
