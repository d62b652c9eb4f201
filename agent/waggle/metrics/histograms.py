"""Histograms as columns: one row a series, filled for a batch of values at once.

Two kinds, by OpenTelemetry's data model: explicit bounds, and exponential with a scale per series
that is lowered when its values need more buckets than there is room for.
https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram
"""

from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from waggle.metrics.series import Numbers

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.uint64]

MAX_BUCKETS = 160  # of an exponential histogram, by the SDK's specification; and its scale:
MAX_SCALE = 20
_FIRST_ROWS = 64

EXEMPLAR = np.dtype([("value", "<f8"), ("time_ns", "<u8"), ("trace_id", "V16"), ("span_id", "V8")])


class Examples(Protocol):
    """What exemplars can be made of some values. rows: the numbers of those values, rising."""

    rows: Numbers

    def take(self, rows: Numbers) -> npt.NDArray[np.void]:
        """EXEMPLAR of each of some of the rows, but for the values."""
        ...


@dataclass(frozen=True, slots=True)
class Points:
    """What some histograms hold: a row each.

    buckets: counts. exemplars: EXEMPLAR, a row each with a column a bucket, or None; time_ns 0 is
    none. least, most: NaN where they are not known. Of exponential histograms only: scales,
    offsets (index of the first bucket) and zeros.
    """

    counts: Counts
    sums: Floats
    least: Floats
    most: Floats
    buckets: Counts
    exemplars: npt.NDArray[np.void] | None = None
    scales: npt.NDArray[np.int8] | None = None
    offsets: npt.NDArray[np.int64] | None = None
    zeros: Counts | None = None

    def __len__(self) -> int:
        return len(self.counts)

    def take(self, rows: Numbers) -> "Points":
        """Some of the rows, in this order."""
        return Points(
            self.counts[rows],
            self.sums[rows],
            self.least[rows],
            self.most[rows],
            self.buckets[rows],
            None if self.exemplars is None else self.exemplars[rows],
            None if self.scales is None else self.scales[rows],
            None if self.offsets is None else self.offsets[rows],
            None if self.zeros is None else self.zeros[rows],
        )


class Histograms(Protocol):
    """Some histograms, by number. Not for use by two threads at once."""

    def record(self, numbers: Numbers, values: Floats, examples: Examples | None = None) -> None:
        """Add values; numbers: of the histogram that each belongs to."""
        ...

    def points(self, count: int) -> Points:
        """A copy of what the first `count` histograms hold."""
        ...

    def keep(self, numbers: Numbers) -> None:
        """Forget all histograms but these, which get new numbers in this order."""
        ...


class _Totals:
    """What both kinds have: count, sum, least and most."""

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(_FIRST_ROWS, np.uint64)
        self.sums: Floats = np.zeros(_FIRST_ROWS)
        self.least: Floats = np.full(_FIRST_ROWS, np.inf)
        self.most: Floats = np.full(_FIRST_ROWS, -np.inf)

    def grow(self, rows: int) -> None:
        self.counts = grown(self.counts, rows)
        self.sums = grown(self.sums, rows)
        self.least = grown(self.least, rows, np.inf)
        self.most = grown(self.most, rows, -np.inf)

    def record(self, numbers: Numbers, values: Floats) -> None:
        np.add.at(self.counts, numbers, np.uint64(1))
        np.add.at(self.sums, numbers, values)
        np.minimum.at(self.least, numbers, values)
        np.maximum.at(self.most, numbers, values)

    def keep(self, numbers: Numbers) -> None:
        self.counts, self.sums = self.counts[numbers], self.sums[numbers]
        self.least, self.most = self.least[numbers], self.most[numbers]


_Scalar = TypeVar("_Scalar", bound=np.generic)


def grown(
    column: npt.NDArray[_Scalar], rows: int, fill: float | None = None
) -> npt.NDArray[_Scalar]:
    """The column with room for so many rows, the new ones filled, by default with zeros."""
    if rows <= len(column):
        return column
    more = max(rows, len(column) + len(column) // 2) - len(column)
    new = np.zeros((more, *column.shape[1:]), column.dtype)
    if fill is not None:
        new[:] = fill
    return np.concatenate((column, new))


class ExplicitHistograms:
    """With the same bounds for all; a bucket holds what is above a bound and up to the next."""

    def __init__(self, bounds: tuple[float, ...], *, exemplars: bool = False) -> None:
        """exemplars: keep the last one of each bucket."""
        self._bounds = np.array(bounds)
        self._width = len(bounds) + 1
        self._totals = _Totals()
        self._buckets: Counts = np.zeros((_FIRST_ROWS, self._width), np.uint64)
        self._exemplars = np.zeros((_FIRST_ROWS, self._width), EXEMPLAR) if exemplars else None
        self._last = np.zeros(self._buckets.size if exemplars else 0, np.intp)

    def record(self, numbers: Numbers, values: Floats, examples: Examples | None = None) -> None:
        if not len(numbers):
            return
        self._reserve(int(numbers.max()) + 1)
        self._totals.record(numbers, values)
        places = numbers * self._width + np.searchsorted(self._bounds, values)
        np.add.at(self._buckets.reshape(-1), places, np.uint64(1))
        if examples is not None and self._exemplars is not None and len(examples.rows):
            self._exemplify(places, values, examples)

    def _exemplify(self, places: Numbers, values: Floats, examples: Examples) -> None:
        """The last example for each place is kept; no other is looked at."""
        assert self._exemplars is not None
        rows = examples.rows
        wanted = places[rows]
        self._last[wanted] = rows
        rows = rows[self._last[wanted] == rows]
        found = examples.take(rows)
        found["value"] = values[rows]
        self._exemplars.reshape(-1)[places[rows]] = found

    def points(self, count: int) -> Points:
        self._reserve(count)
        totals = self._totals
        return Points(
            totals.counts[:count].copy(),
            totals.sums[:count].copy(),
            totals.least[:count].copy(),
            totals.most[:count].copy(),
            self._buckets[:count].copy(),
            None if self._exemplars is None else self._exemplars[:count].copy(),
        )

    def keep(self, numbers: Numbers) -> None:
        self._reserve(int(numbers.max(initial=0)) + 1)
        self._totals.keep(numbers)
        self._buckets = self._buckets[numbers]
        if self._exemplars is not None:
            self._exemplars = self._exemplars[numbers]
            self._last = np.zeros(self._buckets.size, np.intp)

    def _reserve(self, rows: int) -> None:
        if rows <= len(self._buckets):
            return
        self._buckets = grown(self._buckets, rows)
        self._totals.grow(len(self._buckets))
        if self._exemplars is not None:
            self._exemplars = grown(self._exemplars, len(self._buckets))
            self._last = np.zeros(self._buckets.size, np.intp)


class ExponentialHistograms:
    """Base-2 exponential buckets: at scale s a bucket holds (2^(i/2^s), 2^((i+1)/2^s)]."""

    def __init__(self, max_buckets: int = MAX_BUCKETS, max_scale: int = MAX_SCALE) -> None:
        self._width = max_buckets
        self._max_scale = max_scale
        self._totals = _Totals()
        self._zeros: Counts = np.zeros(_FIRST_ROWS, np.uint64)
        self._scales: npt.NDArray[np.int8] = np.full(_FIRST_ROWS, max_scale, np.int8)
        self._offsets: npt.NDArray[np.int64] = np.zeros(_FIRST_ROWS, np.int64)
        self._used: npt.NDArray[np.int64] = np.zeros(
            _FIRST_ROWS, np.int64
        )  # buckets in use, from the offset on
        self._buckets: Counts = np.zeros((_FIRST_ROWS, max_buckets), np.uint64)

    def record(self, numbers: Numbers, values: Floats, examples: Examples | None = None) -> None:
        if not len(numbers):
            return
        self._reserve(int(numbers.max()) + 1)
        self._totals.record(numbers, values)
        zero = values <= 0
        if zero.any():
            np.add.at(self._zeros, numbers[zero], np.uint64(1))
            numbers, values = numbers[~zero], values[~zero]
        if len(numbers):
            self._record_positive(numbers, values)

    def _record_positive(self, numbers: Numbers, values: Floats) -> None:
        logs = np.log2(values)
        rows, group = np.unique(numbers, return_inverse=True)
        lowest = np.full(len(rows), np.inf)
        highest = np.full(len(rows), -np.inf)
        np.minimum.at(lowest, group, logs)
        np.maximum.at(highest, group, logs)
        firsts, lasts = _index(lowest, self._scales[rows]), _index(highest, self._scales[rows])
        ends = self._offsets[rows] + self._used[rows]
        fits = (self._used[rows] > 0) & (self._offsets[rows] <= firsts) & (lasts < ends)
        # Few and fewer, as the buckets of a series come to cover what it is given.
        for at in (~fits).nonzero()[0].tolist():
            self._make_room(int(rows[at]), int(firsts[at]), int(lasts[at]))
        places = _index(logs, self._scales[rows][group]) - self._offsets[rows][group]
        np.add.at(self._buckets.reshape(-1), numbers * self._width + places, np.uint64(1))

    def _make_room(self, row: int, first: int, last: int) -> None:
        """Have the buckets of one row cover these indices, of its present scale."""
        used = int(self._used[row])
        if used:
            offset = int(self._offsets[row])
            first, last = min(first, offset), max(last, offset + used - 1)
        shift = 0
        while (last >> shift) - (first >> shift) >= self._width:
            shift += 1
        if used:
            self._move(row, first, shift)
        self._scales[row] -= shift
        self._offsets[row] = first >> shift
        self._used[row] = (last >> shift) - (first >> shift) + 1

    def _move(self, row: int, first: int, shift: int) -> None:
        """Merge buckets in twos, `shift` times, and have them begin at `first`."""
        offset, used = int(self._offsets[row]), int(self._used[row])
        before = self._buckets[row, :used].copy()
        self._buckets[row] = 0
        places = ((offset + np.arange(used)) >> shift) - (first >> shift)
        np.add.at(self._buckets[row], places, before)

    def points(self, count: int) -> Points:
        self._reserve(count)
        totals = self._totals
        widest = int(self._used[:count].max(initial=0))
        return Points(
            totals.counts[:count].copy(),
            totals.sums[:count].copy(),
            totals.least[:count].copy(),
            totals.most[:count].copy(),
            self._buckets[:count, :widest].copy(),
            None,
            self._scales[:count].copy(),
            self._offsets[:count].copy(),
            self._zeros[:count].copy(),
        )

    def keep(self, numbers: Numbers) -> None:
        self._reserve(int(numbers.max(initial=0)) + 1)
        self._totals.keep(numbers)
        self._zeros, self._scales = self._zeros[numbers], self._scales[numbers]
        self._offsets, self._used = self._offsets[numbers], self._used[numbers]
        self._buckets = self._buckets[numbers]

    def _reserve(self, rows: int) -> None:
        if rows <= len(self._buckets):
            return
        self._buckets = grown(self._buckets, rows)
        rows = len(self._buckets)
        self._totals.grow(rows)
        self._zeros, self._used = grown(self._zeros, rows), grown(self._used, rows)
        self._offsets = grown(self._offsets, rows)
        self._scales = grown(self._scales, rows, self._max_scale)


def _index(logs: Floats, scale: npt.NDArray[np.int8] | np.int8) -> npt.NDArray[np.int64]:
    """The bucket of values, by their logarithms to base 2."""
    index: npt.NDArray[np.int64] = (np.ceil(np.ldexp(logs, scale.astype(np.int32))) - 1).astype(
        np.int64
    )
    return index
