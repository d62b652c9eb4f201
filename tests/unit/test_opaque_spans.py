"""Spans of encrypted exchanges that nobody can read."""

from typing import Any

import pytest
from opentelemetry.proto.trace.v1 import trace_pb2

from unit.otlp_messages import expected, received
from unit.records import batch, record
from waggle.exporter.encoding import OtlpEncoder
from waggle.layout import End, Flag, Kept, Protocol, Role, Version
from waggle.spans import KIND_CLIENT, Records, Span, decode_span


def exchange(kept: dict[Kept, bytes], **columns: Any) -> Records:
    fixed = {
        "protocol": Protocol.OPAQUE,
        "method": 0,
        "status": 0,
        "role": Role.CLIENT,
        "flags": Flag.TLS,
        "version": 4 << Version.TLS_SHIFT,
        "peer": "192.0.2.7",
        "peer_port": 8443,
    }
    return record(b"", kept, **{**fixed, **columns})


def span_of(kept: dict[Kept, bytes], **columns: Any) -> Span:
    return decode_span(batch([exchange(kept, **columns)]), 0)


def test_it_says_what_it_is() -> None:
    """A client's span that says it is opaque: with whom, by what, how much each way; no more."""
    span = span_of({Kept.HOST: b"shop.test"}, request_body=120, response_body=688)
    assert (span.name, span.kind, span.error) == ("TLS exchange", KIND_CLIENT, False)
    assert {name: value for name, value in span.attributes.items() if "link" not in name} == {
        "waggle.opaque": True,
        "server.address": "shop.test",
        "server.port": 8443,
        "network.peer.address": "192.0.2.7",
        "network.peer.port": 8443,
        "tls.protocol.name": "tls",
        "tls.protocol.version": "1.3",
        "waggle.opaque.sent_bytes": 120,
        "waggle.opaque.received_bytes": 688,
    }


def test_a_server_without_a_name() -> None:
    """Where the greeting names nobody, the address of the peer does."""
    assert span_of({}).attributes["server.address"] == "192.0.2.7"


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (End.DONE, None),
        (End.LOCAL_CLOSED, None),
        (End.PROCESS_EXIT, None),
        (End.RESET, "ECONNRESET"),
        (End.TIMED_OUT, "ETIMEDOUT"),
        (End.PEER_CLOSED, "connection_closed"),
    ],
)
def test_ends(end: End, error: str | None) -> None:
    """What the other end did not answer is an error; what this one gave up may be none."""
    span = span_of({}, end=end)
    assert (span.error, span.attributes.get("error.type")) == (error is not None, error)


def test_by_columns() -> None:
    """Many at once are the same spans as each by itself, and take no slow way."""
    rows = [
        exchange({Kept.HOST: b"shop.test"}, request_body=n, response_body=7 * n, local_port=n + 1)
        for n in range(200)
    ]
    encoder, given = OtlpEncoder(), batch(rows)
    messages = [trace_pb2.TracesData.FromString(one.payload) for one in encoder.encode(given)]
    assert received(messages) == expected(given)
    assert encoder.stats().hits == len(rows)
