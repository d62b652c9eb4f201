"""The hot path: a batch of exchanges to serialized OTLP requests, by columns.

    rows.py            regular? -> identity of each row -> groups of equal rows
    template_cache.py  a template for each group
    here               all templates' bytes in one buffer -> columns copied into their places
    requests.py        -> requests by resource

What is irregular, what is new, and what has no template goes record by record through
opentelemetry-proto (messages.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from waggle.columns import SHORT, Bytes, Positions, Slices, copy_short, copy_slices, windows
from waggle.exporter.requests import EncodedRequest, PayloadBuffer, Requests, ResourceFrames
from waggle.exporter.rows import LARGE_GROUP, Groups, Rows, group_rows
from waggle.exporter.template_cache import TemplateCache
from waggle.exporter.templates import (
    PLACES,
    TEXT_COLUMNS,
    Column,
    Template,
    encode_slowly,
)
from waggle.spans import SpanBatch

__all__ = ["EncodedRequest", "EncoderStats", "OtlpEncoder"]

MAX_TEMPLATES = 4096
MAX_REQUEST_BYTES = 4_000_000  # below the 4 MiB at which gRPC servers refuse by default
MAX_REQUEST_SPANS = 8192
# What columns cost before their first row is what this many rows cost on the slow path.
MIN_COLUMN_ROWS = 17

_SCRATCH_KEPT = 1 << 20
# Spans that are filled at once, column by column: so many bytes stay in a processor's own cache
# from the first column to the last.
_BLOCK_BYTES = 128 << 10
_NOTHING = Template(b"", np.full(len(Column) * PLACES, -1, np.int32).tobytes())


@dataclass(slots=True)
class EncoderStats:
    """What the encoder has done so far; every row is a hit or slow for one reason."""

    hits: int = 0  # rows that took a template
    slow: dict[str, int] = field(default_factory=dict)  # reason -> rows
    built: int = 0  # templates made
    evicted: int = 0  # templates given up for others
    templates: int = 0  # templates held now

    def slow_rows(self, reason: str, rows: int) -> None:
        if rows:
            self.slow[reason] = self.slow.get(reason, 0) + rows


class OtlpEncoder:
    """Turns batches into OTLP requests. Not for use by two threads at once.

    max_templates: how many shapes are remembered (about 1 KB each).
    max_bytes, max_spans: bounds of one request; a single larger span goes alone.
    min_rows: batches of fewer rows go slowly, which is quicker for them.
    large_group: from this many equal rows on each column of theirs is filled at once.
    """

    def __init__(
        self,
        max_templates: int = MAX_TEMPLATES,
        max_bytes: int = MAX_REQUEST_BYTES,
        max_spans: int = MAX_REQUEST_SPANS,
        min_rows: int = MIN_COLUMN_ROWS,
        large_group: int = LARGE_GROUP,
    ) -> None:
        self._cache = TemplateCache(max_templates)
        self._frames = ResourceFrames()
        self._scratch = _Scratch()
        self._max_bytes = max_bytes
        self._max_spans = max_spans
        self._min_rows = min_rows
        self._large_group = large_group
        self._stats = EncoderStats()

    def encode(self, batch: SpanBatch) -> list[EncodedRequest]:
        """All spans of the batch, grouped by resource, in requests within the bounds.

        Raises IndexError when a row's resource is not in the table.
        """
        self._frames.use(batch.table)
        requests = Requests(self._frames, self._max_bytes, self._max_spans)
        if len(batch) < self._min_rows:
            self._stats.slow_rows("small_batch", len(batch))
            for resource, rows in _rows_by_resource(batch, np.arange(len(batch))).items():
                requests.add(resource, *_encode_rows(batch, rows))
        elif len(batch):
            columns, layout = self._planned(batch)
            if whole := self._as_one(requests, columns, layout):
                return [whole]
            target = self._scratch.take(layout.size + SHORT)
            filled = _fill(columns, layout, target, self._large_group)
            slow = np.ones(len(batch), np.bool_)
            slow[filled.rows] = False
            for resource, spans, ends in _by_resource(batch, filled, slow.nonzero()[0]):
                requests.add(resource, spans, ends)
        return requests.finish()

    def stats(self) -> EncoderStats:
        """The live counters; `templates` is what is held now."""
        self._stats.templates = len(self._cache)
        self._stats.built = self._cache.built
        self._stats.evicted = self._cache.evicted
        return self._stats

    def _planned(self, batch: SpanBatch) -> "tuple[Rows, _Layout]":
        """Where the spans of the rows that have templates are to lie."""
        rows = Rows(batch)
        groups = group_rows(rows, self._large_group)
        templates = self._cache.of_groups(rows, groups)
        has_template = np.array([t is not None for t in templates], np.bool_)
        self._count(rows, groups, has_template)
        fast = groups.equal & has_template[groups.group]
        used = [template or _NOTHING for template in templates]
        return rows, _Layout(groups.rows[fast], groups.group[fast], used)

    def _as_one(self, requests: Requests, rows: Rows, layout: "_Layout") -> EncodedRequest | None:
        """The request, made in its place, where all spans are one resource's and have templates."""
        count = len(rows.records)
        resource = int(rows.batch.resources[0])
        if len(layout.these) < count or (rows.batch.resources != resource).any():
            return None
        if not requests.fit_into_one(resource, layout.size, count):
            return None
        before, after = requests.around(resource, layout.size)
        assert len(after) >= SHORT  # which short texts may be copied into
        end = len(before) + layout.size
        payload = PayloadBuffer(end + len(after))
        _fill(rows, layout, payload.view[len(before) :], self._large_group)
        payload.view[: len(before)] = np.frombuffer(before, np.uint8)
        payload.view[end:] = np.frombuffer(after, np.uint8)
        return EncodedRequest(payload.done(), count)

    def _count(self, rows: Rows, groups: Groups, has_template: npt.NDArray[np.bool_]) -> None:
        known = has_template[groups.group]
        self._stats.slow_rows("irregular", int(np.count_nonzero(~rows.regular)))
        self._stats.slow_rows("no_template", int(np.count_nonzero(~known)))
        self._stats.slow_rows("key_collision", int(np.count_nonzero(known & ~groups.equal)))
        self._stats.hits += int(np.count_nonzero(known & groups.equal))


@dataclass(frozen=True, slots=True)
class _Filled:
    """Spans made from templates: row i lies in `buffer` from ends[i - 1] to ends[i]."""

    rows: Positions
    buffer: memoryview
    ends: Positions


class _Scratch:
    """The buffer that spans are put together in, kept: fresh pages cost more than the work."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.uint8)

    def take(self, size: int) -> Bytes:
        if len(self._buffer) < size or len(self._buffer) > max(8 * size, _SCRATCH_KEPT):
            self._buffer = np.empty(size + size // 4, np.uint8)  # the next is a bit larger
        return self._buffer[:size]


class _Layout:
    """Where the spans of some rows lie: in order of their groups, of whose templates they are.

    these: the rows. group: of each. counts: rows of each group. ends: of each row's span.
    """

    def __init__(self, these: Positions, group: Positions, templates: list[Template]) -> None:
        self.these, self.group, self.templates = these, group, templates
        sizes = np.array([len(template.payload) for template in templates], np.intp)
        self.lengths = sizes[group]
        self.ends = np.cumsum(self.lengths)
        self.size = int(self.ends[-1]) if len(self.ends) else 0
        self.counts = np.bincount(group, minlength=len(templates)).tolist()


def _fill(rows: Rows, layout: _Layout, target: Bytes, large: int) -> _Filled:
    """Lay out the templates of the rows, in order, and copy the columns into their places.

    Behind them `target` has SHORT bytes more, which short texts may be copied into.
    """
    left = _fill_large_groups(rows, layout, target, large)
    if len(left):
        # By row number, so that columns are read where they are, one after the other.
        order = left[layout.these[left].argsort()]
        places = np.frombuffer(b"".join([t.places for t in layout.templates]), np.int32)
        places = np.ascontiguousarray(places.reshape(-1, len(Column) * PLACES).T)
        begins = (layout.ends - layout.lengths)[order]
        _fill_columns(rows, layout.these[order], target, begins, places, layout.group[order])
    return _Filled(layout.these, target[: layout.size].data, layout.ends)


def _fill_large_groups(rows: Rows, layout: _Layout, target: Bytes, large: int) -> Positions:
    """Lay out all templates, and fill the spans of each large group a column at a time; which of
    the spans are left."""
    left: list[Positions] = []
    first, at = 0, 0
    for template, count in zip(layout.templates, layout.counts, strict=True):
        size = len(template.payload)
        spans = target[at : at + count * size].reshape(count, size)
        if count < large:
            left.append(np.arange(first, first + count))
            if count:
                spans[:] = np.frombuffer(template.payload, np.uint8)
        else:
            _fill_group(rows, layout.these[first : first + count], template, spans)
        first += count
        at += count * size
    return np.concatenate(left) if left else np.empty(0, np.intp)


def _fill_group(rows: Rows, group: Positions, template: Template, spans: Bytes) -> None:
    """All of a group have one size, so each column lies at even distances."""
    count, size = spans.shape
    payload = np.frombuffer(template.payload, np.uint8)
    columns = [
        (
            np.ndarray((count,), f"V{width}", spans, place, (size,)),
            rows.values(column, group, width),
        )
        for column, place, width in template.columns
    ]
    step = max(1, _BLOCK_BYTES // size)
    for begin in range(0, count, step):
        block = slice(begin, begin + step)
        spans[block] = payload
        for into, values in columns:
            into[block] = values[block]


def _fill_columns(
    rows: Rows,
    these: Positions,
    target: Bytes,
    begins: Positions,
    places: npt.NDArray[np.int32],
    group: Positions,
) -> None:
    texts: list[tuple[Slices, Positions]] = []
    somewhere = np.flatnonzero(places.max(axis=1) >= 0).tolist()
    everywhere = (places.min(axis=1) >= 0).tolist()
    for number in somewhere:
        column = Column(number // PLACES)
        here, at = these, begins + places[number][group]
        if not everywhere[number]:
            present = (places[number] >= 0)[group]
            here, at = here[present], at[present]
        if column in TEXT_COLUMNS:
            text = rows.texts(column, here)
            if not copy_short(text, target, at):
                texts.append((text, at))
        else:
            values = rows.fixed_column(column)
            values = values if len(here) == len(values) else values[here]
            windows(target, values.dtype.itemsize)[at] = values
    _copy_texts([text for text in texts if text[0].buffer is rows.buffer], target)
    _copy_texts([text for text in texts if text[0].buffer is not rows.buffer], target)


def _copy_texts(texts: list[tuple[Slices, Positions]], target: Bytes) -> None:
    """Copy slices of one buffer to the positions that come with them, all at once."""
    if texts:
        starts, lengths, at = map(
            np.concatenate, zip(*((s.starts, s.lengths, at) for s, at in texts), strict=True)
        )
        copy_slices(texts[0][0].buffer, starts, target, at, lengths)


def _by_resource(
    batch: SpanBatch, filled: _Filled, slow: Positions
) -> Iterator[tuple[int, memoryview, Positions]]:
    """Each resource's spans: first those made from templates, then those made slowly."""
    resources = batch.resources[filled.rows]  # in ascending order
    edges = ((resources[1:] != resources[:-1]).nonzero()[0] + 1).tolist()
    slow_rows = _rows_by_resource(batch, slow)
    if len(resources):
        for first, last in zip([0, *edges], [*edges, len(resources)], strict=True):
            resource = int(resources[first])
            begin = int(filled.ends[first - 1]) if first else 0
            ends = filled.ends[first:last]
            yield resource, filled.buffer[begin : int(ends[-1])], ends - begin
            if resource in slow_rows:
                yield resource, *_encode_rows(batch, slow_rows.pop(resource))
    for resource, left in slow_rows.items():
        yield resource, *_encode_rows(batch, left)


def _rows_by_resource(batch: SpanBatch, rows: Positions) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for row, resource in zip(rows.tolist(), batch.resources[rows].tolist(), strict=True):
        found.setdefault(resource, []).append(row)
    return found


def _encode_rows(batch: SpanBatch, rows: list[int]) -> tuple[memoryview, Positions]:
    spans = [encode_slowly(batch, row) for row in rows]
    ends = np.cumsum(np.array([len(span) for span in spans], np.intp))
    return memoryview(b"".join(spans)), ends
