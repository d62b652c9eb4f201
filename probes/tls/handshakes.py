"""How encrypted connections came about, as events of the spans that came first on them.

The kernel tells it when the first exchange of a connection begins, so always before that
exchange's own record. There is no convention for such events: their names are ours, their
attributes those of the conventions.
https://opentelemetry.io/docs/specs/semconv/registry/attributes/tls/
"""

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from waggle import layout
from waggle.spans import Attributes, Event, Records, SpanBatch

CONNECT, CONNECTED = "waggle.connect.start", "waggle.connect.done"
GREETING, DONE = "waggle.tls.start", "waggle.tls.done"
_TIME = re.compile(r"(\d{2}|\d{4})(\d{2})(\d{2})(\d{2})(\d{2})(\d{2})Z", re.ASCII)
MAX_WAITING = 4096  # whose exchange has not ended yet


class HandshakeRing(Protocol):
    """The ring of handshakes, or what stands in for one."""

    capacity: int

    def fileno(self) -> int: ...

    def pending(self) -> int: ...

    def read(self, max_records: int = ...) -> Records: ...


@dataclass(slots=True)
class HandshakeStats:
    """told: on spans. forgotten: waited too long for theirs, or it never came."""

    told: int = 0
    forgotten: int = 0


class HandshakeNotes:
    """A stage of the pipeline that changes no record, and its notes on spans."""

    def __init__(self, ring: HandshakeRing) -> None:
        self.stats = HandshakeStats()
        self.ring = ring
        self._waiting: OrderedDict[bytes, tuple[Event, ...]] = OrderedDict()

    def poll(self) -> None:
        """Takes the ring before it fills."""
        if self.ring.pending() > self.ring.capacity // 4:
            self._take()

    def process(self, records: Records) -> Sequence[Records]:
        return (records,)

    def annotate(self, batch: SpanBatch) -> SpanBatch:
        """The batch with what is known of its spans' connections."""
        self._take()
        if not self._waiting:
            return batch
        wanted = np.frombuffer(b"".join(self._waiting), np.uint64)
        have = np.ascontiguousarray(batch.records["span_id"]).view(np.uint64).reshape(-1)
        keys = dict.fromkeys(key.tobytes() for key in have[np.isin(have, wanted)])
        if not keys:
            return batch
        self.stats.told += len(keys)
        events = dict(batch.events)
        for key in keys:
            ours = tuple(_in_unix_time(self._waiting.pop(key), batch.clock_offset_ns))
            events[key] = (*ours, *events.get(key, ()))
        return replace(batch, events=events)

    def losses(self) -> dict[str, int]:
        """Handshakes that were told of spans which never came, or too late; by reason."""
        return {"handshake_forgotten": self.stats.forgotten} if self.stats.forgotten else {}

    def _take(self) -> None:
        left = self.ring.pending()
        while left > 0 and len(records := self.ring.read(left)):
            left -= len(records)
            for record in records:
                self._waiting[record["span_id"].tobytes()] = events_of(record)
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)
            self.stats.forgotten += 1


def events_of(record: np.void) -> tuple[Event, ...]:
    """What a record of layout.HANDSHAKE says, in its order; times are CLOCK_MONOTONIC."""
    done = int(record["done_ns"])
    spoken = _spoken(record)
    moments: list[tuple[str, int, Attributes]] = [
        (CONNECT, int(record["connect_ns"]), {}),
        (CONNECTED, int(record["connected_ns"]), {}),
        (GREETING, int(record["hello_ns"]), {} if done else spoken),
        (DONE, done, spoken),
    ]
    return tuple(Event(name, at, attributes) for name, at, attributes in moments if at)


def _spoken(record: np.void) -> Attributes:
    """What the greetings said in the clear."""
    attributes: Attributes = {}
    if version := int(record["version"]):
        attributes["tls.protocol.name"] = "tls"
        attributes["tls.protocol.version"] = f"1.{version - 1}"
    if name := _text(record, "name"):
        attributes["server.address"] = name
    if protocol := _text(record, "protocol"):
        attributes["tls.next_protocol"] = protocol.lower()
    if not_after := _time(_text(record, "not_after")):
        attributes["tls.server.not_after"] = not_after
    return attributes


def _time(text: str) -> str | None:
    """ISO 8601 of a time as certificates have it (RFC 5280, section 4.1.2.5); None when it is none.

    Years of two digits are from 1950 to 2049.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = found.groups()
    if len(year) == 2:
        year = ("19" if year >= "50" else "20") + year
    return f"{year}-{month}-{day}T{hour}:{minute}:{second}.000Z"


def _text(record: np.void, field: str) -> str:
    size = min(int(record[f"{field}_length"]), layout.HANDSHAKE[field].itemsize)
    raw: bytes = record[field].tobytes()[:size]
    return raw.decode("utf-8", "replace")


def _in_unix_time(events: Sequence[Event], offset_ns: int) -> Sequence[Event]:
    return [replace(event, unix_ns=event.unix_ns + offset_ns) for event in events]
