"""Parents that are proven late: calls are joined to requests when these are answered.

The kernel gives a call whose request is not known yet a trace id of its own and says so
(Flag.TRACE_PENDING); whatever it leads to on this machine carries the same id and the
same flag. A call whose request was predicted has a parent and Flag.UNPROVEN: it waits
until that is proven or corrected. Evidence follows in a ring of its own (bpf/python_evidence.h):
the contexts each call was made in, the context that wrote each answer, or went on with one
after it had called, and which contexts are no more. The rule, WK in docs/parents.md:

    a call belongs to the request whose answer is the first that its context, or one that
    it descends from, writes after the call; the nearer of two wins; and the branch that
    the call grew on must have begun while that request was being served, and must end with
    it: one that lives on may be a worker, who does anybody's work; nor may it have grown on
    one that had called by itself and is over: who is done may begin the next of a queue

Where that answer might as well be the next piece of work of a context that has answered
before, nothing is proven.

An answer may also be written by somebody whom the one that calls has begun, as Starlette's
streams are. Then the context in which both began, the call's own or one that it descends
from, was itself made after the request had been read, it is over before the agent would
wait no more, and in all its life this was the only request answered below it.

    records = joins.hold(records)      what need not wait, ids made true; the rest is kept
    for records in joins.release():    what waited, now that more is known

Everything is bounded: a record waits HOLD_S at most and MAX_HELD wait together; what
has to leave unproven leaves with the ids it has, which begin a trace of its own, and is
counted.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.answers import AnswerIndex, Answers, Mask, Reused, may_be_queued
from waggle.joined import WAITS, Joined, as_they_are, has_flags
from waggle.layout import EvidenceKind
from waggle.spans import Records
from waggle.turn_evidence import Turns, count_down

_S = 1_000_000_000
HOLD_S = 30.0
MAX_HELD = 16_384
# A request further up has answered; one nearer still may, though hardly after this.
NEARER_NS = 1 * _S
# A branch that is not over so long after the answer has not ended with its request.
BRANCH_NS = _S
# Work after the answer may take longer, until it is over too.
AFTER_NS = 5 * _S
_CALLS_REMEMBERED_NS = 2 * _S
CALLS_KEPT = 65_536

_UNMATCHED = 127
WORKER = 126  # matched, and disproved: the branch goes on after the answer
_BATCHES_KEPT = 64

_CALL = np.dtype(
    [
        ("evidence", layout.EVIDENCE),
        ("left", np.int64),  # requests that were open at the call and are not answered yet
        ("depth", np.int8),  # of the context that answered, _UNMATCHED: none yet
        ("after", np.bool_),  # the answer was written before the call
        ("below", np.bool_),  # by what the context before `depth` has begun
        ("matched_ns", np.uint64),
        ("parent", layout.EVIDENCE),  # the answer
        # A bit for each context of the call's, the nearest the lowest:
        ("seen", np.uint8),  # it has answered since
        ("unsure", np.uint8),  # what it answers need not be what it works on
        ("over", np.uint8),  # it is no more
    ]
)


class EvidenceSource(Protocol):
    """The ring of evidence, or what stands in for one."""

    capacity: int  # records

    def pending(self) -> int: ...

    def read(self, max_records: int = ...) -> Records: ...


@dataclass(slots=True)
class JoinStats:
    """proven: calls that found their request. unproven: calls that have none. waited_too_long,
    too_many_waited: records that left before anything was known about their trace."""

    proven: int = 0
    unproven: int = 0
    waited_too_long: int = 0
    too_many_waited: int = 0

    def missed(self) -> dict[str, int]:
        """Records that may lack a parent for reasons of ours, by reason."""
        return {
            "waited_too_long": self.waited_too_long,
            "too_many_waited": self.too_many_waited,
        }


class Follower(Protocol):
    """Wants the same evidence, for what is no call (log_evidence.py)."""

    def add(self, evidence: Records) -> None: ...

    def settle(self, *, last: bool = False) -> None:
        """What need wait no longer; last: nothing need."""
        ...

    def waits(self) -> bool: ...


class Joins:
    """Holds what waits for proof, and lets it go with true ids."""

    #: Evidence of what is to be joined to requests.
    asks = EvidenceKind.CALL

    def __init__(
        self,
        source: EvidenceSource,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        hold_s: float = HOLD_S,
        max_held: int = MAX_HELD,
    ) -> None:
        self.stats = JoinStats()
        self.joined = Joined()
        self._source = source
        self._clock = clock_ns
        self._hold_ns = int(hold_s * _S)
        self._max_held = max_held
        self._calls = np.empty(0, _CALL)
        self._answers = Answers()
        self.reused = Reused()
        self._seen_until = 0  # what had happened before was in the ring when it was read
        self._latest: list[Records] = []  # calls of the last seconds, whatever became of them
        self._held: list[tuple[int, Records]] = []  # since when, oldest first
        self._followers: list[Follower] = []
        self._turns = Turns(self._hold_ns)

    def follow(self, follower: Follower) -> None:
        """Give all evidence to somebody else, too."""
        self._followers.append(follower)

    def holds(self) -> bool:
        """Whether anything waits for evidence, or for time."""
        waits = any(follower.waits() for follower in self._followers)
        return len(self) > 0 or len(self._turns) > 0 or waits

    def __len__(self) -> int:
        """Records that wait."""
        return sum(len(records) for _, records in self._held)

    def fullness(self) -> float:
        """The share of the ring that waits to be taken."""
        return self._source.pending() / self._source.capacity

    def hold(self, records: Records) -> Records:
        """Those that need not wait, in true ids; the others are kept."""
        pending = has_flags(records, WAITS)
        if not pending.any():
            return records
        ready, waiting = self.joined.resolve(records[pending])
        if len(waiting):
            self._held.append((self._clock(), waiting))
        kept: Records = np.concatenate([records[~pending], ready])
        return kept

    def take(self) -> None:
        """Take new evidence."""
        self._take()

    def release(self) -> list[Records]:
        """Take new evidence; the records that wait no more."""
        self._take()
        if not self._held:
            return []
        now = self._clock()
        released: list[Records] = []
        still: list[tuple[int, Records]] = []
        room = self._max_held
        for since, records in reversed(self._held):
            ready, waiting = self.joined.resolve(records)
            if now - since > self._hold_ns:
                self.stats.waited_too_long += len(waiting)
                ready, waiting = np.concatenate([ready, as_they_are(waiting)]), waiting[:0]
            elif len(waiting) > room:
                self.stats.too_many_waited += len(waiting) - room
                leaving = as_they_are(waiting[: len(waiting) - room])
                ready, waiting = np.concatenate([ready, leaving]), waiting[len(waiting) - room :]
            room -= len(waiting)
            if len(ready):
                released.append(ready)
            if len(waiting):
                still.append((since, waiting))
        self._held = still[::-1]
        return released

    def finish(self) -> list[Records]:
        """The end: whatever waits leaves with what is known."""
        released = self.release()
        self._settle(np.ones(len(self._calls), np.bool_))
        self._settle_turns(last=True)
        for follower in self._followers:
            follower.settle(last=True)
        for _, records in self._held:
            ready, waiting = self.joined.resolve(records)
            released += [ready, as_they_are(waiting)]
        self._held = []
        return [records for records in released if len(records)]

    # -- evidence -------------------------------------------------------------------------

    def _take(self) -> None:
        self._seen_until = self._clock()
        while len(evidence := self._source.read()):
            self._add(evidence)
            self._turns.add(evidence)
            for follower in self._followers:
                follower.add(evidence)
        if len(self._calls):
            self._settle(self._settled())
        self._settle_turns()
        for follower in self._followers:
            follower.settle()

    def _add(self, evidence: Records) -> None:
        kind = evidence["kind"]
        calls = evidence[kind == self.asks]
        if len(calls):
            self._add_calls(calls)
        over = evidence[kind == EvidenceKind.OVER]
        if len(over) and len(self._calls):
            self._note_over(over)
        answers = evidence[(kind == EvidenceKind.ANSWER) & (evidence["contexts"][:, 0] != 0)]
        self.reused.meet(answers)
        if len(self._calls):
            parts = evidence[kind == EvidenceKind.PART]
            self._match(np.concatenate([answers, parts]))
            count_down(
                self._calls, evidence[(kind == EvidenceKind.ANSWER) | (kind == EvidenceKind.GONE)]
            )
        self._answers.keep(answers)

    def _add_calls(self, evidence: Records) -> None:
        self._latest.append(evidence)
        fresh = np.zeros(len(evidence), _CALL)
        fresh["evidence"] = evidence
        fresh["left"] = evidence["unanswered"]
        fresh["unsure"] = evidence["answering"]
        fresh["over"] = evidence["over"]
        fresh["depth"] = _UNMATCHED
        self._calls = np.concatenate([self._calls, fresh])
        too_many = len(self._calls) - CALLS_KEPT
        if too_many > 0:
            self._settle(np.arange(len(self._calls)) < too_many)

    def _note_over(self, over: Records) -> None:
        """These contexts are no more. Each was used by a call that came before in the ring."""
        chains = self._calls["evidence"]["contexts"]
        is_over = np.isin(chains, over["contexts"][:, 0]) & (chains != 0)
        self._calls["over"] |= np.packbits(is_over, axis=1, bitorder="little")[:, 0]

    def _match(self, answers: Records) -> None:
        """Give calls the answers that prove whose they are, nearer contexts first.

        Of each context only the first answer after the call counts, whatever it proves.
        """
        if not len(answers):
            return
        chains = self._calls["evidence"]["contexts"]
        index = AnswerIndex(answers)
        times = self._calls["evidence"]["time_ns"]
        tgids = self._calls["evidence"]["tgid"]
        for depth in range(chains.shape[1]):
            bit = np.uint8(1 << depth)
            may = (self._calls["depth"] > depth) & ((self._calls["seen"] & bit) == 0)
            open_ = np.flatnonzero((chains[:, depth] != 0) & may)
            if not len(open_):
                continue
            found = index.first_after(chains[open_, depth], times[open_])
            hit = found >= 0
            rows, at = open_[hit], found[hit]
            own = answers["tgid"][at] == tgids[rows]
            rows, at = rows[own], at[own]
            if not len(rows):
                continue
            began = times[rows] if depth == 0 else chains[rows, depth - 1]
            met = answers[at]
            in_time = met["start_ns"] <= began
            goes_on = met["kind"] == EvidenceKind.PART
            if depth == 0:
                self.reused.learn(met[~in_time & (met["before_ns"] <= times[rows])])
            # An answer that was lost on the way lies between the call and this one.
            missed = met["before_ns"] > times[rows]
            among_others = self._calls["evidence"]["unanswered"][rows] > 1
            sure = self.reused.is_sure(met, among_others)
            unsure = in_time & ~goes_on & (missed | ~sure)
            self._calls["seen"][rows] |= bit
            self._calls["unsure"][rows[unsure]] |= bit
            # In the middle of an answer only that it goes on is proof.
            fits = in_time & (goes_on | ((self._calls["unsure"][rows] & bit) == 0))
            fits &= ~may_be_queued(self._calls["evidence"]["queued"][rows], depth)
            rows, met = rows[fits], met[fits]
            self._calls["depth"][rows] = depth
            self._calls["parent"][rows] = met
            self._calls["matched_ns"][rows] = met["time_ns"]

    def _settled(self) -> Mask:
        """Which calls need wait no longer."""
        self._look_below()
        self._look_back()
        calls, now = self._calls, np.uint64(max(0, self._seen_until))
        depth, times = calls["depth"], calls["evidence"]["time_ns"]
        matched = depth != _UNMATCHED
        over = _all_over(calls)
        nearer_is_late = calls["matched_ns"] + np.uint64(NEARER_NS) < now
        answering = calls["evidence"]["answering"] & ~(calls["seen"] | calls["over"])
        exhausted = (calls["left"] <= 0) & (answering == 0)
        settled: Mask = (matched & (over | nearer_is_late)) | exhausted
        settled &= ~matched | over | self._is_branch_late(now)
        settled |= times + np.uint64(self._hold_ns) < now
        return settled

    def _is_branch_late(self, now: np.uint64) -> Mask:
        """Which calls have waited long enough for their branch to be over."""
        patience = np.where(self._calls["after"], np.uint64(AFTER_NS), np.uint64(BRANCH_NS))
        since = np.maximum(self._calls["matched_ns"], self._calls["evidence"]["time_ns"])
        late: Mask = since + patience <= now
        branch_is_over = _bit_below(self._calls["over"], self._calls["depth"])
        # Who has begun an answer may wait for its end, which is told by his own.
        enough: Mask = (late | branch_is_over) & ~self._calls["below"]
        return enough

    def _look_below(self) -> None:
        """Calls whose requests are all answered, and by nobody above them: was one answered by
        what they have begun?"""
        alone = np.flatnonzero((self._calls["depth"] == _UNMATCHED) & (self._calls["left"] <= 0))
        if not len(alone):
            return
        depth, answers = self._answers.below(self._calls["evidence"][alone])
        found = depth >= 0
        rows = alone[found]
        # All that lies between must end with the request, and the common context too.
        self._calls["depth"][rows] = depth[found] + 1
        self._calls["below"][rows] = True
        self._calls["parent"][rows] = answers
        self._calls["matched_ns"][rows] = answers["time_ns"]

    def _look_back(self) -> None:
        """Calls that nobody who might have been meant has proven: then it is what comes after
        an answer that their context gave before."""
        alone = np.flatnonzero(
            (self._calls["depth"] == _UNMATCHED)
            & (self._calls["left"] <= 0)
            & (self._calls["unsure"] & 1 == 0)
        )
        if not len(alone):
            return
        depth, answers = self._answers.last_before(
            self._calls["evidence"][alone], self._calls["unsure"][alone]
        )
        found = depth >= 0
        rows = alone[found]
        self._calls["depth"][rows] = depth[found]
        self._calls["after"][rows] = True
        self._calls["parent"][rows] = answers
        self._calls["matched_ns"][rows] = answers["time_ns"]
        self.reused.note(answers["contexts"][depth[found] == 0, 0])

    def _settle(self, which: Mask) -> None:
        if not which.any():
            return
        calls = self._calls[which]
        self._calls = self._calls[~which]
        self._drop_workers(calls)
        proven = calls["depth"] < WORKER
        self.stats.proven += int(proven.sum())
        self.stats.unproven += int((~proven).sum())
        self.joined.add(calls, proven, calls["after"] & proven)

    def _settle_turns(self, *, last: bool = False) -> None:
        calls, proven = self._turns.settle(self._seen_until, last=last)
        if len(calls):
            self.stats.proven += int(proven.sum())
            self.stats.unproven += int((~proven).sum())
            after = np.zeros(len(calls), np.bool_)
            self.joined.add(calls, proven, after, calls["evidence"]["link"])

    def _drop_workers(self, calls: npt.NDArray[np.void]) -> None:
        """Calls on branches that live on after the answer, or call again, are proven by nothing."""
        self._check_below(calls)
        on_branch = (calls["depth"] > 0) & (calls["depth"] < WORKER)
        lives_on = on_branch & ~_bit_below(calls["over"], calls["depth"])
        calls["depth"][lives_on] = WORKER
        oldest = max(0, self._clock() - _CALLS_REMEMBERED_NS)
        self._latest = [
            batch for batch in self._latest[-_BATCHES_KEPT:] if batch["time_ns"].max() >= oldest
        ]
        # Of who has begun the answer himself, only what lies between him and the call.
        top = calls["depth"] - calls["below"].astype(np.int8)
        rows = np.flatnonzero((top > 0) & (calls["depth"] < WORKER) & ~calls["after"])
        if not len(rows) or not self._latest:
            return
        latest = np.concatenate(self._latest)
        contexts = latest["contexts"].reshape(-1)
        times = np.repeat(latest["time_ns"], latest["contexts"].shape[1])
        order = np.lexsort((times, contexts))
        contexts, times = contexts[order], times[order]
        branch = calls["evidence"]["contexts"][rows, top[rows].astype(np.intp) - 1]
        last = np.searchsorted(contexts, branch, "right") - 1
        known = (last >= 0) & (contexts[last] == branch)
        goes_on = known & (times[last] > calls["matched_ns"][rows])
        calls["depth"][rows[goes_on]] = WORKER

    def _check_below(self, calls: npt.NDArray[np.void]) -> None:
        """Of calls whose answer was begun below them: all that began is over by now, and that
        answer has remained the only one."""
        rows = np.flatnonzero(calls["below"])
        if not len(rows):
            return
        depth, answers = self._answers.below(calls["evidence"][rows])
        holds = depth >= 0
        same = answers["span_id"] == calls["parent"]["span_id"][rows[holds]]
        holds[holds] = same.all(1)
        calls["depth"][rows[~(holds & _all_over(calls[rows]))]] = WORKER


def _bit_below(bits: npt.NDArray[np.uint8], depth: npt.NDArray[np.int8]) -> Mask:
    """Whether the context below the one at `depth` has its bit; none is below the first."""
    below = np.clip(depth, 1, 8).astype(np.uint8) - np.uint8(1)
    has: Mask = (bits >> below) & 1 != 0
    has |= depth == 0
    return has


def _all_over(calls: npt.NDArray[np.void]) -> Mask:
    """Whether no context of a matched call's below the one at `depth` is there any more."""
    matched, depth = calls["depth"] != _UNMATCHED, calls["depth"]
    in_branch = np.where(matched, (1 << np.minimum(depth, 8).astype(np.int64)) - 1, 0)
    over: Mask = (calls["over"] & in_branch) == in_branch
    return over
