"""Who looks deeper into a process than its sockets, and when: probes attach and detach here.

A probe (probes/NAME/attach.py) says whether it wants a process, attaches to it, gives
the kernel what it must know about it, and is told when the process ends. A program
that was started a millisecond ago has not loaded what is looked for: a probe may ask
for another try, which comes after a growing pause.

    attacher.expect(tgid, path)   a process that waits will execute this file
    attacher.consider(target)     somebody decided to trace this process
    attacher.work()               attach what is due; the seconds until something is due again
    attacher.forget(tgid)         it has ended
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from waggle.errors import WaggleError
from waggle.procfs import ProcessFacts, ProcessSource, same_start
from waggle.runtimes import Runtime

if TYPE_CHECKING:
    from waggle.libbpf import Map

# Pauses before another try, in seconds; a program takes some hundred milliseconds to be ready.
PAUSES_S = (0.01, 0.02, 0.03, 0.05, 0.05, 0.1, 0.1, 0.2, 0.2, 0.5, 0.5, 1, 1, 2, 2, 5, 5, 10, 10)
LOOK_AFTER_S = 2.0  # how often a probe is asked whether all is well
# What is new has more to tell: a probe may find at once what the program can be spared.
YOUNG_S = 4.0
LOOK_AFTER_YOUNG_S = 0.25
MAX_PROCESSES = 4096


class NotYetError(Exception):
    """The process has not come to where the probe can attach: try again. Says what is missing."""


class RefusedError(WaggleError):
    """The probe cannot attach to this process, now or later. Says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """A process that is traced. start_ns: its start; with tgid, which process it is."""

    tgid: int
    start_ns: int
    runtime: Runtime
    facts: ProcessFacts


class Attachment(Protocol):
    """What a probe holds in one process."""

    def look(self) -> str | None:
        """Why it must be given up now, or None while all is well."""
        ...

    def close(self) -> None:
        """Detach. The process may have ended long ago."""
        ...


class MapEntry:
    """An attachment that is no more than what the kernel was told of one process."""

    def __init__(self, entries: "Map", tgid: int, row: bytes) -> None:
        """entries: by process id, 4 bytes; row: of their size. Raises LoadError when full."""
        self._entries = entries
        self._key = tgid.to_bytes(4, "little")
        entries.update(self._key, row)

    def look(self) -> str | None:
        return None

    def close(self) -> None:
        self._entries.delete(self._key)


class Probe(Protocol):
    """One thing to look into."""

    name: str

    def wants(self, target: Target) -> bool:
        """Whether this is a process for it, judged by what is cheap to know."""
        ...

    def attach(self, target: Target) -> Attachment:
        """Attach to it. Raises NotYetError or RefusedError."""
        ...


@runtime_checkable
class Expecting(Protocol):
    """A probe that can be there before a program's first instruction."""

    def expect(self, tgid: int, path: str) -> None:
        """A process will execute this file next. Raises nothing: attach() comes after that."""
        ...


@dataclass(slots=True)
class _Pending:
    due: float
    tries: int = 0


@dataclass(slots=True)
class _Process:
    facts: ProcessFacts | None
    start_ns: int
    waiting: dict[str, _Pending]
    target: Target | None = None
    attached: dict[str, Attachment] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def runs(self, start_ns: int, facts: ProcessFacts | None) -> bool:
        """Whether this is that process, and still the program that we looked into."""
        if facts is None or self.facts is None or not same_start(start_ns, self.start_ns):
            return False
        return facts.image == self.facts.image


class Attacher:
    """Keeps every probe attached to the processes it wants. Used by one thread at a time.

    The first probe comes first in every process: it is the one that a program which lives for some
    milliseconds does not wait for.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        source: ProcessSource,
        say: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probes = {probe.name: probe for probe in probes}
        self._source = source
        self._say = say
        self._clock = clock
        self._processes: dict[int, _Process] = {}
        self._said: set[str] = set()
        self._looked = clock()
        self._attached = -YOUNG_S
        self.not_considered = 0  # there were too many

    def consider(self, tgid: int, start_ns: int, facts: ProcessFacts | None) -> None:
        """A process is traced, or runs another program now. facts: None to ask /proc."""
        if not self._probes:
            return
        known = self._processes.get(tgid)
        if known is not None and known.runs(start_ns, facts):
            return
        self.forget(tgid)
        if len(self._processes) >= MAX_PROCESSES:
            self.not_considered += 1
            return
        now = self._clock()
        waiting = {name: _Pending(now) for name in self._probes}
        self._processes[tgid] = _Process(facts, start_ns, waiting)

    def expect(self, tgid: int, path: str) -> None:
        """A process, which waits, will execute this file next: who can prepares for it."""
        for probe in self._probes.values():
            if isinstance(probe, Expecting):
                probe.expect(tgid, path)

    def forget(self, tgid: int) -> None:
        """A process has ended."""
        process = self._processes.pop(tgid, None)
        if process is not None:
            for attachment in process.attached.values():
                attachment.close()

    def work(self) -> float | None:
        """Attach what is due. Seconds until there is something to do again; None: nothing waits."""
        now = self._clock()
        for name in self._probes:
            for tgid, process in list(self._processes.items()):
                pending = process.waiting.get(name)
                if pending is not None and pending.due <= now:
                    self._try(tgid, process, name)
        is_young = now - self._attached < YOUNG_S
        if now - self._looked >= (LOOK_AFTER_YOUNG_S if is_young else LOOK_AFTER_S):
            self._looked = now
            self._look()
        dues = [p.due for process in self._processes.values() for p in process.waiting.values()]
        return max(0.0, min(dues) - self._clock()) if dues else None

    def states(self) -> dict[int, dict[str, str]]:
        """Of each process and probe: attached, waiting, or why not."""
        return {
            tgid: {
                **dict.fromkeys(process.attached, "attached"),
                **dict.fromkeys(process.waiting, "waiting"),
                **process.refused,
            }
            for tgid, process in self._processes.items()
        }

    def close(self) -> None:
        for tgid in list(self._processes):
            self.forget(tgid)

    def _try(self, tgid: int, process: _Process, name: str) -> None:
        target = self._target(tgid, process)
        if target is None or not self._probes[name].wants(target):
            del process.waiting[name]
            return
        pending = process.waiting[name]
        try:
            process.attached[name] = self._probes[name].attach(target)
            self._attached = self._clock()
            del process.waiting[name]
        except NotYetError as missing:
            if pending.tries < len(PAUSES_S):
                pending.due = self._clock() + PAUSES_S[pending.tries]
                pending.tries += 1
            else:
                self._refuse(tgid, process, name, str(missing))
        except (WaggleError, OSError) as error:
            if self._is_gone(tgid):
                process.waiting.pop(name, None)  # nothing to tell of: it ended meanwhile
            else:
                self._refuse(tgid, process, name, str(error))

    def _complaint(self, tgid: int, attachment: Attachment) -> str | None:
        """Why an attachment must be given up. One whose process ends while it looks is forgotten
        soon."""
        try:
            return attachment.look()
        except (WaggleError, OSError) as error:
            return None if self._is_gone(tgid) else str(error)

    def _is_gone(self, tgid: int) -> bool:
        facts = self._source.facts(tgid)
        return facts is None or facts.ended

    def _refuse(self, tgid: int, process: _Process, name: str, reason: str) -> None:
        process.waiting.pop(name, None)
        process.refused[name] = reason
        if reason not in self._said and len(self._said) < 100:
            self._said.add(reason)
            self._say(f"{name}: process {tgid}: {reason}")

    def _target(self, tgid: int, process: _Process) -> Target | None:
        """The process as /proc shows it; None when it is gone."""
        if process.target is None:
            facts = process.facts or self._source.facts(tgid)
            if facts is None or facts.ended:
                return None
            process.facts = facts
            process.target = Target(tgid, process.start_ns, self._source.runtime(facts), facts)
        return process.target

    def _look(self) -> None:
        for tgid, process in list(self._processes.items()):
            for name, attachment in list(process.attached.items()):
                reason = self._complaint(tgid, attachment)
                if reason is not None:
                    del process.attached[name]
                    attachment.close()
                    self._refuse(tgid, process, name, reason)
