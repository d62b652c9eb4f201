"""The instruments: names, units, bounds and attributes, by the semantic conventions.

HTTP's durations are stable, HTTP's body sizes and active requests in development, RPC's a release
candidate. Bounds of durations are those that the conventions give; body sizes have none, so the
default of the metrics SDK's specification holds.
https://opentelemetry.io/docs/specs/semconv/http/http-metrics/
https://opentelemetry.io/docs/specs/semconv/rpc/rpc-metrics/
https://opentelemetry.io/docs/specs/semconv/system/process-metrics/
"""

from dataclasses import dataclass
from enum import Enum, IntEnum

DURATION_BOUNDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)  # seconds
SIZE_BOUNDS = (
    *(0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0),
    *(1000.0, 2500.0, 5000.0, 7500.0, 10000.0),
)  # bytes

OVERFLOW = (("otel.metric.overflow", True),)


class Shape(Enum):
    """What kind of instrument: it decides how points add up over time."""

    HISTOGRAM = "histogram"
    COUNTER = "counter"
    UP_DOWN = "updowncounter"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric. bounds: of a histogram's explicit buckets, each closed above.

    as_named: the name is not OpenTelemetry's but what Prometheus shows, with its suffixes.
    """

    name: str
    unit: str
    description: str
    shape: Shape
    bounds: tuple[float, ...] = ()
    as_named: bool = False


def _duration(name: str, what: str) -> Instrument:
    return Instrument(name, "s", f"Duration of {what}.", Shape.HISTOGRAM, DURATION_BOUNDS)


def _size(name: str, what: str) -> Instrument:
    return Instrument(name, "By", f"Size of {what}.", Shape.HISTOGRAM, SIZE_BOUNDS)


class Kind(IntEnum):
    """Exchanges that are measured alike."""

    HTTP_SERVER = 0
    HTTP_CLIENT = 1
    RPC_SERVER = 2
    RPC_CLIENT = 3


DURATIONS = {
    Kind.HTTP_SERVER: _duration("http.server.request.duration", "HTTP server requests"),
    Kind.HTTP_CLIENT: _duration("http.client.request.duration", "HTTP client requests"),
    Kind.RPC_SERVER: _duration("rpc.server.call.duration", "incoming remote procedure calls"),
    Kind.RPC_CLIENT: _duration("rpc.client.call.duration", "outgoing remote procedure calls"),
}
REQUEST_SIZES = {
    Kind.HTTP_SERVER: _size("http.server.request.body.size", "HTTP server request bodies"),
    Kind.HTTP_CLIENT: _size("http.client.request.body.size", "HTTP client request bodies"),
}
RESPONSE_SIZES = {
    Kind.HTTP_SERVER: _size("http.server.response.body.size", "HTTP server response bodies"),
    Kind.HTTP_CLIENT: _size("http.client.response.body.size", "HTTP client response bodies"),
}

_HTTP = (
    *("http.request.method", "http.response.status_code", "error.type"),
    *("network.protocol.name", "network.protocol.version"),
)
_RPC = ("rpc.system.name", "rpc.method", "rpc.response.status_code", "error.type")
_SERVER_OF_CALL = ("server.address", "server.port")
# Which attributes of a span its metrics have: what the conventions require or recommend; nothing
# that they make opt-in for the sake of cardinality.
ATTRIBUTES = {
    Kind.HTTP_SERVER: (*_HTTP, "url.scheme", "http.route"),
    Kind.HTTP_CLIENT: (*_HTTP, *_SERVER_OF_CALL),
    Kind.RPC_SERVER: _RPC,
    Kind.RPC_CLIENT: (*_RPC, *_SERVER_OF_CALL),
}

ACTIVE_REQUESTS = Instrument(
    "http.server.active_requests", "{request}", "Requests being served.", Shape.UP_DOWN
)
PROCESS_CPU = Instrument(
    "process.cpu.time", "s", "CPU seconds, by where they were spent.", Shape.COUNTER
)
PROCESS_MEMORY = Instrument("process.memory.usage", "By", "Physical memory in use.", Shape.UP_DOWN)
PROCESS_VIRTUAL = Instrument(
    "process.memory.virtual", "By", "Committed virtual memory.", Shape.UP_DOWN
)
PROCESS_THREADS = Instrument("process.thread.count", "{thread}", "Threads.", Shape.UP_DOWN)


def _graph(name: str, text: str, shape: Shape) -> Instrument:
    bounds = DURATION_BOUNDS if shape is Shape.HISTOGRAM else ()
    return Instrument(f"traces_service_graph_request_{name}", "", text, shape, bounds, True)


# As Grafana's service map looks for them.
GRAPH_TOTAL = _graph("total", "Requests between two services.", Shape.COUNTER)
GRAPH_FAILED = _graph("failed_total", "Failed requests between two services.", Shape.COUNTER)
GRAPH_SERVER = _graph("server_seconds", "Their duration as the server saw it.", Shape.HISTOGRAM)
GRAPH_CLIENT = _graph("client_seconds", "Their duration as the client saw it.", Shape.HISTOGRAM)
