"""Assembling spans into trees.

Spans come in any order, children usually before their parents: a client's span is
finished before the server's span that caused it. A trace is given out once nothing
that is known of is missing and nothing has come for a moment; what is missing is
waited for, but never for long, and never without bound on memory.

Nothing here reads a clock, starts a thread or recurses: the caller says what time it is.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from waggle.runtimes import CPYTHON
from waggle.spans import KIND_SERVER, Resource, ResourceTable, Span

LINK_METHOD = "waggle.link.method"
PARENT_IS_REMOTE = 0x200  # of Span.flags
_RUNTIME = "process.runtime.name"
_MILLISECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class Waits:
    """How long after its last span a trace is still held back, in nanoseconds.

    settle: nothing is missing. Spans of one trace may come by several rings.
    late: nothing is missing, but a server's calls may only now be proven to be its own
        (evidence.py watches them for a while after the answer).
    remote: a parent is missing that may be on another machine, or never exported.
    here: a parent is missing that was seen on this machine, so its span comes when it
        ends. This is the time by which a request may outlive its last call and still
        be drawn as one tree.
    again: like `here`, for a trace of which a part has been given out already: what is
        missing was most likely in that part.
    longest: after its first span, whatever else is true.
    """

    settle: int = 100 * _MILLISECOND
    late: int = 1_500 * _MILLISECOND
    remote: int = 300 * _MILLISECOND
    here: int = 10_000 * _MILLISECOND
    again: int = 2_000 * _MILLISECOND
    longest: int = 60_000 * _MILLISECOND


@dataclass(frozen=True, slots=True)
class Row:
    """One span at its place in the tree.

    parent: index of the parent's row, or -1 at the top.
    last: no sibling comes after it.
    orphan: it stands at the top only because its parent, seen on this machine, never came.
    """

    span: Span
    resource: Resource
    parent: int
    depth: int
    last: bool
    orphan: bool


@dataclass(frozen=True, slots=True)
class Trace:
    """The spans of one trace, depth first, siblings by their start.

    more: spans that were left out because the trace is too large.
    continued: spans of this trace were given out before.
    """

    trace_id: bytes
    rows: tuple[Row, ...]
    start_unix_ns: int
    end_unix_ns: int
    error: bool
    more: int
    continued: bool

    @property
    def duration_ns(self) -> int:
        return self.end_unix_ns - self.start_unix_ns


def expects_parent_here(span: Span) -> bool:
    """Whether the parent's own span was begun on this machine, so that it will come."""
    method = span.attributes.get(LINK_METHOD)
    if method is None:
        return not span.flags & PARENT_IS_REMOTE
    return method != "traceparent"


@dataclass(slots=True)
class _Pending:
    first_ns: int
    last_ns: int
    continued: bool
    spans: dict[bytes, tuple[Span, Resource]] = field(default_factory=dict)
    missing: dict[bytes, bool] = field(default_factory=dict)  # parent id -> expected here
    rooted: bool = False
    late: bool = False  # it has a server whose calls are proven late
    more: int = 0

    def add(self, span: Span, resource: Resource) -> None:
        self.spans[span.span_id] = (span, resource)
        self.missing.pop(span.span_id, None)
        if span.kind == KIND_SERVER and resource.attributes.get(_RUNTIME) == CPYTHON:
            self.late = True
        if not span.parent_id:
            self.rooted = True
        elif span.parent_id not in self.spans:
            here = self.missing.get(span.parent_id, False)
            self.missing[span.parent_id] = here or expects_parent_here(span)

    def holds_together(self, span: Span) -> bool:
        """Whether the tree would fall apart without this span."""
        return not span.parent_id or span.span_id in self.missing

    def due_ns(self, waits: Waits) -> int:
        return min(self.last_ns + self._wait(waits), self.first_ns + waits.longest)

    def _wait(self, waits: Waits) -> int:
        in_a_circle = not self.rooted and not self.missing
        if in_a_circle or any(self.missing.values()):
            return waits.again if self.continued else waits.here
        if self.late:
            return waits.late
        return waits.remote if self.missing else waits.settle


class TraceAssembler:
    """Holds spans until their trace is finished. Not thread safe.

    lost: spans that will be in no trace given out, by reason:
        duplicate_span    a span with this id is already in the trace
        trace_too_large   the trace has `max_spans`; Trace.more says so too
        too_many_traces   the oldest of `max_traces` unfinished ones was given up
    """

    def __init__(
        self,
        *,
        max_traces: int = 2_000,
        max_spans: int = 1_000,
        remembered: int = 4_096,
        waits: Waits | None = None,
    ) -> None:
        self.lost: dict[str, int] = {}
        self._max_traces = max_traces
        self._max_spans = max_spans
        self._remembered = remembered
        self._waits = waits or Waits()
        self._pending: dict[bytes, _Pending] = {}
        self._given_out: OrderedDict[bytes, None] = OrderedDict()
        self._spans = 0
        self._due_ns: int | None = None

    @property
    def spans(self) -> int:
        """Spans held at the moment."""
        return self._spans

    def add(self, spans: Iterable[Span], table: ResourceTable, now_ns: int) -> None:
        """Take spans whose `resource` is an index into `table`."""
        for span in spans:
            pending = self._pending.get(span.trace_id)
            if pending is None:
                pending = self._open(span.trace_id, now_ns)
            pending.last_ns = now_ns
            self._keep(pending, span, table.rows[span.resource])
            due_ns = pending.due_ns(self._waits)
            if self._due_ns is None or due_ns < self._due_ns:
                self._due_ns = due_ns

    def due(self, now_ns: int) -> list[Trace]:
        """The traces that are finished, or have been waited for long enough."""
        if self._due_ns is None or now_ns < self._due_ns:
            return []
        deadlines = {key: pending.due_ns(self._waits) for key, pending in self._pending.items()}
        finished = [self._give_out(key) for key, due_ns in deadlines.items() if due_ns <= now_ns]
        self._due_ns = min(
            (due_ns for due_ns in deadlines.values() if due_ns > now_ns), default=None
        )
        return finished

    def drain(self) -> list[Trace]:
        """Everything that is held, as it is."""
        self._due_ns = None
        return [self._give_out(key) for key in list(self._pending)]

    def _open(self, trace_id: bytes, now_ns: int) -> _Pending:
        if len(self._pending) >= self._max_traces:
            self._give_up(next(iter(self._pending)))
        continued = trace_id in self._given_out
        pending = self._pending[trace_id] = _Pending(now_ns, now_ns, continued)
        return pending

    def _keep(self, pending: _Pending, span: Span, resource: Resource) -> None:
        if span.span_id in pending.spans:
            self._lose("duplicate_span", 1)
            return
        # Parents come last. A full trace still takes those its tree hangs on.
        room = self._max_spans * (2 if pending.holds_together(span) else 1)
        if len(pending.spans) >= room:
            pending.more += 1
            self._lose("trace_too_large", 1)
            return
        pending.add(span, resource)
        self._spans += 1

    def _give_up(self, trace_id: bytes) -> None:
        pending = self._close(trace_id)
        self._lose("too_many_traces", len(pending.spans))

    def _give_out(self, trace_id: bytes) -> Trace:
        pending = self._close(trace_id)
        return build_trace(
            trace_id, list(pending.spans.values()), more=pending.more, continued=pending.continued
        )

    def _close(self, trace_id: bytes) -> _Pending:
        pending = self._pending.pop(trace_id)
        self._spans -= len(pending.spans)
        self._given_out[trace_id] = None
        self._given_out.move_to_end(trace_id)
        if len(self._given_out) > self._remembered:
            self._given_out.popitem(last=False)
        return pending

    def _lose(self, reason: str, spans: int) -> None:
        self.lost[reason] = self.lost.get(reason, 0) + spans


def build_trace(
    trace_id: bytes,
    spans: Sequence[tuple[Span, Resource]],
    *,
    more: int = 0,
    continued: bool = False,
) -> Trace:
    """The tree of spans with distinct ids, at least one of them.

    A span whose parent is not among them stands at the top. So does the earliest span
    of a circle of parents: every span is in exactly one row.
    """
    return Trace(
        trace_id=trace_id,
        rows=tuple(_TreeBuilder(spans).rows()),
        start_unix_ns=min(span.start_unix_ns for span, _ in spans),
        end_unix_ns=max(max(span.start_unix_ns, span.end_unix_ns) for span, _ in spans),
        error=any(span.error for span, _ in spans),
        more=more,
        continued=continued,
    )


class _TreeBuilder:
    def __init__(self, spans: Sequence[tuple[Span, Resource]]) -> None:
        self._spans = sorted(spans, key=lambda item: (item[0].start_unix_ns, item[0].span_id))
        self._ids = {span.span_id for span, _ in spans}
        self._tops: list[tuple[Span, Resource]] = []
        self._children: dict[bytes, list[tuple[Span, Resource]]] = {}
        for item in self._spans:
            if item[0].parent_id in self._ids:
                self._children.setdefault(item[0].parent_id, []).append(item)
            else:
                self._tops.append(item)
        self._rows: list[Row] = []
        self._placed: set[bytes] = set()

    def rows(self) -> list[Row]:
        for top in self._tops:
            self._place_tree(top)
        # What no top leads to goes round in a circle.
        for item in self._spans:
            if item[0].span_id not in self._placed:
                self._place_tree(item)
        return self._rows

    def _place_tree(self, top: tuple[Span, Resource]) -> None:
        orphan = bool(top[0].parent_id) and expects_parent_here(top[0])
        waiting = [(top, -1, 0, True, orphan)]
        while waiting:
            (span, resource), parent, depth, last, orphan = waiting.pop()
            self._placed.add(span.span_id)
            row = len(self._rows)
            self._rows.append(Row(span, resource, parent, depth, last, orphan))
            children = [
                child
                for child in self._children.get(span.span_id, ())
                if child[0].span_id not in self._placed
            ]
            for number, child in enumerate(reversed(children)):
                waiting.append((child, row, depth + 1, number == 0, False))
