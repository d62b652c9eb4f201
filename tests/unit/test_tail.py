"""The tail's memory: what is kept of dropped traces, why, and what happens at its bounds."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.records import NO_PARENT, SECOND, record
from waggle.layout import End, Flag, Link, Protocol, Role
from waggle.layout import Sampling as State
from waggle.probes.http2.kept import StreamKept
from waggle.sampling import Tail
from waggle.spans import SAMPLING_SHIFT, TAIL_REASONS, Records, tail_reason
from waggle.tail import Routes, TailBuffer, route_keys

HERE = State.HERE << SAMPLING_SHIFT
ERRORS = Tail(errors=True)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def span(trace: int, tid: int = 0, took_s: float = 0.001, **columns: Any) -> Records:
    """A span of a trace, dropped; tid tells it from others."""
    values: dict[str, Any] = {
        "trace_id": trace.to_bytes(16, "big"),
        "flags": Flag.UNSAMPLED,
        "sampling": HERE,
        "tid": tid,
        "start_ns": 5 * SECOND,
        "end_ns": 5 * SECOND + int(took_s * SECOND),
        **columns,
    }
    return record(**values)


def joined(*records: Records) -> Records:
    return np.concatenate(records)


def tids(parts: list[Records]) -> list[int]:
    return sorted(tid for part in parts for tid in part["tid"].tolist())


def reasons(parts: list[Records]) -> dict[int, str]:
    return {
        int(row["tid"]): TAIL_REASONS[tail_reason(int(row["sampling"]))]
        for part in parts
        for row in part
    }


def test_an_error_keeps_its_whole_trace() -> None:
    """What came before it, what comes with it and what comes after; no other trace."""
    tail = TailBuffer(ERRORS)
    assert tail.take(joined(span(1, 1), span(2, 2))) == []
    parts = tail.take(joined(span(1, 3, status=500), span(1, 4), span(2, 5)))
    assert tids(parts) == [1, 3, 4]
    assert tids(tail.take(joined(span(2, 6), span(1, 7)))) == [7]
    assert set(reasons(parts).values()) == {"error"}
    assert tail.kept == {"error": 4}
    assert len(tail) == 3


def test_kept_spans_are_no_longer_marked_as_dropped() -> None:
    """No exporter leaves them out; the flag that left this machine stays: not sampled."""
    (part,) = TailBuffer(ERRORS).take(span(1, status=500, trace_flags=2))
    assert part["flags"].tolist() == [0]
    assert part["trace_flags"].tolist() == [2]


@pytest.mark.parametrize(
    ("columns", "is_error"),
    [
        ({"status": 500, "role": Role.SERVER}, True),
        ({"status": 404, "role": Role.SERVER}, False),
        ({"status": 404, "role": Role.CLIENT}, True),
        ({"status": 200, "end": End.RESET}, True),
        ({"status": 0, "end": End.DONE}, False),
    ],
)
def test_what_is_an_error(columns: dict[str, Any], is_error: bool) -> None:
    """As the conventions have it."""
    assert bool(TailBuffer(ERRORS).take(span(1, **columns))) == is_error


def test_what_is_an_error_of_grpc() -> None:
    """By its status, though HTTP's is 200; looked up once for each shape."""
    kept: Any = {StreamKept.RPC_SYSTEM: b"grpc", StreamKept.RPC_METHOD: b"a.B/C"}
    base: dict[str, Any] = {"protocol": Protocol.HTTP2, "target_len": 0, "target_full_len": 0}
    spans = []
    for tid, code in enumerate((b"0", b"13", b"5")):
        fields = {**kept, StreamKept.RPC_STATUS: code}
        for role in (Role.SERVER, Role.CLIENT):
            one = record(b"", fields, **base, role=role, flags=Flag.UNSAMPLED, sampling=HERE)
            one["trace_id"][0, 15] = 10 * tid + role
            one["tid"] = 10 * tid + role
            spans.append(one)
    parts = TailBuffer(ERRORS).take(joined(*spans))
    # INTERNAL on both sides; NOT_FOUND is the caller's error alone.
    assert tids(parts) == [10 + Role.SERVER, 10 + Role.CLIENT, 20 + Role.CLIENT]


def test_slow_is_a_matter_of_any_span() -> None:
    """A span at or above the time keeps its trace; an error is the stronger reason."""
    tail = TailBuffer(Tail(errors=True, slow_s=0.5))
    batch = joined(span(1, 1, 0.499), span(2, 2, 0.5), span(2, 3, 0.1), span(3, 4, 9.0, status=500))
    assert reasons(tail.take(batch)) == {2: "slow", 3: "slow", 4: "error"}


def test_clocks_that_disagree_make_nothing_slow() -> None:
    """A span that ends before it began took no time."""
    tail = TailBuffer(Tail(slow_s=0.001))
    assert tail.take(span(1, start_ns=10 * SECOND, end_ns=9 * SECOND)) == []


def route(count: int, took_s: float, path: bytes = b"/a", first: int = 1) -> Records:
    made = np.repeat(record(path, flags=Flag.UNSAMPLED, sampling=HERE, link=Link.NONE), count)
    made["parent_id"] = 0
    made["trace_id"][:, 8:] = np.arange(first, first + count, dtype=">u8").view("u1").reshape(-1, 8)
    made["end_ns"] = made["start_ns"] + np.uint64(took_s * SECOND)
    return made


def slow(routes: Routes, records: Records, durations: npt.NDArray[np.uint64]) -> Any:
    return routes.slow(records, np.arange(len(records)), durations)


def test_slower_than_95_of_100_of_its_route() -> None:
    """Where a route takes 10 ms, 20 ms is slow; on another, which takes as long, it is not; and
    before 100 requests nobody can say."""
    tail = TailBuffer(Tail(p95=True))
    assert tail.take(joined(route(99, 0.01), route(200, 0.02, b"/b", 1000))) == []
    assert tail.take(route(1, 0.02, first=5000)) == []
    tail.take(route(100, 0.01, first=6000))
    parts = tail.take(joined(route(1, 0.02, first=7000), route(1, 0.02, b"/b", 8000)))
    assert len(parts) == 1
    assert parts[0]["trace_id"][0, 14:].tolist() == [7000 >> 8, 7000 & 0xFF]
    assert tail.kept == {"p95": 1}


def test_about_five_in_a_hundred_are_slow() -> None:
    """Of durations of any distribution, once it is known."""
    random = np.random.default_rng(5)
    routes = Routes()
    found = total = 0
    for number in range(40):
        batch = route(500, 0.0, first=1 + 500 * number)
        batch["end_ns"] += (random.lognormal(0, 1, 500) * 1e6).astype(np.uint64)
        late = slow(routes, batch, batch["end_ns"] - batch["start_ns"])
        if number > 10:
            found, total = found + len(late), total + 500
    assert 0.02 < found / total < 0.06


def test_only_the_request_that_brought_the_trace_here_counts() -> None:
    """Neither spans further down nor those with a hand-off make it slow."""
    routes = Routes()
    slow(routes, route(200, 0.001), np.full(200, 1_000_000, np.uint64))
    late = np.array([SECOND], np.uint64)
    assert slow(routes, route(1, 1.0), late).tolist() == [0]
    by_socket = route(1, 1.0)
    by_socket["link"] = Link.SOCKET
    assert not len(slow(routes, by_socket, late))
    call = route(1, 1.0)
    call["role"], call["link"], call["parent_id"] = Role.CLIENT, Link.THREAD, 7
    assert not len(slow(routes, call, late))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b"/users/1", b"/users/12345", True),
        (b"/users/1/cart", b"/users/77/cart", True),
        (b"/users/1/cart", b"/users/77/pay", False),
        (b"/u/3f2c-aa1", b"/u/99-bb-cc-dd", True),
        (b"/a?q=1", b"/a?z", True),
        (b"/a", b"/b", False),
        (b"/ab", b"/ba", False),
        (b"/a/b", b"/ab/", False),
        (b"/a/1", b"/1/a", False),
        (b"/v1/a", b"/v2/a", True),
        (b"/x/1", b"/y/1", False),
        (b"", b"/", False),
    ],
)
def test_routes(one: bytes, other: bytes, same: bool) -> None:
    """A segment with a digit in it may be anything; queries do not count."""
    records = joined(record(one), record(other))
    keys = route_keys(records, np.arange(2))
    assert (keys[0] == keys[1]) == same


def test_routes_are_bounded() -> None:
    """More routes than there is room for: it begins anew, and goes on."""
    routes = Routes()
    for number in range(6):
        batch = route(1000, 0.001)
        batch["tgid"] = np.arange(1000) + 1000 * number
        slow(routes, batch, np.full(1000, 1000, np.uint64))
        assert len(routes._keys) <= 4096
    many = route(6000, 0.001)
    many["tgid"] = np.arange(6000)
    slow(routes, many, np.full(6000, 1000, np.uint64))
    assert 0 < len(routes._keys) <= 4096


def test_what_waited_long_enough_goes() -> None:
    """After hold_s a span is gone, and its trace's later error keeps only what is left."""
    clock = Clock()
    tail = TailBuffer(Tail(errors=True, hold_s=10), clock)
    tail.take(span(1, 1))
    clock.now += 9
    tail.take(span(1, 2))
    clock.now += 2
    assert tids(tail.take(span(1, 3, status=500))) == [2, 3]
    assert tail.forgotten == 0


def test_memory_is_bounded() -> None:
    """At the bound the oldest batch goes first, counted."""
    size = record().itemsize + 8
    tail = TailBuffer(Tail(errors=True, max_bytes=10 * size))
    for number in range(4):
        tail.take(joined(*(span(10 * number + n, 10 * number + n) for n in range(4))))
    assert len(tail) == 8
    assert tail.forgotten == 8
    failing = joined(*(span(n, 100 + n, status=500) for n in (1, 21)))
    assert tids(tail.take(failing)) == [21, 101, 121]
    tail.take(np.repeat(span(99), 50))  # a batch that is larger than all there is
    assert len(tail) == 0


def test_a_trace_that_is_kept_is_remembered_for_a_while() -> None:
    """At least as long as spans are held, and not for ever."""
    clock = Clock()
    tail = TailBuffer(Tail(errors=True, hold_s=10), clock)
    tail.take(span(1, 1, status=500))
    clock.now += 9
    assert tids(tail.take(span(1, 2))) == [2]
    clock.now += 11
    tail.take(span(2))
    clock.now += 11
    assert tail.take(span(1, 3)) == []


def test_traces_that_are_kept_are_bounded() -> None:
    """However many fail, what is remembered of them stays small, and all of them are kept."""
    tail = TailBuffer(ERRORS)
    for number in range(20):
        batch = route(5000, 0.001, first=1 + 5000 * number)
        batch["status"] = 500
        assert sum(map(len, tail.take(batch))) == 5000
    assert sum(len(keys) for keys, _ in (tail._wanted._young, tail._wanted._old)) <= 65_536 + 5000


@st.composite
def stories(draw: st.DrawFn) -> list[Records]:
    """Batches of spans of a few traces, in layouts of two widths, some of them errors."""
    batches = []
    number = 0
    for size in draw(st.lists(st.integers(1, 8), min_size=1, max_size=6)):
        rows = []
        for _ in range(size):
            number += 1
            status = draw(st.sampled_from([200, 200, 200, 500]))
            rows.append(span(draw(st.integers(1, 5)), number, status=status))
        batches.append(joined(*rows))
    return batches


@settings(max_examples=200, deadline=None)
@given(stories())
def test_exactly_the_spans_of_traces_with_an_error_leave(batches: list[Records]) -> None:
    """However spans are spread over batches: each of those once, and no other."""
    tail = TailBuffer(ERRORS)
    out = [part for batch in batches for part in tail.take(batch.copy())]
    rows = joined(*batches)
    failed = {row["trace_id"].tobytes() for row in rows if row["status"] == 500}
    wanted = sorted(int(row["tid"]) for row in rows if row["trace_id"].tobytes() in failed)
    assert tids(out) == wanted
    assert sum(tail.kept.values()) == len(wanted)
    assert len(tail) == len(rows) - len(wanted)


def test_a_root_without_a_parent_is_an_entry_on_the_client_s_side() -> None:
    """A program that only calls has routes too."""
    batch = route(200, 0.001)
    batch["role"] = Role.CLIENT
    routes = Routes()
    slow(routes, batch, np.full(200, 1_000_000, np.uint64))
    one = batch[:1].copy()
    assert bytes(one["parent_id"][0]) == NO_PARENT
    assert slow(routes, one, np.array([SECOND], np.uint64)).tolist() == [0]
