"""The real OpenTelemetry Collector: built once, started on ports of our own, and what it got.

with started_collector(tmp_path) as collector:
    ...                              # send to collector.http_endpoint or .grpc_endpoint
    collector.wait_for_spans(100)
"""

import re
import socket
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from google.protobuf import json_format
from opentelemetry.proto.metrics.v1.metrics_pb2 import MetricsData, ResourceMetrics
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, TracesData

from .ports import lease_port
from .processes import BUILD, Program
from .toolchain import ensure_go_module

SOURCE = Path(__file__).resolve().parent / "otelcol"
BINARY = BUILD / "bin" / "otelcol"
READY_WITHIN_S = 120.0


_CONFIG = """\
receivers:
{files}  otlp:
    protocols:
      grpc:
        endpoint: 127.0.0.1:{grpc_port}{tls}
      http:
        endpoint: 127.0.0.1:{http_port}{tls}{paths}
processors:
  batch:
    timeout: 50ms
exporters:
  debug:
  file:
    path: {output}
    {writing}
  file/logs:
    path: {logs}
    {writing}
  file/metrics:
    path: {metrics}
    append: true
    flush_interval: 20ms
service:
  telemetry:
    metrics:
      level: none
  pipelines:
    traces:
      receivers: [otlp{also}]
      processors: [{processors}]
      exporters: [file, debug]
    logs:
      receivers: [otlp]
      processors: [{processors}]
      exporters: [file/logs]
    metrics:
      receivers: [otlp]
      exporters: [file/metrics, debug]
"""
_READING = """\
  otlp_json_file:
    include: ["{pattern}"]
    start_at: beginning
    poll_interval: 50ms
"""
# It shows this certificate, and asks for one of the same authority.
_TLS = """
        tls:
          cert_file: {certificate}
          key_file: {key}
          client_ca_file: {certificate}"""
_PATHS = """
        traces_url_path: {path}/v1/traces
        logs_url_path: {path}/v1/logs"""
# With buffers, and a batch processor that answers before anything is written: as operators run it.
_BUFFERED = {"writing": "append: true\n    flush_interval: 20ms", "processors": "batch"}
# The file exporter buffers nothing when it rotates, and without the batch processor the answer
# waits for the write: what was answered survives a kill.
_DURABLE = {"writing": "rotation: {max_megabytes: 10000}", "processors": ""}
# How each line begins; inside JSON's strings the quotes would be escaped.
_LINE_START = re.compile(rb'(?=\{"resourceSpans":)')


def ensure_collector() -> Path:
    """Build the Collector when its sources or Go have changed; returns the program.

    A cold build takes minutes and downloads some 400 MB of modules.
    """
    ensure_go_module(SOURCE, ["."], BINARY.parent, stripped=True)
    return BINARY


class Collector:
    """A Collector on 127.0.0.1 whose spans end up in a file.

    It may be stopped or killed and started again: ports and file stay the same.
    """

    def __init__(
        self,
        folder: Path,
        http_port: int,
        grpc_port: int,
        *,
        durable: bool = False,
        reading: str = "",
        tls: tuple[Path, Path] | None = None,
        path: str = "",
    ) -> None:
        scheme = "https" if tls else "http"
        self.http_endpoint = f"{scheme}://127.0.0.1:{http_port}"
        self.grpc_endpoint = f"{scheme}://127.0.0.1:{grpc_port}"
        self._ports = (http_port, grpc_port)
        self._output = folder / "traces.jsonl"
        self.logs_file = folder / "logs.jsonl"
        self._metrics = folder / "metrics.jsonl"
        self._config = folder / "otelcol.yaml"
        self._config.write_text(
            _CONFIG.format(
                http_port=http_port,
                grpc_port=grpc_port,
                output=self._output,
                logs=self.logs_file,
                metrics=self._metrics,
                files=_READING.format(pattern=reading) if reading else "",
                also=", otlp_json_file" if reading else "",
                tls=_TLS.format(certificate=tls[0], key=tls[1]) if tls else "",
                paths=_PATHS.format(path=path) if path else "",
                **(_DURABLE if durable else _BUFFERED),
            )
        )
        self._program: Program | None = None
        self._received: list[TracesData] = []
        self._read_bytes = 0

    def start(self) -> None:
        """Start it and wait until both ports answer. Raises ProgramError."""
        command: list[str | Path] = [ensure_collector(), "--config", self._config]
        self._program = Program("otelcol", command)
        self._program.wait_until(lambda: all(map(_listens, self._ports)), READY_WITHIN_S)

    def stop(self) -> None:
        """Let it write what it has and end."""
        if self._program is not None:
            self._program.stop()

    def kill(self) -> None:
        """SIGKILL: what it had not written is gone, answered or not (unless `durable`)."""
        assert self._program is not None
        self._program.process.kill()
        self._program.process.wait()

    def received(self) -> list[TracesData]:
        """What the file exporter has written, one TracesData a line.

        An unfinished last line is left for the next look; after kill() one may stand in the
        middle, without its end of line, and is skipped like the data it stands for.
        """
        self._read_on()
        return list(self._received)

    def _read_on(self) -> None:
        """Parse what was written since the last look."""
        if not self._output.exists():
            return
        with self._output.open("rb") as output:
            output.seek(self._read_bytes)
            lines = _LINE_START.split(output.read())
        if not lines[-1].endswith(b"\n"):
            lines.pop()
        self._read_bytes += sum(map(len, lines))
        self._received += [data for line in lines if (data := _parse(line)) is not None]

    def resource_spans(self) -> list[ResourceSpans]:
        return [group for data in self.received() for group in data.resource_spans]

    def spans(self) -> list[Span]:
        return [
            span
            for group in self.resource_spans()
            for scope in group.scope_spans
            for span in scope.spans
        ]

    def metrics(self) -> list[ResourceMetrics]:
        """All metrics that arrived, collection after collection."""
        if not self._metrics.exists():
            return []
        lines = self._metrics.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        return [group for line in whole for group in parse_metrics_line(line).resource_metrics]

    def wait_for_metrics(
        self, is_enough: Callable[[list[ResourceMetrics]], bool], timeout_s: float = 60
    ) -> list[ResourceMetrics]:
        """The metrics, once they satisfy `is_enough`. Raises ProgramError when the time is up."""
        assert self._program is not None
        found: list[ResourceMetrics] = []

        def look() -> bool:
            found[:] = self.metrics()
            return is_enough(found)

        self._program.wait_until(look, timeout_s)
        return found

    def wait_for_spans(self, count: int, timeout_s: float = 120) -> list[Span]:
        """The spans, once there are at least `count` in the file."""
        return self.wait_for(lambda spans: len(spans) >= count, timeout_s)

    def wait_for(
        self, is_enough: Callable[[list[Span]], bool], timeout_s: float = 120
    ) -> list[Span]:
        """The spans, once they satisfy `is_enough`. Raises ProgramError when the time is up."""
        assert self._program is not None
        found: list[Span] = []

        def look() -> bool:
            found[:] = self.spans()
            return is_enough(found)

        self._program.wait_until(look, timeout_s)
        return found


def _parse(line: bytes) -> TracesData | None:
    try:
        return parse_traces_line(line)
    except (json_format.ParseError, UnicodeDecodeError):
        return None


def parse_traces_line(line: bytes | str) -> TracesData:
    """One line of OTLP's file format.

    OTLP's JSON writes ids in hexadecimal, where protobuf's own JSON form has base64: so they are
    read as if they were base64, and turned back.
    """
    data = json_format.Parse(line, TracesData())
    for group in data.resource_spans:
        for scope in group.scope_spans:
            for span in scope.spans:
                _mend_ids(span)
    return data


def parse_metrics_line(line: bytes | str) -> MetricsData:
    """The same of metrics, where exemplars have ids."""
    data = json_format.Parse(line, MetricsData())
    for group in data.resource_metrics:
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                for point in metric.histogram.data_points:
                    for exemplar in point.exemplars:
                        exemplar.trace_id = _from_hex(exemplar.trace_id)
                        exemplar.span_id = _from_hex(exemplar.span_id)
    return data


def _mend_ids(span: Span) -> None:
    span.trace_id = _from_hex(span.trace_id)
    span.span_id = _from_hex(span.span_id)
    span.parent_span_id = _from_hex(span.parent_span_id)
    for link in span.links:
        link.trace_id = _from_hex(link.trace_id)
        link.span_id = _from_hex(link.span_id)


def _from_hex(misread: bytes) -> bytes:
    """Undo base64's reading of hexadecimal digits: both lengths in use, 16 and 32 digits, are
    multiples of 4, so nothing was lost."""
    return bytes.fromhex(b64encode(misread).decode())


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def started_collector(
    folder: Path,
    *,
    durable: bool = False,
    reading: str = "",
    tls: tuple[Path, Path] | None = None,
    path: str = "",
) -> Iterator[Collector]:
    """A running Collector that keeps its configuration and its spans in `folder`.

    durable: it answers a request only when its spans are in the file. reading: a pattern of files
    with OTLP JSON lines that it reads as well, from their beginnings. tls: its certificate, which
    is its own authority, and the key; clients must show one of that authority. path: in front of
    /v1/traces and /v1/logs, where others than it have OTLP.
    """
    http, grpc = lease_port(), lease_port()
    try:
        collector = Collector(
            folder, http.port, grpc.port, durable=durable, reading=reading, tls=tls, path=path
        )
        try:
            collector.start()
            yield collector
        finally:
            collector.stop()
    finally:
        http.release()
        grpc.release()
