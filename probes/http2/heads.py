"""The header blocks of a stream -> what a span needs of them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from waggle.layout import Flag, Kept, Method
from waggle.probes.http2 import grpc
from waggle.probes.http2.blocks import Decoded, Field, Literal
from waggle.probes.http2.kept import Stream, StreamKept, kept_field
from waggle.probes.http2.names import Told, ToldBy
from waggle.tracestate_limits import within_limits

_METHODS = {m.name.encode(): int(m) for m in Method if m != Method.OTHER}
TIMEOUT = b"grpc-timeout"
_LISTS = frozenset((b"x-forwarded-for", b"forwarded", b"tracestate", b"baggage"))  # RFC 9110, 5.3
_SAME_AS_HTTP1 = {
    b"user-agent": Kept.USER_AGENT,
    b"x-forwarded-for": Kept.X_FORWARDED_FOR,
    b"x-forwarded-proto": Kept.X_FORWARDED_PROTO,
    b"forwarded": Kept.FORWARDED,
    b"tracestate": Kept.TRACESTATE,
    b"baggage": Kept.BAGGAGE,
}
BAGGAGE = b"baggage"  # only where somebody asks for it (quick.py: want_baggage())
WANTED = {
    *(name for name in _SAME_AS_HTTP1 if name != BAGGAGE),
    *(b":method", b":path", b":scheme", b":authority", b":status", b"host"),
    *(b"content-type", b"grpc-status", b"grpc-message", b"connect-protocol-version"),
    TIMEOUT,
}
# Of what is kept: longer values are cut, which only shows in a span's text.
_LONGEST = 512
_LONGEST_BAGGAGE = 1023  # as of HTTP/1
_LONGEST_MESSAGE = 256
_LONGEST_TIMEOUT = 16
_MOST_UNKNOWN = 0xFFFF


def wanted(fields: Iterable[Field]) -> dict[bytes, bytes]:
    """The fields that a span needs, by name: the first of each, lists joined."""
    found: dict[bytes, bytes] = {}
    for name, value in fields:
        if name not in WANTED:
            continue
        if name not in found:
            found[name] = value
        elif name in _LISTS:
            found[name] += b", " + value
    return found


@dataclass(frozen=True, slots=True)
class Block:
    """A decoded block: the fields that a span needs, but for grpc-timeout, which differs.

    unknown: fields that could not be decoded.
    """

    fields: tuple[Field, ...]
    unknown: int = 0


def block_of(fields: Iterable[Field]) -> Block:
    """What is needed of fields without a grpc-timeout."""
    return Block(tuple(wanted(fields).items()))


def read_block(decoded: Decoded) -> tuple[Block, Literal | None]:
    """What is needed of a block, and its grpc-timeout."""
    found = wanted(decoded.fields)
    timeout = found.pop(TIMEOUT, None)
    unknown = len(decoded.unknown) + (decoded.damage is not None)
    block = Block(tuple(found.items()), unknown)
    return block, None if timeout is None else Literal(timeout, False)


NO_BLOCK = Block((), 0)


class Blocks(NamedTuple):
    """A stream's blocks; NO_BLOCK where there was none."""

    request: Block = NO_BLOCK
    response: Block = NO_BLOCK
    trailers: Block = NO_BLOCK


@dataclass(frozen=True, slots=True)
class Head:
    """What the blocks of a stream say; `tail()` is what a record's head gets.

    code: sent grpc-status. is_call: whether the gRPC conventions are the span's.
    flags: layout.Flag bits to add. unknown: fields that could not be decoded.
    told_by: whose memory has the path, which the wire does not tell.
    """

    method: int
    status: int
    target: bytes
    fixed: bytes  # kept fields that need nothing of the record
    flags: int
    unknown: int
    is_call: bool = False
    is_rpc: bool = False
    code: int | None = None
    told_by: ToldBy = ToldBy.NOBODY

    def timeout_field(self, timeout: bytes) -> bytes:
        """The kept field of a grpc-timeout."""
        return (
            kept_field(StreamKept.RPC_TIMEOUT, timeout[:_LONGEST_TIMEOUT]) if self.is_rpc else b""
        )

    def kept(self, stream: Stream, code: int | None, times: bytes = b"") -> bytes:
        """The kept fields of a record but for its timeout; code: of the call, however known."""
        parts = [self.fixed]
        if code is not None and self.is_rpc:
            parts.append(kept_field(StreamKept.RPC_STATUS, str(code).encode()))
        if stream != _ORDINARY:
            parts.append(kept_field(StreamKept.STREAM, stream.packed()))
        if times:
            parts.append(kept_field(StreamKept.MESSAGE_TIMES, times))
        return b"".join(parts)


_ORDINARY = Stream()


def without_tracestate(block: Block) -> Block:
    """The same, where the request has no valid traceparent that it could belong to."""
    kept = tuple(field for field in block.fields if field[0] != b"tracestate")
    return Block(kept, block.unknown)


def read_head(
    blocks: Blocks,
    upgraded: tuple[int, bytes, bytes] | None = None,
    room: int = 3000,
    routed: bytes = b"",
    told: Told | None = None,
) -> Head:
    """What a stream's blocks say.

    upgraded: method, target and kept fields of a request that was sent as HTTP/1.
    room: bytes that target and kept fields may have; a longer target is cut.
    routed: kept fields of what the server's router matched; a gRPC call's route is its method.
    told: the stream's name in the program's memory, for what its blocks do not say.
    """
    request = dict(blocks.request.fields)
    told_by = ToldBy.NOBODY
    if told is not None and b":path" not in request:
        told_by = told.by
        request[b":path"] = told.path
        if told.method:
            request.setdefault(b":method", told.method)
    response, trailers = _answers(blocks)
    flags = 0
    if upgraded is not None:
        method, target, fixed = upgraded
    else:
        method, target, fixed = _request(request)
    kind = _rpc_kind(request, response, trailers)
    if kind is None and told is not None and told.is_call and b"content-type" not in request:
        kind = _GRPC
    code = message = None
    if kind is not None:
        code = grpc.sent_code(_either(b"grpc-status", trailers, response))
        message = _either(b"grpc-message", trailers, response)
        fixed += _rpc_fields(kind, target, message, code)
    is_call = kind == _GRPC
    if is_call:
        target = b""  # the method is a kept field, so that it belongs to the shape
    else:
        fixed += routed
    if len(target) + len(fixed) > room:
        target, fixed, flags = target[: max(0, room - len(fixed))], fixed[:room], Flag.TARGET_CUT
    return Head(
        method=method,
        status=_status(response),
        target=target,
        fixed=fixed,
        flags=flags,
        unknown=min(sum(block.unknown for block in blocks), _MOST_UNKNOWN),
        is_call=is_call,
        is_rpc=kind is not None,
        code=code if is_call else None,
        told_by=told_by,
    )


def _answers(blocks: Blocks) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Fields of the final response and of its trailers (waggle.h: WAGGLE_BLOCK_TRAILERS)."""
    response, trailers = dict(blocks.response.fields), dict(blocks.trailers.fields)
    if b":status" in trailers:
        return trailers, {}
    return response, trailers


def _request(fields: dict[bytes, bytes]) -> tuple[int, bytes, bytes]:
    """Method, target and the kept fields that HTTP/1 has too."""
    name = fields.get(b":method", b"")
    method = _METHODS.get(name, int(Method.OTHER))
    authority = fields.get(b":authority") or fields.get(b"host", b"")
    target = authority if method == Method.CONNECT else fields.get(b":path", b"")
    parts: list[bytes] = []
    if method == Method.OTHER and name:
        parts.append(kept_field(Kept.METHOD, name[:_LONGEST]))
    if authority:
        parts.append(kept_field(Kept.HOST, authority[:_LONGEST]))
    scheme = fields.get(b":scheme", b"http")
    if scheme != b"http":
        parts.append(kept_field(StreamKept.SCHEME, scheme[:_LONGEST]))
    for known, tag in _SAME_AS_HTTP1.items():
        if known in fields:
            parts.append(kept_field(tag, _SHORTENED.get(tag, _cut)(fields[known])))
    return method, target, b"".join(parts)


def _cut(value: bytes) -> bytes:
    return value[:_LONGEST]


def _members(baggage: bytes) -> bytes:
    """As many of its members as may be kept, each of them whole."""
    if len(baggage) <= _LONGEST_BAGGAGE:
        return baggage
    return baggage[: _LONGEST_BAGGAGE + 1].rpartition(b",")[0]


_SHORTENED: Mapping[int, Callable[[bytes], bytes]] = {
    Kept.TRACESTATE: lambda value: within_limits(value, _LONGEST),
    Kept.BAGGAGE: _members,
}


_GRPC = b"grpc"
_GRPC_WEB = b"grpc-web"
_CONNECT = b"connectrpc"


def _rpc_kind(*heads: dict[bytes, bytes]) -> bytes | None:
    """Which RPC protocol this is by content-type, or because there is a grpc-status."""
    request = heads[0]
    for fields in heads[:2]:
        kind = fields.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind.startswith(b"application/grpc-web"):
            return _GRPC_WEB
        if kind == b"application/grpc" or kind.startswith(b"application/grpc+"):
            return _GRPC
        if kind.startswith(b"application/connect+"):
            return _CONNECT
    if b"connect-protocol-version" in request:
        return _CONNECT
    if b"content-type" not in request and any(b"grpc-status" in fields for fields in heads[1:]):
        return _GRPC  # nobody else sends it
    return None


def _rpc_fields(kind: bytes, path: bytes, message: bytes | None, code: int | None) -> bytes:
    system = _CONNECT if kind == _CONNECT else _GRPC
    parts = [kept_field(StreamKept.RPC_SYSTEM, system)]
    if path.startswith(b"/") and len(path) > 1:
        parts.append(kept_field(StreamKept.RPC_METHOD, path[1 : _LONGEST + 1]))
    if message and code:
        parts.append(kept_field(StreamKept.RPC_MESSAGE, message[:_LONGEST_MESSAGE]))
    return b"".join(parts)


def _either(name: bytes, *heads: dict[bytes, bytes]) -> bytes | None:
    return next((fields[name] for fields in heads if name in fields), None)


def _status(response: dict[bytes, bytes]) -> int:
    text = response.get(b":status", b"")
    return int(text) if text.isdigit() and len(text) == 3 else 0
