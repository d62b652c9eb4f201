"""What a run tells of itself and of what it sees beside traces: metrics, and its health.

observing = Observing(settings, environ, say, capture, watcher)   # nothing runs yet
observing.measure_programs()       # while privileges last
pipeline = Pipeline(..., meter=observing.meter)
observing.start(pipeline, exporters, sampler)
observing.health.beat()            # the loop
observing.close(timeout_s)
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from http import HTTPStatus
from typing import TYPE_CHECKING

from waggle.capture import Capture
from waggle.config import Settings
from waggle.errors import WaggleError
from waggle.exporter.base import Exporter, ExporterStats
from waggle.health import Check, Health
from waggle.pages import Address, Answer, Page, parse_address
from waggle.pipeline import Pipeline
from waggle.summary import kernel_losses
from waggle.watcher import Watcher

if TYPE_CHECKING:  # imported when a run measures: others should not wait for it
    from waggle.endpoint import LocalServer
    from waggle.exporter.metrics import Sink
    from waggle.exporter.metrics_settings import MetricsSettings
    from waggle.metrics.meter import ExchangeMeter
    from waggle.metrics.own import Probe, Queue, Report
    from waggle.metrics.points import Collected
    from waggle.sampler import Sampler

Say = Callable[[str], None]

# For so long a queue that overflowed counts as full: one scrape or two.
_FULL_FOR_S = 60.0
_QUEUE_FULL = "queue_full"
_ASKING = ("OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")


class Observing:
    """All of it, as far as the settings ask for it."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        say: Say,
        capture: Capture,
        watcher: Watcher,
    ) -> None:
        """Listens where it is asked to. Raises UsageError for settings that cannot be used."""
        self._say = say
        self._settings = settings
        self._capture = capture
        self._watcher = watcher
        self._pipeline: Pipeline | None = None
        self._sampler: Sampler | None = None
        self._exporters: Sequence[Exporter] = ()
        self._overflows: dict[str, tuple[int, float]] = {}
        self._open = ExitStack()
        self.health = Health(self._checks)
        self._metrics = _Metrics.of(settings, environ, say, self)
        self._servers = self._listen()

    @property
    def meter(self) -> "ExchangeMeter | None":
        return self._metrics.meter if self._metrics is not None else None

    def measure_programs(self) -> None:
        """Have the kernel measure BPF programs until the end, where that was asked for."""
        if not self._settings.probe_stats:
            return
        from waggle.libbpf import RunTimeStats

        try:
            self._open.enter_context(RunTimeStats())
        except WaggleError as error:
            self._say(f"--probe-stats: {error}")

    def start(self, pipeline: Pipeline, exporters: Sequence[Exporter], sampler: "Sampler") -> None:
        """Begin to answer and to push. Privileges are given up by now: threads inherit them."""
        self._pipeline, self._exporters, self._sampler = pipeline, exporters, sampler
        self.health.beat()
        for server in self._servers:
            server.start()
        if self._metrics is not None:
            self._metrics.start()

    def close(self, timeout_s: float) -> None:
        """Push the last metrics, then stop answering."""
        if self._metrics is not None:
            self._metrics.close(timeout_s)
        self.release()

    def release(self) -> None:
        """Stop answering; also of what was never started."""
        for server in self._servers:
            server.close()
        self._servers = []
        self._open.close()

    def stats(self) -> list[tuple[str, ExporterStats]]:
        """What became of metrics, by exporter."""
        sinks = self._metrics.sinks if self._metrics is not None else []
        return [(sink.name, sink.stats()) for sink in sinks]

    def losses(self) -> dict[str, int]:
        meter = self.meter
        return {} if meter is None else {"metrics_no_series": meter.stats.no_series}

    def _listen(self) -> "list[LocalServer]":
        """One server an address, though several things may be asked for there."""
        wanted: list[tuple[Address, Mapping[str, Page]]] = []
        if self._settings.health:
            wanted.append((parse_address(self._settings.health, "--health"), self.health.pages()))
        if self._metrics is not None and self._metrics.settings.prometheus is not None:
            page = {"/metrics": self._metrics.page}
            wanted.append((self._metrics.settings.prometheus, page))
        if not wanted:
            return []
        from waggle.endpoint import LocalServer

        servers: dict[tuple[str, int], LocalServer] = {}
        for address, pages in wanted:
            place = (address.host, address.port)
            if place in servers:
                servers[place].pages.update(pages)
            else:
                servers[place] = LocalServer(address, pages)
        return list(servers.values())

    # --- what is told ---------------------------------------------------------------------------

    def _checks(self) -> list[Check]:
        attached = self._capture.attached
        found = [Check("capture", attached, self._capture.flavour if attached else "detached")]
        for name, stats, trouble in self._all_exporters():
            overflow = self._overflow(name, stats.lost.get(_QUEUE_FULL, 0))
            found.append(Check(f"exporter {name}", trouble is None, trouble or "delivering"))
            detail = f"{stats.queued:,} waiting" + (f"; {overflow}" if overflow else "")
            found.append(Check(f"queue {name}", not overflow, detail))
        return found

    def _overflow(self, name: str, lost: int) -> str:
        """Words for a queue that turned something away lately."""
        before, since = self._overflows.get(name, (0, 0.0))
        now = time.monotonic()
        if lost > before:
            since = now
        self._overflows[name] = (lost, since)
        return f"full: {lost:,} lost so far" if since and now - since < _FULL_FOR_S else ""

    def _all_exporters(self) -> list[tuple[str, ExporterStats, str | None]]:
        found = [(e.name, e.stats(), _trouble(e)) for e in self._exporters]
        for sink in self._metrics.sinks if self._metrics is not None else []:
            found.append((sink.name, sink.stats(), _trouble(getattr(sink, "sender", sink))))
        return found

    def report(self) -> "Report":
        """How the agent does, for its own metrics."""
        from waggle.metrics.own import Loss, Report

        assert self._pipeline is not None and self._sampler is not None  # start() comes first
        stats = self._pipeline.stats
        exporters = self._all_exporters()
        lost = [("kernel", r, n) for r, n in kernel_losses(self._capture.counters()).items()]
        lost += [
            ("pipeline", f"failed_in_{name}", failures.spans)
            for name, failures in list(stats.failures.items())
        ]
        lost += [(name, r, n) for name, one, _ in exporters for r, n in one.lost.items()]
        lost += [("metrics", reason, count) for reason, count in self.losses().items()]
        meter = self.meter
        return Report(
            records=stats.spans_in,
            spans=[
                ("exported", stats.spans_out),
                ("unsampled", sum(self._sampler.stats.dropped.values())),
                ("rejected", stats.rejected),
            ],
            exported=[(name, one.exported) for name, one, _ in exporters],
            losses=[Loss(*loss) for loss in lost],
            queues=self._queues(exporters),
            processes=len(self._watcher.known()),
            series=meter.series() if meter is not None else 0,
            overflowed=meter.overflowed() if meter is not None else 0,
            probes=self._probes(),
        )

    def _queues(self, exporters: Sequence[tuple[str, ExporterStats, str | None]]) -> "list[Queue]":
        from waggle.metrics.own import Queue

        capture = self._capture
        rings = [
            Queue(f"ring {name}", ring.pending(), ring.capacity)
            for name, ring in (
                ("exchanges", capture.exchanges),
                ("large_exchanges", capture.large_exchanges),
                ("events", capture.events),
                ("evidence", capture.evidence),
                ("tables", capture.tables),
            )
        ]
        limits = {exporter.name: getattr(exporter, "most", None) for exporter in self._exporters}
        return rings + [Queue(name, one.queued, limits.get(name)) for name, one, _ in exporters]

    def _probes(self) -> "list[Probe]":
        from waggle.metrics.own import Probe, kernel_measures

        if not (self._settings.probe_stats or kernel_measures()):
            return []
        return [
            Probe(info.name, info.run_cnt, info.run_time_ns)
            for info in self._capture.program_infos()
        ]


def _trouble(exporter: object) -> str | None:
    """What an exporter says keeps it from delivering; None when nothing does."""
    trouble: Callable[[], str | None] | None = getattr(exporter, "trouble", None)
    return None if trouble is None else trouble()


class _Metrics:
    """The meter, the other sources and the readers."""

    def __init__(
        self,
        settings: "MetricsSettings",
        sinks: "list[Sink]",
        say: Say,
        observing: Observing,
    ) -> None:
        from waggle.exporter.metrics import PeriodicReader
        from waggle.metrics.meter import ExchangeMeter, MeterSettings
        from waggle.metrics.own import AgentSource, agent_resource
        from waggle.metrics.processes import ProcessSource

        self.settings = settings
        self.sinks = sinks
        kinds = {sink.exponential for sink in sinks}
        watcher = observing._watcher
        agent = agent_resource()
        self.meter = ExchangeMeter(
            watcher.table,
            MeterSettings(
                explicit=settings.prometheus is not None or False in kinds,
                exponential=True in kinds,
                exemplars=settings.exemplars,
                limits=settings.limits,
                guess_routes=settings.guess_routes,
            ),
            agent,
        )
        self._processes = ProcessSource(
            watcher.table, watcher.known, observing._capture.open_requests
        )
        self._agent = AgentSource(agent, observing.report)
        self._reader = PeriodicReader(self.collect, sinks, settings.interval_s, say)

    @classmethod
    def of(
        cls,
        settings: Settings,
        environ: Mapping[str, str],
        say: Say,
        observing: Observing,
    ) -> "_Metrics | None":
        """None where no metrics are asked for."""
        named = any(environ.get(name) for name in _ASKING)
        if not (settings.metrics or settings.prometheus or named):
            return None
        from waggle.exporter.metrics_settings import MetricsSettings

        wanted = MetricsSettings.of(settings, environ)
        if not wanted.wanted:
            return None
        from waggle.exporter.metrics import make_sinks

        return cls(wanted, make_sinks(wanted, say), say, observing)

    def start(self) -> None:
        if self.sinks:
            self._reader.start()

    def close(self, timeout_s: float) -> None:
        self._reader.close(timeout_s)

    def collect(self, exponential: bool) -> "Collected":
        found = self.meter.collect(exponential=exponential)
        found += self._processes.collect()
        self.meter.forget(self._processes.gone(self.meter.resources()))
        return found + self._agent.collect()

    def page(self, accept: str) -> Answer:
        """For Prometheus."""
        from waggle.exporter.prometheus_text import content_type, render

        form = content_type(accept)
        return Answer(HTTPStatus.OK, form, render(self.collect(False), form))
