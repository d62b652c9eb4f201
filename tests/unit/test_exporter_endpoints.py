"""What docs/exporters.md says of receivers no test can start, on a recording server."""

import re
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from unit.otlp_receivers import http_receiver
from unit.records import batch, record
from unit.test_log_encoding import batch_of
from waggle.config import load_settings
from waggle.exporter.encoding import OtlpEncoder
from waggle.exporter.log_exporters import make_log_exporters
from waggle.exporter.otlp import OtlpExporter
from waggle.exporter.otlp_settings import OtlpSettings

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "exporters.md"


def settings_in(section: str) -> dict[str, str]:
    """The OTEL_ variables of a section's first block."""
    text = DOCUMENT.read_text("utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    found = dict(re.findall(r"^ {4}(OTEL_\w+)=(\S+)$", text, re.MULTILINE))
    assert found, f"no settings under {section}"
    return found


@pytest.mark.parametrize(
    ("section", "path", "headers"),
    [
        ("Grafana Tempo", "/v1/traces", {"x-scope-orgid": "shop"}),
        (
            "VictoriaTraces",
            "/insert/opentelemetry/v1/traces",
            {"accountid": "0", "projectid": "0"},
        ),
        ("Grafana Loki", "/otlp/v1/logs", {"x-scope-orgid": "shop"}),
        ("VictoriaLogs", "/insert/opentelemetry/v1/logs", {"accountid": "0", "projectid": "0"}),
    ],
)
def test_documented_settings_send_what_is_documented(
    section: str, path: str, headers: dict[str, str]
) -> None:
    """The settings in the docs post protobuf to the path, with the headers, that the receiver's
    own documentation asks for."""
    with http_receiver() as receiver:
        environ = {
            name: re.sub(r"http://[^/]+", f"http://127.0.0.1:{receiver.port}", value)
            for name, value in settings_in(section).items()
        }
        send_one(environ, logs=path.endswith("logs"))
        (request,) = receiver.requests
    assert request.path == path
    assert request.headers["content-type"] == "application/x-protobuf"
    assert {name: request.headers.get(name) for name in headers} == headers
    if path.endswith("logs"):
        (group,) = ExportLogsServiceRequest.FromString(request.body).resource_logs
        assert len(group.scope_logs[0].log_records) == 1
    else:
        (frame,) = TracesData.FromString(request.body).resource_spans
        assert len(frame.scope_spans[0].spans) == 1


def send_one(environ: dict[str, str], *, logs: bool) -> None:
    """One span, or one log record, by an exporter made of the environment alone."""
    if logs:
        (sender,) = make_log_exporters(load_settings({}, {}), environ, lambda _: None)
        sender.export(batch_of([("hello", 0, 5, b"\1" * 8, {})]))
        sender.close(10)
        return
    exporter = OtlpExporter(OtlpSettings.from_environment(environ), OtlpEncoder())
    exporter.export(batch([record()]))
    exporter.close(10)
