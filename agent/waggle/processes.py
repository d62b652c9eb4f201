"""Which process a record belongs to: (tgid, start) -> a row of the ResourceTable.

The row is made once per process, from /proc while the process lives. A process
that is gone by then is described by what the kernel's events told: a forked
worker is the service its parent was, a program we never saw alive is called by
its kernel name. An exec makes a new row: same process, other program.
"""

import os
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from waggle import __version__, runtimes
from waggle.commandline import is_spawned_worker
from waggle.host import Host, this_host
from waggle.layout import ProcessEventKind
from waggle.naming import ServiceName, program_name, resource_attributes, service_name
from waggle.procfs import (
    TICK_NS,
    ProcessFacts,
    ProcessSource,
    same_start,
    start_to_unix_ns,
    user_name,
)
from waggle.runtimes import Runtime
from waggle.spans import Attributes, Resource, ResourceTable

Events = npt.NDArray[np.void]  # of layout.PROCESS_EVENT

# The namespace the semantic conventions reserve for service.instance.id of version 5.
_INSTANCE_NAMESPACE = uuid.UUID("4d63009a-8d0f-11ee-aad7-4c796ed8e320")
_MAX_ATTRIBUTES = 128
_MAX_VALUE = 4096
# The conventions have no name for a systemd unit.
_UNIT = "waggle.systemd.unit"
# What we measured ourselves; an environment variable cannot change it.
_OURS = ("telemetry.", "process.", "waggle.")
# Where a process says what service it is.
_NAMED_BY = ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES")
# Identity that the agent's own environment must not give to others.
_NOT_FROM_AGENT = frozenset({"service.name", "service.instance.id"})


@dataclass(frozen=True, slots=True)
class _Identity:
    """What a forked process shares with its parent until it executes something else."""

    name: ServiceName
    runtime: Runtime
    facts: ProcessFacts
    program: str = ""  # see Resource


@dataclass(frozen=True, slots=True)
class _Birth:
    """What the kernel's events told about a process: enough when /proc comes too late."""

    start_ns: int
    parent: int
    comm: str
    executed: bool


@dataclass(slots=True)
class _Entry:
    start_ns: int
    row: int
    identity: _Identity | None


@dataclass(slots=True)
class ProcessStats:
    """Counts since the start. evicted: processes forgotten to stay within the bound (one seen again
    gets a second row). vanished: described from events alone, because they ended too soon.
    shared: rows shared by a service because the table of resources was full."""

    seen: int = 0
    evicted: int = 0
    vanished: int = 0
    shared: int = 0


_Key = tuple[int, int]  # tgid, start in clock ticks: all that /proc and events have in common


class Known(NamedTuple):
    """A process that has a row in the table of resources."""

    tgid: int
    start_ns: int
    row: int


class _Distinct:
    """Which processes there are in a batch: mostly those of the batches before it.

    That is looked up in a sorted list; only where something is not in it all of a batch is
    sorted, which takes ten times as long.
    """

    _MOST = 1024

    def __init__(self) -> None:
        self._starts = np.empty(0, np.uint64)
        self._tgids = np.empty(0, np.uint32)
        self._pairs: list[tuple[int, int]] = []

    def of(
        self, tgids: npt.NDArray[np.uint32], starts_ns: npt.NDArray[np.uint64]
    ) -> tuple[list[tuple[int, int]], npt.NDArray[np.intp]]:
        """Pairs of tgid and start, and for each record which of them it is.

        Pairs that are none of the batch's may be among them.
        """
        if self._pairs:
            which = np.searchsorted(self._starts, starts_ns)
            np.minimum(which, len(self._pairs) - 1, out=which)
            is_known = (self._starts[which] == starts_ns) & (self._tgids[which] == tgids)
            if is_known.all():
                return self._pairs, which
            new = ~is_known
            firsts = new.nonzero()[0][_distinct(tgids[new], starts_ns[new])[0]]
            self._learn(tgids[firsts], starts_ns[firsts])
        firsts, which = _distinct(tgids, starts_ns)
        if not self._pairs:
            self._learn(tgids[firsts], starts_ns[firsts])
        return list(zip(tgids[firsts].tolist(), starts_ns[firsts].tolist(), strict=True)), which

    def _learn(self, tgids: npt.NDArray[np.uint32], starts_ns: npt.NDArray[np.uint64]) -> None:
        """Add processes; of those that share a start with another only one is known."""
        if len(self._pairs) + len(tgids) > self._MOST:
            self._starts, self._tgids = self._starts[:0], self._tgids[:0]
        starts = np.concatenate((self._starts, starts_ns[: self._MOST]))
        self._starts, firsts = np.unique(starts, return_index=True)
        self._tgids = np.concatenate((self._tgids, tgids[: self._MOST]))[firsts]
        self._pairs = list(zip(self._tgids.tolist(), self._starts.tolist(), strict=True))


@dataclass(slots=True)
class ProcessTable:
    """Rows for processes, made when first asked for and kept, bounded, by recency of use.

    capacity: processes kept. max_resources: rows in `table` that describe one
    process; beyond it the processes of a service share one row without process.*.
    """

    table: ResourceTable
    source: ProcessSource
    host: Host = field(default_factory=this_host)
    agent_environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    capacity: int = 4096
    max_resources: int = 8192
    command_args: bool = False  # arguments may hold secrets
    stats: ProcessStats = field(default_factory=ProcessStats)
    _entries: OrderedDict[_Key, _Entry] = field(default_factory=OrderedDict)
    _births: OrderedDict[int, _Birth] = field(default_factory=OrderedDict)
    _shared: dict[str, int] = field(default_factory=dict)
    _distinct: _Distinct = field(default_factory=_Distinct)

    def lookup(
        self, tgids: npt.NDArray[np.uint32], starts_ns: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.intp]:
        """The row of each record: tgid and process_start_ns columns in, indices into `table` out.

        Every distinct process of a batch is looked up once.
        """
        if len(tgids) == 0:
            return np.empty(0, np.intp)
        pairs, which = self._distinct.of(tgids, starts_ns)
        rows = np.zeros(len(pairs), np.intp)
        for number in np.flatnonzero(np.bincount(which)).tolist():
            rows[number] = self.row(*pairs[number])
        found: npt.NDArray[np.intp] = rows[which]
        return found

    def row(self, tgid: int, start_ns: int) -> int:
        """The row of one process."""
        found = self._find(tgid, start_ns)
        if found is not None:
            return found.row
        facts = self.source.facts(tgid)
        if facts is not None and same_start(facts.start_ns, start_ns) and facts.exe:
            return self.remember(facts)
        return self._remember_vanished(tgid, start_ns, facts)

    def remember(self, facts: ProcessFacts) -> int:
        """Makes (or makes anew) the row of a process from facts somebody has already read."""
        identity = self._identify(facts)
        attributes = self._attributes(identity, facts.tgid, facts.start_ns)
        attributes.update(_process_attributes(facts, command_args=self.command_args))
        return self._store(facts.tgid, facts.start_ns, attributes, identity)

    def on_events(self, events: Events) -> None:
        """Takes in fork, exec and exit events, oldest first."""
        for event in events:
            kind = int(event["kind"])
            if kind == ProcessEventKind.EXEC:
                self._note_birth(event, executed=True)
                self._forget(int(event["tgid"]), int(event["process_start_ns"]))
            elif kind == ProcessEventKind.FORK:
                self._note_birth(event, executed=False)

    def service(self, row: int) -> str:
        """service.name of a row."""
        return str(self.table.rows[row].attributes["service.name"])

    def __len__(self) -> int:
        return len(self._entries)

    def known(self) -> list[Known]:
        """Every process that has a row and is remembered."""
        return [Known(key[0], entry.start_ns, entry.row) for key, entry in self._entries.items()]

    def _find(self, tgid: int, start_ns: int) -> _Entry | None:
        tick = start_ns // TICK_NS
        for key in ((tgid, tick), (tgid, tick - 1), (tgid, tick + 1)):
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
                return entry
        return None

    def _forget(self, tgid: int, start_ns: int) -> None:
        tick = start_ns // TICK_NS
        for at in (tick - 1, tick, tick + 1):
            self._entries.pop((tgid, at), None)

    def _store(self, tgid: int, start_ns: int, attributes: Attributes, identity: _Identity) -> int:
        self._forget(tgid, start_ns)
        self.stats.seen += 1
        row = self._add(attributes, identity)
        self._entries[(tgid, start_ns // TICK_NS)] = _Entry(start_ns, row, identity)
        while len(self._entries) > self.capacity:
            self._entries.popitem(last=False)
            self.stats.evicted += 1
        return row

    def _add(self, attributes: Attributes, identity: _Identity) -> int:
        if len(self.table.rows) < self.max_resources:
            dropped = max(len(_said(identity.facts)) - _MAX_ATTRIBUTES, 0)
            return self.table.add(Resource(attributes, identity.program, dropped))
        self.stats.shared += 1
        service = str(attributes["service.name"])
        # The names of services are bounded too: after as many again, one row for all.
        if service not in self._shared and len(self._shared) >= self.max_resources:
            service = "unknown_service"
        if service not in self._shared:
            common = {k: v for k, v in attributes.items() if not _of_one_process(k)}
            self._shared[service] = self.table.add(Resource({**common, "service.name": service}))
        return self._shared[service]

    def _identify(self, facts: ProcessFacts) -> _Identity:
        parent = self._parent_identity(facts)
        if parent is not None:
            return replace(parent, facts=facts)
        name = service_name(
            exe=facts.exe,
            cmdline=facts.cmdline,
            environ=facts.environ,
            unit=facts.unit,
            container_id=facts.container_id,
            cwd=facts.cwd,
            comm=facts.comm,
            package=lambda directory: self.source.package_name(facts, directory),
        )
        runtime = self.source.runtime(facts)
        program = program_name(facts.exe, facts.cmdline, runtimes.word(runtime), name.name)
        return _Identity(name, runtime, facts, program[:_MAX_VALUE])

    def _parent_identity(self, facts: ProcessFacts) -> _Identity | None:
        """The parent's identity when this process is a fork of it that executed nothing, or what
        Python's multiprocessing starts instead of a fork.

        Workers often rewrite their title, and with it the environment /proc shows:
        the parent was asked before that, or is asked now.
        """
        birth = self._birth(facts.tgid, facts.start_ns)
        # Events know the parent even after it ended and the child was given to init.
        parent_id = birth.parent if birth is not None and not birth.executed else facts.parent
        if parent_id <= 1:
            return None
        known = self._known(parent_id)
        if known is not None:
            return known if _is_worker_of(facts, known.facts) else None
        parent = self.source.facts(parent_id)
        if parent is None or not _is_worker_of(facts, parent):
            return None
        self.remember(parent)
        entry = self._entries[(parent.tgid, parent.start_ns // TICK_NS)]
        return entry.identity

    def _birth(self, tgid: int, start_ns: int) -> _Birth | None:
        birth = self._births.get(tgid)
        return birth if birth is not None and same_start(birth.start_ns, start_ns) else None

    def _remember_vanished(self, tgid: int, start_ns: int, facts: ProcessFacts | None) -> int:
        """Describes a process of which /proc has nothing more, or shows us only its name."""
        self.stats.vanished += 1
        birth = self._birth(tgid, start_ns)
        if birth is None and facts is not None and same_start(facts.start_ns, start_ns):
            birth = _Birth(start_ns, facts.parent, facts.comm, executed=True)
        birth = birth or _Birth(start_ns, 0, "", executed=True)
        parent = None if birth.executed else self._known(birth.parent)
        if parent is None:
            name = ServiceName(birth.comm or "unknown_service", "executable")
            shown = ProcessFacts(tgid, start_ns, birth.parent, birth.comm)
            parent = _Identity(name, Runtime(runtimes.OTHER), shown)
        attributes = self._attributes(parent, tgid, start_ns)
        if birth.parent:
            attributes["process.parent_pid"] = birth.parent
        if birth.comm:
            attributes["process.executable.name"] = birth.comm
        return self._store(tgid, start_ns, attributes, parent)

    def _known(self, tgid: int) -> _Identity | None:
        for key, entry in reversed(self._entries.items()):
            if key[0] == tgid:
                return entry.identity
        return None

    def _note_birth(self, event: np.void, *, executed: bool) -> None:
        tgid = int(event["tgid"])
        comm = event["comm"].tobytes().partition(b"\0")[0].decode("utf-8", "replace")
        start_ns, parent = int(event["process_start_ns"]), int(event["parent_tgid"])
        self._births.pop(tgid, None)
        self._births[tgid] = _Birth(start_ns, parent, comm, executed)
        while len(self._births) > self.capacity:
            self._births.popitem(last=False)

    def _attributes(self, identity: _Identity, tgid: int, start_ns: int) -> Attributes:
        facts = identity.facts
        inherited = resource_attributes(self.agent_environ.get("OTEL_RESOURCE_ATTRIBUTES", ""))
        attributes: Attributes = dict(self.host.attributes)
        attributes.update((k, v) for k, v in inherited.items() if k not in _NOT_FROM_AGENT)
        attributes["service.instance.id"] = instance_id(self.host, tgid, start_ns)
        attributes.update(list(_said(facts).items())[:_MAX_ATTRIBUTES])
        attributes = {k: v for k, v in attributes.items() if not k.startswith(_OURS)}
        attributes["service.name"] = identity.name.name
        if facts.container_id:
            attributes["container.id"] = facts.container_id
        if facts.unit:
            attributes[_UNIT] = facts.unit
        attributes["process.pid"] = tgid
        attributes["process.creation.time"] = creation_time(start_ns)
        attributes.update(_runtime_attributes(identity.runtime))
        return {k: v[:_MAX_VALUE] if isinstance(v, str) else v for k, v in attributes.items()}


def _is_worker_of(facts: ProcessFacts, parent: ProcessFacts) -> bool:
    """A fork; or what multiprocessing, or a program that reloads itself, starts anew."""
    if facts.forked_from(parent):
        return True
    is_alike = facts.exe == parent.exe and bool(facts.cmdline)
    is_renamed = any(facts.environ.get(name) != parent.environ.get(name) for name in _NAMED_BY)
    started_anew = facts.cmdline == parent.cmdline or is_spawned_worker(facts.cmdline)
    return is_alike and started_anew and not is_renamed


def _distinct(
    tgids: npt.NDArray[np.uint32], starts_ns: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """First index of every distinct (tgid, start), and for each record which of them it is.

    Starts differ between processes down to the nanosecond, so they are sorted
    alone; in the odd case that two processes share one, the pairs are.
    """
    _, firsts, inverse = np.unique(starts_ns, return_index=True, return_inverse=True)
    if (tgids[firsts][inverse] == tgids).all():
        return firsts, inverse
    pairs = np.stack((tgids.astype(np.uint64), starts_ns), axis=1)
    _, firsts, inverse = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    return firsts, inverse.reshape(-1)


def instance_id(host: Host, tgid: int, start_ns: int) -> str:
    """service.instance.id: the same for the same process whoever asks, new for every other."""
    return str(uuid.uuid5(_INSTANCE_NAMESPACE, f"{host.identity}/{tgid}/{start_ns // TICK_NS}"))


def creation_time(start_ns: int) -> str:
    """process.creation.time, to the hundredth of a second that /proc knows."""
    unix_ns = start_to_unix_ns(start_ns - start_ns % TICK_NS)
    moment = datetime.fromtimestamp(unix_ns / 1e9, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _process_attributes(facts: ProcessFacts, *, command_args: bool) -> Attributes:
    attributes: Attributes = {"process.executable.name": PurePosixPath(facts.exe).name}
    attributes["process.executable.path"] = facts.exe
    if facts.parent:
        attributes["process.parent_pid"] = facts.parent
    if facts.cmdline:
        attributes["process.command"] = facts.cmdline[0][:_MAX_VALUE]
    if command_args:
        attributes["process.command_args"] = [word[:_MAX_VALUE] for word in facts.cmdline]
    if facts.uid is not None:
        attributes["process.owner"] = user_name(facts.uid)
    return attributes


def _said(facts: ProcessFacts) -> dict[str, str]:
    """What the process says of itself."""
    return resource_attributes(facts.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""))


def _runtime_attributes(runtime: Runtime) -> Attributes:
    attributes: Attributes = {
        "telemetry.sdk.name": "waggle",
        "telemetry.sdk.language": runtimes.language(runtime),
        "telemetry.sdk.version": __version__,
        "telemetry.distro.name": "waggle-ebpf",
        "telemetry.distro.version": __version__,
    }
    if runtime.name not in runtimes.NO_RUNTIMES:
        attributes["process.runtime.name"] = runtime.name
        attributes["process.runtime.description"] = runtimes.description(runtime)
        if runtime.version:
            attributes["process.runtime.version"] = runtime.version
    return attributes


def _of_one_process(key: str) -> bool:
    return key.startswith("process.") or key in ("service.instance.id", "container.id")
