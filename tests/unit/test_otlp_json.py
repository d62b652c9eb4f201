"""OTLP's JSON form says what the bytes it is made of say."""

import json
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status, TracesData
from peers.collector import parse_traces_line

from unit.records import batch, record
from waggle.exporter.encoding import OtlpEncoder
from waggle.exporter.otlp_json import TracesJson, wire_fields

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)


def values() -> st.SearchStrategy[AnyValue]:
    # Bytes are left out: protobuf's own JSON reads base64 as OTLP's does, which proves nothing.
    plain = st.one_of(
        st.builds(AnyValue, string_value=TEXTS),
        st.builds(AnyValue, int_value=st.integers(-(2**63), 2**63 - 1)),
        st.builds(AnyValue, bool_value=st.booleans()),
        st.builds(AnyValue, double_value=st.floats(allow_nan=False)),
        st.builds(AnyValue),
    )
    arrays = st.builds(ArrayValue, values=st.lists(plain, max_size=3))
    pairs = st.builds(KeyValue, key=TEXTS, value=plain)
    lists = st.builds(KeyValueList, values=st.lists(pairs, max_size=3))
    return st.one_of(
        plain, st.builds(AnyValue, array_value=arrays), st.builds(AnyValue, kvlist_value=lists)
    )


PAIRS = st.lists(st.builds(KeyValue, key=TEXTS, value=values()), max_size=4)
NUMBERS = st.integers(0, 2**32 - 1)
TIMES = st.integers(0, 2**64 - 1)
TRACE_IDS = st.binary(min_size=16, max_size=16)
SPAN_IDS = st.binary(min_size=8, max_size=8)
SPANS = st.builds(
    Span,
    trace_id=TRACE_IDS,
    span_id=SPAN_IDS,
    parent_span_id=st.one_of(st.just(b""), SPAN_IDS),
    trace_state=TEXTS,
    name=TEXTS,
    kind=st.integers(0, 5),
    flags=NUMBERS,
    start_time_unix_nano=TIMES,
    end_time_unix_nano=TIMES,
    attributes=PAIRS,
    dropped_attributes_count=NUMBERS,
    dropped_events_count=NUMBERS,
    dropped_links_count=NUMBERS,
    events=st.lists(
        st.builds(Span.Event, time_unix_nano=TIMES, name=TEXTS, attributes=PAIRS), max_size=2
    ),
    links=st.lists(
        st.builds(Span.Link, trace_id=TRACE_IDS, span_id=SPAN_IDS, flags=NUMBERS), max_size=2
    ),
    status=st.builds(Status, code=st.integers(0, 2), message=TEXTS),
)


@given(st.lists(SPANS, max_size=4), PAIRS, TEXTS)
def test_nothing_is_lost_or_changed(spans: list[Span], attributes: Any, url: str) -> None:
    """protobuf's own reader of JSON finds the very message that was translated."""
    message = TracesData()
    frame = message.resource_spans.add(schema_url=url)
    frame.resource.attributes.extend(attributes)
    scope = frame.scope_spans.add(schema_url=url)
    scope.scope.name = "waggle"
    scope.spans.extend(spans)
    line = TracesJson().translate(message.SerializeToString())
    assert parse_traces_line(line) == message


def test_what_the_encoder_makes_is_read() -> None:
    """The columnar encoder's bytes, padded numbers included, come out as the same spans."""
    exchanges = batch([record(b"/a?b=%d" % number) for number in range(40)])
    (request,) = OtlpEncoder(min_rows=1).encode(exchanges)
    line = TracesJson().translate(request.payload)
    assert parse_traces_line(line) == TracesData.FromString(request.payload)


def test_types_are_those_of_the_specification() -> None:
    """Ids are hex, times strings, enums numbers, and the spans stand before the resource."""
    exchanges = batch([record()])
    (request,) = OtlpEncoder().encode(exchanges)
    (frame,) = json.loads(TracesJson().translate(request.payload))["resourceSpans"]
    assert next(iter(frame)) == "scopeSpans"
    (span,) = frame["scopeSpans"][0]["spans"]
    assert len(bytes.fromhex(span["traceId"])) == 16
    assert isinstance(span["startTimeUnixNano"], str)
    assert span["kind"] == 2


def test_no_line_ends_inside() -> None:
    """Whatever a text holds, the line has no byte that a reader may take for its end."""
    message = TracesData()
    scope = message.resource_spans.add().scope_spans.add()
    scope.spans.add(name="a\nb\u2028c\u0085d")
    line = TracesJson().translate(message.SerializeToString())
    assert line.isascii()
    assert line.splitlines() == [line]


def test_memory_is_bounded() -> None:
    """Attributes that never repeat do not pile up."""
    translator = TracesJson()
    for start in range(0, 20_000, 1000):
        message = TracesData()
        span = message.resource_spans.add().scope_spans.add().spans.add()
        for number in range(start, start + 1000):
            span.attributes.add(key=str(number))
        translator.translate(message.SerializeToString())
    assert len(translator._pairs) <= 4096


@pytest.mark.parametrize("data", [b"\x0a\x05abc", b"\xff" * 11, b"\x0b", b"\x80"])
def test_bytes_that_are_no_message(data: bytes) -> None:
    """A message that is cut short or of unknown kinds is an error, not a wrong answer."""
    with pytest.raises(DecodeError):
        list(wire_fields(data))
