"""OTLP receivers for unit tests: real sockets, answers as scripted, requests remembered."""

import gzip
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

TRACE_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@dataclass(frozen=True)
class Request:
    """A serialized request with `spans` spans, as an encoder makes it."""

    payload: bytes
    spans: int


class ReadyRequests:
    """An encoder for batches that are lists of requests already."""

    def encode(self, batch: Any) -> Sequence[Request]:
        return list(batch)


def request_of(*ids: int, size: int = 0) -> Request:
    """A request with one span per id; `size` bytes of name each."""
    message = ExportTraceServiceRequest()
    scope = message.resource_spans.add().scope_spans.add()
    for number in ids:
        scope.spans.add(
            trace_id=number.to_bytes(16, "big"),
            span_id=number.to_bytes(8, "big"),
            name="n" * size,
        )
    return Request(message.SerializeToString(), len(ids))


def ids_in(payload: bytes) -> list[int]:
    message = ExportTraceServiceRequest.FromString(payload)
    return [
        int.from_bytes(span.span_id, "big")
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def partial_success(rejected: int, message: str = "") -> bytes:
    return ExportTraceServiceResponse(
        partial_success=ExportTracePartialSuccess(rejected_spans=rejected, error_message=message)
    ).SerializeToString()


def retry_info_status(seconds: float, message: str = "busy") -> bytes:
    """A serialized google.rpc.Status with RetryInfo, written out by hand: field by field."""
    delay = Duration()
    delay.FromNanoseconds(int(seconds * 1e9))
    retry_info = _field(1, delay.SerializeToString())
    detail = _field(1, b"type.googleapis.com/google.rpc.RetryInfo") + _field(2, retry_info)
    return b"\x08\x0e" + _field(2, message.encode()) + _field(3, detail)


def _field(number: int, value: bytes) -> bytes:
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value


@dataclass
class HttpAnswer:
    """What to answer once `before` has returned: status and body, `raw` bytes instead of them,
    or, with `drop`, nothing but the connection's end."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    before: Callable[[], Any] | None = None
    drop: bool = False


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes
    at: float
    connection: tuple[str, int] | str

    @property
    def ids(self) -> list[int]:
        return ids_in(self.body)


class Receiver:
    """What both kinds have: a script of answers, and what came. After the script: acceptance."""

    def __init__(self, script: Sequence[Any]) -> None:
        self.port = 0
        self.script = list(script)
        self.requests: list[Received] = []
        self._changed = threading.Condition()

    def remember(self, request: Received) -> Any:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
            return self.script.pop(0) if self.script else None

    def wait_for_requests(self, count: int, timeout_s: float = 60) -> list[Received]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, timeout_s), (
                f"{len(self.requests)} requests instead of {count}"
            )
            return list(self.requests)

    def ids(self) -> list[int]:
        return [number for request in self.requests for number in request.ids]


@contextmanager
def http_receiver(*script: HttpAnswer, port: int = 0, context: Any = None) -> Iterator[Receiver]:
    receiver = Receiver(script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            _answer(self, receiver)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that hangs up is part of the tests."""

    server = Server(("127.0.0.1", port), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(handler: BaseHTTPRequestHandler, receiver: Receiver) -> None:
    body = handler.rfile.read(int(handler.headers["content-length"]))
    if handler.headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    headers = {name.lower(): value for name, value in handler.headers.items()}
    received = Received(handler.path, headers, body, time.monotonic(), handler.client_address)
    answer = receiver.remember(received) or HttpAnswer()
    if answer.before is not None:
        answer.before()
    if answer.drop:
        handler.close_connection = True
    elif answer.raw is not None:
        handler.wfile.write(answer.raw)
        handler.close_connection = True
    else:
        handler.send_response(answer.status)
        named = {"Content-Type": "application/x-protobuf", **answer.headers}
        for name, value in named.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(answer.body)))
        handler.end_headers()
        handler.wfile.write(answer.body)


@dataclass
class GrpcAnswer:
    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""
    body: bytes = b""
    details: bytes = b""
    before: Callable[[], Any] | None = None


@contextmanager
def grpc_receiver(
    *script: GrpcAnswer, port: int = 0, credentials: Any = None, path: Path | None = None
) -> Iterator[Receiver]:
    receiver = Receiver(script)

    def export(body: bytes, context: grpc.ServicerContext) -> bytes:
        headers = {key: str(value) for key, value in context.invocation_metadata()}
        received = Received(TRACE_METHOD, headers, body, time.monotonic(), context.peer())
        answer = receiver.remember(received) or GrpcAnswer()
        if answer.before is not None:
            answer.before()
        if answer.code is not grpc.StatusCode.OK:
            if answer.details:
                context.set_trailing_metadata((("grpc-status-details-bin", answer.details),))
            context.abort(answer.code, answer.message)
        return answer.body

    service, _, method = TRACE_METHOD[1:].rpartition("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(export, None, None)}
    server = grpc.server(
        futures.ThreadPoolExecutor(4),
        handlers=[grpc.method_handlers_generic_handler(service, handlers)],
        options=[("grpc.so_reuseport", 0)],
    )
    address = f"unix:{path}" if path else f"127.0.0.1:{port}"
    if credentials is None:
        receiver.port = server.add_insecure_port(address)
    else:
        receiver.port = server.add_secure_port(address, credentials)
    server.start()
    try:
        yield receiver
    finally:
        server.stop(0).wait()
