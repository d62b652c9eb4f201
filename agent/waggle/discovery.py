"""Which processes are traced, and with which rules: selectors and process events in, decisions out.

Pure logic over a ProcessSource. What is decided here is applied to the kernel's
map `processes` by the caller; nothing in this file knows BPF.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from waggle.commandline import script_path, title_program
from waggle.config import Settings
from waggle.errors import TargetError
from waggle.layout import ProcessEventKind, ProcessMode
from waggle.naming import service_name
from waggle.procfs import ProcessFacts, ProcessSource, same_start
from waggle.runtimes import allowed_rules

Events = npt.NDArray[np.void]  # of layout.PROCESS_EVENT

# Tracing the way we log in would show every key pressed, and nobody asked for it.
NEVER_TRACED = frozenset({"sshd", "sshd-session", "sshd-auth", "dropbear"})

_UNPICKED = "no selector picks it"
_RULES = (
    ProcessMode.RULE_THREAD
    | ProcessMode.RULE_TURN
    | ProcessMode.PROVE_TURN
    | ProcessMode.RULE_TASK
    | ProcessMode.RULE_GOROUTINE
    | ProcessMode.THREAD_READS
    | ProcessMode.NAMED_THREADS
    | ProcessMode.RULE_WORKER
    | ProcessMode.WORKER_TOLD
    | ProcessMode.RULE_ALONE
    | ProcessMode.CARRIED
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What the kernel shall do about one process.

    start_ns: of the process; to the nanosecond when it came from an event, rounded
    down to a clock tick when it came from /proc (see procfs.same_start). mode: bits
    of ProcessMode; 0 means that the process is to be forgotten. reason: why, for
    people. facts: what /proc said, where it was asked; the process table can use it.
    """

    tgid: int
    start_ns: int
    mode: int
    reason: str
    facts: ProcessFacts | None = None

    @property
    def traced(self) -> bool:
        return bool(self.mode & ProcessMode.TRACED)


@dataclass(frozen=True, slots=True)
class Selector:
    """What the user picked. `all`: nothing was, so everything is traced."""

    pids: frozenset[int] = frozenset()
    ports: frozenset[int] = frozenset()
    exes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    follow: bool = True
    all: bool = False

    @classmethod
    def from_settings(cls, settings: Settings) -> "Selector":
        return cls(
            pids=frozenset(settings.pid),
            ports=frozenset(settings.port),
            exes=settings.exe,
            names=settings.name,
            excludes=settings.exclude,
            follow=settings.follow,
            all=settings.selects_all,
        )

    def excludes_process(self, facts: ProcessFacts) -> str | None:
        """Why a process is never traced, or None."""
        own_name = PurePosixPath(facts.exe).name or facts.comm
        if own_name in NEVER_TRACED:
            return f"{own_name} is never traced"
        pattern = _first_match(self.excludes, facts)
        return f"excluded by '{pattern}'" if pattern else None

    def picks(self, facts: ProcessFacts, service: Callable[[], str]) -> str | None:
        """Why a process is traced by its program or its name, or None. service: its name, asked
        for only when names were picked."""
        if pattern := _first_match(self.exes, facts):
            return f"runs '{pattern}'"
        if self.names:
            called = (service(), facts.comm)
            for pattern in self.names:
                if any(fnmatchcase(name, pattern) for name in called):
                    return f"is called '{pattern}'"
        return None

    def describe(self) -> str:
        """What is waited for: "a process that listens on port 8080 or runs '*/gunicorn'"."""
        wishes = [f"listens on port {port}" for port in sorted(self.ports)]
        wishes += [f"runs '{pattern}'" for pattern in self.exes]
        wishes += [f"is called '{pattern}'" for pattern in self.names]
        return "a process that " + " or ".join(wishes)


def _first_match(patterns: Sequence[str], facts: ProcessFacts) -> str | None:
    return next((pattern for pattern in patterns if matches_program(pattern, facts)), None)


def matches_program(pattern: str, facts: ProcessFacts) -> bool:
    """Whether a glob means the program a process runs.

    It is held against the path of the executable, argv[0], and the script or module
    an interpreter runs, also made absolute; a pattern without a slash against the
    last part of each. Of a rewritten title only the program's name is left to compare.
    """
    title = title_program(facts.cmdline)
    if title is not None and fnmatchcase(title, pattern.rpartition("/")[2]):
        return True
    paths = [facts.exe, *facts.cmdline[:1]]
    if script := script_path(facts.cmdline):
        paths += [script, str(PurePosixPath(facts.cwd or "/") / script)]
    if "/" not in pattern:
        paths = [PurePosixPath(path).name for path in paths]
    return any(fnmatchcase(path, pattern) for path in paths if path)


@dataclass(slots=True)
class _Decided:
    start_ns: int
    mode: int
    reason: str
    followed: bool  # picked, or the child of one that was: stays so over an exec


@dataclass(slots=True)
class DiscoveryStats:
    """traced: processes decided for so far. refused: those there was no room for."""

    traced: int = 0
    refused: int = 0


@dataclass(slots=True)
class Discovery:
    """Decides about processes: once about those that run (`initial`), then as events tell.

    max_processes: decisions kept; past it a process is not traced, and counted. own:
    our process id, which is never traced.
    """

    selector: Selector
    source: ProcessSource
    max_processes: int = 8192
    own: int = field(default_factory=os.getpid)
    stats: DiscoveryStats = field(default_factory=DiscoveryStats)
    _decided: OrderedDict[int, _Decided] = field(default_factory=OrderedDict)

    def initial(self) -> list[Decision]:
        """Decisions about what runs now. Raises TargetError for a --pid that cannot be traced.

        Call it after the process events are attached, so that nothing is born unseen.
        """
        self._check_pids()
        running = self._running()
        decisions = [self._ourselves(running)]
        reasons = self._picked(running)
        for tgid, facts in running.items():
            if tgid == self.own:
                continue
            decision = self._judge(facts, reasons.get(tgid))
            if decision is not None:
                decisions.append(decision)
        return decisions

    def adopt(self, tgid: int) -> Decision:
        """Decides to trace a process whatever the selectors say: the command we started.

        Raises TargetError when it is not there any more.
        """
        facts = self.source.facts(tgid)
        if facts is None or facts.ended:
            raise TargetError(f"process {tgid} ended before it could be traced: run it again")
        return self._trace(facts, "started by waggle")

    def on_events(self, events: Events) -> list[Decision]:
        """Decisions that follow from process events, in the order of the events.

        A process may have several: one that was traced and ended within a batch is first
        traced and then forgotten, so that it is seen at all.
        """
        decisions = (self._on_event(event) for event in events)
        return [decision for decision in decisions if decision is not None]

    def waiting_for(self) -> str | None:
        """What nobody matches yet, as a sentence for the user; None when something is traced."""
        if self.selector.all or any(d.mode & ProcessMode.TRACED for d in self._decided.values()):
            return None
        if not (self.selector.ports or self.selector.exes or self.selector.names):
            return None
        return f"waiting for {self.selector.describe()}"

    def __len__(self) -> int:
        return len(self._decided)

    # --- what runs at the start ---

    def _running(self) -> dict[int, ProcessFacts]:
        found = (self.source.facts(tgid) for tgid in self.source.process_ids())
        return {f.tgid: f for f in found if f is not None and not f.kernel_thread and not f.ended}

    def _check_pids(self) -> None:
        for pid in sorted(self.selector.pids):
            facts = self.source.facts(pid)
            if facts is None or facts.ended:
                raise TargetError(f"no process {pid}: it may have ended; `ps -e` lists what runs")
            if facts.kernel_thread:
                raise TargetError(
                    f"process {pid} ({facts.comm}) is a kernel thread, which has no requests: "
                    "`ps -e` lists what runs"
                )
            leader = self.source.leader(pid)
            if leader is not None and leader != pid:
                raise TargetError(f"{pid} is a thread of process {leader}: give --pid {leader}")
            if pid == self.own:
                raise TargetError(f"process {pid} is waggle itself, which is never traced")

    def _ourselves(self, running: dict[int, ProcessFacts]) -> Decision:
        facts = running.get(self.own) or ProcessFacts(self.own, 0)
        return self._exclude(facts, "waggle itself")

    def _picked(self, running: dict[int, ProcessFacts]) -> dict[int, str]:
        """tgid -> why, for those picked by a selector and, where children are followed, for their
        descendants."""
        if self.selector.all:
            return dict.fromkeys(running, "everything is traced")
        reasons = dict.fromkeys(self.selector.pids, "picked by its id")
        listeners = self.source.listeners(self.selector.ports)
        for tgid, facts in running.items():
            if tgid in reasons or self.selector.excludes_process(facts):
                continue  # nor do the children of an excluded process follow from its name
            if ports := listeners.get(tgid):
                reasons[tgid] = f"listens on port {min(ports)}"
            elif picked := self._picks(facts):
                reasons[tgid] = picked
        if self.selector.follow:
            _add_descendants(reasons, running)
        return reasons

    def _picks(self, facts: ProcessFacts) -> str | None:
        return self.selector.picks(facts, lambda: self._service(facts))

    def _service(self, facts: ProcessFacts) -> str:
        return service_name(
            exe=facts.exe,
            cmdline=facts.cmdline,
            environ=facts.environ,
            unit=facts.unit,
            container_id=facts.container_id,
            cwd=facts.cwd,
            comm=facts.comm,
            package=lambda directory: self.source.package_name(facts, directory),
        ).name

    # --- events ---

    def _on_event(self, event: np.void) -> Decision | None:
        tgid, start_ns = int(event["tgid"]), int(event["process_start_ns"])
        if tgid == self.own:
            return None
        kind = int(event["kind"])
        if kind == ProcessEventKind.FORK:
            return self._on_fork(tgid, start_ns, int(event["parent_tgid"]))
        if kind == ProcessEventKind.EXIT:
            return self._on_exit(tgid, start_ns)
        if kind == ProcessEventKind.EXEC:
            return self._on_exec(tgid, start_ns, int(event["parent_tgid"]))
        if kind == ProcessEventKind.LISTEN:
            return self._on_listen(tgid, start_ns, int(event["port"]))
        if kind == ProcessEventKind.SEEN:
            return self._on_seen(tgid, start_ns, _comm(event))
        return None

    def _on_fork(self, tgid: int, start_ns: int, parent_tgid: int) -> Decision | None:
        """The child of a followed process is what its parent is, until it executes something.

        The kernel does the same at the fork itself; this repeats it for a fork that
        fell between our look at the parent and the kernel's learning of it.
        """
        parent = self._decided.get(parent_tgid)
        if parent is None or not parent.mode & ProcessMode.FOLLOW or self._known(tgid, start_ns):
            return None
        return self._decide(tgid, start_ns, parent.mode, f"child of {parent_tgid}", followed=True)

    def _on_exit(self, tgid: int, start_ns: int) -> Decision | None:
        known = self._known(tgid, start_ns)
        if known is None:
            return None
        del self._decided[tgid]
        return Decision(tgid, start_ns, 0, "ended")

    def _on_exec(self, tgid: int, start_ns: int, parent_tgid: int) -> Decision | None:
        known = self._known(tgid, start_ns)
        if self.selector.all:
            return self._undecide(tgid, start_ns) if known else None
        kept = self._kept_over_exec(known, parent_tgid)
        if known is None and kept is None and not self._watches_programs():
            return None
        facts = self._facts(tgid, start_ns)
        if facts is None:
            return None  # gone already: what the kernel inherited at the fork stands
        decision = self._judge(facts, kept or self._picks(facts))
        return self._undecide(tgid, start_ns) if decision is None and known else decision

    def _undecide(self, tgid: int, start_ns: int) -> Decision:
        """Another program than the one decided about. Where everything is traced, /proc is not
        read for every program a shell starts: the first HTTP or the first listening will tell."""
        del self._decided[tgid]
        return Decision(tgid, start_ns, 0, "runs another program now")

    def _kept_over_exec(self, known: _Decided | None, parent_tgid: int) -> str | None:
        """Why the process stays traced whatever it executes, or None. One whose fork we missed is
        its parent's child all the same."""
        if known is not None:
            return known.reason if known.followed else None
        parent = self._decided.get(parent_tgid)
        if parent is not None and parent.mode & ProcessMode.FOLLOW:
            return f"child of {parent_tgid}"
        return None

    def _watches_programs(self) -> bool:
        return bool(self.selector.exes or self.selector.names)

    def _on_listen(self, tgid: int, start_ns: int, port: int) -> Decision | None:
        known = self._known(tgid, start_ns)
        if known is not None and known.reason != _UNPICKED:
            return None
        if not self.selector.all and port not in self.selector.ports:
            return None
        facts = self._facts(tgid, start_ns) or ProcessFacts(tgid, start_ns)
        return self._judge(facts, f"listens on port {port}")

    def _on_seen(self, tgid: int, start_ns: int, comm: str) -> Decision | None:
        """First HTTP of a process nobody decided about, held back by the kernel until now."""
        if self._known(tgid, start_ns):
            return None
        facts = self._facts(tgid, start_ns) or ProcessFacts(tgid, start_ns, comm=comm)
        reason = "everything is traced" if self.selector.all else self._picks(facts)
        return self._judge(facts, reason) or self._exclude(facts, _UNPICKED)

    # --- decisions ---

    def _judge(self, facts: ProcessFacts, reason: str | None) -> Decision | None:
        """To trace, for this reason, or not to; None where there is nothing to say."""
        if reason is None:
            return None
        if refusal := self.selector.excludes_process(facts):
            return self._exclude(facts, refusal)
        return self._trace(facts, reason)

    def _trace(self, facts: ProcessFacts, reason: str) -> Decision:
        mode = ProcessMode.TRACED | self._rules(facts)
        if self.selector.follow:
            mode |= ProcessMode.FOLLOW
        self.stats.traced += 1
        return self._decide(facts.tgid, facts.start_ns, mode, reason, followed=True, facts=facts)

    def _rules(self, facts: ProcessFacts) -> int:
        """No rule for a program we could not look at: a wrong parent is worse than none."""
        return allowed_rules(self.source.runtime(facts)) & _RULES if facts.exe else 0

    def _exclude(self, facts: ProcessFacts, reason: str) -> Decision:
        mode = int(ProcessMode.EXCLUDED)
        return self._decide(facts.tgid, facts.start_ns, mode, reason, followed=False, facts=facts)

    def _decide(
        self,
        tgid: int,
        start_ns: int,
        mode: int,
        reason: str,
        *,
        followed: bool,
        facts: ProcessFacts | None = None,
    ) -> Decision:
        if tgid not in self._decided and len(self._decided) >= self.max_processes:
            self.stats.refused += 1
            return Decision(tgid, start_ns, 0, "too many processes are traced", facts)
        self._decided[tgid] = _Decided(start_ns, mode, reason, followed)
        return Decision(tgid, start_ns, int(mode), reason, facts)

    def _known(self, tgid: int, start_ns: int) -> _Decided | None:
        """What was decided about this very process; what its id's last owner was is forgotten."""
        known = self._decided.get(tgid)
        return known if known is not None and same_start(known.start_ns, start_ns) else None

    def _facts(self, tgid: int, start_ns: int) -> ProcessFacts | None:
        facts = self.source.facts(tgid)
        if facts is None or facts.ended or not same_start(facts.start_ns, start_ns):
            return None
        return replace(facts, start_ns=start_ns)  # the event knows it to the nanosecond


def _comm(event: np.void) -> str:
    return bytes(event["comm"].tobytes()).partition(b"\0")[0].decode("utf-8", "replace")


def _add_descendants(reasons: dict[int, str], running: dict[int, ProcessFacts]) -> None:
    children: dict[int, list[int]] = {}
    for tgid, facts in running.items():
        children.setdefault(facts.parent, []).append(tgid)
    waiting: list[int] = list(reasons)
    while waiting:
        parent = waiting.pop()
        for child in _unreasoned(children.get(parent, ()), reasons):
            reasons[child] = f"child of {parent}"
            waiting.append(child)


def _unreasoned(tgids: Iterable[int], reasons: dict[int, str]) -> list[int]:
    return [tgid for tgid in tgids if tgid not in reasons]
