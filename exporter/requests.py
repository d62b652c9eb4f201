"""Serialized spans packed into OTLP requests, by resource, none of them too large."""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from waggle.columns import Positions
from waggle.exporter.messages import SCHEMA_URL, resource_message, scope_message
from waggle.exporter.templates import varint
from waggle.spans import ResourceTable

_MAX_KNOWN_RESOURCES = 1024
_HEADERS = 16  # of one resource's spans: two tags, two lengths


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """One serialized ExportTraceServiceRequest (the same bytes as a TracesData)."""

    payload: bytes
    spans: int


class ResourceFrames:
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


class Requests:
    """Packs spans into requests, in order, none of them beyond the bounds."""

    def __init__(self, frames: ResourceFrames, max_bytes: int, max_spans: int) -> None:
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
