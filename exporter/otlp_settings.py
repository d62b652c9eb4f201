"""What the standard `OTEL_*` variables say about sending spans by OTLP.

Names and meanings: OpenTelemetry specification, "OTLP Exporter" (protocol/exporter.md) and
"Environment Variable Specification" (the batch span processor's section). A variable that is
empty counts as not set, and one with the signal in its name (`TRACES_`, `METRICS_`) wins over the
general one.

Two defaults are not the specification's, because those are made for one process and an agent
carries a whole machine: the queue and the batch are larger, the delay shorter, and an unanswered
request is kept for an hour instead of thirty seconds. A variable that is set is obeyed as it is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from waggle.errors import UsageError
from waggle.exporter.signals import LOGS, TRACES, Signal

GENERAL = "OTEL_EXPORTER_OTLP_"
HTTP_DEFAULT_ENDPOINT = "http://localhost:4318"
GRPC_DEFAULT_ENDPOINT = "http://localhost:4317"
DEFAULT_PORTS = {"http": 80, "https": 443}
GRPC_DEFAULT_PORT = 4317
HIGHEST_PORT = 65_535
# RFC 9110's token: what a header's name may be made of.
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")


class Protocol(StrEnum):
    """The transports of OTLP that are spoken here."""

    HTTP_PROTOBUF = "http/protobuf"
    HTTP_JSON = "http/json"
    GRPC = "grpc"


class Compression(StrEnum):
    """How a request's body may be packed."""

    NONE = "none"
    GZIP = "gzip"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. `trusted` None means the system's certificates; the others serve mutual TLS."""

    trusted: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait after the n-th failure in a row, in seconds.

    Each wait is a random share (half to all) of `first_s` doubled n times, at most `longest_s`.
    """

    first_s: float = 1.0
    longest_s: float = 30.0


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """Bounds of what waits to be sent.

    delay_s: a request that is not full is sent when its first span has waited this long.
    max_request_bytes: receivers take 4 MiB by gRPC unless told otherwise; this leaves room.
    keep_trying_s: how long one request is tried before its spans are lost as "expired".
    noun: what is counted as spans here, for messages.
    """

    max_spans: int = 200_000
    max_bytes: int = 32 * 1024 * 1024
    delay_s: float = 1.0
    max_request_spans: int = 5_000
    max_request_bytes: int = 4 * 1024 * 1024 - 64 * 1024
    keep_trying_s: float = 3_600.0
    noun: str = TRACES.noun


@dataclass(frozen=True, slots=True)
class OtlpSettings:
    """Where spans go and how.

    scheme: "http", "https", or "unix" (grpc only; `host` is then the socket's path, `port` 0).
    timeout_s: for one attempt; None is the specification's 0, without limit.
    endpoint: what the user wrote, for messages.
    """

    endpoint: str
    protocol: Protocol
    scheme: str
    host: str
    port: int
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float | None = 10.0
    compression: Compression = Compression.NONE
    tls: TlsFiles = TlsFiles()
    queue: QueueSettings = QueueSettings()
    backoff: Backoff = Backoff()
    signal: Signal = TRACES

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str],
        endpoint_flag: str | None = None,
        signal: Signal = TRACES,
    ) -> "OtlpSettings":
        """Read the `OTEL_EXPORTER_OTLP_*` and `OTEL_BSP_*` variables.

        endpoint_flag: the value of `--otlp`, which takes the place of both endpoint variables
        and is a base URL like OTEL_EXPORTER_OTLP_ENDPOINT.
        Raises UsageError that names the variable, its value and the remedy.
        """
        read = Environment(environ, signal)
        protocol = read.protocol()
        endpoint = _read_endpoint(read, protocol, endpoint_flag)
        return cls(
            endpoint=endpoint.written,
            protocol=protocol,
            scheme=endpoint.scheme,
            host=endpoint.host,
            port=endpoint.port,
            path=endpoint.path,
            headers=read.headers(),
            timeout_s=read.timeout(),
            compression=read.choice("COMPRESSION", Compression, Compression.NONE),
            tls=read.tls(),
            queue=read.queue(),
            signal=signal,
        )

    def with_queue(self, queue: QueueSettings) -> "OtlpSettings":
        """The same with other bounds of what waits."""
        return replace(self, queue=queue)

    @staticmethod
    def names_an_endpoint(environ: Mapping[str, str], signal: Signal = TRACES) -> bool:
        """Whether the environment asks for a signal to be sent somewhere."""
        return any(
            environ.get(f"{GENERAL}{scope}ENDPOINT", "").strip() for scope in ("", signal.scope)
        )


ZIPKIN = "OTEL_EXPORTER_ZIPKIN_"
ZIPKIN_DEFAULT_ENDPOINT = "http://localhost:9411/api/v2/spans"


def zipkin_settings(environ: Mapping[str, str], endpoint_flag: str | None = None) -> OtlpSettings:
    """Where Zipkin is, by OTEL_EXPORTER_ZIPKIN_*, with the queue that OTEL_BSP_* describes.

    endpoint_flag: takes the place of the variable. Both are used as they are. Raises UsageError.
    """
    read = Environment(environ)
    setting = Setting("--zipkin", endpoint_flag) if endpoint_flag else None
    setting = setting or read.named(ZIPKIN + "ENDPOINT")
    endpoint = _http_endpoint(
        setting or Setting("default endpoint", ZIPKIN_DEFAULT_ENDPOINT), append=""
    )
    timeout_ms = whole_number(read.named(ZIPKIN + "TIMEOUT"), 10_000, lowest=0, unit="milliseconds")
    return OtlpSettings(
        endpoint=endpoint.written,
        protocol=Protocol.HTTP_JSON,
        scheme=endpoint.scheme,
        host=endpoint.host,
        port=endpoint.port,
        path=endpoint.path,
        timeout_s=timeout_ms / 1000 if timeout_ms else None,
        queue=read.queue(),
    )


def queue_settings(environ: Mapping[str, str], signal: Signal = TRACES) -> QueueSettings:
    """What OTEL_BSP_*, or of logs OTEL_BLRP_*, say. Raises UsageError."""
    return Environment(environ, signal).queue()


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and the name under which the user gave it."""

    name: str
    value: str

    def wrong(self, what: str, remedy: str) -> UsageError:
        return UsageError(f"{self.name}={self.value}: {what}; {remedy}")


_Choice = TypeVar("_Choice", bound=StrEnum)


class Environment:
    """Typed access to the variables, the signal's own one first."""

    def __init__(self, environ: Mapping[str, str], signal: Signal = TRACES) -> None:
        self._environ = environ
        self.signal = signal

    def named(self, name: str) -> Setting | None:
        value = self._environ.get(name, "").strip()
        return Setting(name, value) if value else None

    def own(self, suffix: str) -> Setting | None:
        return self.named(GENERAL + self.signal.scope + suffix)

    def otlp(self, suffix: str) -> Setting | None:
        return self.own(suffix) or self.named(GENERAL + suffix)

    def choice(self, suffix: str, choices: type[_Choice], default: _Choice) -> _Choice:
        setting = self.otlp(suffix)
        if setting is None:
            return default
        try:
            return choices(setting.value.lower())
        except ValueError:
            *others, last = (choice.value for choice in choices)
            known = f"{', '.join(others)} or {last}"
            raise setting.wrong("not a known value", f"use {known}") from None

    def protocol(self) -> Protocol:
        return self.choice("PROTOCOL", Protocol, Protocol.HTTP_PROTOBUF)

    def insecure(self) -> bool:
        setting = self.otlp("INSECURE")
        if setting is None:
            return False
        if setting.value.lower() not in ("true", "false"):
            raise setting.wrong("neither true nor false", "use one of the two")
        return setting.value.lower() == "true"

    def timeout(self) -> float | None:
        """Seconds, or None for 0: no limit."""
        milliseconds = whole_number(self.otlp("TIMEOUT"), 10_000, lowest=0, unit="milliseconds")
        return milliseconds / 1000 if milliseconds else None

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Key and value pairs; those for the signal win over the general ones, name by name."""
        merged: dict[str, str] = {}
        for setting in (self.named(GENERAL + "HEADERS"), self.own("HEADERS")):
            if setting is not None:
                merged.update(_parse_headers(setting))
        return tuple(merged.items())

    def tls(self) -> TlsFiles:
        files = TlsFiles(
            trusted=self._file("CERTIFICATE"),
            certificate=self._file("CLIENT_CERTIFICATE"),
            key=self._file("CLIENT_KEY"),
        )
        self._refuse_half_a_pair("CLIENT_CERTIFICATE", files.certificate, "CLIENT_KEY", files.key)
        self._refuse_half_a_pair("CLIENT_KEY", files.key, "CLIENT_CERTIFICATE", files.certificate)
        return files

    def _refuse_half_a_pair(
        self, given: str, file: Path | None, missing: str, other: Path | None
    ) -> None:
        setting = self.otlp(given)
        if setting is not None and file is not None and other is None:
            raise setting.wrong(
                "mutual TLS needs the certificate and its key",
                f"set {GENERAL}{missing} to the other PEM file",
            )

    def _file(self, suffix: str) -> Path | None:
        setting = self.otlp(suffix)
        if setting is None:
            return None
        path = Path(setting.value)
        try:
            path.open("rb").close()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise setting.wrong(
                f"cannot be read ({reason})", "name a PEM file that this user may read"
            ) from None
        return path

    def queue(self) -> QueueSettings:
        default = QueueSettings()
        noun = self.signal.noun
        max_spans = self._bsp("MAX_QUEUE_SIZE", default.max_spans, 1, noun)
        batch = self.named(self._batch + "MAX_EXPORT_BATCH_SIZE")
        max_request_spans = whole_number(
            batch, min(default.max_request_spans, max_spans), lowest=1, unit=noun
        )
        if batch is not None and max_request_spans > max_spans:
            raise batch.wrong(
                f"more than the queue holds ({max_spans} {noun})",
                f"lower it or raise {self._batch}MAX_QUEUE_SIZE",
            )
        delay = self._bsp("SCHEDULE_DELAY", int(default.delay_s * 1000), 0, "milliseconds")
        keep_trying = self._bsp(
            "EXPORT_TIMEOUT", int(default.keep_trying_s * 1000), 0, "milliseconds"
        )
        return QueueSettings(
            max_spans=max_spans,
            max_request_spans=max_request_spans,
            delay_s=delay / 1000,
            keep_trying_s=keep_trying / 1000 if keep_trying else float("inf"),
            noun=noun,
        )

    @property
    def _batch(self) -> str:
        """How the variables of the signal's batches begin."""
        return "OTEL_BLRP_" if self.signal is LOGS else "OTEL_BSP_"

    def _bsp(self, suffix: str, default: int, lowest: int, unit: str) -> int:
        return whole_number(self.named(self._batch + suffix), default, lowest=lowest, unit=unit)


def whole_number(setting: Setting | None, default: int, *, lowest: int, unit: str) -> int:
    """The number that a variable says. Raises UsageError."""
    if setting is None:
        return default
    if not (setting.value.isascii() and setting.value.isdigit() and len(setting.value) <= 15):
        raise setting.wrong("not a whole number", f"give it in {unit}, like {default}")
    number = int(setting.value)
    if number < lowest:
        raise setting.wrong("too small", f"give at least {lowest} {unit}")
    return number


def _parse_headers(setting: Setting) -> dict[str, str]:
    """`name=value,name=value`, values percent-encoded; names compare without case.

    Messages name the header but never repeat the values: they are often credentials.
    """
    hidden = Setting(setting.name, "…")
    headers: dict[str, str] = {}
    for position, member in enumerate(setting.value.split(","), start=1):
        if not member.strip():
            continue
        name, equals, value = member.partition("=")
        name = unquote(name.strip()).lower()
        if not equals or not TOKEN.match(name):
            raise hidden.wrong(
                f"entry {position} is not name=value with a valid header name",
                "write name=value,name=value with commas in values as %2C",
            )
        headers[name] = _header_value(hidden, name, value.strip())
    return headers


def _header_value(hidden: Setting, name: str, encoded: str) -> str:
    try:
        value = unquote(encoded, errors="strict")
    except UnicodeDecodeError:
        value = "\0"
    if any(not " " <= character <= "~" for character in value):
        raise hidden.wrong(
            f"the value of {name} has characters that no header can carry",
            "use printable ASCII, percent-encoded where needed",
        )
    return value


@dataclass(frozen=True, slots=True)
class _Endpoint:
    written: str
    scheme: str
    host: str
    port: int
    path: str


def _read_endpoint(read: Environment, protocol: Protocol, flag: str | None) -> _Endpoint:
    per_signal = None if flag else read.own("ENDPOINT")
    setting = Setting("--otlp", flag) if flag else per_signal or read.named(GENERAL + "ENDPOINT")
    if protocol is Protocol.GRPC:
        return _grpc_endpoint(
            setting or Setting("default endpoint", GRPC_DEFAULT_ENDPOINT), read.insecure()
        )
    return _http_endpoint(
        setting or Setting("default endpoint", HTTP_DEFAULT_ENDPOINT),
        append="" if per_signal else read.signal.path,
    )


def _http_endpoint(setting: Setting, *, append: str) -> _Endpoint:
    """A base endpoint gets a path such as /v1/traces appended; a signal's own is used as it is."""
    url = _split(setting)
    if "://" not in setting.value:
        raise setting.wrong("no scheme", f"write http://{setting.value} or https://{setting.value}")
    if url.scheme not in DEFAULT_PORTS:
        raise setting.wrong(
            f"scheme {url.scheme} is not spoken by OTLP over HTTP", "use http:// or https://"
        )
    path = url.path.rstrip("/") + append if append else url.path or "/"
    query = f"?{url.query}" if url.query else ""
    return _Endpoint(
        written=setting.value,
        scheme=url.scheme,
        host=_host(setting, url),
        port=_port(setting, url, DEFAULT_PORTS[url.scheme]),
        path=path + query,
    )


def _grpc_endpoint(setting: Setting, insecure: bool) -> _Endpoint:
    """http:// is plain text, https:// is TLS; for a bare host:port the INSECURE variable decides.

    `unix:PATH`, gRPC's own form for a socket, is taken too and is always plain text.
    """
    if setting.value.startswith("unix:"):
        path = setting.value.removeprefix("unix:")
        path = "/" + path.lstrip("/") if path.startswith("//") else path
        return _Endpoint(setting.value, "unix", path, 0, "")
    full = setting
    if "://" not in setting.value:
        scheme = "http" if insecure else "https"
        full = Setting(setting.name, f"{scheme}://{setting.value}")
    url = _split(full)
    if url.scheme not in DEFAULT_PORTS:
        raise setting.wrong(
            f"scheme {url.scheme} is not spoken by OTLP over gRPC",
            "use http:// (plain text), https:// (TLS) or unix:PATH",
        )
    if url.path.strip("/") or url.query:
        raise setting.wrong(
            "gRPC takes no path",
            f"leave it off, or set {GENERAL}PROTOCOL=http/protobuf",
        )
    return _Endpoint(
        written=setting.value,
        scheme=url.scheme,
        host=_host(setting, url),
        port=_port(setting, url, GRPC_DEFAULT_PORT),
        path="",
    )


def _split(setting: Setting) -> SplitResult:
    if any(character.isspace() or not character.isprintable() for character in setting.value):
        raise setting.wrong("a URL has no blanks in it", "write them as %20 or take them out")
    try:
        return urlsplit(setting.value)
    except ValueError as error:
        raise setting.wrong(f"not a URL ({error})", "write it like http://host:4318") from None


def _host(setting: Setting, url: SplitResult) -> str:
    if url.username is not None or url.password is not None:
        raise Setting(setting.name, "…").wrong(
            "credentials in the URL are not sent",
            f"put them into {GENERAL}HEADERS=authorization=Basic%20...",
        )
    if not url.hostname:
        raise setting.wrong("no host", "write it like http://host:4318")
    return url.hostname


def _port(setting: Setting, url: SplitResult, default: int) -> int:
    try:
        port = url.port
    except ValueError:
        port = HIGHEST_PORT + 1
    if port is None:
        return default
    if not 1 <= port <= HIGHEST_PORT:
        raise setting.wrong("not a port", f"give one from 1 to {HIGHEST_PORT}")
    return port
