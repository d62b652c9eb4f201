"""Metrics of real programs: the agent, the real Collector, a scrape, and its health."""

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, ResourceMetrics
from prometheus_client.openmetrics import parser

from .agent import WAGGLE, started_agent
from .agent import environment as environment_of_agent
from .collector import Collector, started_collector
from .grpc_programs import start_grpc_client, start_grpc_server
from .harness import ensure_built, lease_port, run_client, start_server
from .test_end_to_end import Chain, started_chain, values_of
from .toolchain import GRPC_BIN, ensure_grpc_built

COUNT = 40
GRPC_CALLS = ("one", "down", "up", "both", "fail", "cancel", "deadline")
DURATION = "http.server.request.duration"
NODES = {("user", "nginx"), ("nginx", "flask_app"), ("flask_app", "stock")}
CUMULATIVE, DELTA = 2, 1


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_built()


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with started_chain() as started:
        yield started


def of(found: Sequence[ResourceMetrics], service: str, name: str) -> list[Metric]:
    """A service's metric, of each collection; of several processes of it, of each process."""
    return [
        metric
        for group in found
        if values_of(group.resource.attributes)["service.name"] == service
        for scope in group.scope_metrics
        for metric in scope.metrics
        if metric.name == name
    ]


def points_of(metric: Metric) -> Any:
    return getattr(metric, metric.WhichOneof("data") or "").data_points


def counted(found: Sequence[ResourceMetrics], service: str, *, delta: bool = False) -> int:
    """Requests that a service has served. Cumulative: the last of each of its processes."""
    last: dict[str, int] = {}
    for group in found:
        attributes = values_of(group.resource.attributes)
        metrics = of([group], service, DURATION)
        if metrics:
            process = str(attributes["service.instance.id"])
            count = sum(point.count for metric in metrics for point in points_of(metric))
            last[process] = count + (last.get(process, 0) if delta else 0)
    return sum(last.values())


def environment(collector: Collector, protocol: str) -> dict[str, str]:
    endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.http_endpoint
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
    }


@pytest.mark.parametrize(
    ("protocol", "preference", "aggregation"),
    [
        ("http/protobuf", "cumulative", "explicit_bucket_histogram"),
        ("grpc", "delta", "explicit_bucket_histogram"),
        ("http/json", "delta", "base2_exponential_bucket_histogram"),
    ],
)
def test_the_collector_gets_what_was_served(
    protocol: str, preference: str, aggregation: str, chain: Chain, tmp_path: Path
) -> None:
    """By each form of OTLP, cumulative and delta, explicit and exponential: each service's
    requests, exactly as many as were made; who called whom; CPU, memory; and the agent's own."""
    with started_collector(tmp_path) as collector:
        variables = environment(collector, protocol) | {
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": preference,
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": aggregation,
        }
        pids = [chain.front.pid, chain.middle.pid, chain.back.pid]
        with started_agent(pids=pids, env=variables, json_lines=False) as agent:
            run_client("go", chain.front.base_url, COUNT, path=chain.path)
            is_delta = preference == "delta"
            services = ("nginx", "flask_app", "stock")
            collector.wait_for_metrics(
                lambda found: all(counted(found, one, delta=is_delta) >= COUNT for one in services)
            )
            ended = agent.stop()
        found, spans = collector.metrics(), collector.spans()
    assert (ended.code, ended.lost) == (0, [])
    assert {one: counted(found, one, delta=is_delta) for one in services} == dict.fromkeys(
        services, COUNT
    )
    is_exponential = aggregation.startswith("base2")
    for metric in of(found, "stock", DURATION):
        kind = metric.exponential_histogram if is_exponential else metric.histogram
        assert kind.aggregation_temporality == (DELTA if is_delta else CUMULATIVE)
        assert metric.unit == "s"
        for point in kind.data_points:
            assert values_of(point.attributes) == {
                "http.request.method": "GET",
                "http.route": "/n/{n}",
                "http.response.status_code": 200,
                "network.protocol.version": "1.1",
                "url.scheme": "http",
            }
    assert edges_of(found, is_delta=is_delta) == dict.fromkeys(NODES, COUNT)
    if not is_exponential:
        traces = {span.trace_id for span in spans}
        exemplars = {
            exemplar.trace_id
            for metric in of(found, "nginx", DURATION)
            for point in metric.histogram.data_points
            for exemplar in point.exemplars
        }
        assert exemplars
        assert exemplars <= traces
    memory = [
        p.as_int for m in of(found, "flask_app", "process.memory.usage") for p in points_of(m)
    ]
    assert all(1 << 20 < held < 1 << 30 for held in memory)
    for service in (*services, "waggle"):
        used = [p.as_double for m in of(found, service, "process.cpu.time") for p in points_of(m)]
        assert used, service
    assert of(found, "waggle", "waggle.queue.size")


def edges_of(found: Sequence[ResourceMetrics], *, is_delta: bool) -> dict[tuple[str, str], int]:
    totals: dict[tuple[str, str], int] = {}
    for metric in of(found, "waggle", "traces_service_graph_request_total"):
        for point in points_of(metric):
            told = values_of(point.attributes)
            edge = str(told["client"]), str(told["server"])
            totals[edge] = point.as_int + (totals.get(edge, 0) if is_delta else 0)
    return totals


@pytest.mark.parametrize("sampler", ["parentbased_always_on", "always_off"])
def test_what_is_not_sampled_is_counted(sampler: str, tmp_path: Path) -> None:
    """Requests whose traceparent says not to sample, or all of them by OTEL_TRACES_SAMPLER, make
    no span, and are in every metric; no exemplar tells of a trace that nobody has."""
    with started_collector(tmp_path) as collector, start_server("go-nethttp") as server:
        variables = environment(collector, "http/protobuf") | {"OTEL_TRACES_SAMPLER": sampler}
        with started_agent(pids=[server.pid], env=variables, json_lines=False) as agent:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            for number in range(COUNT):
                trace = f"{number + 1:032x}-{number + 1:016x}"
                flags = "01" if sampler == "always_off" else "00"
                headers = {"traceparent": f"00-{trace}-{flags}"}
                connection.request("GET", f"/n/{number}", headers=headers)
                connection.getresponse().read()
            connection.close()
            collector.wait_for_metrics(lambda found: counted_anywhere(found) >= COUNT)
            ended = agent.stop()
        found, spans = collector.metrics(), collector.spans()
    assert (ended.code, ended.lost) == (0, [])
    assert spans == []
    assert counted_anywhere(found) == COUNT
    for group in found:
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                assert not any(point.exemplars for point in metric.histogram.data_points)


def counted_anywhere(found: Sequence[ResourceMetrics]) -> int:
    return max((counted(found, str(name), delta=False) for name in services_of(found)), default=0)


def services_of(found: Sequence[ResourceMetrics]) -> set[str | int]:
    return {values_of(group.resource.attributes)["service.name"] for group in found}


def test_a_scrape_tells_what_was_served_and_what_is_being_served(chain: Chain) -> None:
    """--prometheus: requests by job with exemplars, requests that are open right now, what the
    BPF programs cost where that was asked for; with --health on the same port."""
    with leased_port() as port, start_server("go-nethttp") as slow:
        flags = [f"--prometheus=127.0.0.1:{port}", f"--health=127.0.0.1:{port}"]
        pids = [chain.back.pid, slow.pid]
        with started_agent(*flags, "--probe-stats", pids=pids) as agent:
            run_client("go", chain.back.base_url, COUNT)
            agent.wait_for(lambda spans: len(spans) >= COUNT)
            with closing(http.client.HTTPConnection("127.0.0.1", slow.port, timeout=30)) as waiting:
                waiting.request("GET", "/slow/1?ms=30000")
                open_now = wait_for_open(port)
            page = scrape(port)
            status, health = get(port, "/readyz")
            ended = agent.stop()
    assert ended.code == 0
    assert open_now == 1
    durations = page["http_server_request_duration_seconds"].samples
    counts = [s for s in durations if s.name.endswith("_count") and s.labels["job"] == "stock"]
    assert [s.value for s in counts] == [COUNT]
    told = {s.exemplar.labels["trace_id"] for s in durations if s.exemplar}
    assert told
    assert told <= {span.trace_id for span in ended.spans}
    runs = {s.labels["waggle_probe"]: s.value for s in page["waggle_probe_runs"].samples}
    assert runs["socket_receive"] >= COUNT
    assert (status, json.loads(health)["status"]) == (200, "ok")


def test_calls_of_grpc_are_counted_by_method_and_status() -> None:
    """Of both sides, of every kind of call and each way one can end: as many as there are spans of
    that method and status, and their durations' sum; a client's with the server it called."""
    ensure_grpc_built()
    with leased_port() as port, start_grpc_server("grpc-go") as server:
        flags = [f"--prometheus=127.0.0.1:{port}", f"--exe={GRPC_BIN / 'client'}"]
        with started_agent(*flags, pids=[server.program.pid]) as agent:
            with start_grpc_client("grpc-go", server.address, 70, 4, calls=GRPC_CALLS) as client:
                client.finish()
                agent.wait_for(lambda spans: len(spans) >= 140)
            page = scrape(port)
            ended = agent.stop()
    for kind in ("server", "client"):
        told = {
            sample.name.rpartition("_")[2]: {
                (one.labels["rpc_method"], one.labels["rpc_response_status_code"]): one.value
                for one in page[f"rpc_{kind}_call_duration_seconds"].samples
                if one.name == sample.name
            }
            for sample in page[f"rpc_{kind}_call_duration_seconds"].samples
            if not sample.name.endswith("_bucket")
        }
        counts: Counter[tuple[str, str]] = Counter()
        sums: Counter[tuple[str, str]] = Counter()
        for span in ended.spans:
            if span.kind == kind:
                key = span.attributes["rpc.method"], span.attributes["rpc.response.status_code"]
                counts[key] += 1
                sums[key] += (span.end_ns - span.start_ns) / 1e9  # type: ignore[assignment]
        assert told["count"] == counts
        assert told["sum"] == pytest.approx(dict(sums))
        assert len(counts) >= 5
    clients = page["rpc_client_call_duration_seconds"].samples
    assert {one.labels["server_port"] for one in clients} == {server.address.rpartition(":")[2]}


@contextmanager
def leased_port() -> Iterator[int]:
    lease = lease_port()
    try:
        yield lease.port
    finally:
        lease.release()


def wait_for_open(port: int) -> float:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        family = scrape(port).get("http_server_active_requests")
        values = [s.value for s in family.samples if s.value] if family else []
        if values:
            return float(values[0])
        time.sleep(0.1)
    return 0.0


def scrape(port: int) -> dict[str, Any]:
    status, body = get(port, "/metrics", {"Accept": "application/openmetrics-text"})
    assert status == 200
    families = parser.text_string_to_metric_families(body.decode())  # type: ignore[no-untyped-call]
    return {family.name: family for family in families}


def get(port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_the_health_endpoint_tells_the_truth(tmp_path: Path) -> None:
    """Alive all along; ready while spans are delivered; not ready, with the reason, while nobody
    takes them, and while a queue is full; ready again when the Collector is back; and the exit
    code of a run that lost spans, all of them counted, is 0."""
    with (
        leased_port() as port,
        start_server("go-nethttp") as server,
        started_collector(tmp_path) as collector,
    ):
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_BSP_MAX_QUEUE_SIZE": "20",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "5",
        }
        flags = [f"--health=127.0.0.1:{port}"]
        with started_agent(*flags, pids=[server.pid], env=variables, json_lines=False) as agent:
            run_client("go", server.base_url, 10)
            collector.wait_for_spans(10)
            assert wait_for_ready(port, 200)["checks"]["exporter otlp"]["detail"] == "delivering"
            collector.stop()
            run_client("go", server.base_url, 100)
            told = wait_for_ready(port, 503, lambda checks: not checks["queue otlp"]["ok"])
            checks = told["checks"]
            assert "connection refused" in checks["exporter otlp"]["detail"]
            assert "lost so far" in checks["queue otlp"]["detail"]
            assert checks["capture"]["ok"]
            assert get(port, "/healthz")[0] == 200
            collector.start()
            wait_for_ready(port, 503, lambda checks: checks["exporter otlp"]["ok"])
            ended = agent.stop()
        delivered = len(collector.spans())
    (lost,) = ended.losses
    assert ended.code == 0
    assert delivered + int(lost.split()[0]) == 110


def wait_for_ready(port: int, wanted: int, like: Any = lambda checks: True) -> Any:
    """What /readyz tells, once it answers so and its checks are like that."""
    deadline = time.monotonic() + 60
    while True:
        status, body = get(port, "/readyz")
        told = json.loads(body)
        if status == wanted and like(told["checks"]):
            return told
        assert time.monotonic() < deadline, told
        time.sleep(0.1)


@pytest.mark.parametrize("flag", ["--health", "--prometheus"])
def test_an_address_that_is_taken_is_a_usage_error(flag: str) -> None:
    """The run ends at once with 2 and names the address and the way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [WAGGLE, "run", "--quiet", flag, address, "--pid", str(os.getpid())],
            capture_output=True,
            text=True,
            timeout=120,
            env=environment_of_agent(),
        )
    assert done.returncode == 2
    assert f"{flag} {address}: cannot listen there (address already in use)" in done.stderr


def test_metrics_on_the_terminal() -> None:
    """OTEL_METRICS_EXPORTER=console prints them on stdout, also those of the last moment."""
    with start_server("go-nethttp") as server:
        variables = {"OTEL_METRICS_EXPORTER": "console"}
        flags = ["--quiet"]
        with started_agent(*flags, pids=[server.pid], env=variables, json_lines=False) as agent:
            run_client("go", server.base_url, COUNT)
            agent.process.send_signal(signal.SIGINT)
            assert agent.wait_for_end() == 0
            text = agent.stdout.read_text()
    counts = [line for line in text.splitlines() if "request_duration_seconds_count{" in line]
    assert sum(int(line.rpartition(" ")[2]) for line in counts) == COUNT
