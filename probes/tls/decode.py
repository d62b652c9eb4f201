"""Spans of TLS handshakes that failed: waggle.layout.Protocol.TLS.

What is inside a connection whose handshake succeeded is the business of its protocol. There is
no convention for a span of a handshake, so only its attributes are those of the conventions:
https://opentelemetry.io/docs/specs/semconv/registry/attributes/tls/
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from waggle.layout import Kept, Protocol, Role
from waggle.probes.http1.decode import tls_attributes
from waggle.spans import (
    KIND_CLIENT,
    KIND_SERVER,
    Attributes,
    Decoded,
    Exchange,
    Targets,
    VaryingField,
    connection_address,
)

NAME = "TLS handshake"
_OTHER = "_OTHER"  # the conventions' value of error.type for what has no name
# https://www.iana.org/assignments/tls-parameters, "TLS Alerts".
ALERTS: Mapping[int, str] = {
    10: "unexpected_message",
    20: "bad_record_mac",
    22: "record_overflow",
    40: "handshake_failure",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",
    90: "user_canceled",
    109: "missing_extension",
    110: "unsupported_extension",
    112: "unrecognized_name",
    113: "bad_certificate_status_response",
    115: "unknown_psk_identity",
    116: "certificate_required",
    120: "no_application_protocol",
}


class TlsDecoder:
    """Decodes handshakes that an alert ended."""

    protocol: int = Protocol.TLS
    varying: Mapping[int, VaryingField] = {}

    def decode(self, exchange: Exchange) -> Decoded:
        facts = exchange.facts
        alert = ALERTS.get(facts.status)
        attributes: Attributes = {"tls.established": False, "error.type": alert or _OTHER}
        attributes |= tls_attributes(facts)
        if exchange.peer is not None:
            attributes["network.peer.address"] = exchange.peer
            attributes["network.peer.port"] = facts.peer_port
        is_server = facts.role == Role.SERVER
        own = connection_address(facts, facts.local_addr) if is_server else exchange.peer
        address = exchange.text(Kept.HOST) or own
        if address is not None:
            attributes["server.address"] = address
            attributes["server.port"] = facts.local_port if is_server else facts.peer_port
        told = alert or "an alert that is encrypted itself"
        kind = KIND_SERVER if is_server else KIND_CLIENT
        return Decoded(
            NAME, kind, attributes, error=True, status_message=f"handshake failed: {told}"
        )

    def plain_targets(self, targets: Targets) -> npt.NDArray[np.bool_]:
        """There is no target."""
        return np.ones(len(targets.starts), np.bool_)


DECODER = TlsDecoder()
