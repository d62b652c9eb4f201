"""Text for Prometheus, read by the official client's own parsers."""

from collections.abc import Iterator

import numpy as np
from prometheus_client import parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as open_parser

from unit.records import NO_PARENT, SECOND, batch, record, resource_table
from waggle.exporter.prometheus_text import OPEN_METRICS, PLAIN, content_type, render
from waggle.layout import Flag
from waggle.metrics.instruments import (
    GRAPH_TOTAL,
    PROCESS_CPU,
    PROCESS_MEMORY,
    Instrument,
    Shape,
)
from waggle.metrics.meter import ExchangeMeter, MeterSettings
from waggle.metrics.points import Collected, NumberFamily, NumberPoint
from waggle.spans import Resource

NASTY = 'a"b\\c\nd'


def collected() -> Collected:
    table = resource_table()
    meter = ExchangeMeter(table, MeterSettings(), Resource({"service.name": "waggle"}))
    rows = [
        record(
            trace_id=bytes([1] * 16),
            parent_id=NO_PARENT,
            flags=Flag.RESPONSE_BODY,
            response_body=10,
        ),
        record(trace_id=bytes([2] * 16), end_ns=8 * SECOND),
    ]
    meter.measure(batch(rows, table=table))
    one = Resource(
        {
            "service.name": "pay",
            "service.namespace": "shop",
            "service.instance.id": "i1",
            "process.command": NASTY,
            "9.lives": ["x", "y"],
        }
    )
    cpu = [NumberPoint(one, (("cpu.mode", "user"),), 1.5, 1)]
    memory = [NumberPoint(one, (("strange", NASTY), ("a.b", 1), ("a_b", True)), 4096, 1)]
    return [
        *meter.collect(),
        NumberFamily(PROCESS_CPU, cpu),
        NumberFamily(PROCESS_MEMORY, memory),
        NumberFamily(PROCESS_CPU, [NumberPoint(Resource({"service.name": "b"}), (), 2.5, 1)]),
        NumberFamily(Instrument("waggle.x", "{thing}", NASTY, Shape.GAUGE), memory),
    ]


def families(form: str) -> dict[str, Metric]:
    text = b"".join(render(collected(), form)).decode()
    parse = open_parser.text_string_to_metric_families
    if form == PLAIN:
        parse = parser.text_string_to_metric_families
    found: Iterator[Metric] = parse(text)  # type: ignore[no-untyped-call]
    return {family.name: family for family in found}


def test_open_metrics_is_what_its_parser_takes() -> None:
    """Names with units, counters with _total, labels escaped and joined, target_info, # EOF."""
    found = families(OPEN_METRICS)
    cpu = found["process_cpu_time_seconds"]
    assert (cpu.type, cpu.unit) == ("counter", "seconds")
    sample, other = cpu.samples
    assert (other.labels["job"], other.value) == ("b", 2.5)
    assert (sample.name, sample.value) == ("process_cpu_time_seconds_total", 1.5)
    assert sample.labels["job"] == "shop/pay"
    assert sample.labels["instance"] == "i1"
    assert sample.labels["cpu_mode"] == "user"
    assert sample.labels["otel_scope_name"] == "waggle"
    (sample,) = found["process_memory_usage_bytes"].samples
    assert (sample.labels["strange"], sample.labels["a_b"]) == (NASTY, "1;true")
    assert found["waggle_x"].type == "gauge"
    assert GRAPH_TOTAL.name.removesuffix("_total") in found
    about = [s.labels for s in found["target"].samples if s.labels["job"] == "shop/pay"]
    assert [(one["process_command"], one["_9_lives"]) for one in about] == [(NASTY, "x,y")]


def test_histograms_add_up_and_have_exemplars() -> None:
    """Buckets are cumulative up to +Inf, which is the count; each has its last trace."""
    samples = families(OPEN_METRICS)["http_server_request_duration_seconds"].samples
    buckets = [s for s in samples if s.name.endswith("_bucket")]
    values = [s.value for s in buckets]
    assert values == sorted(values)
    assert [s.value for s in samples if s.name.endswith("_count")] == [values[-1]] == [2.0]
    assert [s.value for s in samples if s.name.endswith("_sum")] == [3.002]
    exemplars = {s.labels["le"]: s.exemplar for s in buckets if s.exemplar is not None}
    assert {le: one.labels["trace_id"] for le, one in exemplars.items()} == {
        "0.005": "01" * 16,
        "5.0": "02" * 16,
    }
    assert exemplars["5.0"].value == 3.0


def test_the_older_format_has_the_same_values() -> None:
    """Without exemplars, units and infos, which it has not."""
    found = families(PLAIN)
    assert found["process_cpu_time_seconds"].samples[0].value == 1.5
    count = [
        s.value
        for s in found["http_server_request_duration_seconds"].samples
        if s.name.endswith("_count")
    ]
    assert count == [2.0]
    assert found["target_info"].type == "gauge"


def test_who_asks_for_open_metrics_gets_it() -> None:
    """Prometheus asks for several forms, by weight; everybody else gets the older one."""
    asked = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
    assert content_type(asked) == OPEN_METRICS
    assert content_type("*/*") == content_type("") == PLAIN


def test_numbers_are_whole() -> None:
    """No numpy in the text."""
    assert b"np." not in b"".join(render(collected()))
    assert np.float64(1.5) == 1.5
