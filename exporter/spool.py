"""Requests on disk until a receiver has them: for hours without one, and for restarts.

A folder of segments, files to which records are only added; the oldest is read first and deleted
when all of its records are done. A record is a header of HEADER_BYTES and the payload. Both have a
checksum, and each record begins with the same four bytes, so that what follows a damaged part is
found again. What became of a record is written into its header: a restart sends no record twice,
but one that was under way.

Nothing is forced to the disk's platters: a killed agent loses nothing that was added, a power cut
may cost the last seconds, and what it tore is recognised.
"""

import contextlib
import fcntl
import os
import struct
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from waggle.errors import UsageError

CORRUPT = "spool_corrupt"
TRUNCATED = "spool_truncated"

SEGMENT_BYTES = 8 << 20
# An active segment of which everything is done is given up from this size on: what lives shorter
# than the kernel's write-back (30 s) never reaches the disk.
_WORN_OUT_BYTES = 1 << 20
SMALLEST_SPOOL = 2 * SEGMENT_BYTES

_MAGIC = b"WGS1"
_FACTS = struct.Struct("<4sIIII")  # magic, payload's length, spans, payload's crc, reserved
_REST = struct.Struct("<II")  # crc of the facts; state, which no checksum covers
HEADER_BYTES = _FACTS.size + _REST.size
_STATE_AT = HEADER_BYTES - 4
_DONE = (1).to_bytes(4, "little")
_SUFFIX = ".spool"


@dataclass(frozen=True, slots=True)
class Stored:
    """One record, read back, and where it lies."""

    payload: bytes
    spans: int
    segment: int
    offset: int


@dataclass(frozen=True, slots=True)
class _Header:
    offset: int
    length: int
    spans: int
    crc: int
    is_done: bool

    @property
    def end(self) -> int:
        return self.offset + HEADER_BYTES + self.length


class _Segment:
    """One file. `size` is how far it is whole; nothing behind that is read."""

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self.path = folder / f"{number:012d}{_SUFFIX}"
        self._descriptor: int | None = None
        self.size = os.fstat(self.descriptor).st_size
        self.spans = 0  # that wait, those given out included
        self.records = 0  # likewise
        self.read_to = 0  # everything before this offset was given out
        self.out = 0  # records that were given out and are not done

    @property
    def descriptor(self) -> int:
        """Opened when it is needed: there may be more segments than descriptors."""
        if self._descriptor is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o600)
        return self._descriptor

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def count(self, spans: int) -> None:
        self.spans += spans
        self.records += 1

    def discount(self, spans: int) -> None:
        self.spans -= spans
        self.records -= 1

    def add(self, facts: bytes, payload: bytes) -> int:
        """Append a record; its offset. After an OSError the file is as it was before."""
        offset = self.size
        header = facts + _REST.pack(zlib.crc32(facts), 0)
        try:
            _write_all(self.descriptor, offset, header, payload)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self.descriptor, offset)
            raise
        self.size = offset + len(header) + len(payload)
        return offset

    def mark_done(self, offset: int) -> None:
        """A failure costs no more than sending it once more after a restart."""
        with contextlib.suppress(OSError):
            os.pwrite(self.descriptor, _DONE, offset + _STATE_AT)

    def header_at(self, offset: int) -> _Header | None:
        """The header of a record, None when what is there is none."""
        raw = os.pread(self.descriptor, HEADER_BYTES, offset)
        if len(raw) < HEADER_BYTES:
            return None
        magic, length, spans, crc, _ = _FACTS.unpack_from(raw)
        check, state = _REST.unpack_from(raw, _FACTS.size)
        if magic != _MAGIC or check != zlib.crc32(raw[: _FACTS.size]):
            return None
        return _Header(offset, length, spans, crc, state != 0)

    def find_header(self, offset: int) -> int:
        """Where from `offset` on the next whole header is, or the file's end."""
        rest = os.pread(self.descriptor, max(self.size - offset, 0), offset)
        at = rest.find(_MAGIC)
        while at >= 0:
            if self.header_at(offset + at) is not None:
                return offset + at
            at = rest.find(_MAGIC, at + 1)
        return self.size

    def payload_of(self, header: _Header) -> bytes | None:
        """The payload, None when it is not what was written."""
        payload = os.pread(self.descriptor, header.length, header.offset + HEADER_BYTES)
        is_whole = len(payload) == header.length and zlib.crc32(payload) == header.crc
        return payload if is_whole else None

    def delete(self) -> None:
        self.close()
        with contextlib.suppress(OSError):
            self.path.unlink()


class Spool:
    """A bounded queue of requests in a folder, for one writer and one reader.

    Its bound is the bytes of all files. recovered: spans that were waiting there at the start.
    """

    def __init__(
        self, folder: Path, max_bytes: int, on_event: Callable[[str], None] | None = None
    ) -> None:
        """max_bytes: at least SMALLEST_SPOOL. on_event: told of damage and of a disk that fails.

        Raises UsageError when the folder cannot be used, or is in use.
        """
        self.folder = folder
        self.max_bytes = max_bytes
        self._say = on_event or (lambda _text: None)
        self._guard = threading.Lock()
        self._lock = _locked(folder)
        self._segments: deque[_Segment] = deque()
        self._writing: _Segment | None = None
        self._failure = ""
        self._lost: dict[str, int] = {}
        self._begun = self._finished = 0  # records that were put in and done with
        self._next_number = 1
        try:
            self._open_old()
        except OSError as error:
            raise _unusable(folder, error) from None
        self.recovered = self.waiting_spans()

    def append(self, payload: bytes, spans: int) -> bool:
        """Whether the request is on disk now; False when there is no room for it, or no disk."""
        with self._guard:
            size = HEADER_BYTES + len(payload)
            if self._bytes() + size > self.max_bytes:
                return False
            facts = _FACTS.pack(_MAGIC, len(payload), spans, zlib.crc32(payload), 0)
            try:
                segment = self._segment_for(size)
                segment.add(facts, payload)
            except OSError as error:
                self._failed(error)
                return False
            self._worked()
            segment.count(spans)
            self._begun += 1
            return True

    def next(self) -> Stored | None:
        """The oldest record that was not given out yet; None when there is none."""
        with self._guard:
            while self._segments:
                segment = self._segments[0]
                stored = self._next_in(segment)
                if stored is not None or segment is self._writing or segment.out:
                    return stored
                self._give_up(self._segments.popleft())
            return None

    def done(self, stored: Stored) -> None:
        """The record needs no more sending: it was sent, or lost for a reason."""
        with self._guard:
            self._finished += 1
            segment = next(s for s in self._segments if s.number == stored.segment)
            segment.out -= 1
            segment.discount(stored.spans)
            segment.mark_done(stored.offset)
            if segment.out or segment.read_to < segment.size:
                return
            if segment is not self._writing or segment.size >= _WORN_OUT_BYTES:
                self._segments.remove(segment)
                self._writing = None if segment is self._writing else self._writing
                self._give_up(segment)

    def waiting_spans(self) -> int:
        """Those being sent included."""
        with self._guard:
            return sum(segment.spans for segment in self._segments)

    def progress(self) -> tuple[int, int]:
        """Records put in so far, and records done with so far."""
        with self._guard:
            return self._begun, self._finished

    def lost(self) -> dict[str, int]:
        """Spans that were found damaged, by reason."""
        with self._guard:
            return dict(self._lost)

    def size(self) -> int:
        """Bytes of all files."""
        with self._guard:
            return self._bytes()

    def close(self) -> None:
        """Leave the folder to the next run."""
        with self._guard:
            while self._segments:
                segment = self._segments.popleft()
                if segment.spans:
                    segment.close()
                else:
                    segment.delete()
            self._writing = None
            os.close(self._lock)

    def _bytes(self) -> int:
        return sum(segment.size for segment in self._segments)

    def _segment_for(self, size: int) -> _Segment:
        writing = self._writing
        if writing is None or (writing.size and writing.size + size > SEGMENT_BYTES):
            if writing is not None and writing is not self._segments[0]:
                writing.close()
            writing = _Segment(self.folder, self._next_number)
            self._next_number += 1
            self._segments.append(writing)
            self._writing = writing
        return writing

    def _next_in(self, segment: _Segment) -> Stored | None:
        for header in self._headers(segment, segment.read_to):
            segment.read_to = header.end
            if header.is_done:
                continue
            payload = segment.payload_of(header)
            if payload is not None:
                segment.out += 1
                return Stored(payload, header.spans, segment.number, header.offset)
            segment.discount(header.spans)
            self._finished += 1
            self._lose(CORRUPT, header.spans)
            self._say(f"spool: {header.spans:,} spans in {segment.path} are damaged: skipped")
        segment.read_to = segment.size
        return None

    def _headers(self, segment: _Segment, offset: int) -> Iterator[_Header]:
        """The whole headers from `offset` on, past what is damaged between them."""
        while offset < segment.size:
            header = segment.header_at(offset)
            if header is None or header.end > segment.size:
                found = segment.find_header(offset + 1)
                if found < segment.size:
                    offset = found
                    continue
                return
            yield header
            offset = header.end

    def _open_old(self) -> None:
        """Take over what an earlier run has left, counting it and what of it is damaged."""
        numbers = sorted(
            int(path.stem) for path in self.folder.glob(f"*{_SUFFIX}") if path.stem.isdigit()
        )
        for number in numbers:
            segment = _Segment(self.folder, number)
            self._segments.append(segment)
            self._count(segment)
            segment.close()
            self._next_number = number + 1

    def _count(self, segment: _Segment) -> None:
        whole = 0  # bytes
        for header in self._headers(segment, 0):
            whole += header.end - header.offset
            if not header.is_done:
                segment.count(header.spans)
                self._begun += 1
        self._count_torn(segment, segment.size - whole)

    def _count_torn(self, segment: _Segment, damaged_bytes: int) -> None:
        """Say what is no whole record, and count its spans where a header is left to tell them."""
        if not damaged_bytes:
            return
        torn = _torn_header(segment)
        if torn is not None and not torn.is_done:
            self._lose(TRUNCATED, torn.spans)
        spans = f" ({torn.spans:,} spans in a record cut short)" if torn is not None else ""
        self._say(f"spool: {damaged_bytes:,} bytes of {segment.path} are damaged: skipped{spans}")

    def _give_up(self, segment: _Segment) -> None:
        """Delete a segment of which everything was read. What it still counts as waiting was
        damaged since it was counted."""
        if segment.spans:
            self._finished += segment.records
            self._lose(CORRUPT, segment.spans)
            self._say(f"spool: {segment.spans:,} spans in {segment.path} are damaged: skipped")
        segment.delete()

    def _lose(self, reason: str, spans: int) -> None:
        self._lost[reason] = self._lost.get(reason, 0) + spans

    def _failed(self, error: OSError) -> None:
        reason = (error.strerror or str(error)).lower()
        if reason != self._failure:
            self._say(
                f"spool: cannot write to {self.folder}: {reason}; "
                "spans wait in memory until that is mended"
            )
        self._failure = reason

    def _worked(self) -> None:
        if self._failure:
            self._failure = ""
            self._say(f"spool: {self.folder} takes spans again")


def _torn_header(segment: _Segment) -> _Header | None:
    """The header of the record that the file ends in the middle of, if that is how it ends."""
    offset = 0
    last: _Header | None = None
    while offset < segment.size:
        header = segment.header_at(offset)
        if header is None:
            offset = segment.find_header(offset + 1)
            continue
        last = header
        offset = header.end if header.end <= segment.size else segment.find_header(offset + 1)
    return last if last is not None and last.end > segment.size else None


def _locked(folder: Path) -> int:
    """A descriptor that keeps the folder ours while it is open."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(folder, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise UsageError(
            f"--spool {folder}: another agent uses it; give each agent a folder of its own"
        ) from None
    return descriptor


def _unusable(folder: Path, error: OSError) -> UsageError:
    reason = (error.strerror or str(error)).lower()
    return UsageError(f"--spool {folder}: {reason}; name a folder that this user may write to")


def _write_all(descriptor: int, offset: int, *parts: bytes) -> None:
    rest = [memoryview(part) for part in parts if part]
    while rest:
        written = os.pwritev(descriptor, rest, offset)
        offset += written
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if rest and written:
            rest[0] = rest[0][written:]
