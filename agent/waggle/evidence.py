"""Parents that are proven late: calls are joined to requests when these are answered.

The kernel gives a call whose request is not known yet a trace id of its own and says so
(Flag.TRACE_PENDING); whatever it leads to on this machine carries the same id and the
same flag. A call whose request was predicted has a parent and Flag.UNPROVEN: it waits
until that is proven or corrected. Evidence follows in a ring of its own (bpf/python.h):
the contexts each call was made in, and the context that wrote each answer. The rule, WK
in docs/parents.md:

    a call belongs to the first request that is answered, after the call, by the call's
    context or by one it descends from; the nearer of two wins; and the branch that the
    call grew on must have begun while that request was being served, and ended with it: one
    that goes on to call after the answer may be a worker, who does anybody's work

    records = joins.hold(records)      what need not wait, ids made true; the rest is kept
    for records in joins.release():    what waited, now that more is known

Everything is bounded: a record waits HOLD_S at most and MAX_HELD wait together; what
has to leave unproven leaves with the ids it has, which begin a trace of its own, and is
counted.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.layout import EvidenceKind, Flag, Link, Role
from waggle.spans import Records

U64 = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]

_S = 1_000_000_000
HOLD_S = 30.0
MAX_HELD = 16_384
# A request further up has answered; one nearer still may, though hardly after this.
NEARER_NS = 1 * _S
# For so long after the answer a branch is watched: does it go on to call?
BRANCH_NS = _S * 3 // 10
_CALLS_REMEMBERED_NS = 2 * _S
ANSWERS_KEPT = 16_384
JOINED_KEPT = 65_536
CALLS_KEPT = 65_536
_HOPS = 8  # a pending trace may stand for another that is pending itself

_WAITS = Flag.TRACE_PENDING | Flag.UNPROVEN
_UNMATCHED = 127
_WORKER = 126  # matched, and disproved: the branch goes on after the answer
_BATCHES_KEPT = 64
_CHAIN: int = layout.EVIDENCE["contexts"].shape[0]
_BACK = (1, 2, 3, 4)  # answers of one context that are looked at for what came after
_TIME_BITS = np.uint64(44)
_MAX_SPAN = np.uint64((1 << 44) - 1)

_CALL = np.dtype(
    [
        ("evidence", layout.EVIDENCE),
        ("left", np.int64),  # requests that were open at the call and are not answered yet
        ("depth", np.int8),  # of the context that answered, _UNMATCHED: none yet
        ("matched_ns", np.uint64),
        ("parent", layout.EVIDENCE),  # the answer
    ]
)

_JOINED = np.dtype(
    [
        ("key", np.uint64),  # of the trace id that was given out; of a prediction, the span id
        ("span_id", np.uint8, 8),  # the call's
        ("proven", np.bool_),
        ("after", np.bool_),  # sent when its parent had been answered
        ("trace_id", np.uint8, 16),  # the true one, which may be pending itself
        ("parent_id", np.uint8, 8),
        ("trace_flags", np.uint8),
        ("flags", np.uint16),  # of the parent
    ]
)


class EvidenceSource(Protocol):
    """The ring of evidence, or what stands in for one."""

    capacity: int  # records

    def pending(self) -> int: ...

    def read(self, max_records: int = ...) -> Records: ...


@dataclass(slots=True)
class JoinStats:
    """proven: calls that found their request. unproven: calls that have none. corrected:
    calls whose predicted parent was not the proven one. waited_too_long,
    too_many_waited: records that left before anything was known about their trace."""

    proven: int = 0
    unproven: int = 0
    corrected: int = 0
    waited_too_long: int = 0
    too_many_waited: int = 0

    def missed(self) -> dict[str, int]:
        """Records that may lack a parent for reasons of ours, by reason."""
        return {
            "waited_too_long": self.waited_too_long,
            "too_many_waited": self.too_many_waited,
        }


def key_of(trace_ids: npt.NDArray[np.uint8]) -> U64:
    """The random half of trace ids (n, 16) as one word each."""
    return _words(trace_ids[:, 8:])


def _words(ids: npt.NDArray[np.uint8]) -> U64:
    """Ids of 8 bytes (n, 8) as one word each."""
    words: U64 = np.ascontiguousarray(ids).view(np.uint64).reshape(-1)
    return words


class Joins:
    """Holds what waits for proof, and lets it go with true ids."""

    def __init__(
        self,
        source: EvidenceSource,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        hold_s: float = HOLD_S,
        max_held: int = MAX_HELD,
    ) -> None:
        self.stats = JoinStats()
        self._source = source
        self._clock = clock_ns
        self._hold_ns = int(hold_s * _S)
        self._max_held = max_held
        self._calls = np.empty(0, _CALL)
        self._answers = _Answers()
        self._latest: list[Records] = []  # calls of the last seconds, whatever became of them
        self._joined = np.empty(0, _JOINED)  # sorted by key
        self._order: list[npt.NDArray[np.void]] = []  # of joining, to forget the oldest first
        self._held: list[tuple[int, Records]] = []  # since when, oldest first

    def __len__(self) -> int:
        """Records that wait."""
        return sum(len(records) for _, records in self._held)

    def fullness(self) -> float:
        """The share of the ring that waits to be taken."""
        return self._source.pending() / self._source.capacity

    def hold(self, records: Records) -> Records:
        """Those that need not wait, in true ids; the others are kept."""
        pending = _has(records, _WAITS)
        if not pending.any():
            return records
        ready, waiting = self._resolve(records[pending])
        if len(waiting):
            self._held.append((self._clock(), waiting))
        kept: Records = np.concatenate([records[~pending], ready])
        return kept

    def resolve(self, records: Records) -> tuple[Records, Records]:
        """Of records that are kept elsewhere: those of which all is known, in true ids, and the
        others. They have the fields of an exchange that this module reads or writes."""
        return self._resolve(records)

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
            ready, waiting = self._resolve(records)
            if now - since > self._hold_ns:
                self.stats.waited_too_long += len(waiting)
                ready, waiting = np.concatenate([ready, _as_they_are(waiting)]), waiting[:0]
            elif len(waiting) > room:
                self.stats.too_many_waited += len(waiting) - room
                leaving = _as_they_are(waiting[: len(waiting) - room])
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
        for _, records in self._held:
            ready, waiting = self._resolve(records)
            released += [ready, _as_they_are(waiting)]
        self._held = []
        return [records for records in released if len(records)]

    # -- evidence -------------------------------------------------------------------------

    def _take(self) -> None:
        while len(evidence := self._source.read()):
            self._add(evidence)
        if len(self._calls):
            self._settle(self._settled())

    def _add(self, evidence: Records) -> None:
        kind = evidence["kind"]
        is_call = (kind == EvidenceKind.CALL) | (kind == EvidenceKind.LOG)
        calls = evidence[is_call]
        if len(calls):
            self._add_calls(calls)
        ended = evidence[~is_call]
        if not len(ended):
            return
        answers = ended[
            (ended["kind"] == EvidenceKind.ANSWER)
            & (ended["shared"] == 0)
            & (ended["contexts"][:, 0] != 0)
        ]
        if len(self._calls):
            self._match(answers)
            self._count_down(ended)
        self._answers.keep(answers)

    def _add_calls(self, evidence: Records) -> None:
        self._latest.append(evidence)
        fresh = np.zeros(len(evidence), _CALL)
        fresh["evidence"] = evidence
        fresh["left"] = evidence["unanswered"]
        fresh["depth"] = _UNMATCHED
        self._calls = np.concatenate([self._calls, fresh])
        too_many = len(self._calls) - CALLS_KEPT
        if too_many > 0:
            self._settle(np.arange(len(self._calls)) < too_many)

    def _match(self, answers: Records) -> None:
        """Give calls the answers that prove whose they are, nearer contexts first."""
        if not len(answers):
            return
        chains = self._calls["evidence"]["contexts"]
        index = _AnswerIndex(answers)
        times = self._calls["evidence"]["time_ns"]
        tgids = self._calls["evidence"]["tgid"]
        for depth in range(chains.shape[1]):
            open_ = np.flatnonzero((chains[:, depth] != 0) & (self._calls["depth"] > depth))
            if not len(open_):
                break
            found = index.first_after(chains[open_, depth], times[open_])
            hit = found >= 0
            rows, at = open_[hit], found[hit]
            began = times[rows] if depth == 0 else chains[rows, depth - 1]
            fits = (answers["start_ns"][at] <= began) & (answers["tgid"][at] == tgids[rows])
            rows, at = rows[fits], at[fits]
            self._calls["depth"][rows] = depth
            self._calls["parent"][rows] = answers[at]
            self._calls["matched_ns"][rows] = answers["time_ns"][at]

    def _count_down(self, ended: Records) -> None:
        """Of the requests that were open at each call, these are open no more."""
        tgids = self._calls["evidence"]["tgid"]
        times = self._calls["evidence"]["time_ns"]
        for tgid in np.unique(ended["tgid"]).tolist():
            of = ended["tgid"] == tgid
            calls = np.flatnonzero(tgids == tgid)
            begun = np.searchsorted(np.sort(ended["start_ns"][of]), times[calls], "right")
            over = np.searchsorted(np.sort(ended["time_ns"][of]), times[calls], "right")
            self._calls["left"][calls] -= begun - over

    def _settled(self) -> Mask:
        """Which calls need wait no longer."""
        now = np.uint64(max(0, self._clock()))
        matched = self._calls["depth"] != _UNMATCHED
        nearer_is_late = self._calls["matched_ns"] + np.uint64(NEARER_NS) < now
        too_old = self._calls["evidence"]["time_ns"] + np.uint64(self._hold_ns) < now
        exhausted = self._calls["left"] <= 0
        on_branch = matched & (self._calls["depth"] > 0)
        branch_is_over = self._calls["matched_ns"] + np.uint64(BRANCH_NS) <= now
        settled: Mask = (self._calls["depth"] == 0) | (matched & nearer_is_late) | exhausted
        settled &= ~on_branch | branch_is_over
        settled |= too_old
        return settled

    def _settle(self, which: Mask) -> None:
        if not which.any():
            return
        calls = self._calls[which]
        self._calls = self._calls[~which]
        self._drop_workers(calls)
        after = np.zeros(len(calls), np.bool_)
        # Everybody who might have been meant has answered: then it is what comes after
        # the answer that this context gave before.
        alone = np.flatnonzero((calls["depth"] == _UNMATCHED) & (calls["left"] <= 0))
        if len(alone):
            found, answers = self._answers.last_before(calls["evidence"][alone])
            rows = alone[found]
            # What is logged after an answer is its request's where the context is, too: one that
            # is older may be that of the whole connection, or of the event loop.
            is_log = calls["evidence"]["kind"][rows] == EvidenceKind.LOG
            older = calls["evidence"]["contexts"][rows, 0] < answers["start_ns"]
            rows, answers = rows[~(is_log & older)], answers[~(is_log & older)]
            calls["depth"][rows] = 0
            calls["parent"][rows] = answers
            after[rows] = True
        self._drop_logs_of_loops(calls)
        proven = calls["depth"] < _WORKER
        counted = calls["evidence"]["kind"] == EvidenceKind.CALL
        self.stats.proven += int((proven & counted).sum())
        self.stats.unproven += int((~proven & counted).sum())
        self._join(calls, proven, after)

    def _drop_workers(self, calls: npt.NDArray[np.void]) -> None:
        """Calls on branches that went on to call after the answer are proven by nothing."""
        oldest = max(0, self._clock() - _CALLS_REMEMBERED_NS)
        self._latest = [
            batch for batch in self._latest[-_BATCHES_KEPT:] if batch["time_ns"].max() >= oldest
        ]
        rows = np.flatnonzero((calls["depth"] > 0) & (calls["depth"] != _UNMATCHED))
        if not len(rows) or not self._latest:
            return
        latest = np.concatenate(self._latest)
        contexts = latest["contexts"].reshape(-1)
        times = np.repeat(latest["time_ns"], latest["contexts"].shape[1])
        order = np.lexsort((times, contexts))
        contexts, times = contexts[order], times[order]
        branch = calls["evidence"]["contexts"][rows, calls["depth"][rows].astype(np.intp) - 1]
        last = np.searchsorted(contexts, branch, "right") - 1
        known = (last >= 0) & (contexts[last] == branch)
        goes_on = known & (times[last] > calls["matched_ns"][rows])
        calls["depth"][rows[goes_on]] = _WORKER

    def _drop_logs_of_loops(self, calls: npt.NDArray[np.void]) -> None:
        """What is logged in a context that serves many connections may be a timer's: it is its
        request's only where the context was made for that."""
        rows = np.flatnonzero(
            (calls["evidence"]["kind"] == EvidenceKind.LOG)
            & (calls["depth"] < _WORKER)
            & (calls["parent"]["many"] != 0)
        )
        depth = np.minimum(calls["depth"][rows], _CHAIN - 1).astype(np.intp)
        older = calls["evidence"]["contexts"][rows, depth] < calls["parent"]["start_ns"][rows]
        calls["depth"][rows[older]] = _WORKER

    def _join(self, calls: npt.NDArray[np.void], proven: Mask, after: Mask) -> None:
        rows = np.zeros(len(calls), _JOINED)
        evidence, parent = calls["evidence"], calls["parent"]
        predicted = _has(evidence, Flag.UNPROVEN)
        own_trace, own_span = key_of(evidence["trace_id"]), _words(evidence["span_id"])
        rows["key"] = np.where(predicted, own_span, own_trace)
        rows["span_id"] = evidence["span_id"]
        rows["proven"] = proven
        rows["after"] = after
        rows["trace_id"] = np.where(proven[:, None], parent["trace_id"], evidence["trace_id"])
        rows["parent_id"][proven] = parent["span_id"][proven]
        rows["trace_flags"] = np.where(proven, parent["trace_flags"], evidence["trace_flags"])
        rows["flags"] = np.where(proven, parent["flags"], 0)
        self._order.append(rows)
        total = sum(len(batch) for batch in self._order)
        while total > JOINED_KEPT and len(self._order) > 1:
            total -= len(self._order.pop(0))
        joined = np.concatenate(self._order)
        self._joined = joined[np.argsort(joined["key"], kind="stable")]

    # -- records --------------------------------------------------------------------------

    def _resolve(self, records: Records) -> tuple[Records, Records]:
        """Records of which all is known, rewritten; and those that wait on."""
        if not len(self._joined):
            return records[:0], records
        records, waiting = self._verify(records)
        pending = _has(records, Flag.TRACE_PENDING)
        if not pending.any():
            return records, waiting
        ready, unknown = self._to_true_traces(records[pending])
        return np.concatenate([records[~pending], ready]), np.concatenate([waiting, unknown])

    def _verify(self, records: Records) -> tuple[Records, Records]:
        """Predicted parents that are proven, or corrected; and records that wait for that."""
        unproven = _has(records, Flag.UNPROVEN)
        if not unproven.any():
            return records, records[:0]
        at = self._find(_words(records["span_id"]))
        waiting = unproven & (at < 0)
        records, waits, at = records[~waiting].copy(), records[waiting], at[~waiting]
        rows = np.flatnonzero(_has(records, Flag.UNPROVEN))
        proof = self._joined[at[rows]]
        found = proof["proven"]
        wrong = found & (records["parent_id"][rows] != proof["parent_id"]).any(1)
        self.stats.corrected += int(wrong.sum())
        records["flags"][rows] &= np.uint16(0xFFFF ^ Flag.UNPROVEN)
        records["flags"][rows[found & proof["after"]]] |= np.uint16(Flag.AFTER_RESPONSE)
        self._correct(records, rows[wrong], proof[wrong])
        records["parent_id"][rows[~found]] = 0
        records["link"][rows[~found]] = Link.NONE
        return records, waits

    def _correct(self, records: Records, rows: Index, proof: npt.NDArray[np.void]) -> None:
        """Give records the proven parents. What the calls led to keeps the predicted trace."""
        for field in ("trace_id", "parent_id", "trace_flags"):
            records[field][rows] = proof[field]
        kept = records["flags"][rows] & np.uint16(0xFFFF ^ Flag.TRACE_PENDING)
        inherited = np.uint16(Flag.TRACE_PENDING | Flag.UNSAMPLED)
        records["flags"][rows] = kept | (proof["flags"] & inherited)

    def _to_true_traces(self, records: Records) -> tuple[Records, Records]:
        """Records of pending traces whose true id is known, rewritten; and the others."""
        first = self._find(key_of(records["trace_id"]))
        at, known = first.copy(), first >= 0
        moving = known & self._stands_for_pending(at)
        for _ in range(_HOPS):
            if not moving.any():
                break
            at[moving] = self._find(key_of(self._joined["trace_id"][at[moving]]))
            known &= at >= 0
            moving &= known
            moving[moving] &= self._stands_for_pending(at[moving])
        known &= ~moving
        ready = records[known].copy()
        self._rewrite(ready, first[known], at[known])
        return ready, records[~known]

    def _find(self, keys: U64) -> Index:
        """Rows of the joined traces, -1 where a trace is not among them."""
        at = np.searchsorted(self._joined["key"], keys)
        at[at == len(self._joined)] = 0
        found: Index = np.where(self._joined["key"][at] == keys, at, -1)
        return found

    def _stands_for_pending(self, at: Index) -> Mask:
        rows = self._joined[at]
        pending: Mask = rows["proven"] & ((rows["flags"] & np.uint16(Flag.TRACE_PENDING)) != 0)
        return pending

    def _rewrite(self, records: Records, first: Index, last: Index) -> None:
        own, true = self._joined[first], self._joined[last]
        is_call = (records["role"] == Role.CLIENT) & (records["span_id"] == own["span_id"]).all(1)
        is_call &= own["proven"]
        records["trace_id"] = true["trace_id"]
        records["trace_flags"] = true["trace_flags"]
        flags = records["flags"] & np.uint16(0xFFFF ^ Flag.TRACE_PENDING)
        flags |= true["flags"] & np.uint16(Flag.UNSAMPLED)
        flags[is_call & own["after"]] |= np.uint16(Flag.AFTER_RESPONSE)
        records["flags"] = flags
        records["parent_id"][is_call] = own["parent_id"][is_call]
        records["link"][is_call] = Link.TASK


class _AnswerIndex:
    """Answers by the context that wrote them and the time."""

    def __init__(self, answers: Records) -> None:
        self._contexts, ranks = np.unique(answers["contexts"][:, 0], return_inverse=True)
        self._first: Any = answers["time_ns"].min()
        keys = self._keys(ranks, answers["time_ns"])
        self._order = np.argsort(keys, kind="stable")
        self._keys_in_order = keys[self._order]

    def _keys(self, ranks: Index, times: U64) -> U64:
        since = np.where(times > self._first, times - self._first, 0)
        keys: U64 = (ranks.astype(np.uint64) << _TIME_BITS) | np.minimum(since, _MAX_SPAN)
        return keys

    def first_after(self, contexts: U64, times: U64) -> Index:
        """Row of the first answer that each context wrote at or after a time; -1: none."""
        return self._beside(contexts, times, 0)

    def last_before(self, contexts: U64, times: U64, back: int = 1) -> Index:
        """Row of the answer that each context wrote last before a time, or one further back."""
        return self._beside(contexts, times, -back)

    def _beside(self, contexts: U64, times: U64, step: int) -> Index:
        ranks = np.searchsorted(self._contexts, contexts)
        ranks[ranks == len(self._contexts)] = 0
        known = self._contexts[ranks] == contexts
        at = np.searchsorted(self._keys_in_order, self._keys(ranks, times)) + step
        inside = known & (at >= 0) & (at < len(self._order))
        at[~inside] = 0
        same = (self._keys_in_order[at] >> _TIME_BITS) == ranks.astype(np.uint64)
        found: Index = np.where(inside & same, self._order[at], -1)
        return found


class _Answers:
    """The latest answers: what a context does after it has answered belongs to them."""

    def __init__(self) -> None:
        self._batches: list[Records] = []

    def keep(self, answers: Records) -> None:
        if len(answers):
            self._batches.append(answers)
        total = sum(len(batch) for batch in self._batches)
        while total > ANSWERS_KEPT and len(self._batches) > 1:
            total -= len(self._batches.pop(0))

    def last_before(self, calls: Records) -> tuple[Mask, Records]:
        """Which calls were made after an answer of their own request, and those answers."""
        found = np.zeros(len(calls), np.bool_)
        if not self._batches:
            return found, np.empty(0, layout.EVIDENCE)
        answers = np.concatenate(self._batches)
        index = _AnswerIndex(answers)
        rows = np.full(len(calls), -1, np.intp)
        chains, times = calls["contexts"], calls["time_ns"]
        for depth in range(chains.shape[1]):
            for back in _BACK:  # past requests that its context served later
                open_ = np.flatnonzero((chains[:, depth] != 0) & (rows < 0))
                at = index.last_before(chains[open_, depth], times[open_], back)
                hit = at >= 0
                began = times[open_] if depth == 0 else chains[open_, depth - 1]
                # A branch that is older than the answer may be a worker by now, whose
                # context still says in which request it was born.
                hit &= answers["time_ns"][at] <= began
                hit &= answers["tgid"][at] == calls["tgid"][open_]
                rows[open_[hit]] = at[hit]
        found = rows >= 0
        return found, answers[rows[found]]


def _has(records: npt.NDArray[np.void], flags: int) -> Mask:
    has: Mask = (records["flags"] & np.uint16(flags)) != 0
    return has


def _as_they_are(records: Records) -> Records:
    """Records that leave unproven: a predicted parent is none."""
    records = records.copy()
    predicted = _has(records, Flag.UNPROVEN)
    records["parent_id"][predicted] = 0
    records["link"][predicted] = Link.NONE
    records["flags"] &= np.uint16(0xFFFF ^ _WAITS)
    return records
