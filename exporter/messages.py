"""Spans and resources as OTLP protobuf messages: what the columnar encoder must agree with."""

from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2
from waggle import __version__
from waggle.spans import Attributes, AttributeValue, Resource, Span

SCOPE_NAME = "waggle"
# The version of the conventions that names and values follow; a test holds it
# against the published package.
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

STATUS_ERROR = trace_pb2.Status.StatusCode.STATUS_CODE_ERROR


def scope_message() -> common_pb2.InstrumentationScope:
    return common_pb2.InstrumentationScope(name=SCOPE_NAME, version=__version__)


def resource_message(resource: Resource) -> resource_pb2.Resource:
    return resource_pb2.Resource(attributes=_key_values(resource.attributes))


def span_message(span: Span) -> trace_pb2.Span:
    """The span as a message; a span without a parent or a trace state leaves them out."""
    message = trace_pb2.Span(
        trace_id=span.trace_id,
        span_id=span.span_id,
        trace_state=span.trace_state,
        parent_span_id=span.parent_id,
        name=span.name,
        kind=span.kind,  # type: ignore[arg-type]  # an open enum: any int is a value
        start_time_unix_nano=span.start_unix_ns,
        end_time_unix_nano=span.end_unix_ns,
        attributes=_key_values(span.attributes),
        flags=span.flags,
    )
    if span.error:
        message.status.code = STATUS_ERROR
        message.status.message = span.status_message
    return message


def valid_text(text: str) -> str:
    """Text that can be UTF-8: what came in as undecodable bytes goes out as '?'."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _key_values(attributes: Attributes) -> list[common_pb2.KeyValue]:
    return [
        common_pb2.KeyValue(key=key, value=_any_value(value)) for key, value in attributes.items()
    ]


def _any_value(value: AttributeValue) -> common_pb2.AnyValue:
    if isinstance(value, str):
        return common_pb2.AnyValue(string_value=valid_text(value))
    if isinstance(value, bool):
        return common_pb2.AnyValue(bool_value=value)
    if isinstance(value, int):
        return common_pb2.AnyValue(int_value=value)
    if isinstance(value, float):
        return common_pb2.AnyValue(double_value=value)
    items = [_any_value(item) for item in value]
    return common_pb2.AnyValue(array_value=common_pb2.ArrayValue(values=items))
