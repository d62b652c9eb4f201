"""The agent's own metrics: what it moved, what it lost and why, what waits, what it costs.

There are no conventions for an agent like this; names begin with `waggle.`, but for its CPU and
memory, which are those of any process.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from waggle import __version__
from waggle.host import this_host
from waggle.metrics.instruments import Instrument, Shape
from waggle.metrics.points import Collected, NumberFamily, NumberPoint
from waggle.metrics.processes import families_of, use_of
from waggle.metrics.series import Pairs
from waggle.processes import creation_time, instance_id
from waggle.spans import Resource

_STATS = Path("/proc/sys/kernel/bpf_stats_enabled")

RECORDS = Instrument("waggle.records", "{record}", "Records read from the kernel.", Shape.COUNTER)
SPANS = Instrument("waggle.spans", "{span}", "Spans, by what became of them.", Shape.COUNTER)
EXPORTED = Instrument(
    "waggle.exported", "{item}", "Spans or data points delivered, by exporter.", Shape.COUNTER
)
LOSSES = Instrument("waggle.losses", "{item}", "What was lost, by where and why.", Shape.COUNTER)
QUEUE = Instrument("waggle.queue.size", "{item}", "What waits, by queue.", Shape.UP_DOWN)
QUEUE_LIMIT = Instrument(
    "waggle.queue.limit", "{item}", "How much may wait, by queue.", Shape.UP_DOWN
)
TRACED = Instrument(
    "waggle.processes", "{process}", "Processes that had spans and live.", Shape.UP_DOWN
)
SERIES = Instrument("waggle.metrics.series", "{series}", "Series of exchanges.", Shape.UP_DOWN)
OVERFLOWED = Instrument(
    "waggle.metrics.overflowed", "{attribute_set}", "Had no room as series.", Shape.COUNTER
)
PROBE_RUNS = Instrument("waggle.probe.runs", "{run}", "Runs of a BPF program.", Shape.COUNTER)
PROBE_TIME = Instrument(
    "waggle.probe.time", "s", "Time that runs of a BPF program took.", Shape.COUNTER
)


@dataclass(frozen=True, slots=True)
class Loss:
    """So much lost since the start."""

    component: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits somewhere. limit: None where it is not known."""

    component: str
    size: int
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """What a BPF program has cost so far."""

    name: str
    runs: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class Report:
    """How the agent does. spans: by what became of them; exported: by exporter."""

    records: int
    spans: Sequence[tuple[str, int]]
    exported: Sequence[tuple[str, int]]
    losses: Sequence[Loss]
    queues: Sequence[Queue]
    processes: int
    series: int
    overflowed: int
    probes: Sequence[Probe] = ()


def agent_resource() -> Resource:
    """The agent itself, as a service."""
    host, pid = this_host(), os.getpid()
    use = use_of(pid)
    start_ns = use.start_ns if use is not None else time.monotonic_ns()
    return Resource(
        {
            **host.attributes,
            "service.name": "waggle",
            "service.version": __version__,
            "service.instance.id": instance_id(host, pid, start_ns),
            "process.pid": pid,
            "process.creation.time": creation_time(start_ns),
            "telemetry.sdk.name": "waggle",
            "telemetry.sdk.language": "python",
            "telemetry.sdk.version": __version__,
        }
    )


def kernel_measures() -> bool:
    """Whether the kernel's statistics of BPF programs are on for everybody."""
    try:
        return _STATS.read_text().strip() == "1"
    except OSError:
        return False


class AgentSource:
    """Turns reports into metrics. report: called once a collection, in its thread."""

    def __init__(self, resource: Resource, report: Callable[[], Report]) -> None:
        self._resource = resource
        self._report = report
        self._since_ns = time.time_ns()

    def collect(self) -> Collected:
        report = self._report()
        lost = [
            (loss.count, (("waggle.component", loss.component), ("waggle.reason", loss.reason)))
            for loss in report.losses
        ]
        found: Collected = [
            self._family(RECORDS, [(report.records, ())]),
            self._family(SPANS, _by("waggle.outcome", report.spans)),
            self._family(EXPORTED, _by("waggle.component", report.exported)),
            self._family(LOSSES, lost),
            self._family(
                QUEUE, _by("waggle.component", ((q.component, q.size) for q in report.queues))
            ),
            self._family(QUEUE_LIMIT, _by("waggle.component", _limits(report.queues))),
            self._family(TRACED, [(report.processes, ())]),
            self._family(SERIES, [(report.series, ())]),
            self._family(OVERFLOWED, [(report.overflowed, ())]),
        ]
        runs = ((probe.name, probe.runs) for probe in report.probes)
        times = ((probe.name, probe.time_ns / 1e9) for probe in report.probes)
        found.append(self._family(PROBE_RUNS, _by("waggle.probe", runs)))
        found.append(self._family(PROBE_TIME, _by("waggle.probe", times)))
        use = use_of(os.getpid())
        if use is not None:
            found += families_of([(self._resource, use)])
        return [family for family in found if not isinstance(family, NumberFamily) or family.points]

    def _family(
        self, instrument: Instrument, values: Iterable[tuple[int | float, Pairs]]
    ) -> NumberFamily:
        points = [
            NumberPoint(self._resource, pairs, value, self._since_ns) for value, pairs in values
        ]
        return NumberFamily(instrument, points)


def _by(
    attribute: str, values: Iterable[tuple[str, int | float]]
) -> list[tuple[int | float, Pairs]]:
    return [(value, ((attribute, name),)) for name, value in values]


def _limits(queues: Iterable[Queue]) -> Iterable[tuple[str, int]]:
    return ((queue.component, queue.limit) for queue in queues if queue.limit is not None)
