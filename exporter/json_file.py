"""OTLP JSON lines in files that rotate, for the Collector's otlpjsonfile receiver and the like.

https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from waggle.errors import UsageError
from waggle.exporter.otlp import Destination, Encoder, SendingExporter
from waggle.exporter.otlp_answer import Accepted, Answer, Refused, TryAgain
from waggle.exporter.otlp_json import TracesJson
from waggle.exporter.otlp_settings import QueueSettings


class JsonFileExporter(SendingExporter):
    """The exporter that `--json-file` asks for.

    While the disk is full, spans wait in memory within the queue's bounds.
    """

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        keep: int,
        queue: QueueSettings,
        encoder: Encoder,
        on_event: Callable[[str], None],
    ) -> None:
        """Raises UsageError when the file cannot be written."""
        transport = FileTransport(path, max_bytes, keep)
        super().__init__(Destination("file", str(path), transport, queue), encoder, on_event)


class FileTransport:
    """Appends each request as one line, and begins a new file when the line does not fit.

    path: spans.jsonl, say; older files become spans.1.jsonl (the newest of them) to
    spans.KEEP.jsonl, so that one pattern, spans*.jsonl, finds all. No file grows beyond
    max_bytes, but one whose only line does.
    """

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        keep: int,
        translate: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """translate: makes a line of a request, by default of one of spans.

        Raises UsageError when the file cannot be opened for writing.
        """
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._translate = translate or TracesJson().translate
        self._size = 0
        self._descriptor: int | None = None
        try:
            self._open()
        except OSError as error:
            raise UsageError(
                f"--json-file {path}: {_reason(error)}; name a file that this user may write"
            ) from None

    def send(self, payload: bytes) -> Answer:
        """Write the request's line; a failure leaves the file as it was."""
        line = self._translate(payload) + b"\n"
        try:
            descriptor = self._file_for(len(line))
            self._append(descriptor, line)
        except OSError as error:
            self.close()
            if error.errno == errno.EFBIG:
                return Refused("too_large", _reason(error))
            return TryAgain(_reason(error))
        return Accepted()

    def abort(self) -> None:
        """A write to a file cannot be broken off."""

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _file_for(self, size: int) -> int:
        descriptor = self._descriptor
        if descriptor is None or self._was_moved(descriptor):
            self.close()
            descriptor = self._open()
        if self._size and self._size + size > self._max_bytes:
            self.close()
            self._rotate()
            descriptor = self._open()
        return descriptor

    def _was_moved(self, descriptor: int) -> bool:
        """Whether somebody else, logrotate for instance, has taken the file away."""
        ours = os.fstat(descriptor)
        try:
            theirs = self._path.stat()
        except FileNotFoundError:
            return True
        return (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino)

    def _open(self) -> int:
        # Non-blocking: a named pipe without a reader must not hold us up.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self._path, flags, 0o600)
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file (for a pipe there is --json)")
        self._descriptor = descriptor
        self._size = state.st_size
        if self._size and os.pread(descriptor, 1, self._size - 1) != b"\n":
            self._append(descriptor, b"\n")  # a run that was killed left half a line
        return descriptor

    def _append(self, descriptor: int, line: bytes) -> None:
        before, rest = self._size, memoryview(line)
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, before)
            raise
        self._size = before + len(line)

    def _rotate(self) -> None:
        if self._keep == 0:
            self._path.unlink()
            return
        for number in range(self._keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self._numbered(number).replace(self._numbered(number + 1))
        self._path.replace(self._numbered(1))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.stem}.{number}{self._path.suffix}")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
