"""Which exporters a run has, from its settings and OpenTelemetry's variables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING

from waggle.config import Settings, nearest
from waggle.errors import UsageError
from waggle.exporter.base import Exporter
from waggle.exporter.otlp_settings import OtlpSettings, QueueSettings, queue_settings

if TYPE_CHECKING:  # each is imported when a run needs it: a live view should not wait for OTLP
    from waggle.exporter.encoding import OtlpEncoder
    from waggle.exporter.otlp import Encoder, SendingExporter
    from waggle.exporter.outbox import Encoded
    from waggle.exporter.spool import Spool
    from waggle.spans import SpanBatch

VARIABLE = "OTEL_TRACES_EXPORTER"
DISABLED = "OTEL_SDK_DISABLED"
_KNOWN = ("otlp", "zipkin", "console", "none")

OnEvent = Callable[[str], None]


def make_exporters(
    settings: Settings, environ: Mapping[str, str], on_event: OnEvent
) -> list[Exporter]:
    """All that flags and OTEL_TRACES_EXPORTER ask for, at once.

    Without that variable: OTLP where an endpoint is named, and the live view where nothing
    else is asked for. Raises UsageError for settings that cannot be used.
    """
    if environ.get(DISABLED, "").strip().lower() == "true":
        on_event(f"{DISABLED}=true: nothing is exported")
        return []
    merged = settings.otlp_environ(environ)
    names = _chosen(settings, merged)
    makers: dict[str, Callable[[_Making], Exporter]] = {
        "otlp": _otlp,
        "zipkin": _zipkin,
        "file": _file,
        "json": _json_lines,
        "console": _console,
    }
    if settings.spool is not None and not names & {"otlp", "zipkin"}:
        raise UsageError(
            f"--spool {settings.spool}: there is nothing to keep in it; "
            "say where spans are to go with --otlp or --zipkin"
        )
    making = _Making(settings, merged, on_event)
    return [make(making) for name, make in makers.items() if name in names]


_MODULES = {
    "otlp": ("encoding", "otlp"),
    "zipkin": ("encoding", "zipkin"),
    "file": ("encoding", "json_file"),
    "json": ("jsonlines",),
    "console": ("console",),
}


def load_exporters(settings: Settings, environ: Mapping[str, str]) -> None:
    """Import what make_exporters() will need, while there is something else to wait for. What is
    wrong with the settings is for make_exporters() to say."""
    with suppress(UsageError):
        for name in sorted(_chosen(settings, settings.otlp_environ(environ))):
            for module in _MODULES[name]:
                import_module(f"waggle.exporter.{module}")


def _chosen(settings: Settings, environ: Mapping[str, str]) -> set[str]:
    flags = {
        "otlp": settings.otlp,
        "zipkin": settings.zipkin,
        "file": settings.json_file,
        "json": settings.json_lines,
    }
    names = {name for name, value in flags.items() if value}
    listed = _listed(environ.get(VARIABLE, ""))
    if listed is None:
        names |= {"otlp"} if OtlpSettings.names_an_endpoint(environ) else set()
        return names or (set() if settings.quiet else {"console"})
    names |= listed
    # stdout has room for one of them, and a flag says more than the environment.
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
        self.queue = queue_settings(environ)

    @cached_property
    def encoder(self) -> _EncodeOnce:
        return _EncodeOnce(encoder_for(self.queue))

    def spool(self, name: str) -> Spool | None:
        from waggle.exporter.spool import Spool

        folder = self.settings.spool
        return Spool(folder / name, self.settings.spool_max, self.on_event) if folder else None

    def begun(self, exporter: SendingExporter, spool: Spool | None) -> SendingExporter:
        """The exporter; where an earlier run has left something, it is sent from now on."""
        if spool is not None and spool.recovered:
            self.on_event(
                f"{spool.folder} holds {spool.recovered:,} spans of an earlier run: "
                f"they go to {exporter.name} first"
            )
            exporter.begin()
        return exporter


def encoder_for(queue: QueueSettings) -> OtlpEncoder:
    """One whose requests are no larger than OTEL_BSP_MAX_EXPORT_BATCH_SIZE allows."""
    from waggle.exporter.encoding import OtlpEncoder

    return OtlpEncoder(max_bytes=queue.max_request_bytes, max_spans=queue.max_request_spans)


class _EncodeOnce:
    """For several exporters: a batch that comes again has been encoded already."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._batch: SpanBatch | None = None
        self._requests: Sequence[Encoded] = ()

    def encode(self, batch: SpanBatch) -> Sequence[Encoded]:
        if batch is not self._batch:
            self._requests = self._encoder.encode(batch)
            self._batch = batch
        return self._requests


def _otlp(making: _Making) -> Exporter:
    from waggle.exporter.otlp import OtlpExporter

    where = OtlpSettings.from_environment(making.environ, making.settings.otlp)
    spool = making.spool("otlp")
    exporter = OtlpExporter(where, making.encoder, making.on_event, spool)
    return making.begun(exporter, spool)


def _zipkin(making: _Making) -> Exporter:
    from waggle.exporter.zipkin import ZipkinExporter

    spool = making.spool("zipkin")
    exporter = ZipkinExporter(
        making.environ, making.settings.zipkin, making.encoder, making.on_event, spool
    )
    return making.begun(exporter, spool)


def _file(making: _Making) -> Exporter:
    from waggle.exporter.json_file import JsonFileExporter

    settings = making.settings
    assert settings.json_file is not None  # or it would not have been chosen
    return JsonFileExporter(
        settings.json_file,
        settings.json_max,
        settings.json_keep,
        making.queue,
        making.encoder,
        making.on_event,
    )


def _json_lines(making: _Making) -> Exporter:
    from waggle.exporter.jsonlines import JsonLinesExporter

    return JsonLinesExporter(sys.stdout)


def _console(making: _Making) -> Exporter:
    from waggle.exporter.console import ConsoleExporter

    colors = {"NO_COLOR": "1"} if making.settings.no_color else {}
    return ConsoleExporter(sys.stdout, environment={**making.environ, **colors})
