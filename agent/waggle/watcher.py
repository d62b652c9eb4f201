"""Process events as they come: discovery decides, the kernel is told, names are kept.

The pipeline asks the watcher whose spans these are and whether they are wanted;
the watcher's own thread answers the kernel's events meanwhile. One lock guards
what both use. Probes attach in a thread of their own: to read an interpreter's
symbols takes longer than some programs live, which must be asked their name in time.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from waggle.attach import Attacher
from waggle.capture import Capture
from waggle.discovery import Decision, Discovery
from waggle.processes import Known, ProcessTable
from waggle.procfs import ProcessFacts
from waggle.ring import RingPoller
from waggle.sampling import Sampling
from waggle.sdk import SdkPolicy
from waggle.spans import Records, ResourceTable

_EVENT_WAIT_S = 0.5
_SWEEP_EVERY_S = 2.0
_PROBES_FIRST_S = 0.0005
_NAMES_KEPT = 10_000
_ENDED_KEPT = 4096  # their last records are still on their way


@dataclass(slots=True)
class Watcher:
    """Keeps the kernel's map of processes true. Thread safe where it must be."""

    capture: Capture
    discovery: Discovery
    processes: ProcessTable
    attacher: Attacher | None = None
    sampling: Sampling = field(default_factory=Sampling)
    sdk: SdkPolicy | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _traced: set[int] = field(default_factory=set)
    _ended: OrderedDict[int, None] = field(default_factory=OrderedDict)
    _names: dict[int, str] = field(default_factory=dict)  # row of the table -> name
    _named: frozenset[int] = frozenset()  # --pid: when all have ended, so have we
    _waits: int | None = None  # a process that has yet to execute what it is traced for
    _stopped: bool = False
    _swept: float = 0.0
    # For the attacher, in order; without a lock: it does not wait until a batch is decided.
    _considered: deque[Decision] = field(default_factory=deque)
    _unnamed: list[ProcessFacts] = field(default_factory=list)  # to be remembered
    _to_attach: threading.Event = field(default_factory=threading.Event)

    @property
    def table(self) -> ResourceTable:
        return self.processes.table

    def adopt(self, tgid: int) -> None:
        """Trace a process whatever the selectors say, which waits to execute another program:
        nothing is attached to what it runs until expect() has said which that is."""
        with self._lock:
            self._waits = tgid
            self._apply(self.discovery.adopt(tgid))
            self._name()

    def begin(self) -> None:
        """Decide about what runs already. Raises TargetError for a --pid that is not there."""
        with self._lock:
            for decision in self.discovery.initial():
                self._apply(decision)
            self._name()
            selector = self.discovery.selector
            if selector.pids and not (selector.ports or selector.exes or selector.names):
                self._named = frozenset(self._traced)
        self._attach()

    def traced(self) -> frozenset[int]:
        """The processes that are traced now."""
        with self._lock:
            return frozenset(self._traced)

    def tracing(self) -> str:
        """What is traced, for the user."""
        if self.discovery.selector.all:
            return "tracing everything on this machine"
        count = len(self._traced)
        return f"tracing {count} process{'' if count == 1 else 'es'}"

    def nothing_left(self) -> bool:
        """Whether every process that was picked by its id, and all its children, have ended."""
        return bool(self._named) and not self._traced

    def processes_seen(self) -> list[str]:
        """Every process that had a span, as `shop 4121`, in the order they came."""
        return list(self._names.values())

    def known(self) -> list[Known]:
        """The processes that had spans, as far as they are remembered."""
        with self._lock:
            return self.processes.known()

    def expect(self, tgid: int, path: str) -> None:
        """The process that waits will execute this file: probes may be there before it does."""
        self._waits = None
        if self.attacher is not None:
            self.attacher.expect(tgid, path)

    def attach_first(self) -> None:
        """Attach to what is traced already, now: before watching() does it when there is time."""
        self._attach()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While it holds, events are taken as they come."""
        poller = RingPoller([self.capture.events])
        threads = [
            threading.Thread(target=self._watch, args=(poller,), name="waggle-watcher"),
            threading.Thread(target=self._keep_attached, name="waggle-attacher"),
        ]
        for thread in threads:
            thread.daemon = True
            thread.start()
        try:
            yield
        finally:
            self._stopped = True
            poller.wake()
            self._to_attach.set()
            for thread in threads:
                thread.join()
            poller.close()

    def accept(self, records: Records) -> npt.NDArray[np.bool_]:
        """Which provisional records belong to processes that are traced, by all events so far."""
        self.take_events()
        with self._lock:
            wanted_ids = self._traced | self._ended.keys()
            traced = np.fromiter(wanted_ids, np.uint32, len(wanted_ids))
        wanted: npt.NDArray[np.bool_] = np.isin(records["tgid"], traced)
        return wanted

    def resources_of(self, records: Records) -> npt.NDArray[np.intp]:
        """The resource of each record, by all events so far."""
        self.take_events()
        with self._lock:
            rows = self.processes.lookup(records["tgid"], records["process_start_ns"])
            self._remember_names(rows)
            return rows

    def _remember_names(self, rows: npt.NDArray[np.intp]) -> None:
        for row in np.flatnonzero(np.bincount(rows)).tolist():
            if row not in self._names and len(self._names) < _NAMES_KEPT:
                attributes = self.table.rows[row].attributes
                pid = attributes.get("process.pid", "")
                self._names[row] = f"{attributes['service.name']} {pid}".strip()

    def take_events(self) -> None:
        """Handle every event that is there."""
        with self._lock:
            events = self.capture.events.read()
            if len(events) == 0:
                return
            self.processes.on_events(events)
            for decision in self.discovery.on_events(events):
                self._apply(decision)
            self._name()

    def _end(self, tgid: int) -> None:
        """A process has ended; what it did before is still wanted."""
        if self.sdk is not None:
            self.sdk.forget(tgid)
        if tgid in self._traced:
            self._traced.discard(tgid)
            self._ended[tgid] = None
            if len(self._ended) > _ENDED_KEPT:
                self._ended.popitem(last=False)

    def _watch(self, poller: RingPoller) -> None:
        while not self._stopped:
            poller.wait(_EVENT_WAIT_S)
            self.take_events()
            if time.monotonic() - self._swept > _SWEEP_EVERY_S:
                self.capture.sweep()
                self._swept = time.monotonic()

    def _keep_attached(self) -> None:
        wait_s = _EVENT_WAIT_S
        while not self._stopped:
            self._to_attach.wait(wait_s)
            self._to_attach.clear()
            wait_s = self._attach()

    def _attach(self) -> float:
        """Attach probes where it is time; how long to wait for decisions until it is again."""
        if self.attacher is None:
            return _EVENT_WAIT_S
        while self._considered:
            decision = self._considered.popleft()
            if decision.traced:
                self.attacher.consider(decision.tgid, decision.start_ns, decision.facts)
            else:
                self.attacher.forget(decision.tgid)
        due = self.attacher.work()
        return _EVENT_WAIT_S if due is None else min(due, _EVENT_WAIT_S)

    def _rules_for(self, decision: Decision) -> int:
        """Which sampling rules may be for a process: its name is asked for only where it counts."""
        if not self.sampling.by_service or not decision.traced:
            return 0
        if decision.facts is not None:
            row = self.processes.remember(decision.facts)
        else:
            row = self.processes.row(decision.tgid, decision.start_ns)
        return self.sampling.rules_for(self.processes.service(row))

    def _with_sdk(self, decision: Decision) -> Decision:
        """The same, minding that the process may export spans itself."""
        if self.sdk is None or not decision.traced:
            return decision
        bits = self.sdk.bits_for(decision.tgid, decision.facts)
        return replace(decision, mode=decision.mode | bits) if bits else decision

    def _name(self) -> None:
        """Names take longer than some programs live: probes go first. Without a pause the thread
        that attaches them would wait for this one as long as Python's threads wait for each other,
        which is 5 ms."""
        if self._unnamed and self._considered:
            time.sleep(_PROBES_FIRST_S)
        for facts in self._unnamed:
            self.processes.remember(facts)
        self._unnamed.clear()

    def _apply(self, decision: Decision) -> None:
        decision = self._with_sdk(decision)
        self.capture.decide(decision, self._rules_for(decision))
        if self.attacher is not None and decision.tgid != self._waits:
            self._considered.append(decision)
            self._to_attach.set()
        if decision.traced:
            self._traced.add(decision.tgid)
            self._ended.pop(decision.tgid, None)
            if decision.facts is not None and not self.sampling.by_service:
                self._unnamed.append(decision.facts)
        elif decision.mode:  # excluded
            self._traced.discard(decision.tgid)
            self._ended.pop(decision.tgid, None)
        else:
            self._end(decision.tgid)
