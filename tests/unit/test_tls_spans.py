"""Spans of TLS handshakes that failed, and what spans of encrypted requests say of TLS."""

from typing import Any

import opentelemetry.semconv._incubating.attributes.tls_attributes as published
import pytest

from unit.records import batch, record
from waggle.layout import Flag, Kept, Protocol, Role, Version
from waggle.probes.tls.decode import ALERTS
from waggle.spans import KIND_CLIENT, KIND_SERVER, Records, Span, decode_span

NAMED = {Kept.HOST: b"shop.test"}


def failed(kept: dict[Kept, bytes], **columns: Any) -> Records:
    return record(
        b"", kept, protocol=Protocol.TLS, method=0, flags=Flag.TLS, response_ns=0, **columns
    )


def span_of(kept: dict[Kept, bytes], **columns: Any) -> Span:
    return decode_span(batch([failed(kept, **columns)]), 0)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_the_error(alert: int) -> None:
    """A handshake that an alert ended is an error that has the alert's name."""
    span = span_of(NAMED, role=Role.CLIENT, status=alert, peer="192.0.2.7", peer_port=443)
    assert (span.name, span.kind) == ("TLS handshake", KIND_CLIENT)
    assert span.error
    assert span.status_message == f"handshake failed: {ALERTS[alert]}"
    assert span.attributes["error.type"] == ALERTS[alert]
    assert span.attributes[published.TLS_ESTABLISHED] is False
    assert span.attributes["server.address"] == "shop.test"
    assert span.attributes["server.port"] == 443
    assert span.attributes["network.peer.address"] == "192.0.2.7"


def test_an_alert_that_nobody_could_read() -> None:
    """Where the alert itself was encrypted, that is said and nothing is guessed."""
    span = span_of({}, role=Role.SERVER, status=0, local="192.0.2.7", local_port=443)
    assert span.kind == KIND_SERVER
    assert (span.error, span.attributes["error.type"]) == (True, "_OTHER")
    assert (span.attributes["server.address"], span.attributes["server.port"]) == ("192.0.2.7", 443)


@pytest.mark.parametrize(("minor", "name"), [(1, "1.0"), (2, "1.1"), (3, "1.2"), (4, "1.3")])
@pytest.mark.parametrize("version", [10, 11])
def test_a_request_tells_its_tls(minor: int, name: str, version: int) -> None:
    """The version of TLS and that of HTTP share a byte, and neither hides the other."""
    both = version | minor << Version.TLS_SHIFT
    span = decode_span(batch([record(flags=Flag.TLS, version=both)]), 0)
    assert span.attributes["network.protocol.version"] == f"1.{version - 10}"
    assert span.attributes[published.TLS_PROTOCOL_NAME] == "tls"
    assert span.attributes[published.TLS_PROTOCOL_VERSION] == name
    assert span.attributes["url.scheme"] == "https"


def test_requests_in_the_clear_say_nothing_of_tls() -> None:
    """What was not encrypted has no attribute of TLS."""
    span = decode_span(batch([record()]), 0)
    assert not [name for name in span.attributes if name.startswith("tls.")]
    assert span.attributes["url.scheme"] == "http"
