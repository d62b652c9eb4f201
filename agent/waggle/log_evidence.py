"""Whose request log records are part of: the rule of calls (evidence.py), and stricter ones.

They leave the same evidence as calls do (EvidenceKind.LOG). What is known of them is kept
apart from what is known of calls, so what is logged changes no call's parent. Where that of a
call would be in doubt, and in the cases below, a record has no ids.

    ready, waiting = joins.resolve(records)     again, whenever more may be known
"""

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.answers import Mask, Reused
from waggle.evidence import WORKER, Joins
from waggle.joined import has_flags
from waggle.layout import EvidenceKind, Flag
from waggle.spans import Records

_CHAIN: int = layout.EVIDENCE["contexts"].shape[0]


class LogJoins(Joins):
    """Joins records of logs to requests; takes its evidence from those that join calls."""

    asks = EvidenceKind.LOG

    def __init__(self, calls: Joins) -> None:
        super().__init__(calls._source, calls._clock)
        self._of_calls = calls
        self.reused = _ReusedByEither(calls.reused)
        calls.follow(self)

    def add(self, evidence: Records) -> None:
        """Evidence of all kinds, in the order of the ring."""
        calls = evidence[evidence["kind"] == EvidenceKind.CALL]
        if len(calls):  # who calls after an answer lives on as much as who logs
            self._latest.append(calls)
        self._add(evidence)

    def settle(self, *, last: bool = False) -> None:
        """What need wait no longer; last: nothing need."""
        self._seen_until = self._clock()
        if len(self._calls):
            self._settle(np.ones(len(self._calls), np.bool_) if last else self._settled())

    def waits(self) -> bool:
        """Whether there are records whose request is not known yet."""
        return len(self._calls) > 0

    def resolve(self, records: Records) -> tuple[Records, Records]:
        """Of records that are kept elsewhere: those of which all is known, in true ids, and the
        others. They have the fields of an exchange that this module reads or writes."""
        waiting = records[:0]
        if len(self.joined):
            records, waiting = self.joined.verify(records)
            self.joined.name_requests(records)
        unproven = has_flags(records, Flag.UNPROVEN)
        waiting, records = np.concatenate([waiting, records[unproven]]), records[~unproven]
        pending = has_flags(records, Flag.TRACE_PENDING)
        ready, unknown = self._of_calls.joined.to_true_traces(records[pending])
        return np.concatenate([records[~pending], ready]), np.concatenate([waiting, unknown])

    def _drop_workers(self, calls: npt.NDArray[np.void]) -> None:
        """Besides: what is logged in a context that serves many connections may be a timer's,
        and after the answer that of the whole connection. It is the request's only where the
        context was made for that."""
        super()._drop_workers(calls)
        doubtful: Mask = (calls["parent"]["many"] != 0) | calls["after"]
        rows = np.flatnonzero((calls["depth"] < WORKER) & doubtful)
        depth = np.minimum(calls["depth"][rows], _CHAIN - 1).astype(np.intp)
        older = calls["evidence"]["contexts"][rows, depth] < calls["parent"]["start_ns"][rows]
        calls["depth"][rows[older]] = WORKER


class _ReusedByEither(Reused):
    """Sure is only what neither calls nor logs refute."""

    def __init__(self, of_calls: Reused) -> None:
        super().__init__()
        self._of_calls = of_calls

    def is_sure(self, answers: Records, among_others: Mask) -> Mask:
        mine = super().is_sure(answers, among_others)
        sure: Mask = mine & self._of_calls.is_sure(answers, among_others)
        return sure
