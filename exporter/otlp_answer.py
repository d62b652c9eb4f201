"""What a receiver can say to a request, and how to read it from the wire.

Source: the OTLP specification (protocol version 1.x), its sections on responses, failures and
throttling for gRPC and HTTP.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from typing import Protocol as Interface

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, duration_pb2, message_factory
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from waggle.exporter.signals import TRACES, Signal

# No receiver may silence us for longer than this, whatever it asks for.
LONGEST_PAUSE_S = 600.0
MESSAGE_LIMIT = 200  # characters of a receiver's words that are repeated to the user


@dataclass(frozen=True, slots=True)
class Accepted:
    """The receiver has what was sent, all but `rejected` of them; `message` is its remark."""

    rejected: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Nobody took the spans, but may later; `after_s` is the receiver's own wish, if any.

    nobody: no connection could be made, because nobody listens there or the name means nothing.
    """

    reason: str
    after_s: float | None = None
    nobody: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The receiver will never take this request. `code` is short and from a small set."""

    code: str
    message: str


Answer = Accepted | TryAgain | Refused


class Transport(Interface):
    """One way to bring a request's bytes to the receiver. Used by one thread, but for abort()."""

    def send(self, payload: bytes) -> Answer:
        """Make one attempt; returns within the settings' timeout and never raises for a fault of
        the receiver or of the network."""
        ...

    def abort(self) -> None:
        """From any thread: end the attempt under way, if there is one; no other will follow."""
        ...

    def close(self) -> None: ...


def read_acceptance(
    body: bytes, content_type: str = "application/x-protobuf", signal: Signal = TRACES
) -> Accepted:
    """What an Export...ServiceResponse says. A body in no known form is a remark, no loss: the
    status already said that all was taken."""
    if not body:
        return Accepted()
    try:
        if content_type.startswith("application/json"):
            return _read_json_acceptance(body, signal)
        if content_type.startswith("application/x-protobuf"):
            # The responses of all signals have the same numbers and kinds of fields.
            partial = ExportTraceServiceResponse.FromString(body).partial_success
            return Accepted(max(partial.rejected_spans, 0), _shorten(partial.error_message))
    except (DecodeError, ValueError, TypeError, AttributeError):
        pass
    return Accepted(
        message=f"an answer that is not OTLP's ({content_type or 'no content type'}): "
        "is this the right endpoint?"
    )


def _read_json_acceptance(body: bytes, signal: Signal) -> Accepted:
    partial = json.loads(body).get("partialSuccess", {})
    # 64-bit numbers are strings in protobuf's JSON form.
    rejected = int(partial.get(signal.rejected, 0))
    return Accepted(max(rejected, 0), _shorten(str(partial.get("errorMessage", ""))))


def read_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds to wait that a Retry-After header asks for: a number or an HTTP date."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:10]), LONGEST_PAUSE_S)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return min(max(seconds, 0.0), LONGEST_PAUSE_S)


@dataclass(frozen=True, slots=True)
class RpcStatus:
    """What a google.rpc.Status tells us: words, and RetryInfo's wish where it has one."""

    message: str = ""
    retry_after_s: float | None = None


def read_rpc_status(serialized: bytes) -> RpcStatus:
    """Read the details that come with a gRPC error, or the body of an HTTP one."""
    try:
        status = _STATUS.FromString(serialized)
        return RpcStatus(_shorten(status.message), _retry_delay(status.details))
    except DecodeError:
        return RpcStatus()


def read_error_words(body: bytes, content_type: str) -> str:
    """What the body of an HTTP error says: a google.rpc.Status in one of OTLP's two forms."""
    if content_type.startswith("application/x-protobuf"):
        return read_rpc_status(body).message
    if content_type.startswith("application/json"):
        try:
            return _shorten(str(json.loads(body).get("message", "")))
        except (ValueError, AttributeError):
            return ""
    return ""


def _retry_delay(details: Any) -> float | None:
    for detail in details:
        if detail.type_url.rpartition("/")[2] == "google.rpc.RetryInfo":
            delay = _RETRY_INFO.FromString(detail.value).retry_delay
            seconds = delay.seconds + delay.nanos / 1e9
            return float(min(max(seconds, 0.0), LONGEST_PAUSE_S))
    return None


def _shorten(text: str) -> str:
    """A receiver's words as one short line that cannot steer a terminal."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text[:1000]).split())
    return words if len(words) <= MESSAGE_LIMIT else words[: MESSAGE_LIMIT - 1] + "…"


def _rpc_messages() -> tuple[Any, Any]:
    """google.rpc.Status and RetryInfo, described here in a pool of their own.

    Three fields in all: less than a dependency, and no clash where another library brings the
    same names.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="waggle/rpc.proto",
        package="google.rpc",
        syntax="proto3",
        dependency=[any_pb2.DESCRIPTOR.name, duration_pb2.DESCRIPTOR.name],
    )
    status = file.message_type.add(name="Status")
    status.field.add(name="code", number=1, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL)
    status.field.add(name="message", number=2, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    status.field.add(
        name="details",
        number=3,
        type=field.TYPE_MESSAGE,
        label=field.LABEL_REPEATED,
        type_name=".google.protobuf.Any",
    )
    retry_info = file.message_type.add(name="RetryInfo")
    retry_info.field.add(
        name="retry_delay",
        number=1,
        type=field.TYPE_MESSAGE,
        label=field.LABEL_OPTIONAL,
        type_name=".google.protobuf.Duration",
    )
    pool = descriptor_pool.DescriptorPool()
    for known in (any_pb2.DESCRIPTOR, duration_pb2.DESCRIPTOR):
        pool.AddSerializedFile(known.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    make: Callable[[Any], type[Message]] = message_factory.GetMessageClass
    return (
        make(pool.FindMessageTypeByName("google.rpc.Status")),
        make(pool.FindMessageTypeByName("google.rpc.RetryInfo")),
    )


_STATUS, _RETRY_INFO = _rpc_messages()
