"""Answers, as evidence tells of them: which context wrote each, when, and what that makes sure.

What `Joins` (evidence.py) asks of them. Arrays have a row for each answer or call; contexts are
generations, as the kernel gives them.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.spans import Records

U64 = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]

ANSWERS_KEPT = 16_384
REFUTED_KEPT = 4096
WENT_ON_KEPT = 4096
QUIET_GAPS = 20
_TIME_BITS = np.uint64(44)
_MAX_SPAN = np.uint64((1 << 44) - 1)


class AnswerIndex:
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

    def last_before(self, contexts: U64, times: U64) -> Index:
        """Row of the answer that each context wrote last before a time; -1: none."""
        return self._beside(contexts, times, -1)

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


class Answers:
    """The latest answers: what a context does after it has answered belongs to them."""

    def __init__(self) -> None:
        self._batches: list[Records] = []
        self._makers: list[U64] = []  # contexts below which a request was answered, a batch each

    def keep(self, answers: Records) -> None:
        if len(answers):
            self._batches.append(answers)
            self._makers.append(_makers_of(answers))
        total = sum(len(batch) for batch in self._batches)
        while total > ANSWERS_KEPT and len(self._batches) > 1:
            total -= len(self._batches.pop(0))
            self._makers.pop(0)

    def below(self, calls: Records) -> tuple[Index, Records]:
        """At which depth lies the context below which each call's request was answered (-1: at
        none), and those answers."""
        depths = np.full(len(calls), -1, np.intp)
        makers = np.concatenate(self._makers) if self._makers else np.empty(0, np.uint64)
        chains = calls["contexts"]
        may = np.isin(chains, makers) if len(makers) else np.zeros(chains.shape, np.bool_)
        rows = np.flatnonzero(may.any(1))
        if not len(rows):
            return depths, np.empty(0, layout.EVIDENCE)
        # Only the nearest: what is answered below it is answered below those further up, too.
        nearest = may[rows].argmax(1)
        common = chains[rows, nearest]
        answers = np.concatenate(self._batches)
        answers = answers[answers["time_ns"] >= common.min()]
        at = _only_answers(calls[rows], common, answers)
        at[may_be_queued(calls["queued"][rows], nearest + 1)] = -1
        found = at >= 0
        depths[rows[found]] = nearest[found]
        return depths, answers[at[found]]

    def last_before(self, calls: Records, unsure: npt.NDArray[np.uint8]) -> tuple[Index, Records]:
        """At which depth each call was made after an answer (-1: at none), and those answers."""
        depths = np.full(len(calls), -1, np.intp)
        if not self._batches:
            return depths, np.empty(0, layout.EVIDENCE)
        answers = np.concatenate(self._batches)
        index = AnswerIndex(answers)
        chosen = np.zeros(len(calls), np.intp)
        chains, times = calls["contexts"], calls["time_ns"]
        for depth in range(chains.shape[1]):
            is_unsure = (unsure >> np.uint8(depth)) & 1 != 0
            open_ = np.flatnonzero((chains[:, depth] != 0) & (depths < 0) & ~is_unsure)
            # A branch that is older than the answer may be a worker by now, whose context
            # still says in which request it was born.
            began = times[open_] if depth == 0 else chains[open_, depth - 1]
            at = index.last_before(chains[open_, depth], began)
            hit = (at >= 0) & (answers["shared"][at] == 0)
            hit &= answers["tgid"][at] == calls["tgid"][open_]
            # When it began, its context may have been at work on the next request.
            after = index.first_after(chains[open_, depth], began)
            hit &= (after < 0) | (answers["start_ns"][after] > began)
            hit &= ~may_be_queued(calls["queued"][open_], depth)
            if depth:
                # What was made for a request is no part of one that was answered before. Where
                # one is open it may be that one's, whose answer another context writes.
                hit &= (calls["made"][open_] & np.uint8((1 << depth) - 1)) == 0
                hit &= calls["unanswered"][open_] == 0
            depths[open_[hit]] = depth
            chosen[open_[hit]] = at[hit]
        return depths, answers[chosen[depths >= 0]]


def _makers_of(answers: Records) -> U64:
    """The contexts that were made after the request had been read, and in which somebody was
    begun who answered it. Where nobody saw it being made, a context is no evidence: it is even."""
    above = answers["contexts"][:, 1:]
    fresh = (above >= answers["start_ns"][:, None]) & (above & np.uint64(1) != 0)
    makers: U64 = above[fresh]
    return makers


def _only_answers(calls: Records, common: U64, answers: Records) -> Index:
    """For each call the row of the answer that was written below a context, `common`, when there
    is no other to a request that was there at the call, nor any before; else -1."""
    chains = answers["contexts"]
    places = np.flatnonzero(np.isin(chains, common))
    places = places[np.argsort(chains.reshape(-1)[places], kind="stable")]
    contexts = chains.reshape(-1)[places]
    first = np.searchsorted(contexts, common, "left")
    number = np.searchsorted(contexts, common, "right") - first
    of = np.repeat(np.arange(len(calls)), number)
    place = places[np.arange(len(of)) - np.repeat(np.cumsum(number) - number, number) + first[of]]
    row, depth = place // chains.shape[1], place % chains.shape[1]
    met, times = answers[row], calls["time_ns"][of]
    meant = (met["time_ns"] >= times) & (met["start_ns"] <= times)
    # Who answers himself, or has begun others that did before, may be at work on the next.
    spoilt = (depth == 0) | (met["time_ns"] < times) | (met["shared"] != 0)
    spoilt |= meant & (met["start_ns"] > common[of]) | (met["tgid"] != calls["tgid"][of])
    alone = np.bincount(of[meant], minlength=len(calls)) == 1
    alone &= np.bincount(of[spoilt], minlength=len(calls)) == 0
    at = np.full(len(calls), -1, np.intp)
    at[of[meant]] = row[meant]
    at[~alone] = -1
    return at


class Reused:
    """Contexts that answer one request after the other, which others have read: when do they
    begin with the next? A call between two answers is part of the second, unless something
    goes on after answers in that process: once a call was seen there between an answer and
    the reading of the next request, nothing is sure any more. While several requests are open,
    the next, of another connection, may be read in the moment between an answer and a call that
    comes late: so such calls are believed only after QUIET_GAPS answers whose contexts did
    nothing in between."""

    def __init__(self) -> None:
        # Process, and whether on one connection: since when.
        self._refuted: dict[tuple[int, bool], int] = {}
        self._went_on = np.empty(0, np.uint64)  # contexts that called after their answers
        self._quiet: dict[int, int] = {}  # process: gaps without a call, up to QUIET_GAPS

    def note(self, contexts: U64) -> None:
        """These contexts have called after their answers, when no other request was open."""
        if len(contexts):
            self._went_on = np.concatenate([self._went_on, contexts])[-WENT_ON_KEPT:]

    def meet(self, answers: Records) -> None:
        """Of contexts that answer again it is known what they do after an answer."""
        again = answers["before_ns"] != 0
        self._count_gaps(answers[again & (answers["own"] == 0) & (answers["kept"] == 0)])
        if again.any() and len(self._went_on):
            self.learn(answers[again & np.isin(answers["contexts"][:, 0], self._went_on)])

    def learn(self, answers: Records) -> None:
        """Answers of contexts that have called between the answer before and this request."""
        again = answers[(answers["before_ns"] != 0) & (answers["own"] == 0)]
        for tgid, kept, since in np.unique(again[["tgid", "kept", "before_ns"]]).tolist():
            if len(self._refuted) < REFUTED_KEPT:
                known = self._refuted.get((tgid, bool(kept)), since)
                self._refuted[tgid, bool(kept)] = min(known, since)

    def _count_gaps(self, again: Records) -> None:
        """Gaps between an answer and the reading of what its context answers next; a call in
        one refutes all of them, so only their number is kept."""
        gaps = again["tgid"][again["before_ns"] <= again["start_ns"]]
        for tgid, number in zip(*np.unique(gaps, return_counts=True), strict=True):
            known = self._quiet.get(int(tgid), 0)
            if known or len(self._quiet) < REFUTED_KEPT:
                self._quiet[int(tgid)] = min(QUIET_GAPS, known + int(number))

    def _is_tried(self, answers: Records) -> Mask:
        """Whether the process has shown often enough what it does between two requests."""
        tried = [tgid for tgid, number in self._quiet.items() if number >= QUIET_GAPS]
        found: Mask = np.isin(answers["tgid"], tried)
        return found

    def is_sure(self, answers: Records, among_others: Mask) -> Mask:
        """Whether what was done before these answers, and after the same context's answers
        before them, was done for them. among_others: while more than one request was open."""
        fresh = answers["before_ns"] == 0
        # It was read while its context was still at work on another one.
        waited = answers["before_ns"] > answers["start_ns"]
        refuted = np.zeros(len(answers), np.bool_)
        for (tgid, kept), since in self._refuted.items():
            of = (answers["tgid"] == tgid) & (answers["kept"] == kept)
            refuted |= of & (answers["time_ns"] > since)
        alike = ~among_others | (answers["kept"] != 0)
        believed = ~refuted & (alike | self._is_tried(answers))
        sure: Mask = fresh | (~waited & ((answers["own"] != 0) | believed))
        sure &= answers["shared"] == 0
        return sure


def may_be_queued(queued: npt.NDArray[np.uint8], depth: int | Index) -> Mask:
    """Whether a context between a call's own and the one at `depth` may have begun the next of a
    queue, whoever had put it there."""
    between = (np.int64(1) << np.asarray(depth, np.int64)) - 1 & ~1
    may: Mask = (queued & between) != 0
    return may
