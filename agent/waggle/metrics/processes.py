"""CPU and memory of what is traced, from /proc, as the process conventions name them."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from waggle.metrics.instruments import (
    PROCESS_CPU,
    PROCESS_MEMORY,
    PROCESS_THREADS,
    PROCESS_VIRTUAL,
    Instrument,
)
from waggle.metrics.points import Collected, NumberFamily, NumberPoint
from waggle.metrics.series import Pairs
from waggle.procfs import TICK_NS, boottime_offset_ns, same_start, start_to_unix_ns
from waggle.spans import Resource, ResourceTable

# The series of a process that has ended are told for so long, so that nobody misses the last of
# it, and then forgotten.
FORGET_AFTER_S = 300.0
_USER: Pairs = (("cpu.mode", "user"),)
_SYSTEM: Pairs = (("cpu.mode", "system"),)
_PAGE = os.sysconf("SC_PAGESIZE")


@dataclass(frozen=True, slots=True)
class Known:
    """A process that has a row in the table of resources."""

    tgid: int
    start_ns: int
    row: int


@dataclass(frozen=True, slots=True)
class Use:
    """What a process has used until now, and holds: CPU seconds and bytes."""

    start_ns: int  # on the clock of process starts
    user_s: float
    system_s: float
    resident: int
    virtual: int
    threads: int


def use_of(tgid: int) -> Use | None:
    """From /proc/PID/stat (proc(5)); None where there is no such process."""
    try:
        text = Path(f"/proc/{tgid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    rest = text.rpartition(")")[2].split()  # names may hold anything, spaces and brackets too
    if len(rest) < 22 or rest[0] in "ZX":
        return None
    return Use(
        start_ns=int(rest[19]) * TICK_NS - boottime_offset_ns(),
        user_s=int(rest[11]) * TICK_NS / 1e9,
        system_s=int(rest[12]) * TICK_NS / 1e9,
        resident=int(rest[21]) * _PAGE,
        virtual=int(rest[20]),
        threads=int(rest[17]),
    )


def families_of(uses: Iterable[tuple[Resource, Use]]) -> Collected:
    """The metrics of some processes."""
    points: dict[Instrument, list[NumberPoint]] = {}

    def note(
        instrument: Instrument, resource: Resource, value: float, since: int, pairs: Pairs = ()
    ) -> None:
        point = NumberPoint(resource, pairs, value, since)
        points.setdefault(instrument, []).append(point)

    for resource, use in uses:
        since = start_to_unix_ns(use.start_ns)
        note(PROCESS_CPU, resource, use.user_s, since, _USER)
        note(PROCESS_CPU, resource, use.system_s, since, _SYSTEM)
        note(PROCESS_MEMORY, resource, use.resident, since)
        note(PROCESS_VIRTUAL, resource, use.virtual, since)
        note(PROCESS_THREADS, resource, use.threads, since)
    return [NumberFamily(instrument, found) for instrument, found in points.items()]


class ProcessSource:
    """Looks at the processes that had spans, once a collection."""

    def __init__(
        self,
        table: ResourceTable,
        known: Callable[[], Sequence[Known]],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._known = known
        self._now = now
        self._alive: set[int] = set()
        self._ended: dict[int, float] = {}

    def collect(self) -> Collected:
        uses: list[tuple[Resource, Use]] = []
        self._alive = set()
        for process in self._known():
            resource = self._table.rows[process.row]
            if not _is_one_process(resource):
                continue
            use = use_of(process.tgid)
            if use is not None and same_start(use.start_ns, process.start_ns):
                self._alive.add(process.row)
                uses.append((resource, use))
        return families_of(uses)

    def gone(self, rows: Iterable[int]) -> set[int]:
        """Which of these resources are of processes that ended long enough ago, by the last
        collection."""
        now = self._now()
        ended = {
            row for row in rows if row not in self._alive and _is_one_process(self._table.rows[row])
        }
        self._ended = {row: self._ended.get(row, now) for row in ended}
        return {row for row, since in self._ended.items() if now - since >= FORGET_AFTER_S}


def _is_one_process(resource: Resource) -> bool:
    """Whether a row describes one process; some are shared by all of a service."""
    return "process.pid" in resource.attributes
