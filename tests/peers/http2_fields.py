"""What a client of HTTP/2 sent and what of it arrived, frame by frame: the fields that were put
behind the header blocks (a `traceparent`, maybe a `tracestate`), and that nothing else differs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# A literal of HPACK that becomes no entry, with a name of its own (RFC 7541 6.2.2).
FIELD = re.compile(rb"\x00\x0btraceparent\x3700-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
FIELD_LENGTH = 69
_STATE = b"\x00\x0atracestate"
DATA, HEADERS, CONTINUATION = 0, 1, 9
_END_HEADERS, _PADDED, _PRIORITY = 4, 8, 32


@dataclass(frozen=True)
class Added:
    """What one stream's HEADERS frame was given."""

    stream: int
    trace_id: str
    span_id: str
    flags: int
    state: str = ""

    @classmethod
    def of(cls, stream: int, given: bytes) -> "Added":
        found = FIELD.match(given)
        assert found, f"stream {stream} was given {given!r}"
        trace_id, span_id, flags = (text.decode() for text in found.groups())
        return cls(stream, trace_id, span_id, int(flags, 16), _state_in(given[FIELD_LENGTH:]))


def _state_in(behind: bytes) -> str:
    """What a tracestate behind the field says, if there is one; what is none fails."""
    if not behind:
        return ""
    assert behind.startswith(_STATE), behind
    ((name, value),) = hpack.Decoder().decode(behind, raw=True)
    assert name == b"tracestate" and value and value.isascii(), behind
    return str(value, "ascii")


def _given(block: bytes) -> bytes:
    """What of a block may be ours: from the last field of our form on."""
    at = block.rfind(b"\x00\x0btraceparent\x37")
    given = block[at:] if at >= 0 else b""
    rest = given[FIELD_LENGTH:]
    return given if FIELD.match(given) and (not rest or rest.startswith(_STATE)) else b""


@dataclass(frozen=True)
class Frame:
    """One frame, which may be cut by the end of what there is."""

    type: int
    flags: int
    stream: int
    payload: bytes
    whole: bool


def frames(data: bytes) -> Iterator[Frame]:
    """The frames behind a preface; a header that is cut is none."""
    at = len(PREFACE)
    assert data[:at] == PREFACE[: len(data)]
    while at + 9 <= len(data):
        length = int.from_bytes(data[at : at + 3], "big")
        payload = data[at + 9 : at + 9 + length]
        stream = int.from_bytes(data[at + 5 : at + 9], "big")
        yield Frame(data[at + 3], data[at + 4], stream, payload, len(payload) == length)
        at += 9 + length


def fields_in(sent: bytes, got: bytes, *, broken: bool = False) -> list[Added]:
    """The fields at the ends of HEADERS frames that begin streams, each frame's length corrected;
    anything else that differs fails. broken: the end may be missing of what arrived."""
    at = taken = len(PREFACE)
    found: list[Added] = []
    highest = 0
    assert got[:at] == sent[: len(got)][:at]
    while taken + 9 <= len(got):
        assert at + 9 <= len(sent), "more than was sent"
        length, size = (
            int.from_bytes(x, "big") for x in (sent[at : at + 3], got[taken : taken + 3])
        )
        assert got[taken + 3 : taken + 9] == sent[at + 3 : at + 9], f"another frame at byte {at}"
        kind, flags = sent[at + 3], sent[at + 4]
        stream = int.from_bytes(sent[at + 5 : at + 9], "big")
        before, after = sent[at + 9 : at + 9 + length], got[taken + 9 : taken + 9 + size]
        if size == length:
            assert before[: len(after)] == after, f"changed in the frame at byte {at}"
            assert broken or len(before) == len(after)
        else:
            assert kind == HEADERS and size >= length + FIELD_LENGTH, f"frame at byte {at}"
            assert flags & _END_HEADERS and not flags & _PADDED and stream > highest, f"byte {at}"
            assert after[:length] == before[: len(after)], f"changed in the frame at byte {at}"
            assert broken or len(after) == size
            if len(after) == size:
                found.append(Added.of(stream, after[length:]))
        if kind == HEADERS:
            highest = max(highest, stream)
        at, taken = at + 9 + length, taken + 9 + size
    rest, wanted = got[taken:], sent[at:]
    assert rest == (wanted[: len(rest)] if broken else wanted), f"changed behind byte {at}"
    return found


@dataclass(frozen=True)
class Head:
    """One header block as whoever receives it decodes it, and the field that was added."""

    stream: int
    fields: tuple[tuple[str, str], ...]
    added: Added | None
    begins: bool
    """Whether it begins a stream; else these are trailers."""


def heads_in(got: bytes) -> list[Head]:
    """All header blocks of a client's side, in their order. Of a block that ends with a field of
    ours that is taken off, where it may be one: not where another traceparent is in the block."""
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = 1 << 16
    heads: list[Head] = []
    block, highest = b"", 0
    for frame in frames(got):
        if frame.type not in (HEADERS, CONTINUATION) or not frame.whole:
            continue
        payload = frame.payload
        if frame.type == HEADERS:
            block = b""
            if frame.flags & _PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            if frame.flags & _PRIORITY:
                payload = payload[5:]
        block += payload
        if not frame.flags & _END_HEADERS:
            continue
        fields = tuple((str(name), str(value)) for name, value in decoder.decode(block))
        names = [name for name, _ in fields]
        added = None
        if given := _given(block):
            assert names.count("traceparent") == 1, fields
            added = Added.of(frame.stream, given)
            fields = fields[: -2 if added.state else -1]
        heads.append(Head(frame.stream, fields, added, frame.stream > highest))
        highest = max(highest, frame.stream)
    return heads


def data_in(got: bytes) -> dict[int, int]:
    """How many bytes of DATA payload each stream sent."""
    sizes: dict[int, int] = {}
    for frame in frames(got):
        if frame.type == DATA:
            sizes[frame.stream] = sizes.get(frame.stream, 0) + len(frame.payload)
    return sizes
