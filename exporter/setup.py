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
    merged = settings.otlp_environ(environ)
    has_endpoint = bool(settings.otlp) or OtlpSettings.names_an_endpoint(merged)
    if has_endpoint:
        from waggle.exporter.otlp import OtlpExporter

        where = OtlpSettings.from_environment(merged, settings.otlp)
        exporters.append(OtlpExporter(where, OtlpEncoder(), on_event))
    if settings.json_lines:
        from waggle.exporter.jsonlines import JsonLinesExporter

        exporters.append(JsonLinesExporter(sys.stdout))
    elif not settings.quiet and not has_endpoint:
        from waggle.exporter.console import ConsoleExporter

        environment = dict(environ) | ({"NO_COLOR": "1"} if settings.no_color else {})
        exporters.append(ConsoleExporter(sys.stdout, environment=environment))
    return exporters
