"""One stream of HTTP/2 as the conventions want it: HTTP's, or RPC's where it is a gRPC call.

https://opentelemetry.io/docs/specs/semconv/http/http-spans/
https://opentelemetry.io/docs/specs/semconv/rpc/rpc-spans/
"""

import os
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from waggle.layout import End, Flag, Kept, Method, Protocol, Role
from waggle.probes.http1 import targets
from waggle.probes.http1.decode import (
    Http1Decoder,
    default_scheme,
    known_methods,
    server_address,
)
from waggle.probes.http2 import grpc
from waggle.probes.http2.kept import Known, MessageTimes, Stream, StreamKept
from waggle.probes.http2.names import ToldBy
from waggle.spans import (
    END_ERRORS,
    KIND_CLIENT,
    KIND_SERVER,
    Attributes,
    Decoded,
    Event,
    Exchange,
    Facts,
    Targets,
    VaryingField,
    connection_address,
    is_unix,
)

_OTHER = "_OTHER"
_KNOWN_BY: Mapping[int, str] = {
    Known.RESET: "reset",
    Known.HTTP: "http status",
    Known.DEADLINE: "deadline",
    Known.CONNECTION: "connection",
}
_BROKEN_OFF = frozenset((End.STREAM_CANCELLED, End.STREAM_RESET, End.GOAWAY))


class Http2Decoder:
    """Decodes resolved records of layout.Protocol.HTTP2 (resolve.py)."""

    protocol: int = Protocol.HTTP2

    def __init__(self, http: Http1Decoder) -> None:
        self._http = http
        self.varying: Mapping[int, VaryingField] = http.varying

    def decode(self, exchange: Exchange) -> Decoded:
        stream = Stream.of(exchange.kept.get(StreamKept.STREAM, b""))
        is_rpc = StreamKept.RPC_SYSTEM in exchange.kept
        if is_rpc and not exchange.target:
            decoded = _decode_call(exchange, stream)
        else:
            decoded = self._decode_http(exchange, stream)
            if is_rpc:
                _add_method(exchange, decoded)
        _add_own_attributes(exchange, stream, decoded.attributes)
        return decoded

    def plain_targets(self, columns: Targets) -> npt.NDArray[np.bool_]:
        """Those of HTTP/1; a call has none, its method is a kept field."""
        plain: npt.NDArray[np.bool_] = columns.lengths == 0
        others = (~plain).nonzero()[0]
        plain[others] = targets.plain_targets(columns.take(others))
        return plain

    def _decode_http(self, exchange: Exchange, stream: Stream) -> Decoded:
        decoded = self._http.decode(exchange, exchange.text(StreamKept.SCHEME))
        attributes = decoded.attributes
        if not exchange.target and exchange.facts.method != Method.CONNECT:
            for name in ("url.path", "url.full"):  # of a head that could not be read
                attributes.pop(name, None)
        failed = exchange.facts.end in _BROKEN_OFF
        if failed and not decoded.error:
            attributes["error.type"] = _error_name(stream.error)
            decoded.error, decoded.status_message = True, _broken_off(exchange.facts, stream)
        return decoded


def _decode_call(exchange: Exchange, stream: Stream) -> Decoded:
    facts = exchange.facts
    attributes: Attributes = {"rpc.system.name": exchange.text(StreamKept.RPC_SYSTEM)}
    code = grpc.sent_code(exchange.kept.get(StreamKept.RPC_STATUS))
    name = _method(exchange, code, attributes)
    if code is not None:
        attributes["rpc.response.status_code"] = grpc.code_name(code)
    _add_addresses(exchange, attributes)
    _add_messages(exchange, stream, attributes)
    error, message = _outcome(exchange, stream, code, attributes)
    kind = KIND_SERVER if facts.role == Role.SERVER else KIND_CLIENT
    return Decoded(name, kind, attributes, error, message, _message_events(exchange, stream))


def _method(exchange: Exchange, code: int | None, attributes: Attributes) -> str:
    """Sets the method's attributes and returns what stands for it in a span's name.

    A server that answers UNIMPLEMENTED does not know the method: its name is whatever
    a client made up, and names of spans must be few.
    """
    method = exchange.text(StreamKept.RPC_METHOD)
    system = str(attributes["rpc.system.name"])
    if not method:
        return system
    if exchange.facts.role == Role.SERVER and code == grpc.UNIMPLEMENTED:
        attributes["rpc.method"] = _OTHER
        attributes["rpc.method_original"] = method
        return system
    attributes["rpc.method"] = method
    return method


def _add_method(exchange: Exchange, decoded: Decoded) -> None:
    """gRPC-Web and Connect: calls that are plain HTTP, whose status is in their bodies."""
    decoded.attributes["rpc.system.name"] = exchange.text(StreamKept.RPC_SYSTEM)
    method = exchange.text(StreamKept.RPC_METHOD)
    if method and exchange.facts.status != 404:
        decoded.attributes["rpc.method"] = method
        decoded.name = method
    code = grpc.sent_code(exchange.kept.get(StreamKept.RPC_STATUS))
    if code is not None:
        decoded.attributes["rpc.response.status_code"] = grpc.code_name(code)


def _add_addresses(exchange: Exchange, attributes: Attributes) -> None:
    facts = exchange.facts
    authority = targets.parse_authority(exchange.text(Kept.HOST))
    scheme = exchange.text(StreamKept.SCHEME) or default_scheme(facts)
    server = connection_address(facts, facts.local_addr)
    if facts.role != Role.SERVER:
        server = exchange.peer
    server_address(authority, scheme, server, facts, attributes)
    if facts.role == Role.SERVER and exchange.peer is not None:
        attributes["client.address"] = exchange.peer
    if is_unix(facts):
        attributes["network.transport"] = "unix"
    if exchange.peer is not None:
        attributes["network.peer.address"] = exchange.peer
        attributes["network.peer.port"] = facts.peer_port


def _add_messages(exchange: Exchange, stream: Stream, attributes: Attributes) -> None:
    facts = exchange.facts
    timeout = exchange.text(StreamKept.RPC_TIMEOUT)
    if timeout:
        attributes["rpc.request.metadata.grpc-timeout"] = [timeout]
    kind = _call_kind(stream)
    if kind:
        attributes["waggle.grpc.call"] = kind
    attributes["waggle.grpc.request.messages"] = stream.requests
    attributes["waggle.grpc.response.messages"] = stream.responses
    if facts.flags & Flag.REQUEST_BODY:
        attributes["waggle.grpc.request.bytes"] = facts.request_body & _INT64_MAX
    if facts.flags & Flag.RESPONSE_BODY:
        attributes["waggle.grpc.response.bytes"] = facts.response_body & _INT64_MAX


_INT64_MAX = (1 << 63) - 1


def _call_kind(stream: Stream) -> str:
    """The kind of call as far as its messages show it; a stream of one looks unary."""
    if stream.requests > 1:
        return "bidi_streaming" if stream.responses > 1 else "client_streaming"
    if stream.responses > 1:
        return "server_streaming"
    return "unary" if (stream.requests, stream.responses) == (1, 1) else ""


def _message_events(exchange: Exchange, stream: Stream) -> tuple[Event, ...]:
    """At most four: the first and the last message of each side."""
    times = MessageTimes.of(exchange.kept.get(StreamKept.MESSAGE_TIMES, b""))
    if times is None:
        return ()
    found = [
        ("waggle.grpc.request.first_message", times.first_request, stream.requests > 0),
        ("waggle.grpc.request.last_message", times.last_request, stream.requests > 1),
        ("waggle.grpc.response.first_message", times.first_response, stream.responses > 0),
        ("waggle.grpc.response.last_message", times.last_response, stream.responses > 1),
    ]
    events = [Event(name, at_ns) for name, at_ns, there in found if there and at_ns]
    return tuple(sorted(events, key=lambda event: event.unix_ns))


def _outcome(
    exchange: Exchange, stream: Stream, code: int | None, attributes: Attributes
) -> tuple[bool, str]:
    """Sets error.type; returns whether the span is an error, and its description."""
    facts = exchange.facts
    if code is None:
        failure = END_ERRORS.get(facts.end)
        if failure is None:
            return False, ""
        attributes["error.type"] = failure[0]
        return True, failure[1]
    if stream.known in _KNOWN_BY:
        attributes["waggle.grpc.status_by"] = _KNOWN_BY[stream.known]
    is_error = code in grpc.SERVER_ERRORS if facts.role == Role.SERVER else code != 0
    if not is_error:
        return False, ""
    attributes["error.type"] = grpc.code_name(code)
    message = grpc.message_text(exchange.kept.get(StreamKept.RPC_MESSAGE, b""))
    if not message and facts.end in _BROKEN_OFF:
        message = _broken_off(facts, stream)
    return True, message or END_ERRORS.get(facts.end, ("", ""))[1]


def _broken_off(facts: Facts, stream: Stream) -> str:
    """What ended a stream before its time, in words."""
    name = _error_name(stream.error)
    if facts.end == End.GOAWAY:
        return f"refused by a GOAWAY ({name})"
    who = "this side" if facts.end == End.STREAM_CANCELLED else "the peer"
    return f"{who} reset the stream ({name})"


def _error_name(error: int) -> str:
    return grpc.HTTP2_ERRORS[error] if error < len(grpc.HTTP2_ERRORS) else f"0x{error:x}"


def _add_own_attributes(exchange: Exchange, stream: Stream, attributes: Attributes) -> None:
    if exchange.facts.end in _BROKEN_OFF:
        attributes["waggle.http2.error"] = _error_name(stream.error)
    if stream.unknown:
        # The table's entries were made before the agent came, or their events were lost.
        attributes["waggle.http2.unknown_fields"] = stream.unknown
    if stream.told_by:
        attributes["waggle.http2.name_by"] = ToldBy(stream.told_by).name.lower()
    if exchange.facts.end == End.UNSEEN:
        attributes["waggle.incomplete"] = True


DECODER = Http2Decoder(Http1Decoder(known_methods(os.environ)))
