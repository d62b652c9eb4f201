"""What docs/exporters.md says of receivers no test can start, on a recording server."""

import re
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from unit.otlp_receivers import http_receiver
from unit.records import batch, record
from waggle.exporter.encoding import OtlpEncoder
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
        exporter = OtlpExporter(OtlpSettings.from_environment(environ), OtlpEncoder())
        exporter.export(batch([record()]))
        exporter.close(10)
        (request,) = receiver.requests
    assert request.path == path
    assert request.headers["content-type"] == "application/x-protobuf"
    assert {name: request.headers.get(name) for name in headers} == headers
    (frame,) = TracesData.FromString(request.body).resource_spans
    assert len(frame.scope_spans[0].spans) == 1
