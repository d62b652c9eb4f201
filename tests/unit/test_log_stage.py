"""Log records on their way: resources, ids that are proven late, exceptions on spans, losses."""

import numpy as np
import numpy.typing as npt
import pytest

from unit.log_writes import Write, records_of, span_id
from waggle import layout
from waggle.evidence import Joins
from waggle.exporter.base import ExporterStats
from waggle.exporter.messages import span_message
from waggle.layout import EvidenceKind, Flag, LogSource, Role
from waggle.logrecords import LogBatch
from waggle.logs import LogStage
from waggle.spans import Attributes, Records, Resource, ResourceTable, SpanBatch, decode_span

TRACE = b"Traceback (most recent call last):\n  File 'a', line 1\nValueError: no\n"


class Ring:
    """Stands in for a ring."""

    capacity = 1000

    def __init__(self, records: Records) -> None:
        self._records = records

    def fileno(self) -> int:
        raise NotImplementedError

    def pending(self) -> int:
        return len(self._records)

    def put(self, records: Records) -> None:
        self._records = np.concatenate([self._records, records])

    def read(self, max_records: int = 1000) -> Records:
        taken, self._records = self._records[:max_records], self._records[max_records:]
        return taken


class Processes:
    """One traced process, 7."""

    table = ResourceTable([Resource({"service.name": "shop"})])

    def accept(self, records: Records) -> npt.NDArray[np.bool_]:
        return np.asarray(records["tgid"] == 7)

    def resources_of(self, records: Records) -> npt.NDArray[np.intp]:
        return np.zeros(len(records), np.intp)


class Collecting:
    """Keeps what it is given."""

    name = "collecting"

    def __init__(self) -> None:
        self.found: list[tuple[str, bytes, Attributes]] = []

    def export(self, batch: LogBatch) -> None:
        for row in range(len(batch)):
            attributes = {
                **batch.shapes[int(batch.shape[row])].attributes,
                **batch.extra.get(row, {}),
            }
            self.found.append((batch.body(row), batch.span_ids[row].tobytes(), attributes))

    def flush(self, timeout_s: float) -> None:
        pass

    def close(self, timeout_s: float) -> None:
        pass

    def stats(self) -> ExporterStats:
        return ExporterStats(len(self.found))


class System:
    """A stage, its rings and what comes out."""

    def __init__(self) -> None:
        self.ring = Ring(np.empty(0, layout.LOG))
        self.evidence = Ring(np.empty(0, layout.EVIDENCE))
        self.out = Collecting()
        self.joins = Joins(self.evidence, clock_ns=lambda: 5_000)
        self.stage = LogStage(
            self.ring, self.joins, Processes(), [self.out], lambda: 0, path_of=lambda *_: "/a/b.log"
        )

    def log(self, *writes: Write) -> None:
        self.ring.put(records_of(writes))


def exchanges(*requests: int) -> SpanBatch:
    records = np.zeros(len(requests), layout.EXCHANGE)
    records["role"] = Role.SERVER
    for row, request in enumerate(requests):
        records["span_id"][row] = np.frombuffer(span_id(request), np.uint8)
    return SpanBatch(records, np.zeros(len(requests), np.intp), Processes.table, 0)


def test_a_record_and_its_request() -> None:
    """A record has the span id of its request, the evidence for it, and where it was written."""
    system = System()
    system.log(Write(b"one\n", 1), Write(b"two\n"), Write(b"three\n", source=LogSource.FILE))
    system.stage.move()
    assert system.out.found == [
        ("one", span_id(1), {"log.iostream": "stdout", "waggle.link.method": "thread"}),
        ("two", bytes(8), {"log.iostream": "stdout"}),
        ("three", bytes(8), {"log.file.path": "/a/b.log", "log.file.name": "b.log"}),
    ]


def test_an_exception_is_an_event() -> None:
    """An exception that is logged before its span comes is the span's, once, and no other's."""
    system = System()
    system.log(Write(b"ERROR:root:failed\n" + TRACE, 1), Write(b"more\n", 2))
    batch = exchanges(1, 2)
    system.stage.process(batch.records)
    annotated = system.stage.annotate(batch)
    ((event,), ()) = [decode_span(annotated, row).events for row in range(2)]
    assert event.name == "exception"
    assert event.attributes["exception.type"] == "ValueError"
    assert event.attributes["exception.message"] == "no"
    assert str(event.attributes["exception.stacktrace"]).startswith("Traceback")
    assert system.stage.annotate(batch) is batch
    assert system.out.found[0][2]["exception.type"] == "ValueError"


def test_more_exceptions_than_a_span_keeps() -> None:
    """Eight different ones are events; the span says how many there were beyond."""
    system = System()
    for number in range(11):
        system.log(Write(b"ERROR:root:failed\n" + TRACE.replace(b"no", b"no %d" % number), 1))
    batch = exchanges(1, 2)
    system.stage.process(batch.records)
    annotated = system.stage.annotate(batch)
    spans = [span_message(decode_span(annotated, row)) for row in range(2)]
    assert [(len(span.events), span.dropped_events_count) for span in spans] == [(8, 3), (0, 0)]
    assert system.stage.losses() == {}


def test_an_exception_without_its_span_is_counted() -> None:
    """Where the span has left before, the exception is counted as late; where none comes, as
    its trace is not sampled, it is not."""
    system = System()
    records = records_of([Write(b"ERROR:root:failed\n" + TRACE, 1)])
    system.ring.put(records)
    system.stage.finish()
    assert system.stage.losses() == {}
    records["trace_flags"] = 1
    system.ring.put(records)
    system.stage.finish()
    assert system.stage.losses() == {"log_exception_late": 1}


def pending(number: int, context: int) -> Records:
    records = records_of([Write(b"line %d\n" % number)])
    records["flags"] = Flag.TRACE_PENDING
    records["trace_id"] = number
    records["span_id"] = number
    records["context"] = context
    records["role"] = Role.CLIENT
    return records


def evidence(kind: EvidenceKind, context: int, *, number: int = 0, many: bool = False) -> Records:
    """LOG: of the record of that number. ANSWER: to the request of that number."""
    row: Records = np.zeros(1, layout.EVIDENCE)
    row["kind"], row["tgid"], row["many"] = kind, 7, many
    row["contexts"][:, 0] = context
    row["time_ns"] = 3_000 if kind == EvidenceKind.LOG else 4_000
    if kind == EvidenceKind.LOG:
        row["trace_id"], row["span_id"], row["unanswered"] = number, number, 1
        row["flags"] = Flag.TRACE_PENDING
    else:
        row["start_ns"] = 2_000
        row["trace_id"] = 99
        row["span_id"][0] = np.frombuffer(span_id(number), np.uint8)
    return row


def test_ids_that_are_proven_late() -> None:
    """A record waits until its context has answered a request, and is that request's."""
    system = System()
    system.ring.put(pending(1, 2_501))
    system.evidence.put(evidence(EvidenceKind.LOG, 2_501, number=1))
    system.stage.move()
    assert system.out.found == []
    system.evidence.put(evidence(EvidenceKind.ANSWER, 2_501, number=5))
    system.stage.move()
    ((body, owner, attributes),) = system.out.found
    assert (body, owner) == ("line 1", span_id(5))
    assert attributes["waggle.link.method"] == "task"


@pytest.mark.parametrize(("context", "owned"), [(1_501, False), (2_501, True)])
def test_what_an_event_loop_logs(context: int, *, owned: bool) -> None:
    """A context that serves many connections may run timers: what it logs is a request's only
    where it was made while the request was open."""
    system = System()
    system.ring.put(pending(1, context))
    system.evidence.put(evidence(EvidenceKind.LOG, context, number=1))
    system.evidence.put(evidence(EvidenceKind.ANSWER, context, number=5, many=True))
    system.stage.move()
    ((_, owner, _),) = system.out.found
    assert owner == (span_id(5) if owned else bytes(8))


def test_what_is_never_proven_has_no_ids() -> None:
    """At the end what still waits goes out, without ids."""
    system = System()
    system.ring.put(pending(1, 2_501))
    system.stage.move()
    assert system.out.found == []
    system.stage.finish()
    assert [(body, owner) for body, owner, _ in system.out.found] == [("line 1", bytes(8))]


def test_processes_that_are_not_traced() -> None:
    """What a process writes provisionally goes out only when it is traced after all."""
    system = System()
    records = records_of([Write(b"mine\n"), Write(b"not mine\n", tgid=8)])
    records["flags"] = Flag.PROVISIONAL
    system.ring.put(records)
    system.stage.move()
    assert [body for body, _, _ in system.out.found] == ["mine"]
    assert system.stage.stats.rejected == 1


def test_entries_of_the_journal() -> None:
    """An entry's message is the body, of as many lines as it has; one without is counted."""
    system = System()
    long = b"MESSAGE\n" + (7).to_bytes(8, "little") + b"two\n000\nCODE_FILE=a.py\n"
    system.log(
        Write(b"PRIORITY=3\nMESSAGE=hello\n", 1, source=LogSource.JOURNAL),
        Write(long, source=LogSource.JOURNAL),
        Write(b"PRIORITY=3\n", source=LogSource.JOURNAL),
        Write(b"<11>May  1 12:00:00 shop[7]: failed", source=LogSource.SYSLOG),
    )
    system.stage.move()
    assert sorted((body, owner) for body, owner, _ in system.out.found) == [
        ("failed", bytes(8)),
        ("hello", span_id(1)),
        ("two\n000", bytes(8)),
    ]
    assert system.stage.losses() == {"log_journal_unread": 1}
    assert any(found[2].get("code.file.path") == "a.py" for found in system.out.found)


class Failing(Collecting):
    """Has a fault."""

    def export(self, batch: LogBatch) -> None:
        raise RuntimeError("a fault")


def test_a_fault_costs_no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong with logs is counted, and neither other exporters nor spans suffer."""
    system = System()
    system.stage._exporters = [Failing(), system.out]
    system.log(Write(b"one\n"))
    system.stage.move()
    assert [body for body, _, _ in system.out.found] == ["one"]
    assert system.stage.losses() == {"log_failed_in_collecting": 1}
    monkeypatch.setattr("waggle.probes.logs.lines.read_head", lambda _: 1 // 0)
    system.log(Write(b"two\n"), Write(b"three\n"))
    batch = exchanges(1)
    assert system.stage.process(batch.records)[0] is batch.records
    assert system.stage.losses()["log_internal_error"] == 2


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records wait in bounded memory: the oldest go out without ids, counted."""
    monkeypatch.setattr("waggle.logs.MAX_WAITING", 2)
    system = System()
    for number in range(1, 5):
        system.ring.put(pending(number, 2_501))
        system.stage.move()
    assert [body for body, _, _ in system.out.found] == ["line 1", "line 2"]
    assert system.stage.losses() == {"log_unproven": 2}
