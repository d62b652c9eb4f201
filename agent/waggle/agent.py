"""The beginning of a run: everything the kernel takes its time over starts first.

require privileges -> fork the command -> load and attach (the kernel verifies)
                                       -> meanwhile import the rest of the agent
-> Session: decide, drop privileges, ready, move spans, summary
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from waggle import memory, privileges, start
from waggle.capture import Capture, CaptureOptions
from waggle.config import Settings
from waggle.launch import Launched
from waggle.sampling import Sampling, sampling_of


def run(settings: Settings) -> int:
    """Trace until Ctrl-C, SIGTERM, or the end of the command that was started.

    Returns the exit code. Raises WaggleError when tracing cannot begin.
    """
    sampling = sampling_of(settings, os.environ)
    privileges.require()
    memory.keep_one_arena()
    with _launched(settings) as launched:
        loading = _Loading(_options(settings, sampling))
        # numpy's linear algebra, which we never use, would start a thread for every CPU.
        with start.variable("OPENBLAS_NUM_THREADS", "1"):
            from waggle.session import Session  # numpy and the rest, at the same time
            from waggle.spans import load_decoders
        load_decoders()

        capture = loading.finish()
        try:
            return Session(settings, capture, launched, sampling).run()
        finally:
            capture.close()


class _Loading:
    """Programs on their way into the kernel, in a thread that is gone when they are there."""

    def __init__(self, options: CaptureOptions) -> None:
        self._options = options
        self._capture: Capture | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._load, name="waggle-loading")
        self._thread.start()

    def _load(self) -> None:
        try:
            self._capture = Capture.open(self._options)
        except BaseException as error:
            self._error = error

    def finish(self) -> Capture:
        """What was loaded. Raises what loading raised."""
        self._thread.join()
        if self._capture is None:
            assert self._error is not None
            raise self._error
        return self._capture


@contextmanager
def _launched(settings: Settings) -> Iterator[Launched | None]:
    """The command, forked and waiting: before there is any thread."""
    if not settings.command:
        yield None
        return
    ready = settings.ready_fd
    launched = Launched(settings.command, close=[] if ready is None else [ready])
    try:
        yield launched
    finally:
        launched.close()


def _options(settings: Settings, sampling: Sampling) -> CaptureOptions:
    return CaptureOptions(
        capture=settings.capture,
        trace_all=settings.selects_all,
        watch_processes=bool(settings.port or settings.exe or settings.name),
        ring_bytes=settings.ring_size,
        log_rate=settings.logs_rate if settings.wants_logs(os.environ) else 0,
        sampling=sampling,
    )
