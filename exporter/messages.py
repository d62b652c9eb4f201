"""Spans and resources as OTLP protobuf messages: what the columnar encoder must agree with."""

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
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
    message = resource_pb2.Resource(dropped_attributes_count=resource.dropped)
    add_attributes(message.attributes, resource.attributes)
    return message


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
        flags=span.flags,
        dropped_events_count=span.dropped_events,
    )
    add_attributes(message.attributes, span.attributes)
    for event in span.events:
        made = message.events.add(name=event.name, time_unix_nano=event.unix_ns)
        add_attributes(made.attributes, event.attributes)
    if span.error:
        message.status.code = STATUS_ERROR
        message.status.message = span.status_message
    return message


def valid_text(text: str) -> str:
    """Text that can be UTF-8: what came in as undecodable bytes goes out as '?'."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def add_attributes(
    target: RepeatedCompositeFieldContainer[common_pb2.KeyValue], attributes: Attributes
) -> None:
    """Add them in place: making each pair as a message of its own takes twice as long."""
    for key, value in attributes.items():
        pair = target.add()
        pair.key = key
        _set_value(pair.value, value)


def _set_value(target: common_pb2.AnyValue, value: AttributeValue) -> None:
    if isinstance(value, str):
        target.string_value = valid_text(value)
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int):
        target.int_value = value
    elif isinstance(value, float):
        target.double_value = value
    else:
        target.array_value.SetInParent()  # an empty list is still a list
        for item in value:
            _set_value(target.array_value.values.add(), item)
