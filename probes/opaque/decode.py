"""Spans of exchanges within TLS whose plaintext nobody can see: waggle.layout.Protocol.OPAQUE.

Of Java's JSSE, rustls and libraries without names there is only what passes the socket: with whom,
when, and how much. What a span of that is called has no convention, so it says by `waggle.opaque`
that it is none of a known protocol.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from waggle.layout import End, Kept, Protocol
from waggle.probes.http1.decode import tls_attributes
from waggle.spans import (
    END_ERRORS,
    KIND_CLIENT,
    Attributes,
    Decoded,
    Exchange,
    Targets,
    VaryingField,
)

NAME = "TLS exchange"
OPAQUE = "waggle.opaque"
SENT, RECEIVED = "waggle.opaque.sent_bytes", "waggle.opaque.received_bytes"
# To give up what may have been no request is no error.
_NO_ERRORS = (End.LOCAL_CLOSED, End.PROCESS_EXIT)
_INT64_MAX = (1 << 63) - 1


class OpaqueDecoder:
    """Decodes what a client and its server said to each other, unread."""

    protocol: int = Protocol.OPAQUE
    varying: Mapping[int, VaryingField] = {}

    def decode(self, exchange: Exchange) -> Decoded:
        facts = exchange.facts
        attributes: Attributes = {OPAQUE: True}
        address = exchange.text(Kept.HOST) or exchange.peer
        if address is not None:
            attributes["server.address"] = address
            attributes["server.port"] = facts.peer_port
        if exchange.peer is not None:
            attributes["network.peer.address"] = exchange.peer
            attributes["network.peer.port"] = facts.peer_port
        attributes |= tls_attributes(facts)
        attributes[SENT] = min(facts.request_body, _INT64_MAX)
        attributes[RECEIVED] = min(facts.response_body, _INT64_MAX)
        failure = None if facts.end in _NO_ERRORS else END_ERRORS.get(facts.end)
        if failure is None:
            return Decoded(NAME, KIND_CLIENT, attributes)
        attributes["error.type"] = failure[0]
        return Decoded(NAME, KIND_CLIENT, attributes, error=True, status_message=failure[1])

    def plain_targets(self, targets: Targets) -> npt.NDArray[np.bool_]:
        """There is no target."""
        return np.ones(len(targets.starts), np.bool_)


DECODER = OpaqueDecoder()
