"""Trace contexts that are no traceparent: golden headers through the kernel's code."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.parsers import Incoming, parse_format
from waggle.baggage import MAX_MEMBERS, MAX_VALUE, Baggage
from waggle.layout import Link
from waggle.propagators import FORMATS, Propagators, propagators_of

TRACE = "80f198ee56343ba864fe8b2a57d3eff7"
SHORT = "64fe8b2a57d3eff7"
SPAN = "e457b5a2e4d86bd1"
PARENT = "05e3ac9a4f6e3b90"
ROOT = f"1-{TRACE[:8]}-{TRACE[8:]}"


def context(kind: str, value: str, name: str = "") -> Incoming | None:
    names = {"b": "b3", "j": "uber-trace-id", "x": "X-Amzn-Trace-Id"}
    return parse_format(kind, f"{name or names[kind]}: {value}".encode())


def b3(value: str) -> Incoming | None:
    return context("b", value)


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (f"{TRACE}-{SPAN}-1-{PARENT}", True),
        (f"{TRACE}-{SPAN}-1", True),
        (f"{TRACE}-{SPAN}-0", False),
        (f"{TRACE}-{SPAN}-d", True),
        (f"{TRACE}-{SPAN}", None),
        (f" \t{TRACE}-{SPAN}-1 ", True),
    ],
)
def test_b3_in_one_header(value: str, sampled: bool | None) -> None:
    """Ids and decision of every form that B3's single header has."""
    assert b3(value) == Incoming(TRACE, SPAN, sampled, Link.B3)


def test_short_trace_ids_of_b3() -> None:
    """A trace id of 64 bits is the right half of one of 128."""
    assert b3(f"{SHORT}-{SPAN}-1") == Incoming("0" * 16 + SHORT, SPAN, True, Link.B3)


@pytest.mark.parametrize(
    "value",
    [
        *("", "0", "1", "d", "-", f"{TRACE}", f"{TRACE}-", f"-{SPAN}"),
        f"{TRACE}-{SPAN[:-1]}-1",
        f"{TRACE}-{SPAN}0-1",
        f"{TRACE[:-1]}-{SPAN}-1",
        f"{TRACE}0-{SPAN}-1",
        f"{'0' * 32}-{SPAN}-1",
        f"{TRACE}-{'0' * 16}-1",
        f"{TRACE[:-1]}g-{SPAN}-1",
        f"{TRACE}-{SPAN[:-1]}z-1",
        f"{TRACE}-{SPAN}-2",
        f"{TRACE}-{SPAN}-11",
        f"{TRACE}-{SPAN}-1-{PARENT[:-1]}",
        f"{TRACE}-{SPAN}-1-{PARENT}-",
        f"{TRACE}-{SPAN}-1-{PARENT}".ljust(300, "0"),
    ],
)
def test_b3_that_breaks_a_rule(value: str) -> None:
    """What is no B3 is rejected whole: no half of it is used."""
    assert b3(value) is None


def test_two_headers_of_one_name() -> None:
    """Of two values nobody can know which holds: none."""
    line = f"b3: {TRACE}-{SPAN}-1".encode()
    assert parse_format("b", line, line) is None


def multi(trace: str = TRACE, span: str = SPAN, *more: str) -> Incoming | None:
    lines = [f"X-B3-TraceId: {trace}", f"x-b3-spanid: {span}", *more]
    return parse_format("m", *(line.encode() for line in lines))


@pytest.mark.parametrize(
    ("more", "sampled"),
    [
        ([], None),
        (["X-B3-Sampled: 1"], True),
        (["X-B3-Sampled: 0"], False),
        (["X-B3-Sampled: true"], True),
        (["X-B3-Flags: 1"], True),
        (["X-B3-Flags: 0"], None),
        (["X-B3-Sampled: 0", "X-B3-Flags: 1", f"X-B3-ParentSpanId: {PARENT}"], True),
    ],
)
def test_b3_in_several_headers(more: list[str], sampled: bool | None) -> None:
    """The same from B3's separate headers, whose names come in any case."""
    assert multi(TRACE, SPAN, *more) == Incoming(TRACE, SPAN, sampled, Link.B3)
    assert multi(SHORT, SPAN, *more) == Incoming("0" * 16 + SHORT, SPAN, sampled, Link.B3)


@pytest.mark.parametrize(
    "lines",
    [
        [f"X-B3-TraceId: {TRACE}"],
        [f"X-B3-SpanId: {SPAN}"],
        [f"X-B3-TraceId: {TRACE}0", f"X-B3-SpanId: {SPAN}"],
        [f"X-B3-TraceId: {TRACE}-", f"X-B3-SpanId: {SPAN}"],
        [f"X-B3-TraceId: {TRACE}", f"X-B3-SpanId: {SPAN}1"],
        [f"X-B3-TraceId: {TRACE}", f"X-B3-SpanId: {SPAN}", f"X-B3-SpanId: {SPAN}"],
        [f"X-B3-TraceId: {'0' * 16}", f"X-B3-SpanId: {SPAN}"],
        [f"X-B3-TraceId: {TRACE}", f"X-B3-SpanId: {SPAN}", "X-B3-Sampled: maybe"],
    ],
)
def test_several_headers_that_break_a_rule(lines: list[str]) -> None:
    """Where one of them is missing, twice there or no id, none counts."""
    assert parse_format("m", *(line.encode() for line in lines)) is None


@pytest.mark.parametrize(
    ("value", "trace", "span", "sampled"),
    [
        (f"{TRACE}:{SPAN}:0:1", TRACE, SPAN, True),
        (f"{TRACE}:{SPAN}:{PARENT}:0", TRACE, SPAN, False),
        (f"{TRACE}%3A{SPAN}%3a0%3A3", TRACE, SPAN, True),
        (f"{TRACE}:{SPAN}::01", TRACE, SPAN, True),
        (f"{SHORT}:{SPAN}:0:0", "0" * 16 + SHORT, SPAN, False),
        ("abc:1f:0:1", "abc".zfill(32), "1f".zfill(16), True),
    ],
)
def test_jaeger(value: str, trace: str, span: str, sampled: bool) -> None:
    """Jaeger's header, as it is and with its colons escaped; leading zeros may be left out."""
    assert context("j", value) == Incoming(trace, span, sampled, Link.JAEGER)


@pytest.mark.parametrize(
    "value",
    [
        *("", ":::", f"{TRACE}:{SPAN}:0", f"{TRACE}:{SPAN}:0:1:", f"{TRACE}:{SPAN}:0:"),
        f"0:{SPAN}:0:1",
        f"{TRACE}:0:0:1",
        f"{TRACE}0:{SPAN}:0:1",
        f"{TRACE}:{SPAN}0:0:1",
        f"{TRACE}:{SPAN}:x:1",
        f"{TRACE}:{SPAN}:0:001",
        f"{TRACE}:{SPAN}:0:g",
        f"{TRACE}%3B{SPAN}%3A0%3A1",
        f"{TRACE}:{SPAN}:0:1%",
    ],
)
def test_jaeger_that_breaks_a_rule(value: str) -> None:
    """What has other fields than four, or no ids in them, is rejected whole."""
    assert context("j", value) is None


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (f"Root={ROOT};Parent={SPAN};Sampled=1", True),
        (f"Root={ROOT};Parent={SPAN};Sampled=0", False),
        (f"Root={ROOT};Parent={SPAN};Sampled=?", None),
        (f"Root={ROOT};Parent={SPAN}", None),
        (f"Sampled=1;Parent={SPAN};Root={ROOT}", True),
        (f"Self=1-67891234-12456789abcdef012345678; Root={ROOT}; Parent={SPAN}; Sampled=1", True),
        (f"Root={ROOT};Parent={SPAN};Sampled=1;Lineage=25:a87bd80c:1|68fd508a:5", True),
    ],
)
def test_xray(value: str, sampled: bool | None) -> None:
    """X-Ray's fields, in any order, among others; what is between them may be blank."""
    assert context("x", value) == Incoming(TRACE, SPAN, sampled, Link.XRAY)


@pytest.mark.parametrize(
    "value",
    [
        *("", f"Root={ROOT}", f"Parent={SPAN};Sampled=1"),
        f"Root=2-{TRACE[:8]}-{TRACE[8:]};Parent={SPAN};Sampled=1",
        f"Root={TRACE};Parent={SPAN};Sampled=1",
        f"Root=1-{TRACE[:7]}-{TRACE[7:]};Parent={SPAN};Sampled=1",
        f"Root=1-{TRACE[:8]}-{TRACE[8:-1]};Parent={SPAN};Sampled=1",
        f"Root={ROOT}0;Parent={SPAN};Sampled=1",
        f"Root={ROOT};Parent={SPAN[:-1]};Sampled=1",
        f"Root={ROOT};Parent={SPAN};Sampled=2",
        f"Root={ROOT};Parent={SPAN};Sampled=10",
        f"Root={ROOT};Root={ROOT};Parent={SPAN};Sampled=1",
        f"Root=1-{'0' * 8}-{'0' * 24};Parent={SPAN};Sampled=1",
        f"Root={ROOT};Parent={'0' * 16};Sampled=1",
    ],
)
def test_xray_that_breaks_a_rule(value: str) -> None:
    """A load balancer's header without a parent names no span, and malformed ids none at all."""
    assert context("x", value) is None


B3_PATTERN = re.compile(
    r"([0-9a-f]{32}|[0-9a-f]{16})-([0-9a-f]{16})(?:-[01d](?:-[0-9a-f]{16})?)?", re.IGNORECASE
)


@given(st.from_regex(r"[0-9a-f]{15,17}-?[0-9a-fg]{15,17}(-[01dx-])?(-[0-9a-f]{15,17})?\Z"))
def test_b3_by_its_grammar(value: str) -> None:
    """The kernel takes what the grammar takes, and nothing else."""
    match = B3_PATTERN.fullmatch(value)
    found = b3(value)
    if match and int(match[1], 16) and int(match[2], 16):
        assert found is not None
        assert (found.trace_id, found.span_id) == (match[1].zfill(32).lower(), match[2].lower())
    else:
        assert found is None


def test_all_formats_are_read_where_nothing_is_said() -> None:
    """Without OTEL_PROPAGATORS every format is read, and W3C's is the strongest."""
    assert propagators_of({}, pytest.fail).strongest_first == FORMATS
    assert propagators_of({"OTEL_PROPAGATORS": " "}, pytest.fail) == Propagators()
    assert FORMATS[0] == "tracecontext"


@pytest.mark.parametrize(
    ("said", "strongest_first"),
    [
        ("tracecontext,baggage", ("tracecontext",)),
        ("tracecontext,b3", ("b3", "tracecontext")),
        ("b3multi, tracecontext,b3", ("b3", "tracecontext")),
        ("jaeger,XRAY", ("xray", "jaeger")),
        ("baggage", ()),
        ("none", ()),
        ("b3,none", ()),
    ],
)
def test_the_last_listed_propagator_wins(said: str, strongest_first: tuple[str, ...]) -> None:
    """As in an SDK, where each extracts into what the one before it left."""
    found = propagators_of({"OTEL_PROPAGATORS": said}, pytest.fail)
    assert found.strongest_first == strongest_first
    ranks = found.variables()
    assert sorted(name for name, rank in ranks.items() if rank) == sorted(
        f"rank_of_{name}" for name in strongest_first
    )
    if strongest_first:
        assert ranks[f"rank_of_{strongest_first[0]}"] == 1


def test_unknown_propagators_are_told_of() -> None:
    """A propagator that nobody here knows is named, and the others hold."""
    said: list[str] = []
    found = propagators_of({"OTEL_PROPAGATORS": "b3,ottrace"}, said.append)
    assert found.strongest_first == ("b3",)
    assert len(said) == 1
    assert "ottrace" in said[0]


def test_baggage_is_nobodys_unless_asked_for() -> None:
    """Only members whose key was named become attributes."""
    header = "tenant=acme, user.id=alice%20b;secret=1,broken, =x,tier = gold "
    assert Baggage().attributes(header) == {}
    assert Baggage(["tenant", "user.*"]).attributes(header) == {
        "baggage.tenant": "acme",
        "baggage.user.id": "alice b",
    }
    assert Baggage(["tier"]).attributes(header) == {"baggage.tier": "gold"}


def test_baggage_is_bounded() -> None:
    """Members beyond the 64th and characters beyond the 256th are left out."""
    header = ",".join(f"k{i}={'v' * 1000}" for i in range(100))
    found = Baggage(["*"]).attributes(header)
    assert len(found) == MAX_MEMBERS
    assert {len(value) for value in found.values()} == {MAX_VALUE}
