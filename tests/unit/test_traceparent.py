"""traceparent, to the letter of W3C Trace Context."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.http1_oracle import bounded, mutated
from unit.parsers import (
    TRACEPARENT_LENGTH,
    Case,
    TraceContext,
    check_under_sanitizers,
    parse_head,
    parse_traceparent,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01".encode()
# What the memory behind a value may hold: more digits, a dash, a blank, nothing.
BEHIND = (b"0", b"-", b"f", b" ", b"\0", b"\xff", b"\r\n")

_FORM = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)


def expected(value: bytes) -> TraceContext | None:
    """The recommendation's words (section 3.2) as one pattern and three exceptions."""
    match = _FORM.fullmatch(value)
    if not match:
        return None
    version, trace, span, flags, more = match.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    if trace == b"0" * 32 or span == b"0" * 16:
        return None
    return TraceContext(trace.decode(), span.decode(), int(flags, 16) & 3)


def test_example() -> None:
    """The recommendation's example is read as it says."""
    value = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    context = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", 1)
    assert parse_traceparent(value) == context


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"00", b"0", b"-", b"traceparent", PARENT[1:], PARENT[:-1], PARENT[:-3], b" " * 55),
        *(b"0" + PARENT, PARENT + b"0", PARENT + b"-", PARENT + b"-00", PARENT + b" "),
        *(b" " + PARENT, b" " + PARENT[:-1], PARENT.replace(b"-", b"_"), PARENT.replace(b"-", b"")),
        *(b"ff" + PARENT[2:], b"ff" + PARENT[2:] + b"-x", b"FF" + PARENT[2:], b"0X" + PARENT[2:]),
        *(PARENT.upper(), PARENT.replace(b"a", b"A"), PARENT.replace(b"c", b"C"), b"0" * 55),
        *(PARENT.replace(TRACE.encode(), b"0" * 32), PARENT.replace(SPAN.encode(), b"0" * 16)),
        *(PARENT[:-2] + b"0G", PARENT[:-2] + b"A0", PARENT[:-2] + b" 1", PARENT + b"," + PARENT),
        *(b"cc" + PARENT[2:] + b"0", b"cc" + PARENT[2:] + b".x", b"cc" + PARENT[2:-1]),
        *(b"01" + PARENT[2:] + b" -x", b"01" + PARENT[2:] + b"x-", b"fE" + PARENT[2:]),
    ],
)
def test_refused(value: bytes) -> None:
    """What breaks a rule is refused whole, whatever the memory behind it holds."""
    for behind in BEHIND:
        assert parse_traceparent(value, behind) is None


@pytest.mark.parametrize("version", [f"{n:02x}".encode() for n in range(256)])
def test_versions(version: bytes) -> None:
    """Version ff is refused; a version above 00 may have more fields after a dash."""
    context = TraceContext(TRACE, SPAN, 1)
    for more in (b"", b"-", b"-x", b"-what-the-future-will-be-like" * 4):
        found = parse_traceparent(version + PARENT[2:] + more)
        refused = version == b"ff" or (version == b"00" and more)
        assert found == (None if refused else context)


@pytest.mark.parametrize("flags", range(256))
def test_flags(flags: int) -> None:
    """The two flags that mean something are told; Trace Context wants the others zero."""
    value = PARENT[:-2] + b"%02x" % flags
    assert parse_traceparent(value) == TraceContext(TRACE, SPAN, flags & 3)


def test_ids_that_are_nearly_zero() -> None:
    """One bit anywhere makes an id valid; none makes it invalid."""
    for at in range(32):
        trace = "0" * at + "1" + "0" * (31 - at)
        span = ("0" * (at % 16) + "8").ljust(16, "0")
        assert parse_traceparent(f"00-{trace}-{span}-00".encode()) == TraceContext(trace, span, 0)
        assert parse_traceparent(f"00-{trace}-{'0' * 16}-01".encode()) is None
        assert parse_traceparent(f"00-{'0' * 32}-{span}-01".encode()) is None


@pytest.mark.parametrize("at", range(TRACEPARENT_LENGTH + 1))
def test_any_byte_at_any_place(at: int) -> None:
    """Every byte replaced by every other is accepted or refused as the rules say."""
    value = b"01" + PARENT[2:] + b"-"
    for byte in range(256):
        changed = value[:at] + bytes([byte]) + value[at + 1 :]
        assert parse_traceparent(changed) == expected(changed), changed
        changed = PARENT[:at] + bytes([byte]) + PARENT[at + 1 :]
        assert parse_traceparent(changed) == expected(changed), changed


@pytest.mark.parametrize("version", [b"00", b"01"])
def test_every_length(version: bytes) -> None:
    """A value cut short is refused even when the memory behind it completes it."""
    value = version + PARENT[2:] + b"-more"
    for length in range(len(value) + 1):
        for behind in (*BEHIND, value[length:] or b"0"):
            assert parse_traceparent(value[:length], behind) == expected(value[:length])


@bounded
@given(
    st.one_of(
        st.binary(max_size=80),
        st.from_regex(_FORM, fullmatch=True),
        st.text("0123456789abcdef-", min_size=50, max_size=60).map(str.encode),
    ),
    st.sampled_from(BEHIND),
)
def test_any_value(value: bytes, behind: bytes) -> None:
    """Any value is accepted or refused as the rules say, whatever lies behind it."""
    assert parse_traceparent(value, behind) == expected(value)


@bounded
@given(st.from_regex(_FORM, fullmatch=True).filter(lambda value: value.isascii()))
def test_from_head_to_context(value: bytes) -> None:
    """A value read from a head, line end and all, says what it says alone."""
    value = bytes(byte for byte in value if byte >= 0x20).rstrip()
    head = b"GET / HTTP/1.1\r\nTraceParent: " + value + b" \r\nHost: h\r\n\r\n"
    found = parse_head(head).traceparent
    assert found == value
    assert parse_traceparent(found, b"\r\nHost: ") == expected(value)


def test_values_under_sanitizers() -> None:
    """No value makes the parser read beyond the 64 bytes it asks for."""
    rng = np.random.default_rng(6)
    cases: list[Case] = [(b"T", data) for data in mutated([PARENT, PARENT + b"-x"], 7, 1000)]
    cases += [(b"T", rng.bytes(n)) for n in rng.integers(0, 100, 300)]
    check_under_sanitizers(cases)
