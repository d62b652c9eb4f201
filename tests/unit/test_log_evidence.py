"""Joining log records to requests: apart from calls, and less believing."""

from collections.abc import Callable

import pytest

from unit.test_evidence import (
    Clock,
    Ring,
    Rows,
    answer,
    call,
    over,
    parent_of,
    record,
    released,
    trace_of,
)
from waggle import layout
from waggle.evidence import BRANCH_NS, Joins
from waggle.layout import EvidenceKind, Flag, Link
from waggle.log_evidence import LogJoins


def log(number: int, at: int, contexts: list[int], unanswered: int = 1) -> Rows:
    """Evidence of a write to a log; its span and its pending trace have its number."""
    row = call(number, at, contexts, unanswered)
    row["kind"] = EvidenceKind.LOG
    return row


def fresh() -> tuple[Ring, Clock, Joins, LogJoins]:
    ring, clock = Ring(), Clock()
    calls = Joins(ring, clock)
    return ring, clock, calls, LogJoins(calls)


def written(number: int, flags: int = Flag.TRACE_PENDING) -> Rows:
    """What is kept of a log record."""
    return record(number, flags=flags)


def test_a_log_is_joined_by_the_answer() -> None:
    """The request is the one that the context of the write answers."""
    ring, _, calls, logs = fresh()
    ring.put(log(1, 200, [101]), answer(9, 100, 300, 101))
    calls.take()
    ready, waiting = logs.resolve(written(1))
    assert (parent_of(ready), trace_of(ready), len(waiting)) == (9, 9, 0)
    assert int(ready["link"][0]) == Link.TASK
    assert not logs.waits()


@pytest.mark.parametrize(("between", "parent"), [(log, 7), (call, 0)])
def test_logs_refute_nothing_of_calls(between: Callable[..., Rows], parent: int) -> None:
    """A context that logs between two requests is believed no less when it calls, but when it
    logs; one that calls there is believed no more."""
    ring, _, calls, logs = fresh()
    calls.hold(record(2))
    ring.put(answer(8, 100, 200, 101), between(1, 250, [101]), answer(9, 260, 400, 101, before=200))
    ring.put(call(2, 500, [101]), log(3, 510, [101]), answer(7, 450, 600, 101, before=400))
    assert parent_of(released(calls)[2]) == parent
    ready, _ = logs.resolve(written(3))
    assert parent_of(ready) == 0


def test_a_branch_that_logs_on_still_called_for_its_request() -> None:
    """What a branch logs after the answer is no reason to doubt what it has called before."""
    ring, clock, calls, _ = fresh()
    calls.hold(record(2))
    ring.put(call(2, 250, [201, 101]), answer(9, 100, 300, 101), log(3, 310, [201, 101], 0))
    ring.put(over(201))
    clock.now += BRANCH_NS
    assert parent_of(released(calls)[2]) == 9


def test_a_branch_that_calls_on_has_not_logged_for_its_request() -> None:
    """What a branch calls after the answer is a reason to doubt what it has logged before."""
    ring, clock, calls, logs = fresh()
    ring.put(log(3, 250, [201, 101]), answer(9, 100, 300, 101), call(2, 310, [201, 101], 0))
    ring.put(over(201))
    clock.now += BRANCH_NS
    calls.take()
    ready, _ = logs.resolve(written(3))
    assert parent_of(ready) == 0


@pytest.mark.parametrize("known", [False, True])
def test_a_request_whose_trace_is_pending(*, known: bool) -> None:
    """A record waits until the trace of its request is known as well, then has that."""
    ring, _, calls, logs = fresh()
    ring.put(log(1, 200, [101]), answer(9, 100, 300, 101, flags=Flag.TRACE_PENDING))
    calls.take()
    if known:
        ring.put(call(9, 50, [301]), answer(5, 10, 400, 301))
        calls.take()
    ready, waiting = logs.resolve(written(1))
    if not known:
        assert (len(ready), len(waiting)) == (0, 1)
        ring.put(call(9, 50, [301]), answer(5, 10, 400, 301))
        calls.take()
        ready, waiting = logs.resolve(waiting)
    assert (parent_of(ready), trace_of(ready), len(waiting)) == (9, 5, 0)


def test_a_prediction_that_is_wrong() -> None:
    """A predicted request waits for its proof, and is corrected by it."""
    ring, _, calls, logs = fresh()
    row = log(1, 200, [101])
    row["flags"] = Flag.UNPROVEN
    kept = record(1, flags=Flag.UNPROVEN, parent=4)
    assert [len(rows) for rows in logs.resolve(kept)] == [0, 1]
    ring.put(row, answer(9, 100, 300, 101))
    calls.take()
    ready, _ = logs.resolve(kept)
    assert (parent_of(ready), trace_of(ready)) == (9, 9)
    assert ready.dtype == layout.EXCHANGE
