"""Collected metrics as text for Prometheus: OpenMetrics 1.0 with exemplars, or its older format.

Names and labels: OpenTelemetry specification, "Prometheus and OpenMetrics Compatibility": dots
become underscores, units become suffixes, each resource has the labels job and instance and a
line of `target_info`. https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/
https://prometheus.io/docs/specs/om/open_metrics_spec/
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from waggle import __version__
from waggle.exporter.messages import SCOPE_NAME
from waggle.metrics.instruments import Instrument, Shape
from waggle.metrics.points import Collected, Family, HistogramFamily, NumberFamily
from waggle.metrics.series import Pairs
from waggle.spans import AttributeValue, Resource

OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"

_SUFFIXES = {"s": "seconds", "By": "bytes", "1": "ratio"}
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_]+")
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_SCOPE = f'otel_scope_name="{SCOPE_NAME}",otel_scope_version="{__version__}"'
_PIECE = 4096  # lines
# What job and instance say already.
_IDENTITY = ("service.name", "service.namespace", "service.instance.id")


def content_type(accept: str) -> str:
    """What to answer to an Accept header."""
    return OPEN_METRICS if "application/openmetrics-text" in accept else PLAIN


def render(collected: Collected, form: str = OPEN_METRICS) -> list[bytes]:
    """All families in one of the two formats, in pieces: the whole may have tens of MB."""
    page = _Page(is_open=form == OPEN_METRICS)
    together: dict[Instrument, list[Family]] = {}  # a family may come from several sources
    for family in collected:
        together.setdefault(family.instrument, []).append(family)
    for families in together.values():
        page.begin(families[0])
        for family in families:
            page.add(family)
    return page.finish()


class _Page:
    def __init__(self, *, is_open: bool) -> None:
        self._is_open = is_open
        self._lines: list[str] = []
        self._pieces: list[bytes] = []
        self._targets: dict[int, tuple[Resource, str]] = {}

    def begin(self, family: Family) -> None:
        """The head of all families with this instrument."""
        instrument = family.instrument
        name = metric_name(instrument)
        if instrument.shape is Shape.HISTOGRAM:
            self._head(instrument, name, "histogram", name)
        elif instrument.shape is Shape.COUNTER:
            self._head(instrument, name, "counter", f"{name}_total")
        else:
            self._head(instrument, name, "gauge", name)

    def add(self, family: Family) -> None:
        if isinstance(family, HistogramFamily):
            self._add_histograms(family)
        else:
            self._add_numbers(family)

    def finish(self) -> list[bytes]:
        if self._targets:
            # In the older format there are no infos.
            name, kind = ("target", "info") if self._is_open else ("target_info", "gauge")
            self._lines.append(f"# HELP {name} What is measured\n# TYPE {name} {kind}\n")
            for resource, target in self._targets.values():
                self._lines.append(f"target_info{{{target}{_about(resource)}}} 1\n")
        if self._is_open:
            self._lines.append("# EOF\n")
        self._flush()
        return self._pieces

    def _flush(self) -> None:
        self._pieces.append("".join(self._lines).encode())
        self._lines.clear()

    def _add_numbers(self, family: NumberFamily) -> None:
        instrument = family.instrument
        is_counter = instrument.shape is Shape.COUNTER
        name = metric_name(instrument)
        sample = f"{name}_total" if is_counter else name
        for point in family.points:
            labels = self._labels(point.resource, _pairs(point.attributes))
            self._lines.append(f"{sample}{{{labels}}} {point.value!r}\n")

    def _add_histograms(self, family: HistogramFamily) -> None:
        points, name = family.points, metric_name(family.instrument)
        bounds = [f'le="{bound!r}"' for bound in family.instrument.bounds] + ['le="+Inf"']
        counts, sums, buckets = points.counts.tolist(), points.sums.tolist(), points.buckets
        cumulative = buckets.cumsum(axis=1)
        exemplars = self._exemplars(family)
        for row, series in enumerate(family.series):
            series.text = series.text or _pairs(series.attributes)
            labels = self._labels(family.resources[row], series.text)
            begin = f"{name}_bucket{{{labels},"
            examples = exemplars.get(row, {})
            self._lines += [
                f"{begin}{bound}}} {count}{examples.get(place, '')}\n"
                for place, (bound, count) in enumerate(
                    zip(bounds, cumulative[row].tolist(), strict=True)
                )
            ]
            self._lines.append(
                f"{name}_count{{{labels}}} {counts[row]}\n{name}_sum{{{labels}}} {sums[row]!r}\n"
            )
            if len(self._lines) > _PIECE:
                self._flush()

    def _exemplars(self, family: HistogramFamily) -> dict[int, dict[int, str]]:
        """What stands behind buckets, by row and bucket; those without are not in it."""
        found: dict[int, dict[int, str]] = {}
        exemplars = family.points.exemplars
        if exemplars is None or not self._is_open:
            return found
        for row, place in np.argwhere(exemplars["time_ns"] != 0).tolist():
            one = exemplars[row, place]
            found.setdefault(row, {})[place] = (
                f' # {{trace_id="{one["trace_id"].tobytes().hex()}",'
                f'span_id="{one["span_id"].tobytes().hex()}"}} '
                f"{float(one['value'])!r} {int(one['time_ns']) / 1e9:.3f}"
            )
        return found

    def _head(self, instrument: Instrument, name: str, kind: str, sample: str) -> None:
        # In the older format the head of a counter bears the name of its samples.
        shown = name if self._is_open else sample
        text = instrument.description.translate(_ESCAPES)
        self._lines.append(f"# HELP {shown} {text}\n# TYPE {shown} {kind}\n")
        unit = _SUFFIXES.get(instrument.unit)
        if unit is not None and self._is_open:
            self._lines.append(f"# UNIT {shown} {unit}\n")

    def _labels(self, resource: Resource, pairs: str) -> str:
        known = self._targets.get(id(resource))
        if known is None:
            known = self._targets[id(resource)] = (resource, _target(resource))
        return f"{known[1]},{_SCOPE}{pairs}"


def metric_name(instrument: Instrument) -> str:
    """The name of a family, without what its samples add to it."""
    if instrument.as_named:
        return instrument.name.removesuffix("_total")
    name = _label_name(instrument.name)
    suffix = _SUFFIXES.get(instrument.unit, "")
    return f"{name}_{suffix}" if suffix and not name.endswith(f"_{suffix}") else name


def _label_name(name: str) -> str:
    clean = _NOT_IN_NAMES.sub("_", name)
    return f"_{clean}" if clean[:1].isdigit() else clean


def _pairs(attributes: Pairs | Iterable[tuple[str, AttributeValue]]) -> str:
    """Labels, each behind a comma; values of names that become the same are joined."""
    merged: dict[str, list[str]] = {}
    for name, value in attributes:
        merged.setdefault(_label_name(name), []).append(_text(value))
    return "".join(f',{name}="{_escaped(";".join(texts))}"' for name, texts in merged.items())


def _text(value: AttributeValue | Sequence[str]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(value)
    return str(value)


def _escaped(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text.translate(_ESCAPES)


def _target(resource: Resource) -> str:
    """job and instance."""
    attributes = resource.attributes
    name, space = attributes.get("service.name", ""), attributes.get("service.namespace", "")
    job = f"{space}/{name}" if space else str(name)
    instance = str(attributes.get("service.instance.id", ""))
    return f'job="{_escaped(job)}",instance="{_escaped(instance)}"'


def _about(resource: Resource) -> str:
    return _pairs((n, v) for n, v in resource.attributes.items() if n not in _IDENTITY)
