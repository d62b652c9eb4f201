"""The hot path: a batch of exchanges to serialized OTLP requests, by columns.

    regular? -> identity of each row -> groups of equal rows -> a template a group
      -> all templates' bytes in one buffer -> columns copied into their places

What is irregular, what is new, and what has no template goes record by record through
opentelemetry-proto (messages.py). A row is only ever given the template of an identity
that is equal byte for byte: the 64-bit key finds it, the comparison decides.
"""

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from waggle import layout
from waggle.columns import (
    Bytes,
    Positions,
    as_numbers,
    copy_slices,
    equal_rows,
    equal_slices,
    low_bytes,
    windows,
)
from waggle.exporter.messages import SCHEMA_URL, resource_message, scope_message
from waggle.exporter.templates import (
    BODY_LIMIT,
    BODY_WIDTH,
    KEYED,
    PLACES,
    PORT_WIDTH,
    Column,
    Template,
    build_template,
    encode_slowly,
    ephemeral_ports,
    padded_varints,
    service_ports,
    varint,
)
from waggle.spans import ResourceTable, SpanBatch, Targets, decoder_of

MAX_TEMPLATES = 4096
MAX_REQUEST_BYTES = 4_000_000  # below the 4 MiB at which gRPC servers refuse by default
MAX_REQUEST_SPANS = 8192

# A template costs about as much as this many rows on the slow path, so it is built
# when that many rows of its shape have been seen: at worst twice the work, whatever comes.
_BUILD_AFTER = 4
# A template is given up for another one only when this many batches did not use it;
# otherwise more shapes in turn than there is room for would rebuild them all for ever.
_STALE_AFTER = 64
_MAX_KEPT = 1024  # longer kept fields make templates that are not worth their memory
_MAX_RESOURCES = 1 << 24  # the group key has 24 bits for the resource
_MAX_KNOWN_RESOURCES = 1024
_SCRATCH_KEPT = 1 << 20
_PORT_VARINTS = padded_varints(np.arange(1 << 16, dtype=np.uint32), PORT_WIDTH).astype(np.uint32)
_HEADERS = 16  # of one resource's spans: two tags, two lengths
_HEAD: int = layout.EXCHANGE.fields["head"][1]  # type: ignore[index]
_HIGH_BITS = np.uint64(0x8080808080808080)
_PARENT: int = layout.EXCHANGE.fields["parent_id"][1]  # type: ignore[index]
_NOTHING = Template(b"", np.full(len(Column) * PLACES, -1, np.int32).tobytes())
_ID_FIELDS = {
    Column.TRACE_ID: "trace_id",
    Column.SPAN_ID: "span_id",
    Column.PARENT_ID: "parent_id",
}


def _runs(names: Iterable[str]) -> list[tuple[int, int]]:
    """Where in a record the named fields are, neighbours joined: (offset, length)."""
    runs: list[tuple[int, int]] = []
    for offset, size in sorted(_place(name) for name in names):
        if runs and sum(runs[-1]) == offset:
            runs[-1] = (runs[-1][0], runs[-1][1] + size)
        else:
            runs.append((offset, size))
    return runs


def _place(name: str) -> tuple[int, int]:
    kind, offset = layout.EXCHANGE.fields[name][:2]  # type: ignore[index]
    return offset, kind.itemsize


_IDENTITY_RUNS = _runs(KEYED)
_IDENTITY_SIZE = -8 * (-sum(length for _, length in _IDENTITY_RUNS) // 8)  # whole words
_MULTIPLIERS = np.frombuffer(os.urandom(_IDENTITY_SIZE + 8), np.uint64) | np.uint64(1)


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """One serialized ExportTraceServiceRequest (the same bytes as a TracesData)."""

    payload: bytes
    spans: int


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
    """

    def __init__(
        self,
        max_templates: int = MAX_TEMPLATES,
        max_bytes: int = MAX_REQUEST_BYTES,
        max_spans: int = MAX_REQUEST_SPANS,
    ) -> None:
        self._cache = _TemplateCache(max_templates)
        self._frames = _ResourceFrames()
        self._scratch = _Scratch()
        self._max_bytes = max_bytes
        self._max_spans = max_spans
        self._stats = EncoderStats()

    def encode(self, batch: SpanBatch) -> list[EncodedRequest]:
        """All spans of the batch, grouped by resource, in requests within the bounds.

        Raises IndexError when a row's resource is not in the table.
        """
        self._frames.use(batch.table)
        requests = _Requests(self._frames, self._max_bytes, self._max_spans)
        if len(batch):
            filled = self._fast_rows(batch)
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

    def _fast_rows(self, batch: SpanBatch) -> "_Filled":
        rows = _Rows(batch)
        groups = _group(rows)
        templates = self._cache.of_groups(rows, groups)
        has_template = np.array([t is not None for t in templates], np.bool_)
        self._count(rows, groups, has_template)
        fast = groups.equal & has_template[groups.group]
        return _fill(rows, groups.rows[fast], groups.group[fast], templates, self._scratch)

    def _count(self, rows: "_Rows", groups: "_Groups", has_template: npt.NDArray[np.bool_]) -> None:
        known = has_template[groups.group]
        self._stats.slow_rows("irregular", int(np.count_nonzero(~rows.regular)))
        self._stats.slow_rows("no_template", int(np.count_nonzero(~known)))
        self._stats.slow_rows("key_collision", int(np.count_nonzero(known & ~groups.equal)))
        self._stats.hits += int(np.count_nonzero(known & groups.equal))


class _Rows:
    """The records of a batch as columns: what is regular, what each one's identity is."""

    def __init__(self, batch: SpanBatch) -> None:
        self.batch = batch
        self.records = np.ascontiguousarray(batch.records)
        self.size = self.records.dtype.itemsize
        self.buffer: Bytes = self.records.view(np.uint8).reshape(-1)
        self.rows: Bytes = self.buffer.reshape(-1, self.size)
        self.heads = np.arange(len(self.records)) * self.size + _HEAD
        self.target_lengths = self.records["target_len"].astype(np.intp)
        self.kept_lengths = self.records["kept_len"].astype(np.intp)
        self.regular = self._within_bounds()
        self.queries, candidates = self._read_targets()
        self.regular = self._plain(candidates)
        self.identities = self._identities()
        self.keys = _mix(self.identities)

    def identity(self, row: int) -> bytes:
        """All that decides which template is the row's, byte for byte."""
        start = int(self.heads[row] + self.target_lengths[row])
        kept = self.buffer[start : start + int(self.kept_lengths[row])]
        return bytes(self.identities[row].tobytes() + kept.tobytes())

    def fixed_column(self, column: Column) -> npt.NDArray[np.void]:
        """A column of fixed width as it appears in a span, for all rows."""
        if column in _ID_FIELDS:
            return self._raw(_ID_FIELDS[column])
        return self._encoded(column)

    def target_slices(self, column: Column, rows: Positions) -> tuple[Positions, Positions]:
        """Where in `buffer` the PATH or QUERY column of some rows is: starts, lengths."""
        heads, queries = self.heads[rows], self.queries[rows]
        if column == Column.PATH:
            return heads + 1, queries - 1
        return heads + queries + 1, self.target_lengths[rows] - queries - 1

    def _raw(self, name: str) -> npt.NDArray[np.void]:
        """One field of all records as raw bytes, a void per row."""
        offset, length = _place(name)
        return _strided(self.rows, length, offset)

    def _encoded(self, column: Column) -> npt.NDArray[np.void]:
        records = self.records
        if column == Column.EPHEMERAL_PORT:
            return low_bytes(_PORT_VARINTS[ephemeral_ports(records)], PORT_WIDTH)
        if column == Column.REQUEST_BODY:
            return low_bytes(padded_varints(records["request_body"], BODY_WIDTH), BODY_WIDTH)
        if column == Column.RESPONSE_BODY:
            return low_bytes(padded_varints(records["response_body"], BODY_WIDTH), BODY_WIDTH)
        times = records["start_ns"]
        if column == Column.END:
            times = np.maximum(times, records["end_ns"])
        offset = np.uint64(self.batch.clock_offset_ns & 0xFFFFFFFFFFFFFFFF)
        return low_bytes(times + offset, 8)

    def _within_bounds(self) -> npt.NDArray[np.bool_]:
        records = self.records
        regular = self.target_lengths + self.kept_lengths <= self.size - _HEAD
        regular &= self.kept_lengths <= _MAX_KEPT
        regular &= (records["request_body"] < BODY_LIMIT) & (records["response_body"] < BODY_LIMIT)
        regular &= (self.batch.resources >= 0) & (self.batch.resources < _MAX_RESOURCES)
        return regular

    def _read_targets(self) -> tuple[Positions, npt.NDArray[np.bool_]]:
        """Where each target's first '?' is (else its length), and whether it is ASCII."""
        lengths = np.where(self.regular, self.target_lengths, 0)
        longest = int(lengths.max(initial=0))
        width = min(-8 * (-longest // 8), self.size - _HEAD)  # whole words
        if not width:
            return lengths, self.regular
        heads = np.ascontiguousarray(self.records["head"][:, :width])
        marks = heads == ord("?")
        first = marks.argmax(axis=1)
        found = marks.reshape(-1)[np.arange(0, marks.size, width) + first] & (first < lengths)
        return np.where(found, first, lengths), self.regular & _ascii(heads, lengths)

    def _plain(self, candidates: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Candidates whose target, by their protocol's word, may be copied."""
        plain = np.zeros(len(self.records), np.bool_)
        protocols = self.records["protocol"]
        targets = Targets(self.buffer, self.heads, self.target_lengths, self.queries)
        for protocol in np.bincount(protocols).nonzero()[0].tolist():
            decoder = decoder_of(protocol)
            rows = (candidates & (protocols == protocol)).nonzero()[0]
            if decoder is not None and len(rows):
                plain[rows] = decoder.plain_targets(targets.take(rows))
        return plain

    def _identities(self) -> npt.NDArray[np.uint64]:
        """A few words a row: every column that is in templates.KEYED, and what is derived."""
        records = self.records
        matrix = np.zeros((len(records), _IDENTITY_SIZE + 8), np.uint8)
        at = 0
        for offset, length in _IDENTITY_RUNS:
            _strided(matrix, length, at)[:] = _strided(self.rows, length, offset)
            at += length
        words: npt.NDArray[np.uint64] = matrix.view(np.uint64)
        words[:, -1] = service_ports(records)
        words[:, -1] |= self.queries.astype(np.uint64) << np.uint64(16)
        words[:, -1] |= self._has_parent().astype(np.uint64) << np.uint64(32)
        return words

    def _has_parent(self) -> npt.NDArray[np.bool_]:
        ids = np.ndarray((len(self.rows),), np.uint64, self.buffer, _PARENT, (self.size,))
        return np.asarray(ids != 0, np.bool_)


def _ascii(heads: Bytes, lengths: Positions) -> npt.NDArray[np.bool_]:
    """Whether the first `lengths` bytes of each row of a contiguous matrix are ASCII."""
    ascii_only = np.ones(len(heads), np.bool_)
    words = heads.view(np.uint64)
    # Kept fields lie behind short targets, so first the rows with any such byte.
    if (words & _HIGH_BITS).any():
        for row in np.flatnonzero((words & _HIGH_BITS).any(axis=1)).tolist():
            ascii_only[row] = not (heads[row, : lengths[row]] & 0x80).any()
    return ascii_only


@dataclass(frozen=True, slots=True)
class _Groups:
    """The regular rows, ordered by resource, and within it by identity.

    rows: row numbers. group: the group of each of them. firsts: of each group the
    row that stands for it. counts: its size. equal: whether a row truly equals it.
    """

    rows: Positions
    group: Positions
    firsts: Positions
    counts: Positions
    equal: npt.NDArray[np.bool_]


def _group(rows: _Rows) -> _Groups:
    regular = rows.regular.nonzero()[0]
    resources = rows.batch.resources[regular].astype(np.uint64)
    keys = (resources << np.uint64(40)) | (rows.keys[regular] >> np.uint64(24))
    order = np.argsort(keys)
    regular, keys = regular[order], keys[order]
    begins = np.ones(len(keys), np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=begins[1:])
    group = np.cumsum(begins) - 1
    firsts = regular[begins]
    counts = np.bincount(group, minlength=len(firsts))
    return _Groups(regular, group, firsts, counts, _equal(rows, regular, firsts[group]))


def _equal(rows: _Rows, these: Positions, those: Positions) -> npt.NDArray[np.bool_]:
    """Whether the identities and the kept bytes of two rows are the same, pair by pair."""
    identities = rows.identities
    voids = _strided(identities, identities.shape[1] * 8, 0)
    equal = equal_rows(as_numbers(voids[these]), as_numbers(voids[those]))
    pairs = equal.nonzero()[0]  # so their lengths are the same too
    these, those = these[pairs], those[pairs]
    starts = rows.heads + rows.target_lengths
    equal[pairs] = equal_slices(rows.buffer, starts[these], starts[those], rows.kept_lengths[these])
    return equal


def _strided(
    matrix: npt.NDArray[np.unsignedinteger], length: int, offset: int
) -> npt.NDArray[np.void]:
    """`length` bytes at `offset` of each row of a contiguous matrix, one void a row."""
    return np.ndarray((len(matrix),), f"V{length}", matrix, offset, (matrix.strides[0],))


def _mix(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A 64-bit key of each row of words; multipliers differ from run to run."""
    keys: npt.NDArray[np.uint64] = words @ _MULTIPLIERS
    keys ^= keys >> np.uint64(32)
    keys *= _MULTIPLIERS[0]
    return keys


@dataclass(slots=True)
class _Entry:
    """A template with the identity it is good for; None: this identity has no template."""

    identity: bytes
    template: Template | None
    used: int  # the batch that used it last


class _TemplateCache:
    """Templates by key, bounded; the least recently used goes first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._sightings: OrderedDict[int, int] = OrderedDict()  # key -> rows seen so far
        self._batch = 0
        self.built = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def of_groups(self, rows: _Rows, groups: "_Groups") -> list[Template | None]:
        """The template of each group, or None where its rows must go slowly."""
        self._batch += 1
        firsts, counts = groups.firsts.tolist(), groups.counts.tolist()
        keys = rows.keys[groups.firsts].tolist()
        found = map(self._of_group, keys, firsts, counts, (rows,) * len(keys))
        return list(found)

    def _of_group(self, key: int, first: int, count: int, rows: _Rows) -> Template | None:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._sighted(key, first, count, rows)
            return None if entry is None else entry.template
        if entry.template is not None and entry.identity != rows.identity(first):
            return None
        self._entries.move_to_end(key)
        entry.used = self._batch
        return entry.template

    def _sighted(self, key: int, first: int, count: int, rows: _Rows) -> _Entry | None:
        """Count an unknown identity's rows; when there were enough of them, build."""
        seen = self._sightings.pop(key, 0) + count
        if seen < _BUILD_AFTER or not self._has_room():
            self._sightings[key] = seen
            if len(self._sightings) > 4 * self._size:
                self._sightings.popitem(last=False)
            return None
        template = build_template(rows.records[first : first + 1], int(rows.queries[first]))
        self.built += 1
        entry = _Entry(rows.identity(first), template, self._batch)
        self._entries[key] = entry
        return entry

    def _has_room(self) -> bool:
        if len(self._entries) < self._size:
            return True
        oldest = next(iter(self._entries.values()))
        if self._batch - oldest.used < _STALE_AFTER:
            return False
        self._entries.popitem(last=False)
        self.evicted += 1
        return True


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
            self._buffer = np.empty(size, np.uint8)
        return self._buffer[:size]


def _fill(
    rows: _Rows,
    these: Positions,
    group: Positions,
    templates: list[Template | None],
    scratch: _Scratch,
) -> _Filled:
    """Lay out the templates of the rows, in order, and copy the columns into their places."""
    used = [template or _NOTHING for template in templates]
    sizes = np.array([len(template.payload) for template in used], np.intp)
    lengths = sizes[group]
    ends = np.cumsum(lengths)
    target = scratch.take(int(ends[-1]) if len(ends) else 0)
    _lay_out(target, used, np.bincount(group, minlength=len(used)))
    places = np.frombuffer(b"".join([template.places for template in used]), np.int32)
    places = np.ascontiguousarray(places.reshape(-1, len(Column) * PLACES).T)
    if len(these):
        # By row number, so that columns are read where they are, one after the other.
        order = these.argsort()
        _fill_columns(rows, these[order], target, (ends - lengths)[order], places, group[order])
    return _Filled(these, target.data, ends)


def _lay_out(target: Bytes, templates: list[Template], counts: Positions) -> None:
    at = 0
    for template, count in zip(templates, counts.tolist(), strict=True):
        size = len(template.payload)
        if count:
            part = target[at : at + count * size].reshape(count, size)
            part[:] = np.frombuffer(template.payload, np.uint8)
            at += count * size


def _fill_columns(
    rows: _Rows,
    these: Positions,
    target: Bytes,
    begins: Positions,
    places: npt.NDArray[np.int32],
    group: Positions,
) -> None:
    slices: list[tuple[Positions, Positions, Positions]] = []
    somewhere = np.flatnonzero(places.max(axis=1) >= 0).tolist()
    everywhere = (places.min(axis=1) >= 0).tolist()
    for number in somewhere:
        column = Column(number // PLACES)
        here, at = these, begins + places[number][group]
        if not everywhere[number]:
            present = (places[number] >= 0)[group]
            here, at = here[present], at[present]
        if column in (Column.PATH, Column.QUERY):
            slices.append((*rows.target_slices(column, here), at))
        else:
            values = rows.fixed_column(column)
            values = values if len(here) == len(values) else values[here]
            windows(target, values.dtype.itemsize)[at] = values
    if slices:
        starts, lengths, at = map(np.concatenate, zip(*slices, strict=True))
        copy_slices(rows.buffer, starts, target, at, lengths)


def _by_resource(
    batch: SpanBatch, filled: _Filled, slow: Positions
) -> Iterator[tuple[int, memoryview, Positions]]:
    """Each resource's spans: first those made from templates, then those made slowly."""
    resources = batch.resources[filled.rows]  # in ascending order
    edges = ((resources[1:] != resources[:-1]).nonzero()[0] + 1).tolist()
    slow_rows: dict[int, list[int]] = {}
    for row, resource in zip(slow.tolist(), batch.resources[slow].tolist(), strict=True):
        slow_rows.setdefault(resource, []).append(row)
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


def _encode_rows(batch: SpanBatch, rows: list[int]) -> tuple[memoryview, Positions]:
    spans = [encode_slowly(batch, row) for row in rows]
    ends = np.cumsum(np.array([len(span) for span in spans], np.intp))
    return memoryview(b"".join(spans)), ends


class _ResourceFrames:
    """Serialized resources, remembered by index: they are few, and the same in every batch."""

    def __init__(self) -> None:
        self._table: ResourceTable | None = None
        self._frames: OrderedDict[int, bytes] = OrderedDict()
        scope = scope_message().SerializeToString()
        self.scope = b"\x0a" + varint(len(scope)) + scope  # ScopeSpans.scope
        url = SCHEMA_URL.encode()
        self.schema = b"\x1a" + varint(len(url)) + url  # schema_url, of both

    def use(self, table: ResourceTable) -> None:
        """From here on indices are of this table."""
        if table is not self._table:
            self._table = table
            self._frames.clear()

    def resource(self, index: int) -> bytes:
        """ResourceSpans.resource of a row of the table."""
        frame = self._frames.get(index)
        if frame is None:
            assert self._table is not None  # use() comes first
            body = resource_message(self._table.rows[index]).SerializeToString()
            frame = self._frames[index] = b"\x0a" + varint(len(body)) + body
            if len(self._frames) > _MAX_KNOWN_RESOURCES:
                self._frames.popitem(last=False)
        return frame


class _Requests:
    """Packs spans into requests, in order, none of them beyond the bounds."""

    def __init__(self, frames: _ResourceFrames, max_bytes: int, max_spans: int) -> None:
        self._frames = frames
        self._max_bytes = max_bytes
        self._max_spans = max_spans
        self._done: list[EncodedRequest] = []
        self._parts: list[bytes | memoryview] = []
        self._size = 0
        self._spans = 0

    def add(self, resource: int, spans: memoryview, ends: Positions) -> None:
        """Add one resource's spans, which lie in `spans` and end at `ends`."""
        frame = self._frames.resource(resource)
        overhead = len(frame) + len(self._frames.scope) + 2 * len(self._frames.schema) + _HEADERS
        first, begin = 0, 0
        while first < len(ends):
            last = self._fit(ends, first, begin, overhead)
            if last == first:
                self._finish_request()
                continue
            end = int(ends[last - 1])
            self._add_frame(frame, spans[begin:end], last - first)
            first, begin = last, end

    def finish(self) -> list[EncodedRequest]:
        self._finish_request()
        return self._done

    def _fit(self, ends: Positions, first: int, begin: int, overhead: int) -> int:
        """Up to which span the current request has room; an empty one always takes one."""
        room = self._max_bytes - self._size - overhead
        last = int(np.searchsorted(ends, begin + room, side="right"))
        last = min(last, first + self._max_spans - self._spans)
        return max(last, first if self._spans else first + 1)

    def _add_frame(self, frame: bytes, spans: memoryview, count: int) -> None:
        schema = self._frames.schema
        scope_size = len(self._frames.scope) + len(spans) + len(schema)
        scope_header = b"\x12" + varint(scope_size)  # ResourceSpans.scope_spans
        size = len(frame) + len(scope_header) + scope_size + len(schema)
        header = b"\x0a" + varint(size)  # resource_spans of the request
        self._parts += (header, frame, scope_header, self._frames.scope, spans, schema, schema)
        self._size += len(header) + size
        self._spans += count

    def _finish_request(self) -> None:
        if self._spans:
            self._done.append(EncodedRequest(b"".join(self._parts), self._spans))
        self._parts, self._size, self._spans = [], 0, 0
