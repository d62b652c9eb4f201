"""Series: attribute sets by number, few enough for memory.

A metric of one resource has at most so many attribute sets; what comes beyond is added to one
more, marked `otel.metric.overflow`, as the metrics SDK's specification has it ("Cardinality
limits"). An agent carries many resources, so there is a bound for all of them as well.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from waggle.metrics.instruments import OVERFLOW
from waggle.spans import AttributeValue

Pairs = tuple[tuple[str, AttributeValue], ...]
Numbers = npt.NDArray[np.intp]

PER_RESOURCE = 2000  # the specification's default
IN_ALL = 20_000
# Series for what overflows, one for each resource and kind: then no more of those either.
OVERFLOWS = 4096
NO_SERIES = -1


@dataclass(frozen=True, slots=True)
class Limits:
    """Series of one metric of one resource, the one for the overflow included; and of all."""

    per_resource: int = PER_RESOURCE
    in_all: int = IN_ALL


@dataclass(slots=True)
class Series:
    """One attribute set of one resource. group: what is counted together, say a metric.

    text: what an exporter makes of the attributes, kept for the next time.
    """

    group: int
    resource: int
    attributes: Pairs
    since_ns: int  # Unix time at which it began
    failed: bool = False  # whether it has error.type
    text: str = ""


@dataclass(slots=True)
class SeriesTable:
    """Series in the order they came. Not for use by two threads at once.

    overflowed: attribute sets that had no room (one may count more than once).
    """

    limits: Limits = field(default_factory=Limits)
    rows: list[Series] = field(default_factory=list)
    overflowed: int = 0
    _numbers: dict[Hashable, int] = field(default_factory=dict)
    _counts: dict[tuple[int, int], int] = field(default_factory=dict)  # by resource and group
    _overflows: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def number(self, group: int, resource: int, attributes: Pairs, now_ns: int) -> int:
        """The number of a series, made now if it is new; NO_SERIES where nothing has room."""
        key = (group, resource, attributes)
        found = self._numbers.get(key)
        if found is not None:
            return found
        count = self._counts.get((resource, group), 0)
        ordinary = len(self.rows) - self._overflows
        if count < self.limits.per_resource - 1 and ordinary < self.limits.in_all:
            self._counts[(resource, group)] = count + 1
            return self._add(key, Series(group, resource, attributes, now_ns))
        self.overflowed += 1
        return self.overflow(group, resource, now_ns)

    def overflow(self, group: int, resource: int, now_ns: int) -> int:
        """The series of a resource for what has no room."""
        key = (group, resource, OVERFLOW)
        found = self._numbers.get(key)
        if found is not None:
            return found
        if self._overflows >= OVERFLOWS:
            return NO_SERIES
        self._overflows += 1
        return self._add(key, Series(group, resource, OVERFLOW, now_ns))

    def _add(self, key: Hashable, series: Series) -> int:
        series.failed = any(name == "error.type" for name, _ in series.attributes)
        self._numbers[key] = len(self.rows)
        self.rows.append(series)
        return len(self.rows) - 1

    def keep(self, numbers: Sequence[int]) -> None:
        """Forget all series but these, which get new numbers in this order."""
        kept = [self.rows[number] for number in numbers]
        self.rows = []
        self._numbers.clear()
        self._counts.clear()
        self._overflows = 0
        for series in kept:
            is_overflow = series.attributes == OVERFLOW
            self._overflows += is_overflow
            if not is_overflow:
                place = (series.resource, series.group)
                self._counts[place] = self._counts.get(place, 0) + 1
            self._add((series.group, series.resource, series.attributes), series)
