"""OTLP JSON lines on a stream: one TracesData a line, as the OTLP file format has it.

https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/. The lines are made of the columnar
encoder's requests.

A reader may be slow, or gone, or the disk full: only the thread of this module waits for it.
"""

import contextlib
import errno
import io
import os
import select
import threading
from collections import deque
from typing import IO, Any

from waggle.errors import WaggleError
from waggle.exporter.base import ExporterStats
from waggle.exporter.encoding import OtlpEncoder
from waggle.exporter.otlp_json import TracesJson
from waggle.spans import SpanBatch

QUEUE_FULL = "queue_full"
SHUTDOWN = "shutdown"
READER_GONE = "reader_gone"
WRITE_FAILED = "write_failed"

MAX_QUEUED_SPANS = 20_000  # 10 MB of records of the small kind
_SPANS_PER_LINE = 512
_POLL_MS = 100  # how soon close() is noticed while a reader does not read


class JsonLinesExporter:
    """Writes every span to a stream, from a thread of its own.

    stream: text or binary. Where it has a descriptor, that is written to, past the buffer: a
    buffer that still holds text when its reader is gone makes the interpreter complain at exit.
    The stream itself is not closed.
    """

    name = "jsonlines"

    def __init__(self, stream: IO[Any], max_queued_spans: int = MAX_QUEUED_SPANS) -> None:
        self._output = Output(stream)
        self._encoder = OtlpEncoder(max_spans=_SPANS_PER_LINE)
        self._json = TracesJson()
        self._max_queued = max_queued_spans
        self._changed = threading.Condition()
        self._queue: deque[SpanBatch] = deque()
        self._stats = ExporterStats()  # `queued` includes what is being written
        self._closing = False
        self._failure: OSError | None = None
        self._is_told = False
        self._thread = threading.Thread(target=self._work, name="waggle-jsonlines", daemon=True)
        self._thread.start()

    def export(self, batch: SpanBatch) -> None:
        """Queue the batch, or count it as lost; never waits for the reader."""
        if not len(batch):
            return
        with self._changed:
            reason = self._reason_to_refuse(len(batch))
            if reason is not None:
                self._stats.lose(reason, len(batch))
                return
            self._queue.append(batch)
            self._stats.queued += len(batch)
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> None:
        """Wait until everything is written; raises WaggleError when that cannot be.

        A reader that has gone (EPIPE) is no error: it had what it wanted.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stats.queued == 0, timeout_s)
            self._tell_failure()

    def close(self, timeout_s: float) -> None:
        """Write what is left within the time, count the rest as lost; raises like flush()."""
        with self._changed:
            self._changed.wait_for(lambda: self._stats.queued == 0, timeout_s)
            self._closing = True
            self._output.give_up()
            self._changed.notify_all()
        self._thread.join(2 * _POLL_MS / 1000)  # a blocking write may hold it for ever
        with self._changed:
            if self._stats.queued:
                self._lose_queued(SHUTDOWN)
            self._tell_failure()

    def stats(self) -> ExporterStats:
        """A copy of the counters, taken at one moment."""
        with self._changed:
            now = self._stats
            return ExporterStats(now.exported, now.queued, dict(now.lost))

    @property
    def closed(self) -> bool:
        """Whether nothing can be written any more: the reader has gone, or the disk is full."""
        return self._failure is not None

    def _reason_to_refuse(self, spans: int) -> str | None:
        if self._failure is not None:
            return _reason(self._failure)
        if self._closing:
            return SHUTDOWN
        if self._stats.queued and self._stats.queued + spans > self._max_queued:
            return QUEUE_FULL
        return None

    def _tell_failure(self) -> None:
        failure = self._failure
        if failure is None or self._is_told or _reason(failure) == READER_GONE:
            return
        self._is_told = True
        lost = self._stats.lost.get(WRITE_FAILED, 0)
        raise WaggleError(
            f"cannot write spans to {self._output.name}: {os.strerror(failure.errno or 0)} "
            f"({lost} spans lost); make room or fix it, or send the output elsewhere"
        )

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            for request in self._encoder.encode(batch):
                try:
                    self._output.write(self._json.translate(request.payload) + b"\n")
                except OSError as error:
                    self._fail(error)
                    return
                if not self._written(request.spans):
                    return

    def _next(self) -> SpanBatch | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            if self._closing:
                return None
            return self._queue.popleft()

    def _written(self, spans: int) -> bool:
        """Count spans as exported; False when close() has given up on all there is."""
        with self._changed:
            if self._stats.queued == 0:
                return False
            self._stats.exported += spans
            self._stats.queued -= spans
            self._changed.notify_all()
            return True

    def _fail(self, error: OSError) -> None:
        with self._changed:
            if not self._closing:
                self._failure = error
                self._lose_queued(_reason(error))
            self._changed.notify_all()

    def _lose_queued(self, reason: str) -> None:
        self._stats.lose(reason, self._stats.queued)
        self._stats.queued = 0
        self._queue.clear()


_WRITING = threading.Lock()  # spans and logs may go to one stream


class Output:
    """Where the lines go; write() blocks, until give_up() where that is possible."""

    def __init__(self, stream: IO[Any]) -> None:
        self.name = getattr(stream, "name", None) or "the output"
        if self.name == "<stdout>":
            self.name = "stdout"
        self._stream = stream
        self._is_text = isinstance(stream, io.TextIOBase)
        self._gave_up = False
        self._fd: int | None = None
        with contextlib.suppress(OSError, AttributeError, ValueError):
            stream.flush()
            self._fd = stream.fileno()

    def give_up(self) -> None:
        self._gave_up = True

    def write(self, line: bytes) -> None:
        """Write all of it; OSError when that cannot be. A closed stream is EBADF."""
        with _WRITING:
            self._write(line)

    def _write(self, line: bytes) -> None:
        if self._fd is not None:
            self._write_to_descriptor(self._fd, line)
            return
        try:
            self._stream.write(line.decode() if self._is_text else line)
            self._stream.flush()
        except ValueError as error:  # I/O operation on closed file
            raise OSError(errno.EBADF, str(error)) from error

    def _write_to_descriptor(self, fd: int, line: bytes) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        rest = memoryview(line)
        while rest:
            while not poll.poll(_POLL_MS):
                if self._gave_up:
                    raise OSError(errno.ETIMEDOUT, "the reader does not read")
            # A pipe that can take something takes up to PIPE_BUF bytes without blocking.
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(fd, rest[: select.PIPE_BUF]) :]


def _reason(failure: OSError) -> str:
    return READER_GONE if failure.errno == errno.EPIPE else WRITE_FAILED
