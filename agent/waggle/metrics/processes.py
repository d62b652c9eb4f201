"""CPU and memory of what is traced, from /proc, as the process conventions name them."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from waggle.layout import Method
from waggle.metrics.instruments import (
    ACTIVE_REQUESTS,
    PROCESS_CPU,
    PROCESS_MEMORY,
    PROCESS_THREADS,
    PROCESS_VIRTUAL,
    Instrument,
)
from waggle.metrics.points import Collected, NumberFamily, NumberPoint
from waggle.metrics.series import Pairs
from waggle.processes import Known
from waggle.procfs import TICK_NS, boottime_offset_ns, same_start, start_to_unix_ns
from waggle.spans import Resource, ResourceTable

# The series of a process that has ended are told for so long, so that nobody misses the last of
# it, and then forgotten.
FORGET_AFTER_S = 300.0
_USER: Pairs = (("cpu.mode", "user"),)
_SYSTEM: Pairs = (("cpu.mode", "system"),)
_PAGE = os.sysconf("SC_PAGESIZE")


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
        open_requests: Callable[[], Mapping[tuple[int, int], int]],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        """open_requests: by process and layout.Method."""
        self._known = known
        self._open_requests = open_requests
        self._methods: dict[int, set[int]] = {}  # by row: those it was seen to serve
        self._now = now
        self._alive: set[int] = set()
        self._ended: dict[int, float] = {}

    def collect(self) -> Collected:
        uses: list[tuple[Resource, Use]] = []
        rows: dict[int, int] = {}  # by tgid
        self._alive = set()
        for process in self._known():
            resource = self._table.rows[process.row]
            if not _is_one_process(resource):
                continue
            use = use_of(process.tgid)
            if use is not None and same_start(use.start_ns, process.start_ns):
                self._alive.add(process.row)
                rows[process.tgid] = process.row
                uses.append((resource, use))
        return [*families_of(uses), *self._active(rows)]

    def _active(self, rows: Mapping[int, int]) -> Collected:
        """How many requests each process is serving. What was told once is told as 0 later."""
        counts: dict[tuple[int, int], int] = {}
        for (tgid, method), count in self._open_requests().items():
            if tgid in rows:
                counts[(rows[tgid], method)] = count
                self._methods.setdefault(rows[tgid], set()).add(method)
        self._methods = {row: self._methods[row] for row in self._methods if row in self._alive}
        points = [
            NumberPoint(self._table.rows[row], _about(method), counts.get((row, method), 0), 0)
            for row, methods in self._methods.items()
            for method in sorted(methods)
        ]
        return [NumberFamily(ACTIVE_REQUESTS, points)] if points else []

    def gone(self, rows: Iterable[int]) -> set[int]:
        """Which of these resources are of processes that ended long enough ago, by the last
        collection."""
        now = self._now()
        ended = {
            row for row in rows if row not in self._alive and _is_one_process(self._table.rows[row])
        }
        self._ended = {row: self._ended.get(row, now) for row in ended}
        return {row for row, since in self._ended.items() if now - since >= FORGET_AFTER_S}


def _about(method: int) -> Pairs:
    # In plain text, which is what we read, the scheme is http; a proxy's word for another is in
    # a head that is not kept until the request is over.
    name = "_OTHER" if method == Method.OTHER else Method(method).name
    return (("http.request.method", name), ("url.scheme", "http"))


def _is_one_process(resource: Resource) -> bool:
    """Whether a row describes one process; some are shared by all of a service."""
    return "process.pid" in resource.attributes
