"""From the rings to the exporters: the loop that every finished exchange passes.

    pipeline = Pipeline(rings, processes, exporters, clock)
    while running:
        pipeline.step()
    pipeline.drain()
    pipeline.close(timeout_s=5)

One step waits for records, takes what the rings hold in bounded batches, drops
what belongs to processes that discovery has rejected, adds the resources, and
hands each batch to every exporter. Nothing is sorted and nothing kept: what an
exporter queues is its own, bounded, affair.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from waggle.errors import WaggleError
from waggle.evidence import Joins
from waggle.exporter.base import Exporter
from waggle.layout import Flag
from waggle.ring import MAX_RECORDS, Call, RingPoller
from waggle.spans import Records, ResourceTable, SpanBatch
from waggle.summary import TraceCount

_NS = 1_000_000_000

# After a read that found something, records gather for this long where nobody says that
# more is good enough (patience_of): a batch has a fixed cost, which many then share.
GATHER_S = 0.2
_LONGEST_GATHER_S = 1.0
# ... unless a ring is this full. How soon that is looked at follows from how fast it fills.
# Fuller ones cost some hundredths less a span, and two more megabytes that stay.
_HIGH_WATER = 0.2
_LOOK_S = 0.01
_LONGEST_LOOK_S = 0.1
# A producer wakes nobody before a fair amount waits, so an idle wait ends by itself; it
# doubles while nothing comes, up to the gathering time.
IDLE_WAIT_S = 0.05
_FIRST_WAIT_S = 0.01  # somebody sits there and waits for the first span


class Source(Protocol):
    """A ring, or what stands in for one."""

    capacity: int  # records

    def fileno(self) -> int: ...

    def pending(self) -> int: ...

    def read(self, max_records: int = ...) -> Records: ...


class Stage(Protocol):
    """Changes batches on their way: a protocol whose records need more than a look."""

    def poll(self) -> None:
        """Take what its own sources hold; called often, also when no records come."""
        ...

    def process(self, records: Records) -> Sequence[Records]:
        """The same records, changed, as arrays of one layout each.

        A stage may leave some out, and let out later what it held back.
        """
        ...


class Annotator(Protocol):
    """Knows more of spans than their records say."""

    def annotate(self, batch: SpanBatch) -> SpanBatch: ...


class Processes(Protocol):
    """What the process table offers to the pipeline."""

    @property
    def table(self) -> ResourceTable: ...

    def accept(self, records: Records) -> npt.NDArray[np.bool_]:
        """For provisional records: which belong to processes that are to be traced."""
        ...

    def resources_of(self, records: Records) -> npt.NDArray[np.intp]:
        """One index into `table` per record."""
        ...


class Meter(Protocol):
    """Measures every exchange, before sampling."""

    def measure(self, batch: SpanBatch) -> None: ...


def patience_of(exporters: Sequence[Exporter]) -> float:
    """Seconds that records may gather for: the least that any exporter is content with.

    An exporter says so by an attribute `patience_s`; without it, it wants them soon.
    """
    wanted = [float(getattr(exporter, "patience_s", GATHER_S)) for exporter in exporters]
    return max(GATHER_S, min([*wanted, _LONGEST_GATHER_S]))


class WallClock:
    """Unix time minus CLOCK_MONOTONIC, in ns; measured again every second.

    Each measurement takes the closest of several pairs of readings, so that a
    preemption between the two does not shift every span.
    """

    def __init__(self, refresh_s: float = 1.0, pairs: int = 5) -> None:
        self._refresh_ns = int(refresh_s * _NS)
        self._pairs = pairs
        self._offset_ns = 0
        self._measured_ns: int | None = None

    def __call__(self) -> int:
        now = time.monotonic_ns()
        if self._measured_ns is None or now - self._measured_ns >= self._refresh_ns:
            self._offset_ns = min(self._pair() for _ in range(self._pairs))[1]
            self._measured_ns = now
        return self._offset_ns

    @staticmethod
    def _pair() -> tuple[int, int]:
        """(width of the bracket, offset at its middle)."""
        before = time.monotonic_ns()
        unix = time.time_ns()
        after = time.monotonic_ns()
        return after - before, unix - (before + after) // 2


@dataclass(slots=True)
class Failures:
    """What one exporter threw. Its spans are lost to it, not to the others."""

    exceptions: int = 0
    spans: int = 0
    last: str = ""

    def add(self, error: Exception, spans: int) -> None:
        self.exceptions += 1
        self.spans += spans
        self.last = f"{type(error).__name__}: {error}"[:500]


@dataclass(slots=True)
class PipelineStats:
    """Every record read is in `rejected`, `held` or `spans_out`; times are ns of our CPU.

    spans_out counts spans handed to the exporters, once however many there are.
    """

    spans_in: int = 0
    rejected: int = 0  # provisional records of processes that are not traced
    held: int = 0  # left out by a stage, or not let out yet: it says why
    spans_out: int = 0
    batches: int = 0
    cpu_ns: int = 0
    failures: dict[str, Failures] = field(default_factory=dict)


class Pipeline:
    """Moves spans from rings to exporters, one step() after the other, in one thread.

    rings: sources of exchange records, any layouts. clock: gives Unix time
    minus monotonic time in ns. max_records bounds a batch, and with it memory:
    a step holds one batch at a time. stages, then meter, then sampler: what the meter
    is given is whole, and all of it. watched: rings that a stage takes, which wake us too.
    annotators: add to a batch what is known of its spans from elsewhere.
    """

    def __init__(
        self,
        rings: Sequence[Source],
        processes: Processes,
        exporters: Sequence[Exporter],
        clock: Callable[[], int],
        *,
        stages: Sequence[Stage] = (),
        max_records: int = MAX_RECORDS,
        gather_s: float = GATHER_S,
        joins: Joins | None = None,
        meter: Meter | None = None,
        sampler: Stage | None = None,
        watched: Sequence[Source] = (),
        annotators: Sequence[Annotator] = (),
    ) -> None:
        self.stats = PipelineStats()
        self.traces = TraceCount()
        self.complaint: WaggleError | None = None  # an exporter's, for the user
        self._rings = rings
        self._processes = processes
        self._exporters = exporters
        self._clock = clock
        self._joins = joins
        self._stages = stages
        self._last = () if sampler is None else (sampler,)
        self._meter = meter
        self._max_records = max_records
        self._gather_s = gather_s
        self._next_read = 0.0
        self._idle_s = _FIRST_WAIT_S
        self._watched = (*rings, *watched)
        self._annotators = annotators
        self._poller = RingPoller(self._watched)

    def step(self, timeout_s: float | None = None) -> int:
        """Wait for records for at most about timeout_s, move what is there; spans moved.

        Between two reads of rings that were not empty lies the gathering time,
        unless a ring fills up. wake() ends the wait early. Without timeout_s the
        wait is short at first and longer the longer nothing comes.
        """
        if not self._gather():
            self._poller.wait(self._idle_s if timeout_s is None else timeout_s)
        waiting = any(ring.pending() for ring in self._watched)
        # What waits for evidence waits for time as well, also when nothing new comes.
        held = self._joins is not None and self._joins.holds()
        if waiting or held:
            moved = self._move_all()
        else:
            moved = 0
            self._poll_stages()  # nor does a stage wait for somebody else's records
        # Also when all that waits is still being written: it must not be polled in a tight loop.
        self._next_read = time.monotonic() + self._gather_s if waiting else 0.0
        longest_s = max(IDLE_WAIT_S, self._gather_s)
        self._idle_s = IDLE_WAIT_S if waiting else min(2 * self._idle_s, longest_s)
        return moved

    def wake(self) -> None:
        """End the wait of the running step, or of the next one. Safe in a signal handler."""
        self._poller.wake()

    def drain(self, max_spans: int = 1_000_000) -> int:
        """Move what is left once the producers are detached; spans moved."""
        total = 0
        while total < max_spans:
            moved = self._move_all()
            if moved == 0:
                break
            total += moved
        if self._joins is not None:
            self._deliver_all(self._joins.finish())
        return total

    def flush(self, timeout_s: float) -> None:
        """Have every exporter send what it holds; all of them share the time."""
        self._in_turn(timeout_s, lambda exporter, left: exporter.flush(left))

    def close(self, timeout_s: float) -> None:
        """Flush and close every exporter within the time."""
        self._in_turn(timeout_s, lambda exporter, left: exporter.close(left))
        self._poller.close()

    def _gather(self) -> bool:
        """Let records gather until it is time to read; False when there was nothing to wait for."""
        begun = time.monotonic()
        if self._next_read <= begun:
            return False
        now, call = begun, Call.NOBODY
        while now < self._next_read and (full := self._fullness()) < 1:
            self._poll_stages()
            pause_s = min(self._next_read - now, _next_look(full, now - begun))
            # A producer calls several times in a row, and then no more.
            listening = call is not Call.PRODUCER
            call = max(call, self._poller.wait_for_call(pause_s, by_producers=listening))
            if call is Call.WAKE:
                break
            now = time.monotonic()
        return True

    def _fullness(self) -> float:
        """What the fullest ring holds, as a share of what it should when it is read."""
        shares = [ring.pending() / ring.capacity for ring in self._watched]
        if self._joins is not None:
            shares.append(self._joins.fullness())
        return max(shares) / _HIGH_WATER

    def _move_all(self) -> int:
        started = time.thread_time_ns()
        self._poll_stages()
        if self._joins is not None:
            self._deliver_all(self._joins.release())
        moved = sum(self._move(ring) for ring in self._rings)
        self.stats.cpu_ns += time.thread_time_ns() - started
        return moved

    def _move(self, ring: Source) -> int:
        """Move what `ring` held when we came; what arrives meanwhile waits for the next step."""
        left = ring.pending()
        moved = 0
        while left > 0:
            records = ring.read(min(left, self._max_records))
            if len(records) == 0:
                break
            moved += len(records)
            left -= len(records)
            self._process(records)
        return moved

    def _poll_stages(self) -> None:
        for stage in (*self._stages, *self._last):
            stage.poll()

    def _process(self, records: Records) -> None:
        self.stats.spans_in += len(records)
        records = self._accepted(records)
        self._deliver(records if self._joins is None else self._joins.hold(records))

    def _deliver_all(self, batches: Sequence[Records]) -> None:
        for records in batches:
            self._deliver(records)

    def _deliver(self, records: Records) -> None:
        """Records that are as they shall be, through the stages to the exporters."""
        if len(records) == 0:
            return
        self.stats.held += len(records)
        for part in _through(self._stages, [records]):
            measured = self._measured(part)
            for kept in _through(self._last, [part]):
                self.stats.held -= len(kept)
                if measured is None or kept is not part:
                    self._hand_over(self._batch(kept))
                else:
                    self._hand_over(measured)

    def _measured(self, records: Records) -> SpanBatch | None:
        """Everything, sampled or not; the batch, where somebody measures."""
        if self._meter is None or len(records) == 0:
            return None
        batch = self._batch(records)
        try:
            self._meter.measure(batch)
        except Exception as error:
            self.stats.failures.setdefault("metrics", Failures()).add(error, len(records))
        return batch

    def _hand_over(self, batch: SpanBatch) -> None:
        if len(batch) == 0:
            return
        for annotator in self._annotators:
            batch = annotator.annotate(batch)
        self.traces.add(batch.records)
        self.stats.spans_out += len(batch)
        self.stats.batches += 1
        for exporter in self._exporters:
            self._export(exporter, batch)

    def _batch(self, records: Records) -> SpanBatch:
        return SpanBatch(
            records, self._processes.resources_of(records), self._processes.table, self._clock()
        )

    def _accepted(self, records: Records) -> Records:
        """Without the provisional records of processes that are not to be traced."""
        provisional = (records["flags"] & np.uint16(Flag.PROVISIONAL)) != 0
        if not provisional.any():
            return records
        keep = ~provisional
        keep[provisional] = self._processes.accept(records[provisional])
        self.stats.rejected += len(records) - int(keep.sum())
        kept: Records = records[keep]
        return kept

    def _export(self, exporter: Exporter, batch: SpanBatch) -> None:
        try:
            exporter.export(batch)
        except Exception as error:
            self._failures(exporter).add(error, len(batch))

    def _in_turn(self, timeout_s: float, act: Callable[[Exporter, float], None]) -> None:
        deadline = time.monotonic() + timeout_s
        for exporter in self._exporters:
            try:
                act(exporter, max(0.0, deadline - time.monotonic()))
            except WaggleError as error:
                self.complaint = self.complaint or error
                self._failures(exporter).add(error, 0)
            except Exception as error:
                self._failures(exporter).add(error, 0)

    def _failures(self, exporter: Exporter) -> Failures:
        return self.stats.failures.setdefault(exporter.name, Failures())


def _through(stages: Sequence[Stage], parts: Sequence[Records]) -> Sequence[Records]:
    """What the stages, one after the other, make of batches."""
    for stage in stages:
        parts = [made for part in parts for made in stage.process(part)]
    return parts


def _next_look(full: float, elapsed_s: float) -> float:
    """Seconds for which a ring that filled so far in this time may surely be left alone.

    It may fill twice as fast from now on. A burst out of nothing is no matter of looking:
    the producer calls when much is waiting.
    """
    if full <= 0:
        return _LONGEST_LOOK_S
    soonest_s = (1 - full) * elapsed_s / (2 * full)
    return min(max(soonest_s, _LOOK_S), _LONGEST_LOOK_S)
