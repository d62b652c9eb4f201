"""Log records to serialized OTLP requests, by columns, as encoding.py does it for spans.

What the records of a shape have in common is made once, by opentelemetry-proto; ids, times and
lengths are filled in for all rows at once, and the bodies are copied behind them. Field numbers:
opentelemetry/proto/logs/v1/logs.proto, where a ResourceLogs has the numbers of a ResourceSpans.
"""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from opentelemetry.proto.logs.v1 import logs_pb2

from waggle.columns import Bytes, Positions, copy_slices, windows
from waggle.exporter.messages import add_attributes
from waggle.exporter.requests import EncodedRequest, Requests, ResourceFrames
from waggle.exporter.templates import padded_varints
from waggle.logrecords import LogBatch, LogShape

MAX_REQUEST_BYTES = 4_000_000
MAX_REQUEST_RECORDS = 8192
_TEMPLATES_KEPT = 4096

_LENGTH = 4  # bytes of a padded varint: up to 256 MiB
_RECORD_TAG = b"\x12"  # ScopeLogs.log_records
_TIME_TAG, _OBSERVED_TAG = b"\x09", b"\x59"
_FLAGS_TAG, _TRACE_TAG, _SPAN_TAG = b"\x45", b"\x4a\x10", b"\x52\x08"
_BODY_TAG, _TEXT_TAG = b"\x2a", b"\x0a"  # LogRecord.body, AnyValue.string_value
_BODY_HEADER = len(_BODY_TAG) + _LENGTH + len(_TEXT_TAG) + _LENGTH
_AROUND_TEXT = len(_TEXT_TAG) + _LENGTH  # of the body's own length
_BEFORE = len(_RECORD_TAG) + _LENGTH


@dataclass(frozen=True, slots=True)
class _Template:
    """A record of a shape up to its body's text. ids: whether it belongs to a request."""

    prefix: npt.NDArray[np.uint8]
    ids: bool


_AT_TIME = _BEFORE + len(_TIME_TAG)
_AT_OBSERVED = _AT_TIME + 8 + len(_OBSERVED_TAG)
_AT_FLAGS = _AT_OBSERVED + 8 + len(_FLAGS_TAG)
_AT_TRACE = _AT_FLAGS + 4 + len(_TRACE_TAG)
_AT_SPAN = _AT_TRACE + 16 + len(_SPAN_TAG)


def _template(shape: LogShape, *, ids: bool) -> _Template:
    common = logs_pb2.LogRecord(
        severity_number=shape.severity,  # type: ignore[arg-type]  # an open enum
        severity_text=shape.text,
    )
    add_attributes(common.attributes, shape.attributes)
    parts = [_RECORD_TAG, bytes(_LENGTH), _TIME_TAG, bytes(8), _OBSERVED_TAG, bytes(8)]
    if ids:
        parts += [_FLAGS_TAG, bytes(4), _TRACE_TAG, bytes(16), _SPAN_TAG, bytes(8)]
    parts += [common.SerializeToString(), _BODY_TAG, bytes(_LENGTH), _TEXT_TAG, bytes(_LENGTH)]
    return _Template(np.frombuffer(b"".join(parts), np.uint8), ids)


class LogEncoder:
    """Turns batches of log records into OTLP requests. Not for use by two threads at once."""

    def __init__(
        self, max_bytes: int = MAX_REQUEST_BYTES, max_records: int = MAX_REQUEST_RECORDS
    ) -> None:
        self._frames = ResourceFrames()
        self._max_bytes, self._max_records = max_bytes, max_records
        self._templates: OrderedDict[tuple[int, bool], _Template] = OrderedDict()
        self._shapes: list[LogShape] = []

    def encode(self, batch: LogBatch) -> list[EncodedRequest]:
        """All records of the batch, grouped by resource, in requests within the bounds."""
        self._frames.use(batch.table)
        requests = Requests(self._frames, self._max_bytes, self._max_records)
        if not len(batch):
            return requests.finish()
        order, kinds = _sorted_by_kind(batch)
        target, ends = self._fill(batch, order, kinds)
        resources = np.array([batch.shapes[kind >> 1].resource for kind in kinds], np.intp)
        edges = [0, *(np.flatnonzero(np.diff(resources)) + 1).tolist(), len(order)]
        for first, behind in pairwise(edges):
            begin = int(ends[first - 1]) if first else 0
            part = target[begin : int(ends[behind - 1])]
            requests.add(int(resources[first]), part.data, ends[first:behind] - begin)
        return requests.finish()

    def _fill(self, batch: LogBatch, order: Positions, kinds: list[int]) -> tuple[Bytes, Positions]:
        """The records, in this order, one behind the other, and where each ends."""
        templates = [
            self._special(batch, row, kind) if row in batch.extra else self._of(batch, kind)
            for row, kind in zip(order.tolist(), kinds, strict=True)
        ]
        sizes = np.array([len(template.prefix) for template in templates], np.intp)
        lengths = batch.lengths[order]
        ends = np.cumsum(sizes + lengths)
        begins = ends - sizes - lengths
        target = np.empty(int(ends[-1]), np.uint8)
        first = 0
        while first < len(order):
            behind = first + 1
            while behind < len(order) and templates[behind] is templates[first]:
                behind += 1
            part = slice(first, behind)
            _write_prefixes(target, batch, templates[first], order[part], begins[part])
            first = behind
        copy_slices(batch.text, batch.starts[order], target, begins + sizes, lengths)
        return target, ends

    def _of(self, batch: LogBatch, kind: int) -> _Template:
        if batch.shapes is not self._shapes:
            self._templates.clear()
            self._shapes = batch.shapes
        key = (kind >> 1, bool(kind & 1))
        template = self._templates.get(key)
        if template is None:
            template = self._templates[key] = _template(batch.shapes[key[0]], ids=key[1])
            if len(self._templates) > _TEMPLATES_KEPT:
                self._templates.popitem(last=False)
        return template

    def _special(self, batch: LogBatch, row: int, kind: int) -> _Template:
        shape = batch.shapes[kind >> 1]
        attributes = {**shape.attributes, **batch.extra[row]}
        own = LogShape(shape.resource, shape.severity, shape.text, attributes)
        return _template(own, ids=bool(kind & 1))


def _sorted_by_kind(batch: LogBatch) -> tuple[Positions, list[int]]:
    """Rows by resource, shape and whether they have ids; and of each twice its shape, plus 1
    where it has."""
    kinds = 2 * batch.shape + batch.span_ids.any(1)
    resources = np.array([shape.resource for shape in batch.shapes], np.intp)[batch.shape]
    order = np.lexsort((kinds, resources))
    return order, kinds[order].tolist()


def _write_prefixes(
    target: Bytes, batch: LogBatch, template: _Template, rows: Positions, begins: Positions
) -> None:
    """What comes before the bodies, for rows of one template."""
    size = len(template.prefix)
    prefixes = np.empty((len(rows), size), np.uint8)
    prefixes[:] = template.prefix
    lengths = batch.lengths[rows].astype(np.uint64)
    _put(prefixes, len(_RECORD_TAG), _varints(lengths + np.uint64(size - _BEFORE)))
    _put(prefixes, size - _BODY_HEADER + 1, _varints(lengths + np.uint64(_AROUND_TEXT)))
    _put(prefixes, size - _LENGTH, _varints(lengths))
    _put(prefixes, _AT_TIME, _octets(batch.time_ns[rows]))
    _put(prefixes, _AT_OBSERVED, _octets(batch.observed_ns[rows]))
    if template.ids:
        prefixes[:, _AT_FLAGS] = batch.trace_flags[rows]
        _put(prefixes, _AT_TRACE, batch.trace_ids[rows])
        _put(prefixes, _AT_SPAN, batch.span_ids[rows])
    windows(target, size)[begins] = prefixes.view(f"V{size}").reshape(-1)


def _put(prefixes: npt.NDArray[np.uint8], at: int, column: npt.NDArray[np.uint8]) -> None:
    prefixes[:, at : at + column.shape[1]] = column


def _varints(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    return _octets(padded_varints(numbers, _LENGTH))[:, :_LENGTH]


def _octets(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    made: npt.NDArray[np.uint8] = np.ascontiguousarray(numbers, "<u8").view(np.uint8)
    return made.reshape(-1, 8)


def slow_message(batch: LogBatch, row: int) -> logs_pb2.LogRecord:
    """One record as a message: what the columns must agree with."""
    shape = batch.shapes[int(batch.shape[row])]
    message = logs_pb2.LogRecord(
        time_unix_nano=int(batch.time_ns[row]),
        observed_time_unix_nano=int(batch.observed_ns[row]),
        severity_number=shape.severity,  # type: ignore[arg-type]  # an open enum
        severity_text=shape.text,
    )
    message.body.string_value = batch.body(row)
    add_attributes(message.attributes, {**shape.attributes, **batch.extra.get(row, {})})
    if batch.span_ids[row].any():
        message.trace_id = batch.trace_ids[row].tobytes()
        message.span_id = batch.span_ids[row].tobytes()
        message.flags = int(batch.trace_flags[row])
    return message
