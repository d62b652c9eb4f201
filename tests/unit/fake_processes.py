"""Processes as a test wants them, in the place of /proc."""

from dataclasses import dataclass, field

from waggle.procfs import TICK_NS, ProcessFacts
from waggle.runtimes import Runtime

RUNTIMES = {"nginx": "nginx", "node": "nodejs", "go": "go", "python": "cpython"}


@dataclass
class FakeSource:
    """A ProcessSource: `known` exist, `listening` says on which ports; `asked` remembers who was
    asked for."""

    known: dict[int, ProcessFacts] = field(default_factory=dict)
    listening: dict[int, set[int]] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)

    def add(self, tgid: int, exe: str, *words: str, parent: int = 1, **more: object) -> None:
        """A process that started at the tick of its own id."""
        values = {"cmdline": (exe, *words), "comm": exe.rpartition("/")[2][:15], **more}
        self.known[tgid] = ProcessFacts(tgid, tgid * TICK_NS, parent, exe=exe, **values)  # type: ignore[arg-type]

    def process_ids(self) -> list[int]:
        return list(self.known)

    def facts(self, tgid: int) -> ProcessFacts | None:
        self.asked.append(tgid)
        return self.known.get(tgid)

    def leader(self, task: int) -> int | None:
        return task if task in self.known else None

    def listeners(self, ports: object) -> dict[int, set[int]]:
        wanted = set(ports)  # type: ignore[call-overload]
        held = {tgid: found & wanted for tgid, found in self.listening.items()}
        return {tgid: found for tgid, found in held.items() if found}

    def runtime(self, facts: ProcessFacts) -> Runtime:
        """By what the executable's path contains."""
        return Runtime(next((RUNTIMES[word] for word in RUNTIMES if word in facts.exe), "other"))

    def package_name(self, facts: ProcessFacts, directory: str) -> str | None:
        return None
