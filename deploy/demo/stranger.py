"""What the demo's stranger and the agent say of the same requests, put together.

Both export to receivers of the demo's own. `judge` tells whether they fit: the stranger's spans are
in the traces of the agent's, each below the call that asked it and above the request it made, and
the agent has made none for what the stranger tells itself.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

_PATIENCE_S = 20.0
_POLL_S = 0.05


class Receiver:
    """Keeps the spans that are sent to it by OTLP over HTTP."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._bodies: list[bytes] = []

    def take(self, body: bytes) -> None:
        self._bodies.append(body)

    def spans(self) -> list[tuple[Span, int]]:
        """All spans so far, each with the id of the process that its resource names, or 0."""
        messages = [ExportTraceServiceRequest.FromString(body) for body in self._bodies]
        return [
            (span, pid)
            for message in messages
            for group in message.resource_spans
            for pid in [_process_id(group.resource.attributes)]
            for scope in group.scope_spans
            for span in scope.spans
        ]

    def wait_for(self, count: int, kind: "Span.SpanKind.ValueType") -> list[Span]:
        """Spans, once so many of a kind are there, or the time is up."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            spans = [span for span, _ in self.spans()]
            enough = sum(span.kind == kind for span in spans) >= count
            if enough or time.monotonic() > deadline:
                return spans
            time.sleep(_POLL_S)


def _process_id(attributes: Iterable[KeyValue]) -> int:
    for pair in attributes:
        if pair.key == "process.pid":
            return int(pair.value.int_value)
    return 0


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a free port of the loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            receiver.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(server.server_address[1])
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield receiver
        server.shutdown()


def judge(own: list[Span], agents: list[tuple[Span, int]], pids: set[int], visits: int) -> str:
    """What is wrong with the stranger's spans among the agent's; empty when all is well. pids: of
    the stranger's processes."""
    served = [span for span in own if span.kind == Span.SPAN_KIND_SERVER]
    asked = {span.span_id for span in own if span.kind == Span.SPAN_KIND_CLIENT}
    calls = {span.span_id: span for span, _ in agents if span.kind == Span.SPAN_KIND_CLIENT}
    traces = {span.trace_id for span in served}
    if len(served) != visits or len(asked) != visits:
        return f"{len(served)} requests and {len(asked)} calls of its own, not {visits} of each"
    for span in served:
        call = calls.get(span.parent_span_id)
        if call is None or call.trace_id != span.trace_id:
            return "a request is not below the call that asked it"
    below = [span for span, _ in agents if span.parent_span_id in asked]
    if len(below) != visits or not {span.trace_id for span in below} <= traces:
        return f"{len(below)} requests of others are below its {visits} calls"
    twice = sum(pid in pids and span.trace_id in traces for span, pid in agents)
    return f"{twice} spans are there twice" if twice else ""
