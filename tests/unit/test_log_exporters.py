"""Which exporters flags and OTEL_LOGS_EXPORTER ask for, and what they write."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from unit.otlp_receivers import HttpAnswer, http_receiver
from unit.test_log_encoding import batch_of
from waggle.config import load_settings
from waggle.errors import UsageError
from waggle.exporter.log_exporters import LogSender, TextEncoder, make_log_exporters
from waggle.exporter.otlp_settings import queue_settings
from waggle.exporter.signals import LOGS

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
OTLP = {"OTEL_LOGS_EXPORTER": "otlp"}


@pytest.fixture
def made() -> Iterator[list[LogSender]]:
    """Exporters to be closed when the test ends."""
    exporters: list[LogSender] = []
    yield exporters
    for exporter in exporters:
        exporter.close(0.0)


@pytest.mark.parametrize(
    ("flags", "environ", "expected"),
    [
        ({}, {}, ()),
        ({}, ENDPOINT, ()),
        ({}, OTLP, ("otlp logs",)),
        ({"logs": True}, {}, ("console logs",)),
        ({"logs": True, "quiet": True}, {}, ()),
        ({"logs": True}, ENDPOINT, ("otlp logs",)),
        ({"logs": True, "otlp": "http://127.0.0.1:1"}, {}, ("otlp logs",)),
        ({"logs": True, "json_lines": True}, {}, ("jsonlines logs",)),
        ({"logs": True, "json_lines": True}, OTLP, ("otlp logs", "jsonlines logs")),
        ({"logs": True}, {"OTEL_LOGS_EXPORTER": "none"}, ()),
        ({}, {"OTEL_LOGS_EXPORTER": "console,otlp"}, ("otlp logs", "console logs")),
        ({"logs": True}, {**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, ()),
        ({"logs": True}, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a:1"}, ("console logs",)),
    ],
)
def test_who_is_asked_for(
    made: list[LogSender],
    flags: dict[str, object],
    environ: dict[str, str],
    expected: tuple[str, ...],
) -> None:
    """Logs go where flags and variables say, and nowhere unless they are asked for."""
    made += make_log_exporters(load_settings(flags, {}), environ, lambda _: None)
    assert tuple(exporter.name for exporter in made) == expected


def test_an_unknown_exporter_is_refused() -> None:
    """A name that means nothing is refused, with what there is."""
    with pytest.raises(UsageError, match=r"OTEL_LOGS_EXPORTER=oltp: no exporter 'oltp': did you"):
        make_log_exporters(load_settings({}, {}), {"OTEL_LOGS_EXPORTER": "oltp"}, lambda _: None)


def test_batches_have_variables_of_their_own() -> None:
    """OTEL_BLRP_* bound the queue of logs, OTEL_BSP_* do not."""
    environ = {"OTEL_BLRP_MAX_QUEUE_SIZE": "7", "OTEL_BSP_MAX_QUEUE_SIZE": "9"}
    assert queue_settings(environ, LOGS).max_spans == 7
    assert queue_settings(environ).max_spans == 9
    with pytest.raises(UsageError, match="OTEL_BLRP_SCHEDULE_DELAY=x: not a whole number"):
        queue_settings({"OTEL_BLRP_SCHEDULE_DELAY": "x"}, LOGS)


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "base"])
def test_otlp_over_http(made: list[LogSender], variable: str) -> None:
    """Records are posted to /v1/logs of a base endpoint, or to the signal's own as it is, with
    the headers of the signal."""
    with http_receiver(HttpAnswer()) as receiver:
        url = f"http://127.0.0.1:{receiver.port}"
        base = {"OTEL_EXPORTER_OTLP_ENDPOINT": url}
        environ = {**OTLP, **(base if variable == "base" else {variable: url + "/in"})}
        environ["OTEL_EXPORTER_OTLP_LOGS_HEADERS"] = "tenant=a"
        made += make_log_exporters(load_settings({}, {}), environ, lambda _: None)
        made[0].export(batch_of([("hello", 0, 5, b"\1" * 8, {})]))
        made[0].flush(10)
        (request,) = receiver.requests
    assert request.path == ("/v1/logs" if variable == "base" else "/in")
    assert request.headers["tenant"] == "a"
    message = ExportLogsServiceRequest.FromString(request.body)
    assert message.resource_logs[0].scope_logs[0].log_records[0].body.string_value == "hello"


def test_a_file_of_their_own(made: list[LogSender], tmp_path: Path) -> None:
    """--json-file spans.jsonl has the logs beside it, in logs-spans.jsonl."""
    settings = load_settings({"logs": True, "json_file": str(tmp_path / "spans.jsonl")}, {})
    made += make_log_exporters(settings, {}, lambda _: None)
    made[0].export(batch_of([("hello", 0, 5, b"", {}), ("you", 2, 6, b"\1" * 8, {})]))
    made[0].flush(10)
    (line,) = (tmp_path / "logs-spans.jsonl").read_text().splitlines()
    (resource,) = json.loads(line)["resourceLogs"]
    records = resource["scopeLogs"][0]["logRecords"]
    assert [record["body"]["stringValue"] for record in records] == ["hello", "you"]
    assert records[1]["spanId"] == "01" * 8
    assert records[1]["severityNumber"] == 17


def test_lines_for_people() -> None:
    """On a screen a record is its level, service and body; nothing in it can steer a terminal."""
    (request,) = TextEncoder().encode(batch_of([("he\x1bllo", 2, 5, b"\1" * 8, {})]))
    assert request.payload.decode().split(maxsplit=1)[1] == (
        f"ERROR shop  he?llo  trace={'01' * 16}\n"
    )


def test_a_spool_keeps_logs_too(made: list[LogSender], tmp_path: Path) -> None:
    """What nobody took is on disk for the next run, in a folder beside that of spans."""
    flags = {"logs": True, "spool": str(tmp_path), "otlp": "http://127.0.0.1:1"}
    (first,) = make_log_exporters(load_settings(flags, {}), {}, lambda _: None)
    first.export(batch_of([("hello", 0, 5, b"", {})]))
    first.close(5)
    assert first.stats().kept == 1
    assert [folder.name for folder in tmp_path.iterdir()] == ["otlp-logs"]
    with http_receiver(HttpAnswer()) as receiver:
        flags["otlp"] = f"http://127.0.0.1:{receiver.port}"
        made += make_log_exporters(load_settings(flags, {}), {}, lambda _: None)
        (request,) = receiver.wait_for_requests(1)
    assert request.path == "/v1/logs"
    assert b"hello" in request.body
