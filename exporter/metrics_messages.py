"""Collected metrics as OTLP requests, cumulative or as what was added since the last time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1 import metrics_pb2

from waggle.exporter.messages import SCHEMA_URL, add_attributes, resource_message, scope_message
from waggle.exporter.requests import EncodedRequest
from waggle.metrics.histograms import Points
from waggle.metrics.instruments import Shape
from waggle.metrics.points import (
    Collected,
    Family,
    HistogramFamily,
    NumberFamily,
)
from waggle.metrics.series import Pairs, Series
from waggle.spans import Resource

CUMULATIVE = metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE
DELTA = metrics_pb2.AGGREGATION_TEMPORALITY_DELTA


class OtlpMetrics:
    """Makes requests of what is collected, one collection after the other.

    delta: histograms and counters tell what was added since the collection before; up-down
    counters and gauges never do. max_bytes: of a request; a resource with more goes alone.
    """

    def __init__(self, *, delta: bool, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._differences = _Differences() if delta else None
        self._temporality: metrics_pb2.AggregationTemporality.ValueType
        self._temporality = DELTA if delta else CUMULATIVE

    def encode(self, collected: Collected, now_ns: int) -> Iterator[EncodedRequest]:
        """Requests, one after the other: messages of all at once would take much memory.

        now_ns: Unix time of the collection.
        """
        families: Iterable[Family] = collected
        if self._differences is not None:
            families = self._differences.of(collected, now_ns)
        writer = _Writer(self._temporality, now_ns)
        messages = (writer.written(*found) for found in _by_resource(families))
        return _packed(messages, self._max_bytes)


# A family and the numbers of its points that are of one resource.
_Part = tuple[Family, list[int]]


def _by_resource(families: Iterable[Family]) -> list[tuple[Resource, list[_Part]]]:
    """A resource is the same when it is the same object."""
    found: dict[int, tuple[Resource, list[_Part]]] = {}
    for family in families:
        for row, resource in enumerate(_resources(family)):
            _, parts = found.setdefault(id(resource), (resource, []))
            if not parts or parts[-1][0] is not family:
                parts.append((family, []))
            parts[-1][1].append(row)
    return list(found.values())


def _resources(family: Family) -> Iterable[Resource]:
    if isinstance(family, HistogramFamily):
        return family.resources
    return (point.resource for point in family.points)


@dataclass(frozen=True, slots=True)
class _Written:
    """One resource's metrics. points: how many data points."""

    message: metrics_pb2.ResourceMetrics
    points: int


class _Writer:
    """Makes messages of one collection."""

    def __init__(
        self, temporality: "metrics_pb2.AggregationTemporality.ValueType", now_ns: int
    ) -> None:
        self._temporality = temporality
        self._now_ns = now_ns
        self._columns: dict[int, _Columns] = {}

    def written(self, resource: Resource, parts: list[_Part]) -> _Written:
        message = metrics_pb2.ResourceMetrics(
            resource=resource_message(resource), schema_url=SCHEMA_URL
        )
        scope = message.scope_metrics.add(scope=scope_message(), schema_url=SCHEMA_URL)
        for family, rows in parts:
            instrument = family.instrument
            metric = scope.metrics.add(
                name=instrument.name, unit=instrument.unit, description=instrument.description
            )
            if isinstance(family, HistogramFamily):
                self._add_histograms(metric, family, rows)
            else:
                self._add_numbers(metric, family, rows)
        return _Written(message, sum(len(rows) for _, rows in parts))

    def _add_numbers(
        self, metric: metrics_pb2.Metric, family: NumberFamily, rows: list[int]
    ) -> None:
        shape = family.instrument.shape
        target: Any = metric.gauge
        if shape is not Shape.GAUGE:
            target = metric.sum
            target.is_monotonic = shape is Shape.COUNTER
            is_sum = shape is Shape.COUNTER
            target.aggregation_temporality = self._temporality if is_sum else CUMULATIVE
        for row in rows:
            point = family.points[row]
            made = target.data_points.add(time_unix_nano=self._now_ns)
            if point.since_ns and shape is not Shape.GAUGE:
                made.start_time_unix_nano = point.since_ns
            if isinstance(point.value, float):
                made.as_double = point.value
            else:
                made.as_int = point.value
            add_attributes(made.attributes, dict(point.attributes))

    def _add_histograms(
        self, metric: metrics_pb2.Metric, family: HistogramFamily, rows: list[int]
    ) -> None:
        columns = self._columns.get(id(family)) or _Columns(family)
        self._columns[id(family)] = columns
        kind: Any = metric.exponential_histogram if columns.scales else metric.histogram
        kind.aggregation_temporality = self._temporality
        for row in rows:
            series = family.series[row]
            point = kind.data_points.add(
                time_unix_nano=self._now_ns, start_time_unix_nano=series.since_ns
            )
            columns.fill(point, row)
            add_attributes(point.attributes, dict(series.attributes))


class _Columns:
    """A family's columns as Python's own numbers: turned over once, not per point."""

    def __init__(self, family: HistogramFamily) -> None:
        points = family.points
        self.scales = None if points.scales is None else points.scales.tolist()
        self._points = points
        self._bounds = family.instrument.bounds
        self._counts, self._sums = points.counts.tolist(), points.sums.tolist()
        self._least, self._most = points.least.tolist(), points.most.tolist()

    def fill(self, point: Any, row: int) -> None:
        point.count, point.sum = self._counts[row], self._sums[row]
        if self._least[row] == self._least[row]:  # not NaN
            point.min, point.max = self._least[row], self._most[row]
        if self.scales is not None:
            self._fill_exponential(point, row, self.scales[row])
            return
        point.explicit_bounds.extend(self._bounds)
        point.bucket_counts.extend(self._points.buckets[row].tolist())
        exemplars = self._points.exemplars
        if exemplars is not None:
            for one in exemplars[row][exemplars[row]["time_ns"] != 0]:
                point.exemplars.add(
                    time_unix_nano=int(one["time_ns"]),
                    as_double=float(one["value"]),
                    trace_id=one["trace_id"].tobytes(),
                    span_id=one["span_id"].tobytes(),
                )

    def _fill_exponential(self, point: Any, row: int, scale: int) -> None:
        assert self._points.offsets is not None
        assert self._points.zeros is not None
        point.scale, point.zero_count = scale, int(self._points.zeros[row])
        point.positive.offset = int(self._points.offsets[row])
        buckets = self._points.buckets[row]
        used = int(buckets.nonzero()[0].max(initial=-1)) + 1
        point.positive.bucket_counts.extend(buckets[:used].tolist())


def _packed(groups: Iterable[_Written], max_bytes: int) -> Iterator[EncodedRequest]:
    request, size, points = ExportMetricsServiceRequest(), 0, 0
    for group in groups:
        more = group.message.ByteSize()
        if points and size + more > max_bytes:
            yield EncodedRequest(request.SerializeToString(), points)
            request, size, points = ExportMetricsServiceRequest(), 0, 0
        request.resource_metrics.append(group.message)
        size += more
        points += group.points
    if points:
        yield EncodedRequest(request.SerializeToString(), points)


# --- differences -------------------------------------------------------------------------------

_CounterKey = tuple[str, int, Pairs]


@dataclass(slots=True)
class _Before:
    """A histogram's points at the collection before, and the row of each series in them."""

    series: Sequence[Series]  # held, so that no other gets its identity
    rows: dict[int, int]
    points: Points


@dataclass(slots=True)
class _Differences:
    """What was added between two collections."""

    _histograms: dict[str, _Before] = field(default_factory=dict)
    _counters: dict[_CounterKey, tuple[Resource, int | float]] = field(default_factory=dict)
    _last_ns: int = 0

    def of(self, collected: Collected, now_ns: int) -> list[Family]:
        last_ns, self._last_ns = self._last_ns, now_ns
        before, self._counters = self._counters, {}
        found: list[Family] = []
        for family in collected:
            if isinstance(family, HistogramFamily):
                found.append(self._of_histograms(family, last_ns))
            elif family.instrument.shape is Shape.COUNTER:
                found.append(self._of_counters(family, before, last_ns))
            else:
                found.append(family)
        return [
            one
            for one in found
            if len(one.series if isinstance(one, HistogramFamily) else one.points)
        ]

    def _of_histograms(self, family: HistogramFamily, last_ns: int) -> HistogramFamily:
        name = family.instrument.name
        before = self._histograms.get(name)
        rows = {id(series): row for row, series in enumerate(family.series)}
        self._histograms[name] = _Before(family.series, rows, family.points)
        points = family.points
        old = np.full(len(points), -1, np.intp)
        if before is not None:
            old = np.array([before.rows.get(id(one), -1) for one in family.series], np.intp)
            points = _less(points, before.points, old)
        changed = points.counts.nonzero()[0]
        series = [
            replace(family.series[row], since_ns=max(family.series[row].since_ns, last_ns))
            for row in changed.tolist()
        ]
        resources = [family.resources[row] for row in changed.tolist()]
        return HistogramFamily(family.instrument, resources, series, points.take(changed))

    def _of_counters(
        self,
        family: NumberFamily,
        before: dict[_CounterKey, tuple[Resource, int | float]],
        last_ns: int,
    ) -> NumberFamily:
        points = []
        for point in family.points:
            key = (family.instrument.name, id(point.resource), point.attributes)
            self._counters[key] = (point.resource, point.value)
            old = before[key][1] if key in before else 0
            since = max(point.since_ns, last_ns)
            points.append(replace(point, value=point.value - old, since_ns=since))
        return NumberFamily(family.instrument, points)


def _less(points: Points, before: Points, old: npt.NDArray[np.intp]) -> Points:
    """What `points` have more than the rows `old` of `before`; -1 is a row that is new."""
    rows = (old >= 0).nonzero()[0]
    olds = old[rows]
    counts, sums, buckets = points.counts.copy(), points.sums.copy(), points.buckets.copy()
    counts[rows] -= before.counts[olds]
    sums[rows] -= before.sums[olds]
    zeros = points.zeros
    if points.scales is None:
        buckets[rows] -= before.buckets[olds]
    else:
        assert points.zeros is not None
        assert before.zeros is not None
        zeros = points.zeros.copy()
        zeros[rows] -= before.zeros[olds]
        _take_exponential(buckets, points, before, rows, olds)
    exemplars = points.exemplars
    if exemplars is not None and before.exemplars is not None:
        exemplars = exemplars.copy()
        told = exemplars["time_ns"][rows] == before.exemplars["time_ns"][olds]
        exemplars["time_ns"][rows] = np.where(told, 0, exemplars["time_ns"][rows])
    # The least and the most of a part cannot be told from those of the whole.
    unknown = points.least.copy()
    unknown[rows] = np.nan
    return replace(
        points,
        counts=counts,
        sums=sums,
        least=unknown,
        most=np.where(np.isnan(unknown), np.nan, points.most),
        buckets=buckets,
        exemplars=exemplars,
        zeros=zeros,
    )


def _take_exponential(
    buckets: npt.NDArray[np.uint64],
    points: Points,
    before: Points,
    rows: npt.NDArray[np.intp],
    olds: npt.NDArray[np.intp],
) -> None:
    """Subtract what exponential histograms held when their scale may have been finer."""
    assert points.scales is not None
    assert points.offsets is not None
    assert before.scales is not None
    assert before.offsets is not None
    for row, was in zip(rows.tolist(), olds.tolist(), strict=True):
        shift = int(before.scales[was]) - int(points.scales[row])
        used = before.buckets[was].nonzero()[0]
        places = ((used + before.offsets[was]) >> shift) - points.offsets[row]
        np.subtract.at(buckets[row], places, before.buckets[was][used])
