"""A real chain of services, the agent, and the real Jaeger, asked by its own API."""

from collections import Counter
from pathlib import Path

import pytest

from .agent import started_agent
from .backends import edges
from .harness import ensure_built, run_client
from .jaeger import started_jaeger
from .test_end_to_end import started_chain

pytestmark = pytest.mark.backends
COUNT = 30


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_built()


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json", "grpc"])
def test_jaeger_holds_each_trace_and_who_calls_whom(protocol: str, tmp_path: Path) -> None:
    """By each form of OTLP Jaeger gets services, operations, each request of a chain as one
    trace with its references, processes and tags, and the dependencies."""
    with started_jaeger(tmp_path) as jaeger, started_chain() as chain:
        port = jaeger.grpc_port if protocol == "grpc" else jaeger.http_port
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        pids = [chain.front.pid, chain.middle.pid, chain.back.pid]
        with started_agent(pids=pids, env=environment, json_lines=False) as agent:
            run_client("go", chain.front.base_url, COUNT, path=chain.path)
            ended = agent.stop()
        traces = jaeger.traces("nginx", COUNT)
        one = jaeger.trace(traces[0]["traceID"])
        services = jaeger.services()
        operations = {service: jaeger.operations(service) for service in services}
        # In memory it counts a service's calls under its own requests as well.
        dependencies = {
            edge: calls for edge, calls in edges(jaeger.dependencies()).items() if len({*edge}) == 2
        }
    assert (ended.code, ended.lost) == (0, [])
    assert services == {"nginx", "flask_app", "stock"}
    assert operations["nginx"] == operations["flask_app"] == {("GET", "server"), ("GET", "client")}
    assert operations["stock"] == {("GET /n/{n}", "server")}  # by Go's ServeMux
    assert len(traces) == COUNT
    for trace in traces:
        names = {key: value["serviceName"] for key, value in trace["processes"].items()}
        assert Counter(names[span["processID"]] for span in trace["spans"]) == Counter(
            nginx=2, flask_app=2, stock=1
        )
        parents = [_parent(span) for span in trace["spans"]]
        assert parents.count("") == 1
        assert len(set(parents)) == 5
        assert not any(span["warnings"] for span in trace["spans"])
    tags = {tag["key"]: tag["value"] for tag in one["spans"][0]["tags"]}
    assert tags["http.request.method"] == "GET"
    assert tags["http.response.status_code"] == 200
    assert dependencies == {("nginx", "flask_app"): COUNT, ("flask_app", "stock"): COUNT}


def _parent(span: dict[str, list[dict[str, str]]]) -> str:
    return next((r["spanID"] for r in span["references"] if r["refType"] == "CHILD_OF"), "")
