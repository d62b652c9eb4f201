"""OTEL_METRICS_EXPORTER and its neighbours, and our flags."""

import pytest

from waggle.config import load_settings
from waggle.errors import UsageError
from waggle.exporter.metrics_settings import MetricsSettings, Temporality
from waggle.exporter.otlp_settings import Protocol


def read(environ: dict[str, str] | None = None, **flags: object) -> MetricsSettings:
    return MetricsSettings.of(load_settings(flags, {}), environ or {})


def test_nothing_is_exported_unless_it_is_asked_for() -> None:
    """An endpoint for traces alone means no metrics; nor does one for all signals."""
    assert not read().wanted
    assert not read({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318"}, otlp="http://b").wanted


@pytest.mark.parametrize(
    ("environ", "flags", "wanted"),
    [
        ({"OTEL_METRICS_EXPORTER": "otlp"}, {}, "otlp"),
        ({"OTEL_METRICS_EXPORTER": " Prometheus , console"}, {}, "prometheus console"),
        ({"OTEL_METRICS_EXPORTER": "none"}, {}, ""),
        ({"OTEL_METRICS_EXPORTER": "none"}, {"prometheus": ":1"}, "prometheus"),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://a/m"}, {}, "otlp"),
        (
            {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://a", "OTEL_METRICS_EXPORTER": "none"},
            {},
            "",
        ),
        ({}, {"metrics": True}, "otlp"),
        ({"OTEL_SDK_DISABLED": "true"}, {"metrics": True}, ""),
    ],
)
def test_who_is_asked_for(environ: dict[str, str], flags: dict[str, object], wanted: str) -> None:
    """The variable, the endpoint for metrics, and the flags, which always count."""
    found = read(environ, **flags)
    told = {"otlp": found.otlp, "prometheus": found.prometheus, "console": found.console}
    assert {name for name, value in told.items() if value} == set(wanted.split())


def test_the_standard_variables_mean_what_they_say() -> None:
    """Endpoint with path appended, protocol, headers by signal, times, temporality, histograms."""
    found = read(
        {
            "OTEL_METRICS_EXPORTER": "otlp,prometheus",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://all:4318/base",
            "OTEL_EXPORTER_OTLP_HEADERS": "a=1,b=1",
            "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "b=2",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "c=3",
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/json",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "Delta",
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": (
                "base2_exponential_bucket_histogram"
            ),
            "OTEL_METRIC_EXPORT_INTERVAL": "1500",
            "OTEL_METRIC_EXPORT_TIMEOUT": "2500",
            "OTEL_EXPORTER_PROMETHEUS_PORT": "9999",
            "OTEL_METRICS_EXEMPLAR_FILTER": "always_on",
        }
    )
    assert found.otlp is not None
    assert (found.otlp.host, found.otlp.path) == ("all", "/base/v1/metrics")
    assert found.otlp.headers == (("a", "1"), ("b", "2"))
    assert found.otlp.protocol is Protocol.HTTP_JSON
    assert (found.temporality, found.exponential) == (Temporality.DELTA, True)
    assert (found.interval_s, found.otlp.queue.keep_trying_s) == (1.5, 2.5)
    assert found.prometheus is not None
    assert (found.prometheus.host, found.prometheus.port) == ("localhost", 9999)
    assert found.exemplars == "always_on"


def test_flags_win_for_metrics_too() -> None:
    """--otlp and what belongs to it are for every signal."""
    environ = {
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://other/m",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc",
    }
    found = read(environ, metrics=True, otlp="http://mine", otlp_protocol="http/json").otlp
    assert found is not None
    assert (found.host, found.path, found.protocol) == ("mine", "/v1/metrics", Protocol.HTTP_JSON)


def test_an_outage_costs_no_delta_and_no_patience_for_what_comes_again() -> None:
    """Cumulative metrics are tried for 30 s, as the specification has it; deltas for an hour."""
    waits = []
    for preference in ("cumulative", "delta", "lowmemory"):
        name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
        found = read({name: preference}, metrics=True).otlp
        assert found is not None
        waits.append(found.queue.keep_trying_s)
    assert waits == [30.0, 3600.0, 3600.0]


@pytest.mark.parametrize(
    ("environ", "flags", "words"),
    [
        ({"OTEL_METRICS_EXPORTER": "otpl"}, {}, "did you mean 'otlp'"),
        ({"OTEL_METRICS_EXPORTER": "none,otlp"}, {}, "none contradicts"),
        ({"OTEL_METRICS_EXPORTER": "console"}, {"json_lines": True}, "stdout has room for one"),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "0"}, {}, "too small"),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "1m"}, {}, "milliseconds"),
        ({"OTEL_METRICS_EXEMPLAR_FILTER": "some"}, {}, "always_on"),
        (
            {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "sometimes"},
            {},
            "cumulative, delta or lowmemory",
        ),
        ({}, {"prometheus": "9464"}, "HOST:PORT"),
        ({}, {"prometheus": "h:70000"}, "HOST:PORT"),
    ],
)
def test_what_cannot_be_is_said_with_the_remedy(
    environ: dict[str, str], flags: dict[str, object], words: str
) -> None:
    """Each error names the variable or the flag, its value and the way out."""
    with pytest.raises(UsageError, match=words) as caught:
        read(environ, **flags)
    named = [*environ, *(f"--{name}" for name in flags)]
    assert any(name in str(caught.value) for name in named)
