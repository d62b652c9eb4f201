"""Spans of traces that were dropped, held for a while in case their trace turns out to matter.

A trace matters when a span of it failed, took long, or when the request that brought it
here took longer than 95 of 100 requests of its route. Then what is held of the trace goes
out, and what is still to come of it too. That is the part of it on this machine; what
other machines dropped is gone.

Columns: a batch is held as it came, its rows in the order of their traces' hashes, so that
a trace is found in each batch by two binary searches. Bounded by time and by bytes, the
oldest batch first; and by the number of traces remembered as kept.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from waggle.columns import Positions, multipliers
from waggle.layout import End, Flag, Protocol, Role
from waggle.sampling import Tail
from waggle.spans import (
    ENTRY_LINKS,
    SAMPLING_SHIFT,
    TAIL_REASONS,
    Records,
    decoder_of,
    read_exchange,
)

_NS = 1_000_000_000
_KEPT_MOST = 65_536  # traces that are known to be kept
_SHAPES_MOST = 16_384
_ROUTES_MOST = 4_096
_ROUTE_BYTES = 64  # of a path that tell a route
_ENOUGH = 100  # requests of a route before its p95 says anything
_BUCKETS = 192  # of durations: 8 to a doubling, from 1 us on
_AGE_AT = 4096  # requests of a route after which the old count half
_ERROR, _SLOW, _P95 = 1, 2, 3

U64 = npt.NDArray[np.uint64]
U8 = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _Held:
    """A batch: rows in the order of `keys`, the hashes of their trace ids."""

    since: float
    records: Records
    keys: U64


class TailBuffer:
    """Not for two threads at once.

    kept: spans that left because their trace mattered, by reason. forgotten: spans that had
    to go before their time, for want of room.
    """

    def __init__(self, tail: Tail, clock: Callable[[], float] = time.monotonic) -> None:
        self.kept: dict[str, int] = {}
        self.forgotten = 0
        self._tail = tail
        self._clock = clock
        self._held: deque[_Held] = deque()
        self._bytes = 0
        self._wanted = _Wanted()
        self._routes = Routes() if tail.p95 else None
        self._failures = Failures() if tail.errors else None

    def __len__(self) -> int:
        """Spans held."""
        return sum(len(batch.records) for batch in self._held)

    def take(self, records: Records, rows: Positions | None = None) -> list[Records]:
        """Take spans of traces that were dropped; gives those, old and new, that are kept.

        rows: which of the records they are, all of them without it.
        """
        now = self._clock()
        self._expire(now)
        rows = np.arange(len(records)) if rows is None else rows
        if not len(rows):
            return []
        keys = trace_keys(records["trace_id"][rows])
        reasons = self._reasons(records, rows)
        why = reasons.nonzero()[0]
        fresh = self._wanted.add(keys[why], reasons[why])
        found, known = self._wanted.find(keys)
        parts = self._released(*fresh) if len(fresh[0]) else []
        if known.any():
            parts.append(self._marked(records[rows[known]], found[known]))
            rows, keys = rows[~known], keys[~known]
        if len(rows):
            self._hold(now, records, rows, keys)
        return parts

    def _reasons(self, records: Records, rows: Positions) -> U8:
        """Why each span makes its trace matter; 0: it does not."""
        begun, ended = records["start_ns"][rows], records["end_ns"][rows]
        durations = ended - np.minimum(begun, ended)
        reasons = np.zeros(len(rows), np.uint8)
        if self._routes is not None:
            reasons[self._routes.slow(records, rows, durations)] = _P95
        if self._tail.slow_s is not None:
            reasons[durations >= np.uint64(self._tail.slow_s * _NS)] = _SLOW
        if self._failures is not None:
            reasons[self._failures.of(records, rows)] = _ERROR
        return reasons

    def _released(self, keys: U64, reasons: U8) -> list[Records]:
        """What is held of traces; it is held no more."""
        parts: list[Records] = []
        for place, batch in enumerate(self._held):
            first = np.searchsorted(batch.keys, keys, "left")
            last = np.searchsorted(batch.keys, keys, "right")
            counts = last - first
            if not counts.any():
                continue
            rows = _ranges(first, counts)
            parts.append(self._marked(batch.records[rows], np.repeat(reasons, counts)))
            left = np.ones(len(batch.keys), np.bool_)
            left[rows] = False
            self._held[place] = _Held(batch.since, batch.records[left], batch.keys[left])
            self._bytes -= len(rows) * (batch.records.itemsize + 8)
        return parts

    def _marked(self, records: Records, reasons: U8) -> Records:
        """Records that are exported after all, and say why."""
        records["flags"] &= np.uint16(0xFFFF ^ Flag.UNSAMPLED)
        records["sampling"] &= np.uint64(0xFF << SAMPLING_SHIFT)
        records["sampling"] |= reasons.astype(np.uint64)
        for number, count in enumerate(np.bincount(reasons).tolist()):
            if count:
                name = TAIL_REASONS[number]
                self.kept[name] = self.kept.get(name, 0) + count
        return records

    def _hold(self, now: float, records: Records, rows: Positions, keys: U64) -> None:
        order = keys.argsort()
        self._held.append(_Held(now, records[rows[order]], keys[order]))
        self._bytes += len(keys) * (records.itemsize + 8)
        while self._bytes > self._tail.max_bytes and self._held:
            self.forgotten += self._drop_oldest()

    def _expire(self, now: float) -> None:
        while self._held and now - self._held[0].since > self._tail.hold_s:
            self._drop_oldest()
        self._wanted.forget(now, self._tail.hold_s)

    def _drop_oldest(self) -> int:
        batch = self._held.popleft()
        self._bytes -= len(batch.keys) * (batch.records.itemsize + 8)
        return len(batch.keys)


class _Wanted:
    """Traces that are kept: their keys in order, and why. Two generations, so that forgetting
    the older of them takes no time."""

    def __init__(self) -> None:
        self._young = self._old = (np.empty(0, np.uint64), np.empty(0, np.uint8))
        self._turned = 0.0

    def add(self, keys: U64, reasons: U8) -> tuple[U64, U8]:
        """Remember traces; gives those that were not known, once each."""
        keys, firsts = np.unique(keys, return_index=True)
        reasons = reasons[firsts]
        _, known = self.find(keys)
        keys, reasons = keys[~known], reasons[~known]
        if len(keys):
            self._young = _merged(self._young, keys, reasons)
            if len(self._young[0]) > _KEPT_MOST // 2:
                self._turn()
        return keys, reasons

    def find(self, keys: U64) -> tuple[U8, Mask]:
        """Why each trace is kept, and whether it is."""
        reasons = np.zeros(len(keys), np.uint8)
        for have, why in (self._old, self._young):
            if len(have):
                at = np.searchsorted(have, keys)
                at[at == len(have)] = 0
                hit = have[at] == keys
                reasons[hit] = why[at[hit]]
        return reasons, reasons > 0

    def forget(self, now: float, after_s: float) -> None:
        if now - self._turned > after_s:
            self._turned = now
            self._turn()

    def _turn(self) -> None:
        self._old, self._young = self._young, (np.empty(0, np.uint64), np.empty(0, np.uint8))


def _merged(have: tuple[U64, U8], keys: U64, reasons: U8) -> tuple[U64, U8]:
    joined = np.concatenate((have[0], keys))
    order = joined.argsort(kind="stable")
    return joined[order], np.concatenate((have[1], reasons))[order]


def _ranges(first: Index, counts: Index) -> Index:
    """All numbers from first[i] on, counts[i] of them, one range after the other."""
    ends = counts.cumsum()
    rows: Index = np.arange(int(ends[-1])) + np.repeat(first - (ends - counts), counts)
    return rows


def trace_keys(trace_ids: U8) -> U64:
    """A word for each trace id (n, 16): of both halves, since whoever made it may have used one
    only."""
    halves = np.ascontiguousarray(trace_ids).view(np.uint64)
    keys: U64 = halves[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ halves[:, 1]
    return keys


class Failures:
    """Which spans are errors, as their protocol's decoder says it."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[int, ...], bool] = {}

    def of(self, records: Records, rows: Positions) -> Mask:
        least = np.where(records["role"][rows] == Role.SERVER, 500, 400)
        failed: Mask = records["status"][rows] >= least
        failed |= records["end"][rows] > End.DONE
        others = (records["protocol"][rows] != Protocol.HTTP1).nonzero()[0]
        if len(others):
            failed[others] = self._decoded(records[rows[others]])
        return failed

    def _decoded(self, records: Records) -> Mask:
        """By the decoder, once for each shape."""
        names = ("shape", "protocol", "role", "end", "status")
        mixed = np.zeros(len(records), np.uint64)
        for name in names:
            mixed = (mixed ^ records[name].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        _, firsts, group = np.unique(mixed, return_index=True, return_inverse=True)
        found = [self._of_row(records, row, names) for row in firsts.tolist()]
        return np.array(found, np.bool_)[group]

    def _of_row(self, records: Records, row: int, names: tuple[str, ...]) -> bool:
        key = tuple(int(records[name][row]) for name in names)
        failed = self._shapes.get(key)
        if failed is None:
            decoder = decoder_of(key[1])
            failed = decoder is not None and decoder.decode(read_exchange(records, row)).error
            if len(self._shapes) >= _SHAPES_MOST:
                self._shapes.clear()
            self._shapes[key] = failed
        return failed


class Routes:
    """How long the requests of each route take, and which of them took longer than 95 of 100.

    A route is a process's method and path, whose segments with a digit count as one; the
    request is the one that brought its trace to this machine. Durations are counted in
    buckets of a factor of 2^(1/8); old ones fade.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._keys = np.empty(0, np.uint64)  # in order
        self._slots = np.empty(0, np.intp)
        self._counts = np.zeros((0, _BUCKETS), np.float32)
        self._limits = np.empty(0, np.int64)  # of each slot: the bucket above which it is slow

    def slow(self, records: Records, rows: Positions, durations: U64) -> Index:
        """Which of the rows took longer than 95 of 100 of their route's before them."""
        link = records["link"][rows]
        entry = np.isin(link, ENTRY_LINKS)
        parents = np.ascontiguousarray(records["parent_id"][rows]).view(np.uint64).reshape(-1)
        entry &= (records["role"][rows] == Role.SERVER) | (parents == 0)
        which: Index = entry.nonzero()[0]
        if not len(which):
            return which
        slots = self._slots_of(route_keys(records, rows[which]))
        known = slots >= 0
        which, slots = which[known], slots[known]
        buckets = _buckets(durations[which])
        slow = buckets > self._limits[slots]
        self._learn(slots, buckets)
        return which[slow]

    def _slots_of(self, keys: U64) -> Index:
        """The slot of each route, -1 where there is no room for more."""
        slots = self._known_slots(keys)
        unknown = slots < 0
        if unknown.any():
            self._make_room(np.unique(keys[unknown]))
            slots = self._known_slots(keys)
        return slots

    def _known_slots(self, keys: U64) -> Index:
        if not len(self._keys):
            return np.full(len(keys), -1, np.intp)
        at = np.searchsorted(self._keys, keys)
        at[at == len(self._keys)] = 0
        known: Index = np.where(self._keys[at] == keys, self._slots[at], -1)
        return known

    def _make_room(self, new: U64) -> None:
        """Give new routes a slot each."""
        if len(self._keys) + len(new) > _ROUTES_MOST:
            self._begin()  # processes come and go: begin anew
            new = new[:_ROUTES_MOST]
        slots = np.arange(len(self._keys), len(self._keys) + len(new))
        joined = np.concatenate((self._keys, new))
        order = joined.argsort()
        self._keys = joined[order]
        self._slots = np.concatenate((self._slots, slots))[order]
        more = np.zeros((len(new), _BUCKETS), np.float32)
        self._counts = np.concatenate((self._counts, more))
        self._limits = np.concatenate((self._limits, np.full(len(new), _BUCKETS, np.int64)))

    def _learn(self, slots: Index, buckets: Index) -> None:
        np.add.at(self._counts, (slots, buckets), 1)
        touched = np.bincount(slots, minlength=len(self._limits)).nonzero()[0]
        counts = self._counts[touched]
        totals = counts.sum(1)
        reached = counts.cumsum(1) >= 0.95 * totals[:, np.newaxis]
        limits = np.where(totals >= _ENOUGH, reached.argmax(1), _BUCKETS)
        self._limits[touched] = limits
        self._counts[touched[totals > _AGE_AT]] /= 2


def _buckets(durations: U64) -> Index:
    micros = np.maximum(durations.astype(np.float32) / 1000, 1)
    return np.minimum((8 * np.log2(micros)).astype(np.intp), _BUCKETS - 1)


def route_keys(records: Records, rows: Positions) -> U64:
    """A word for each route: process, role, method, and the path with its ids left out."""
    keys = records["tgid"][rows].astype(np.uint64) << np.uint64(16)
    keys |= records["role"][rows].astype(np.uint64) << np.uint64(8)
    keys |= records["method"][rows].astype(np.uint64)
    lengths = np.minimum(records["target_len"][rows], _ROUTE_BYTES)
    width = min(int(lengths.max(initial=0)), records["head"].shape[1])
    if width:
        keys ^= _path_words(records["head"][rows, :width], lengths)
    return (keys ^ keys >> np.uint64(31)) * np.uint64(0x9E3779B97F4A7C15)


def _path_words(heads: U8, lengths: npt.NDArray[np.uint16]) -> U64:
    """A hash of each path, by segments: one with a digit in it counts as any other such.

    Each byte counts with a number that depends on its segment and its place in that. Small
    numbers throughout: these matrices are most of what the tail costs.
    """
    rows, width = heads.shape
    columns = np.arange(width, dtype=np.uint8)
    marks = heads == ord("?")
    queries = np.where(marks.any(1), marks.argmax(1), width)
    ends = np.minimum(lengths, queries).astype(np.uint8)
    text = np.where(columns < ends[:, np.newaxis], heads, np.uint8(0))
    slashes = text == ord("/")
    # Segments of all rows, numbered in order: one begins at each slash and at each row.
    begins = slashes.copy()
    begins[:, 0] = True
    flat = begins.reshape(-1)
    at = flat.nonzero()[0]
    segment = np.cumsum(flat, dtype=np.int32) - 1
    digits = (text - np.uint8(ord("0")) < 10).reshape(-1)
    is_id = np.logical_or.reduceat(digits, at)[segment].reshape(rows, width)
    place = (np.arange(rows * width, dtype=np.int32) - at[segment].astype(np.int32)).reshape(
        rows, width
    )
    number = np.cumsum(slashes, axis=1, dtype=np.int32)
    # An id of any length is a slash and one mark.
    shown = np.where(is_id & ~slashes, np.where(place == 1, _ID_MARK, np.uint8(0)), text)
    words: U64 = np.einsum(
        "ij,ij->i", shown.astype(np.uint64), _MULTIPLIERS[(number * 67 + place) & 4095]
    )
    return words


_ID_MARK = np.uint8(0xFF)
_MULTIPLIERS = multipliers(4096)
