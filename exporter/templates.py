"""Templates: the bytes that all spans of one shape share, and the places of those they do not.

A template is made from the slow path's own output. A record is encoded twice, with
every value that is no part of its shape replaced by one marker, then by another that
differs from it in every byte. Where the two encodings differ are the places of the
columns. A difference that is not exactly one column's marker means that the span uses
a value in a way columns cannot follow, and there is no template: such rows stay slow.
So both paths agree by construction, whatever a protocol's decoder does.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.exporter.messages import span_message
from waggle.spans import (
    OWN_TEXT,
    Exchange,
    Records,
    Span,
    SpanBatch,
    decode_span,
    read_exchange,
    span_of,
    varying_field,
)


class Column(IntEnum):
    """What differs between the spans of one template."""

    TRACE_ID = 0
    SPAN_ID = 1
    PARENT_ID = 2
    START = 3
    END = 4
    EPHEMERAL_PORT = 5  # the client's end of the connection, whichever side we see
    REQUEST_BODY = 6
    RESPONSE_BODY = 7
    PATH = 8  # of the target, what lies between its first byte and its first '?'
    QUERY = 9  # and what follows that
    PEER = 10  # the text of the peer's address
    X_FORWARDED_FOR = 11  # the texts of kept fields that vary
    FORWARDED = 12
    TRACESTATE = 13
    OWN_TEXT = 14


KEPT_COLUMNS: dict[Column, int] = {
    Column.X_FORWARDED_FOR: layout.Kept.X_FORWARDED_FOR,
    Column.FORWARDED: layout.Kept.FORWARDED,
    Column.TRACESTATE: layout.Kept.TRACESTATE,
    Column.OWN_TEXT: OWN_TEXT,
}
TEXT_COLUMNS = frozenset((Column.PATH, Column.QUERY, Column.PEER, *KEPT_COLUMNS))


# A column may appear this often in one span (an id in an attribute, say).
PLACES = 2

# Widths of the padded varints: ports need 3 bytes, sizes below 32 GiB 5.
PORT_WIDTH = 3
BODY_WIDTH = 5
BODY_LIMIT = 1 << (7 * BODY_WIDTH)

# The record's columns that are part of a template's identity, so its bytes may
# depend on them. One port is too: the server's (see `service_ports`).
KEYED = (
    "shape",
    "local_addr",
    "peer_addr",
    "status",
    "flags",
    "family",
    "role",
    "link",
    "end",
    "method",
    "version",
    "protocol",
    "trace_flags",
    "target_len",
    "kept_len",
    "sampling",
)

_SPANS_TAG = b"\x12"  # ScopeSpans.spans, and ResourceSpans.scope_spans: field 2, bytes

# Two markers for each column; one is the other's complement wherever bytes are free.
_PORTS = (0x5555, 0xAAAA)
_REQUEST_BODIES = (0x2AAAAAAAA, 0x555555555)
_RESPONSE_BODIES = (0x333333333, 0x4CCCCCCCC)
_STARTS = (0x1111111111111111, 0x3333333333333333)
_ENDS = (0x2222222222222222, 0x4444444444444444)
_PATHS = (ord("v"), ord("w"))
_QUERIES = (ord("x"), ord("y"))
_PEERS = (b"p", b"q")
_KEPT = {
    layout.Kept.X_FORWARDED_FOR: (b"r", b"s"),
    layout.Kept.FORWARDED: (b"i", b"j"),
    layout.Kept.TRACESTATE: (b"m", b"n"),
    OWN_TEXT: (b"k", b"l"),
}


@dataclass(frozen=True, slots=True)
class Meaning:
    """What of a row's identity is derived, not read in its record.

    query: where the target's first '?' is, or the target's length.
    peer: length of the peer's text where that is a column, else 0.
    kept: tag, variant and length of text of each kept field that varies.
    """

    query: int
    peer: int = 0
    kept: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Template:
    """One span as an element of ScopeSpans.spans, tag and length included.

    places: int32, one row of PLACES offsets into `payload` per Column, -1 for none.
    columns: the same as (column, offset, width), only those there are.
    """

    payload: bytes
    places: bytes
    columns: tuple[tuple[Column, int, int], ...] = ()


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def padded_varints(numbers: npt.NDArray[np.unsignedinteger], width: int) -> npt.NDArray[np.uint64]:
    """Numbers as varints of always `width` bytes, in the low bytes of each result.

    Protobuf's decoders take a varint that is longer than it needs to be.
    """
    wide = numbers.astype(np.uint64)
    out = wide & np.uint64(0x7F)
    for at in range(1, width):
        out |= (wide << np.uint64(at)) & np.uint64(0x7F << (8 * at))
    continued = sum(0x80 << (8 * at) for at in range(width - 1))
    out |= np.uint64(continued)
    return out


def delimited(span: bytes) -> bytes:
    """A serialized span as an element of ScopeSpans.spans."""
    return _SPANS_TAG + varint(len(span)) + span


def encode_slowly(batch: SpanBatch, row: int) -> bytes:
    """One row through opentelemetry-proto, as an element of ScopeSpans.spans."""
    return _encode(decode_span(batch, row))


def _encode(span: Span) -> bytes:
    return delimited(span_message(span).SerializeToString())


def service_ports(records: Records) -> npt.NDArray[np.uint16]:
    """The server's port of each connection: part of the identity."""
    is_server = records["role"] == layout.Role.SERVER
    return np.where(is_server, records["local_port"], records["peer_port"])


def ephemeral_ports(records: Records) -> npt.NDArray[np.uint16]:
    """The client's port of each connection: a column."""
    is_server = records["role"] == layout.Role.SERVER
    return np.where(is_server, records["peer_port"], records["local_port"])


def build_template(record: Records, meaning: Meaning) -> Template | None:
    """The template for records of the shape of `record` (one row), or None."""
    marked = _marked_twice(record, meaning)
    exchanges = (_with_marked_texts(marked, row, meaning) for row in (0, 1))
    spans = [span_of(exchange, 0, 0) for exchange in exchanges]
    if any(span.events for span in spans):  # their times are no columns
        return None
    first, second = map(_encode, spans)
    if len(first) != len(second):
        return None
    columns = _columns(first, second, _markers(marked, meaning))
    return None if columns is None else Template(first, _places(columns), columns)


def _with_marked_texts(marked: Records, row: int, meaning: Meaning) -> Exchange:
    """A row of the marked records with markers for the texts that are no bytes of a record."""
    exchange = read_exchange(marked, row)
    if meaning.peer:
        exchange.peer = (_PEERS[row] * meaning.peer).decode()
    for tag, variant, length in meaning.kept:
        field = varying_field(exchange.facts.protocol, tag)
        assert field is not None  # or it would not be a column
        exchange.kept[tag] = field.write(_KEPT[tag][row] * length, variant)
    return exchange


def _marked_twice(record: Records, meaning: Meaning) -> Records:
    """The record once with the first and once with the second marker in every free column."""
    marked = np.concatenate((record, record))
    is_server = int(record["role"][0]) == layout.Role.SERVER
    ephemeral, service = ("peer_port", "local_port")[:: 1 if is_server else -1]
    keyed = {*KEYED, service, "parent_id", "head"} - ({"peer_addr"} if meaning.peer else set())
    for name in layout.EXCHANGE.names or ():
        if name not in keyed:  # nothing may come of these
            marked[name][0], marked[name][1] = 0, np.iinfo(marked[name].dtype).max
    for row in (0, 1):
        marked["trace_id"][row] = np.arange(16) + (0x10, 0x50)[row]
        marked["span_id"][row] = np.arange(8) + (0x20, 0x60)[row]
        if record["parent_id"].any():
            marked["parent_id"][row] = np.arange(8) + (0x28, 0x68)[row]
        marked["start_ns"][row] = _STARTS[row]
        marked["end_ns"][row] = _ENDS[row]
        marked[ephemeral][row] = _PORTS[row]
        marked["request_body"][row] = _REQUEST_BODIES[row]
        marked["response_body"][row] = _RESPONSE_BODIES[row]
        length = int(record["target_len"][0])
        marked["head"][row, 1 : meaning.query] = _PATHS[row]
        marked["head"][row, meaning.query + 1 : length] = _QUERIES[row]
    return marked


def _markers(marked: Records, meaning: Meaning) -> dict[bytes, Column]:
    """What each column's first marker looks like in a serialized span."""
    length = int(marked["target_len"][0])
    markers = {
        marked["trace_id"][0].tobytes(): Column.TRACE_ID,
        marked["span_id"][0].tobytes(): Column.SPAN_ID,
        marked["parent_id"][0].tobytes(): Column.PARENT_ID,
        marked["start_ns"][0].tobytes(): Column.START,
        marked["end_ns"][0].tobytes(): Column.END,
        varint(_PORTS[0]): Column.EPHEMERAL_PORT,
        varint(_REQUEST_BODIES[0]): Column.REQUEST_BODY,
        varint(_RESPONSE_BODIES[0]): Column.RESPONSE_BODY,
        bytes([_PATHS[0]]) * (meaning.query - 1): Column.PATH,
        bytes([_QUERIES[0]]) * (length - meaning.query - 1): Column.QUERY,
        _PEERS[0] * meaning.peer: Column.PEER,
    }
    columns = {tag: column for column, tag in KEPT_COLUMNS.items()}
    for tag, _, size in meaning.kept:
        markers[_KEPT[tag][0] * size] = columns[tag]
    markers.pop(b"", None)
    return markers


def _columns(
    first: bytes, second: bytes, markers: dict[bytes, Column]
) -> tuple[tuple[Column, int, int], ...] | None:
    """Column, offset and width of what differs, or None when that is no column's marker."""
    found: list[tuple[Column, int, int]] = []
    for start, end in _differences(first, second):
        column = markers.get(first[start:end])
        if column is None or sum(column == other for other, *_ in found) == PLACES:
            return None
        found.append((column, start, end - start))
    return tuple(found)


def _places(columns: tuple[tuple[Column, int, int], ...]) -> bytes:
    places = np.full((len(Column), PLACES), -1, np.int32)
    for column, start, _ in columns:
        free = 0 if places[column, 0] < 0 else 1
        places[column, free] = start
    return places.tobytes()


def _differences(first: bytes, second: bytes) -> list[tuple[int, int]]:
    """The runs of positions at which two strings of one length differ."""
    differ = np.frombuffer(first, np.uint8) != np.frombuffer(second, np.uint8)
    edges = np.flatnonzero(np.diff(differ, prepend=False, append=False)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))
