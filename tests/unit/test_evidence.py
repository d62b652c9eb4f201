"""Joining calls to the requests whose answers prove them, on evidence made by hand."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from waggle import answers as answering
from waggle import evidence as joining
from waggle import joined, layout
from waggle.answers import QUIET_GAPS
from waggle.evidence import AFTER_NS, BRANCH_NS, HOLD_S, Joins
from waggle.layout import EvidenceKind, Flag, Link, Role, Sampling

Rows = npt.NDArray[np.void]
S = 1_000_000_000
PROCESS = 77


@dataclass
class Ring:
    """Evidence that was put in, once."""

    waiting: list[Rows] = field(default_factory=list)
    capacity: int = 100

    def pending(self) -> int:
        return sum(len(rows) for rows in self.waiting)

    def put(self, *rows: Rows) -> None:
        self.waiting.append(np.concatenate(rows))

    def read(self, max_records: int = 8192) -> Rows:
        return self.waiting.pop(0) if self.waiting else np.empty(0, layout.EVIDENCE)


@dataclass
class Clock:
    now: int = 1000

    def __call__(self) -> int:
        return self.now


SAMPLED = (Sampling.HERE | Sampling.KNOWN) << 56 | 0x8 << 52


def trace(number: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(number.to_bytes(16, "big"), np.uint8)


def span(number: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(number.to_bytes(8, "big"), np.uint8)


def call(
    number: int,
    at: int,
    contexts: list[int],
    unanswered: int = 1,
    flags: int = Flag.TRACE_PENDING,
    answering: int = 0,
) -> Rows:
    """Evidence of a call; its span and its pending trace have its number."""
    row = np.zeros(1, layout.EVIDENCE)
    row["kind"], row["time_ns"], row["tgid"] = EvidenceKind.CALL, at, PROCESS
    row["trace_id"], row["span_id"] = trace(number), span(number)
    row["contexts"][0, : len(contexts)] = contexts
    row["unanswered"], row["flags"], row["answering"] = unanswered, flags, answering
    return row


def answer(
    number: int,
    began: int,
    at: int,
    context: int,
    flags: int = 0,
    kind: EvidenceKind = EvidenceKind.ANSWER,
    before: int = 0,
    own: bool = False,
    above: Sequence[int] = (),
) -> Rows:
    """Evidence of an answered request; its span and trace have its number. above: what the
    context that answers descends from."""
    row = np.zeros(1, layout.EVIDENCE)
    row["kind"], row["time_ns"], row["start_ns"], row["tgid"] = kind, at, began, PROCESS
    row["trace_id"], row["span_id"] = trace(number), span(number)
    row["contexts"][0, : 1 + len(above)], row["flags"] = [context, *above], flags
    row["before_ns"], row["own"] = before, own
    return row


def over(*contexts: int, at: int = 0) -> Rows:
    """Evidence that contexts were freed."""
    rows = np.zeros(len(contexts), layout.EVIDENCE)
    rows["kind"], rows["time_ns"], rows["tgid"] = EvidenceKind.OVER, at, PROCESS
    rows["contexts"][:, 0] = contexts
    return rows


def record(
    number: int,
    in_trace: int | None = None,
    role: Role = Role.CLIENT,
    flags: int = Flag.TRACE_PENDING,
    parent: int = 0,
) -> Rows:
    row = np.zeros(1, layout.EXCHANGE)
    row["trace_id"], row["span_id"] = trace(number if in_trace is None else in_trace), span(number)
    row["parent_id"], row["role"], row["flags"] = span(parent), role, flags
    return row


def released(joins: Joins) -> dict[int, Rows]:
    """What leaves, by number of its span."""
    rows = [row for batch in joins.release() for row in np.split(batch, len(batch))]
    return {int.from_bytes(row["span_id"][0].tobytes(), "big"): row for row in rows}


def parent_of(row: Rows) -> int:
    return int.from_bytes(row["parent_id"][0].tobytes(), "big")


def trace_of(row: Rows) -> int:
    return int.from_bytes(row["trace_id"][0].tobytes(), "big")


def fresh() -> tuple[Ring, Clock, Joins]:
    ring, clock = Ring(), Clock()
    return ring, clock, Joins(ring, clock)


def test_a_call_in_the_context_that_answers() -> None:
    """The parent is the request that the call's own context answers; link and flags say so."""
    ring, _, joins = fresh()
    assert len(joins.hold(record(1))) == 0
    ring.put(call(1, 200, [101]), answer(9, 100, 300, 101))
    row = released(joins)[1]
    assert (parent_of(row), trace_of(row), int(row["link"][0])) == (9, 9, Link.TASK)
    assert int(row["flags"][0]) == 0
    assert len(joins) == 0


def test_what_is_not_pending_does_not_wait() -> None:
    """Records without the flag pass, whatever waits."""
    _, _, joins = fresh()
    passed = joins.hold(np.concatenate([record(1), record(2, flags=0)]))
    assert passed["span_id"][0].tobytes() == span(2).tobytes()
    assert len(joins) == 1


def test_a_descendant_waits_for_a_nearer_context() -> None:
    """An answer further up is believed when every request open at the call is answered."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    ring.put(call(1, 250, [201, 101], unanswered=2), answer(9, 100, 300, 101))
    assert released(joins) == {}
    ring.put(answer(8, 120, 310, 55))
    assert released(joins) == {}  # the branch is watched for a while
    ring.put(over(201))
    assert parent_of(released(joins)[1]) == 9


def test_a_branch_that_is_over_is_proof() -> None:
    """Where nobody nearer can answer any more, nobody is waited for."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    ring.put(call(1, 250, [301, 201, 101], unanswered=9), over(301))
    ring.put(answer(9, 100, 300, 101))
    assert released(joins) == {}
    ring.put(over(201))
    assert parent_of(released(joins)[1]) == 9


def test_a_queue_that_whoever_is_done_goes_on_with() -> None:
    """A task that was begun by one that had called and is over may be the next of a queue, put
    there by anybody: it is no part of the request in which it began, before its answer or after."""
    ring, _, joins = fresh()
    joins.hold(np.concatenate([record(1), record(2)]))
    made, later = call(1, 250, [241, 201, 101]), call(2, 500, [451, 401, 101], unanswered=0)
    for one in (made, later):
        one["over"] = one["queued"] = 2
    ring.put(made, over(241), answer(9, 100, 300, 101), later, over(451))
    rows = released(joins)
    assert parent_of(rows[1]) == parent_of(rows[2]) == 0


def test_a_callback_that_was_over_before_the_call() -> None:
    """What had ended when the call was made, and had not called, only handed on; nothing more is
    waited for of it."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    made = call(1, 250, [301, 201, 101])
    made["over"] = 2
    ring.put(made, over(301), answer(9, 100, 300, 101))
    assert parent_of(released(joins)[1]) == 9


def test_what_was_queued_further_up() -> None:
    """How the answering context itself was begun says nothing against it."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    made = call(1, 250, [241, 201, 101, 51])
    made["over"] = made["queued"] = 8
    ring.put(made, over(241, 201), answer(9, 100, 300, 101))
    assert parent_of(released(joins)[1]) == 9


def test_a_branch_that_lives_on() -> None:
    """A worker that was born in a request, and falls silent after its answer, has no parent."""
    ring, clock, joins = fresh()
    joins.hold(record(1))
    ring.put(call(1, 250, [301, 201, 101]), over(301), answer(9, 100, 300, 101))
    released(joins)
    clock.now += BRANCH_NS
    assert parent_of(released(joins)[1]) == 0


def test_a_branch_that_goes_on_after_the_answer() -> None:
    """A worker that was born in a request, and calls again after its answer, has no parent."""
    ring, _, joins = fresh()
    joins.hold(np.concatenate([record(1), record(2)]))
    ring.put(call(1, 250, [201, 101]), answer(9, 100, 300, 101), call(2, 400, [201, 101], 0))
    ring.put(over(201))
    rows = released(joins)
    assert parent_of(rows[1]) == parent_of(rows[2]) == 0
    assert joins.stats.unproven == 2


def test_the_nearer_of_two_answers_wins() -> None:
    """A context further up that answered first does not keep the call from its own request."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    ring.put(call(1, 250, [201, 101], unanswered=2), answer(9, 100, 300, 101))
    released(joins)
    ring.put(answer(8, 120, 310, 201))
    assert parent_of(released(joins)[1]) == 8


def test_a_branch_older_than_the_request() -> None:
    """A worker that began before a request is not part of it, though its creator answers it."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    ring.put(call(1, 500, [151, 101]), answer(9, 200, 600, 101))
    row = released(joins)[1]
    assert (parent_of(row), trace_of(row), int(row["link"][0])) == (0, 1, Link.NONE)


def test_a_request_that_came_after_the_call() -> None:
    """A call is never part of a request that began later."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    ring.put(call(1, 200, [101], unanswered=0), answer(9, 300, 400, 101))
    assert parent_of(released(joins)[1]) == 0


def test_a_call_after_the_answer() -> None:
    """What the answering context goes on to do keeps its parent and is marked."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    ring.put(answer(9, 100, 200, 101), call(1, 300, [101], unanswered=0))
    row = released(joins)[1]
    assert parent_of(row) == 9
    assert int(row["flags"][0]) == Flag.AFTER_RESPONSE


def test_a_call_after_the_answer_waits_for_open_requests() -> None:
    """While a request is open that the same context may answer, the past is not enough."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    ring.put(answer(8, 100, 200, 101), call(1, 300, [101], unanswered=1))
    assert released(joins) == {}
    ring.put(answer(9, 250, 400, 101))
    assert parent_of(released(joins)[1]) == 9


def test_a_worker_born_in_an_answered_request() -> None:
    """A branch from before the answer may do anybody's work by now: no parent."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    ring.put(answer(9, 100, 200, 101), call(1, 300, [151, 101], unanswered=0))
    assert parent_of(released(joins)[1]) == 0


def test_a_branch_from_after_the_answer() -> None:
    """What a background task spreads out keeps the request's parent."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    ring.put(answer(9, 100, 200, 101), call(1, 300, [251, 101], unanswered=0))
    assert released(joins) == {}
    ring.put(over(251))
    assert parent_of(released(joins)[1]) == 9


def test_a_worker_from_after_the_answer() -> None:
    """A worker that a background task has left behind has no parent."""
    ring, clock, joins = fresh()
    joins.hold(record(1))
    ring.put(answer(9, 100, 200, 101), call(1, 300, [251, 101], unanswered=0))
    assert released(joins) == {}
    clock.now += AFTER_NS
    assert parent_of(released(joins)[1]) == 0


def test_a_request_below_an_answer() -> None:
    """What was made for a request that was read later is no part of the one answered before,
    though it descends from its context."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    made = call(1, 300, [281, 251, 101], unanswered=0)
    made["made"] = 2
    ring.put(answer(9, 100, 200, 101), made, over(281, 251))
    assert parent_of(released(joins)[1]) == 0


def test_a_request_that_another_context_answers() -> None:
    """While a request is open, what descends from a context that has answered another may be a
    part of the open one, though its own answer is written elsewhere."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    ring.put(answer(9, 100, 200, 101), call(1, 300, [251, 101], unanswered=1), over(251))
    ring.put(answer(8, 240, 400, 301))
    assert parent_of(released(joins)[1]) == 0


def settled(evidence: Sequence[Rows], later: int = 0) -> int:
    """The parent of call 1 with that evidence, and so much later."""
    ring, clock, joins = fresh()
    joins.hold(record(1))
    ring.put(*evidence)
    found = released(joins)
    if later:
        assert not found
        clock.now += later
        found = released(joins)
    return parent_of(found[1])


def test_an_answer_by_what_the_caller_has_begun() -> None:
    """A stream that is written by a task which the handler began, below all that it had called:
    the calls are the request's, once the handler is over."""
    calls = [call(1, 120, [101, 5])]
    answered = answer(9, 90, 150, 131, above=[101, 5])
    assert settled([*calls, answered, over(101)]) == 9
    assert settled([call(1, 125, [121, 101, 5]), answered, over(121, 101)]) == 9


def test_an_answer_below_what_is_older_than_the_request() -> None:
    """Who was there before the request, or from nobody knows when, may have begun its task for
    anybody."""
    answered = answer(9, 110, 150, 131, above=[101, 5])
    assert settled([call(1, 120, [101, 5]), answered, over(101)]) == 0
    answered = answer(9, 90, 150, 131, above=[100, 5])
    assert settled([call(1, 120, [100, 5]), answered, over(100)]) == 0


def test_two_answers_below_the_caller() -> None:
    """Who has begun the answers to two requests that were open at the call may have called for
    either; one that came after the call is no matter."""
    one, caller = answer(9, 90, 150, 131, above=[101, 5]), call(1, 120, [101, 5], unanswered=2)
    assert settled([caller, one, answer(8, 95, 160, 141, above=[101, 5]), over(101)]) == 0
    alone = call(1, 120, [101, 5])
    assert settled([alone, one, answer(8, 130, 160, 141, above=[101, 5]), over(101)]) == 9


def test_an_answer_below_who_has_answered() -> None:
    """Who has answered by himself, or begun an answer before, may be at work on the next."""
    caller = call(1, 120, [101, 5])
    before = answer(8, 90, 110, 105, above=[101, 5])
    answered = answer(9, 95, 150, 131, above=[101, 5])
    assert settled([before, caller, answered, over(101)]) == 0
    own = answer(8, 90, 110, 101, above=[5])
    assert settled([own, caller, answered, over(101)]) == 8, "what it does after its own answer"


def test_an_answer_below_who_lives_on() -> None:
    """What does not end may be a worker: the common context, or one between it and the call; and
    so may be one between them that calls again."""
    answered = answer(9, 90, 150, 131, above=[101, 5])
    assert settled([call(1, 120, [101, 5]), answered], later=int(2 * HOLD_S * S)) == 0
    evidence = [call(1, 125, [121, 101, 5]), answered, over(101)]
    assert settled(evidence, later=int(2 * HOLD_S * S)) == 0
    again = call(2, 170, [121, 101, 5], unanswered=0)
    assert settled([call(1, 125, [121, 101, 5]), answered, again, over(121, 101)]) == 0
    again = call(2, 170, [151, 101, 5], unanswered=0)
    assert settled([call(1, 125, [121, 101, 5]), answered, again, over(121, 101)]) == 9


def test_an_answer_that_takes_long() -> None:
    """Who has begun a stream waits for its end, however long that takes; unless another request
    turns out to be answered below him."""
    ring, clock, joins = fresh()
    joins.hold(np.concatenate([record(1), record(2)]))
    ring.put(call(1, 120, [101, 5]), answer(9, 90, 150, 131, above=[101, 5]))
    ring.put(call(2, 125, [103, 5]), answer(8, 90, 150, 133, above=[103, 5]))
    assert not released(joins)
    clock.now += 10 * BRANCH_NS
    assert not released(joins)
    ring.put(over(101, 103), answer(7, 95, 10 * BRANCH_NS, 143, above=[103, 5]))
    found = released(joins)
    assert (parent_of(found[1]), parent_of(found[2])) == (9, 0)


def test_an_answer_below_a_queue() -> None:
    """Who is done and begins the next of a queue does so for anybody."""
    queued = call(1, 140, [131, 121, 101, 5])
    queued["queued"] = 0b10
    queued["over"] = 0b10
    answered = answer(9, 90, 150, 145, above=[101, 5])
    assert settled([queued, answered, over(131, 121, 101)]) == 0


def test_a_task_left_behind_on_a_connection_that_is_kept() -> None:
    """A task that outlives its request is not part of the one before, which the same context
    has answered."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    ring.put(answer(8, 100, 200, 101), answer(9, 300, 400, 101, before=200))
    ring.put(call(1, 500, [351, 101], unanswered=0), over(351))
    assert parent_of(released(joins)[1]) == 0


def test_an_answer_that_was_lost() -> None:
    """Where the ring has lost the answer to a call's request, the next one is not taken for it."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    ring.put(call(1, 200, [101], unanswered=2), answer(9, 150, 400, 101, before=300, own=True))
    ring.put(answer(0, 0, 500, 0, kind=EvidenceKind.GONE))
    assert parent_of(released(joins)[1]) == 0


def test_an_answer_that_goes_on() -> None:
    """A context that calls in the middle of an answer has called for that request, even if
    another one waits for it."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    part = answer(8, 100, 350, 101, kind=EvidenceKind.PART)
    ring.put(answer(8, 100, 200, 101), call(1, 300, [101], unanswered=0, answering=1))
    assert released(joins) == {}
    ring.put(part, answer(9, 150, 400, 101, before=200))
    row = released(joins)[1]
    assert (parent_of(row), int(row["flags"][0])) == (8, 0)


def test_an_answer_that_somebody_else_ends() -> None:
    """A context whose answer is only on its way out may be at work on the next request."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    ring.put(answer(8, 100, 200, 101), call(1, 300, [101], unanswered=1, answering=1))
    ring.put(answer(9, 250, 400, 101, before=200))
    assert parent_of(released(joins)[1]) == 0


def test_a_request_that_waited_for_its_context() -> None:
    """Between an answer and the next, which was waited for meanwhile, a call may be the end of
    one or the beginning of the other: it has no parent."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    ring.put(answer(8, 100, 200, 101), call(1, 300, [101], unanswered=1))
    ring.put(answer(9, 150, 400, 101, before=200))
    assert parent_of(released(joins)[1]) == 0


def test_what_goes_on_after_answers_makes_the_next_call_unsure() -> None:
    """Once a context called between an answer and the reading of the next request, a call after
    that reading proves nothing in its process, unless the context reads by itself."""
    ring, _, joins = fresh()
    joins.hold(np.concatenate([record(number) for number in (1, 2, 3)]))
    ring.put(answer(7, 10, 20, 101), call(1, 50, [101], unanswered=0))
    assert parent_of(released(joins)[1]) == 7
    ring.put(answer(8, 100, 200, 101, before=20))
    ring.put(call(2, 300, [101]), answer(9, 250, 400, 101, before=200))
    assert parent_of(released(joins)[2]) == 0
    ring.put(call(3, 550, [101]), answer(10, 500, 600, 101, before=400, own=True))
    assert parent_of(released(joins)[3]) == 10


def test_a_context_that_answers_again() -> None:
    """Where nothing was seen to go on after answers, a call belongs to the next one."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    ring.put(answer(8, 100, 200, 101), call(1, 300, [101]))
    ring.put(answer(9, 250, 400, 101, before=200))
    assert parent_of(released(joins)[1]) == 9


def test_a_context_that_answers_again_among_other_requests() -> None:
    """While several requests are open the next may have been read just before a call that comes
    late: it is believed only once contexts did nothing between two requests often enough."""
    ring, _, joins = fresh()
    joins.hold(np.concatenate([record(number) for number in (1, 2)]))
    ring.put(answer(8, 100, 200, 101), call(1, 300, [101], unanswered=2))
    ring.put(answer(9, 250, 400, 101, before=200), answer(7, 20, 410, 102))
    assert parent_of(released(joins)[1]) == 0
    for at in range(1000, 1000 + 100 * QUIET_GAPS, 100):
        ring.put(answer(50, at + 20, at + 90, 101, before=at - 10))
    ring.put(call(2, 5000, [101], unanswered=2), answer(10, 4900, 5100, 101, before=4000))
    ring.put(answer(11, 4950, 5200, 102, before=410))
    assert parent_of(released(joins)[2]) == 10


def test_a_request_without_an_answer_is_waited_for_no_more() -> None:
    """When every request that was open has ended, calls without proof leave without a parent."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    ring.put(call(1, 200, [101]))
    assert released(joins) == {}
    ring.put(answer(9, 100, 300, 0, kind=EvidenceKind.GONE))
    row = released(joins)[1]
    assert (parent_of(row), trace_of(row), int(row["flags"][0])) == (0, 1, 0)
    assert joins.stats.unproven == 1


def test_an_answer_of_a_shared_context_proves_nothing() -> None:
    """Where one context serves several requests at once, it tells none from the other."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    shared = answer(9, 100, 300, 101)
    shared["shared"] = 1
    ring.put(call(1, 200, [101]), shared)
    assert parent_of(released(joins)[1]) == 0


def test_a_branch_of_a_shared_context() -> None:
    """The answer of a context that serves several hides none that it gives alone after that."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    shared = answer(8, 100, 300, 101)
    shared["shared"] = 1
    ring.put(call(1, 250, [201, 101], unanswered=2), over(201), shared)
    ring.put(answer(9, 120, 400, 101, before=300))
    assert parent_of(released(joins)[1]) == 0


def test_another_process_with_the_same_generation() -> None:
    """Generations are compared within one process."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    foreign = answer(9, 100, 300, 101)
    foreign["tgid"] = PROCESS + 1
    ring.put(call(1, 200, [101]), foreign)
    assert released(joins) == {}


def test_what_the_call_led_to_follows() -> None:
    """The called server's span has the pending trace too: it gets the true one."""
    ring, _, joins = fresh()
    joins.hold(record(5, in_trace=1, role=Role.SERVER, parent=1))
    joins.hold(record(1))
    ring.put(call(1, 200, [101]), answer(9, 100, 300, 101))
    rows = released(joins)
    assert {trace_of(rows[1]), trace_of(rows[5])} == {9}
    assert parent_of(rows[5]) == 1


def test_pending_traces_behind_each_other() -> None:
    """A pending trace whose request is itself in a pending trace ends in the true one, in whatever
    order the proofs come."""
    ring, _, joins = fresh()
    joins.hold(np.concatenate([record(1), record(5, 1, Role.SERVER, parent=1), record(2)]))
    ring.put(call(2, 260, [301]))
    ring.put(answer(5, 250, 270, 301, flags=Flag.TRACE_PENDING))
    ring.waiting[-1]["trace_id"] = trace(1)
    assert released(joins) == {}
    ring.put(call(1, 200, [101]), answer(9, 100, 300, 101))
    rows = released(joins)
    assert {trace_of(rows[number]) for number in (1, 2, 5)} == {9}
    assert [parent_of(rows[number]) for number in (1, 2, 5)] == [9, 5, 1]


def test_a_trace_that_is_not_sampled() -> None:
    """What joins an unsampled trace is unsampled, and is dropped with it."""
    ring, _, joins = fresh()
    joins.hold(record(1))
    ring.put(call(1, 200, [101]), answer(9, 100, 300, 101, flags=Flag.UNSAMPLED))
    assert int(released(joins)[1]["flags"][0]) & Flag.UNSAMPLED


def test_how_a_trace_was_sampled_comes_with_its_true_id() -> None:
    """A call that was dropped by the id it was given first is kept with the trace it belongs to;
    what only the request's own tracestate said is not the call's."""
    ring, _, joins = fresh()
    dropped = Flag.TRACE_PENDING | Flag.UNSAMPLED
    row = record(1, flags=dropped)
    row["sampling"] = Sampling.HERE << 56
    joins.hold(row)
    lost, found = call(1, 200, [101], flags=dropped), answer(9, 100, 300, 101)
    lost["sampling"], found["sampling"] = Sampling.HERE << 56, SAMPLED | Sampling.SAID << 56
    found["trace_flags"] = 3
    ring.put(lost, found)
    kept = released(joins)[1]
    assert int(kept["flags"][0]) & Flag.UNSAMPLED == 0
    assert int(kept["trace_flags"][0]) == 3
    assert int(kept["sampling"][0]) == SAMPLED


def test_a_call_that_proves_to_be_nobody_s_stays_as_it_was_decided() -> None:
    """Its own trace id is its true one, and so is what was decided by it."""
    ring, _, joins = fresh()
    dropped = Flag.TRACE_PENDING | Flag.UNSAMPLED
    joins.hold(record(1, flags=dropped))
    ring.put(call(1, 200, [101], unanswered=0, flags=dropped))
    assert int(released(joins)[1]["flags"][0]) == Flag.UNSAMPLED


def predicted(number: int, parent: int) -> Rows:
    row = record(number, in_trace=parent, flags=Flag.UNPROVEN, parent=parent)
    row["link"] = Link.TASK
    return row


def test_a_prediction_that_holds() -> None:
    """A predicted parent waits for the answer and stays."""
    ring, _, joins = fresh()
    assert len(joins.hold(predicted(1, parent=9))) == 0
    ring.put(call(1, 200, [101], flags=Flag.UNPROVEN), answer(9, 100, 300, 101))
    row = released(joins)[1]
    assert (parent_of(row), trace_of(row), int(row["flags"][0])) == (9, 9, 0)
    assert joins.joined.corrected == 0


def test_a_prediction_that_was_wrong() -> None:
    """The exported parent is the proven one, and the correction is counted."""
    ring, _, joins = fresh()
    joins.hold(predicted(1, parent=8))
    ring.put(call(1, 200, [101], flags=Flag.UNPROVEN), answer(9, 100, 300, 101))
    row = released(joins)[1]
    assert (parent_of(row), trace_of(row)) == (9, 9)
    assert joins.joined.corrected == 1


def test_a_prediction_without_proof() -> None:
    """What is not proven has no parent."""
    ring, _, joins = fresh()
    joins.hold(predicted(1, parent=8))
    ring.put(call(1, 200, [101], flags=Flag.UNPROVEN))
    ring.put(answer(8, 100, 300, 55))
    row = released(joins)[1]
    assert (parent_of(row), int(row["link"][0]), int(row["flags"][0])) == (0, Link.NONE, 0)


def test_waiting_ends_by_itself() -> None:
    """A record leaves as it is when no evidence comes, and is counted."""
    _, clock, joins = fresh()
    joins.hold(record(1))
    clock.now += int(HOLD_S * S) + 1
    assert parent_of(released(joins)[1]) == 0
    assert joins.stats.waited_too_long == 1


def test_only_so_many_wait() -> None:
    """Past the bound the oldest leave, and are counted; the newest still find their parent."""
    ring, clock = Ring(), Clock()
    joins = Joins(ring, clock, max_held=2)
    for number in (1, 2, 3):
        joins.hold(record(number))
    assert list(released(joins)) == [1]
    assert joins.stats.too_many_waited == 1
    ring.put(call(3, 200, [101]), answer(9, 100, 300, 101))
    assert parent_of(released(joins)[3]) == 9


def test_the_end_lets_everything_go() -> None:
    """At the end nothing stays behind: what is proven is joined, the rest leaves as it is."""
    ring, _, joins = fresh()
    joins.hold(np.concatenate([record(1), record(2), record(3)]))
    ring.put(call(1, 250, [201, 101], unanswered=5), over(201), answer(9, 100, 300, 101))
    ring.put(call(2, 260, [77]))
    rows = {int.from_bytes(r["span_id"].tobytes(), "big"): r for b in joins.finish() for r in b}
    assert sorted(rows) == [1, 2, 3]
    assert rows[1]["parent_id"].tobytes() == span(9).tobytes()
    assert not any(rows[2]["parent_id"]) and not any(rows[3]["parent_id"])


def test_a_ring_that_fills_up() -> None:
    """Evidence that waits is told, so that it is taken in time."""
    ring, _, joins = fresh()
    assert joins.fullness() == 0
    ring.put(*[call(number, 200, [101]) for number in range(1, 26)])
    assert joins.fullness() == 0.25


def test_tables_are_bounded(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Joined traces, calls and answers that are remembered have bounds."""
    monkeypatch.setattr(joined, "JOINED_KEPT", 10)
    monkeypatch.setattr(joining, "CALLS_KEPT", 5)
    monkeypatch.setattr(answering, "ANSWERS_KEPT", 5)
    ring, _, joins = fresh()
    for number in range(1, 100):
        ring.put(call(number, 200 + number, [2 * number + 1001], unanswered=9))
        ring.put(answer(5000 + number, 10, 20, 2 * number + 5001))
        joins.release()
    assert len(joins._calls) <= 5
    assert len(joins.joined) <= 10
    assert sum(len(batch) for batch in joins._answers._batches) <= 5
