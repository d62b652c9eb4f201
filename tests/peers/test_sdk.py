"""A stranger in the chain: Flask with OpenTelemetry's own SDK, between programs that have none.

Its spans come to a receiver, ours from the agent: together they are one trace, in which every
request and every call has one span.
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from unit.otlp_receivers import HttpAnswer, Receiver, http_receiver

from .agent import Agent, SeenSpan, started_agent
from .processes import BUILD, ROOT
from .servers import SERVERS, Options, Place, Server, ServerKind, start_server
from .toolchain import PROGRAMS, ensure_venv

VENV = BUILD / "bench-sdk-venv"
REQUIREMENTS = ROOT / "tests" / "bench" / "requirements-sdk.txt"
TRACE = "ab" * 16
CALLER = "cd" * 8
COUNT = 20


def _flask(place: Place, _: Options) -> list[str | Path]:
    """Flask and requests, instrumented by nothing but how they are started."""
    return [
        *(VENV / "bin" / "opentelemetry-instrument", VENV / "bin" / "gunicorn", "flask_app:app"),
        *("--chdir", PROGRAMS / "python", "--bind", place.address, "--worker-class", "sync"),
        *("--worker-tmp-dir", place.folder, "--no-control-socket"),
    ]


KINDS = {**SERVERS, "flask-sdk": ServerKind(_flask)}


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    ensure_venv(VENV, REQUIREMENTS)


@dataclass(frozen=True)
class Chain:
    """Flask with an SDK, which calls a server without, and where its own spans come to."""

    front: Server
    back: Server
    receiver: Receiver

    def ask(self, number: int, **headers: str) -> None:
        connection = self.front.connection()
        try:
            path = f"/call/{number}?url={self.back.base_url}/n/{number}"
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            assert answer.read()
            assert answer.status == 200
        finally:
            connection.close()

    def own_spans(self) -> list[Span]:
        """What the SDK has exported."""
        messages = [
            ExportTraceServiceRequest.FromString(one.body) for one in self.receiver.requests
        ]
        return [
            span
            for message in messages
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def wait_for_own(self, count: int) -> list[Span]:
        deadline = time.monotonic() + 60
        while len(spans := self.own_spans()) < count:
            assert time.monotonic() < deadline, f"the SDK exported {len(spans)} spans"
            time.sleep(0.05)
        return spans


@contextmanager
def chain() -> Iterator[Chain]:
    with ExitStack() as stack:
        receiver = stack.enter_context(http_receiver(HttpAnswer(200)))
        back = stack.enter_context(start_server("raw"))
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_PYTHON_EXCLUDED_URLS": "ready",
        }
        front = stack.enter_context(start_server("flask-sdk", env=env, kinds=KINDS))
        yield Chain(front, back, receiver)


@contextmanager
def watched(one: Chain, use: str) -> Iterator[Agent]:
    pids = [*one.front.pids(), one.back.pid]
    with started_agent("--sdk", use, pids=pids) as agent:
        yield agent


def traceparent(number: int) -> str:
    return f"00-{TRACE[:-4]}{number:04x}-{CALLER}-01"


def exchanges(spans: list[SeenSpan]) -> list[SeenSpan]:
    """Those of our requests: an SDK's own calls to its receiver are none."""
    return [span for span in spans if span.number is not None]


def test_one_trace_and_no_span_twice() -> None:
    """By default: of each request that comes with a header, the SDK's two spans and ours of the
    server behind, which is the child of the SDK's call; nothing twice, nothing missing."""
    with chain() as one, watched(one, "defer") as agent:
        agent.wait_for_stderr("exports spans itself (started with opentelemetry-instrument)")
        for number in range(1, COUNT + 1):
            one.ask(number, traceparent=traceparent(number))
        agent.wait_for(lambda spans: len(exchanges(spans)) >= COUNT)
        own = one.wait_for_own(2 * COUNT)
        ours = exchanges(agent.stop().spans)
    assert {span.pid for span in ours} == {one.back.pid}, "the SDK's are left to it"
    assert len(ours) == COUNT
    assert len(own) == 2 * COUNT
    calls = {span.span_id.hex(): span for span in own if span.kind == Span.SPAN_KIND_CLIENT}
    served = {span.span_id.hex(): span for span in own if span.kind == Span.SPAN_KIND_SERVER}
    for span in ours:
        call = calls[span.parent_id]
        request = served[call.parent_span_id.hex()]
        assert request.parent_span_id.hex() == CALLER
        assert {span.trace_id, call.trace_id.hex()} == {request.trace_id.hex()}
        assert span.link == "traceparent"


def test_both() -> None:
    """With `both` every exchange has our span too."""
    with chain() as one, watched(one, "both") as agent:
        one.ask(1, traceparent=traceparent(1))
        agent.wait_for(lambda spans: len(exchanges(spans)) >= 3)
        one.wait_for_own(2)
        ours = exchanges(agent.stop().spans)
    assert sorted(span.kind for span in ours) == ["client", "server", "server"]


def test_ignore() -> None:
    """With `ignore` the process is not traced; what it calls is, and names the SDK's span."""
    with chain() as one, watched(one, "ignore") as agent:
        one.ask(1, traceparent=traceparent(1))
        agent.wait_for(lambda spans: len(exchanges(spans)) >= 1)
        own = one.wait_for_own(2)
        ours = exchanges(agent.stop().spans)
    assert [span.pid for span in ours] == [one.back.pid]
    calls = [span.span_id.hex() for span in own if span.kind == Span.SPAN_KIND_CLIENT]
    assert [ours[0].parent_id] == calls


def test_what_it_does_not_cover() -> None:
    """A request without a header, which the SDK cannot know the caller of, keeps our span."""
    with chain() as one, watched(one, "defer") as agent:
        one.ask(1)
        agent.wait_for(lambda spans: len(exchanges(spans)) >= 2)
        ours = exchanges(agent.stop().spans)
    assert sorted((span.kind, span.pid == one.back.pid) for span in ours) == [
        ("server", False),
        ("server", True),
    ]


def test_an_sdk_that_nothing_launched(tmp_path: Path) -> None:
    """An application that sets its SDK up itself is recognised when it exports, and deferred to
    from then on: what it goes on with is what it covers."""
    program = tmp_path / "own_sdk.py"
    program.write_text(_OWN_SDK)
    kind = ServerKind(
        lambda place, _: [VENV / "bin" / "python", program, str(place.port)],
        routes=frozenset({"call"}),
    )
    with ExitStack() as stack:
        receiver = stack.enter_context(http_receiver(HttpAnswer(200)))
        back = stack.enter_context(start_server("raw"))
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        front = stack.enter_context(start_server("own", env=env, kinds={"own": kind}))
        one = Chain(front, back, receiver)
        agent = stack.enter_context(watched(one, "defer"))
        one.ask(1, traceparent=traceparent(1))
        agent.wait_for_stderr("exports spans itself (it calls /v1/traces)")
        one.ask(2, traceparent=traceparent(2))  # shows that it goes on with what it was given
        for number in range(3, 11):
            one.ask(number, traceparent=traceparent(number))
        agent.wait_for(lambda spans: sum(s.pid == back.pid for s in exchanges(spans)) >= 10)
        ours = exchanges(agent.stop().spans)
    of_front = [span for span in ours if span.pid == front.pid]
    assert {span.number for span in of_front} <= {1, 2}, "afterwards nothing is doubled"
    assert os.getpid() not in {span.pid for span in ours}


_OWN_SDK = """
import sys
import flask, requests
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
app = flask.Flask(__name__)
FlaskInstrumentor().instrument_app(app, excluded_urls="ready")
RequestsInstrumentor().instrument()

@app.get("/ready")
def ready():
    return "ready\\n"

@app.get("/call/<int:n>")
def call(n):
    return requests.get(flask.request.args["url"]).text

app.run(port=int(sys.argv[1]), threaded=True)
"""
