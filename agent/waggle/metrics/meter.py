"""Rate, errors and duration of every exchange, before any of them is left out by sampling.

    meter = ExchangeMeter(table, MeterSettings())
    meter.measure(batch)           # the pipeline, for each batch
    meter.collect()                # an exporter, once in a while, in another thread

Work is done per batch and per series; no exchange is looked at alone but the first of each series.
"""

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from waggle.layout import Flag
from waggle.metrics.finder import SeriesFinder, facts_of
from waggle.metrics.graph import Names, ServiceGraph
from waggle.metrics.histograms import (
    EXEMPLAR,
    ExplicitHistograms,
    ExponentialHistograms,
    Floats,
    Histograms,
    Points,
)
from waggle.metrics.instruments import (
    DURATION_BOUNDS,
    DURATIONS,
    REQUEST_SIZES,
    RESPONSE_SIZES,
    SIZE_BOUNDS,
    Instrument,
    Kind,
)
from waggle.metrics.points import Collected, HistogramFamily
from waggle.metrics.routes import RouteGuesser
from waggle.metrics.series import NO_SERIES, Limits, Numbers, Series, SeriesTable
from waggle.spans import Records, Resource, ResourceTable, SpanBatch

_SAMPLED = 1  # of W3C's trace flags


@dataclass(frozen=True, slots=True)
class MeterSettings:
    """explicit, exponential: which kinds of histograms are asked for; readers may differ.

    exemplars: OTEL_METRICS_EXEMPLAR_FILTER.
    """

    explicit: bool = True
    exponential: bool = False
    exemplars: str = "trace_based"
    limits: Limits = field(default_factory=Limits)
    guess_routes: bool = False


@dataclass(slots=True)
class MeterStats:
    """Exchanges measured; and those that were not: no room for even an overflow series."""

    measured: int = 0
    no_series: int = 0
    cpu_ns: int = 0


class ExchangeMeter:
    """measure() is called by one thread, collect() and forget() by any."""

    def __init__(self, resources: ResourceTable, settings: MeterSettings, agent: Resource) -> None:
        """agent: the agent's own resource, whose metrics those between services are."""
        self.stats = MeterStats()
        self._settings = settings
        self._resources = resources
        self._lock = threading.Lock()
        self._table = SeriesTable(settings.limits)
        self._finder = SeriesFinder(self._table, time.time_ns())
        self._routes = RouteGuesser() if settings.guess_routes else None
        self._stores = _stores(settings)
        self._failed = np.zeros(0, np.bool_)  # by series
        self.graph = ServiceGraph(resources, settings.limits, agent)

    def measure(self, batch: SpanBatch) -> None:
        """Add all exchanges of a batch."""
        started = time.thread_time_ns()
        with self._lock:
            self._measure(batch)
        self.stats.cpu_ns += time.thread_time_ns() - started

    def _measure(self, batch: SpanBatch) -> None:
        records = facts_of(batch.records)
        extra = self._routes.of(batch) if self._routes is not None else None
        numbers = self._finder.of(batch, records, extra)
        durations = duration_s(records)
        self._note_failures()
        failed = numbers >= 0
        failed[failed] = self._failed[numbers[failed]]
        self.graph.add(
            records, batch.resources, durations, failed, lambda rows: self._peers(numbers[rows])
        )
        there = numbers != NO_SERIES
        if not there.all():
            self.stats.no_series += int(np.count_nonzero(~there))
            numbers, durations, records = numbers[there], durations[there], records[there]
        self.stats.measured += len(records)
        examples = _Examples(records, batch.clock_offset_ns, self._settings.exemplars)
        for store in self._stores.values():
            store.durations.record(numbers, durations, examples)
        for name, flag in _BODIES.items():
            told = (records["flags"] & np.uint16(flag)) != 0
            sizes = records[name][told].astype(np.float64)
            for store in self._stores.values():
                store.bodies[name].record(numbers[told], sizes)

    def _note_failures(self) -> None:
        known = len(self._failed)
        if len(self._table) > known:
            new = [series.failed for series in self._table.rows[known:]]
            self._failed = np.concatenate((self._failed, np.array(new, np.bool_)))

    def _peers(self, numbers: Numbers) -> Names:
        """What the servers that some clients' series name are called in the graph."""
        distinct, which = np.unique(numbers, return_inverse=True)
        names = [self.graph.name_number(self._server(number)) for number in distinct.tolist()]
        numbered: Names = np.array(names, np.int32)[which]
        return numbered

    def _server(self, number: int) -> str:
        if number < 0:
            return ""
        return next((str(v) for n, v in self._table.rows[number].attributes if n == _SERVER), "")

    def collect(self, *, exponential: bool = False) -> Collected:
        """All that was measured so far, since the start, in one of the kinds that are kept."""
        store = self._stores[exponential]
        with self._lock:
            self.graph.settle()
            rows = list(self._table.rows)
            parts = [
                (DURATIONS, store.durations.points(len(rows))),
                (REQUEST_SIZES, store.bodies["request_body"].points(len(rows))),
                (RESPONSE_SIZES, store.bodies["response_body"].points(len(rows))),
            ]
            graph = self.graph.collect()
        by_kind: dict[Kind, list[int]] = {kind: [] for kind in Kind}
        for number, series in enumerate(rows):
            by_kind[Kind(series.group)].append(number)
        found: Collected = [
            family
            for instruments, points in parts
            for kind, instrument in instruments.items()
            if len((family := self._family(instrument, rows, by_kind[kind], points)).series)
        ]
        return found + graph

    def _family(
        self, instrument: Instrument, rows: list[Series], numbers: list[int], points: Points
    ) -> HistogramFamily:
        """Without series that hold nothing: a size that no exchange had."""
        used = [number for number in numbers if points.counts[number]]
        table = self._resources.rows
        return HistogramFamily(
            instrument,
            [table[rows[number].resource] for number in used],
            [rows[number] for number in used],
            points.take(np.array(used, np.intp)),
        )

    def series(self) -> int:
        """How many there are."""
        return len(self._table)

    def overflowed(self) -> int:
        """Attribute sets that had no room."""
        with self._lock:
            return self._table.overflowed + self._finder.undecided

    def resources(self) -> set[int]:
        """Of which resources there are series."""
        with self._lock:
            return {series.resource for series in self._table.rows}

    def forget(self, resources: Collection[int]) -> None:
        """Drop the series of resources whose processes have ended."""
        with self._lock:
            rows = self._table.rows
            kept = [n for n, series in enumerate(rows) if series.resource not in resources]
            if len(kept) == len(rows):
                return
            self._table.keep(kept)
            numbers = np.array(kept, np.intp)
            self._failed = self._failed[:0]
            for store in self._stores.values():
                for histograms in (store.durations, *store.bodies.values()):
                    histograms.keep(numbers)
            self._finder.forget()


_SERVER = "server.address"
_BODIES = {"request_body": Flag.REQUEST_BODY, "response_body": Flag.RESPONSE_BODY}


@dataclass(frozen=True, slots=True)
class _Store:
    """The histograms of one kind."""

    durations: Histograms
    bodies: dict[str, Histograms]  # by column of a record


def _stores(settings: MeterSettings) -> dict[bool, _Store]:
    """By whether they are exponential."""
    found: dict[bool, _Store] = {}
    if settings.explicit:
        wanted = settings.exemplars != "always_off"
        durations = ExplicitHistograms(DURATION_BOUNDS, exemplars=wanted)
        bodies: dict[str, Histograms] = {n: ExplicitHistograms(SIZE_BOUNDS) for n in _BODIES}
        found[False] = _Store(durations, bodies)
    if settings.exponential:
        bodies = {name: ExponentialHistograms() for name in _BODIES}
        found[True] = _Store(ExponentialHistograms(), bodies)
    return found


def duration_s(records: Records) -> Floats:
    """How long each exchange took, in seconds, as its span says."""
    start, end = records["start_ns"], records["end_ns"]
    took: Floats = (np.maximum(start, end) - start) * 1e-9
    return took


class _Examples:
    """Exemplars of a batch's rows: of those whose trace is sampled, unless all are wanted."""

    def __init__(self, records: Records, clock_offset_ns: int, which: str) -> None:
        self._records = records
        self._offset = np.uint64(clock_offset_ns & 0xFFFF_FFFF_FFFF_FFFF)
        self.rows: Numbers = self._wanted(which)

    def _wanted(self, which: str) -> Numbers:
        records = self._records
        if which == "always_on":
            return np.arange(len(records))
        if which == "always_off":
            return np.empty(0, np.intp)
        sampled = (records["trace_flags"] & np.uint8(_SAMPLED)) != 0
        sampled &= (records["flags"] & np.uint16(Flag.UNSAMPLED)) == 0
        rows: Numbers = sampled.nonzero()[0]
        return rows

    def take(self, rows: Numbers) -> npt.NDArray[np.void]:
        some = self._records[rows]
        made = np.zeros(len(rows), EXEMPLAR)
        made["time_ns"] = np.maximum(some["start_ns"], some["end_ns"]) + self._offset
        made["trace_id"] = np.ascontiguousarray(some["trace_id"]).view("V16").reshape(-1)
        made["span_id"] = np.ascontiguousarray(some["span_id"]).view("V8").reshape(-1)
        return made
