"""The slow path: a record taken apart, and what all protocols have in common."""

import socket

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.records import (
    CLOCK_OFFSET_NS,
    NO_PARENT,
    PARENT_ID,
    SPAN_ID,
    TRACE_ID,
    batch,
    record,
)
from waggle import layout
from waggle.layout import End, Flag, Kept, Link, Protocol, Sampling
from waggle.spans import (
    KIND_INTERNAL,
    Facts,
    decode_batch,
    decode_span,
    decoder_of,
    read_exchange,
)

HEAD_SIZE: int = layout.EXCHANGE["head"].shape[0]
KNOWN, HERE, SAID = (state << 56 for state in (Sampling.KNOWN, Sampling.HERE, Sampling.SAID))


def test_facts_are_the_layout() -> None:
    """Facts names every fixed column of the generated layout, in its order."""
    assert (*Facts._fields, "head") == layout.EXCHANGE.names


@pytest.mark.parametrize("dtype", [layout.EXCHANGE, layout.LARGE_EXCHANGE])
def test_a_record_is_read_as_numpy_reads_it(dtype: "np.dtype[np.void]") -> None:
    """Unpacking a record gives what its columns hold, for both sizes."""
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 256, (4, dtype.itemsize), dtype=np.uint8).view(dtype).reshape(4)
    for i in range(4):
        facts = read_exchange(rows, i).facts
        for name in Facts._fields:
            value = rows[name][i]
            assert getattr(facts, name) == (value.tobytes() if value.shape else int(value))


def test_ids_times_and_resource_are_the_records() -> None:
    """Ids come through as bytes, times as Unix time, the resource as its index."""
    spans = batch([record(start_ns=5, end_ns=9)], [2])
    span = decode_span(spans, 0)
    assert (span.trace_id, span.span_id, span.parent_id) == (TRACE_ID, SPAN_ID, PARENT_ID)
    assert (span.start_unix_ns, span.end_unix_ns) == (CLOCK_OFFSET_NS + 5, CLOCK_OFFSET_NS + 9)
    assert span.resource == 2


def test_a_span_never_ends_before_it_starts() -> None:
    """An exchange that was swept with no end ends where it starts."""
    span = decode_span(batch([record(start_ns=7, end_ns=0, end=End.OPEN)]), 0)
    assert span.end_unix_ns == span.start_unix_ns == CLOCK_OFFSET_NS + 7


@pytest.mark.parametrize(
    ("link", "name"),
    [
        (Link.TRACEPARENT, "traceparent"),
        (Link.SOCKET, "socket"),
        (Link.THREAD, "thread"),
        (Link.TURN, "turn"),
    ],
)
def test_a_parent_carries_its_evidence(link: Link, name: str) -> None:
    """waggle.link.method names how the parent is known."""
    span = decode_span(batch([record(link=link)]), 0)
    assert span.attributes["waggle.link.method"] == name


@pytest.mark.parametrize("link", list(Link))
def test_without_a_parent_there_is_no_evidence(link: Link) -> None:
    """No parent: no parent id, no link method, and nothing remote."""
    span = decode_span(batch([record(parent_id=NO_PARENT, link=link)]), 0)
    assert span.parent_id == b""
    assert "waggle.link.method" not in span.attributes
    assert span.flags == 0x101


@pytest.mark.parametrize(
    ("flags", "trace_flags", "expected"),
    [(0, 0, 0x100), (0, 1, 0x101), (Flag.REMOTE_PARENT, 1, 0x301), (Flag.REMOTE_PARENT, 3, 0x303)],
)
def test_flags_are_those_of_otlp(flags: int, trace_flags: int, expected: int) -> None:
    """The W3C flags in the low byte, whether the parent is remote above it."""
    assert decode_span(batch([record(flags=flags, trace_flags=trace_flags)]), 0).flags == expected


def test_tracestate_is_kept() -> None:
    """tracestate goes through unchanged; several fields are one list."""
    kept = [(Kept.TRACESTATE, b"a=1"), (Kept.TRACESTATE, b"b=2")]
    assert decode_span(batch([record(kept=kept)]), 0).trace_state == "a=1, b=2"


@pytest.mark.parametrize(
    ("sampling", "had_traceparent", "text", "expected"),
    [
        (0, True, b"a=1", "a=1"),
        (0, False, b"a=1", "a=1"),
        (KNOWN | HERE, False, b"", "ot=th:0"),
        (KNOWN | HERE | 0xE666 << 40, False, b"", "ot=th:e666"),
        (KNOWN | HERE | 0xE666 << 40, False, b"a=1", "ot=th:e666"),
        (KNOWN | HERE | 0xE666 << 40, True, b"a=1", "ot=th:e666,a=1"),
        (KNOWN | SAID | 0x8 << 52, True, b"a=1,ot=th:8", "a=1,ot=th:8"),
        (SAID, True, b"ot=rv:0123456789abcd", "ot=rv:0123456789abcd"),
        (HERE, True, b"a=1", "a=1"),
    ],
)
def test_a_span_says_the_threshold_it_passed(
    sampling: int, had_traceparent: bool, text: bytes, expected: str
) -> None:
    """`ot=th` comes before what others say, unless they say it; without a sampler nothing
    changes; a tracestate without a traceparent is void."""
    flags = Flag.HAD_TRACEPARENT if had_traceparent else 0
    one = record(kept=[(Kept.TRACESTATE, text)] if text else [], sampling=sampling, flags=flags)
    assert decode_span(batch([one]), 0).trace_state == expected


@pytest.mark.parametrize(("reason", "text"), [(1, "error"), (2, "slow"), (3, "p95"), (0, None)])
def test_a_span_that_the_tail_kept_says_why(reason: int, text: str | None) -> None:
    """Only spans that were dropped at their beginning have a reason."""
    for known in (0, KNOWN):
        span = decode_span(batch([record(sampling=known | HERE | reason)]), 0)
        expected = None if known else text
        assert span.attributes.get("waggle.sampling.tail") == expected


def test_of_a_field_that_must_not_repeat_the_first_counts() -> None:
    """A second Host is not appended to the first."""
    kept = [(Kept.HOST, b"one.test"), (Kept.HOST, b"two.test")]
    assert decode_span(batch([record(kept=kept)]), 0).attributes["server.address"] == "one.test"


def test_a_resynchronised_connection_is_told() -> None:
    """waggle.resynced is there when the exchange was found in mid-connection, else not."""
    attributes = decode_span(batch([record(flags=Flag.RESYNCED)]), 0).attributes
    assert attributes["waggle.resynced"] is True
    assert "waggle.resynced" not in decode_span(batch([record()]), 0).attributes


def test_an_unknown_protocol_is_still_a_span() -> None:
    """A record of a protocol nobody decodes keeps its ids and times."""
    span = decode_span(batch([record(protocol=9)]), 0)
    assert (span.name, span.kind, span.trace_id) == ("protocol 9", KIND_INTERNAL, TRACE_ID)


def test_protocols_are_found_by_their_folder() -> None:
    """HTTP/1 is registered by its number though nothing here names it; others are not."""
    decoder = decoder_of(Protocol.HTTP1)
    assert decoder is not None
    assert type(decoder).__module__ == "waggle.probes.http1.decode"
    assert decoder_of(Protocol.NONE) is None


def test_a_batch_decodes_in_its_order() -> None:
    """decode_batch gives the spans of all rows, in order."""
    spans = batch([record(status=status) for status in (200, 404, 503)], [0, 1, 2])
    decoded = decode_batch(spans)
    assert [span.attributes["http.response.status_code"] for span in decoded] == [200, 404, 503]
    assert decoded == [decode_span(spans, i) for i in range(3)]


@given(
    st.binary(min_size=HEAD_SIZE, max_size=HEAD_SIZE), st.integers(0, 65535), st.integers(0, 65535)
)
def test_any_head_gives_a_span_with_valid_text(head: bytes, target: int, kept: int) -> None:
    """Whatever bytes and lengths are in a record, decoding ends in a span made of UTF-8."""
    made = record(family=socket.AF_INET6, head=head, target_len=target, kept_len=kept)
    span = decode_span(batch([made]), 0)
    for text in (span.name, span.trace_state, *map(str, span.attributes.values())):
        text.encode("utf-8")


@given(st.lists(st.tuples(st.integers(1, 8), st.binary(max_size=20)), max_size=6))
def test_kept_fields_are_found_again(fields: list[tuple[int, bytes]]) -> None:
    """Every kept field is read back: the first of a tag, or all of a list."""
    kept = read_exchange(record(b"/x", [(Kept(tag), v) for tag, v in fields]), 0).kept
    lists = (Kept.X_FORWARDED_FOR, Kept.FORWARDED, Kept.TRACESTATE)
    for tag in range(1, 9):
        values = [value for found, value in fields if found == tag]
        want = b", ".join(values) if tag in lists else b"".join(values[:1])
        assert kept.get(tag, b"") == want
