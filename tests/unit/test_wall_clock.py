"""What a step of the wall clock does to spans."""

import time

import pytest

from unit.records import SECOND, batch, record
from waggle.pipeline import WallClock
from waggle.spans import decode_span

HOUR = 3600 * SECOND


class Clocks:
    """CLOCK_MONOTONIC and the wall clock, in the test's hand. Looking takes 100 ns."""

    def __init__(self) -> None:
        self.monotonic = 5 * SECOND
        self.offset = 1_700_000_000 * SECOND

    def monotonic_ns(self) -> int:
        self.monotonic += 100
        return self.monotonic

    def time_ns(self) -> int:
        return self.monotonic_ns() + self.offset


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    made = Clocks()
    monkeypatch.setattr(time, "monotonic_ns", made.monotonic_ns)
    monkeypatch.setattr(time, "time_ns", made.time_ns)
    return made


@pytest.mark.parametrize("step", [HOUR, -HOUR, 30 * SECOND])
def test_a_step_is_followed_within_a_second(clocks: Clocks, step: int) -> None:
    """After the wall clock was set, spans get the new time at the next measurement, not later."""
    wall = WallClock()
    assert abs(wall() - clocks.offset) < 1000
    clocks.offset += step
    clocks.monotonic += SECOND
    assert abs(wall() - clocks.offset) < 1000


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_no_span_gets_another_length(clocks: Clocks, step: int) -> None:
    """An exchange that was open while the clock was set lasts as long as it lasted, and no span
    ends before it begins."""
    wall = WallClock()
    wall()
    clocks.offset += step
    clocks.monotonic += SECOND
    exchange = record(start_ns=SECOND, end_ns=4 * SECOND)
    span = decode_span(batch([exchange], clock_offset_ns=wall()), 0)
    assert span.end_unix_ns - span.start_unix_ns == 3 * SECOND


def test_a_step_between_two_readings_of_one_pair(
    clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A measurement that a step falls into gives the time before or after it, none between."""
    wall, readings = WallClock(), 0
    before = clocks.offset

    def stepping() -> int:
        nonlocal readings
        readings += 1
        if readings == 3:
            clocks.offset += HOUR
        return clocks.monotonic_ns() + clocks.offset

    monkeypatch.setattr(time, "time_ns", stepping)
    offset = wall()
    assert min(abs(offset - before), abs(offset - before - HOUR)) < 1000
