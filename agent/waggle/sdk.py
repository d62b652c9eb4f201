"""Processes that make and export spans themselves, by an OpenTelemetry SDK: theirs and ours
must not double (docs/propagators.md).

That a process exports shows in how it was started, or on the wire: it calls /v1/traces. A
setting that is only in its environment is no proof: whole clusters set those.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from waggle.layout import Flag, Method, ProcessMode, Role
from waggle.procfs import ProcessFacts
from waggle.spans import Records

Use = Literal["defer", "both", "ignore"]

MOST_KNOWN = 65_536  # processes that were told of; beyond that nobody is any more
_PATHS = (b"/v1/traces", b"/opentelemetry.proto.collector.trace.v1.TraceService/Export")
_LEFT = "what it covers is left to it"
_SAYS: Mapping[Use, str] = {
    "defer": _LEFT,
    "both": "its spans and ours are shown",
    "ignore": "it is not traced",
}
_MODES: Mapping[Use, int] = {
    "defer": ProcessMode.SDK,
    "both": 0,
    "ignore": ProcessMode.EXCLUDED,
}

# Where a launcher leaves its trace, and which.
_LAUNCHERS = (
    (
        "PYTHONPATH",
        "opentelemetry/instrumentation/auto_instrumentation",
        "opentelemetry-instrument",
    ),
    ("JAVA_TOOL_OPTIONS", "opentelemetry-javaagent", "the Java agent"),
    ("NODE_OPTIONS", "@opentelemetry/auto-instrumentations-node", "auto-instrumentations-node"),
)


def launcher(facts: ProcessFacts) -> str:
    """What put an exporting SDK into a process at its start; empty where nothing did."""
    environ = facts.environ
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return ""
    exporters = environ.get("OTEL_TRACES_EXPORTER", "").lower().split(",")
    if exporters != [""] and not {"otlp", "otlp_proto_http", "otlp_proto_grpc"} & set(exporters):
        return ""
    for variable, sign, name in _LAUNCHERS:
        if sign in environ.get(variable, "") or any(sign in word for word in facts.cmdline):
            return name
    return ""


class Modes(Protocol):
    """Where the kernel is told about a process (Capture)."""

    def add_mode(self, tgid: int, bits: int) -> None: ...


@dataclass(slots=True)
class SdkPolicy:
    """What is done about each process that exports spans itself. Thread safe."""

    use: Use
    say: Callable[[str], None]
    modes: Modes
    _known: dict[int, int] = field(default_factory=dict)  # process -> bits of its mode
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def bits_for(self, tgid: int, facts: ProcessFacts | None) -> int:
        """What to add to the mode of a process that is to be traced."""
        with self._lock:
            if tgid in self._known:
                return self._known[tgid]
        name = launcher(facts) if facts is not None else ""
        if not name:
            return 0
        # A launcher instruments servers as well as clients.
        bits = _MODES[self.use] | (ProcessMode.SDK_SERVER if self.use == "defer" else 0)
        self._remember(tgid, bits, f"started with {name}")
        return bits

    def exports(self, tgid: int) -> None:
        """A process was seen to export."""
        with self._lock:
            if tgid in self._known:
                return
        bits = _MODES[self.use]
        if self._remember(tgid, bits, "it calls /v1/traces") and bits:
            self.modes.add_mode(tgid, bits)

    def forget(self, tgid: int) -> None:
        """The process has ended."""
        with self._lock:
            self._known.pop(tgid, None)

    def _remember(self, tgid: int, bits: int, why: str) -> bool:
        with self._lock:
            if tgid in self._known or len(self._known) >= MOST_KNOWN:
                return False
            self._known[tgid] = bits
        self.say(f"process {tgid} exports spans itself ({why}): {_SAYS[self.use]} (WAGGLE_SDK)")
        return True


class SdkStage:
    """Notices who exports; leaves out what an SDK makes a span of. Then goes on to `then`."""

    def __init__(self, policy: SdkPolicy, then: _Stage) -> None:
        self._policy = policy
        self._then = then
        self.left_out = 0

    def poll(self) -> None:
        self._then.poll()

    def process(self, records: Records) -> Sequence[Records]:
        for tgid in exporting(records):
            self._policy.exports(tgid)
        covered = (records["flags"] & np.uint16(Flag.SDK)) != 0
        count = int(np.count_nonzero(covered))
        if count:
            self.left_out += count
            records = records[~covered]
        return self._then.process(records) if len(records) else []


class _Stage(Protocol):
    def poll(self) -> None: ...

    def process(self, records: Records) -> Sequence[Records]: ...


def exporting(records: Records) -> list[int]:
    """The processes that call an OTLP endpoint for traces in these records."""
    calls = (records["role"] == Role.CLIENT) & (records["method"] == Method.POST)
    calls &= (records["status"] >= 200) & (records["status"] < 300)
    found: set[int] = set()
    for path in _PATHS:
        lengths = records["target_len"].astype(np.intp)
        rows = np.flatnonzero(calls & (lengths >= len(path)))
        if not len(rows):
            continue
        ends = lengths[rows][:, None] - len(path) + np.arange(len(path))
        texts = records["head"][rows[:, None], ends]
        same = (texts == np.frombuffer(path, np.uint8)).all(axis=1)
        found.update(records["tgid"][rows[same]].tolist())
    return sorted(found)
