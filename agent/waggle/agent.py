"""The beginning of a run: everything the kernel takes its time over starts first.

require privileges -> fork the command -> load and attach (the kernel verifies; loading.py)
                                       -> meanwhile import the rest of the agent
-> Session: decide, drop privileges, ready, move spans, summary
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from waggle import loading, memory, privileges, start
from waggle.capture_options import CaptureOptions
from waggle.config import Settings
from waggle.launch import Launched
from waggle.propagators import propagators_of
from waggle.sampling import Sampling
from waggle.sampling_settings import sampling_of
from waggle.saying import say

if TYPE_CHECKING:
    from waggle.probes.tls.libraries import Libraries


def run(settings: Settings) -> int:
    """Trace until Ctrl-C, SIGTERM, or the end of the command that was started.

    Returns the exit code. Raises WaggleError when tracing cannot begin.
    """
    sampling = sampling_of(settings, os.environ)
    privileges.require()
    memory.keep_little()
    with _launched(settings) as launched:
        if settings.tls != "off":
            privileges.leave_no_core()
        on_its_way = loading.loading_of(options_of(settings, sampling, os.environ))
        # numpy's linear algebra, which we never use, would start a thread for every CPU.
        with start.variable("OPENBLAS_NUM_THREADS", "1"):
            from waggle.exporter.setup import load_exporters
            from waggle.probes.go.plans import Plans
            from waggle.session import Session  # numpy and the rest, at the same time
            from waggle.spans import load_decoders
        load_decoders()
        load_exporters(settings, os.environ)
        plans = Plans(say, handover=settings.go_handover != "off")
        # What follows may take as long as all of that.
        if launched is not None:
            plans.prepared(launched.path)
        libraries = _libraries(launched) if settings.tls != "off" else None

        capture = on_its_way.finish()
        try:
            return Session(settings, capture, launched, sampling, plans, libraries).run()
        finally:
            capture.close()


def _libraries(launched: Launched | None) -> "Libraries":
    """The TLS libraries of this system and of the command, read before anybody waits for them."""
    from waggle.probes.tls.libraries import Libraries
    from waggle.probes.tls.places import needed_by, usual

    libraries = Libraries()
    libraries.prepare(usual())
    if launched is not None:
        libraries.prepare(needed_by(launched.path, os.environ))
    return libraries


@contextmanager
def _launched(settings: Settings) -> Iterator[Launched | None]:
    """The command, forked and waiting: before there is any thread."""
    if not settings.command:
        yield None
        return
    loading.drop_begun()
    ready = settings.ready_fd
    launched = Launched(settings.command, close=[] if ready is None else [ready])
    try:
        yield launched
    finally:
        launched.close()


def options_of(
    settings: Settings, sampling: Sampling, environ: Mapping[str, str]
) -> CaptureOptions:
    """What is loaded for these settings."""
    return CaptureOptions(
        capture=settings.capture,
        trace_all=settings.selects_all,
        watch_processes=bool(settings.port or settings.exe or settings.name),
        ring_bytes=settings.ring_size,
        log_rate=settings.logs_rate if settings.wants_logs(environ) else 0,
        inject=settings.inject != "off",
        headers_first=settings.inject in ("always", "first"),
        tls=settings.tls != "off",
        handover=settings.go_handover != "off",
        sampling=sampling,
        propagators=propagators_of(environ, say),
        baggage=bool(settings.baggage),
        tcp_option=settings.tcp_option != "off",
    )
