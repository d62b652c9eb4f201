"""OTLP over gRPC, with the ready bytes: no message object is made on the way out."""

import os
import re
import threading
from typing import Any

# gRPC's core writes its own log lines to stderr, where only main() may speak. What it would say
# comes back to us as the status of the call. It reads this once, when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from waggle import __version__
from waggle.errors import UsageError
from waggle.exporter.otlp_answer import (
    Answer,
    Refused,
    TryAgain,
    read_acceptance,
    read_rpc_status,
)
from waggle.exporter.otlp_settings import Compression, OtlpSettings, TlsFiles
from waggle.exporter.otlp_tls import client_context

METADATA_NAME = re.compile(r"[0-9a-z_.-]+\Z")
STATUS_DETAILS = "grpc-status-details-bin"
RETRYABLE = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
# gRPC has one status for all that can keep a connection from being made: its words tell.
NOBODY = re.compile(r"connection refused|no such file or directory|hostname lookup error", re.I)
CHANNEL_OPTIONS = (
    # Attempts and pauses between them are the sender's business: gRPC adds none of its own, and
    # a new channel really connects anew instead of waiting with a shared one.
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.primary_user_agent", f"waggle-otlp-exporter/{__version__}"),
)


class GrpcTransport:
    """Unary calls on one channel, which is made anew when the receiver could not be reached."""

    def __init__(self, settings: OtlpSettings) -> None:
        """Raises UsageError when a TLS file cannot be used or a header cannot be sent by gRPC.

        Connects at the first send().
        """
        _check_names(settings)
        self._settings = settings
        self._target = _target(settings)
        self._credentials = _credentials(settings.tls) if settings.scheme == "https" else None
        self._compression = (
            grpc.Compression.Gzip
            if settings.compression is Compression.GZIP
            else grpc.Compression.NoCompression
        )
        self._channel: grpc.Channel | None = None
        self._call: Any = None  # grpc.Future of the attempt under way
        self._guard = threading.Lock()  # of _call, which abort() reads from another thread
        self._aborted = False

    def send(self, payload: bytes) -> Answer:
        """Make one call with the settings' timeout as its deadline."""
        channel = self._channel = self._channel or self._open()
        # No serializers: bytes go in and come out.
        export = channel.unary_unary(self._settings.signal.method, None, None)
        call = export.future(
            payload, timeout=self._settings.timeout_s, metadata=self._settings.headers
        )
        self._begin(call)
        try:
            return read_acceptance(call.result())
        except grpc.FutureCancelledError:
            return TryAgain("the call was cancelled")
        except grpc.RpcError as error:
            return self._read_failure(error)
        finally:
            self._call = None

    def _begin(self, call: Any) -> None:
        with self._guard:
            self._call = call
            if self._aborted:
                call.cancel()

    def abort(self) -> None:
        with self._guard:
            self._aborted = True
            if self._call is not None:
                self._call.cancel()

    def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _open(self) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(
                self._target, options=CHANNEL_OPTIONS, compression=self._compression
            )
        return grpc.secure_channel(
            self._target, self._credentials, options=CHANNEL_OPTIONS, compression=self._compression
        )

    def _read_failure(self, error: Any) -> Answer:
        """error: grpc.RpcError that is a grpc.Call too, as all are that a call raises."""
        code = error.code()
        status = read_rpc_status(_details(error))
        words = status.message or error.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE and status.retry_after_s is None:
            self.close()
        if code in RETRYABLE:
            nobody = code is grpc.StatusCode.UNAVAILABLE and bool(NOBODY.search(words))
            return TryAgain(_plain_reason(code, words), status.retry_after_s, nobody)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and status.retry_after_s is not None:
            return TryAgain(_plain_reason(code, words), status.retry_after_s)
        return Refused(code.name.lower(), words[:200])


def _check_names(settings: OtlpSettings) -> None:
    """gRPC allows fewer names than HTTP, and would refuse each single call."""
    for name, _ in settings.headers:
        if not METADATA_NAME.match(name) or name.startswith("grpc-") or name.endswith("-bin"):
            raise UsageError(
                f"OTEL_EXPORTER_OTLP_HEADERS: gRPC cannot send a header named {name}; "
                "use letters, digits, -, _ and ., or set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
            )


def _target(settings: OtlpSettings) -> str:
    if settings.scheme == "unix":
        return f"unix:{settings.host}"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{host}:{settings.port}"


def _credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    """Certificates are checked here, where a bad one is a clear error; gRPC would only fail to
    connect. Without a trusted file gRPC trusts the authorities it ships with."""
    client_context(files)
    trusted, certificate, key = (
        file.read_bytes() if file is not None else None
        for file in (files.trusted, files.certificate, files.key)
    )
    return grpc.ssl_channel_credentials(trusted, key, certificate)


def _details(error: Any) -> bytes:
    for name, value in error.trailing_metadata() or ():
        if name == STATUS_DETAILS and isinstance(value, bytes):
            return value
    return b""


def _plain_reason(code: grpc.StatusCode, words: str) -> str:
    if code is grpc.StatusCode.UNAVAILABLE and "onnection refused" in words:
        return "connection refused"
    name = code.name.lower().replace("_", " ")
    return f"{name} ({words[:200]})" if words else name
