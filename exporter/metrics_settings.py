"""What the standard variables and our flags say about metrics.

Names and meanings: OpenTelemetry specification, "Environment Variable Specification" (Periodic
exporting MetricReader, Prometheus exporter, metrics SDK) and "Metrics Exporter - OTLP"
(metrics/sdk_exporters/otlp.md). Unlike there, nothing is exported unless it is asked for: an
endpoint for traces alone, Jaeger for instance, takes no metrics.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from waggle.config import Settings, nearest
from waggle.errors import UsageError
from waggle.exporter.otlp_settings import Environment, OtlpSettings, QueueSettings, whole_number
from waggle.exporter.signals import METRICS
from waggle.metrics.series import Limits
from waggle.pages import Address, parse_address

VARIABLE = "OTEL_METRICS_EXPORTER"
DISABLED = "OTEL_SDK_DISABLED"
_KNOWN = ("otlp", "prometheus", "console", "none")
_PROMETHEUS = "OTEL_EXPORTER_PROMETHEUS_"
_OTHERS = {"OTEL_EXPORTER_OTLP_TRACES_": "OTEL_EXPORTER_OTLP_METRICS_"}
_OUTAGE_S = 3_600.0
EXEMPLAR_FILTERS = ("always_on", "always_off", "trace_based")


class Temporality(StrEnum):
    """What OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE may say. The specification's
    `lowmemory` is delta for what is measured as it happens, as all histograms here are."""

    CUMULATIVE = "cumulative"
    DELTA = "delta"
    LOWMEMORY = "lowmemory"


class Aggregation(StrEnum):
    """What OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION may say."""

    EXPLICIT = "explicit_bucket_histogram"
    EXPONENTIAL = "base2_exponential_bucket_histogram"


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """otlp, prometheus, console: what is asked for. interval_s: of those that push."""

    otlp: OtlpSettings | None = None
    temporality: Temporality = Temporality.CUMULATIVE
    exponential: bool = False
    prometheus: Address | None = None
    console: bool = False
    interval_s: float = 60.0
    exemplars: str = "trace_based"
    limits: Limits = field(default_factory=Limits)
    guess_routes: bool = False

    @property
    def wanted(self) -> bool:
        return self.otlp is not None or self.prometheus is not None or self.console

    @classmethod
    def of(cls, settings: Settings, environ: Mapping[str, str]) -> "MetricsSettings":
        """Raises UsageError that names the variable or flag, its value and the remedy."""
        names = _chosen(settings, environ)
        merged = settings.otlp_environ(environ)
        for traces, ours in _OTHERS.items():  # the flags are for all signals
            merged |= {
                name.replace(traces, ours): value
                for name, value in settings.otlp_environ({}).items()
            }
        read = Environment(merged, METRICS)
        interval = whole_number(
            read.named("OTEL_METRIC_EXPORT_INTERVAL"), 60_000, lowest=1, unit="milliseconds"
        )
        temporality = read.choice("TEMPORALITY_PREFERENCE", Temporality, Temporality.CUMULATIVE)
        aggregation = read.choice(
            "DEFAULT_HISTOGRAM_AGGREGATION", Aggregation, Aggregation.EXPLICIT
        )
        return cls(
            otlp=_otlp(settings, merged, read, temporality) if "otlp" in names else None,
            temporality=temporality,
            exponential=aggregation is Aggregation.EXPONENTIAL,
            prometheus=_prometheus(settings, read) if "prometheus" in names else None,
            console="console" in names,
            interval_s=interval / 1000,
            exemplars=_exemplars(read),
            limits=Limits(per_resource=settings.metrics_limit),
            guess_routes=settings.guess_routes,
        )


def _chosen(settings: Settings, environ: Mapping[str, str]) -> set[str]:
    if environ.get(DISABLED, "").strip().lower() == "true":
        return set()
    names = {"otlp"} if settings.metrics else set()
    names |= {"prometheus"} if settings.prometheus else set()
    value = environ.get(VARIABLE, "")
    listed = {name.strip().lower() for name in value.split(",")} - {""}
    for name in sorted(listed - set(_KNOWN)):
        raise UsageError(f"{VARIABLE}={value}: no exporter '{name}': {nearest(name, _KNOWN)}")
    if "none" in listed and len(listed) > 1:
        raise UsageError(f"{VARIABLE}={value}: none contradicts the others: leave one or the other")
    if not listed and environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "").strip():
        names.add("otlp")
    names |= listed - {"none"}
    if "console" in names and settings.json_lines:
        raise UsageError(
            f"{VARIABLE}={value}: stdout has room for one: leave out console or --json"
        )
    return names


def _otlp(
    settings: Settings, merged: Mapping[str, str], read: Environment, temporality: Temporality
) -> OtlpSettings:
    found = OtlpSettings.from_environment(merged, settings.otlp, METRICS)
    timeout = read.named("OTEL_METRIC_EXPORT_TIMEOUT")
    milliseconds = whole_number(timeout, 30_000, lowest=0, unit="milliseconds")
    keep_trying_s = milliseconds / 1000 if milliseconds else float("inf")
    if timeout is None and temporality is not Temporality.CUMULATIVE:
        # Cumulative metrics come again with the next collection; of these a part would be lost.
        keep_trying_s = _OUTAGE_S
    queue = QueueSettings(
        max_spans=1_000_000,
        max_request_spans=1_000_000,
        delay_s=0.0,
        keep_trying_s=keep_trying_s,
        noun=METRICS.noun,
    )
    return found.with_queue(queue)


def _prometheus(settings: Settings, read: Environment) -> Address:
    if settings.prometheus:
        return parse_address(settings.prometheus, "--prometheus")
    host, port = read.named(_PROMETHEUS + "HOST"), read.named(_PROMETHEUS + "PORT")
    number = whole_number(port, 9464, lowest=1, unit="ports")
    said = f"{_PROMETHEUS}HOST:PORT"
    address = f"{host.value if host else 'localhost'}:{number}"
    return parse_address(address, said)


def _exemplars(read: Environment) -> str:
    setting = read.named("OTEL_METRICS_EXEMPLAR_FILTER")
    if setting is None:
        return "trace_based"
    value = setting.value.lower()
    if value not in EXEMPLAR_FILTERS:
        raise setting.wrong("not a known value", f"use {', '.join(EXEMPLAR_FILTERS)}")
    return value
