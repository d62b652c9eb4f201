"""The kernel's machine of HTTP/2 frames in user mode, against `hyperframe` and `hpack`."""

import itertools
import struct
from pathlib import Path
from typing import NamedTuple

import hpack
import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.parsers import (
    BLOCK_MAX,
    FIELDS_MAX,
    Found,
    Talk,
    block_sender,
    check_under_sanitizers,
)

GOLDEN = Path(__file__).parent / "golden" / "http2"
CLIENT, SERVER = 1, 2  # enum hpack_first
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
VALUE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

streams = st.integers(0, 200).map(lambda n: 2 * n + 1)
names = st.sampled_from([b"x", b"cookie", b"grpc-status", b"x-long-name"])
values = st.binary(max_size=60)
fields = st.lists(st.tuples(names, values, st.booleans()), max_size=6)
pads = st.none() | st.integers(0, 40)


Paddable = DataFrame | HeadersFrame | PushPromiseFrame


class Head(NamedTuple):
    """A header block, to be encoded in its turn."""

    stream: int
    fields: list[tuple[bytes, bytes, bool]]
    coded: bool
    end: bool
    pad: int | None
    priority: bool
    cuts: list[int]


Conversation = list[Head | Frame]
Told = tuple[object, ...]


def _padded(frame: Paddable, pad: int | None) -> Paddable:
    if pad is not None:
        frame.flags.add("PADDED")
        frame.pad_length = pad
    return frame


cuts = st.lists(st.integers(1, 30), max_size=3)
heads = st.builds(Head, streams, fields, st.booleans(), st.booleans(), pads, st.booleans(), cuts)


@st.composite
def others(draw: st.DrawFn) -> list[Frame]:
    """Frames that are no header block."""
    stream = draw(streams)
    kind = draw(st.integers(0, 7))
    if kind <= 2:
        frame = DataFrame(stream, draw(st.binary(max_size=700)))
        if draw(st.booleans()):
            frame.flags.add("END_STREAM")
        return [_padded(frame, draw(pads))]
    if kind == 3:
        return [RstStreamFrame(stream, error_code=draw(st.integers(0, 2**32 - 1)))]
    if kind == 4:
        return [GoAwayFrame(0, last_stream_id=stream, error_code=2, additional_data=b"x" * stream)]
    if kind == 5:
        return [SettingsFrame(0, settings={1: 4096, 4: stream}), PingFrame(0, b"12345678")]
    if kind == 6:
        return [PriorityFrame(stream, depends_on=0, stream_weight=3, exclusive=False)]
    return [WindowUpdateFrame(stream, window_increment=stream)]


conversations = st.lists(heads.map(lambda head: [head]) | others(), max_size=12).map(
    lambda parts: list(itertools.chain.from_iterable(parts))
)


def _frames_of_head(head: Head, encoder: hpack.Encoder) -> tuple[list[Frame], bytes]:
    stream, pairs, coded, end, pad, priority, cuts = head
    triples = [(name, value, never) for name, value, never in pairs]
    block = encoder.encode(triples, huffman=coded)
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(block[at : at + cut])
        at += cut
    pieces.append(block[at:])
    first = _padded(HeadersFrame(stream, pieces[0]), pad)
    if end:
        first.flags.add("END_STREAM")
    if priority:
        first.flags.add("PRIORITY")
    frames: list[Frame] = [first, *(ContinuationFrame(stream, piece) for piece in pieces[1:])]
    frames[-1].flags.add("END_HEADERS")
    return frames, block


def _spoken(conversation: Conversation) -> tuple[bytes, list[Told]]:
    """The bytes, and what must be found in them."""
    encoder, wire = hpack.Encoder(), b""
    truth: list[Told] = []
    totals: dict[int, int] = {}
    for part in conversation:
        if isinstance(part, Head):
            known = len(encoder.header_table.dynamic_entries)
            frames, block = _frames_of_head(part, encoder)
            added = len(encoder.header_table.dynamic_entries) - known
            truth.append((Talk.FOUND_BLOCK, part.stream, len(PREFACE) + len(wire), block, added))
            wire += b"".join(frame.serialize() for frame in frames)
            continue
        at = len(PREFACE) + len(wire)
        if isinstance(part, DataFrame):
            totals[part.stream_id] = totals.get(part.stream_id, 0) + len(part.data)
            if "END_STREAM" in part.flags:
                truth.append((Talk.FOUND_DATA_END, part.stream_id, at, totals[part.stream_id]))
        elif isinstance(part, RstStreamFrame):
            truth.append((Talk.FOUND_RESET, part.stream_id, at, part.error_code))
        elif isinstance(part, GoAwayFrame):
            both = part.last_stream_id << 32 | part.error_code
            truth.append((Talk.FOUND_GOAWAY, 0, at, both))
        wire += part.serialize()
    return wire, truth


def _told(one: Found) -> Told:
    if one.event == Talk.FOUND_BLOCK:
        assert not one.bad
        return (one.event, one.stream, one.position, one.block, one.insertions)
    last = one.data if one.event == Talk.FOUND_DATA_END else one.control
    return (one.event, one.stream, one.position, last)


@settings(max_examples=100, deadline=None)
@given(conversation=conversations, cuts=st.lists(st.integers(1, 60), max_size=40))
def test_any_cut_finds_the_same(conversation: Conversation, cuts: list[int]) -> None:
    """What is found in a valid conversation is what was said, whole or cut anywhere: blocks with
    their insertions, the end of data, resets, GOAWAY, each at its frame's position."""
    wire, truth = _spoken(conversation)
    wire = PREFACE + wire
    whole, pieces = Talk(), Talk()
    whole.feed(wire)
    assert [_told(one) for one in whole.found()] == truth
    at = 0
    for cut in cuts:
        pieces.feed(wire[at : at + cut])
        at += cut
    pieces.feed(wire[at:])
    assert pieces.found() == whole.found()


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=600), preface=st.booleans())
def test_hostile_bytes(data: bytes, preface: bool) -> None:
    """Whatever comes, the machine ends, writes only where it may, and finds the same when the
    bytes come one by one."""
    whole, pieces = Talk(preface=preface), Talk(preface=preface)
    whole.feed(data)
    for byte in data:
        pieces.feed(bytes([byte]))
    assert pieces.found() == whole.found()


def test_sanitizers() -> None:
    """Conversations, blocks and rubbish run clean under the sanitizers."""
    encoder = hpack.Encoder()
    block = encoder.encode([(b":method", b"GET"), (b"traceparent", VALUE.encode())])
    head = HeadersFrame(1, block, flags=["END_HEADERS"]).serialize()
    endless = HeadersFrame(3, b"\x00" * 900).serialize()
    endless += ContinuationFrame(3, b"\x3f" * 1000).serialize() * 40
    cases = [head, endless, head[:20], b"\xff" * 5000, bytes(range(256)) * 9]
    cases += [
        struct.pack(">I", len(b) << 8 | 1) + b"\4\0\0\0\1" + b for b in (b"\xff" * 300, b"\x7f")
    ]
    check_under_sanitizers((b"2", PREFACE + case) for case in cases)


def _one_block(block: bytes) -> Found:
    talk = Talk(preface=False)
    talk.feed(HeadersFrame(1, block, flags=["END_HEADERS"]).serialize())
    (found,) = talk.found()
    return found


@pytest.mark.parametrize("coded", [True, False])
@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8), st.integers(0, 255))
def test_any_traceparent(coded: bool, trace: bytes, span: bytes, flags: int) -> None:
    """Every valid value is read, plain or in the Huffman code, and what is not valid is not."""
    value = f"00-{trace.hex()}-{span.hex()}-{flags:02x}".encode()
    found = _one_block(hpack.Encoder().encode([(b"traceparent", value)], huffman=coded))
    assert bool(found.valid) == (any(trace) and any(span))
    if found.valid:
        assert (found.trace_id, found.span_id) == (trace, span)


@pytest.mark.parametrize(
    "value", [VALUE[:-1], VALUE + "0", VALUE.upper(), VALUE.replace("-", "_"), "g" + VALUE[1:]]
)
@pytest.mark.parametrize("coded", [True, False])
def test_no_traceparent(value: str, coded: bool) -> None:
    """Values that break a rule are not taken."""
    found = _one_block(hpack.Encoder().encode([("traceparent", value)], huffman=coded))
    assert not found.valid
    assert not found.bad


def test_two_traceparents() -> None:
    """Of several none is to be taken (Trace Context 3.2)."""
    pair = ("traceparent", VALUE)
    assert not _one_block(hpack.Encoder().encode([pair, ("x", "y"), pair])).valid


@pytest.mark.parametrize("status", [100, 103, 200, 204, 304, 404, 418, 503, 999])
@pytest.mark.parametrize("coded", [True, False])
@pytest.mark.parametrize("resized", [True, False])
def test_status(status: int, coded: bool, resized: bool) -> None:
    """:status is read where it is static or literal, also behind a change of the table's size."""
    encoder = hpack.Encoder()
    if resized:
        encoder.header_table_size = 100
    found = _one_block(encoder.encode([(":status", str(status)), ("a", "b")], huffman=coded))
    assert found.status == status
    assert bool(found.changes) == (resized or found.insertions > 0)


def test_table_bomb_is_bounded() -> None:
    """A block of more fields than we walk, or longer than we keep, is bad: its count is lost."""
    assert not _one_block(b"\x82" * FIELDS_MAX).bad
    assert _one_block(b"\x82" * (FIELDS_MAX + 1)).bad
    talk = Talk(preface=False)
    talk.feed(HeadersFrame(1, b"\x82").serialize())
    for _ in range(40):
        talk.feed(ContinuationFrame(1, b"\x82" * 1000).serialize())
    assert talk.found() == []
    talk.feed(ContinuationFrame(1, b"", flags=["END_HEADERS"]).serialize())
    (found,) = talk.found()
    assert (found.event, found.bad) == (Talk.LOST_BLOCK, 1)
    assert found.length <= BLOCK_MAX
    talk.feed(HeadersFrame(3, b"\x88", flags=["END_HEADERS"]).serialize())
    assert talk.found()[-1].status == 200


@pytest.mark.parametrize(
    "wire",
    [
        b"\0\0\1\0\0\0\0\0\0x",  # DATA on stream 0
        b"\0\0\1\1\4\0\0\0\0\x82",  # HEADERS on stream 0
        b"\0\0\5\3\0\0\0\0\1xxxxx",  # RST_STREAM of five bytes
        b"\0\0\5\4\0\0\0\0\0xxxxx",  # SETTINGS of five bytes
        b"\0\0\4\7\0\0\0\0\0xxxx",  # GOAWAY of four bytes
        b"\0\0\1\x09\4\0\0\0\1\x82",  # CONTINUATION of nothing
        b"\0\0\1\1\0\0\0\0\1\x82" + b"\0\0\0\0\0\0\0\0\1",  # DATA within a block
        b"\0\0\2\0\x08\0\0\0\1\x05x",  # more padding than there is payload
        b"\0\0\2\1\x0c\0\0\0\1\x05x",  # the same of HEADERS
    ],
)
def test_nonsense(wire: bytes) -> None:
    """Frames that RFC 9113 calls an error of the connection end it."""
    talk = Talk(preface=False)
    talk.feed(wire)
    assert talk.found()[-1].event == Talk.NONSENSE


def test_promise() -> None:
    """A PUSH_PROMISE's block is found behind the promised stream's number and padding."""
    frame = PushPromiseFrame(1, promised_stream_id=2, data=b"\x82\x84", flags=["END_HEADERS"])
    talk = Talk(preface=False)
    talk.feed(_padded(frame, 5).serialize())
    (found,) = talk.found()
    assert found.block == b"\x82\x84"


def _recorded(path: Path, side: str) -> list[bytes]:
    """The blocks that one side of a real conversation sent, in their order."""
    lines = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
    return [bytes.fromhex(line[-1]) for line in lines if line[0] == side]


RECORDINGS = sorted(GOLDEN.glob("*.txt"))
recordings = pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)


@recordings
@pytest.mark.parametrize("side", ["client", "server"])
def test_recorded_blocks(path: Path, side: str) -> None:
    """What real programs sent, as frames of ours, padded or cut by CONTINUATION: every block is
    found as it was, its insertions counted as the hpack library counts them, and its status read
    where it has one."""
    blocks = _recorded(path, side)
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = 1 << 16
    talk = Talk(preface=False)
    known = 0
    for n, block in enumerate(blocks):
        stream, half = 2 * n + 1, len(block) // 2
        if n % 2:
            frame = HeadersFrame(stream, block[:half])
            more = ContinuationFrame(stream, block[half:], flags=["END_HEADERS"])
            wire = _padded(frame, n % 7).serialize() + more.serialize()
        else:
            wire = HeadersFrame(stream, block, flags=["END_HEADERS"]).serialize()
        for at in range(0, len(wire), 13):
            talk.feed(wire[at : at + 13])
        found = talk.found()[-1]
        fields = {bytes(name): value for name, value in decoder.decode(block, raw=True)}
        assert (found.event, found.stream, found.bad) == (Talk.FOUND_BLOCK, stream, 0)
        assert (found.block, found.known) == (block, known)
        known += found.insertions
        if b":method" in fields:
            assert found.first == CLIENT
        if b":status" in fields and block[0] == 0x88:
            assert (found.first, found.status) == (SERVER, int(fields[b":status"]))
    assert known >= len(decoder.header_table.dynamic_entries)


@recordings
def test_blocks_of_old_connections_say_who_sends_them(path: Path) -> None:
    """By its beginning, indexes of an unknown table among it, a block is known to be a request or
    an answer, or nothing is said; never is it taken for the other side's."""
    clients = {block_sender(block) for block in _recorded(path, "client")}
    servers = {block_sender(block) for block in _recorded(path, "server")}
    assert CLIENT in clients and SERVER not in clients
    assert SERVER in servers and CLIENT not in servers


@given(st.binary(max_size=20))
def test_any_block_has_at_most_one_sender(block: bytes) -> None:
    """Whatever a block begins with is taken for one side's or for nobody's, by its own bytes
    alone: what lies behind it does not count."""
    assert block_sender(block) in (0, CLIENT, SERVER)
    if not block:
        assert block_sender(block) == 0
