"""A Flask service with OpenTelemetry's SDK, as its documentation shows it: instrumented, with a
processor that exports every span at once, here into a file of JSON lines.

    sdk_stranger.py PORT FILE
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flask import Flask
from opentelemetry import trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult


class FileExporter(SpanExporter):
    def __init__(self, path: str) -> None:
        self._file = Path(path).open("a", buffering=1)  # noqa: SIM115 - open until the end

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        for span in spans:
            attributes = span.attributes or {}
            path = attributes.get("url.path") or attributes.get("http.target", "")
            if not str(path).startswith("/n/"):
                continue
            line = {
                "trace_id": f"{span.context.trace_id:032x}",
                "span_id": f"{span.context.span_id:016x}",
                "parent_id": f"{span.parent.span_id:016x}" if span.parent else "",
                "path": path,
            }
            self._file.write(json.dumps(line) + "\n")
        return SpanExportResult.SUCCESS


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(FileExporter(sys.argv[2])))
trace.set_tracer_provider(provider)
app = Flask(__name__)
FlaskInstrumentor().instrument_app(app)


@app.get("/n/<int:number>")
def answer(number: int) -> str:
    return f"n={number}\n"


@app.get("/ready")
def ready() -> str:
    return "ready"


app.run("127.0.0.1", int(sys.argv[1]), threaded=True)
