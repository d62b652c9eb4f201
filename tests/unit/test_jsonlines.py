"""JSON lines: what is written is OTLP, and a bad output is told, never a traceback."""

import base64
import errno
import io
import json
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.trace.v1 import trace_pb2

from unit.otlp_messages import expected, received
from unit.records import NO_PARENT, batch, record, resource_table
from waggle.errors import WaggleError
from waggle.exporter.jsonlines import JsonLinesExporter
from waggle.layout import End, Flag, Kept, Role
from waggle.spans import Resource, SpanBatch

WAIT_S = 10.0


def parsed(line: str) -> trace_pb2.TracesData:
    """A line as a message: protobuf's JSON but for the ids, which OTLP has in hex."""
    data = json.loads(line)
    for span in spans_of(data):
        for key in ("traceId", "spanId", "parentSpanId"):
            if key in span:
                assert span[key] == span[key].lower()
                span[key] = base64.b64encode(bytes.fromhex(span[key])).decode()
    return json_format.ParseDict(data, trace_pb2.TracesData())


def spans_of(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for per_resource in data["resourceSpans"]:
        for per_scope in per_resource["scopeSpans"]:
            yield from per_scope["spans"]


def varied() -> SpanBatch:
    rows = [
        record(b"/items?page=1", flags=Flag.REQUEST_BODY | Flag.RESYNCED, request_body=7),
        record(b"/\xff\x00\n\xe2\x80\xa8", {Kept.HOST: b'q"\\', Kept.TRACESTATE: b"a=1"}),
        record(b"/", role=Role.CLIENT, status=0, end=End.RESET, parent_id=NO_PARENT),
        record(b"/", role=Role.CLIENT, status=404),
    ]
    return batch(rows, [0, 1, 1, 0])


def line_of(spans: SpanBatch) -> str:
    """The one line that a small batch becomes."""
    stream = io.StringIO()
    exporter = JsonLinesExporter(stream)
    exporter.export(spans)
    exporter.close(WAIT_S)
    (line,) = stream.getvalue().splitlines(keepends=True)
    return line


class BrokenStream(io.StringIO):
    """A stream whose writes fail with an errno."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._errno = number

    def write(self, _text: str, /) -> int:
        raise OSError(self._errno, os.strerror(self._errno))


def test_a_line_is_the_batch_as_otlp() -> None:
    """Read as OTLP JSON, a line holds exactly the spans of the batch."""
    spans = varied()
    line = line_of(spans)
    assert line.endswith("\n")
    assert received([parsed(line)]) == expected(spans)


def test_the_types_of_json_are_those_of_the_specification() -> None:
    """Ids are lower-case hex, enums integers, 64-bit integers strings."""
    spans = batch([record(status=503, span_id=b"\xab" * 8)])
    (span,) = spans_of(json.loads(line_of(spans)))
    assert span["spanId"] == "ab" * 8
    assert span["parentSpanId"] == "4142434445464748"
    assert span["kind"] == 2
    assert span["status"] == {"code": 2}
    assert span["startTimeUnixNano"] == "1700000005000000000"
    values = {pair["key"]: pair["value"] for pair in span["attributes"]}
    assert values["http.response.status_code"] == {"intValue": "503"}


def test_numbers_that_json_has_not_are_strings() -> None:
    """NaN and the infinities are written as protobuf's JSON mapping says."""
    table = resource_table()
    table.rows[0] = Resource({"a": float("nan"), "b": float("-inf"), "c": 0.5, "d": ["x", "y"]})
    line = line_of(batch([record()], table=table))
    values = parsed(line).resource_spans[0].resource.attributes
    assert str(values[0].value.double_value) == "nan"
    assert values[1].value.double_value == float("-inf")
    assert values[2].value.double_value == 0.5
    assert [item.string_value for item in values[3].value.array_value.values] == ["x", "y"]


@pytest.mark.parametrize("stream", [io.StringIO(), io.BytesIO()])
def test_every_span_arrives_whatever_the_stream(stream: Any) -> None:
    """Text and binary streams without a descriptor get all spans, line by line."""
    exporter = JsonLinesExporter(stream)
    spans = varied()
    exporter.export(spans)
    exporter.flush(WAIT_S)
    written = stream.getvalue()
    text = written if isinstance(written, str) else written.decode()
    assert received(map(parsed, text.splitlines())) == expected(spans)
    exporter.close(WAIT_S)
    assert exporter.stats().exported == len(spans)
    assert not stream.closed


def test_a_file_gets_lines_in_order() -> None:
    """Batches are written one after the other, large ones in several lines."""
    with tempfile.TemporaryFile("w+") as file:
        exporter = JsonLinesExporter(file)
        for number in (700, 2):
            exporter.export(batch([record(status=number % 600)] * number))
        exporter.close(WAIT_S)
        file.seek(0)
        counts = [len(list(spans_of(json.loads(line)))) for line in file]
    assert counts == [512, 188, 2]
    assert exporter.stats().exported == 702


def test_a_full_disk_is_told_at_flush_with_the_way_out() -> None:
    """ENOSPC ends in one WaggleError that names it; the spans count as lost."""
    with open("/dev/full", "w") as full:  # noqa: PTH123
        exporter = JsonLinesExporter(full)
        exporter.export(varied())
        with pytest.raises(WaggleError, match=r"/dev/full: No space left.*4 spans lost.*make room"):
            exporter.flush(WAIT_S)
        exporter.export(varied())
        exporter.close(WAIT_S)
        assert exporter.stats().lost == {"write_failed": 8}
        assert exporter.stats().exported == 0


def test_a_stream_without_descriptor_that_fails_is_told_too() -> None:
    """An error of the stream itself is told like one of the descriptor."""
    exporter = JsonLinesExporter(BrokenStream(errno.EIO))
    exporter.export(varied())
    with pytest.raises(WaggleError, match="Input/output error"):
        exporter.close(WAIT_S)


def test_a_reader_that_has_gone_is_no_error() -> None:
    """EPIPE (`| head -1`) is counted as lost and nothing else."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as pipe:
        exporter = JsonLinesExporter(pipe)
        exporter.export(varied())
        exporter.flush(WAIT_S)
        exporter.close(WAIT_S)
    assert exporter.stats().lost == {"reader_gone": 4}


def test_a_reader_that_does_not_read_holds_nobody_up() -> None:
    """With a stuck reader export() refuses what is over the bound, and close() ends in time."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end), os.fdopen(write_end, "w") as pipe:
        exporter = JsonLinesExporter(pipe, max_queued_spans=400)
        large = batch([record()] * 300)  # more than a pipe holds
        for _ in range(3):
            exporter.export(large)
        exporter.flush(0.01)
        exporter.close(0.01)
        stats = exporter.stats()
    assert stats.lost == {"queue_full": 600, "shutdown": 300}
    assert (stats.exported, stats.queued) == (0, 0)


def test_a_closed_exporter_counts_spans_as_lost() -> None:
    """After close() nothing is written any more, and nothing vanishes."""
    stream = io.StringIO()
    exporter = JsonLinesExporter(stream)
    exporter.close(WAIT_S)
    exporter.export(varied())
    assert exporter.stats().lost == {"shutdown": 4}
    assert stream.getvalue() == ""
