"""The whole way: three services, the agent, and the real Collector with its file exporter."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from .agent import Agent, started_agent
from .collector import Collector, started_collector
from .harness import RunningClient, Server, ensure_built, start_client, start_server

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
    endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.http_endpoint
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
    }
    pids = [chain.front.pid, chain.middle.pid, chain.back.pid]
    with started_agent("--verbose", pids=pids, env=environment, json_lines=False) as agent:
        yield agent


def load_on(chain: Chain, count: int, **more: int) -> "ClientContext":
    return ClientContext(chain, count, more.get("gate"))


@dataclass(frozen=True)
class Arrived:
    """One span in the Collector's file, with the resource it came under."""

    service: str
    resource: dict[str, str | int]
    span: Span

    @property
    def number(self) -> int:
        attributes = values_of(list(self.span.attributes))
        target = str(attributes.get("url.path") or attributes["url.full"]).partition("?")[0]
        return int(target.rpartition("/")[2])


def values_of(attributes: list[KeyValue]) -> dict[str, str | int]:
    return {
        one.key: one.value.int_value if one.value.HasField("int_value") else one.value.string_value
        for one in attributes
    }
