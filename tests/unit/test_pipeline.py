"""The loop from rings to exporters, with rings that are lists."""

import os
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from waggle.evidence import Joins
from waggle.exporter.base import ExporterStats
from waggle.layout import EVIDENCE, EXCHANGE, LARGE_EXCHANGE, Flag
from waggle.pipeline import GATHER_S, Pipeline, Stage, WallClock, patience_of
from waggle.spans import Records, ResourceTable, SpanBatch

OFFSET_NS = 1_700_000_000_000_000_000
REJECTED = 666  # the tgid that discovery does not want


def exchanges(tgids: list[int], flags: int = 0, layout: "np.dtype[np.void]" = EXCHANGE) -> Records:
    records = np.zeros(len(tgids), layout)
    records["tgid"] = tgids
    records["flags"] = flags
    return records


class FakeRing:
    """Holds records; ready for epoll while there are some, as a ring that woke its reader."""

    def __init__(self, records: Records, capacity: int = 1000) -> None:
        self.capacity = capacity
        self.busy = 0  # reserved, not submitted
        self.reads: list[float] = []
        self._fd = os.eventfd(0, os.EFD_NONBLOCK)
        self._records = records[:0]
        self.put(records)

    def put(self, records: Records) -> None:
        self._records = np.concatenate([self._records, records])
        os.eventfd_write(self._fd, 1)

    def fileno(self) -> int:
        return self._fd

    def pending(self) -> int:
        return len(self._records) + self.busy

    def read(self, max_records: int = 100) -> Records:
        self.reads.append(time.monotonic())
        taken, self._records = self._records[:max_records], self._records[max_records:]
        return taken.copy()

    def close(self) -> None:
        os.close(self._fd)


class FakeProcesses:
    """Every process is its own resource; one is not to be traced."""

    def __init__(self) -> None:
        self.table = ResourceTable()
        self.asked: list[int] = []

    def accept(self, records: Records) -> npt.NDArray[np.bool_]:
        self.asked += records["tgid"].tolist()
        accepted: npt.NDArray[np.bool_] = records["tgid"] != REJECTED
        return accepted

    def resources_of(self, records: Records) -> npt.NDArray[np.intp]:
        return records["tgid"].astype(np.intp) * 10


class FakeExporter:
    """Keeps what it is given, or throws."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name = name
        self.batches: list[SpanBatch] = []
        self.timeouts: list[float] = []
        self._error = error

    def export(self, batch: SpanBatch) -> None:
        if self._error:
            raise self._error
        self.batches.append(batch)

    def flush(self, timeout_s: float) -> None:
        self.close(timeout_s)

    def close(self, timeout_s: float) -> None:
        self.timeouts.append(timeout_s)
        if self._error:
            raise self._error

    def stats(self) -> ExporterStats:
        return ExporterStats()

    def tgids(self) -> list[int]:
        return [tgid for batch in self.batches for tgid in batch.records["tgid"].tolist()]


@pytest.fixture
def rings() -> Iterator[list[FakeRing]]:
    """Two rings, one of each layout, both empty."""
    made = [FakeRing(exchanges([])), FakeRing(exchanges([], layout=LARGE_EXCHANGE), capacity=100)]
    yield made
    for ring in made:
        ring.close()


def pipeline(
    rings: list[FakeRing],
    *exporters: FakeExporter,
    gather_s: float = 0.0,
    max_records: int = 100,
    joins: Joins | None = None,
    stages: Sequence[Stage] = (),
) -> Pipeline:
    return Pipeline(
        rings,
        FakeProcesses(),
        exporters,
        lambda: OFFSET_NS,
        gather_s=gather_s,
        max_records=max_records,
        joins=joins,
        stages=stages,
    )


def test_records_of_every_ring_reach_every_exporter(rings: list[FakeRing]) -> None:
    """Both layouts arrive everywhere, with resources, table and clock offset."""
    rings[0].put(exchanges([1, 2]))
    rings[1].put(exchanges([3], layout=LARGE_EXCHANGE))
    first, second = FakeExporter("first"), FakeExporter("second")
    line = pipeline(rings, first, second)
    assert line.step(0) == 3
    for exporter in (first, second):
        assert [batch.records.dtype for batch in exporter.batches] == [EXCHANGE, LARGE_EXCHANGE]
        assert exporter.tgids() == [1, 2, 3]
        assert [b.resources.tolist() for b in exporter.batches] == [[10, 20], [30]]
        assert {b.clock_offset_ns for b in exporter.batches} == {OFFSET_NS}
    assert (line.stats.spans_in, line.stats.spans_out, line.stats.batches) == (3, 3, 2)
    assert line.stats.cpu_ns > 0
    assert line.stats.failures == {}
    line.close(0)


def test_order_is_the_rings(rings: list[FakeRing]) -> None:
    """Nothing is sorted: what a ring held first goes out first, over several batches."""
    rings[0].put(exchanges(list(range(250, 0, -1))))
    exporter = FakeExporter("only")
    line = pipeline(rings, exporter)
    assert line.step(0) == 250
    assert exporter.tgids() == list(range(250, 0, -1))
    assert [len(batch) for batch in exporter.batches] == [100, 100, 50]
    line.close(0)


def test_provisional_records_of_rejected_processes_are_dropped_and_counted(
    rings: list[FakeRing],
) -> None:
    """Only records flagged provisional are asked about; each goes out or is counted."""
    rings[0].put(exchanges([1, REJECTED], int(Flag.PROVISIONAL)))
    rings[0].put(exchanges([REJECTED, 2], int(Flag.RESYNCED)))
    exporter, processes = FakeExporter("only"), FakeProcesses()
    line = Pipeline(rings, processes, [exporter], lambda: 0, gather_s=0)
    line.step(0)
    assert processes.asked == [1, REJECTED]
    assert exporter.tgids() == [1, REJECTED, 2]
    assert (line.stats.spans_in, line.stats.rejected, line.stats.spans_out) == (4, 1, 3)
    line.close(0)


def test_a_batch_of_rejected_records_troubles_no_exporter(rings: list[FakeRing]) -> None:
    """Nothing left of a batch: no exporter sees an empty one."""
    rings[0].put(exchanges([REJECTED] * 3, int(Flag.PROVISIONAL)))
    exporter = FakeExporter("only")
    line = pipeline(rings, exporter)
    assert line.step(0) == 3
    assert exporter.batches == []
    assert (line.stats.rejected, line.stats.spans_out, line.stats.batches) == (3, 0, 0)
    line.close(0)


def test_an_exporter_that_throws_stops_nobody(rings: list[FakeRing]) -> None:
    """Its exceptions and the spans it missed are counted by name; the others get everything."""
    rings[0].put(exchanges(list(range(150))))
    sick = FakeExporter("sick", ValueError("no room"))
    well = FakeExporter("well")
    line = pipeline(rings, sick, well)
    line.step(0)
    line.flush(1)
    line.close(1)
    assert well.tgids() == list(range(150))
    assert len(well.timeouts) == len(sick.timeouts) == 2
    failures = line.stats.failures
    assert list(failures) == ["sick"]
    assert (failures["sick"].exceptions, failures["sick"].spans) == (4, 150)
    assert failures["sick"].last == "ValueError: no room"


def test_closing_shares_one_deadline(rings: list[FakeRing]) -> None:
    """An exporter that takes all the time leaves none to the next, but it is still closed."""

    class Slow(FakeExporter):
        def close(self, timeout_s: float) -> None:
            super().close(timeout_s)
            deadline = time.monotonic() + timeout_s
            while time.monotonic() < deadline:
                time.sleep(0.001)

    slow, next_one = Slow("slow"), FakeExporter("next")
    pipeline(rings, slow, next_one).close(0.05)
    assert slow.timeouts[0] <= 0.05
    assert next_one.timeouts == [0.0]


def test_an_idle_step_ends_in_time_and_moves_nothing(rings: list[FakeRing]) -> None:
    """Empty rings: the step waits, returns 0, and hands nothing to anybody."""
    for ring in rings:
        os.eventfd_read(ring.fileno())
    exporter = FakeExporter("only")
    line = pipeline(rings, exporter)
    began = time.monotonic()
    assert line.step(0.02) == 0
    assert 0.015 < time.monotonic() - began < 5
    assert exporter.batches == []
    line.close(0)


def test_wake_ends_a_long_wait(rings: list[FakeRing]) -> None:
    """wake() from another thread ends a step that would wait a minute."""
    for ring in rings:
        os.eventfd_read(ring.fileno())
    line = pipeline(rings, FakeExporter("only"))
    waker = threading.Thread(target=line.wake)
    began = time.monotonic()
    waker.start()
    assert line.step(60) == 0
    assert time.monotonic() - began < 30
    waker.join()
    line.close(0)


def test_records_gather_between_two_reads(rings: list[FakeRing]) -> None:
    """After a read that found something the next comes the gathering time later, not before."""
    line = pipeline(rings, FakeExporter("only"), gather_s=0.1)
    for _ in range(2):
        rings[0].put(exchanges([1]))
        line.step(0)
    first, second = rings[0].reads
    assert second - first >= 0.095
    line.close(0)


def test_a_filling_ring_is_read_at_once(rings: list[FakeRing]) -> None:
    """A ring more than a quarter full does not wait for the gathering time."""
    line = pipeline(rings, FakeExporter("only"), gather_s=60, max_records=1000)
    rings[0].put(exchanges([1]))
    line.step(0)
    rings[0].put(exchanges([1] * 251))
    began = time.monotonic()
    assert line.step(0) == 251
    assert time.monotonic() - began < 30
    line.close(0)


def test_a_busy_record_is_not_polled_in_a_tight_loop(rings: list[FakeRing]) -> None:
    """A ring with nothing but a record being written is looked at once a gathering time."""
    rings[0].busy = 1
    line = pipeline(rings, FakeExporter("only"), gather_s=0.1)
    line.step(60)
    line.step(60)
    first, second = rings[0].reads
    assert second - first >= 0.095
    line.close(0)


class CountingStage:
    """Changes nothing, and knows how often it was asked."""

    def __init__(self) -> None:
        self.polls = 0

    def poll(self) -> None:
        self.polls += 1

    def process(self, records: Records) -> Sequence[Records]:
        return (records,)


def test_stages_are_polled_while_nothing_comes(rings: list[FakeRing]) -> None:
    """What a stage lets out after a time leaves it also when no record follows."""
    stage = CountingStage()
    line = pipeline(rings, FakeExporter("only"), stages=[stage])
    for _ in range(3):
        line.step(0)
    assert stage.polls == 3
    line.close(0)


def test_draining_empties_the_rings(rings: list[FakeRing]) -> None:
    """drain() moves everything that is left, without waiting."""
    rings[0].put(exchanges([1] * 350))
    rings[1].put(exchanges([2] * 5, layout=LARGE_EXCHANGE))
    exporter = FakeExporter("only")
    line = pipeline(rings, exporter, gather_s=60)
    assert line.drain() == 355
    assert [ring.pending() for ring in rings] == [0, 0]
    assert len(exporter.tgids()) == line.stats.spans_out == 355
    line.close(0)


def test_monotonic_time_and_offset_make_unix_time() -> None:
    """The clock's offset added to monotonic time is now, to a few milliseconds."""
    clock = WallClock()
    before = time.time_ns()
    now = time.monotonic_ns() + clock()
    assert before - 5_000_000 < now < time.time_ns() + 5_000_000


def test_the_clock_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of the system's clock shows after the refresh time, and not before."""
    now = {"monotonic": 0, "unix": 1000}
    monkeypatch.setattr(time, "monotonic_ns", lambda: now["monotonic"])
    monkeypatch.setattr(time, "time_ns", lambda: now["unix"])
    clock = WallClock(refresh_s=1.0)
    assert clock() == 1000
    now.update(monotonic=500_000_000, unix=9_500_000_000)
    assert clock() == 1000
    now.update(monotonic=1_000_000_000, unix=10_000_000_000)
    assert clock() == 9_000_000_000


def test_records_gather_for_as_long_as_everybody_can_wait() -> None:
    """The least patient exporter decides; one that says nothing wants its spans soon."""
    screen, patient, eager = FakeExporter("screen"), FakeExporter("far"), FakeExporter("near")
    patient.patience_s, eager.patience_s = 0.7, 0.0  # type: ignore[attr-defined]
    assert patience_of([patient]) == 0.7
    assert patience_of([patient, screen]) == GATHER_S
    assert patience_of([patient, eager]) == GATHER_S
    patient.patience_s = 5.0  # type: ignore[attr-defined]
    assert patience_of([patient]) == patience_of([]) == 1.0


def test_an_idle_pipeline_looks_less_and_less_often(rings: list[FakeRing]) -> None:
    """While nothing comes each wait is longer than the one before, up to the gathering time."""
    for ring in rings:
        os.eventfd_read(ring.fileno())
    line = pipeline(rings, FakeExporter("only"), gather_s=0.08)
    took = []
    for _ in range(5):
        began = time.monotonic()
        assert line.step() == 0
        took.append(time.monotonic() - began)
    assert took[0] >= 0.009
    assert took[1] >= 0.018
    assert min(took[3:]) >= 0.075
    line.close(0)


class NoEvidence:
    """The ring of evidence, in which there never is any."""

    capacity = 100

    def pending(self) -> int:
        return 0

    def read(self, max_records: int = 100) -> Records:
        return np.empty(0, EVIDENCE)


def test_what_waits_for_evidence_leaves_in_silence(rings: list[FakeRing]) -> None:
    """A record that has waited long enough is handed over though no other ever comes."""
    now = 0
    exporter = FakeExporter("one")
    line = pipeline(rings, exporter, joins=Joins(NoEvidence(), hold_s=1.0, clock_ns=lambda: now))
    rings[0].put(exchanges([7], Flag.TRACE_PENDING))
    line.step(0)
    assert exporter.tgids() == []
    now = 2_000_000_000
    line.step(0)
    assert exporter.tgids() == [7]
    line.close(0)
