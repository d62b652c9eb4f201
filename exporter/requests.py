"""Serialized spans packed into OTLP requests, by resource, none of them too large."""

from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO

import numpy as np

from waggle.columns import Bytes, Positions
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


class PayloadBuffer:
    """Bytes that are written in their place, without being copied when they are done.

    view: writable; whoever has arrays over it lets go of them before done().
    """

    def __init__(self, size: int) -> None:
        self._file = BytesIO()
        self._file.seek(size - 1)
        self._file.write(b"\0")
        self.view: Bytes = np.frombuffer(self._file.getbuffer(), np.uint8)

    def done(self) -> bytes:
        del self.view
        return self._file.getvalue()  # its own memory: BytesIO shares it


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
        overhead = self._overhead(resource)
        first, begin = 0, 0
        while first < len(ends):
            last = self._fit(ends, first, begin, overhead)
            if last == first:
                self._finish_request()
                continue
            end = int(ends[last - 1])
            self._add_frame(resource, spans[begin:end], last - first)
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

    def around(self, resource: int, size: int) -> tuple[bytes, bytes]:
        """What stands in a request before so many bytes of a resource's spans, and after them."""
        frame, scope, schema = (
            self._frames.resource(resource),
            self._frames.scope,
            self._frames.schema,
        )
        scope_size = len(scope) + size + len(schema)
        scope_header = b"\x12" + varint(scope_size)  # ResourceSpans.scope_spans
        whole = len(frame) + len(scope_header) + scope_size + len(schema)
        header = b"\x0a" + varint(whole)  # resource_spans of the request
        return header + frame + scope_header + scope, schema + schema

    def fit_into_one(self, resource: int, size: int, count: int) -> bool:
        """Whether so many spans of one resource, of so many bytes in all, are one request."""
        return count <= self._max_spans and self._overhead(resource) + size <= self._max_bytes

    def _overhead(self, resource: int) -> int:
        """Bytes at most that a request has beside the spans of a resource."""
        frame, scope, schema = (
            self._frames.resource(resource),
            self._frames.scope,
            self._frames.schema,
        )
        return len(frame) + len(scope) + 2 * len(schema) + _HEADERS

    def _add_frame(self, resource: int, spans: memoryview, count: int) -> None:
        head, tail = self.around(resource, len(spans))
        self._parts += (head, spans, tail)
        self._size += len(head) + len(spans) + len(tail)
        self._spans += count

    def _finish_request(self) -> None:
        if self._spans:
            self._done.append(EncodedRequest(b"".join(self._parts), self._spans))
        self._parts, self._size, self._spans = [], 0, 0
