"""Which exporters a run has, from its settings."""

import sys
from collections.abc import Callable, Mapping

from waggle.config import Settings
from waggle.exporter.base import Exporter
from waggle.exporter.encoding import OtlpEncoder
from waggle.exporter.otlp_settings import OtlpSettings


def make_exporters(
    settings: Settings, environ: Mapping[str, str], on_event: Callable[[str], None]
) -> list[Exporter]:
    """OTLP where an endpoint is named; on stdout JSON lines, or the live view, or nothing.

    The live view is for runs without an endpoint. Raises UsageError for settings
    that cannot be used.
    """
    exporters: list[Exporter] = []
    endpoint = settings.otlp_traces or settings.otlp
    if endpoint:
        from waggle.exporter.otlp import OtlpExporter

        exporters.append(OtlpExporter(otlp_settings(settings, environ), OtlpEncoder(), on_event))
    if settings.json_lines:
        from waggle.exporter.jsonlines import JsonLinesExporter

        exporters.append(JsonLinesExporter(sys.stdout))
    elif not settings.quiet and not endpoint:
        from waggle.exporter.console import ConsoleExporter

        environment = dict(environ) | ({"NO_COLOR": "1"} if settings.no_color else {})
        exporters.append(ConsoleExporter(sys.stdout, environment=environment))
    return exporters


def otlp_settings(settings: Settings, environ: Mapping[str, str]) -> OtlpSettings:
    """The exporter's settings: the environment's, with what flags and file say above it."""
    merged = dict(environ)
    prefix = "OTEL_EXPORTER_OTLP_TRACES_"
    merged[prefix + "PROTOCOL"] = settings.otlp_protocol
    merged[prefix + "COMPRESSION"] = settings.otlp_compression
    merged[prefix + "TIMEOUT"] = str(settings.otlp_timeout)
    if settings.otlp_traces:
        merged[prefix + "ENDPOINT"] = settings.otlp_traces
        return OtlpSettings.from_environment(merged)
    return OtlpSettings.from_environment(merged, settings.otlp)
