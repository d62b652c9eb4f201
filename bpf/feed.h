/* SPDX-License-Identifier: Apache-2.0
 *
 * The one function in which all flavours of capture meet: some bytes of one
 * direction of a connection, with their position in the stream.
 */
#ifndef WAGGLE_FEED_H
#define WAGGLE_FEED_H

#include "maps.h"

enum direction { RECEIVED = 0, SENT = 1 };

/* What a hook knows of a socket at the moment of a call. */
struct endpoint {
	u64 sock; /* also the key in `connections` */
	u32 sent_base;
	u32 received_base;
	u32 position; /* sequence number of the call's first byte */
	u16 family;
	u8 blocking;
	u8 shutdown;
};

/* What the parser is given. On the stack, since the verifier must know the pointers;
 * everything else of a call is in scratch->state. */
struct feed {
	struct connection *connection;
	struct http1_stream *stream;
	struct scratch *scratch;
	u64 sock;
	u32 tgid;
	u32 tid;
	u32 sent; /* enum direction */
	u32 reserved;
};

INLINE int feed_is_request(const struct feed *feed)
{
	return feed->connection->role == (feed->sent ? WAGGLE_ROLE_CLIENT : WAGGLE_ROLE_SERVER);
}

INLINE struct http1_stream *request_stream(struct connection *connection)
{
	return connection->role == WAGGLE_ROLE_CLIENT ? &connection->sent : &connection->received;
}

INLINE struct http1_stream *response_stream(struct connection *connection)
{
	return connection->role == WAGGLE_ROLE_CLIENT ? &connection->received : &connection->sent;
}

INLINE u32 open_requests(const struct connection *connection)
{
	return connection->requests - connection->responses;
}

#endif
