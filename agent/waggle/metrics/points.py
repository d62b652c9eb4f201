"""What a collection finds: families of points, for exporters to write down."""

from collections.abc import Sequence
from dataclasses import dataclass

from waggle.metrics.histograms import Points
from waggle.metrics.instruments import Instrument
from waggle.metrics.series import Pairs, Series
from waggle.spans import Resource


@dataclass(frozen=True, slots=True)
class HistogramFamily:
    """A histogram's series, side by side: resource, series and row of `points`."""

    instrument: Instrument
    resources: Sequence[Resource]
    series: Sequence[Series]
    points: Points


@dataclass(frozen=True, slots=True)
class NumberPoint:
    """One value of a counter or gauge. since_ns: Unix time from which it counts, 0 for none."""

    resource: Resource
    attributes: Pairs
    value: int | float
    since_ns: int


@dataclass(frozen=True, slots=True)
class NumberFamily:
    """The values of one counter or gauge."""

    instrument: Instrument
    points: Sequence[NumberPoint]


Family = HistogramFamily | NumberFamily
Collected = list[Family]
