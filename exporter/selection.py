"""Choosing which traces a screen shall show, before anything is decoded.

A terminal shows twenty traces a second; a busy machine makes thousands. What will not
be shown must cost next to nothing, so the choice is made on columns: a trace is taken
when the hash of its id falls below a limit, which keeps or leaves whole traces
whatever batches their spans come in. The limit follows the rate, once a second.

Failed and slow traces are taken beyond the limit, a few each second. Their spans that
went by earlier are lost to the screen, and it has to say so: see `Selection.whole`.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.spans import ENTRY_LINKS, Records, SpanBatch

Hashes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

_SECOND = 1_000_000_000
_EVERYTHING = 1 << 64
_NEVER = (1 << 64) - 1  # as a time: longer than anything lasts
_MIXER = 0x9E3779B97F4A7C15  # odd, so that multiplying by it loses nothing
_OFFSETS: dict[str, int] = {
    name: int(entry[1]) for name, entry in (layout.EXCHANGE.fields or {}).items()
}


def hash_of(trace_id: bytes) -> int:
    """Of one id what `hashes_of` gives for a column."""
    return int.from_bytes(trace_id[8:], "little") * _MIXER % _EVERYTHING


def hashes_of(records: Records) -> Hashes:
    """Spread over all of 64 bits, from the half of the id that makers fill at random."""
    tails: Hashes = records.getfield(np.dtype("<u8"), _OFFSETS["trace_id"] + 8)
    mixed: Hashes = tails * np.uint64(_MIXER)
    return mixed


@dataclass(slots=True)
class Skipped:
    """What was left out. A trace in two batches may be counted twice."""

    spans: int = 0
    traces: int = 0
    failed: int = 0  # of the traces

    def add(self, spans: int, traces: int, failed: int) -> None:
        self.spans += spans
        self.traces += traces
        self.failed += failed


@dataclass(slots=True)
class _Second:
    """What has come and gone in the second that began at `since_ns`."""

    since_ns: int
    traces: int = 0
    spans: int = 0
    taken: int = 0  # spans
    failed: int = 0  # traces taken beyond the limit for that
    slow: int = 0


class Selection:
    """Takes about `traces` traces and never more than `spans` spans a second.

    Not thread safe. Times are CLOCK_MONOTONIC nanoseconds, as in the records.
    """

    def __init__(self, *, traces: int, spans: int, now_ns: int) -> None:
        self._traces = traces
        self._spans = spans
        self._limit = _EVERYTHING
        # (since when, limit), newest last: which traces were taken from start to end.
        self._limits: deque[tuple[int, int]] = deque([(0, _EVERYTHING)], maxlen=256)
        self._second = _Second(now_ns)
        self._specials = max(traces // 4, 1)
        self._wanted: dict[int, int] = {}  # hash -> the second it was seen in
        self._slow_ns = _NEVER
        self._slowest = np.zeros(self._specials, dtype=np.uint64)

    @property
    def everything(self) -> bool:
        """Whether nothing is left out at the moment."""
        return self._limit == _EVERYTHING

    def choose(
        self, batches: Sequence[SpanBatch], skipped: Skipped, now_ns: int
    ) -> list[SpanBatch]:
        """The rows to show; the others are added to `skipped`.

        Many batches at once cost little more than one.
        """
        rows = _Rows([batch.records for batch in batches])
        second = self._begin_second(now_ns)
        second.spans += len(rows.hashes)
        second.traces += rows.traces
        self._lower_early(second, now_ns)
        chosen = self._below_limit(rows, now_ns)
        if not self.everything:
            chosen |= self._special(rows, int(np.count_nonzero(chosen)))
        taken = int(np.count_nonzero(chosen))
        second.taken += taken
        if taken == len(chosen):
            return list(batches)
        skipped.add(
            len(chosen) - taken,
            rows.traces - _distinct(rows.hashes[chosen & rows.entries]),
            _distinct(rows.hashes[rows.failures[~chosen[rows.failures]]]),
        )
        return _rows_of(batches, chosen)

    def whole(self, trace_id: bytes, start_ns: int) -> bool:
        """Whether every span of a trace that began at `start_ns` has been taken."""
        hashed = hash_of(trace_id)
        for since_ns, limit in reversed(self._limits):
            if hashed >= limit:
                return False
            if since_ns <= start_ns:
                return True
        return False

    def special(self, trace_id: bytes) -> bool:
        """Whether the trace was taken, of late, because it failed or is slow."""
        return hash_of(trace_id) in self._wanted

    def _begin_second(self, now_ns: int) -> _Second:
        second = self._second
        if now_ns - second.since_ns < _SECOND:
            return second
        limit = self._fitting_limit(second, now_ns - second.since_ns)
        # Each rise makes halves of the traces under way, so small ones are left be.
        if limit < self._limit or limit > self._limit * 5 // 4 or limit == _EVERYTHING:
            self._set_limit(limit, now_ns)
        self._second = _Second(now_ns)
        self._wanted = {h: since for h, since in self._wanted.items() if since == second.since_ns}
        self._slow_ns = int(self._slowest.min()) or _NEVER
        self._slowest[:] = 0
        return self._second

    def _lower_early(self, second: _Second, now_ns: int) -> None:
        """Do not wait for the second to end when a flood begins."""
        if second.traces > 2 * self._traces:
            limit = self._fitting_limit(second, max(now_ns - second.since_ns, _SECOND // 2))
            if limit < self._limit // 2:
                self._set_limit(limit, now_ns)

    def _fitting_limit(self, second: _Second, passed_ns: int) -> int:
        seconds = passed_ns / _SECOND
        share = min(
            self._traces * seconds / max(second.traces, 1),
            # Room for the second to be busier than the last.
            0.8 * self._spans * seconds / max(second.spans, 1),
        )
        return _EVERYTHING if share >= 1 else int(share * _EVERYTHING)

    def _set_limit(self, limit: int, now_ns: int) -> None:
        if limit != self._limit:
            self._limit = limit
            self._limits.append((now_ns, limit))

    def _below_limit(self, rows: "_Rows", now_ns: int) -> Mask:
        room = max(self._spans - self._second.taken, 0)
        if self.everything and len(rows.hashes) <= room:
            return np.ones(len(rows.hashes), dtype=np.bool_)
        limit = min(self._limit, _EVERYTHING - 1)  # what fits the column's type
        chosen = rows.hashes < np.uint64(limit)
        while np.count_nonzero(chosen) > room:
            limit //= 2
            chosen = rows.hashes < np.uint64(limit)
        if limit < _EVERYTHING - 1:
            self._set_limit(limit, now_ns)
        return chosen

    def _special(self, rows: "_Rows", taken: int) -> Mask:
        """Rows of traces that failed or are slow, as far as this second has room for them."""
        slow = rows.entries & (rows.lasted > np.uint64(self._slow_ns))
        self._keep_slowest(rows.lasted[rows.entries])
        second = self._second
        second.failed += self._want(rows.hashes[rows.failures], self._specials - second.failed)
        second.slow += self._want(rows.hashes[slow], self._specials - second.slow)
        wanted = _members(rows.hashes, self._wanted)
        if taken + np.count_nonzero(wanted) > self._spans - second.taken:
            wanted[:] = False
        return wanted

    def _want(self, hashes: Hashes, room: int) -> int:
        """Take these traces for this second and the next; gives how many are new."""
        new = 0
        for hashed in hashes[: 4 * room].tolist():
            if hashed not in self._wanted:
                if new == room:
                    break
                new += 1
            self._wanted[hashed] = self._second.since_ns
        return new

    def _keep_slowest(self, lasted: npt.NDArray[np.uint64]) -> None:
        """Remember how long the few slowest of this second took: the next one's measure."""
        some = np.concatenate((self._slowest, lasted))
        self._slowest = np.partition(some, len(some) - self._specials)[-self._specials :]


class _Rows:
    """The columns of some batches that the choice is made on.

    entries: rows by which a trace begins on this machine; traces: how many those begin.
    failures: indices of the rows whose span has an error status.
    """

    def __init__(self, records: Sequence[Records]) -> None:
        self.hashes = np.concatenate([hashes_of(part) for part in records])
        self._records = records
        self.entries: Mask = np.isin(self._column("link"), ENTRY_LINKS)
        self.traces = _distinct(self.hashes[self.entries])

    @cached_property
    def failures(self) -> npt.NDArray[np.intp]:
        """By the rules of the HTTP conventions: a client fails with 4xx, a server does not."""
        status, end = self._column("status"), self._column("end")
        fails = (status >= 500) | (end > layout.End.DONE)
        fails |= (status >= 400) & (self._column("role") == layout.Role.CLIENT)
        return np.flatnonzero(fails)

    @cached_property
    def lasted(self) -> npt.NDArray[np.uint64]:
        start, end = self._column("start_ns"), self._column("end_ns")
        lasted: npt.NDArray[np.uint64] = np.where(end > start, end - start, np.uint64(0))
        return lasted

    def _column(self, name: str) -> npt.NDArray[np.integer[Any]]:
        return np.concatenate([part[name] for part in self._records])


def _rows_of(batches: Sequence[SpanBatch], chosen: Mask) -> list[SpanBatch]:
    parts = []
    end = 0
    for batch in batches:
        start, end = end, end + len(batch)
        mask = chosen[start:end]
        if not mask.any():
            continue
        # As plain bytes: numpy copies structured rows field by field.
        plain = batch.records.view(f"V{batch.records.dtype.itemsize}")
        records = plain[mask].view(batch.records.dtype)
        parts.append(replace(batch, records=records, resources=batch.resources[mask]))
    return parts


def _distinct(hashes: Hashes) -> int:
    if not len(hashes):
        return 0
    ordered = np.sort(hashes)
    return 1 + int(np.count_nonzero(ordered[1:] != ordered[:-1]))


def _members(hashes: Hashes, wanted: Mapping[int, int]) -> Mask:
    if not wanted:
        return np.zeros(len(hashes), dtype=np.bool_)
    ordered = np.sort(np.fromiter(wanted, np.uint64, len(wanted)))
    places = np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)
    members: Mask = ordered[places] == hashes
    return members
