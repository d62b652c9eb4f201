/* SPDX-License-Identifier: Apache-2.0
 *
 * The socket under a net.Conn, and under those that have one while they live: net/http's and
 * grpc's transports.
 */
#ifndef WAGGLE_GO_SOCKETS_H
#define WAGGLE_GO_SOCKETS_H

#include "fd_socket.h"
#include "go.h"

#define GO_WRAPPERS 3 /* connections in connections */
#define GO_CLOSED 1   /* of internal/poll.fdMutex.state, a descriptor's first word: since Go 1.9 */

/* The socket under a net.Conn whose two words are at `address`. A wrapper (tls.Conn, a
 * buffered connection) begins with the net.Conn it wraps: with an address in the program. */
OUT_OF_LINE u64 socket_of_conn(const struct waggle_go *go, u64 address)
{
	u64 connection = word_at(address + GO_INTERFACE_DATA), first = 0, family, sock;

	for (int i = 0; i < GO_WRAPPERS; i++) {
		first = connection ? word_at(connection) : 0;
		if (first < go->low || first >= go->high)
			break;
		connection = word_at(connection + GO_INTERFACE_DATA);
		first = 0;
	}
	if (!first)
		return 0;
	/* A net.netFD: it says its family, and the kernel's socket must be of the same. */
	family = word_at(first + go->family);
	sock = socket_of_fd((u32)word_at(first + go->descriptor));
	if (!sock || family_of(sock) != family)
		return 0;
	/* Last: before a descriptor is closed this is set, and after that it may be another's. */
	if (word_at(first) & GO_CLOSED)
		return 0;
	return sock;
}

#define TRANSPORT_USES 64 /* before its socket is looked for again; a power of two */

/* Where a connection's two streams begin: no other has both at the same bytes. 0: not known. */
INLINE u64 bases_of(u64 sock)
{
	struct connection *connection = sock ? bpf_map_lookup_elem(&connections, &sock) : 0;

	if (!connection || connection->family == AF_UNIX || !connection->sent.started)
		return 0;
	return (u64)connection->sent_base << 32 | connection->received_base;
}

/* The socket on which `sender`, a net/http.persistConn or a grpc http2Client, sends requests. It
 * has one net.Conn while it lives, at `conn` from its beginning, so where the socket that was found
 * by the program's memory and the kernel's still has the same connection, it is the one: before
 * its memory can be another's that is closed. */
OUT_OF_LINE u64 socket_of_sender(const struct waggle_go *go, u64 sender, u32 conn)
{
	struct go_transport_key key = { .address = sender, .epoch = go->epoch };
	struct go_transport *known = bpf_map_lookup_elem(&go_transports, &key), fresh = {};

	if (known && ++known->uses & (TRANSPORT_USES - 1) &&
	    known->connection == bases_of(known->sock))
		return known->sock;
	fresh.sock = socket_of_conn(go, sender + conn);
	fresh.connection = bases_of(fresh.sock);
	if (fresh.connection)
		bpf_map_update_elem(&go_transports, &key, &fresh, BPF_ANY);
	return fresh.sock;
}

/* The socket on which this stream of a grpc http2Server is. Found once by the program's memory and
 * the kernel's: a connection's transport has no other, so where that socket still has the same
 * connection, and on it this stream, which nobody has begun to serve, it is the one. */
OUT_OF_LINE u64 socket_of_transport(const struct waggle_go *go, u64 transport, u32 stream)
{
	struct go_transport_key key = { .address = transport, .epoch = go->epoch };
	struct go_transport *known = bpf_map_lookup_elem(&go_transports, &key), fresh = {};
	struct open_stream *open;

	if (known && ++known->uses & (TRANSPORT_USES - 1)) {
		open = find_stream(known->sock, stream);
		if (open && open->stream.connection == known->connection && !open->stream.handler)
			return known->sock;
	}
	fresh.sock = socket_of_conn(go, transport + go->grpc_conn);
	open = fresh.sock ? find_stream(fresh.sock, stream) : 0;
	if (open) {
		fresh.connection = open->stream.connection;
		bpf_map_update_elem(&go_transports, &key, &fresh, BPF_ANY);
	}
	return fresh.sock;
}

#endif
