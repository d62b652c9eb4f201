"""gRPC by the RPC conventions, from what the wire says of a call.

Names: opentelemetry-semantic-conventions' newest package (rpc.system.name, the fully
qualified rpc.method, rpc.response.status_code as a word); rpc.service, rpc.system and
rpc.grpc.status_code are deprecated there. Which codes are errors:
https://opentelemetry.io/docs/specs/semconv/rpc/grpc/ . What a code is when none was
sent: "PROTOCOL-HTTP2" and "http-grpc-status-mapping" of the gRPC project's own docs.
"""

import re
from urllib.parse import unquote_to_bytes

from waggle.layout import End
from waggle.probes.http2.kept import Known

STATUS_NAMES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
_CODES = {name: code for code, name in enumerate(STATUS_NAMES)}
UNIMPLEMENTED = _CODES["UNIMPLEMENTED"]

# The others are the caller's doing, or an answer like any other.
SERVER_ERRORS = frozenset(
    _CODES[name]
    for name in (
        *("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE"),
        "DATA_LOSS",
    )
)

# RFC 9113 section 7.
HTTP2_ERRORS = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)
_CANCEL = HTTP2_ERRORS.index("CANCEL")
_OF_RESET = {
    HTTP2_ERRORS.index("REFUSED_STREAM"): "UNAVAILABLE",
    _CANCEL: "CANCELLED",
    HTTP2_ERRORS.index("ENHANCE_YOUR_CALM"): "RESOURCE_EXHAUSTED",
    HTTP2_ERRORS.index("INADEQUATE_SECURITY"): "PERMISSION_DENIED",
}
_OF_HTTP = {
    400: "INTERNAL",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "UNIMPLEMENTED",
    429: "UNAVAILABLE",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "UNAVAILABLE",
}

_RESET = frozenset((End.STREAM_CANCELLED, End.STREAM_RESET))
_LOST = frozenset((End.RESET, End.TIMED_OUT, End.PEER_CLOSED, End.LOCAL_CLOSED, End.PROCESS_EXIT))
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_UNIT_NS = {
    b"H": 3600 * 10**9,
    b"M": 60 * 10**9,
    b"S": 10**9,
    b"m": 10**6,
    b"u": 10**3,
    b"n": 1,
}
# Timers of both ends are coarse, and the time of a first byte is not that of the call.
_DEADLINE_SLACK_NS = 1_000_000


def timeout_ns(value: bytes) -> int | None:
    """A grpc-timeout in ns; None when it is none."""
    found = _TIMEOUT.fullmatch(value)
    return int(found[1]) * _UNIT_NS[found[2]] if found else None


def sent_code(value: bytes | None) -> int | None:
    """A grpc-status; one that is no number means UNKNOWN, as gRPC's own libraries take it."""
    if value is None:
        return None
    if value.isdigit() and len(value) <= 4:
        return int(value)
    return _CODES["UNKNOWN"]


def code_name(code: int) -> str:
    """The word for a code; its number where there is none."""
    return STATUS_NAMES[code] if code < len(STATUS_NAMES) else str(code)


def message_text(raw: bytes) -> str:
    """A grpc-message, percent-decoded."""
    return unquote_to_bytes(raw).decode("utf-8", "replace")


def concluded(
    *, end: int, error: int, http_status: int, duration_ns: int, timeout: bytes | None, server: bool
) -> tuple[int | None, Known]:
    """The code of a call that got no grpc-status, as the side that is traced must take it.

    A client that gives up at its deadline and one that is told to look the same on the
    wire (RST_STREAM CANCEL): the time tells them apart. So it does where a connection ended.
    """
    limit = timeout_ns(timeout) if timeout is not None else None
    is_late = limit is not None and duration_ns >= limit - _DEADLINE_SLACK_NS
    if is_late and (end in _LOST or (end in _RESET and error == _CANCEL)):
        return _CODES["DEADLINE_EXCEEDED"], Known.DEADLINE
    if end in _RESET:
        return _CODES[_OF_RESET.get(error, "INTERNAL")], Known.RESET
    if end == End.DONE:
        if http_status and http_status != 200:
            return _CODES[_OF_HTTP.get(http_status, "UNKNOWN")], Known.HTTP
        return None, Known.NOT
    if end == End.GOAWAY:
        return _CODES["UNAVAILABLE"], Known.CONNECTION
    if end in _LOST:
        # Whoever closes his own side gives up what is open on it.
        gave_up = server or end in (End.LOCAL_CLOSED, End.PROCESS_EXIT)
        return _CODES["CANCELLED" if gave_up else "UNAVAILABLE"], Known.CONNECTION
    return None, Known.NOT
