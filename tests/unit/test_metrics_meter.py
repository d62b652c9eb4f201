"""From batches to metrics: all that is measured, whatever becomes of the spans."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from unit.records import SECOND, batch, record, resource_table
from waggle.layout import Flag, Method, Role
from waggle.metrics.instruments import DURATIONS, Kind
from waggle.metrics.meter import ExchangeMeter, MeterSettings
from waggle.metrics.points import HistogramFamily
from waggle.metrics.series import Limits
from waggle.spans import Resource

AGENT = Resource({"service.name": "waggle"})
# Stated in docs/metrics.md.
BOUND_BYTES = 128 << 20


def meter_of(**settings: object) -> ExchangeMeter:
    return ExchangeMeter(resource_table(), MeterSettings(**settings), AGENT)  # type: ignore[arg-type]


def histogram(meter: ExchangeMeter, name: str, **how: bool) -> HistogramFamily:
    found = [one for one in meter.collect(**how) if one.instrument.name == name]
    assert len(found) == 1
    assert isinstance(found[0], HistogramFamily)
    return found[0]


def test_durations_and_sizes_are_those_of_the_spans() -> None:
    """Two GETs and a failed POST of a server: count, sum and bodies by their attributes."""
    rows = [
        record(end_ns=5 * SECOND + 2_000_000, flags=Flag.RESPONSE_BODY, response_body=100),
        record(end_ns=5 * SECOND + 30_000_000, flags=Flag.RESPONSE_BODY, response_body=300),
        record(method=Method.POST, status=500, flags=Flag.REQUEST_BODY, request_body=7),
    ]
    meter = meter_of()
    meter.measure(batch(rows, table=resource_table()))
    durations = histogram(meter, "http.server.request.duration")
    by_method = {dict(s.attributes)["http.request.method"]: s for s in durations.series}
    assert dict(by_method["POST"].attributes) == {
        "http.request.method": "POST",
        "http.response.status_code": 500,
        "error.type": "500",
        "network.protocol.version": "1.1",
        "url.scheme": "http",
    }
    get = durations.series.index(by_method["GET"])
    assert durations.points.counts[get] == 2
    assert durations.points.sums[get] == pytest.approx(0.032)
    sizes = histogram(meter, "http.server.response.body.size")
    assert (sizes.points.counts.tolist(), sizes.points.sums.tolist()) == ([2], [400.0])
    sizes = histogram(meter, "http.server.request.body.size")
    assert (sizes.points.counts.tolist(), sizes.points.sums.tolist()) == ([1], [7.0])


def test_a_client_names_the_server_it_called() -> None:
    """server.address and server.port are required of clients, and not told of servers."""
    meter = meter_of()
    meter.measure(batch([record(role=Role.CLIENT)]))
    attributes = dict(histogram(meter, "http.client.request.duration").series[0].attributes)
    assert attributes["server.address"] == "shop.test"
    assert attributes["server.port"] == 8080


@pytest.mark.parametrize(
    ("which", "wanted"), [("trace_based", {1}), ("always_on", {1, 2}), ("always_off", set())]
)
def test_exemplars_are_of_sampled_traces(which: str, wanted: set[int]) -> None:
    """The last span of each bucket stands for it, by OTEL_METRICS_EXEMPLAR_FILTER."""
    rows = [
        record(trace_id=bytes([9] * 16)),
        record(trace_id=bytes([1] * 16)),
        record(trace_id=bytes([2] * 16), end_ns=6 * SECOND, trace_flags=0),
    ]
    meter = meter_of(exemplars=which)
    meter.measure(batch(rows))
    exemplars = histogram(meter, "http.server.request.duration").points.exemplars
    found = [] if exemplars is None else exemplars[exemplars["time_ns"] != 0]
    assert {one["trace_id"].tobytes()[0] for one in found} == wanted
    assert all(one["value"] in (0.002, 1.0) for one in found)


def test_both_kinds_of_histograms_at_once() -> None:
    """One reader may want explicit buckets and another exponential ones."""
    meter = meter_of(explicit=True, exponential=True)
    meter.measure(batch([record()]))
    assert histogram(meter, "http.server.request.duration").points.scales is None
    assert (
        histogram(meter, "http.server.request.duration", exponential=True).points.scales is not None
    )


def test_what_has_ended_is_forgotten_and_may_come_again() -> None:
    """Series of resources that are gone leave; the others go on counting under new numbers."""
    meter = meter_of()
    made = batch([record(status=200), record(status=201), record(status=202)], [0, 1, 2])
    for _ in range(2):
        meter.measure(made)
    meter.forget({0, 1})
    assert meter.resources() == {2}
    meter.measure(made)
    durations = histogram(meter, DURATIONS[Kind.HTTP_SERVER].name)
    counts = {
        dict(series.attributes)["http.response.status_code"]: count
        for series, count in zip(durations.series, durations.points.counts.tolist(), strict=True)
    }
    assert counts == {200: 1, 201: 1, 202: 3}


def test_every_exchange_is_in_exactly_one_series() -> None:
    """However little room there is, counts add up to what was measured."""
    meter = meter_of(limits=Limits(per_resource=3, in_all=5))
    rng = np.random.default_rng(1)
    for _ in range(5):
        rows = [record(status=int(s)) for s in rng.integers(200, 250, 100)]
        meter.measure(batch(rows, rng.integers(0, 3, 100).tolist()))
    durations = histogram(meter, "http.server.request.duration")
    assert int(durations.points.counts.sum()) == meter.stats.measured == 500
    assert meter.overflowed() > 0


PROGRAM = """
import json, resource, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from unit.records import record, resource_table
from waggle.exporter.metrics_messages import OtlpMetrics
from waggle.exporter.prometheus_text import render
from waggle.metrics.meter import ExchangeMeter, MeterSettings
from waggle.spans import Resource, SpanBatch

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

services, routes = 1000, 100_000
table = resource_table(*(f"service-{number}" for number in range(services)))
meter = ExchangeMeter(table, MeterSettings(guess_routes=True), Resource({"service.name": "agent"}))
one = record(b"/route-aaaaaa/item", status=200)
before = peak()
at = one["head"][0].tobytes().index(b"aaaaaa")
letters = np.arange(routes)[:, None] // 10 ** np.arange(6) % 10 + ord("a")
for first in range(0, 2 * routes, 4000):
    rows = np.repeat(one, 4000)
    numbers = np.arange(first, first + 4000)
    rows["head"][:, at : at + 6] = letters[numbers % routes]
    rows["status"] = 200 + numbers % 150
    rows["span_id"] = numbers.astype("<u8").view(np.uint8).reshape(-1, 8)
    meter.measure(SpanBatch(rows, (numbers * 7919 % services).astype(np.intp), table, 0))
held = peak() - before
collected = meter.collect()
counted = sum(int(f.points.counts.sum()) for f in collected
              if f.instrument.name == "http.server.request.duration")
sizes = [len(r.payload) for r in OtlpMetrics(delta=False, max_bytes=4_000_000).encode(collected, 1)]
page = sum(map(len, render(collected)))
print(json.dumps({"held": held, "grown": peak() - before, "series": meter.series(),
                  "counted": counted, "overflowed": meter.overflowed(),
                  "largest": max(sizes), "sent": sum(sizes), "page": page}))
"""


def test_a_thousand_services_and_a_hundred_thousand_routes_stay_within_the_bound() -> None:
    """With 1,000 services, 100,000 routes that are words, and 150 statuses: series within their
    bound, memory (an OTLP export and a scrape included) within what the docs say, and every one of
    200,000 exchanges counted."""
    tests = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tests)], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert told["grown"] < BOUND_BYTES, told
    assert told["series"] <= 20_000 + 4096
    assert told["counted"] == 200_000
    assert told["overflowed"] > 0
    assert told["largest"] <= 4 << 20
