"""Claims of rule `turn`, proven or taken back by the answers, on evidence made by hand."""

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.layout import EvidenceKind, Link
from waggle.turn_evidence import (
    ALONE_HOLD_NS,
    ALONE_HOPELESS,
    CLAIMS_KEPT,
    PATIENCE_NS,
    STEP_NS,
    WORKER_PROOF,
    Turns,
)

Rows = npt.NDArray[np.void]
S = 1_000_000_000
A, B, C = 101, 102, 103  # span ids of requests
FIRST, OTHER = 77, 78  # processes


def row(kind: EvidenceKind, at: int, request: int, *, start: int = 1, tgid: int = FIRST) -> Rows:
    made = np.zeros(1, layout.EVIDENCE)
    made["kind"], made["time_ns"], made["start_ns"] = kind, at, start
    made["contexts"][:, 0], made["tgid"] = request, tgid
    return made


def call(at: int, request: int, unanswered: int = 1, tgid: int = FIRST) -> Rows:
    made = row(EvidenceKind.TURN_CALL, at, request, tgid=tgid)
    made["unanswered"] = unanswered
    return made


def answer(at: int, request: int, start: int = 1, tgid: int = FIRST) -> Rows:
    return row(EvidenceKind.TURN_ANSWER, at, request, start=start, tgid=tgid)


def refuted(at: int, tgid: int = FIRST) -> Rows:
    return row(EvidenceKind.TURN_REFUTED, at, 0, tgid=tgid)


def settled(turns: Turns, now: int) -> list[tuple[int, bool]]:
    """Claimed request of each call that waits no more, and whether that is proven."""
    claims, proven = turns.settle(now)
    requests = claims["evidence"]["contexts"][:, 0].tolist()
    return list(zip(requests, proven.tolist(), strict=True))


def test_an_answer_in_its_own_turn_proves_a_call() -> None:
    """A call whose request is answered in its own turn, when no other was open, is proven."""
    turns = Turns(30 * S)
    turns.add(call(10, A))
    assert settled(turns, 20) == []
    turns.add(answer(30, A))
    assert settled(turns, 40) == [(A, True)]
    assert len(turns) == 0


def test_others_that_were_open_have_their_say() -> None:
    """A call waits until those have been answered that were open with its request: they may show
    that it was theirs."""
    turns = Turns(30 * S)
    turns.add(np.concatenate([call(10, A, unanswered=2), answer(30, A)]))
    assert settled(turns, 40) == []
    turns.add(refuted(50))
    assert settled(turns, 60) == [(A, False)]


def looks_until_settled(turns: Turns, now: int, every_ns: int) -> int:
    """How many looks after `now` it takes, each so long after the one before, until the claim of
    A is proven."""
    for looks in range(1, 1000):
        if found := settled(turns, now + looks * every_ns):
            assert found == [(A, True)]
            return looks
    raise AssertionError("never settled")


def test_patience_ends() -> None:
    """A request that stays open for hours holds the proof of a short one up for a second."""
    turns = Turns(30 * S)
    assert settled(turns, 30) == []
    turns.add(np.concatenate([call(10, A, unanswered=2), answer(30, A)]))
    assert looks_until_settled(turns, 30, S // 10) == PATIENCE_NS[0] // (S // 10) + 1


def test_where_requests_take_long_patience_is_longer() -> None:
    """The others may answer as much later as the claimed request took itself, within bounds."""
    for took, patience in ((S // 8, 2 * S), (9 * S, PATIENCE_NS[1])):
        turns = Turns(30 * S)
        assert settled(turns, took) == []
        turns.add(np.concatenate([call(10, A, unanswered=2), answer(took, A, start=0)]))
        assert looks_until_settled(turns, took, S // 10) == patience // (S // 10) + 1


def test_a_machine_that_stood_still_has_waited_for_nobody() -> None:
    """Between two looks no more than a step counts: who could not run could not answer."""
    turns = Turns(1000 * S)
    assert settled(turns, 30) == []
    turns.add(np.concatenate([call(10, A, unanswered=2), answer(30, A)]))
    assert looks_until_settled(turns, 30, 7 * S) == PATIENCE_NS[0] // STEP_NS + 1


def test_a_silent_answer_proves_nothing() -> None:
    """A request that is answered in nobody's turn leaves its calls without a parent."""
    turns = Turns(30 * S)
    turns.add(np.concatenate([call(10, A), answer(30, 0)]))
    assert settled(turns, 40) == [(A, False)]


def test_one_contradiction_takes_back_all_that_waits_in_its_process() -> None:
    """Calls of the process that are not settled are nobody's; those of another are not touched."""
    turns = Turns(30 * S)
    turns.add(np.concatenate([call(10, A, 5), call(11, B, 5), call(12, C, 1, OTHER)]))
    turns.add(np.concatenate([answer(20, A), refuted(21), answer(22, C, tgid=OTHER)]))
    assert sorted(settled(turns, 40)) == [(A, False), (B, False), (C, True)]


def test_the_same_number_in_another_process_is_no_proof() -> None:
    """An answer proves calls of its own process only."""
    turns = Turns(30 * S)
    turns.add(np.concatenate([call(10, A), answer(20, A, tgid=OTHER)]))
    assert settled(turns, 40) == []


def test_a_later_request_does_not_count_down() -> None:
    """The answer to a request that began after the call says nothing of those that were open."""
    turns = Turns(30 * S)
    turns.add(np.concatenate([call(10, A, 2), answer(20, A), answer(25, B, start=15)]))
    assert settled(turns, 40) == []


def test_a_call_waits_no_longer_than_it_is_held() -> None:
    """What nobody has proven when records may wait no longer is nobody's."""
    turns = Turns(30 * S)
    turns.add(call(10, A))
    assert settled(turns, 30 * S) == []
    assert settled(turns, 30 * S + 11) == [(A, False)]


def test_at_the_end_all_leave() -> None:
    """When the agent ends nothing waits, and what is not proven by then is nobody's."""
    turns = Turns(30 * S)
    turns.add(np.concatenate([call(10, A, 2), answer(20, A)]))
    claims, proven = turns.settle(30, last=True)
    assert len(claims) == 1
    assert not proven.any()


def test_claims_are_bounded() -> None:
    """Of too many the oldest leave, without a parent."""
    turns = Turns(30 * S)
    many = np.repeat(call(10, A), CLAIMS_KEPT + 3)
    many["time_ns"] = np.arange(len(many))
    turns.add(many)
    claims, proven = turns.settle(20)
    assert claims["evidence"]["time_ns"].tolist() == [0, 1, 2]
    assert not proven.any()
    assert len(turns) == CLAIMS_KEPT


LIFE = 10**12  # of a worker; the next ones are LIFE + 1, LIFE + 2, ...


def by(link: Link, rows: Rows, before_ns: int = 0) -> Rows:
    rows["link"], rows["before_ns"] = link, before_ns
    return rows


def worker_call(at: int, life: int = LIFE, before_ns: int = 0) -> Rows:
    return by(Link.THREAD, call(at, life, unanswered=0), before_ns)


def worker_answer(at: int, life: int = LIFE, start: int = 1) -> Rows:
    return by(Link.THREAD, answer(at, life, start))


def experienced(turns: Turns) -> None:
    """Enough calls that told have been proven."""
    for life in range(LIFE + 1000, LIFE + 1000 + WORKER_PROOF):
        turns.add(np.concatenate([worker_call(5, life), worker_answer(6, life)]))
    assert len(settled(turns, 7)) == WORKER_PROOF


def test_a_worker_calls_for_what_it_answers_next() -> None:
    """A call waits for its worker's next answer, whoever else is open, and that proves it."""
    turns = Turns(30 * S)
    turns.add(np.concatenate([worker_call(10), worker_answer(12, LIFE + 1)]))
    assert settled(turns, 20) == []
    turns.add(worker_answer(30))
    assert settled(turns, 40) == [(LIFE, True)]


def test_a_request_that_was_read_after_the_call_has_not_made_it() -> None:
    """What a worker calls when there is no request for it yet is nobody's."""
    turns = Turns(30 * S)
    turns.add(np.concatenate([worker_call(10), worker_answer(30, start=20)]))
    assert settled(turns, 40) == [(LIFE, False)]


def test_a_request_that_waited_may_not_have_made_the_call() -> None:
    """A request that was there at the worker's last answer may have nothing to do with what comes
    after it: believed only of workers of whom enough is known, and nothing else was seen."""
    turns = Turns(30 * S)
    queued = [worker_call(10, before_ns=8), worker_answer(30, start=5)]
    turns.add(np.concatenate(queued))
    assert settled(turns, 40) == [(LIFE, False)]
    experienced(turns)
    turns.add(np.concatenate(queued))
    assert settled(turns, 40) == [(LIFE, True)]
    turns.add(np.concatenate([worker_call(50, LIFE + 1), worker_answer(70, LIFE + 1, start=60)]))
    assert settled(turns, 80) == [(LIFE + 1, False)]
    turns.add(np.concatenate(queued))
    assert settled(turns, 90) == [(LIFE, False)]


def test_a_thread_that_serves_several_takes_back_what_workers_claim() -> None:
    """A contradiction of one rule leaves the claims of another."""
    turns = Turns(30 * S)
    turns.add(np.concatenate([worker_call(10), call(11, A), by(Link.THREAD, refuted(12))]))
    assert settled(turns, 13) == [(LIFE, False)]
    turns.add(answer(20, A))
    assert settled(turns, 30) == [(A, True)]


def alone_call(at: int, request: int) -> Rows:
    return by(Link.ALONE, call(at, request, unanswered=0))


def alone_answer(at: int, request: int, start: int) -> Rows:
    return by(Link.ALONE, answer(at, request, start))


def test_alone_holds_when_a_call_while_nothing_is_open_would_have_been_seen() -> None:
    """One call in a request of 10 ms is believed after 70 ms with nothing open, not before."""
    ms = 1_000_000
    turns = Turns(30 * S)
    turns.add(np.concatenate([alone_call(ms, A), alone_answer(10 * ms, A, start=0)]))
    assert settled(turns, 80 * ms) == []
    assert settled(turns, 82 * ms) == [(A, True)]


def test_alone_in_a_process_that_is_never_idle_is_none() -> None:
    """Polls that stay open for long leave no time in which work in the background would show: its
    calls have no parent."""
    turns = Turns(30 * S)
    for n in range(100):
        begin = n * 5 * S
        turns.add(alone_call(begin + S, n + 1))
        turns.add(alone_answer(begin + 5 * S, n + 1, start=begin + S // 100))
        assert not [proven for _, proven in settled(turns, begin + 5 * S) if proven]


def test_nobody_waits_long_for_a_process_that_is_never_idle() -> None:
    """Claims of rule `alone` leave after 10 s, and at once where no claim ever came to anything."""
    turns = Turns(30 * S)
    for n in range(ALONE_HOPELESS):
        turns.add(alone_call(S + n, n + 1))
    assert settled(turns, ALONE_HOLD_NS) == []
    assert len(settled(turns, 2 * S + ALONE_HOLD_NS)) == ALONE_HOPELESS
    turns.add(alone_call(20 * S, A))
    assert settled(turns, 21 * S) == [(A, False)]


def test_a_call_while_nothing_is_open_takes_back_what_alone_claims() -> None:
    """A process that calls by itself has done so when it served a request, too."""
    turns = Turns(30 * S)
    turns.add(np.concatenate([alone_call(10, A), alone_answer(20, A, start=1)]))
    turns.add(by(Link.ALONE, refuted(30)))
    assert settled(turns, S) == [(A, False)]
