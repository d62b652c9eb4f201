"""Handshakes as events of the first spans of their connections."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import opentelemetry.semconv._incubating.attributes.tls_attributes as published
import pytest

from unit.records import batch, record
from waggle import layout
from waggle.probes.tls import handshakes
from waggle.probes.tls.handshakes import HandshakeNotes
from waggle.spans import Event, Records, decode_span


class FakeRing:
    """Holds what it was given until it is read."""

    capacity = 400

    def __init__(self) -> None:
        self.records = np.zeros(0, layout.HANDSHAKE)

    def fileno(self) -> int:
        return -1

    def pending(self) -> int:
        return len(self.records)

    def read(self, max_records: int = 1 << 30) -> Records:
        taken, self.records = self.records[:max_records], self.records[max_records:]
        return taken

    def give(self, *rows: Records) -> None:
        self.records = np.concatenate([self.records, *rows])


def told(span: int, name: bytes = b"shop.test", protocol: bytes = b"h2", **more: Any) -> Records:
    row = np.zeros(1, layout.HANDSHAKE)
    row["span_id"][0] = np.frombuffer(span.to_bytes(8, "big"), np.uint8)
    for field, text in (("name", name), ("protocol", protocol)):
        row[field][0, : len(text)] = np.frombuffer(text, np.uint8)
        row[f"{field}_length"] = len(text)
    defaults = {"connect_ns": 10, "connected_ns": 20, "hello_ns": 30, "done_ns": 40, "version": 3}
    for field, value in {**defaults, **more}.items():
        row[field] = value
    return row


def spans(*numbers: int) -> list[Records]:
    return [record(span_id=number.to_bytes(8, "big")) for number in numbers]


def events(notes: HandshakeNotes, rows: Sequence[Records]) -> list[tuple[Event, ...]]:
    annotated = notes.annotate(batch(rows, clock_offset_ns=1000))
    return [decode_span(annotated, row).events for row in range(len(rows))]


def test_the_first_span_tells() -> None:
    """Of several spans just the one that the kernel named has the events, in Unix time."""
    ring = FakeRing()
    notes = HandshakeNotes(ring)
    ring.give(told(7))
    first, second = events(notes, spans(7, 8))
    assert [(event.name, event.unix_ns) for event in first] == [
        (handshakes.CONNECT, 1010),
        (handshakes.CONNECTED, 1020),
        (handshakes.GREETING, 1030),
        (handshakes.DONE, 1040),
    ]
    assert second == ()
    assert first[-1].attributes == {
        published.TLS_PROTOCOL_NAME: "tls",
        published.TLS_PROTOCOL_VERSION: "1.2",
        published.TLS_NEXT_PROTOCOL: "h2",
        "server.address": "shop.test",
    }
    assert events(notes, spans(7)) == [()]


def test_what_was_not_seen_is_not_told() -> None:
    """A time of 0 is no event; what the greetings said is then told with the first of them."""
    ring = FakeRing()
    ring.give(told(7, b"", b"", connect_ns=0, connected_ns=0, done_ns=0))
    [first] = events(HandshakeNotes(ring), spans(7))
    assert [(event.name, event.attributes[published.TLS_PROTOCOL_VERSION]) for event in first] == [
        (handshakes.GREETING, "1.2")
    ]
    assert set(first[0].attributes) == {
        published.TLS_PROTOCOL_NAME,
        published.TLS_PROTOCOL_VERSION,
    }


def test_lengths_are_not_trusted() -> None:
    """A length beyond its field shows the field."""
    ring = FakeRing()
    ring.give(told(7, name_length=255, protocol_length=255))
    [first] = events(HandshakeNotes(ring), spans(7))
    assert str(first[-1].attributes["server.address"]).startswith("shop.test")


def test_other_events_stay() -> None:
    """A span that has events already keeps them, behind these."""
    ring = FakeRing()
    notes = HandshakeNotes(ring)
    ring.give(told(7))
    given = batch(spans(7))
    key = (7).to_bytes(8, "big")
    other = Event("exception", 5000)
    given = type(given)(
        given.records, given.resources, given.table, given.clock_offset_ns, {key: (other,)}
    )
    annotated = decode_span(notes.annotate(given), 0)
    assert len(annotated.events) == 5
    assert annotated.events[-1] == other


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans that never come cost no more than so much memory, and that is counted."""
    monkeypatch.setattr(handshakes, "MAX_WAITING", 3)
    ring = FakeRing()
    notes = HandshakeNotes(ring)
    ring.give(*(told(number) for number in range(1, 6)))
    found = events(notes, spans(1, 2, 3, 4, 5))
    assert [len(some) for some in found] == [0, 0, 4, 4, 4]
    assert notes.losses() == {"handshake_forgotten": 2}


def test_a_full_ring_is_taken_early() -> None:
    """The ring does not fill up while no span comes."""
    ring = FakeRing()
    notes = HandshakeNotes(ring)
    ring.give(*(told(number) for number in range(1, 102)))
    notes.poll()
    assert ring.pending() == 0
    assert len(events(notes, spans(50))[0]) == 4


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (b"261122090000Z", "2026-11-22T09:00:00.000Z"),
        (b"501231235959Z", "1950-12-31T23:59:59.000Z"),
        (b"99991231235959Z", "9999-12-31T23:59:59.000Z"),
        (b"2611220900+01", None),
    ],
)
def test_expiry_of_the_certificate(written: bytes, meant: str | None) -> None:
    """When the server's certificate expires is told as the conventions have it, if it is a time."""
    row = told(7)
    row["not_after"][0, : len(written)] = np.frombuffer(written, np.uint8)
    row["not_after_length"] = len(written)
    last = handshakes.events_of(row[0])[-1]
    assert last.attributes.get(published.TLS_SERVER_NOT_AFTER) == meant
