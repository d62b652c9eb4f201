"""Claims of rules that answers prove: whose turn it was (bpf/turns.h), who served the request,
and that it was the only one (bpf/workers.h).

Of a turn the kernel claims that a call belongs to the request in whose turn of the event loop
it went out. The claim holds when

    that request's answer is written in its own turn as well, and
    the requests that were open with it at the call have been answered, none of them in the
    turn of another: the true owner of a call that is claimed for somebody else goes on when
    its answer comes, in what the rule takes for the other's turn, and shows it by his own

For the second no call waits for ever, since a request may stay open for hours: it waits
PATIENCE_TIMES as long as its own request took, within PATIENCE_NS. From one look of the agent to
the next STEP_NS count at most: where the machine stood still nobody could answer. One answer in
the turn of another takes back all that is not settled in its process; the kernel has ended the
rule there.

A worker (rules `thread` and `task`) answers one request after the other, and what it has called
before an answer was for that one. Two things must not be: that the request was read after the
call, and that it waited already when the worker gave its last answer, since then the call may
have been a late one of the request before. The latter is believed all the same of a process
whose workers have never called at such a time, once WORKER_PROOF calls have told.

Rule `alone` says that a call is part of the one request that was open. So would a call be that
the process makes by itself, by a timer, say. Such calls come while nothing is open as well, which
refutes the rule; until one has, its claims hold when that would have been seen: if all of them
were such calls, ALONE_PROOF of them would have to be expected in the time that nothing was open.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.layout import EvidenceKind, Link
from waggle.spans import Records

Mask = npt.NDArray[np.bool_]

PATIENCE_NS = (1_000_000_000, 5_000_000_000)
PATIENCE_TIMES = 16
STEP_NS = 250_000_000
CLAIMS_KEPT = 65_536
WORKER_PROOF = 20
ALONE_PROOF = 7  # by chance none of so many is seen once in a thousand times
ALONE_HOLD_NS = 10_000_000_000
ALONE_HOPELESS = 64  # claims that nothing came of: the process is never idle
PROCESSES_KEPT = 4096

_ENDS = (EvidenceKind.TURN_ANSWER, EvidenceKind.TURN_REFUTED, EvidenceKind.TURN_GONE)
_OURS = (EvidenceKind.TURN_CALL, *_ENDS)
_WORKERS = (Link.THREAD, Link.TASK)

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


@dataclass(slots=True)
class _Process:
    """What is known of a process, for workers and rule `alone`. Times in ns."""

    proven: int = 0  # calls of its workers that told
    calls_between: bool = False  # a worker has called when no request was there for it
    alone: int = 0  # claims of rule `alone`,
    since_ns: int = 0  # the first of them,
    busy_ns: int = 0  # and for how long it has served since
    expired: int = 0  # claims that had to leave before that was enough,
    held: bool = False  # and whether it ever was

    def is_alone(self, now_ns: int) -> bool:
        idle_ns = now_ns - self.since_ns - self.busy_ns
        is_enough = self.alone * idle_ns >= ALONE_PROOF * self.busy_ns > 0
        self.held |= is_enough
        return is_enough

    @property
    def is_hopeless(self) -> bool:
        """Whether nobody need wait for proof: others' spans would come late for nothing."""
        return self.expired >= ALONE_HOPELESS and not self.held


class Turns:
    """Claims that wait for answers.

    turns.add(evidence)                        in the order of the ring, of all kinds
    claims, proven = turns.settle(now_ns)      those of which all is known: `evidence`, `parent`
    """

    def __init__(self, hold_ns: int) -> None:
        self._hold_ns = np.uint64(hold_ns)
        self._looked_ns = 0
        self._claims: Claims = np.empty(0, _CLAIM)
        self._processes: dict[int, _Process] = {}

    def __len__(self) -> int:
        return len(self._claims)

    def add(self, evidence: Records) -> None:
        ours = evidence[np.isin(evidence["kind"], _OURS)]
        if not len(ours):
            return
        self._add_claims(ours[ours["kind"] == EvidenceKind.TURN_CALL])
        self._count_alone(ours)
        if not len(self._claims):
            return
        speaks = ours["contexts"][:, 0] != 0
        self._prove(ours[(ours["kind"] == EvidenceKind.TURN_ANSWER) & speaks])
        of_turns = ~np.isin(ours["link"], (*_WORKERS, Link.ALONE))
        count_down(self._claims, ours[of_turns & np.isin(ours["kind"], _ENDS)])
        refuted = ours[ours["kind"] == EvidenceKind.TURN_REFUTED]
        for tgid, link in zip(refuted["tgid"], refuted["link"], strict=True):
            self._refute(tgid, link)

    def settle(self, now_ns: int, *, last: bool = False) -> tuple[Claims, Mask]:
        """Claims that wait no more, and which of them are proven. last: none may wait on."""
        claims, now = self._claims, np.uint64(max(0, now_ns))
        self._pass_time(now_ns)
        done = (claims["left"] <= 0) | (claims["patience_ns"] < 0)
        links = claims["evidence"]["link"]
        workers, alone = np.isin(links, _WORKERS), links == Link.ALONE
        done[workers] = claims["is_proven"][workers]
        done[alone] = claims["is_proven"][alone] & self._trusted(claims[alone], now_ns)
        settled: Mask = claims["refuted"] | done
        settled |= claims["evidence"]["time_ns"] + self._hold_ns < now
        waiting = np.flatnonzero(alone & ~settled)
        settled[waiting] = self._gives_up(claims[waiting], now_ns)
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
        for field in ("tgid", "link"):
            own &= answers[field][at] == self._claims["evidence"][field]
        rows = np.flatnonzero(own & ~self._claims["is_proven"])
        met = answers[at[rows]]
        fits = self._fits(rows, met)
        self._claims["refuted"][rows[~fits]] = True
        rows, met = rows[fits], met[fits]
        took = (met["time_ns"] - met["start_ns"]).astype(np.int64)
        self._claims["parent"][rows] = met
        self._claims["is_proven"][rows] = True
        self._claims["patience_ns"][rows] = np.clip(took * PATIENCE_TIMES, *PATIENCE_NS)

    def _refute(self, tgid: int, link: int) -> None:
        evidence = self._claims["evidence"]
        self._claims["refuted"] |= (evidence["tgid"] == tgid) & (evidence["link"] == link)

    def _process(self, tgid: int) -> _Process:
        if len(self._processes) >= PROCESSES_KEPT and tgid not in self._processes:
            self._processes.pop(next(iter(self._processes)))
        return self._processes.setdefault(tgid, _Process())

    def _fits(self, rows: npt.NDArray[np.intp], met: Records) -> Mask:
        """Whether these calls may be of the requests that their workers answered next."""
        calls = self._claims["evidence"][rows]
        workers = np.isin(calls["link"], _WORKERS)
        between = workers & (met["start_ns"] > calls["time_ns"])
        waited = workers & (met["start_ns"] < calls["before_ns"])
        fits: Mask = ~between
        for tgid in np.unique(calls["tgid"][workers]).tolist():
            of = workers & (calls["tgid"] == tgid)
            process = self._process(tgid)
            process.calls_between |= bool(between[of].any())
            if process.calls_between or process.proven < WORKER_PROOF:
                fits[of & waited] = False
            process.proven += int((of & fits & ~waited).sum())
        return fits

    def _count_alone(self, ours: Records) -> None:
        """Claims of rule `alone`, and the time that was spent on requests since the first."""
        ours = ours[ours["link"] == Link.ALONE]
        calls = ours[ours["kind"] == EvidenceKind.TURN_CALL]
        answers = ours[ours["kind"] == EvidenceKind.TURN_ANSWER]
        for tgid in np.unique(calls["tgid"]).tolist():
            times = calls["time_ns"][calls["tgid"] == tgid]
            process = self._process(tgid)
            process.since_ns = process.since_ns or int(times.min())
            process.alone += len(times)
        for tgid in np.unique(answers["tgid"]).tolist():
            of = answers[answers["tgid"] == tgid]
            self._process(tgid).busy_ns += int((of["time_ns"] - of["start_ns"]).sum())

    def _trusted(self, claims: Claims, now_ns: int) -> Mask:
        tgids, each = np.unique(claims["evidence"]["tgid"], return_inverse=True)
        found = [self._process(tgid).is_alone(now_ns) for tgid in tgids.tolist()]
        return np.array(found, np.bool_)[each]

    def _gives_up(self, claims: Claims, now_ns: int) -> Mask:
        """Which claims of rule `alone` wait no more for their process to be idle."""
        late: Mask = claims["evidence"]["time_ns"].astype(np.int64) + ALONE_HOLD_NS < now_ns
        tgids, each = np.unique(claims["evidence"]["tgid"], return_inverse=True)
        processes = [self._process(tgid) for tgid in tgids.tolist()]
        for process, count in zip(processes, np.bincount(each, weights=late), strict=True):
            process.expired += int(count)
        hopeless = np.array([process.is_hopeless for process in processes], np.bool_)
        return late | hopeless[each]
