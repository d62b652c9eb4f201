"""Exporters under test, the same for OTLP over HTTP and over gRPC."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unit.otlp_receivers import (
    GrpcAnswer,
    HttpAnswer,
    ReadyRequests,
    Receiver,
    grpc_receiver,
    http_receiver,
    request_of,
)
from waggle.exporter.base import ExporterStats
from waggle.exporter.otlp import OtlpExporter
from waggle.exporter.otlp_settings import Backoff, OtlpSettings, Protocol, QueueSettings, TlsFiles

QUICK = Backoff(first_s=0.02, longest_s=0.1)
AT_ONCE = QueueSettings(delay_s=0.0)


def settings_for(port: int, **changes: Any) -> OtlpSettings:
    """Settings for a receiver on this machine, HTTP unless said otherwise; quick to try again."""
    protocol = changes.get("protocol", Protocol.HTTP_PROTOBUF)
    given: dict[str, Any] = {
        "endpoint": f"http://127.0.0.1:{port}",
        "protocol": protocol,
        "scheme": "http",
        "host": "127.0.0.1",
        "port": port,
        "path": "" if protocol is Protocol.GRPC else "/v1/traces",
        "queue": AT_ONCE,
        "backoff": QUICK,
    }
    return OtlpSettings(**(given | changes))


@dataclass(frozen=True)
class Wire:
    """One of the two protocols: how to export by it, and how to receive."""

    protocol: Protocol
    answer: Callable[..., Any]  # HttpAnswer or GrpcAnswer: both have `body` and `before`
    _receiver: Callable[..., AbstractContextManager[Receiver]]

    def settings(self, port: int, **changes: Any) -> OtlpSettings:
        return settings_for(port, **({"protocol": self.protocol} | changes))

    def receiver(self, *script: Any, port: int = 0) -> AbstractContextManager[Receiver]:
        return self._receiver(*script, port=port)


HTTP = Wire(Protocol.HTTP_PROTOBUF, HttpAnswer, http_receiver)
GRPC = Wire(Protocol.GRPC, GrpcAnswer, grpc_receiver)


@contextmanager
def exporting(settings: OtlpSettings, events: list[str] | None = None) -> Iterator[OtlpExporter]:
    say = events.append if events is not None else (lambda _: None)
    exporter = OtlpExporter(settings, ReadyRequests(), say)
    try:
        yield exporter
    finally:
        exporter.close(0.0)


def export(exporter: OtlpExporter, *ids: int) -> None:
    """One request with a span per id."""
    exporter.export([request_of(*ids)])  # type: ignore[arg-type]


def settled(exporter: OtlpExporter) -> ExporterStats:
    """The account once nothing is waiting any more."""
    exporter.flush(60)
    stats = exporter.stats()
    assert stats.queued == 0
    return stats


def make_certificates(folder: Path) -> TlsFiles:
    """A self-signed certificate for localhost that is its own authority, and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 "
        "-keyout key.pem -out cert.pem"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return TlsFiles(trusted=certificate, certificate=certificate, key=key)


def wait_until(is_so: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not become so in time"
        time.sleep(0.005)


def sender_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "waggle-otlp"]
