"""Where log records go: OTLP, files, stdout, a screen. Each is a sender with another end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Protocol

from waggle.config import Settings, nearest
from waggle.errors import UsageError
from waggle.exporter.base import ExporterStats
from waggle.exporter.jsonlines import Output
from waggle.exporter.log_encoding import LogEncoder
from waggle.exporter.otlp import REMEDIES, Destination, SendingExporter, make_transport
from waggle.exporter.otlp import shown_endpoint as shown
from waggle.exporter.otlp_answer import Accepted, Answer, Refused, Transport
from waggle.exporter.otlp_settings import OtlpSettings, QueueSettings, queue_settings
from waggle.exporter.requests import EncodedRequest
from waggle.exporter.setup import DISABLED
from waggle.exporter.signals import LOGS
from waggle.logrecords import LogBatch

if TYPE_CHECKING:
    from waggle.exporter.spool import Spool

VARIABLE = "OTEL_LOGS_EXPORTER"
_KNOWN = ("otlp", "console", "none")
_LEVELS = ((21, "FATAL"), (17, "ERROR"), (13, "WARN"), (9, "INFO"), (5, "DEBUG"), (1, "TRACE"))

OnEvent = Callable[[str], None]


class Encoder(Protocol):
    """Makes payloads of a batch."""

    def encode(self, batch: LogBatch) -> Sequence[EncodedRequest]: ...


class LogSender:
    """A SendingExporter of log records."""

    def __init__(
        self,
        destination: Destination,
        encoder: Encoder,
        on_event: OnEvent,
        spool: Spool | None = None,
    ) -> None:
        self.name = destination.name
        self._encoder = encoder
        self._sender = SendingExporter(destination, None, on_event, spool)
        if spool is not None and spool.recovered:
            self._sender.begin()

    def export(self, batch: LogBatch) -> None:
        """Encode the batch and leave its bytes for the sender."""
        self._sender.send(self._encoder.encode(batch))

    def flush(self, timeout_s: float) -> None:
        self._sender.flush(timeout_s)

    def close(self, timeout_s: float) -> None:
        self._sender.close(timeout_s)

    def stats(self) -> ExporterStats:
        return self._sender.stats()


def make_log_exporters(
    settings: Settings, environ: Mapping[str, str], on_event: OnEvent
) -> list[LogSender]:
    """All that flags and OTEL_LOGS_EXPORTER ask for: by default where spans go.

    Raises UsageError for settings that cannot be used.
    """
    if not settings.wants_logs(environ) or environ.get(DISABLED, "").strip().lower() == "true":
        return []
    making = _Making(settings, settings.otlp_environ(environ, "LOGS"), on_event)
    makers = {
        "otlp": making.otlp,
        "file": making.file,
        "json": making.json_lines,
        "console": making.console,
    }
    names = _chosen(settings, making.environ)
    return [make() for name, make in makers.items() if name in names]


def _chosen(settings: Settings, environ: Mapping[str, str]) -> set[str]:
    flags = {"otlp": settings.otlp, "file": settings.json_file, "json": settings.json_lines}
    names = {name for name, value in flags.items() if value}
    listed = _listed(environ.get(VARIABLE, ""))
    if listed is None:
        names |= {"otlp"} if OtlpSettings.names_an_endpoint(environ, LOGS) else set()
        return names or (set() if settings.quiet else {"console"})
    names = names | listed if listed else set()
    return names - {"console"} if settings.quiet or settings.json_lines else names


def _listed(value: str) -> set[str] | None:
    """The exporters that the variable names; None where it is not set."""
    names = {name.strip().lower() for name in value.split(",")} - {""}
    if not names:
        return None
    for name in sorted(names - set(_KNOWN)):
        raise UsageError(f"{VARIABLE}={value}: no exporter '{name}': {nearest(name, _KNOWN)}")
    if "none" in names and len(names) > 1:
        raise UsageError(f"{VARIABLE}={value}: none contradicts the others: leave one or the other")
    return names - {"none"}


class _Making:
    """What the exporters of a run are made of."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], on_event: OnEvent) -> None:
        self.settings = settings
        self.environ = environ
        self.on_event = on_event
        self.queue = queue_settings(environ, LOGS)

    def _encoder(self) -> LogEncoder:
        return LogEncoder(self.queue.max_request_bytes, self.queue.max_request_spans)

    def _sender(
        self, name: str, where: str, transport: Transport, encoder: Encoder, **more: Any
    ) -> LogSender:
        destination = Destination(
            name, where, transport, more.pop("queue", self.queue), noun=LOGS.noun, **more
        )
        return LogSender(destination, encoder, self.on_event)

    def otlp(self) -> LogSender:
        where = OtlpSettings.from_environment(self.environ, self.settings.otlp, LOGS)
        destination = Destination(
            "otlp logs",
            shown(where),
            make_transport(where),
            where.queue,
            where.backoff,
            {reason: _of_logs(text) for reason, text in REMEDIES.items()},
            LOGS.noun,
        )
        return LogSender(destination, self._encoder(), self.on_event, self._spool())

    def _spool(self) -> Spool | None:
        from waggle.exporter.spool import Spool

        folder = self.settings.spool
        if folder is None:
            return None
        return Spool(folder / "otlp-logs", self.settings.spool_max, self.on_event)

    def file(self) -> LogSender:
        from waggle.exporter.json_file import FileTransport
        from waggle.exporter.otlp_json import LogsJson

        settings = self.settings
        assert settings.json_file is not None  # or it would not have been chosen
        # What reads spans*.jsonl must not find it.
        path = settings.json_file.with_name(f"logs-{settings.json_file.name}")
        transport = FileTransport(path, settings.json_max, settings.json_keep, LogsJson().translate)
        return self._sender("log file", str(path), transport, self._encoder())

    def json_lines(self) -> LogSender:
        from waggle.exporter.otlp_json import LogsJson

        transport = StreamTransport(
            sys.stdout, lambda payload: LogsJson().translate(payload) + b"\n"
        )
        return self._sender("jsonlines logs", "stdout", transport, self._encoder())

    def console(self) -> LogSender:
        transport = StreamTransport(sys.stdout, lambda payload: payload)
        soon = QueueSettings(**{**_fields(self.queue), "delay_s": 0.0})
        return self._sender("console logs", "stdout", transport, TextEncoder(), queue=soon)


def _fields(queue: QueueSettings) -> dict[str, Any]:
    return {name: getattr(queue, name) for name in QueueSettings.__dataclass_fields__}


def _of_logs(remedy: str) -> str:
    return remedy.replace("OTEL_BSP_", "OTEL_BLRP_").replace("/v1/traces", LOGS.path)


class StreamTransport:
    """Writes payloads to a stream; one that has gone is told so once, and loses the rest."""

    def __init__(self, stream: IO[Any], translate: Callable[[bytes], bytes]) -> None:
        self._output = Output(stream)
        self._translate = translate

    def send(self, payload: bytes) -> Answer:
        try:
            self._output.write(self._translate(payload))
        except OSError as error:
            return Refused("output_failed", os.strerror(error.errno or 0))
        return Accepted()

    def abort(self) -> None:
        self._output.give_up()

    def close(self) -> None:
        """The stream is not ours."""


class TextEncoder:
    """One line for each record, as people read them: time, level, service, body, trace."""

    def encode(self, batch: LogBatch) -> list[EncodedRequest]:
        if not len(batch):
            return []
        text = "".join(self._line(batch, row) for row in range(len(batch)))
        return [EncodedRequest(text.encode("utf-8", "replace"), len(batch))]

    def _line(self, batch: LogBatch, row: int) -> str:
        shape = batch.shapes[int(batch.shape[row])]
        at = datetime.fromtimestamp(int(batch.observed_ns[row]) / 1e9, UTC).astimezone()
        level = next((name for least, name in _LEVELS if shape.severity >= least), "-")
        service = batch.table.rows[shape.resource].attributes.get("service.name", "")
        has_trace = batch.span_ids[row].any()
        trace = f"  trace={batch.trace_ids[row].tobytes().hex()}" if has_trace else ""
        body = "".join(c if c.isprintable() or c in "\n\t" else "?" for c in batch.body(row))
        return f"{at:%H:%M:%S}.{at.microsecond // 1000:03d} {level:<5} {service}  {body}{trace}\n"
