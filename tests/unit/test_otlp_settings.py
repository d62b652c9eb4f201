"""The standard variables mean what the specification says, and bad values are named."""

from pathlib import Path

import pytest

from waggle.errors import UsageError
from waggle.exporter.otlp_settings import Compression, OtlpSettings, Protocol, QueueSettings

BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
GRPC = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}


def where(settings: OtlpSettings) -> tuple[str, str, int, str]:
    return settings.scheme, settings.host, settings.port, settings.path


@pytest.mark.parametrize(
    ("environ", "flag", "expected"),
    [
        ({}, None, ("http", "localhost", 4318, "/v1/traces")),
        ({BASE: ""}, None, ("http", "localhost", 4318, "/v1/traces")),
        ({BASE: "http://c:4318"}, None, ("http", "c", 4318, "/v1/traces")),
        ({BASE: "http://c:4318/"}, None, ("http", "c", 4318, "/v1/traces")),
        ({BASE: "https://c/otlp/"}, None, ("https", "c", 443, "/otlp/v1/traces")),
        ({BASE: "http://[::1]:4318"}, None, ("http", "::1", 4318, "/v1/traces")),
        ({TRACES: "http://c:4318/mine"}, None, ("http", "c", 4318, "/mine")),
        ({TRACES: "http://c"}, None, ("http", "c", 80, "/")),
        ({TRACES: "http://c/x?k=v"}, None, ("http", "c", 80, "/x?k=v")),
        ({TRACES: "http://t:1", BASE: "http://b:2"}, None, ("http", "t", 1, "/")),
        ({TRACES: "http://t:1"}, "http://f:3", ("http", "f", 3, "/v1/traces")),
    ],
)
def test_http_endpoint(
    environ: dict[str, str], flag: str | None, expected: tuple[str, str, int, str]
) -> None:
    """A base endpoint gets /v1/traces, one for traces is used as it is, the flag wins."""
    assert where(OtlpSettings.from_environment(environ, flag)) == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ("http", "localhost", 4317)),
        ({BASE: "http://c:1"}, ("http", "c", 1)),
        ({BASE: "https://c:1"}, ("https", "c", 1)),
        ({BASE: "https://c:1", "OTEL_EXPORTER_OTLP_INSECURE": "true"}, ("https", "c", 1)),
        ({BASE: "http://c"}, ("http", "c", 4317)),
        ({BASE: "c:1"}, ("https", "c", 1)),
        ({BASE: "c:1", "OTEL_EXPORTER_OTLP_INSECURE": "TRUE"}, ("http", "c", 1)),
        ({BASE: "c:1", "OTEL_EXPORTER_OTLP_TRACES_INSECURE": "true"}, ("http", "c", 1)),
        ({BASE: "http://b:2", TRACES: "http://t:1/"}, ("http", "t", 1)),
        ({BASE: "unix:/run/otel.sock"}, ("unix", "/run/otel.sock", 0)),
        ({BASE: "unix:///run/otel.sock"}, ("unix", "/run/otel.sock", 0)),
    ],
)
def test_grpc_endpoint(environ: dict[str, str], expected: tuple[str, str, int]) -> None:
    """The scheme decides about TLS; without one OTEL_EXPORTER_OTLP_INSECURE does."""
    assert where(OtlpSettings.from_environment(GRPC | environ))[:3] == expected


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({BASE: "collector:4318"}, ["no scheme", "http://collector:4318"]),
        ({BASE: "localhost"}, ["no scheme", "http://localhost"]),
        ({BASE: "ftp://c"}, ["ftp", "https://"]),
        ({BASE: "http://c:99999"}, ["not a port", "65535"]),
        ({BASE: "http://c:0"}, ["not a port"]),
        ({BASE: "http://c:http"}, ["not a port"]),
        ({BASE: "http://:4318"}, ["no host"]),
        ({BASE: "http://[::1"}, ["not a URL"]),
        ({BASE: "http://a b"}, ["blanks"]),
        ({TRACES: "grpc://c"}, ["grpc"]),
        (GRPC | {BASE: "http://c:4318/v1/traces"}, ["no path", "http/protobuf"]),
        (GRPC | {BASE: "tcp://c:4317"}, ["tcp", "unix:"]),
        (GRPC | {BASE: "c:port"}, ["not a port"]),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/xml"}, ["http/xml", "http/json or grpc"]),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}, ["zstd", "none or gzip"]),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "10s"}, ["10s", "milliseconds"]),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "-1"}, ["-1"]),
        ({"OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such.pem"}, ["/no/such.pem", "PEM"]),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "a=1,b"}, ["entry 2", "name=value"]),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "a b=1"}, ["entry 1"]),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "a=1%0d%0aevil"}, ["value of a", "percent"]),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "a=%ff"}, ["value of a"]),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "0"}, ["at least 1"]),
        ({"OTEL_BSP_SCHEDULE_DELAY": "soon"}, ["soon", "milliseconds"]),
        (
            {"OTEL_BSP_MAX_QUEUE_SIZE": "100", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "101"},
            ["100", "OTEL_BSP_MAX_QUEUE_SIZE"],
        ),
    ],
)
def test_bad_values_are_named_with_a_remedy(environ: dict[str, str], words: list[str]) -> None:
    """A bad value is a usage error that names the variable, what is wrong, and the way out."""
    with pytest.raises(UsageError) as caught:
        OtlpSettings.from_environment(environ)
    message = str(caught.value)
    assert any(name in message for name in environ)
    assert [word for word in words if word not in message] == []


def test_insecure_is_read_only_where_it_decides() -> None:
    """A bad OTEL_EXPORTER_OTLP_INSECURE is an error for gRPC and means nothing for HTTP."""
    environ = {"OTEL_EXPORTER_OTLP_INSECURE": "yes"}
    assert OtlpSettings.from_environment(environ).scheme == "http"
    with pytest.raises(UsageError, match="INSECURE=yes"):
        OtlpSettings.from_environment(environ | GRPC)


@pytest.mark.parametrize("secret", ["http://user:hunter2@c:4318"])
def test_credentials_are_not_repeated(secret: str) -> None:
    """A password in the URL is refused without being printed."""
    with pytest.raises(UsageError, match="HEADERS") as caught:
        OtlpSettings.from_environment({BASE: secret})
    assert "hunter2" not in str(caught.value)


def test_header_values_are_not_repeated() -> None:
    """An error about headers names the position, never the values: they are secrets."""
    with pytest.raises(UsageError) as caught:
        OtlpSettings.from_environment({"OTEL_EXPORTER_OTLP_HEADERS": "k=hunter2,oops"})
    assert "hunter2" not in str(caught.value)


def test_headers_are_decoded_and_merged() -> None:
    """Values are percent-decoded, blanks around them dropped, and those for traces win."""
    settings = OtlpSettings.from_environment(
        {
            "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Basic%20a%3D%3D, x = 1 ,y=a=b,",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "X=2%2C3",
        }
    )
    assert dict(settings.headers) == {"authorization": "Basic a==", "x": "2,3", "y": "a=b"}


def test_the_rest_is_read(tmp_path: Path) -> None:
    """Protocol, compression, timeout, TLS files and the batch processor's variables are obeyed,
    the ones for traces before the general ones."""
    files = [tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem")]
    for file in files:
        file.write_text("pem")
    settings = OtlpSettings.from_environment(
        {
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "2500",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(files[0]),
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(files[1]),
            "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY": str(files[2]),
            "OTEL_BSP_SCHEDULE_DELAY": "250",
            "OTEL_BSP_MAX_QUEUE_SIZE": "2048",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "512",
            "OTEL_BSP_EXPORT_TIMEOUT": "30000",
        }
    )
    assert settings.protocol is Protocol.HTTP_PROTOBUF
    assert settings.compression is Compression.GZIP
    assert settings.timeout_s == 2.5
    assert [settings.tls.trusted, settings.tls.certificate, settings.tls.key] == files
    assert settings.queue == QueueSettings(
        max_spans=2048, delay_s=0.25, max_request_spans=512, keep_trying_s=30
    )


def test_zero_timeouts_mean_no_limit() -> None:
    """The specification's 0 is no limit, for an attempt and for trying again."""
    settings = OtlpSettings.from_environment(
        {"OTEL_EXPORTER_OTLP_TIMEOUT": "0", "OTEL_BSP_EXPORT_TIMEOUT": "0"}
    )
    assert settings.timeout_s is None
    assert settings.queue.keep_trying_s == float("inf")


def test_a_small_queue_makes_small_requests() -> None:
    """A queue below the default request size bounds the request too."""
    settings = OtlpSettings.from_environment({"OTEL_BSP_MAX_QUEUE_SIZE": "100"})
    assert settings.queue.max_request_spans == 100


@pytest.mark.parametrize("name", ["CLIENT_CERTIFICATE", "CLIENT_KEY"])
def test_half_a_client_certificate_is_refused(tmp_path: Path, name: str) -> None:
    """A certificate without its key, or the reverse, names the missing variable."""
    pem = tmp_path / "one.pem"
    pem.write_text("pem")
    other = {"CLIENT_CERTIFICATE": "CLIENT_KEY", "CLIENT_KEY": "CLIENT_CERTIFICATE"}[name]
    with pytest.raises(UsageError, match=f"OTEL_EXPORTER_OTLP_{other}"):
        OtlpSettings.from_environment({f"OTEL_EXPORTER_OTLP_{name}": str(pem)})


def test_whether_an_endpoint_is_named() -> None:
    """Only a non-empty endpoint variable asks for export."""
    assert not OtlpSettings.names_an_endpoint({BASE: " ", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert OtlpSettings.names_an_endpoint({BASE: "http://c"})
    assert OtlpSettings.names_an_endpoint({TRACES: "http://c"})
