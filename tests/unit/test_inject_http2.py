"""Which HEADERS frames may grow by a field, and what they are then: the kernel's code in user mode
(native/http2_growing.h), judged by `h2`, `hyperframe` and `hpack` as whoever receives it."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hpack
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, RequestReceived
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.parsers import (
    FIELD_LENGTH,
    PLACE_STREAMS,
    TRACESTATE_MAX,
    Grown,
    Talk,
    check_under_sanitizers,
    write_tracestate_prefix,
)

GOLDEN = Path(__file__).parent / "golden" / "http2"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TRACE, SPAN, FLAGS = bytes(range(0xA0, 0xB0)), bytes(range(0x10, 0x18)), 1
VALUE = f"00-{TRACE.hex()}-{SPAN.hex()}-{FLAGS:02x}".encode()
FIELD = b"\x00\x0btraceparent\x37" + VALUE
REQUEST = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/n/1")]
OWN = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


def grow(talk: Talk, message: bytes) -> Grown:
    return talk.grow(message, TRACE, SPAN, FLAGS)


def headers(
    stream: int, block: bytes, *flags: str, pad: int | None = None, priority: bool = False
) -> bytes:
    frame = HeadersFrame(stream, block, flags=["END_HEADERS", *flags])
    if pad is not None:
        frame.flags.add("PADDED")
        frame.pad_length = pad
    if priority:
        frame.flags.add("PRIORITY")
        frame.depends_on, frame.stream_weight = 0, 7
    return frame.serialize()


def one(stream: int = 1, fields: Sequence[tuple[str, str]] = REQUEST) -> bytes:
    return headers(stream, hpack.Encoder().encode(fields))


def frames_of(wire: bytes) -> Iterator[Frame]:
    at = 0
    while at < len(wire):
        frame, length = Frame.parse_frame_header(memoryview(wire[at : at + 9]))
        frame.parse_body(memoryview(wire[at + 9 : at + 9 + length]))
        yield frame
        at += 9 + length
    assert at == len(wire)


def test_the_bytes() -> None:
    """The frame is longer by a literal that becomes no entry, at its end; it says so, and all
    other bytes are as they were."""
    block = hpack.Encoder().encode(REQUEST)
    before, behind = PREFACE + SettingsFrame(0).serialize(), DataFrame(1, b"body").serialize()
    grown = grow(Talk(), before + headers(1, block) + behind)
    length = (len(block) + FIELD_LENGTH).to_bytes(3, "big")
    assert len(FIELD) == FIELD_LENGTH
    assert grown.sent == before + length + headers(1, block)[3:] + FIELD + behind
    assert (grown.verdict, grown.stream, grown.later) == (Talk.PLACE_FOUND, 1, 0)


def test_a_tracestate_of_any_length() -> None:
    """Behind what is written of its name a value of every length is a field that becomes no entry,
    told in as few bytes as HPACK has it."""
    decoder, encoder = hpack.Decoder(), hpack.Encoder()
    for length in range(1, TRACESTATE_MAX + 1):
        value = b"a=" + b"x" * (length - 2) if length > 1 else b"a"
        block = write_tracestate_prefix(length) + value
        assert decoder.decode(block, raw=True) == [(b"tracestate", value)]
        assert block == b"\0" + encoder.encode([(b"tracestate", value, True)], huffman=False)[1:]
    assert not decoder.header_table.dynamic_entries


REFUSED: dict[str, tuple[Callable[[], bytes], int]] = {
    "padded": (lambda: headers(1, b"\x82\x84\x86", pad=3), Talk.PLACE_PADDED),
    "padded by nothing": (lambda: headers(1, b"\x82\x84\x86", pad=0), Talk.PLACE_PADDED),
    "continued": (
        lambda: (
            HeadersFrame(1, b"\x82\x84").serialize()
            + ContinuationFrame(1, b"\x86", flags=["END_HEADERS"]).serialize()
        ),
        Talk.PLACE_CUT,
    ),
    "cut in its block": (lambda: one()[:-1], Talk.PLACE_CUT),
    "cut behind its header": (lambda: one()[:9], Talk.PLACE_CUT),
    "cut in its header": (lambda: one()[:8], Talk.PLACE_NONE),
    "8 KB": (lambda: one(1, [*REQUEST, ("x", "\x00" * 8100)]), Talk.PLACE_LARGE),
    "an even stream": (lambda: one(2), Talk.PLACE_NONE),
    "no stream": (lambda: b"\0\0\1\1\4\0\0\0\0\x82", Talk.PLACE_NONE),
    "a promise before it": (
        lambda: PushPromiseFrame(1, 2, b"\x82", flags=["END_HEADERS"]).serialize() + one(),
        Talk.PLACE_NONE,
    ),
    "nonsense before it": (lambda: b"\0\0\5\4\0\0\0\0\0xxxxx" + one(), Talk.PLACE_NONE),
    "data": (lambda: DataFrame(1, one()).serialize(), Talk.PLACE_NONE),
    "rubbish": (lambda: b"GET /a HTTP/1.1\r\n\r\n" + one(), Talk.PLACE_NONE),
}


@pytest.mark.parametrize("name", REFUSED)
def test_left_alone(name: str) -> None:
    """A frame that may not grow, or is none, is as it was, and why is told."""
    wire, verdict = REFUSED[name][0](), REFUSED[name][1]
    grown = grow(Talk(preface=False), wire)
    assert (grown.sent, grown.verdict) == (wire, verdict)


def test_cut_anywhere() -> None:
    """A message that begins in a frame, in its header, in a preface or between a block's frames is
    looked at from the next frame on, or not at all; whatever it holds that looks like one."""
    before = DataFrame(1, one(3) * 3).serialize() + PingFrame(0, b"12345678").serialize()
    padded = DataFrame(1, one(3), flags=["PADDED"])
    padded.pad_length = 200
    before += padded.serialize() + RstStreamFrame(1).serialize() + one(3, [("x", "y" * 99)])
    wire = PREFACE + one(1) + before
    for cut in range(1, len(wire)):
        talk = Talk()
        first = grow(talk, wire[:cut])
        behind = grow(talk, wire[cut:] + one(5))
        got = b"".join((first.sent, behind.sent))
        numbers = [frame.stream_id for frame in frames_of(got[len(PREFACE) :])]
        plain = [frame.stream_id for frame in frames_of((wire + one(5))[len(PREFACE) :])]
        assert numbers == plain
        added = (len(got) - len(wire) - len(one(5))) // FIELD_LENGTH
        assert added == len(first.streams) + len(behind.streams)
        decoder = hpack.Decoder()
        for frame in frames_of(got[len(PREFACE) :]):
            if isinstance(frame, HeadersFrame):
                decoder.decode(frame.data)


def test_sanitizers() -> None:
    """Messages of streams, whole, cut, too long and none, run clean under the sanitizers."""
    many = PREFACE + b"".join(one(2 * number + 1) for number in range(30))
    endless = PREFACE + b"\0\xff\xff\1\4\0\0\0\1" + bytes(3000)
    cases = [many, endless, PREFACE[:-1], many[: len(PREFACE) + 12], b"\xff" * 3000, b""]
    check_under_sanitizers((b"G", case) for case in cases)


def test_trailers() -> None:
    """The trailers of a stream are left alone, and the stream behind them is found."""
    talk, encoder = Talk(), hpack.Encoder()
    assert grow(talk, PREFACE + headers(1, encoder.encode(REQUEST))).stream == 1
    trailers = headers(1, encoder.encode([("grpc-status", "0")]), "END_STREAM")
    grown = grow(talk, trailers)
    assert (grown.sent, grown.verdict) == (trailers, Talk.PLACE_NONE)
    following = headers(3, encoder.encode(REQUEST))
    grown = grow(talk, headers(1, encoder.encode([("a", "b")]), "END_STREAM") + following)
    assert (grown.verdict, grown.stream) == (Talk.PLACE_FOUND, 3)


def test_trailers_behind_a_head_that_was_cut() -> None:
    """Trailers in the message that brings the end of their stream's head begin no stream."""
    encoder = hpack.Encoder()
    head = headers(1, encoder.encode(REQUEST))
    wire = head + headers(1, encoder.encode([("x", "y")]), "END_STREAM")
    for cut in range(1, len(head)):
        talk = Talk(preface=False)
        assert b"".join(grow(talk, part).sent for part in (wire[:cut], wire[cut:])) == wire


def test_several_in_one_message() -> None:
    """Of the streams that begin in one message each grows, but for those with a header of their
    own, up to a bound; those behind it are counted."""
    streams = [2 * number + 1 for number in range(PLACE_STREAMS + 3)]
    wire = b"".join(one(stream, [*REQUEST, *([OWN] if stream == 5 else [])]) for stream in streams)
    grown = grow(Talk(preface=False), wire)
    chosen = [stream for stream in streams[:PLACE_STREAMS] if stream != 5]
    assert (grown.verdict, grown.stream, grown.later) == (Talk.PLACE_FOUND, 1, 3)
    assert list(grown.streams) == chosen
    assert grown.sent.count(FIELD) == len(chosen)


def test_behind_one_that_may_not_grow() -> None:
    """A frame that may not grow ends the look: what begins behind it is counted."""
    grown = grow(Talk(preface=False), one(1) + headers(3, b"\x82\x84\x86", pad=2) + one(5))
    assert (grown.streams, grown.later) == ((1,), 1)


@pytest.mark.parametrize("coded", [True, False])
@pytest.mark.parametrize("sensitive", [True, False])
@pytest.mark.parametrize("name", ["traceparent", "tracestate"])
def test_a_header_of_its_own(name: str, sensitive: bool, coded: bool) -> None:
    """A block with a traceparent or tracestate of its own is left alone, however it is told: as a
    literal, by the name's entry, or by the entry itself."""
    talk, encoder = Talk(preface=False), hpack.Encoder()
    for stream, value in ((1, OWN[1]), (3, OWN[1]), (5, OWN[1][:-1] + "0")):
        block = encoder.encode([*REQUEST, (name, value, sensitive)], huffman=coded)
        grown = grow(talk, headers(stream, block))
        assert (grown.verdict, grown.has_context) == (Talk.PLACE_FOUND, 1)
        assert grown.sent == headers(stream, block)


def test_names_that_are_forgotten() -> None:
    """Where an entry is older than the names we remember, and one of these was a traceparent, who
    refers to it may mean that; where none was, nobody can."""
    for first, expected in ((OWN, 1), (("x-other", "y"), 0)):
        talk, encoder = Talk(preface=False), hpack.Encoder()
        encoder.header_table_size = 1 << 16
        encoder.header_table.maxsize = 1 << 16
        grow(talk, headers(1, encoder.encode([*REQUEST, first])))
        for number in range(80):
            block = encoder.encode([("x-number", str(number))])
            assert grow(talk, headers(2 * number + 3, block)).has_context == 0
        again = headers(301, encoder.encode([*REQUEST, first]))
        assert len(again) < 60, "not told by its entry"
        assert grow(talk, again).has_context == expected


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.from_regex(r"[a-z][a-z-]{0,40}", fullmatch=True),
                st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=300),
            ),
            max_size=8,
        ),
        max_size=12,
    ),
    st.booleans(),
)
def test_list_size(blocks: list[list[tuple[str, str]]], coded: bool) -> None:
    """How large a block's fields are once decoded is never told too small."""
    talk, encoder = Talk(preface=False), hpack.Encoder()
    for number, fields in enumerate(blocks):
        distinct = [*REQUEST, *dict(fields).items()]
        block = encoder.encode(distinct, huffman=coded)
        grown = grow(talk, headers(2 * number + 1, block))
        if grown.verdict == Talk.PLACE_FOUND:
            assert grown.list_size >= sum(32 + len(name) + len(value) for name, value in distinct)


# -- Conversations of h2 -------------------------------------------------------------------

FIELDS = st.lists(
    st.tuples(
        st.sampled_from(["x-a", "x-b", "cookie", "te", "grpc-timeout", "user-agent"]),
        st.text("abcXYZ0123 -", max_size=40).map(str.strip),
    ).map(lambda pair: ("te", "trailers") if pair[0] == "te" else pair),
    max_size=5,
)
ACTIONS = st.one_of(
    st.tuples(st.just("begin"), FIELDS, st.booleans(), st.booleans()),
    st.tuples(st.just("own"), FIELDS, st.booleans(), st.booleans()),
    st.tuples(st.just("large"), st.integers(0, 20_000)),
    st.tuples(st.just("data"), st.binary(max_size=900), st.none() | st.integers(0, 90)),
    st.tuples(st.just("decoy")),
    st.tuples(st.just("trailers")),
    st.tuples(st.just("reset")),
    st.tuples(st.just("ping")),
    st.tuples(st.just("window")),
    st.tuples(st.just("settings")),
)


class Client:
    """A client by h2 that does what it is told, as far as that is allowed."""

    def __init__(self) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.h2.initiate_connection()
        self.open: list[int] = []
        self.left = 60_000

    def do(self, action: tuple[object, ...]) -> bytes:
        kind, *words = action
        getattr(self, f"_{kind}")(*words)
        return self.h2.data_to_send()

    def _begin(self, fields: list[tuple[str, str]], end: bool, priority: bool) -> None:
        stream = self.h2.get_next_available_stream_id()
        if len(self.open) > 50:
            return
        weight = 17 if priority else None
        self.h2.send_headers(stream, [*REQUEST, *fields], end_stream=end, priority_weight=weight)
        if not end:
            self.open.append(stream)

    def _own(self, fields: list[tuple[str, str]], end: bool, priority: bool) -> None:
        self._begin([*fields, OWN], end, priority)

    def _large(self, size: int) -> None:
        self._begin([("x-large", "\x7f" * size)], True, False)

    def _data(self, data: bytes, pad: int | None) -> None:
        self.left -= len(data) + (pad or 0) + 1
        if self.open and self.left > 0:
            self.h2.send_data(self.open[0], data, pad_length=pad)

    def _decoy(self) -> None:
        self._data(one(99) * 2, None)

    def _trailers(self) -> None:
        if self.open:
            self.h2.send_headers(self.open.pop(), [("x-end", "1")], end_stream=True)

    def _reset(self) -> None:
        if self.open:
            self.h2.reset_stream(self.open.pop())

    def _ping(self) -> None:
        self.h2.ping(b"12345678")

    def _window(self) -> None:
        self.h2.increment_flow_control_window(1000)

    def _settings(self) -> None:
        self.h2.update_settings({4: 70_000})


class Server:
    """What h2 makes of what arrives."""

    def __init__(self) -> None:
        self._h2 = H2Connection(
            H2Configuration(
                client_side=False, header_encoding=None, normalize_inbound_headers=False
            )
        )
        self._h2.max_inbound_frame_size = 1 << 14
        self._h2.initiate_connection()
        self.events: list[Event] = []

    def receive(self, data: bytes) -> None:
        self.events += self._h2.receive_data(data)

    def told(self) -> list[object]:
        return [
            (event.stream_id, event.headers) if isinstance(event, RequestReceived) else repr(event)
            for event in self.events
        ]


@settings(max_examples=150, deadline=None)
@given(
    actions=st.lists(st.tuples(ACTIONS, st.booleans()), max_size=25),
    cuts=st.lists(st.integers(1, 400), max_size=12),
)
def test_any_conversation(actions: list[tuple[tuple[object, ...], bool]], cuts: list[int]) -> None:
    """However a valid conversation is put into messages, whoever receives it sees the same, and of
    each request that was chosen exactly one field more, behind all others."""
    client, plain, grown, talk = Client(), Server(), Server(), Talk()
    messages, waiting = [], client.h2.data_to_send()
    for action, flush in actions:
        waiting += client.do(action)
        if flush:
            messages.append(waiting)
            waiting = b""
    messages.append(waiting)
    whole, at, pieces = b"".join(messages), 0, messages
    if cuts:  # anywhere, and the rest as one
        ends = [*itertools.accumulate(cuts), len(whole)]
        pieces = [whole[start:end] for start, end in itertools.pairwise([0, *ends])]
    chosen: set[int] = set()
    for piece in pieces:
        made = grow(talk, piece)
        chosen.update(made.streams)
        at += len(made.sent)
        grown.receive(made.sent)
    plain.receive(whole)
    assert at == len(whole) + FIELD_LENGTH * len(chosen)
    expected = []
    for told in plain.told():
        if isinstance(told, tuple):
            stream, fields = told
            own = any(name == b"traceparent" for name, _ in fields)
            assert not (own and stream in chosen)
            if stream in chosen:
                told = (stream, [*fields, (b"traceparent", VALUE)])
        expected.append(told)
    # What comes in several pieces is told in several events.
    if not cuts:
        assert grown.told() == expected
    else:
        requests = [told for told in expected if isinstance(told, tuple)]
        assert [told for told in grown.told() if isinstance(told, tuple)] == requests


RECORDINGS = sorted(GOLDEN.glob("*.txt"))


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_recorded_blocks(path: Path) -> None:
    """What real clients sent, each block in a message of its own: the receiver's table is as it
    was throughout, and each request has one field more, but for those with one of their own."""
    lines = [line.split() for line in path.read_text().splitlines()]
    blocks = [bytes.fromhex(line[-1]) for line in lines if line[0] == "client"]
    talk, plain, other = Talk(preface=False), hpack.Decoder(), hpack.Decoder()
    plain.max_allowed_table_size = other.max_allowed_table_size = 1 << 16
    seen = 0
    for number, block in enumerate(blocks):
        made = grow(talk, headers(2 * number + 1, block))
        assert made.verdict == Talk.PLACE_FOUND
        (frame,) = frames_of(made.sent)
        assert isinstance(frame, HeadersFrame)
        before, after = plain.decode(block, raw=True), other.decode(frame.data, raw=True)
        own = any(name == b"traceparent" for name, _ in before)
        assert after == (before if own else [*before, (b"traceparent", VALUE)])
        assert made.list_size >= sum(32 + len(name) + len(value) for name, value in before)
        assert made.list_size < 8000
        table, same = plain.header_table.dynamic_entries, other.header_table.dynamic_entries
        assert list(table) == list(same)
        seen += not own
    assert seen
