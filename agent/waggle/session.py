"""One run of the agent, once its programs are on their way into the kernel.

    require privileges -> fork the command -> load and attach -> decide about processes
    -> drop privileges -> ready -> move spans until told to stop -> detach -> drain -> summary

Three threads: this one moves spans; the watcher takes process events as they come,
since a program that lives for ten milliseconds must be asked its name in time; and
one attaches probes, which takes longer than that.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from waggle import privileges, start
from waggle.attach import Attacher, Probe
from waggle.baggage import BAGGAGE
from waggle.capture import Capture
from waggle.config import Settings
from waggle.discovery import Discovery, Selector
from waggle.errors import WaggleError
from waggle.evidence import Joins
from waggle.exporter.base import Exporter
from waggle.exporter.setup import make_exporters
from waggle.launch import Launched, forwarding
from waggle.log_session import close_logs, log_summary, open_logs
from waggle.observing import Observing
from waggle.pipeline import Pipeline, WallClock, patience_of
from waggle.probes.go.attach import GoProbe
from waggle.probes.go.plans import Plans
from waggle.probes.haproxy.attach import HaproxyProbe
from waggle.probes.http2.quick import want_baggage
from waggle.probes.http2.resolve import Resolver
from waggle.probes.java.attach import JavaProbe
from waggle.probes.node.attach import NodeProbe
from waggle.probes.python.attach import PythonProbe
from waggle.probes.python.call_sites import call_sites
from waggle.probes.python.code_attach import CodeProbe
from waggle.probes.uwsgi.attach import UwsgiProbe
from waggle.processes import ProcessTable
from waggle.procfs import ProcFs
from waggle.rule_scores import score_lines
from waggle.sampler import make_sampler
from waggle.sampling import Sampling
from waggle.saying import say
from waggle.sdk import SdkPolicy, SdkStage
from waggle.spans import ResourceTable
from waggle.summary import AgentCost, Summary, render
from waggle.watcher import Watcher

if TYPE_CHECKING:
    from waggle.probes.tls.handshakes import HandshakeNotes
    from waggle.probes.tls.libraries import Libraries

CLOSE_TIMEOUT_S = 10.0
_LAST_WORDS_S = 0.2  # for responses that are under way when a command ends


class Session:
    """What a run holds together, from the decision about processes to the summary."""

    def __init__(
        self,
        settings: Settings,
        capture: Capture,
        launched: Launched | None,
        sampling: Sampling,
        plans: Plans,
        libraries: Libraries | None,
    ) -> None:
        """libraries: None where nothing is looked for in TLS."""
        self._settings = settings
        self._capture = capture
        self._launched = launched
        self._stop = threading.Event()
        BAGGAGE.patterns = settings.baggage
        want_baggage(bool(settings.baggage))
        self._started = time.monotonic()
        self._start_cpu_s = 0.0
        source = ProcFs()
        self._discovery = Discovery(
            Selector.from_settings(settings), source, max_processes=settings.max_processes
        )
        table = ProcessTable(ResourceTable(), source, capacity=settings.max_processes)
        self._streams = Resolver(capture.tables)
        self._joins = Joins(capture.evidence)
        self._call_sites = call_sites(capture) if settings.call_site != "off" else None
        probes: list[Probe] = [
            *_tls_probes(capture, libraries),  # the first: whoever they are for may be over soon
            PythonProbe(capture.bpf),
            GoProbe(capture.bpf, plans, tls=capture.tls),
            NodeProbe(capture.bpf),
            HaproxyProbe(capture.bpf),
            JavaProbe(capture.bpf),
            UwsgiProbe(capture.bpf),
        ]
        if capture.not_tls:
            say(f"what is encrypted is not seen: this kernel refuses it: {capture.not_tls}")
        if self._call_sites is not None:
            probes.append(CodeProbe(capture.bpf))
        attacher = Attacher(probes, source, say)
        self._sdk = SdkPolicy(settings.sdk, say, capture)
        self._watcher = Watcher(
            self._capture, self._discovery, table, attacher, sampling, self._sdk
        )
        self._sampler = make_sampler(sampling, capture)
        self._notes: list[HandshakeNotes] = []

    def run(self) -> int:
        """Trace until Ctrl-C, SIGTERM, or the end of the command; the exit code."""
        if self._launched is not None:
            self._watcher.adopt(self._launched.pid)
        self._watcher.begin()
        self._begin_tcp_option()
        observing = Observing(self._settings, os.environ, say, self._capture, self._watcher)
        try:
            return self._run(observing)
        finally:
            observing.release()

    def _run(self, observing: Observing) -> int:
        observing.measure_programs()
        if self._settings.inject != "off":
            from waggle import injecting

            settings = self._settings
            say(str(injecting.begin(self._capture, settings.inject, settings.inject_to)))
        privileges.drop(still_works=self._look)
        exporters = make_exporters(self._settings, os.environ, say)
        clock = WallClock()
        logs = open_logs(self._settings, self._capture, self._joins, self._watcher, clock, say)
        handshakes = self._handshakes()
        pipeline = Pipeline(
            [self._capture.exchanges, self._capture.large_exchanges],
            self._watcher,
            exporters,
            clock,
            gather_s=patience_of(exporters),
            joins=self._joins,
            stages=[
                stage
                for stage in (self._streams, self._call_sites, *logs, *handshakes)
                if stage is not None
            ],
            meter=observing.meter,
            sampler=SdkStage(self._sdk, self._sampler),
            watched=[stage.ring for stage in logs],
            annotators=[*logs, *handshakes],
        )
        observing.start(pipeline, exporters, self._sampler)
        with self._stopping(pipeline):
            if self._capture.tls:
                # What is said before a probe is there is never seen, unlike bytes of a socket.
                self._watcher.attach_first()
            if self._launched is not None:
                self._watcher.expect(self._launched.pid, self._launched.path)
            with self._watcher.watching(), self._forwarding():
                self._announce()
                self._move_until_stopped(pipeline, exporters, observing)
                observing.health.stop()
                self._capture.detach()
                self._capture.end_answered()
                pipeline.drain()
                pipeline.close(CLOSE_TIMEOUT_S)
                close_logs(logs, CLOSE_TIMEOUT_S)
                observing.close(CLOSE_TIMEOUT_S)
            summary = self._summary(pipeline, exporters, observing)
            log_summary(summary, logs)
            if not self._settings.quiet:
                say(render(summary), prefix="")
            return self._exit_code(pipeline.complaint)

    def _handshakes(self) -> list[HandshakeNotes]:
        """What tells of TLS handshakes, where that is looked at."""
        if self._capture.handshakes is None:
            return []
        from waggle.probes.tls.handshakes import HandshakeNotes

        self._notes = [HandshakeNotes(self._capture.handshakes)]
        return self._notes

    def _begin_tcp_option(self) -> None:
        option = self._capture.tcp_option
        if option is not None:
            option.adopt(self._watcher.traced())
            for space in option.skipped:
                say(f"TCP option: old connections stay without it; {space}")
        elif self._capture.tcp_option_refused:
            say(
                "no TCP option to agents on other machines, whose traces will begin anew: "
                f"{self._capture.tcp_option_refused} (--tcp-option off says nothing)"
            )

    def _look(self) -> None:
        """What the run goes on doing to the kernel side; raises when it may not."""
        self._capture.counters()
        self._capture.sweep()

    @contextmanager
    def _stopping(self, pipeline: Pipeline) -> Iterator[None]:
        """While it holds, Ctrl-C and SIGTERM end the run in order; a second one at once.
        One that comes when the run has ended by itself is the first, and changes nothing.

        The end of the command that we started is noticed at once.
        """

        def stop(_signum: int, _frame: FrameType | None) -> None:
            if self._stop.is_set():
                raise KeyboardInterrupt
            self._stop.set()
            pipeline.wake()

        def look(_signum: int, _frame: FrameType | None) -> None:
            pipeline.wake()

        handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGCHLD: look}
        before = {signum: signal.signal(signum, act) for signum, act in handlers.items()}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    @contextmanager
    def _forwarding(self) -> Iterator[None]:
        """SIGTERM is for the command we started, whose end is then ours."""
        if self._launched is None:
            yield
            return
        with forwarding(self._launched):
            yield

    def _announce(self) -> None:
        if self._launched is not None:
            self._launched.release()
        waiting = self._discovery.waiting_for()
        what = waiting or self._watcher.tracing()
        start.settle()
        self._start_cpu_s = time.process_time()
        say(f"{what} ({self._capture.flavour} capture); Ctrl-C ends it")
        if self._settings.ready_fd is not None:
            tell_ready(self._settings.ready_fd)
        if waiting:  # whoever is waited for will not wait for this
            threading.Thread(target=Plans.warm, name="waggle-warm", daemon=True).start()

    def _move_until_stopped(
        self, pipeline: Pipeline, exporters: list[Exporter], observing: Observing
    ) -> None:
        while not self._stop.is_set():
            pipeline.step()
            observing.health.beat()
            if self._command_ended():
                self._stop.wait(_LAST_WORDS_S)
                return
            if any(getattr(exporter, "closed", False) for exporter in exporters):
                return  # whoever read our output has gone, or its disk is full
            if self._watcher.nothing_left():
                say("every process that was traced has ended")
                return

    def _command_ended(self) -> bool:
        return self._launched is not None and self._launched.poll() is not None

    def _summary(
        self, pipeline: Pipeline, exporters: list[Exporter], observing: Observing
    ) -> Summary:
        failed = {
            f"failed_in_{name}": failures.spans
            for name, failures in pipeline.stats.failures.items()
            if failures.spans
        }
        return Summary(
            spans=pipeline.stats.spans_out,
            traces=pipeline.traces.value,
            traces_exact=pipeline.traces.exact,
            cost=AgentCost.since(self._started, self._start_cpu_s),
            processes=self._watcher.processes_seen(),
            kernel=self._capture.counters(),
            unsampled=self._sampler.stats.dropped,
            kept_by_tail=self._sampler.stats.kept,
            forgotten_by_tail=self._sampler.stats.forgotten,
            rules=score_lines(self._capture.processes()) if self._settings.verbose else (),
            exporters=[(exporter.name, exporter.stats()) for exporter in exporters]
            + observing.stats(),
            lost=failed
            | observing.losses()
            | {name: count for notes in self._notes for name, count in notes.losses().items()}
            | {"programs_busy": self._capture.missed_runs()}
            | {f"proof_{name}": count for name, count in self._joins.stats.missed().items()}
            | {"header_tables_forgotten": self._streams.tables.stats.forgotten_connections},
        )

    def _exit_code(self, complaint: WaggleError | None) -> int:
        if self._launched is None:
            if complaint is not None:
                raise complaint
            return 0
        if complaint is not None:
            say(f"error: {complaint}")
        # Ctrl-C reached the command as well; it may take its time to end.
        code = self._launched.poll()
        return self._launched.wait() if code is None else code


def _tls_probes(capture: Capture, libraries: Libraries | None) -> list[Probe]:
    """What looks into TLS libraries, where that was asked for and the kernel allows it."""
    if libraries is None or not capture.tls:
        return []
    from waggle.probes.tls.attach import TlsProbe

    return [TlsProbe(capture.bpf, libraries)]


def tell_ready(descriptor: int) -> None:
    """Writes one byte and closes the descriptor, so that a script need not sleep."""
    with suppress(BrokenPipeError):
        os.write(descriptor, b"\n")
    os.close(descriptor)
