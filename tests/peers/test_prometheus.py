"""A real chain of services, the agent, and the real Prometheus: scraping, and taking OTLP."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .agent import Agent, started_agent
from .harness import ensure_built, lease_port, run_client
from .prometheus import Prometheus, started_prometheus
from .test_end_to_end import Chain, started_chain

pytestmark = pytest.mark.backends
COUNT = 40
SERVICES = ("nginx", "flask_app", "stock")
EDGES = (("user", "nginx"), ("nginx", "flask_app"), ("flask_app", "stock"))
DURATION = "http_server_request_duration_seconds"


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_built()


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with started_chain() as started:
        yield started


@contextmanager
def agent_of(chain: Chain, *flags: str, **variables: str) -> Iterator[Agent]:
    pids = [chain.front.pid, chain.middle.pid, chain.back.pid]
    with started_agent(*flags, pids=pids, env=variables) as agent:
        yield agent


def graph(prometheus: Prometheus) -> dict[tuple[str, str], float]:
    """What Grafana's service map asks for."""
    found = prometheus.query("sum by (client, server) (traces_service_graph_request_total)")
    return {(labels["client"], labels["server"]): value for labels, value in found}


def test_prometheus_scrapes_what_was_served_with_exemplars(chain: Chain, tmp_path: Path) -> None:
    """By job and instance: counts, quantiles, bodies, CPU and memory; the service graph; and
    exemplars that are traces which were exported."""
    lease = lease_port()
    try:
        with (
            agent_of(chain, f"--prometheus=127.0.0.1:{lease.port}") as agent,
            started_prometheus(tmp_path, lease.port) as prometheus,
        ):
            run_client("go", chain.front.base_url, COUNT, path=chain.path)
            for service in SERVICES:
                count = f'sum({DURATION}_count{{job="{service}"}})'
                assert prometheus.wait_for(count, lambda value: value >= COUNT) == COUNT
            assert prometheus.value("up") == 1
            quantile = f"histogram_quantile(0.99, sum by (le) ({DURATION}_bucket))"
            assert 0 < prometheus.value(quantile) < 60
            found = graph(prometheus)
            exemplars = prometheus.exemplars(f'{DURATION}_bucket{{job="nginx"}}')
            memory = prometheus.query('process_memory_usage_bytes{job="stock"}')
            about = prometheus.query('target_info{job="stock"}')
            losses = prometheus.query("waggle_losses_total > 0")
            ended = agent.stop()
    finally:
        lease.release()
    assert (ended.code, ended.lost) == (0, [])
    assert found == dict.fromkeys(EDGES, COUNT)
    assert exemplars
    traces = {span.trace_id for span in ended.spans}
    assert {one["labels"]["trace_id"] for one in exemplars} <= traces
    assert [1 << 20 < value < 1 << 30 for _, value in memory] == [True]
    assert [labels["service_version"] for labels, _ in about] == ["1.2"]
    assert losses == []


@pytest.mark.parametrize(
    ("aggregation", "count"),
    [
        ("explicit_bucket_histogram", f'sum({DURATION}_count{{job="%s"}})'),
        # A native histogram there.
        ("base2_exponential_bucket_histogram", f'sum(histogram_count({DURATION}{{job="%s"}}))'),
    ],
)
def test_prometheus_takes_otlp(aggregation: str, count: str, chain: Chain, tmp_path: Path) -> None:
    """Its OTLP receiver gets the same under the same names, exponential histograms as native
    ones."""
    with started_prometheus(tmp_path) as prometheus:
        variables = {
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": prometheus.otlp_endpoint,
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": aggregation,
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
        }
        with agent_of(chain, **variables) as agent:
            run_client("go", chain.front.base_url, COUNT, path=chain.path)
            for service in SERVICES:
                told = prometheus.wait_for(count % service, lambda value: value >= COUNT)
                assert told == COUNT
            prometheus.wait_for(
                'sum(traces_service_graph_request_total{server="stock"})',
                lambda value: value >= COUNT,
            )
            ended = agent.stop()
        found = graph(prometheus)
    assert (ended.code, ended.lost) == (0, [])
    assert found == dict.fromkeys(EDGES, COUNT)
