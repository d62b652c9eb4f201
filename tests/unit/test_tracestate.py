"""The member `ot` of tracestate: read in the kernel, rewritten in user space."""

import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unit.parsers import TRACESTATE_LOOKED_AT, SaidOfSampling, parse_tracestate
from unit.records import record
from waggle.layout import Flag, Kept, Sampling
from waggle.sampling import threshold_text
from waggle.spans import read_exchange
from waggle.tracestate import edit, with_threshold

EXPLICIT = 1 << 63
MASK = (1 << 56) - 1
LOW_ID, HIGH_ID = bytes(15) + b"\x01", b"\xff" * 16
SAID, KNOWN, EDIT = Sampling.SAID << 56, Sampling.KNOWN << 56, Sampling.EDIT << 56


def randomness(trace_id: bytes) -> int:
    return int.from_bytes(trace_id, "big") & MASK


def expected(value: bytes, trace_id: bytes, flags: int) -> SaidOfSampling:
    """The specifications' words, by splitting."""
    members = [member.lstrip(b" \t") for member in value[:TRACESTATE_LOOKED_AT].split(b",")]
    own = next((member[3:] for member in members if member.startswith(b"ot=")), None)
    if own is None:
        return SaidOfSampling(0, 0)
    found: dict[bytes, int] = {}
    for key in own.split(b";"):
        if match := re.fullmatch(rb"(th|rv):([0-9a-fA-F]{1,14})", key):
            name, digits = match.groups()
            if name == b"th" or len(digits) == 14:
                found.setdefault(name, int(digits.ljust(14, b"0"), 16))
    random = found[b"rv"] | EXPLICIT if b"rv" in found else 0
    threshold = found.get(b"th")
    if threshold is None:
        return SaidOfSampling(SAID, random)
    kept = found.get(b"rv", randomness(trace_id)) >= threshold
    if kept != bool(flags & 1):
        return SaidOfSampling(EDIT, random)
    known = kept and not random
    return SaidOfSampling(SAID | KNOWN | threshold if known else SAID, random)


@pytest.mark.parametrize(
    ("value", "trace_id", "flags", "said"),
    [
        (b"ot=th:c", HIGH_ID, 1, SAID | KNOWN | 0xC << 52),
        (b"a=1, ot=th:0;x:y ,b=2", LOW_ID, 1, SAID | KNOWN),
        (b"ot=th:c", LOW_ID, 0, SAID),  # not sampled, rightly: nothing to count
        (b"ot=th:c", LOW_ID, 1, EDIT),  # sampled, and the threshold says it cannot be
        (b"ot=th:c", HIGH_ID, 0, EDIT),
        (b"ot=th:c;rv:d0000000000000", LOW_ID, 1, SAID),
        (b"ot=x:1", LOW_ID, 1, SAID),
        (b"ot=th:123456789012345", HIGH_ID, 1, SAID),  # 15 digits are none
        (b"aot=th:c", HIGH_ID, 1, 0),
        (b"o=th:c,t=th:c,ott=1,ot@x=th:c", HIGH_ID, 1, 0),
        (b"x" * (TRACESTATE_LOOKED_AT - 8) + b",ot=th:c", HIGH_ID, 1, SAID | KNOWN | 0xC << 52),
        (b"x" * TRACESTATE_LOOKED_AT + b",ot=th:c", HIGH_ID, 1, 0),
    ],
)
def test_what_a_tracestate_says(value: bytes, trace_id: bytes, flags: int, said: int) -> None:
    """Threshold and randomness count where they are well formed and agree with the flag."""
    assert parse_tracestate(value, trace_id, flags).sampling == said
    assert parse_tracestate(value, trace_id, flags) == expected(value, trace_id, flags)


PIECES = st.sampled_from(
    [
        *(b"ot=", b"th:", b"rv:", b"c", b"0123456789abcd", b"ffffffffffffff", b";", b",", b" "),
        *(b"o", b"t", b"=", b":", b"x=1", b"ot", b"E666", b"th:8", b"g", b"a@b=c", b"\t"),
    ]
)


@given(
    st.lists(PIECES, max_size=20).map(b"".join).map(lambda value: value.strip(b" \t")),
    st.binary(min_size=16, max_size=16).filter(any),
    st.integers(0, 3),
)
@example(b"ot=th:8;th:c", HIGH_ID, 1)
@example(b"ot=th:8,ot=th:c", HIGH_ID, 1)
@example(b"", HIGH_ID, 1)
def test_any_tracestate_is_read_as_the_specification_has_it(
    value: bytes, trace_id: bytes, flags: int
) -> None:
    """The kernel's state machine and a few lines of splitting agree on whatever comes."""
    assert parse_tracestate(value, trace_id, flags) == expected(value, trace_id, flags)


@pytest.mark.parametrize(
    ("text", "threshold", "changed"),
    [
        (b"ot=th:c", 0x8 << 52, b"ot=th:8"),
        (b"a=1,ot=rv:0123456789abcd;th:c,b=2", 0, b"ot=th:0;rv:0123456789abcd,a=1,b=2"),
        (b"a=1, ot=th:c , b=2", None, b"a=1,b=2"),
        (b"ot=\t;", None, b""),
        (b"ot=p:8 ;th:c", None, b"ot=p:8"),
        (b"ot=th:c;p:8", None, b"ot=p:8"),
        (b"a=1", 0xE666 << 40, b"ot=th:e666,a=1"),
        (b"ot=" + b"x:" + b"y" * 252, 0, b"ot=" + b"x:" + b"y" * 252),  # no room for more
    ],
)
def test_a_threshold_is_put_in_or_taken_out(
    text: bytes, threshold: int | None, changed: bytes
) -> None:
    """Only `th` changes; the member that was changed comes first, as Trace Context wants it."""
    assert with_threshold(text, threshold) == changed


@given(
    st.lists(PIECES, max_size=12).map(b"".join),
    st.none() | st.integers(0, MASK).map(lambda number: number & ~0xFF),
)
def test_what_was_put_in_is_what_the_kernel_reads(text: bytes, threshold: int | None) -> None:
    """A rewritten tracestate says exactly the threshold that was asked for, and is stable."""
    changed = with_threshold(text, threshold)
    assert with_threshold(changed, threshold) == changed
    found = re.search(rb"(?:^|,)ot=(?:[^,;]*;)*th:([^;,]*)", changed)
    if threshold is None:
        assert found is None
    else:
        assert found
        assert found.group(1) == threshold_text(threshold).encode()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("room", [True, False])
def test_a_record_is_edited_in_its_place(known: bool, room: bool) -> None:
    """The kept field changes and nothing else; where it has no room, the threshold goes."""
    others = [(Kept.HOST, b"h.test"), (Kept.FORWARDED, b"for=a")]
    target = b"/x" if room else b"/" + b"x" * 301
    kept = [others[0], (Kept.TRACESTATE, b"ot=th:c,a=1"), others[1]]
    threshold = 0x123456789ABC << 8 if known else 0
    state = EDIT | (KNOWN if known else 0)
    records = record(target, kept, sampling=state | threshold, flags=Flag.HAD_TRACEPARENT)
    before = read_exchange(records, 0)
    edit(records, 0)
    after = read_exchange(records, 0)
    assert after.target == before.target
    stays = known and room
    text = b"ot=th:123456789abc,a=1" if stays else b"a=1"
    assert after.kept == {**dict(others), Kept.TRACESTATE: text}
    assert after.facts.sampling == SAID | (KNOWN | threshold if stays else 0)
    same = set(records.dtype.names or ()) - {"sampling", "kept_len", "head"}
    assert all(np.array_equal(getattr(after.facts, n), getattr(before.facts, n)) for n in same)
