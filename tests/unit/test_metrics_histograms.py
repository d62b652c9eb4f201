"""Histograms filled by columns, against the same sums done one by one."""

import bisect
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waggle.metrics.histograms import (
    MAX_BUCKETS,
    MAX_SCALE,
    ExplicitHistograms,
    ExponentialHistograms,
    Histograms,
)

BOUNDS = (0.005, 0.01, 0.1, 1.0)

values = st.one_of(
    st.sampled_from([0.0, 0.005, 0.01, 0.1, 1.0, 1e-9, 3600.0]),
    st.floats(0, 1e6, allow_subnormal=False),
)
batches = st.lists(
    st.lists(st.tuples(st.integers(0, 200), values), max_size=40), min_size=1, max_size=5
)


def fill(histograms: Histograms, found: list[list[tuple[int, float]]]) -> dict[int, list[float]]:
    """Records batches; gives the values by number."""
    truth = defaultdict(list)
    for batch in found:
        for number, value in batch:
            truth[number].append(value)
        numbers = np.array([number for number, _ in batch], np.intp)
        histograms.record(numbers, np.array([value for _, value in batch], np.float64))
    return truth


@settings(deadline=None)
@given(batches)
def test_explicit_buckets_hold_what_lies_between_their_bounds(
    found: list[list[tuple[int, float]]],
) -> None:
    """Count, sum, least, most and each bucket (closed above) are those of the values."""
    histograms = ExplicitHistograms(BOUNDS)
    truth = fill(histograms, found)
    points = histograms.points(201)
    assert set(points.counts.nonzero()[0]) == set(truth)
    for number, these in truth.items():
        assert points.counts[number] == len(these)
        assert points.sums[number] == pytest.approx(sum(these))
        assert (points.least[number], points.most[number]) == (min(these), max(these))
        wanted = Counter(bisect.bisect_left(BOUNDS, value) for value in these)
        assert points.buckets[number].tolist() == [wanted[place] for place in range(5)]


@settings(deadline=None)
@given(batches)
def test_exponential_buckets_hold_what_lies_between_their_bounds(
    found: list[list[tuple[int, float]]],
) -> None:
    """Whatever the order, each bucket counts the values between 2^(i/2^scale) and the next, at
    the finest scale that has room for all of them."""
    histograms = ExponentialHistograms()
    truth = fill(histograms, found)
    points = histograms.points(201)
    assert points.scales is not None
    assert points.offsets is not None
    assert points.zeros is not None
    for number, these in truth.items():
        positive = [value for value in these if value > 0]
        assert points.zeros[number] == len(these) - len(positive)
        scale = int(points.scales[number])
        assert scale == finest_scale(positive)
        wanted = Counter(index_of(value, scale) for value in positive)
        offset = int(points.offsets[number])
        told = {offset + i: int(n) for i, n in enumerate(points.buckets[number].tolist()) if n}
        assert told == dict(wanted)


def index_of(value: float, scale: int) -> int:
    return math.ceil(math.ldexp(math.log2(value), scale)) - 1


def finest_scale(positive: list[float]) -> int:
    """The specification's: the largest at which all buckets fit."""
    scale = MAX_SCALE
    while positive and (
        index_of(max(positive), scale) - index_of(min(positive), scale) >= MAX_BUCKETS
    ):
        scale -= 1
    return scale


@pytest.mark.parametrize("histograms", [ExplicitHistograms(BOUNDS), ExponentialHistograms()])
def test_what_is_kept_keeps_its_numbers_in_order(histograms: Histograms) -> None:
    """keep() leaves those rows and nothing else, and what comes later is added to them."""
    fill(histograms, [[(number, 0.5) for number in range(100)], [(7, 0.25)]])
    histograms.keep(np.array([3, 7], np.intp))
    fill(histograms, [[(1, 0.125), (2, 0.0625)]])
    points = histograms.points(3)
    assert points.counts.tolist() == [1, 3, 1]
    assert points.sums.tolist() == [0.5, 0.875, 0.0625]


def test_a_copy_does_not_change() -> None:
    """What was read stays what it was while values go on coming."""
    histograms = ExplicitHistograms(BOUNDS, exemplars=True)
    fill(histograms, [[(0, 0.5)]])
    points = histograms.points(1)
    fill(histograms, [[(0, 0.5)]])
    assert points.counts.tolist() == [1]
    assert int(points.buckets.sum()) == 1
