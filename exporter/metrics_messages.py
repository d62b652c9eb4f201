"""Collected metrics as OTLP requests, cumulative or as what was added since the last time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
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
from waggle.metrics.instruments import Instrument, Shape
from waggle.metrics.points import (
    Collected,
    Family,
    HistogramFamily,
    NumberFamily,
    NumberPoint,
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

    def encode(self, collected: Collected, now_ns: int) -> list[EncodedRequest]:
        """now_ns: Unix time of the collection."""
        families: Iterable[Family] = collected
        if self._differences is not None:
            families = self._differences.of(collected, now_ns)
        by_resource = _ByResource(self._temporality, now_ns)
        for family in families:
            by_resource.add(family)
        return list(_packed(by_resource.groups.values(), self._max_bytes))


@dataclass(slots=True)
class _Group:
    """One resource's metrics. points: how many data points."""

    message: metrics_pb2.ResourceMetrics
    points: int = 0


class _ByResource:
    """Messages by resource; a resource is the same when it is the same object."""

    def __init__(
        self, temporality: "metrics_pb2.AggregationTemporality.ValueType", now_ns: int
    ) -> None:
        self.groups: dict[int, _Group] = {}
        self._temporality = temporality
        self._now_ns = now_ns

    def add(self, family: Family) -> None:
        if isinstance(family, HistogramFamily):
            self._add_histograms(family)
        else:
            self._add_numbers(family)

    def _add_numbers(self, family: NumberFamily) -> None:
        shape = family.instrument.shape
        points = sorted(family.points, key=lambda point: id(point.resource))
        for _, some in groupby(points, key=lambda point: id(point.resource)):
            these = list(some)
            metric = self._metric(these[0].resource, family.instrument, len(these))
            if shape is Shape.GAUGE:
                target: Any = metric.gauge.data_points
            else:
                is_up_down = shape is Shape.UP_DOWN
                metric.sum.is_monotonic = not is_up_down
                metric.sum.aggregation_temporality = CUMULATIVE if is_up_down else self._temporality
                target = metric.sum.data_points
            for point in these:
                self._add_number(target, point, timed=shape is not Shape.GAUGE)

    def _add_number(self, target: Any, point: NumberPoint, *, timed: bool) -> None:
        made = target.add(time_unix_nano=self._now_ns)
        if timed and point.since_ns:
            made.start_time_unix_nano = point.since_ns
        if isinstance(point.value, float):
            made.as_double = point.value
        else:
            made.as_int = point.value
        add_attributes(made.attributes, dict(point.attributes))

    def _add_histograms(self, family: HistogramFamily) -> None:
        order = sorted(range(len(family.series)), key=lambda row: id(family.resources[row]))
        columns = _Columns(family)
        for _, rows in groupby(order, key=lambda row: id(family.resources[row])):
            these = list(rows)
            metric = self._metric(family.resources[these[0]], family.instrument, len(these))
            kind = metric.exponential_histogram if columns.scales else metric.histogram
            kind.aggregation_temporality = self._temporality
            for row in these:
                point = kind.data_points.add(
                    time_unix_nano=self._now_ns,
                    start_time_unix_nano=family.series[row].since_ns,
                )
                columns.fill(point, row)
                add_attributes(point.attributes, dict(family.series[row].attributes))

    def _metric(
        self, resource: Resource, instrument: Instrument, points: int
    ) -> metrics_pb2.Metric:
        group = self.groups.get(id(resource))
        if group is None:
            message = metrics_pb2.ResourceMetrics(
                resource=resource_message(resource), schema_url=SCHEMA_URL
            )
            message.scope_metrics.add(scope=scope_message(), schema_url=SCHEMA_URL)
            group = self.groups[id(resource)] = _Group(message)
        group.points += points
        return group.message.scope_metrics[0].metrics.add(
            name=instrument.name, unit=instrument.unit, description=instrument.description
        )


class _Columns:
    """A family's columns as Python's own numbers: turned over once, not per point."""

    def __init__(self, family: HistogramFamily) -> None:
        points = family.points
        self.scales = None if points.scales is None else points.scales.tolist()
        self._points = points
        self._bounds = family.instrument.bounds
        self._counts, self._sums = points.counts.tolist(), points.sums.tolist()
        self._least, self._most = points.least.tolist(), points.most.tolist()
        self._buckets = points.buckets.tolist()

    def fill(self, point: Any, row: int) -> None:
        point.count, point.sum = self._counts[row], self._sums[row]
        if self._least[row] == self._least[row]:  # not NaN
            point.min, point.max = self._least[row], self._most[row]
        if self.scales is not None:
            self._fill_exponential(point, row, self.scales[row])
            return
        point.explicit_bounds.extend(self._bounds)
        point.bucket_counts.extend(self._buckets[row])
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
        point.positive.bucket_counts.extend(self._buckets[row][:used])


def _packed(groups: Iterable[_Group], max_bytes: int) -> Iterator[EncodedRequest]:
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
