"""waggle.traces: spans in any order become whole trees, in bounded memory."""

import random

from hypothesis import given
from hypothesis import strategies as st

from waggle.spans import Resource, ResourceTable, Span
from waggle.traces import Trace, TraceAssembler, Waits, build_trace

MS = 1_000_000
TABLE = ResourceTable([Resource({"service.name": "shop", "process.pid": 1})])
WAITS = Waits(settle=100, late=1_500, remote=300, here=10_000, again=2_000, longest=60_000)


def make_span(
    number: int, parent: int = 0, *, trace: int = 1, link: str = "thread", remote: bool = False
) -> Span:
    attributes = {"waggle.link.method": link} if parent else {}
    return Span(
        trace_id=trace.to_bytes(16, "big"),
        span_id=number.to_bytes(8, "big"),
        parent_id=parent.to_bytes(8, "big") if parent else b"",
        trace_state="",
        name="GET",
        kind=2,
        start_unix_ns=number * MS,
        end_unix_ns=(number + 10) * MS,
        attributes=dict(attributes),
        error=False,
        status_message="",
        flags=0x300 if remote else 0x100,
        resource=0,
    )


def numbers(trace: Trace) -> list[int]:
    return [int.from_bytes(row.span.span_id, "big") for row in trace.rows]


def assembler(**limits: int) -> TraceAssembler:
    return TraceAssembler(waits=WAITS, **limits)


def test_a_complete_trace_is_given_out_once_it_is_quiet() -> None:
    """A trace with root and all parents is finished `settle` after its last span, not before."""
    held = assembler()
    held.add([make_span(3, 2), make_span(2, 1)], TABLE, 0)
    held.add([make_span(1)], TABLE, 50)
    assert held.due(149) == []
    [trace] = held.due(150)
    assert numbers(trace) == [1, 2, 3]
    assert [row.depth for row in trace.rows] == [0, 1, 2]
    assert held.spans == 0


def test_calls_that_are_proven_late_are_waited_for() -> None:
    """A whole trace with a server of CPython is held for `late`: its calls may still come."""
    table = ResourceTable([Resource({"process.runtime.name": "cpython"})])
    held = assembler()
    held.add([make_span(1)], table, 0)
    assert held.due(1_499) == []
    held.add([make_span(2, 1)], table, 1_499)
    [trace] = held.due(2_999)
    assert numbers(trace) == [1, 2]


def test_a_parent_seen_here_is_waited_for() -> None:
    """A trace whose local parent is still open is held until it comes, then is one tree."""
    held = assembler()
    held.add([make_span(2, 1)], TABLE, 0)
    assert held.due(9_999) == []
    held.add([make_span(1)], TABLE, 9_999)
    [trace] = held.due(10_099)
    assert numbers(trace) == [1, 2]
    assert not any(row.orphan for row in trace.rows)


def test_a_parent_that_never_comes_is_given_up() -> None:
    """After `here` a child of a lost parent is given out as an orphan."""
    held = assembler()
    held.add([make_span(2, 1)], TABLE, 0)
    [trace] = held.due(10_000)
    assert [row.orphan for row in trace.rows] == [True]


def test_a_remote_parent_is_waited_for_shortly() -> None:
    """A parent that came in a header may be anywhere: `remote`, and its child is no orphan."""
    held = assembler()
    held.add([make_span(2, 1, link="traceparent", remote=True)], TABLE, 0)
    assert held.due(299) == []
    [trace] = held.due(300)
    assert [row.orphan for row in trace.rows] == [False]


def test_a_hand_off_is_a_parent_on_this_machine() -> None:
    """A parent in another process known by hand-off is waited for like a local one."""
    held = assembler()
    held.add([make_span(2, 1, link="socket", remote=True)], TABLE, 0)
    assert held.due(9_999) == []
    assert len(held.due(10_000)) == 1


def test_a_trace_that_never_rests_is_given_out() -> None:
    """A trace id that gets spans without end is cut after `longest`."""
    held = assembler()
    given = []
    for tick in range(1_300):
        held.add([make_span(tick + 1)], TABLE, tick * 50)
        given += held.due(tick * 50)
    assert given
    assert given[0].rows[-1].span.span_id <= (1_201).to_bytes(8, "big")


def test_a_late_span_says_that_it_continues_a_trace() -> None:
    """A span of a trace already given out makes a tree of its own that is marked."""
    held = assembler()
    held.add([make_span(1)], TABLE, 0)
    [first] = held.due(100)
    held.add([make_span(2, 1)], TABLE, 200)
    assert held.due(2_199) == []
    [late] = held.due(2_200)
    assert (first.continued, late.continued) == (False, True)


def test_drain_gives_everything_at_once() -> None:
    """drain() holds nothing back, whatever is missing."""
    held = assembler()
    held.add([make_span(2, 1), make_span(7, trace=2)], TABLE, 0)
    assert sorted(len(trace.rows) for trace in held.drain()) == [1, 1]
    assert held.spans == 0
    assert held.due(10**12) == []


def test_a_trace_too_large_keeps_its_spine() -> None:
    """Beyond the limit spans are counted, but the parents that come last are kept."""
    held = assembler(max_spans=10)
    held.add([make_span(number, 1) for number in range(2, 102)], TABLE, 0)
    held.add([make_span(1)], TABLE, 0)
    [trace] = held.due(100)
    assert numbers(trace)[0] == 1
    assert len(trace.rows) == 11
    assert trace.more == 90
    assert held.lost == {"trace_too_large": 90}


def test_spans_per_trace_are_bounded_even_for_roots() -> None:
    """A trace of roots only stays below twice the limit."""
    held = assembler(max_spans=10)
    held.add([make_span(number) for number in range(1, 101)], TABLE, 0)
    assert held.spans == 20
    assert held.lost == {"trace_too_large": 80}


def test_unfinished_traces_are_bounded() -> None:
    """When there are too many, the oldest is given up and its spans are counted."""
    held = assembler(max_traces=3)
    held.add([make_span(2, 1, trace=number) for number in range(1, 6)], TABLE, 0)
    assert held.spans == 3
    assert held.lost == {"too_many_traces": 2}


def test_a_span_id_counts_once() -> None:
    """A second span with the same id in a trace is counted, not drawn."""
    held = assembler()
    held.add([make_span(1), make_span(1)], TABLE, 0)
    [trace] = held.drain()
    assert len(trace.rows) == 1
    assert held.lost == {"duplicate_span": 1}


def test_circles_of_parents_end() -> None:
    """Spans that are each other's, or their own, parent are each in one row."""
    spans = [make_span(1, 3), make_span(2, 1), make_span(3, 2), make_span(4, 4), make_span(5, 4)]
    held = assembler()
    held.add(spans, TABLE, 0)
    [trace] = held.due(10_000)
    assert sorted(numbers(trace)) == [1, 2, 3, 4, 5]
    assert numbers(trace)[:3] == [1, 2, 3]


def test_a_deep_chain_does_not_overflow() -> None:
    """A chain deeper than any stack is one tree."""
    depth = 50_000
    spans = [(make_span(number, number - 1), TABLE.rows[0]) for number in range(1, depth + 1)]
    trace = build_trace(b"t" * 16, spans)
    assert trace.rows[-1].depth == depth - 1


def test_siblings_are_in_the_order_of_their_start() -> None:
    """Children stand below their parent by start time, and only the last one is marked last."""
    spans = [make_span(4, 1), make_span(1), make_span(3, 1), make_span(5, 3), make_span(2, 1)]
    trace = build_trace(b"t" * 16, [(span, TABLE.rows[0]) for span in spans])
    assert numbers(trace) == [1, 2, 3, 5, 4]
    assert [row.last for row in trace.rows] == [True, False, False, True, True]


@given(
    parents=st.lists(st.integers(0, 40), min_size=1, max_size=40), seed=st.integers(0, 2**32 - 1)
)
def test_order_of_arrival_does_not_matter(parents: list[int], seed: int) -> None:
    """Whatever the parents, every span is in exactly one row, below its parent, in any order."""
    spans = [make_span(number + 1, parent) for number, parent in enumerate(parents)]
    shuffled = spans.copy()
    random.Random(seed).shuffle(shuffled)  # noqa: S311
    first, second = assembler(), assembler()
    first.add(spans, TABLE, 0)
    second.add(shuffled, TABLE, 0)
    [trace], [other] = first.drain(), second.drain()
    assert numbers(trace) == numbers(other)
    assert sorted(numbers(trace)) == list(range(1, len(spans) + 1))
    for row in trace.rows:
        if row.parent >= 0:
            above = trace.rows[row.parent]
            assert row.span.parent_id == above.span.span_id
            assert row.depth == above.depth + 1
