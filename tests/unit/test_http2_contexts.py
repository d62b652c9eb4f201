"""Trace contexts that are no traceparent, in HTTP/2: header blocks through the kernel's code."""

import base64
from collections.abc import Sequence

import hpack
import pytest
from hyperframe.frame import HeadersFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.parsers import Found, Incoming, Talk, check_under_sanitizers
from waggle.layout import Link

TRACE = "80f198ee56343ba864fe8b2a57d3eff7"
SPAN = "e457b5a2e4d86bd1"
NAMES = [
    *("b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags"),
    *("uber-trace-id", "x-amzn-trace-id", "grpc-trace-bin"),
]
REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/a.B/C"), (":authority", "x")]
Field = tuple[str, str]


def binary(trace: str, span: str, options: bytes = b"\2\1") -> bytes:
    """OpenCensus' format of a context."""
    return b"\0\0" + bytes.fromhex(trace) + b"\1" + bytes.fromhex(span) + options


def base64_of(trace: str, span: str, options: bytes = b"\2\1") -> str:
    return base64.b64encode(binary(trace, span, options)).decode()


def formats(trace: str = TRACE, span: str = SPAN) -> dict[str, tuple[Link, list[Field]]]:
    """One request's fields in each format."""
    several = [("x-b3-traceid", trace), ("x-b3-spanid", span), ("x-b3-sampled", "1")]
    root = f"Root=1-{trace[:8]}-{trace[8:]}"
    return {
        "b3": (Link.B3, [("b3", f"{trace}-{span}-1")]),
        "several": (Link.B3, several),
        "flags": (Link.B3, [*several[:2], ("x-b3-flags", "1")]),
        "jaeger": (Link.JAEGER, [("uber-trace-id", f"{trace}:{span}:0:1")]),
        "escaped": (Link.JAEGER, [("uber-trace-id", f"{trace}:{span}:0:1".replace(":", "%3A"))]),
        "xray": (Link.XRAY, [("x-amzn-trace-id", f"{root};Parent={span};Sampled=1")]),
        "binary": (Link.TRACE_BIN, [("grpc-trace-bin", base64_of(trace, span).rstrip("="))]),
        "padded": (Link.TRACE_BIN, [("grpc-trace-bin", base64_of(trace, span))]),
    }


FORMATS = formats()


class Sender:
    """A client's side: an encoder, and the kernel's machine behind it."""

    def __init__(self) -> None:
        self.encoder = hpack.Encoder()
        self.talk = Talk(preface=False)
        self.stream = -1

    def send(self, fields: Sequence[Field], *, coded: bool = True) -> Found:
        return self.send_block(self.encoder.encode([*REQUEST, *fields], huffman=coded))

    def send_block(self, block: bytes) -> Found:
        self.stream += 2
        self.talk.feed(HeadersFrame(self.stream, block, flags=["END_HEADERS"]).serialize())
        found = self.talk.found()[-1]
        assert (found.stream, found.bad) == (self.stream, 0)
        return found


def incoming(found: Found) -> Incoming | None:
    if not found.valid:
        return None
    sampled = None if found.undecided else bool(found.trace_flags)
    return Incoming(found.trace_id.hex(), found.span_id.hex(), sampled, found.link)


def read(*fields: Field, coded: bool = True) -> Incoming | None:
    return incoming(Sender().send(fields, coded=coded))


@pytest.mark.parametrize("coded", [True, False])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format(name: str, coded: bool) -> None:
    """Each format is read from a block, in the Huffman code and plain."""
    link, fields = FORMATS[name]
    assert read(*fields, coded=coded) == Incoming(TRACE, SPAN, True, link)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_ids(name: str, data: st.DataObject) -> None:
    """Whatever the ids are, they are read as they were sent."""
    trace = data.draw(st.binary(min_size=16, max_size=16).filter(any)).hex()
    span = data.draw(st.binary(min_size=8, max_size=8).filter(any)).hex()
    link, fields = formats(trace, span)[name]
    coded = data.draw(st.booleans())
    assert read(*fields, coded=coded) == Incoming(trace, span, True, link)


@pytest.mark.parametrize("name", FORMATS)
def test_told_by_the_table(name: str) -> None:
    """A name, and a whole field, are known where they are only referred to, as long as their entry
    may be in a table of the default size."""
    sender, others = Sender(), [("x-request", "0")]
    link, fields = FORMATS[name]
    for number in range(1, 40):
        span = f"{number:016x}"
        _, changed = formats(TRACE, span)[name]
        assert incoming(sender.send(changed)) == Incoming(TRACE, span, True, link)
        assert incoming(sender.send([*others, *changed])) == Incoming(TRACE, span, True, link)
        others = [("x-request", str(number))]
    assert incoming(sender.send(fields)) == Incoming(TRACE, SPAN, True, link)
    known = sender.send(fields)
    assert known.insertions == 0  # all of it is repeated
    assert incoming(known) == Incoming(TRACE, SPAN, True, link)
    for number in range(200):
        sender.send([("n", str(number))])
        if number in (60, 70, 199):
            assert incoming(sender.send(fields)) == Incoming(TRACE, SPAN, True, link)


def test_names_by_an_index_without_a_new_entry() -> None:
    """Fields that may not become entries are known by the name that they refer to."""
    sender = Sender()
    sender.send([("b3", f"{TRACE}-{SPAN}-0")])
    value = f"{SPAN}{SPAN}-{TRACE[:16]}-1"
    block = sender.encoder.encode([hpack.NeverIndexedHeaderTuple("b3", value)])
    found = sender.send_block(block)
    assert found.insertions == 0
    assert incoming(found) == Incoming(SPAN * 2, TRACE[:16], True, Link.B3)


def test_entries_of_other_names_are_none() -> None:
    """A field with a context's value and another name names nobody, wherever its name is told."""
    sender = Sender()
    for _ in range(3):
        for _, fields in FORMATS.values():
            for number, (_, value) in enumerate(fields):
                assert incoming(sender.send([(f"x-other-{number}", value)])) is None


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_nearly_one(name: str) -> None:
    """A name that differs anywhere, or is longer or shorter, is another."""
    values = {one: value for _, fields in FORMATS.values() for one, value in fields}
    partner = [("x-b3-spanid", SPAN), ("x-b3-traceid", TRACE)]
    more = [field for field in partner if name.startswith("x-b3-") and field[0] != name]
    for at in range(len(name)):
        for other in (name[:at] + "k" + name[at + 1 :], name[:at] + name[at + 1 :], name + "x"):
            if other not in NAMES and not name.startswith("x-b3-s") and name != "x-b3-flags":
                assert read((other, values[name]), *more) is None
                assert read((other, values[name]), *more, coded=False) is None


def test_two_of_one_name() -> None:
    """Of two values of one format nobody can know which holds: none."""
    for link, fields in FORMATS.values():
        assert read(*fields, fields[0]) is None, link
        sender = Sender()
        sender.send(fields)
        assert incoming(sender.send([*fields, *fields])) is None


def test_more_fields_than_are_noted() -> None:
    """Of more than eight fields that may hold a context none is taken."""
    many = [("x-b3-sampled", "1"), ("x-b3-flags", "1")] * 4
    assert read(*many, *FORMATS["jaeger"][1]) is None
    assert read(*many[:5], *FORMATS["jaeger"][1]) == Incoming(TRACE, SPAN, True, Link.JAEGER)


def test_a_valid_traceparent_is_the_strongest() -> None:
    """Where nobody says otherwise, W3C's wins; a broken one wins over nothing."""
    other = f"00-{'ab' * 16}-{'cd' * 8}-01"
    for link, fields in FORMATS.values():
        found = read(("traceparent", other), *fields)
        assert found == Incoming("ab" * 16, "cd" * 8, True, Link.TRACEPARENT)
        broken = read(*fields, ("traceparent", "ff" + other[2:]))
        assert broken == Incoming(TRACE, SPAN, True, link)


@pytest.mark.parametrize(
    ("fields", "sampled"),
    [
        ([("b3", f"{TRACE}-{SPAN}")], None),
        ([("b3", f"{TRACE}-{SPAN}-0")], False),
        ([("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)], None),
        ([("uber-trace-id", f"{TRACE}:{SPAN}:0:0")], False),
        ([("grpc-trace-bin", base64_of(TRACE, SPAN, b"\2\0"))], False),
        ([("grpc-trace-bin", base64_of(TRACE, SPAN, b""))], False),
        ([("x-amzn-trace-id", f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={SPAN};Sampled=?")], None),
        (
            [("x-amzn-trace-id", f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={SPAN};Lineage=a:1|b+c")],
            None,
        ),
    ],
)
def test_what_is_said_of_sampling(fields: list[Field], sampled: bool | None) -> None:
    """Yes, no, or nothing, as the format has it."""
    for coded in (True, False):
        found = read(*fields, coded=coded)
        assert found is not None
        assert (found.trace_id, found.span_id, found.sampled) == (TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "fields",
    [
        [("b3", f"{TRACE}-{SPAN}-1\x7f")],
        [("b3", f"{TRACE}-{SPAN}-1-{SPAN}".ljust(300, "0"))],
        [("x-b3-traceid", TRACE)],
        [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "\n" * 300)],
        [("uber-trace-id", f"{TRACE}:{SPAN}:0")],
        [("grpc-trace-bin", base64_of("0" * 32, SPAN))],
        [("grpc-trace-bin", base64_of(TRACE, "0" * 16))],
        [("grpc-trace-bin", base64_of(TRACE, SPAN)[:-5])],
        [("grpc-trace-bin", base64_of(TRACE, SPAN) + "AAAA")],
        [("grpc-trace-bin", "AQ" + base64_of(TRACE, SPAN)[2:])],
        [("grpc-trace-bin", base64_of(TRACE, SPAN, b"\3\1"))],
        [("grpc-trace-bin", base64_of(TRACE, SPAN).replace("A", "-", 1))],
        [("grpc-trace-bin", "")],
    ],
)
def test_what_breaks_a_rule(fields: list[Field]) -> None:
    """What is no context of its format is rejected whole."""
    assert read(*fields) is None
    assert read(*fields, coded=False) is None


def test_true_binary() -> None:
    """Between ends that can, grpc-trace-bin comes as it is behind a byte of zero (C-core)."""
    value = b"\0" + binary(TRACE, SPAN)
    name = b"grpc-trace-bin"
    block = bytes((0, len(name))) + name + bytes((len(value),)) + value
    assert incoming(Sender().send_block(block)) == Incoming(TRACE, SPAN, True, Link.TRACE_BIN)
    assert incoming(Sender().send_block(block.replace(b"\0\0\0", b"\0\1\0"))) is None


@pytest.mark.parametrize("link", [Link.B3, Link.JAEGER, Link.XRAY, Link.TRACE_BIN])
def test_a_code_that_is_broken(link: Link) -> None:
    """A value whose code has a flipped bit is read as it then decodes, or not at all."""
    fields = next(fields for one, fields in FORMATS.values() if one == link)
    block = hpack.Encoder().encode(fields)
    for at in range(8 * (len(block) - 30), 8 * len(block)):
        broken = bytearray(block)
        broken[at // 8] ^= 0x80 >> at % 8
        found = incoming(Sender().send_block(bytes(broken)))
        try:
            decoded = [(str(n), str(v)) for n, v in hpack.Decoder().decode(bytes(broken))]
        except hpack.HPACKError:
            decoded = []
        assert found == (read(*decoded, coded=False) if decoded else None), broken


def test_under_sanitizers() -> None:
    """No such field makes the machine read or write out of bounds."""
    preface, cases = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []
    for _, fields in FORMATS.values():
        encoder = hpack.Encoder()
        for coded in (True, False):
            block = encoder.encode([*REQUEST, *fields, *fields], huffman=coded)
            frame = HeadersFrame(1, block, flags=["END_HEADERS"]).serialize()
            cases += [preface + frame, preface + frame * 3]
            cases += [preface + frame[:9] + frame[9:].replace(b"\x8d", b"\xff") for _ in (0,)]
    long = hpack.Encoder().encode([(name, "+" * 9000) for name in NAMES[:1]], huffman=False)
    cases.append(preface + HeadersFrame(1, long, flags=["END_HEADERS"]).serialize())
    check_under_sanitizers((b"2", case) for case in cases)
