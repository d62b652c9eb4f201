"""What traced processes write to their logs, from the ring to the exporters, and what of it
belongs on spans.

A stage of the pipeline: it takes the ring of logs when it is time, and always before a batch of
spans goes on, so that an exception that was logged before its request ended finds the span. The
kernel says whose request a write is part of, as it says it of outgoing calls (docs/parents.md);
where that is proven later, the record waits for the proof like a span does.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.columns import Bytes, Positions
from waggle.evidence import HOLD_S, Joins
from waggle.exporter.base import ExporterStats
from waggle.layout import Flag, LogSource
from waggle.log_evidence import LogJoins
from waggle.log_failures import Failures
from waggle.log_shapes import Shapes, path_of_descriptor
from waggle.logrecords import LogBatch
from waggle.probes.logs.datagrams import entries_of_datagrams
from waggle.probes.logs.lines import FACTS, MAX_LINE, Assembler, Entries
from waggle.probes.logs.tracebacks import read_failure
from waggle.spans import Attributes, Event, Records, ResourceTable, SpanBatch

EVERY_S = 0.2  # how often the ring is looked at when no spans come
HIGH_WATER = 0.25  # or when it is this full
MAX_WAITING = 16_384  # records whose request is proven later,
MAX_WAITING_BYTES = 32 << 20  # and of their text
_SAMPLED = 1  # of W3C trace flags

_S = 1_000_000_000
_WAITS = np.uint16(Flag.TRACE_PENDING | Flag.UNPROVEN)
_DATAGRAMS = (LogSource.JOURNAL, LogSource.SYSLOG)
# What Joins reads and writes of a record, and which record that is.
_IDS = np.dtype(
    [
        *(
            (name, FACTS.fields[name][0])  # type: ignore[index]
            for name in ("flags", "trace_id", "span_id", "parent_id", "trace_flags")
        ),
        ("link", np.uint8),
        ("role", np.uint8),
        ("sampling", np.uint64),  # of the request; nobody asks
        ("row", np.intp),
    ]
)
_OF_RECORDS = tuple(name for name in _IDS.names or () if name not in ("sampling", "row"))


class LogRing(Protocol):
    """The ring of logs, or what stands in for one."""

    capacity: int

    def fileno(self) -> int: ...

    def pending(self) -> int: ...

    def read(self, max_records: int = ...) -> Records: ...


class LogExporter(Protocol):
    """Takes log records as an Exporter takes spans."""

    name: str

    def export(self, batch: LogBatch) -> None: ...

    def flush(self, timeout_s: float) -> None: ...

    def close(self, timeout_s: float) -> None: ...

    def stats(self) -> ExporterStats: ...


class Processes(Protocol):
    """What the process table offers."""

    @property
    def table(self) -> ResourceTable: ...

    def accept(self, records: Records) -> npt.NDArray[np.bool_]: ...

    def resources_of(self, records: Records) -> npt.NDArray[np.intp]: ...


@dataclass(slots=True)
class LogStats:
    """Records: every one that was assembled is in `out` or `lost`, by reason. with_ids: of `out`,
    those that belong to a request. failures: exceptions put on spans; late: that came when their
    span had left."""

    out: int = 0
    with_ids: int = 0
    rejected: int = 0  # writes of processes that are not traced
    failures: int = 0
    late: int = 0
    lost: dict[str, int] = field(default_factory=dict)

    def lose(self, reason: str, records: int) -> None:
        if records:
            self.lost[reason] = self.lost.get(reason, 0) + records


@dataclass(slots=True)
class _Waiting:
    """Entries of which some records wait: `ids`, for their proof."""

    since_ns: int
    entries: Entries
    ids: npt.NDArray[np.void]


class LogStage:
    """Moves log records; a stage of the pipeline, and its notes on spans."""

    def __init__(
        self,
        ring: LogRing,
        joins: Joins,
        processes: Processes,
        exporters: Sequence[LogExporter],
        clock: Callable[[], int],
        *,
        max_line: int = MAX_LINE,
        path_of: Callable[[int, int, int], str] | None = None,
    ) -> None:
        """clock: Unix time minus monotonic, ns. path_of: see path_of_descriptor()."""
        self.stats = LogStats()
        self.ring = ring
        self._joins = joins
        self._requests = LogJoins(joins)
        self._processes = processes
        self._exporters = exporters
        self._clock = clock
        self._assembler = Assembler(max_line)
        self._shapes = Shapes(path_of or path_of_descriptor)
        self._failures = Failures()
        self._waiting: list[_Waiting] = []
        self._next_look = 0.0

    # -- as a stage -----------------------------------------------------------------------

    def poll(self) -> None:
        """Take the ring when it is time, or when it fills."""
        full = self.ring.pending() / self.ring.capacity
        if full > HIGH_WATER or time.monotonic() >= self._next_look:
            self.move()

    def process(self, records: Records) -> Sequence[Records]:
        """Spans go on as they are, when everything that was logged before them is known."""
        self.move()
        return (records,)

    def annotate(self, batch: SpanBatch) -> SpanBatch:
        """The batch with the exceptions that were logged while its requests were served."""
        found, dropped = self._failures.take(batch.records["span_id"])
        if not found:
            return batch
        self.stats.failures += sum(map(len, found.values()))
        return replace(batch, events=found, dropped_events=dropped)

    def finish(self) -> None:
        """The end: what waits goes with what is known."""
        self.move(last=True)
        self._failures.give_up()

    def flush(self, timeout_s: float) -> None:
        for exporter in self._exporters:
            exporter.flush(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Finish, and have every exporter send what it has; they share the time."""
        self.finish()
        deadline = time.monotonic() + timeout_s
        for exporter in self._exporters:
            exporter.close(max(0.0, deadline - time.monotonic()))

    def exporter_stats(self) -> list[tuple[str, ExporterStats]]:
        """Name and account of each exporter."""
        return [(exporter.name, exporter.stats()) for exporter in self._exporters]

    def losses(self) -> dict[str, int]:
        """Records lost here, by reason; those of the kernel are in its counters."""
        lines = self._assembler.stats
        mine = {"binary": lines.binary, "cut": lines.cut, "exception_late": self._failures.late}
        return {f"log_{name}": n for name, n in {**self.stats.lost, **mine}.items() if n}

    # -- records --------------------------------------------------------------------------

    def move(self, *, last: bool = False) -> None:
        """Take everything that is in the ring now."""
        self._next_look = time.monotonic() + EVERY_S
        left = self.ring.pending()
        now_ns = time.monotonic_ns()
        self._joins.take()
        if last:
            self._requests.settle(last=True)
        while left > 0 and len(records := self.ring.read(left)):
            left -= len(records)
            self._guarded(self._add, records, now_ns)
        if self._assembler.waits() or last:
            self._guarded(self._carry_on, _no_records(), now_ns, last=last)
        self._release(now_ns, last=last)

    def _guarded(self, step: Callable[..., None], records: Records, *more: Any, **how: Any) -> None:
        """A fault of ours costs the logs at hand, not the spans that wait behind them."""
        try:
            step(records, *more, **how)
        except Exception:
            self.stats.lose("internal_error", len(records))
            self._assembler = Assembler(self._assembler.max_line, self._assembler.stats)

    def _carry_on(self, records: Records, now_ns: int, *, last: bool) -> None:
        self._begin(self._assembler.add(records, now_ns, last=last), now_ns)

    def _accepted(self, records: Records) -> Records:
        provisional = (records["flags"] & np.uint16(Flag.PROVISIONAL)) != 0
        if not provisional.any():
            return records
        keep = ~provisional
        keep[provisional] = self._processes.accept(records[provisional])
        self.stats.rejected += len(records) - int(keep.sum())
        kept: Records = records[keep]
        return kept

    def _add(self, records: Records, now_ns: int) -> None:
        records = self._accepted(records)
        datagrams = np.isin(records["source"], _DATAGRAMS)
        if datagrams.any():
            self._begin(self._read_datagrams(records[datagrams]), now_ns)
            records = records[~datagrams]
        if len(records):
            self._begin(self._assembler.add(records, now_ns), now_ns)

    def _read_datagrams(self, records: Records) -> Entries:
        found, lost = entries_of_datagrams(records)
        self.stats.lose("journal_unread", lost)
        return found

    def _begin(self, entries: Entries, now_ns: int) -> None:
        """Send on what is known; the rest waits."""
        if not len(entries):
            return
        pending = np.flatnonzero(entries.facts["flags"] & _WAITS)
        if len(pending):
            waiting = entries.take(pending)  # nothing else need stay in memory
            ids = np.zeros(len(pending), _IDS)
            ids["row"] = np.arange(len(pending))
            for name in _OF_RECORDS:
                ids[name] = waiting.facts[name]
            self._waiting.append(_Waiting(now_ns, waiting, ids))
        ready = np.ones(len(entries), np.bool_)
        ready[pending] = False
        self._emit(entries, np.flatnonzero(ready))

    def _release(self, now_ns: int, *, last: bool) -> None:
        """Records whose request is proven, or that have waited for too long."""
        still: list[_Waiting] = []
        room, memory = MAX_WAITING, MAX_WAITING_BYTES
        for waiting in reversed(self._waiting):
            ready, left = self._requests.resolve(waiting.ids)
            no_room = len(left) > room or len(waiting.entries.text) > memory
            if last or no_room or now_ns - waiting.since_ns > HOLD_S * _S:
                self.stats.lose("unproven", 0 if last else len(left))
                _forget(left)
                ready, left = np.concatenate([ready, left]), left[:0]
            self._settle(waiting.entries, ready)
            if len(left):
                room -= len(left)
                memory -= len(waiting.entries.text)
                still.append(replace(waiting, ids=left))
        self._waiting = still[::-1]

    def _settle(self, entries: Entries, ids: npt.NDArray[np.void]) -> None:
        if not len(ids):
            return
        rows = ids["row"]
        for name in ("flags", "trace_id", "parent_id", "trace_flags", "link"):
            entries.facts[name][rows] = ids[name]
        self._emit(entries, np.sort(rows))

    def _emit(self, entries: Entries, rows: Positions) -> None:
        if not len(rows):
            return
        batch = self._batch(entries, rows)
        self.stats.out += len(batch)
        self.stats.with_ids += int(batch.span_ids.any(1).sum())
        for exporter in self._exporters:
            try:
                exporter.export(batch)
            except Exception:  # a fault of ours must cost neither the others nor the spans
                self.stats.lose(f"failed_in_{exporter.name}", len(batch))

    def _batch(self, entries: Entries, rows: Positions) -> LogBatch:
        facts = entries.facts[rows]
        owned: npt.NDArray[np.bool_] = np.asarray(facts["parent_id"].any(1))
        offset = np.uint64(self._clock() % (1 << 64))
        observed = facts["time_ns"] + offset
        heads = [entries.heads[row] for row in rows.tolist()]
        said = np.array([head.time_ns if head else 0 for head in heads], np.uint64)
        text, starts, lengths = _valid(entries, rows)
        extra = {n: entries.extra[r] for n, r in enumerate(rows.tolist()) if r in entries.extra}
        batch = LogBatch(
            text=text,
            starts=starts,
            lengths=lengths,
            time_ns=np.where(said, said, observed),
            observed_ns=observed,
            trace_ids=np.where(owned[:, None], facts["trace_id"], 0).astype(np.uint8),
            span_ids=np.where(owned[:, None], facts["parent_id"], 0).astype(np.uint8),
            trace_flags=facts["trace_flags"],
            shape=self._shapes.of(entries, rows, self._processes.resources_of(facts), owned),
            shapes=self._shapes.rows,
            table=self._processes.table,
            extra=extra,
        )
        self._note_failures(batch, extra)
        return batch

    def _note_failures(self, batch: LogBatch, extra: dict[int, Attributes]) -> None:
        """Exceptions among the records: attributes of these, events of their spans."""
        for row in _with_lines(batch):
            start = int(batch.starts[row])
            body = batch.text[start : start + int(batch.lengths[row])].tobytes()
            failure = read_failure(body)
            if failure is None:
                continue
            named = {"exception.type": failure.type, "exception.message": failure.message}
            attributes: Attributes = {key: text for key, text in named.items() if text}
            extra[row] = {**extra.get(row, {}), **attributes}
            if batch.span_ids[row].any():
                event = Event(
                    "exception",
                    int(batch.observed_ns[row]),
                    {**attributes, "exception.stacktrace": failure.stacktrace},
                )
                sampled = bool(batch.trace_flags[row] & _SAMPLED)
                self._failures.add(batch.span_ids[row].tobytes(), event, sampled=sampled)


def _with_lines(batch: LogBatch) -> list[int]:
    """Rows whose body has several lines."""
    breaks = np.flatnonzero(batch.text == 10)
    before = np.searchsorted(breaks, batch.starts)
    behind = np.searchsorted(breaks, batch.starts + batch.lengths)
    rows: list[int] = np.flatnonzero(behind > before).tolist()
    return rows


def _valid(entries: Entries, rows: Positions) -> tuple[Bytes, Positions, Positions]:
    """Text, starts and lengths of rows; what is no UTF-8 has replacement characters in it."""
    starts, lengths = entries.starts[rows], entries.lengths[rows]
    if int(entries.text.max(initial=0)) < 0x80:
        return entries.text, starts, lengths
    starts, lengths = starts.copy(), lengths.copy()
    mended: list[bytes] = []
    end = len(entries.text)
    for number, row in enumerate(rows.tolist()):
        raw = entries.one(row)
        text = raw.decode("utf-8", "replace").encode()
        if text != raw:
            starts[number], lengths[number] = end, len(text)
            mended.append(text)
            end += len(text)
    text_with = np.concatenate([entries.text, np.frombuffer(b"".join(mended), np.uint8)])
    return text_with, starts, lengths


def _forget(ids: npt.NDArray[np.void]) -> None:
    """What is not proven has no request."""
    ids["parent_id"] = 0
    ids["link"] = 0
    ids["flags"] &= np.uint16(Flag.PROVISIONAL)


def _no_records() -> Records:
    return np.empty(0, layout.LOG)
