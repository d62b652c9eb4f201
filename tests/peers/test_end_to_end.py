"""The whole way: three services, the agent, and the real Collector with its file exporter."""

import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from .agent import Agent, started_agent
from .collector import Collector, started_collector
from .harness import Server, ensure_built, run_client, start_client, start_server

PROTOCOLS = ("http/protobuf", "grpc")
# Of each request: nginx serves and calls, Flask serves and calls, Go serves.
PLACES = {
    ("nginx", Span.SPAN_KIND_SERVER),
    ("nginx", Span.SPAN_KIND_CLIENT),
    ("flask_app", Span.SPAN_KIND_SERVER),
    ("flask_app", Span.SPAN_KIND_CLIENT),
    ("stock", Span.SPAN_KIND_SERVER),
}


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_built()


@dataclass(frozen=True)
class Chain:
    """nginx before Flask under gunicorn (threads), which calls a Go service that is named by its
    environment."""

    front: Server
    middle: Server
    back: Server

    @property
    def path(self) -> str:
        return f"/call/{{}}?url={self.back.base_url}/n/{{}}"

    def pids_of(self, service: str) -> set[int]:
        server = {"nginx": self.front, "flask_app": self.middle, "stock": self.back}[service]
        return set(server.pids())


@contextmanager
def started_chain() -> Iterator[Chain]:
    named = {
        "OTEL_SERVICE_NAME": "stock",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,service.version=1.2",
    }
    with (
        start_server("go-nethttp", env=named) as back,
        start_server("flask-gunicorn-gthread") as middle,
        start_server("nginx-proxy", upstream=middle.base_url) as front,
    ):
        yield Chain(front, middle, back)


@contextmanager
def exporting_agent(chain: Chain, collector: Collector, protocol: str) -> Iterator[Agent]:
    """The agent, told by its environment only where to send what."""
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": (
            collector.grpc_endpoint if protocol == "grpc" else collector.http_endpoint
        ),
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    pids = [chain.front.pid, chain.middle.pid, chain.back.pid]
    with started_agent(pids=pids, env=environment, json_lines=False) as agent:
        yield agent


@dataclass(frozen=True)
class Arrived:
    """One span in the Collector's file, with the resource it came under."""

    resource: dict[str, str | int]
    span: Span

    @property
    def place(self) -> tuple[str, "Span.SpanKind.ValueType"]:
        return str(self.resource["service.name"]), self.span.kind

    @property
    def number(self) -> int:
        """The truth: the number at the end of the path, on both sides."""
        attributes = values_of(self.span.attributes)
        target = str(attributes.get("url.path") or attributes["url.full"]).partition("?")[0]
        return int(target.rpartition("/")[2])


def values_of(attributes: Iterable[KeyValue]) -> dict[str, str | int]:
    return {
        one.key: one.value.int_value if one.value.HasField("int_value") else one.value.string_value
        for one in attributes
    }


def arrived_at(collector: Collector) -> list[Arrived]:
    return [
        Arrived(values_of(group.resource.attributes), span)
        for group in collector.resource_spans()
        for scope in group.scope_spans
        for span in scope.spans
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_chain_of_services_arrives_whole(protocol: str, tmp_path: Path) -> None:
    """Of each of 100 requests through three services the Collector's file has five spans, each
    once, in one trace from nginx to the leaf; each came under the resource of its process."""
    with (
        started_chain() as chain,
        started_collector(tmp_path) as collector,
        exporting_agent(chain, collector, protocol) as agent,
    ):
        run_client("go", chain.front.base_url, 100, path=chain.path)
        ended = agent.stop()
        collector.wait_for_spans(100 * len(PLACES))
        arrived = arrived_at(collector)
        check_resources(chain, arrived)
    assert (ended.code, ended.lost) == (0, [])
    by_number: dict[int, list[Arrived]] = {}
    for one in arrived:
        by_number.setdefault(one.number, []).append(one)
    assert sorted(by_number) == list(range(1, 101))
    for spans in by_number.values():
        assert sorted(one.place for one in spans) == sorted(PLACES)
        assert len({one.span.trace_id for one in spans}) == 1
        assert chained([one.span for one in spans])
    assert len({spans[0].span.trace_id for spans in by_number.values()}) == 100


def chained(spans: list[Span]) -> bool:
    """Whether each span but one root is the parent of exactly one other: a line, no tree."""
    parents = sorted(span.parent_span_id for span in spans)
    leaves = {span.span_id for span in spans} - set(parents)
    return len(leaves) == 1 and parents == sorted({b"", *(s.span_id for s in spans)} - leaves)


def check_resources(chain: Chain, arrived: list[Arrived]) -> None:
    """Service, process and host as they are."""
    for one in arrived:
        service = str(one.resource["service.name"])
        assert one.resource["process.pid"] in chain.pids_of(service)
        assert one.resource["host.name"] == socket.gethostname()
        assert one.resource["os.type"] == "linux"
        assert one.resource["telemetry.sdk.name"]
        if service == "stock":
            assert one.resource["deployment.environment.name"] == "test"
            assert one.resource["service.version"] == "1.2"
            assert one.resource["process.executable.name"] == "nethttp"


@pytest.mark.parametrize(
    "protocol", ["http/protobuf", pytest.param("grpc", marks=pytest.mark.slow)]
)
def test_a_collector_that_is_killed_costs_no_span(protocol: str, tmp_path: Path) -> None:
    """The Collector is killed under load and comes back: every exchange made before, meanwhile
    and after is in its file; the agent said once that it could not send, and lost nothing."""
    path = "/call/{}?url=@back@/slow/{}%3Fms%3D20"
    with (
        started_chain() as chain,
        started_collector(tmp_path, durable=True) as collector,
        exporting_agent(chain, collector, protocol) as agent,
        start_client(
            "go", chain.front.base_url, 10**9, 4, path=path.replace("@back@", chain.back.base_url)
        ) as client,
    ):
        collector_had = len(collector.wait_for_spans(100))
        collector.kill()
        agent.wait_for_stderr("cannot send")
        collector.start()
        agent.wait_for_stderr("takes spans again")
        collector.wait_for_spans(collector_had + 100)
        numbers = client.end_early().numbers
        ended = agent.stop()
        wanted = {(n, place) for n in numbers for place in PLACES}
        collector.wait_for(lambda spans: len({s.span_id for s in spans}) >= len(wanted))
        arrived = arrived_at(collector)
    ids = {one.span.span_id: (one.number, one.place) for one in arrived}
    assert Counter(ids.values()) == Counter(wanted)
    assert ended.lost == []
    assert ended.stderr.count("cannot send") == 1
