"""Spans to a Collector, by OTLP over HTTP or gRPC.

The pipeline's thread encodes and puts ready bytes into an outbox; one thread of ours sends them,
one request at a time, and tries again for as long as there is hope. A request that may have
arrived although its answer was lost is sent again: spans arrive at least once.
"""

import contextlib
import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol as Interface

from waggle.exporter.base import ExporterStats
from waggle.exporter.otlp_answer import Accepted, Answer, Refused, Transport, TryAgain
from waggle.exporter.otlp_settings import Backoff, OtlpSettings, Protocol, QueueSettings
from waggle.exporter.outbox import Encoded, Outbox, Parcel
from waggle.exporter.signals import TRACES
from waggle.exporter.spool import Spool
from waggle.spans import SpanBatch

REJECTED = "rejected"
EXPIRED = "expired"
INTERNAL_ERROR = "internal_error"
REMARKS_AT_MOST = 20  # different complaints that are repeated to the user
MOST_DOUBLINGS = 30  # of the back-off's wait; the longest wait is reached long before
# close() gives up on an endpoint where nobody has listened for so long: what restarts is back
# within it as a rule, and who pressed Ctrl-C does not wait for what is not there.
NOBODY_FOR_S = 2.0
# What close() grants the sender's thread after it was told to stop.
THREAD_END_S = 1.0

REMEDIES = {
    "refused_401": "check OTEL_EXPORTER_OTLP_HEADERS",
    "refused_403": "check OTEL_EXPORTER_OTLP_HEADERS",
    "refused_404": "check the endpoint's path; OTLP over HTTP is /v1/traces",
    "refused_413": "lower OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "refused_415": "check OTEL_EXPORTER_OTLP_PROTOCOL and the endpoint's port",
    "refused_unauthenticated": "check OTEL_EXPORTER_OTLP_HEADERS",
    "refused_permission_denied": "check OTEL_EXPORTER_OTLP_HEADERS",
    "refused_resource_exhausted": "lower OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "refused_unimplemented": "check the endpoint's port; OTLP over gRPC is usually 4317",
}


class AnyOutbox(Interface):
    """What a sender needs of an Outbox, in memory or with a disk behind it."""

    def put(self, request: Encoded) -> None: ...
    def take(self) -> Parcel | None: ...
    def keeps(self, parcel: Parcel) -> bool: ...
    def postpone(self, parcel: Parcel) -> bool: ...
    def room(self) -> str: ...
    def finish(self, parcel: Parcel, lost: Mapping[str, int]) -> None: ...
    def hurry(self, timeout_s: float) -> None: ...
    def close(self) -> None: ...
    def abandon(self) -> int: ...
    def lost_so_far(self) -> int: ...
    def stats(self) -> ExporterStats: ...


class Encoder(Interface):
    """Makes serialized ExportTraceServiceRequests of a batch."""

    def encode(self, batch: SpanBatch) -> Sequence[Encoded]: ...


def _silent(_text: str) -> None:
    """For those who want no events."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a sender's requests go. name: of the exporter, in summaries; shown: for messages."""

    name: str
    shown: str
    transport: Transport
    queue: QueueSettings
    backoff: Backoff = field(default_factory=Backoff)
    remedies: Mapping[str, str] = field(default_factory=dict)  # reason of a loss -> what to do
    noun: str = TRACES.noun  # what is sent, for messages


class SendingExporter:
    """Encodes batches and sends the bytes from a thread of its own.

    Losses by reason: "queue_full" (more waited than the bounds allow), "expired" (tried for too
    long), "refused_<code>" (the receiver will never take it: an HTTP status, or a gRPC status in
    lower case), "rejected" (partial success), "shutdown" (still here when close() ran out of
    time, or handed over after it), "internal_error" (a fault of ours, reported as an event).
    With a spool also "spool_corrupt" and "spool_truncated" (damaged on disk).
    """

    def __init__(
        self,
        destination: Destination,
        encoder: Encoder | None,
        on_event: Callable[[str], None] = _silent,
        spool: Spool | None = None,
    ) -> None:
        """encoder: of what export() is given; None where all comes by send(). on_event: called
        from the sender's thread with one line when sending begins to fail, when it works again,
        and at the first of each kind of refusal. spool: keeps what was not sent; ours from now on.

        Nothing is sent and no thread runs before the first export() or begin(): a thread started
        earlier would keep privileges that the process has dropped since.
        """
        self.name = destination.name
        # OTEL_BSP_SCHEDULE_DELAY, for the pipeline too
        self.patience_s = destination.queue.delay_s
        self.most = destination.queue.max_spans
        self._encoder = encoder
        self._outbox: AnyOutbox = _make_outbox(destination.queue, spool)
        self._sender = _Sender(destination, self._outbox, on_event)
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None

    def export(self, batch: SpanBatch) -> None:
        """Encode the batch and leave its bytes for the sender."""
        assert self._encoder is not None  # whoever exports batches has one
        self.send(self._encoder.encode(batch))

    def send(self, requests: Iterable[Encoded]) -> None:
        """Leave requests that are encoded already for the sender."""
        for request in requests:
            self._outbox.put(request)
        self._ensure_thread()

    def begin(self) -> None:
        """Send what an earlier run has left in the spool, without waiting for a first span."""
        self._ensure_thread()

    def _ensure_thread(self) -> threading.Thread:
        with self._start:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._sender.run, name=f"waggle-{self.name}", daemon=True
                )
                self._thread.start()
            return self._thread

    def flush(self, timeout_s: float) -> None:
        """Send what is here without waiting for more; returns when that is done, or in time."""
        self._outbox.hurry(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Send what is left for up to timeout_s; what remains is lost as "shutdown".

        Where nobody has listened for NOBODY_FOR_S, it ends after one more attempt. Takes at most
        THREAD_END_S longer than timeout_s.
        """
        thread = self._ensure_thread()
        self._outbox.close()
        self._sender.last_chance.set()
        thread.join(timeout_s)
        # In this order: what the sender gives up because of `stop` must be booked by then.
        self._outbox.abandon()
        self._sender.stop.set()
        self._sender.transport.abort()
        thread.join(THREAD_END_S)
        self._sender.reporter.kept(self._outbox.stats().kept)

    def stats(self) -> ExporterStats:
        return self._outbox.stats()

    def trouble(self) -> str | None:
        """What keeps it from delivering, in words, and for how long; None when nothing does."""
        return self._sender.reporter.trouble()


class OtlpExporter(SendingExporter):
    """The exporter that OTEL_EXPORTER_OTLP_ENDPOINT or `--otlp` asks for."""

    def __init__(
        self,
        settings: OtlpSettings,
        encoder: Encoder,
        on_event: Callable[[str], None] = _silent,
        spool: Spool | None = None,
    ) -> None:
        """Raises UsageError when a TLS file cannot be used."""
        destination = Destination(
            "otlp",
            shown_endpoint(settings),
            make_transport(settings),
            settings.queue,
            settings.backoff,
            REMEDIES,
        )
        super().__init__(destination, encoder, on_event, spool)


def _make_outbox(settings: QueueSettings, spool: Spool | None) -> AnyOutbox:
    if spool is None:
        return Outbox(settings)
    from waggle.exporter.spooled_outbox import SpooledOutbox

    return SpooledOutbox(settings, spool)


def make_transport(settings: OtlpSettings) -> Transport:
    """What speaks the protocol of the settings. Raises UsageError for a bad TLS file."""
    # Each is imported only when it is used: grpcio alone costs tens of milliseconds and MBs.
    if settings.protocol is Protocol.GRPC:
        from waggle.exporter.otlp_grpc import GrpcTransport

        return GrpcTransport(settings)
    from waggle.exporter.otlp_http import HttpTransport

    return HttpTransport(settings)


class _Sender:
    """The thread that empties the outbox."""

    def __init__(
        self,
        destination: Destination,
        outbox: AnyOutbox,
        on_event: Callable[[str], None],
    ) -> None:
        self.transport = destination.transport
        self.last_chance = threading.Event()  # cuts a pause short, once: close() was called
        self.stop = threading.Event()  # ends the thread
        self._outbox = outbox
        self._pauses = _Pauses(destination.backoff)
        self._absence = _Absence()
        self._keep_trying_s = destination.queue.keep_trying_s
        self.reporter = _Reporter(destination, outbox, on_event)

    def run(self) -> None:
        try:
            while not self.stop.is_set() and (parcel := self._outbox.take()) is not None:
                lost = self._deliver_or_lose(parcel)
                if lost is not None:
                    self._outbox.finish(parcel, lost)
        finally:
            self.transport.close()

    def _deliver_or_lose(self, parcel: Parcel) -> Mapping[str, int] | None:
        try:
            return self._deliver(parcel)
        except Exception as error:  # a fault of ours must cost one parcel, not all that follow
            self.reporter.internal_error(error)
            return {INTERNAL_ERROR: parcel.spans}

    def _deliver(self, parcel: Parcel) -> Mapping[str, int] | None:
        """Try until it is decided; returns what was lost by reason, None when nothing was."""
        give_up_at = time.monotonic() + self._keep_trying_s
        while True:
            closing = self.last_chance.is_set()
            answer = self.transport.send(parcel.payload)
            self._absence.note(answer)
            if not isinstance(answer, TryAgain):
                break
            if closing and self._leave(parcel, answer):
                return None
            pause = self._pauses.after_failure(answer.after_s)
            if time.monotonic() + pause > give_up_at:
                if self._outbox.postpone(parcel):
                    return None
                self.reporter.expired(answer)
                return {EXPIRED: parcel.spans}
            self.reporter.failing(answer)
            if self._wait(pause, ordered=answer.after_s is not None):
                return None  # stopped: abandon() has booked the parcel
        self._pauses.reset()
        self.reporter.answered()
        return self._book(parcel, answer)

    def _leave(self, parcel: Parcel, answer: TryAgain) -> bool:
        """Whether the end of the agent has nothing to wait for here: the parcel is on disk, for
        the next run, or nobody is there."""
        if self._outbox.keeps(parcel):
            self.stop.set()
            return True
        if self._absence.proven():
            self.reporter.nobody_there(answer, self._outbox.abandon())
            return True
        return False

    def _book(self, parcel: Parcel, answer: Accepted | Refused) -> Mapping[str, int]:
        if isinstance(answer, Refused):
            self.reporter.refused(answer)
            return {f"refused_{answer.code}": parcel.spans}
        self.reporter.remark(answer)
        rejected = min(answer.rejected, parcel.spans)
        return {REJECTED: rejected} if rejected else {}

    def _wait(self, pause_s: float, *, ordered: bool) -> bool:
        """Pause before the next attempt; True when the thread is to end.

        close() cuts a pause of our own making short, since there may be no other chance; one
        that the receiver ordered is kept.
        """
        if ordered:
            return self.stop.wait(pause_s)
        if self.last_chance.is_set():
            return self.stop.wait(min(pause_s, self._absence.left_s()))
        self.last_chance.wait(pause_s)
        return self.stop.is_set()


class _Pauses:
    """How long to wait after each failure in a row."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._failures = 0

    def after_failure(self, asked_s: float | None) -> float:
        """Seconds; what the receiver asked for goes before our own doubling.

        The jitter keeps agents that lost the same receiver from coming back as one.
        """
        doublings = min(self._failures, MOST_DOUBLINGS)
        self._failures += 1
        if asked_s is not None:
            floor = self._backoff.first_s / 2
            return max(asked_s * random.uniform(1.0, 1.1), floor)  # noqa: S311
        longest = min(self._backoff.first_s * 2.0**doublings, self._backoff.longest_s)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311

    def reset(self) -> None:
        self._failures = 0


class _Absence:
    """For how long nobody has been at the endpoint."""

    def __init__(self) -> None:
        self._since: float | None = None

    def note(self, answer: Answer) -> None:
        if not (isinstance(answer, TryAgain) and answer.nobody):
            self._since = None
        elif self._since is None:
            self._since = time.monotonic()

    def proven(self) -> bool:
        return self._since is not None and self.left_s() == 0.0

    def left_s(self) -> float:
        """Seconds until it is proven, if nobody comes; infinite while somebody is there."""
        if self._since is None:
            return math.inf
        return max(0.0, self._since + NOBODY_FOR_S - time.monotonic())


class _Reporter:
    """Turns what happens into few lines for the user: changes, never single attempts."""

    def __init__(
        self, destination: Destination, outbox: AnyOutbox, on_event: Callable[[str], None]
    ) -> None:
        self._endpoint = destination.shown
        self._noun = destination.noun
        self._remedies = destination.remedies
        self._outbox = outbox
        self._listener = on_event
        self._failing_since: float | None = None
        self._reason = ""
        self._refusal = ""  # of what was sent last
        self._lost_before = 0
        self._said: set[str] = set()

    def trouble(self) -> str | None:
        """Read from other threads than the sender's."""
        since, reason = self._failing_since, self._reason
        if self._refusal:
            return self._refusal
        return None if since is None else f"{reason}, for {time.monotonic() - since:.0f} s"

    def failing(self, answer: TryAgain) -> None:
        self._reason = answer.reason
        if self._failing_since is not None:
            return
        self._failing_since = time.monotonic()
        self._lost_before = self._outbox.lost_so_far()
        self._say(
            f"cannot send {self._noun} to {self._endpoint}: {answer.reason}; trying again, "
            f"{self._outbox.room()}"
        )

    def answered(self) -> None:
        if self._failing_since is None:
            return
        away_s = time.monotonic() - self._failing_since
        lost = self._outbox.lost_so_far() - self._lost_before
        self._failing_since = None
        self._say(
            f"{self._endpoint} takes {self._noun} again after {away_s:.1f} s"
            + (f"; {lost:,} {self._noun} were lost meanwhile" if lost else "; none were lost")
        )

    def expired(self, answer: TryAgain) -> None:
        self._once(
            EXPIRED,
            f"gave up on {self._noun} that {self._endpoint} did not take in time: {answer.reason}; "
            "OTEL_BSP_EXPORT_TIMEOUT says for how long to try",
        )

    def kept(self, spans: int) -> None:
        if spans:
            self._say(
                f"{spans:,} {self._noun} for {self._endpoint} are left on disk for the next run"
            )

    def nobody_there(self, answer: TryAgain, spans: int) -> None:
        if spans:
            self._say(
                f"gave up on {self._endpoint}: {answer.reason}; {spans:,} {self._noun} are lost"
            )

    def refused(self, answer: Refused) -> None:
        reason = f"refused_{answer.code}"
        self._refusal = f"refused: {answer.code}"
        remedy = self._remedies.get(reason, "its log may say why")
        words = f" ({answer.message})" if answer.message else ""
        self._once(
            reason,
            f"{self._endpoint} refused {self._noun}: {answer.code}{words}; they are lost; {remedy}",
        )

    def remark(self, answer: Accepted) -> None:
        self._refusal = ""
        if answer.rejected:
            self._once(
                REJECTED,
                f"{self._endpoint} rejected {answer.rejected:,} {self._noun} of a request: "
                f"{answer.message or 'it does not say why'}",
            )
        elif answer.message:
            self._once(
                answer.message, f"{self._endpoint} took {self._noun}, but says: {answer.message}"
            )

    def internal_error(self, error: Exception) -> None:
        kind = type(error).__name__
        self._once(
            kind, f"a fault in the exporter lost {self._noun}: {kind}: {error}; please report it"
        )

    def _say(self, text: str) -> None:
        # A listener that fails, on a closed stderr for instance, must not cost spans.
        with contextlib.suppress(Exception):
            self._listener(text)

    def _once(self, kind: str, text: str) -> None:
        if kind not in self._said and len(self._said) < REMARKS_AT_MOST:
            self._said.add(kind)
            self._say(text)


def shown_endpoint(settings: OtlpSettings) -> str:
    """The endpoint for messages: without path and query, where tokens live at times."""
    if settings.scheme == "unix":
        return f"unix:{settings.host}"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{settings.scheme}://{host}:{settings.port}"
