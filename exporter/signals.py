"""What the signals of OTLP differ in on their way out; everything else they share.

Paths, services and names of variables: the OTLP specification (protocol/otlp.md,
protocol/exporter.md); the names of counts in JSON: opentelemetry-proto's *_service.proto.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Signal:
    """One signal.

    noun: of what a request carries, for messages. scope: what its own variables have after
    OTEL_EXPORTER_OTLP_. path: of OTLP over HTTP. method: of OTLP over gRPC. rejected: the count
    in a partial success, in JSON; in protobuf it is field 1 of all three.
    """

    noun: str
    scope: str
    path: str
    method: str
    rejected: str


TRACES = Signal(
    "spans",
    "TRACES_",
    "/v1/traces",
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "rejectedSpans",
)
METRICS = Signal(
    "data points",
    "METRICS_",
    "/v1/metrics",
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "rejectedDataPoints",
)
LOGS = Signal(
    "log records",
    "LOGS_",
    "/v1/logs",
    "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    "rejectedLogRecords",
)
