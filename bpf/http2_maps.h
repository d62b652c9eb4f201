/* SPDX-License-Identifier: Apache-2.0
 *
 * What is kept of HTTP/2 connections and their streams, and its bounds.
 */
#ifndef WAGGLE_HTTP2_MAPS_H
#define WAGGLE_HTTP2_MAPS_H

#include "maps.h"

/* Everything that changes an HPACK table, in the order of the wire. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2 << 20);
} table_ring SEC(".maps");

#endif
