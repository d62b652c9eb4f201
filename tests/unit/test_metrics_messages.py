"""Metrics as OTLP: cumulative, or what was added since the last time."""

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1 import metrics_pb2

from unit.records import SECOND, batch, record, resource_table
from waggle.exporter.metrics_json import translate
from waggle.exporter.metrics_messages import CUMULATIVE, DELTA, OtlpMetrics
from waggle.exporter.requests import EncodedRequest
from waggle.layout import Flag
from waggle.metrics.histograms import MAX_SCALE
from waggle.metrics.instruments import PROCESS_CPU, PROCESS_MEMORY
from waggle.metrics.meter import ExchangeMeter, MeterSettings
from waggle.metrics.points import Collected, NumberFamily, NumberPoint
from waggle.spans import Resource

NAME = "http.server.request.duration"
ONE = Resource({"service.name": "one"})


def metrics(requests: Iterable[EncodedRequest]) -> dict[str, list[metrics_pb2.Metric]]:
    found: dict[str, list[metrics_pb2.Metric]] = {}
    for request in requests:
        for group in ExportMetricsServiceRequest.FromString(request.payload).resource_metrics:
            for metric in group.scope_metrics[0].metrics:
                found.setdefault(metric.name, []).append(metric)
    return found


def meter_with(exponential: bool) -> ExchangeMeter:
    table = resource_table()
    settings = MeterSettings(explicit=not exponential, exponential=exponential)
    return ExchangeMeter(table, settings, Resource({"service.name": "waggle"}))


@pytest.mark.parametrize("exponential", [False, True])
def test_deltas_add_up_to_what_is_cumulative(exponential: bool) -> None:
    """Over collections in which values spread (and a scale goes down), each bucket's deltas sum
    to the cumulative bucket, intervals follow each other, and nothing new is not sent."""
    rng = np.random.default_rng(7)
    meter = meter_with(exponential)
    delta = OtlpMetrics(delta=True, max_bytes=1 << 20)
    whole = OtlpMetrics(delta=False, max_bytes=1 << 20)
    sums: Counter[int] = Counter()  # of buckets, by index at `scale`
    scale, count, total = MAX_SCALE, 0, 0.0
    scales = [scale]
    ends: list[tuple[int, int]] = []
    for step in range(1, 6):
        rows = [
            record(end_ns=5 * SECOND + int(took))
            for took in rng.lognormal(15, step, 50).clip(1, 1e12)
        ]
        meter.measure(batch(rows))
        now_ns = 1000 * step + 1_800_000_000 * SECOND
        (metric,) = metrics(delta.encode(meter.collect(exponential=exponential), now_ns))[NAME]
        point = point_of(metric, DELTA)
        count, total = count + point.count, total + point.sum
        ends.append((point.start_time_unix_nano, point.time_unix_nano))
        added, finer, scale = buckets(point), sums, min(scale, scale_of(point))
        sums = Counter(added)
        for index, number in finer.items():
            sums[index >> (scales[-1] - scale if exponential else 0)] += number
        scales.append(scale)
    (metric,) = metrics(whole.encode(meter.collect(exponential=exponential), 1))[NAME]
    point = point_of(metric, CUMULATIVE)
    assert (count, point.count) == (250, 250)
    assert total == pytest.approx(point.sum)
    assert sums == buckets(point)
    assert all(before[1] == after[0] for before, after in pairwise(ends))
    assert not exponential or scales[-1] < scales[1]
    left = metrics(delta.encode(meter.collect(exponential=exponential), 2_000_000_000 * SECOND))
    assert NAME not in left


Point = metrics_pb2.HistogramDataPoint | metrics_pb2.ExponentialHistogramDataPoint


def point_of(metric: metrics_pb2.Metric, temporality: int) -> Point:
    kind = metric.histogram if metric.HasField("histogram") else metric.exponential_histogram
    assert kind.aggregation_temporality == temporality
    assert len(kind.data_points) == 1
    return kind.data_points[0]


def scale_of(point: Point) -> int:
    return point.scale if isinstance(point, metrics_pb2.ExponentialHistogramDataPoint) else 0


def buckets(point: Point) -> Counter[int]:
    """Counts by index, those that are not 0."""
    if isinstance(point, metrics_pb2.ExponentialHistogramDataPoint):
        numbered = enumerate(point.positive.bucket_counts, point.positive.offset)
    else:
        numbered = enumerate(point.bucket_counts)
    return Counter({index: number for index, number in numbered if number})


def test_counters_have_deltas_and_what_goes_up_and_down_has_not() -> None:
    """CPU time: what was spent since; memory: what is held, cumulative as the SDKs have it."""
    delta = OtlpMetrics(delta=True, max_bytes=1 << 20)

    def collected(cpu: float, memory: int) -> Collected:
        return [
            NumberFamily(PROCESS_CPU, [NumberPoint(ONE, (("cpu.mode", "user"),), cpu, 5)]),
            NumberFamily(PROCESS_MEMORY, [NumberPoint(ONE, (), memory, 5)]),
        ]

    told = []
    for now_ns, cpu, memory in ((10, 1.5, 100), (20, 4.0, 90)):
        found = metrics(delta.encode(collected(cpu, memory), now_ns))
        used, held = found["process.cpu.time"][0].sum, found["process.memory.usage"][0].sum
        assert (used.aggregation_temporality, used.is_monotonic) == (DELTA, True)
        assert (held.aggregation_temporality, held.is_monotonic) == (CUMULATIVE, False)
        point = used.data_points[0]
        told.append((point.start_time_unix_nano, point.as_double, held.data_points[0].as_int))
    assert told == [(5, 1.5, 100), (10, 2.5, 90)]


def test_requests_are_within_their_bound() -> None:
    """Many resources are spread over requests; all points arrive and are counted."""
    families: Collected = [
        NumberFamily(
            PROCESS_MEMORY,
            [NumberPoint(Resource({"service.name": f"s{n}"}), (), n, 1) for n in range(500)],
        )
    ]
    requests = list(OtlpMetrics(delta=False, max_bytes=10_000).encode(families, 1))
    assert max(len(request.payload) for request in requests) <= 10_000
    assert sum(request.spans for request in requests) == 500
    points = [m.sum.data_points[0].as_int for m in metrics(requests)["process.memory.usage"]]
    assert sorted(points) == list(range(500))


def test_json_has_ids_in_hex_and_numbers_as_strings() -> None:
    """As OTLP's JSON wants it: enums are integers, 64-bit integers strings."""
    meter = meter_with(False)
    meter.measure(batch([record(flags=Flag.RESPONSE_BODY)]))
    (request,) = OtlpMetrics(delta=False, max_bytes=1 << 20).encode(meter.collect(), 1)
    data = json.loads(translate(request.payload))
    (metric,) = [
        metric
        for group in data["resourceMetrics"]
        for metric in group["scopeMetrics"][0]["metrics"]
        if metric["name"] == NAME
    ]
    assert metric["histogram"]["aggregationTemporality"] == 2
    (point,) = metric["histogram"]["dataPoints"]
    assert point["count"] == "1"
    assert point["exemplars"][0]["traceId"] == bytes(range(1, 17)).hex()
    assert point["exemplars"][0]["spanId"] == bytes(range(0x21, 0x29)).hex()
