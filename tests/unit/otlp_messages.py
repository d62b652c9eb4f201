"""What was exported, in a form that can be compared: spans by resource, in no order."""

from collections.abc import Iterable

from google.protobuf.message import Message
from opentelemetry.proto.trace.v1 import trace_pb2

from waggle.exporter.messages import SCHEMA_URL, resource_message, scope_message, span_message
from waggle.spans import SpanBatch, decode_span

Spans = dict[bytes, list[bytes]]  # serialized resource -> its spans, serialized, sorted


def received(messages: Iterable[trace_pb2.TracesData]) -> Spans:
    """What a receiver has read; scope and schema must be ours everywhere."""
    found: Spans = {}
    for message in messages:
        for per_resource in message.resource_spans:
            spans = found.setdefault(canonical(per_resource.resource), [])
            for per_scope in per_resource.scope_spans:
                assert per_scope.scope == scope_message()
                assert per_scope.schema_url == per_resource.schema_url == SCHEMA_URL
                spans += map(canonical, per_scope.spans)
    return {resource: sorted(spans) for resource, spans in found.items()}


def expected(batch: SpanBatch) -> Spans:
    """What the slow path says a receiver must read."""
    found: Spans = {}
    for row in range(len(batch)):
        resource = resource_message(batch.table.rows[int(batch.resources[row])])
        message = span_message(decode_span(batch, row))
        found.setdefault(canonical(resource), []).append(canonical(message))
    return {resource: sorted(spans) for resource, spans in found.items()}


def canonical(message: Message) -> bytes:
    """A message written anew, so that padded varints and the order of fields do not count."""
    return message.SerializeToString(deterministic=True)
