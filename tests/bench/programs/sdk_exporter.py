"""OpenTelemetry's own exporter on given spans: sdk_exporter.py FILE ENDPOINT SPANS_A_REQUEST...

FILE holds one serialized TracesData. Prints, as JSON, microseconds of CPU a span for each size of
request: what `OTLPSpanExporter.export` takes, from ReadableSpan objects to the answer. What making
those objects took is not in it.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, TracesData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

ROUNDS = 5


def value_of(value: AnyValue) -> object:
    return getattr(value, value.WhichOneof("value"))


def attributes_of(pairs: Sequence[KeyValue]) -> dict[str, object]:
    return {pair.key: value_of(pair.value) for pair in pairs}


def context_of(trace_id: bytes, span_id: bytes) -> SpanContext:
    ids = int.from_bytes(trace_id, "big"), int.from_bytes(span_id, "big")
    return SpanContext(*ids, is_remote=False, trace_flags=TraceFlags(1))


def readable(span: Span, resource: Resource, scope: InstrumentationScope) -> ReadableSpan:
    parent = span.parent_span_id
    return ReadableSpan(
        name=span.name,
        context=context_of(span.trace_id, span.span_id),
        parent=context_of(span.trace_id, parent) if parent else None,
        resource=resource,
        attributes=attributes_of(span.attributes),
        kind=SpanKind(span.kind - 1),
        status=Status(StatusCode(span.status.code)),
        start_time=span.start_time_unix_nano,
        end_time=span.end_time_unix_nano,
        instrumentation_scope=scope,
    )


def read(path: str) -> Iterator[ReadableSpan]:
    data = TracesData.FromString(Path(path).read_bytes())
    for group in data.resource_spans:
        resource = Resource(attributes_of(group.resource.attributes))
        for scope_spans in group.scope_spans:
            scope = InstrumentationScope(scope_spans.scope.name, scope_spans.scope.version)
            for span in scope_spans.spans:
                yield readable(span, resource, scope)


def main() -> None:
    path, endpoint, *sizes = sys.argv[1:]
    spans = list(read(path))
    exporter = OTLPSpanExporter(endpoint=endpoint)
    found = {size: [] for size in map(int, sizes)}
    for _ in range(ROUNDS):
        for size, costs in found.items():
            before = time.process_time()
            for first in range(0, len(spans), size):
                result = exporter.export(spans[first : first + size])
                assert result is SpanExportResult.SUCCESS
            costs.append((time.process_time() - before) / len(spans) * 1e6)
    print(json.dumps({"spans": len(spans), "rounds": ROUNDS, "us": found}))


if __name__ == "__main__":
    main()
