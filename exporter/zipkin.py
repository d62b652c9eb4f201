"""Spans to Zipkin, as its JSON of version 2.

The mapping: OpenTelemetry specification, "OpenTelemetry to Zipkin Transformation" and the general
rules for formats that are not OTLP; OTEL_EXPORTER_ZIPKIN_* as its "Environment Variable
Specification" has them. The columnar encoder's requests are translated on the sender's thread.
"""

import ipaddress
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from waggle.exporter.otlp import Destination, Encoder, SendingExporter, shown_endpoint
from waggle.exporter.otlp_http import Form, HttpTransport
from waggle.exporter.otlp_json import any_value
from waggle.exporter.otlp_settings import OtlpSettings, zipkin_settings
from waggle.exporter.spool import Spool

Json = dict[str, Any]

DEFAULT_PATH = "/api/v2/spans"
REMEDIES = {
    "refused_404": "check the endpoint's path; Zipkin's is /api/v2/spans",
    "refused_413": "lower OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "refused_415": "check that the endpoint is Zipkin's: OTLP goes to --otlp",
}

_Span = trace_pb2.Span
_KINDS: Mapping[int, str] = {
    _Span.SPAN_KIND_SERVER: "SERVER",
    _Span.SPAN_KIND_CLIENT: "CLIENT",
    _Span.SPAN_KIND_PRODUCER: "PRODUCER",
    _Span.SPAN_KIND_CONSUMER: "CONSUMER",
}
_STATUS: Mapping[int, str] = {
    trace_pb2.Status.STATUS_CODE_OK: "OK",
    trace_pb2.Status.STATUS_CODE_ERROR: "ERROR",
}
# Names of the other end, best first.
_REMOTE_NAMES = ("service.peer.name", "peer.service", "server.address")


class ZipkinExporter(SendingExporter):
    """The exporter that OTEL_TRACES_EXPORTER=zipkin or `--zipkin` asks for.

    Losses and bounds are those of SendingExporter.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        endpoint_flag: str | None,
        encoder: Encoder,
        on_event: Callable[[str], None],
        spool: Spool | None = None,
    ) -> None:
        """endpoint_flag: the value of `--zipkin`; a URL without a path gets Zipkin's.

        Raises UsageError that names the variable, its value and the remedy.
        """
        if endpoint_flag is not None and not urlsplit(endpoint_flag).path.strip("/"):
            endpoint_flag = endpoint_flag.rstrip("/") + DEFAULT_PATH
        settings = zipkin_settings(environ, endpoint_flag)
        super().__init__(_destination(settings), encoder, on_event, spool)


def _destination(settings: OtlpSettings) -> Destination:
    return Destination(
        "zipkin",
        shown_endpoint(settings),
        HttpTransport(settings, Form("application/json", zipkin_json)),
        settings.queue,
        settings.backoff,
        REMEDIES,
    )


def zipkin_json(payload: bytes) -> bytes:
    """A serialized trace request as Zipkin's list of spans.

    Raises DecodeError for bytes that are no such message.
    """
    spans = [
        _span(span, local, scope_tags)
        for frame in trace_pb2.TracesData.FromString(payload).resource_spans
        for local, namespace in [_local(frame)]
        for scope in frame.scope_spans
        for scope_tags in [namespace | _scope_tags(scope.scope)]
        for span in scope.spans
    ]
    return json.dumps(spans, separators=(",", ":")).encode("ascii")


def _local(frame: trace_pb2.ResourceSpans) -> tuple[Json, dict[str, str]]:
    """The endpoint of a resource's spans, and what else of the resource they are to say."""
    said = _texts(frame.resource.attributes)
    namespace = {key: said[key] for key in ("service.namespace",) if said.get(key)}
    return {"serviceName": said.get("service.name") or "unknown_service"}, namespace


def _scope_tags(scope: common_pb2.InstrumentationScope) -> dict[str, str]:
    tags = {"otel.scope.name": scope.name, "otel.scope.version": scope.version}
    return {key: text for key, text in tags.items() if text}


def _span(span: trace_pb2.Span, local: Json, scope_tags: dict[str, str]) -> Json:
    attributes = _texts(span.attributes)
    kind = _KINDS.get(span.kind)
    start = span.start_time_unix_nano
    made: Json = {
        "traceId": span.trace_id.hex(),
        "id": span.span_id.hex(),
        "parentId": span.parent_span_id.hex(),
        "name": span.name,
        "kind": kind,
        "timestamp": start // 1000,
        # 0 would mean that it has none.
        "duration": max((span.end_time_unix_nano - start) // 1000, 1),
        "localEndpoint": local,
        "remoteEndpoint": _remote(attributes) if kind in ("CLIENT", "PRODUCER") else None,
        "annotations": [_annotation(event) for event in span.events],
        "tags": _tags(span, attributes) | scope_tags,
    }
    return {key: value for key, value in made.items() if value}


def _remote(attributes: Mapping[str, str]) -> Json:
    """Without it Zipkin would see no dependency in a call."""
    remote: Json = {}
    for name in _REMOTE_NAMES:
        if attributes.get(name):
            remote["serviceName"] = attributes[name]
            break
    address = attributes.get("network.peer.address", "")
    if version := _ip_version(address):
        remote[f"ipv{version}"] = address
        port = attributes.get("network.peer.port", "")
        if port.isdigit():
            remote["port"] = int(port)
    return remote


def _ip_version(address: str) -> int | None:
    try:
        return ipaddress.ip_address(address).version
    except ValueError:
        return None


def _annotation(event: trace_pb2.Span.Event) -> Json:
    attributes = _texts(event.attributes)
    if event.dropped_attributes_count:
        attributes["otel.dropped_attributes_count"] = str(event.dropped_attributes_count)
    value = f"{json.dumps(event.name)}: {json.dumps(attributes)}" if attributes else event.name
    return {"timestamp": event.time_unix_nano // 1000, "value": value}


def _counts(span: trace_pb2.Span) -> dict[str, str]:
    counts = {
        "otel.dropped_attributes_count": span.dropped_attributes_count,
        "otel.dropped_events_count": span.dropped_events_count,
        "otel.dropped_links_count": span.dropped_links_count,
    }
    return {key: str(count) for key, count in counts.items() if count}


def _tags(span: trace_pb2.Span, attributes: Mapping[str, str]) -> dict[str, str]:
    """An `error` tag marks a span as failed, whatever it says: so a good one has none."""
    tags = {**attributes, **_counts(span)}
    status = _STATUS.get(span.status.code)
    if status is not None:
        tags["otel.status_code"] = status
    if status == "ERROR":
        tags["error"] = span.status.message
    elif tags.get("error") == "false":
        del tags["error"]
    return tags


def _texts(pairs: Iterable[common_pb2.KeyValue]) -> dict[str, str]:
    return {pair.key: _text(pair.value) for pair in pairs}


def _text(value: common_pb2.AnyValue) -> str:
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return value.string_value
    if kind == "int_value":
        return str(value.int_value)
    plain = _plain(any_value(value))
    return plain if isinstance(plain, str) else json.dumps(plain)


def _plain(value: Json) -> Any:
    """What OTLP's JSON wraps into its type's name."""
    for kind, inner in value.items():
        if kind == "arrayValue":
            return [_plain(item) for item in inner["values"]]
        if kind == "kvlistValue":
            return {pair["key"]: _plain(pair["value"]) for pair in inner["values"]}
        return int(inner) if kind == "intValue" else inner
    return ""
