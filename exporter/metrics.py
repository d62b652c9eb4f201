"""Readers of metrics: who pushes them once in a while, by OTLP or to the terminal."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TextIO

from waggle.exporter.base import ExporterStats
from waggle.exporter.metrics_messages import OtlpMetrics
from waggle.exporter.metrics_settings import MetricsSettings, Temporality
from waggle.exporter.otlp import (
    REMEDIES,
    Destination,
    SendingExporter,
    make_transport,
    shown_endpoint,
)
from waggle.exporter.otlp_settings import OtlpSettings
from waggle.exporter.prometheus_text import PLAIN, render
from waggle.metrics.points import Collected

Collect = Callable[[bool], Collected]  # is it to be exponential histograms?

_REMEDIES = {
    **REMEDIES,
    "refused_404": "it may take no metrics; over HTTP their path is /v1/metrics",
    "refused_413": "lower --metrics-limit",
    "refused_resource_exhausted": "lower --metrics-limit",
}


class Sink(Protocol):
    """Where collections are pushed to. exponential: which histograms it wants."""

    name: str
    exponential: bool

    def push(self, collected: Collected, now_ns: int) -> None: ...

    def close(self, timeout_s: float) -> None: ...

    def stats(self) -> ExporterStats: ...


class OtlpSink:
    """Sends collections by OTLP; sending again, queue and losses are as with spans."""

    name = "otlp metrics"

    def __init__(
        self,
        otlp: OtlpSettings,
        settings: MetricsSettings,
        on_event: Callable[[str], None],
    ) -> None:
        """Raises UsageError when a TLS file cannot be used."""
        self.exponential = settings.exponential
        destination = Destination(
            self.name,
            shown_endpoint(otlp),
            make_transport(otlp),
            otlp.queue,
            otlp.backoff,
            _REMEDIES,
            otlp.signal.noun,
        )
        self.sender = SendingExporter(destination, None, on_event)
        self._encoder = OtlpMetrics(
            delta=settings.temporality is not Temporality.CUMULATIVE,
            max_bytes=otlp.queue.max_request_bytes,
        )

    def push(self, collected: Collected, now_ns: int) -> None:
        self.sender.send(self._encoder.encode(collected, now_ns))

    def close(self, timeout_s: float) -> None:
        self.sender.close(timeout_s)

    def stats(self) -> ExporterStats:
        return self.sender.stats()


class ConsoleSink:
    """Prints each collection, as Prometheus would read it."""

    name = "console metrics"
    exponential = False

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._stats = ExporterStats()

    def push(self, collected: Collected, now_ns: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._out.write(b"".join(render(collected, PLAIN)).decode() + "\n")
            self._out.flush()
            self._stats.exported += 1

    def close(self, timeout_s: float) -> None:
        pass

    def stats(self) -> ExporterStats:
        return self._stats


def make_sinks(settings: MetricsSettings, on_event: Callable[[str], None]) -> list[Sink]:
    """Those that the settings ask for. Raises UsageError."""
    sinks: list[Sink] = []
    if settings.otlp is not None:
        sinks.append(OtlpSink(settings.otlp, settings, on_event))
    if settings.console:
        sinks.append(ConsoleSink())
    return sinks


class PeriodicReader:
    """Collects once an interval, and once more at the end, in a thread of its own."""

    def __init__(
        self,
        collect: Collect,
        sinks: Sequence[Sink],
        interval_s: float,
        on_event: Callable[[str], None],
    ) -> None:
        self._collect = collect
        self._sinks = sinks
        self._interval_s = interval_s
        self._on_event = on_event
        self._end = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="waggle-metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Push what is there now, and have it delivered within the time."""
        deadline = time.monotonic() + timeout_s
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._push()
        for sink in self._sinks:
            sink.close(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        due = time.monotonic() + self._interval_s
        while not self._end.wait(max(0.0, due - time.monotonic())):
            self._push()
            # What took too long skips collections; it does not make them follow each other.
            due = max(due + self._interval_s, time.monotonic())

    def _push(self) -> None:
        try:
            self._push_to_all()
        except Exception as error:  # a fault of ours must cost one collection, not all
            if not self._failed:
                self._failed = True
                kind = type(error).__name__
                self._on_event(f"a fault lost metrics: {kind}: {error}; please report it")

    def _push_to_all(self) -> None:
        found: dict[bool, Collected] = {}
        for sink in self._sinks:
            if sink.exponential not in found:
                found[sink.exponential] = self._collect(sink.exponential)
            sink.push(found[sink.exponential], time.time_ns())
