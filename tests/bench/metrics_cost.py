"""What metrics cost: the agent's CPU an exchange with and without them, and a scrape."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest
from tests.peers.ports import lease_port

from waggle import layout
from waggle.exporter.encoding import OtlpEncoder
from waggle.exporter.metrics_messages import OtlpMetrics
from waggle.exporter.prometheus_text import render
from waggle.metrics.meter import ExchangeMeter, MeterSettings
from waggle.metrics.points import Collected, HistogramFamily
from waggle.spans import Records, Resource, ResourceTable, SpanBatch

from .agent_cost import Cost, measured
from .report import Table, middle, spread
from .targets import go_server, sink

RATE = 10_000
BATCH = 5_000
SERIES = 2_000
_REPEATS = 15


def bench(seconds: float, rounds: int) -> list[Table]:
    """The agent itself in turn without and with metrics; then the parts alone."""
    return [_agent(seconds, rounds), _parts(rounds)]


def _agent(seconds: float, rounds: int) -> Table:
    lease = lease_port()
    arms: dict[str, list[str]] = {
        "spans alone": [],
        "spans and metrics": [f"--prometheus=127.0.0.1:{lease.port}"],
        "and guessed routes": [f"--prometheus=127.0.0.1:{lease.port}", "--guess-routes"],
    }
    found: dict[str, list[Cost]] = {name: [] for name in arms}
    try:
        with sink() as receiver, go_server() as server:
            for _ in range(rounds):
                for name, flags in arms.items():
                    each = seconds / len(arms) / rounds
                    found[name].append(measured(server, receiver, RATE, each, flags))
    finally:
        lease.release()
    alone = [cost.cpu_us for cost in found["spans alone"]]
    rows = []
    for name, costs in found.items():
        cpu = [cost.cpu_us for cost in costs]
        more = [one - other for one, other in zip(cpu, alone, strict=True)]
        memory = f"{max(cost.last_mb for cost in costs):.0f}"
        shown = "" if name == "spans alone" else f"{middle(more)} ({spread(more)})"
        rows.append([name, f"{middle(cpu)} ({spread(cpu)})", shown, memory])
    columns = ["agent", "CPU us an exchange", "of it for metrics, round by round", "MB resident"]
    notes = [f"A Go server at {RATE:,} requests/s, OTLP by HTTP; in turn, round by round."]
    return Table("metrics", "Metrics: what the agent takes more", columns, rows, notes)


def _parts(rounds: int) -> Table:
    batch = _batch()
    meter, encoder = _meter(batch.table), OtlpEncoder()
    per_row = {
        "measure": lambda: meter.measure(batch),
        "encode as OTLP spans, for comparison": lambda: encoder.encode(batch),
    }
    times: dict[str, list[float]] = {name: [] for name in per_row}
    for _ in range(_REPEATS * rounds):
        for name, work in per_row.items():
            times[name].append(_cpu_s(work) / BATCH * 1e6)
    rows = [
        [f"{name}, {BATCH:,} exchanges a batch", f"{middle(found, 2)} us an exchange"]
        for name, found in times.items()
    ]
    collected = _many_series()
    otlp = OtlpMetrics(delta=False, max_bytes=4_000_000)
    whole: dict[str, Any] = {
        "text for Prometheus": lambda: render(collected),
        "the same by prometheus_client": lambda: _by_client(collected),
        "OTLP": lambda: list(otlp.encode(collected, 1)),
    }
    for name, work in whole.items():
        found = [_cpu_s(work) * 1e6 / SERIES for _ in range(max(3, rounds))]
        rows.append([f"{name}, {SERIES:,} histograms", f"{middle(found, 0)} us a histogram"])
    return Table("metrics-parts", "Metrics: the parts alone", ["what", "CPU"], rows, [])


def _cpu_s(work: Any) -> float:
    begun = time.thread_time_ns()
    work()
    return (time.thread_time_ns() - begun) / 1e9


def _meter(table: ResourceTable) -> ExchangeMeter:
    return ExchangeMeter(table, MeterSettings(), Resource({"service.name": "waggle"}))


def _batch() -> SpanBatch:
    """Of a server and a client in halves, each call's two ends in the batch."""
    rng = np.random.default_rng(1)
    records = _records(BATCH)
    records["end_ns"] = records["start_ns"] + rng.integers(10_000, 50_000_000, BATCH)
    half = BATCH // 2
    ids = rng.integers(1, 256, (half, 8), np.uint8)
    records["role"][:half] = layout.Role.CLIENT
    records["span_id"][:half] = records["parent_id"][half:] = ids
    table = ResourceTable()
    for name in ("front", "back"):
        table.add(Resource({"service.name": name}))
    return SpanBatch(records, (np.arange(BATCH) >= half).astype(np.intp), table, 0)


def _records(count: int) -> Records:
    target, host = b"/items/42", b"shop.test:8080"
    kept = bytes([layout.Kept.HOST, 0]) + len(host).to_bytes(2, "little") + host
    records = np.zeros(count, layout.EXCHANGE)
    head = np.frombuffer(target + kept, np.uint8)
    records["head"][:, : len(head)] = head
    records["target_len"], records["kept_len"] = len(target), len(kept)
    records["shape"], records["status"] = 7, 200
    records["role"], records["method"] = layout.Role.SERVER, layout.Method.GET
    records["protocol"], records["version"] = layout.Protocol.HTTP1, 11
    records["end"], records["trace_flags"] = layout.End.DONE, 1
    records["trace_id"][:, 0] = 1
    return records


def _many_series() -> Collected:
    """Histograms of one service for as many statuses as there may be series."""
    records = _records(SERIES - 1)
    records["status"] = 100 + np.arange(SERIES - 1)
    table = ResourceTable()
    table.add(Resource({"service.name": "front", "service.instance.id": "1"}))
    meter = _meter(table)
    for _ in range(8):  # of new ones so many are taken from a batch
        meter.measure(SpanBatch(records, np.zeros(len(records), np.intp), table, 0))
    return [one for one in meter.collect() if one.instrument.name.endswith("duration")]


class _Collector:
    def __init__(self, collected: Collected) -> None:
        self._collected = collected

    def collect(self) -> Iterator[HistogramMetricFamily]:
        for family in self._collected:
            assert isinstance(family, HistogramFamily)
            bounds = [*map(str, family.instrument.bounds), "+Inf"]
            names = [name.replace(".", "_") for name, _ in family.series[-1].attributes]
            made = HistogramMetricFamily("x", "x", labels=names)
            cumulative = family.points.buckets.cumsum(axis=1).tolist()
            for row, series in enumerate(family.series):
                values = [str(value) for _, value in series.attributes]
                values += [""] * (len(names) - len(values))
                buckets = list(zip(bounds, cumulative[row], strict=True))
                made.add_metric(values, buckets, float(family.points.sums[row]))
            yield made


def _by_client(collected: Collected) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Collector(collected))
    return bytes(generate_latest(registry))  # type: ignore[no-untyped-call]
