"""The outbox is bounded and every span in it is accounted for."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.otlp_receivers import Request, ids_in, request_of
from waggle.exporter.otlp_settings import QueueSettings
from waggle.exporter.outbox import Outbox, Parcel


def outbox(**changes: float) -> Outbox:
    return Outbox(QueueSettings(**{"delay_s": 0.0, **changes}))  # type: ignore[arg-type]


def taken(box: Outbox) -> Parcel:
    parcel = box.take()
    assert parcel is not None
    return parcel


def test_spans_bound() -> None:
    """What exceeds the bound of spans is lost as queue_full; what was in stays in."""
    box = outbox(max_spans=3)
    for number in range(5):
        box.put(request_of(number))
    assert (box.stats().queued, box.stats().lost) == (3, {"queue_full": 2})
    assert ids_in(taken(box).payload) == [0, 1, 2]


def test_bytes_bound() -> None:
    """What exceeds the bound of bytes is lost as queue_full."""
    one = request_of(1)
    box = outbox(max_bytes=len(one.payload) * 2)
    for number in (1, 2, 3):
        box.put(request_of(number))
    assert (box.stats().queued, box.stats().lost) == (2, {"queue_full": 1})


def test_what_is_being_sent_counts_against_the_bounds() -> None:
    """A parcel in flight is memory in use until it is booked."""
    box = outbox(max_spans=1)
    box.put(request_of(1))
    parcel = taken(box)
    box.put(request_of(2))
    assert box.stats().lost == {"queue_full": 1}
    box.finish(parcel, {})
    box.put(request_of(3))
    assert (box.stats().queued, box.stats().exported) == (1, 1)


def test_small_requests_travel_together() -> None:
    """Requests are joined up to the bound of spans, in order, and read as one message."""
    box = outbox(max_request_spans=5)
    for first in range(0, 8, 2):
        box.put(request_of(first, first + 1))
    assert ids_in(taken(box).payload) == [0, 1, 2, 3]
    assert ids_in(taken(box).payload) == [4, 5, 6, 7]


def test_requests_are_joined_up_to_the_bound_of_bytes() -> None:
    """A joined request never exceeds the byte bound; a single larger one goes alone."""
    size = len(request_of(1, size=100).payload)
    box = outbox(max_request_bytes=2 * size)
    for request in (request_of(1, size=1000), *(request_of(n, size=100) for n in (2, 3, 4))):
        box.put(request)
    assert ids_in(taken(box).payload) == [1]
    assert ids_in(taken(box).payload) == [2, 3]
    assert ids_in(taken(box).payload) == [4]


def test_a_full_parcel_does_not_wait() -> None:
    """With an hour's delay, a full request goes at once and the rest when asked to hurry."""
    box = outbox(delay_s=3600, max_request_spans=2)
    box.put(request_of(1, 2))
    assert taken(box).spans == 2
    box.put(request_of(3))
    hurry = threading.Thread(target=box.hurry, args=(10,))
    hurry.start()
    parcel = taken(box)
    box.finish(parcel, {})
    hurry.join(10)
    assert not hurry.is_alive()
    assert parcel.spans == 1


def test_hurry_returns_in_time() -> None:
    """Waiting for a sender that does nothing ends when the time is up."""
    box = outbox(delay_s=3600)
    box.put(request_of(1))
    box.hurry(0.01)
    assert box.stats().queued == 1


def test_closed_and_empty_ends_the_sender() -> None:
    """After close() what waits still goes out, then take() says that is all."""
    box = outbox(delay_s=3600)
    box.put(request_of(1))
    box.close()
    box.put(request_of(2, 3))
    box.finish(taken(box), {})
    assert box.take() is None
    assert (box.stats().exported, box.stats().lost) == (1, {"shutdown": 2})


def test_what_was_abandoned_is_booked_once() -> None:
    """A parcel that comes back after abandon() changes nothing: it was booked as shutdown."""
    box = outbox(max_request_spans=1)
    box.put(request_of(1))
    box.put(request_of(2))
    parcel = taken(box)
    assert box.abandon() == 2
    box.finish(parcel, {})
    stats = box.stats()
    assert (stats.exported, stats.queued, stats.lost) == (0, 0, {"shutdown": 2})


@given(
    st.lists(st.tuples(st.integers(1, 8), st.sampled_from(["put", "send", "lose"])), max_size=60),
    st.integers(1, 40),
    st.integers(1, 10),
)
def test_every_span_is_in_one_place(
    steps: list[tuple[int, str]], max_spans: int, max_request_spans: int
) -> None:
    """Whatever happens, spans put in = waiting + exported + lost, and waiting is within bounds."""
    box = outbox(max_spans=max_spans, max_request_spans=max_request_spans)
    put = 0
    for spans, step in steps:
        if step == "put":
            box.put(Request(b"", spans))
            put += spans
        elif box.stats().queued:
            parcel = taken(box)
            box.finish(parcel, {"refused_400": parcel.spans} if step == "lose" else {})
        stats = box.stats()
        assert stats.queued <= max_spans
        assert put == stats.queued + stats.exported + sum(stats.lost.values())


@pytest.mark.parametrize("delay_s", [0.05])
def test_the_first_span_waits_no_longer_than_the_delay(delay_s: float) -> None:
    """A lone request is sent once the delay is over, without being asked to."""
    box = outbox(delay_s=delay_s)
    box.put(request_of(1))
    assert taken(box).spans == 1
