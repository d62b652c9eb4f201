"""The limits of a tracestate: 32 members, and whole ones."""

import numpy as np
import pytest

from unit.records import batch, record
from waggle.columns import Slices
from waggle.layout import Flag, Kept, Link
from waggle.spans import TraceStateText, decode_span
from waggle.tracestate_limits import MOST_MEMBERS, within_limits

FULL = b",".join(b"k%d=v" % i for i in range(MOST_MEMBERS))


@pytest.mark.parametrize(
    ("text", "room", "kept"),
    [
        (b"a=1,b=2", 100, b"a=1,b=2"),
        (b"a=1, b=2 ,,c=3", 100, b"a=1, b=2 ,,c=3"),
        (FULL, 1000, FULL),
        (FULL + b",one=more", 1000, b""),
        (FULL + b", ,", 1000, FULL + b", ,"),
        (b"a=1,b=2,c=33", 12, b"a=1,b=2"),
        (b"a=1,b=2,c=3", 12, b"a=1,b=2,c=3"),
        (b"only=" + b"v" * 20, 12, b""),
        (b"", 12, b""),
    ],
)
def test_whole_members_in_their_order(text: bytes, room: int, kept: bytes) -> None:
    """What fits stays as it is; what was cut loses the member that is not whole; of more members
    than may be none is left."""
    assert within_limits(text, room) == kept


def span_state(value: bytes) -> str:
    flags = Flag.REMOTE_PARENT | Flag.HAD_TRACEPARENT
    made = record(b"/", [(Kept.TRACESTATE, value)], flags=flags, link=Link.TRACEPARENT, large=True)
    return decode_span(batch([made]), 0).trace_state


def test_on_a_span() -> None:
    """A span has the tracestate within its limits."""
    long = b",".join(b"k%d=%s" % (i, b"v" * 60) for i in range(20))
    assert span_state(b"a=1,b=2") == "a=1,b=2"
    assert span_state(FULL + b",x=1") == ""
    cut = span_state(long[:1023]).encode()
    assert long.startswith(cut + b",")
    assert 900 < len(cut) < 1023


def test_columns_leave_the_odd_ones_alone() -> None:
    """The columnar encoder copies what is within the limits, and nothing else."""
    values = [b"a=1", FULL, FULL + b",x=1", b"v" * 1023, b""]
    text = np.frombuffer(b"".join(values), np.uint8)
    lengths = np.array([len(value) for value in values])
    starts = np.cumsum(lengths) - lengths
    shown = TraceStateText().plain(Slices(text, starts, lengths))
    assert shown.tolist() == [3, len(FULL), -1, -1, 0]
    assert TraceStateText().read(values[0]) == (0, 3, 0)
    assert TraceStateText().read(values[2]) is None
    assert TraceStateText().read(values[3]) is None
