"""OTLP over gRPC against a server on a real socket that answers as scripted."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from unit.otlp_exporting import (
    export,
    exporting,
    make_certificates,
    settings_for,
    settled,
    wait_until,
)
from unit.otlp_receivers import (
    GrpcAnswer,
    ReadyRequests,
    grpc_receiver,
    request_of,
    retry_info_status,
)
from waggle.errors import UsageError
from waggle.exporter.otlp import OtlpExporter
from waggle.exporter.otlp_settings import Compression, OtlpSettings, Protocol, QueueSettings

FINAL = [
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
]
RETRYABLE = [
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
]


def grpc_settings(port: int, **changes: Any) -> OtlpSettings:
    return settings_for(port, **({"protocol": Protocol.GRPC} | changes))


def test_every_status_is_tested() -> None:
    """The two lists are all that gRPC has."""
    assert {*FINAL, *RETRYABLE, grpc.StatusCode.OK} == set(grpc.StatusCode)


@pytest.mark.parametrize("compression", list(Compression))
def test_the_bytes_arrive_with_the_headers(compression: Compression) -> None:
    """The ready bytes reach the trace service with the user's metadata, packed or not."""
    with grpc_receiver() as receiver:
        settings = grpc_settings(
            receiver.port, compression=compression, headers=(("x-tenant", "bees"),)
        )
        with exporting(settings) as exporter:
            export(exporter, 1, 2)
            assert settled(exporter).exported == 2
    (request,) = receiver.requests
    assert request.ids == [1, 2]
    assert request.headers["x-tenant"] == "bees"
    assert "waggle" in request.headers["user-agent"]


@pytest.mark.parametrize("code", RETRYABLE, ids=lambda code: code.name)
def test_retryable_codes_are_tried_again(code: grpc.StatusCode) -> None:
    """The codes the protocol calls retryable cost no span."""
    with grpc_receiver(GrpcAnswer(code), GrpcAnswer(code)) as receiver:
        with exporting(grpc_settings(receiver.port)) as exporter:
            export(exporter, 1)
            stats = settled(exporter)
        assert (stats.exported, stats.lost) == (1, {})
        assert receiver.ids() == [1, 1, 1]


@pytest.mark.parametrize("code", FINAL, ids=lambda code: code.name)
def test_other_codes_are_final(code: grpc.StatusCode) -> None:
    """Anything else is counted by its code after one attempt, and said once."""
    events: list[str] = []
    with grpc_receiver(GrpcAnswer(code, "no bees"), GrpcAnswer(code, "no bees")) as receiver:
        with exporting(grpc_settings(receiver.port), events) as exporter:
            for number in (1, 2, 3):
                export(exporter, number)
                stats = settled(exporter)
        assert (stats.exported, stats.lost) == (1, {f"refused_{code.name.lower()}": 2})
        assert receiver.ids() == [1, 2, 3]
    assert len(events) == 1
    assert "no bees" in events[0]


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE], ids=lambda c: c.name
)
def test_retry_info_is_obeyed(code: grpc.StatusCode) -> None:
    """With RetryInfo both codes are tried again, and not before the time it names."""
    busy = GrpcAnswer(code, "busy", details=retry_info_status(0.5))
    with grpc_receiver(busy) as receiver:
        with exporting(grpc_settings(receiver.port)) as exporter:
            export(exporter, 1)
            stats = settled(exporter)
        assert (stats.exported, stats.lost) == (1, {})
        first, second = receiver.requests
        assert second.at - first.at >= 0.5


def test_an_attempt_is_bounded_by_the_timeout() -> None:
    """A server that does not answer in time is given up and tried again."""
    held = threading.Event()
    try:
        with grpc_receiver(GrpcAnswer(before=held.wait)) as receiver:
            with exporting(grpc_settings(receiver.port, timeout_s=0.3)) as exporter:
                export(exporter, 1)
                assert settled(exporter).exported == 1
            assert receiver.ids() == [1, 1]
            held.set()
    finally:
        held.set()


def test_a_request_that_is_too_large_is_the_receivers_to_refuse() -> None:
    """The receiver decides what is too large; its refusal is counted and its remedy said."""
    events: list[str] = []
    with grpc_receiver() as receiver:
        with exporting(grpc_settings(receiver.port), events) as exporter:
            exporter.export([request_of(1, size=5_000_000)])  # type: ignore[arg-type]
            stats = settled(exporter)
        assert receiver.requests == []
    assert stats.lost == {"refused_resource_exhausted": 1}
    assert "OTEL_BSP_MAX_EXPORT_BATCH_SIZE" in events[0]


def test_unix_socket(tmp_path: Path) -> None:
    """unix:PATH reaches a server on a socket file."""
    path = tmp_path / "otel.sock"
    with grpc_receiver(path=path) as receiver:
        settings = OtlpSettings.from_environment(
            {
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"unix://{path}",
                "OTEL_BSP_SCHEDULE_DELAY": "0",
            }
        )
        with exporting(settings) as exporter:
            export(exporter, 1)
            assert settled(exporter).exported == 1
        assert receiver.ids() == [1]


def test_mutual_tls(tmp_path: Path) -> None:
    """A server that asks for our certificate gets it, and the spans."""
    files = make_certificates(tmp_path)
    assert files.certificate is not None
    assert files.key is not None
    certificate, key = files.certificate.read_bytes(), files.key.read_bytes()
    credentials = grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=certificate, require_client_auth=True
    )
    with grpc_receiver(credentials=credentials) as receiver:
        settings = grpc_settings(receiver.port, scheme="https", host="localhost", tls=files)
        with exporting(settings) as exporter:
            export(exporter, 1)
            assert settled(exporter).exported == 1
        assert receiver.ids() == [1]


def test_a_server_without_tls_is_an_outage(tmp_path: Path) -> None:
    """TLS towards a server that speaks plain text fails with an event, and spans are kept."""
    events: list[str] = []
    with grpc_receiver() as receiver:
        settings = grpc_settings(
            receiver.port,
            scheme="https",
            host="localhost",
            tls=make_certificates(tmp_path),
            queue=QueueSettings(delay_s=0.0),
        )
        with exporting(settings, events) as exporter:
            export(exporter, 1)
            wait_until(lambda: bool(events))
            assert exporter.stats().queued == 1
    assert "cannot send" in events[0]


def test_http_does_not_load_grpc() -> None:
    """An exporter over HTTP leaves grpcio, which is slow to load and large, alone."""
    program = (
        "import sys\n"
        "from waggle.exporter.otlp import OtlpExporter\n"
        "from waggle.exporter.otlp_settings import OtlpSettings\n"
        "OtlpExporter(OtlpSettings.from_environment({}), None).close(1)\n"
        "print('grpc' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", ["a!b", "grpc-timeout", "key-bin"])
def test_headers_that_grpc_cannot_send_are_found_at_the_start(name: str) -> None:
    """A name that gRPC would refuse on every call is a usage error that says what to use."""
    with pytest.raises(UsageError, match=f"named {name}"):
        OtlpExporter(grpc_settings(1, headers=((name, "x"),)), ReadyRequests())


def test_a_listener_that_fails_costs_nothing() -> None:
    """Spans arrive though whoever hears of the outage raises."""

    def fail(_text: str) -> None:
        raise OSError("stderr is closed")

    with grpc_receiver(GrpcAnswer(grpc.StatusCode.UNAVAILABLE)) as receiver:
        exporter = OtlpExporter(grpc_settings(receiver.port), ReadyRequests(), fail)
        export(exporter, 1)
        stats = settled(exporter)
        exporter.close(1)
    assert (stats.exported, stats.lost) == (1, {})
