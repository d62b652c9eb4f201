"""Whose turn it was, proven by answers: rule `turn` where it is only a claim (bpf/turns.h).

The kernel claims that a call belongs to the request in whose turn of the event loop it went
out. The claim holds when

    that request's answer is written in its own turn as well, and
    the requests that were open with it at the call have been answered, none of them in the
    turn of another: the true owner of a call that is claimed for somebody else goes on when
    its answer comes, in what the rule takes for the other's turn, and shows it by his own

For the second no call waits for ever, since a request may stay open for hours: it waits
PATIENCE_TIMES as long as its own request took, within PATIENCE_NS. From one look of the agent to
the next STEP_NS count at most: where the machine stood still nobody could answer. One answer in
the turn of another takes back all that is not settled in its process; the kernel has ended the
rule there.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.layout import EvidenceKind
from waggle.spans import Records

Mask = npt.NDArray[np.bool_]

PATIENCE_NS = (1_000_000_000, 5_000_000_000)
PATIENCE_TIMES = 16
STEP_NS = 250_000_000
CLAIMS_KEPT = 65_536

_ENDS = (EvidenceKind.TURN_ANSWER, EvidenceKind.TURN_REFUTED, EvidenceKind.TURN_GONE)
_OURS = (EvidenceKind.TURN_CALL, *_ENDS)

_CLAIM = np.dtype(
    [
        ("evidence", layout.EVIDENCE),
        ("left", np.int64),  # requests that were open at the call and are not answered yet
        ("refuted", np.bool_),
        ("is_proven", np.bool_),  # the claimed request was answered in its turn
        ("patience_ns", np.int64),  # how long it waits for the others then
        ("parent", layout.EVIDENCE),  # that answer
    ]
)
Claims = npt.NDArray[np.void]


def count_down(calls: Claims, ended: Records) -> None:
    """Of the requests that were open at each call, these are open no more.

    calls: with the columns `evidence`, of the call, and `left`, which is changed.
    """
    tgids, times = calls["evidence"]["tgid"], calls["evidence"]["time_ns"]
    for tgid in np.unique(ended["tgid"]).tolist():
        of = ended["tgid"] == tgid
        rows = np.flatnonzero(tgids == tgid)
        begun = np.searchsorted(np.sort(ended["start_ns"][of]), times[rows], "right")
        over = np.searchsorted(np.sort(ended["time_ns"][of]), times[rows], "right")
        calls["left"][rows] -= begun - over


class Turns:
    """Claims that wait for answers.

    turns.add(evidence)                        in the order of the ring, of all kinds
    claims, proven = turns.settle(now_ns)      those of which all is known: `evidence`, `parent`
    """

    def __init__(self, hold_ns: int) -> None:
        self._hold_ns = np.uint64(hold_ns)
        self._looked_ns = 0
        self._claims: Claims = np.empty(0, _CLAIM)

    def __len__(self) -> int:
        return len(self._claims)

    def add(self, evidence: Records) -> None:
        ours = evidence[np.isin(evidence["kind"], _OURS)]
        if not len(ours):
            return
        self._add_claims(ours[ours["kind"] == EvidenceKind.TURN_CALL])
        if not len(self._claims):
            return
        speaks = ours["contexts"][:, 0] != 0
        self._prove(ours[(ours["kind"] == EvidenceKind.TURN_ANSWER) & speaks])
        count_down(self._claims, ours[np.isin(ours["kind"], _ENDS)])
        self._refute(ours["tgid"][ours["kind"] == EvidenceKind.TURN_REFUTED])

    def settle(self, now_ns: int, *, last: bool = False) -> tuple[Claims, Mask]:
        """Claims that wait no more, and which of them are proven. last: none may wait on."""
        claims, now = self._claims, np.uint64(max(0, now_ns))
        self._pass_time(now_ns)
        done = (claims["left"] <= 0) | (claims["patience_ns"] < 0)
        settled: Mask = claims["refuted"] | done
        settled |= claims["evidence"]["time_ns"] + self._hold_ns < now
        settled[: max(0, len(claims) - CLAIMS_KEPT)] = True
        if last:
            settled[:] = True
        self._claims = claims[~settled]
        leaving = claims[settled]
        # What has to leave before the others were answered is not sure of them.
        proven: Mask = leaving["is_proven"] & ~leaving["refuted"] & done[settled]
        return leaving, proven

    def _pass_time(self, now_ns: int) -> None:
        """Proven claims have waited for the others since the last look."""
        passed = min(max(0, now_ns - self._looked_ns), STEP_NS)
        self._looked_ns = now_ns
        self._claims["patience_ns"][self._claims["is_proven"]] -= passed

    def _add_claims(self, calls: Records) -> None:
        fresh = np.zeros(len(calls), _CLAIM)
        fresh["evidence"] = calls
        fresh["left"] = calls["unanswered"]
        self._claims = np.concatenate([self._claims, fresh])

    def _prove(self, answers: Records) -> None:
        """Answers that were written in the turns of their own requests."""
        if not len(answers):
            return
        order = np.argsort(answers["contexts"][:, 0], kind="stable")
        answers = answers[order]
        keys = answers["contexts"][:, 0]
        claimed = self._claims["evidence"]["contexts"][:, 0]
        at = np.searchsorted(keys, claimed)
        at[at == len(keys)] = 0
        own = keys[at] == claimed
        own &= answers["tgid"][at] == self._claims["evidence"]["tgid"]
        rows = np.flatnonzero(own & ~self._claims["is_proven"])
        met = answers[at[rows]]
        took = (met["time_ns"] - met["start_ns"]).astype(np.int64)
        self._claims["parent"][rows] = met
        self._claims["is_proven"][rows] = True
        self._claims["patience_ns"][rows] = np.clip(took * PATIENCE_TIMES, *PATIENCE_NS)

    def _refute(self, tgids: Sequence[int] | npt.NDArray[np.uint32]) -> None:
        if len(tgids):
            self._claims["refuted"] |= np.isin(self._claims["evidence"]["tgid"], tgids)
