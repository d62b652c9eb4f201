"""Requests that wait to be sent, and the account of what became of every span.

Bounded by spans and by bytes. What does not fit is turned away when it arrives ("queue_full"),
so the newest is lost, not the oldest: what was once taken in is never given up for something
newer, so that after an outage exactly the accepted spans arrive, and the request under way never
has to be torn out of the sender's hands. The specification's batch processor does the same.
"""

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol as Interface

from waggle.exporter.base import ExporterStats
from waggle.exporter.otlp_settings import QueueSettings

QUEUE_FULL = "queue_full"
SHUTDOWN = "shutdown"


class Encoded(Interface):
    """One serialized ExportTraceServiceRequest and how many spans are in it."""

    @property
    def payload(self) -> bytes: ...

    @property
    def spans(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Parcel:
    """What goes out in one request. `last` is the number of the newest put() in it."""

    payload: bytes
    spans: int
    last: int


@dataclass(frozen=True, slots=True)
class _Waiting:
    payload: bytes
    spans: int
    number: int
    since: float


class Outbox:
    """A queue for many producers and one sender.

    Every span put in is in exactly one of three places, seen together under one lock: waiting
    (being sent included), exported, or lost by reason.
    """

    def __init__(self, settings: QueueSettings) -> None:
        self._settings = settings
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._spans_waiting = 0  # in _waiting, without the parcel in flight
        self._bytes_waiting = 0
        self._in_flight: Parcel | None = None
        self._last_put = 0
        self._last_finished = 0
        self._hurry_through = 0  # numbers up to this one wait no longer for company
        self._closing = False
        self._stats = ExporterStats()

    def put(self, request: Encoded) -> None:
        """Take a request in, or count its spans as lost. Never waits for the sender."""
        with self._changed:
            if self._closing:
                self._stats.lose(SHUTDOWN, request.spans)
            elif not self._fits(request):
                self._stats.lose(QUEUE_FULL, request.spans)
            else:
                self._append(request)

    def _fits(self, request: Encoded) -> bool:
        spans, size = self._held()
        return (
            spans + request.spans <= self._settings.max_spans
            and size + len(request.payload) <= self._settings.max_bytes
        )

    def _held(self) -> tuple[int, int]:
        """Spans and bytes in our memory, the parcel in flight included."""
        flying = self._in_flight
        if flying is None:
            return self._spans_waiting, self._bytes_waiting
        return self._spans_waiting + flying.spans, self._bytes_waiting + len(flying.payload)

    def _append(self, request: Encoded) -> None:
        self._last_put += 1
        self._waiting.append(
            _Waiting(request.payload, request.spans, self._last_put, time.monotonic())
        )
        self._spans_waiting += request.spans
        self._bytes_waiting += len(request.payload)
        # The sender sleeps by itself until the delay is over: wake it only when there is
        # something to know, the first request or a full parcel.
        if len(self._waiting) == 1 or self._is_full():
            self._changed.notify_all()

    def _is_full(self) -> bool:
        return (
            self._spans_waiting >= self._settings.max_request_spans
            or self._bytes_waiting >= self._settings.max_request_bytes
        )

    def take(self) -> Parcel | None:
        """Wait for the next parcel; None when the outbox is closed and empty.

        The parcel counts as waiting until finish() says what became of it.
        """
        with self._changed:
            while (pause := self._pause_before_next()) != 0.0:
                if self._closing and not self._waiting:
                    return None
                self._changed.wait(pause)
            self._in_flight = self._pack()
            return self._in_flight

    def _pause_before_next(self) -> float | None:
        """Seconds until the oldest request has waited long enough; None: nothing is there."""
        if not self._waiting:
            return None
        oldest = self._waiting[0]
        if self._is_full() or self._closing or oldest.number <= self._hurry_through:
            return 0.0
        return max(0.0, oldest.since + self._settings.delay_s - time.monotonic())

    def _pack(self) -> Parcel:
        """As many requests as fit into one, at least one.

        Serialized messages may simply be joined: an ExportTraceServiceRequest has one repeated
        field, and protobuf defines that joining bytes appends such fields.
        """
        first = self._waiting.popleft()
        members, spans, size = [first], first.spans, len(first.payload)
        while self._waiting:
            following = self._waiting[0]
            spans += following.spans
            size += len(following.payload)
            if spans > self._settings.max_request_spans or size > self._settings.max_request_bytes:
                break
            members.append(self._waiting.popleft())
        payloads = [member.payload for member in members]
        payload = payloads[0] if len(payloads) == 1 else b"".join(payloads)
        parcel = Parcel(payload, sum(member.spans for member in members), members[-1].number)
        self._spans_waiting -= parcel.spans
        self._bytes_waiting -= len(parcel.payload)
        return parcel

    def keeps(self, parcel: Parcel) -> bool:
        """Whether the parcel outlives this process: nothing here does."""
        return False

    def postpone(self, parcel: Parcel) -> bool:
        """Whether the parcel was put behind all others, to be tried again after them."""
        return False

    def room(self) -> str:
        """How much is kept while there is no receiver, for messages."""
        spans, size = self._settings.max_spans, self._settings.max_bytes
        return f"up to {spans:,} {self._settings.noun} ({size >> 20} MiB) are kept meanwhile"

    def finish(self, parcel: Parcel, lost: Mapping[str, int]) -> None:
        """Book the parcel: all of its spans are exported but those in `lost` (reason -> spans).

        One that was abandoned meanwhile is booked already; nothing changes then.
        """
        with self._changed:
            if self._in_flight is not parcel:
                return
            self._in_flight = None
            self._last_finished = parcel.last
            self._stats.exported += parcel.spans - sum(lost.values())
            for reason, spans in lost.items():
                self._stats.lose(reason, spans)
            self._changed.notify_all()

    def hurry(self, timeout_s: float) -> None:
        """Have everything that is in now sent without delay; return when it is booked, or at
        the time's end."""
        with self._changed:
            through = self._hurry_through = self._last_put
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._last_finished >= through, timeout_s)

    def close(self) -> None:
        """Take nothing more in; what waits goes out without delay."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def abandon(self) -> int:
        """Book all that is still here as lost by shutdown; returns how many spans that were."""
        with self._changed:
            self._closing = True
            spans, _ = self._held()
            if spans:
                self._stats.lose(SHUTDOWN, spans)
            self._waiting.clear()
            self._in_flight = None
            self._spans_waiting = self._bytes_waiting = 0
            self._last_finished = self._last_put
            self._changed.notify_all()
            return spans

    def lost_so_far(self) -> int:
        with self._changed:
            return sum(self._stats.lost.values())

    def stats(self) -> ExporterStats:
        """A copy of the account, in which no span is missing or twice."""
        with self._changed:
            spans, _ = self._held()
            return ExporterStats(self._stats.exported, spans, dict(self._stats.lost))
