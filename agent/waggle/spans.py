"""Spans as the exporters see them: columns in, one Span out where a row must be looked at alone.

`decode_span` is the slow path and the truth. It knows what every protocol has in
common; what a protocol adds is found by its number: a folder `waggle.probes.NAME`
whose module `decode` offers a `DECODER` (see `Decoder`). A new protocol is a new
folder, nothing here changes.
"""

import importlib
import importlib.util
import pkgutil
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.baggage import BAGGAGE
from waggle.callsites import SITES
from waggle.columns import Positions, Slices, gather_bytes
from waggle.sampling import threshold_text
from waggle.tracestate_limits import MOST_MEMBERS, within_limits

AttributeValue = str | int | bool | float | list[str]
Attributes = dict[str, AttributeValue]
Records = npt.NDArray[np.void]  # of layout.EXCHANGE or layout.LARGE_EXCHANGE

# The tag of a kept field that only user space writes: one text that is a protocol's own,
# differs from request to request, and is shown as it is.
OWN_TEXT = 255

# opentelemetry.proto Span.SpanKind
KIND_INTERNAL = 1
KIND_SERVER = 2
KIND_CLIENT = 3

# opentelemetry.proto SpanFlags: above the eight bits of the W3C trace flags.
FLAG_HAS_IS_REMOTE = 0x100
FLAG_IS_REMOTE = 0x200

# Facts.sampling: the threshold below, layout.Sampling above.
SAMPLING_SHIFT = 56
THRESHOLD_MASK = (1 << SAMPLING_SHIFT) - 1
TAIL_REASONS: Mapping[int, str] = {1: "error", 2: "slow", 3: "p95"}

_U64 = (1 << 64) - 1
_MAPPED = bytes(10) + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class Resource:
    """What the spans of one process have in common, by the resource conventions.

    program: what people call the program, where that says more than service.name does; for
    screens, never exported. dropped: attributes that were too many.
    """

    attributes: Attributes
    program: str = ""
    dropped: int = 0


@dataclass(slots=True)
class ResourceTable:
    """An append-only list of resources; an index stays true for the agent's life."""

    rows: list[Resource] = field(default_factory=list)

    def add(self, resource: Resource) -> int:
        self.rows.append(resource)
        return len(self.rows) - 1


@dataclass(frozen=True, slots=True)
class SpanBatch:
    """Finished exchanges on their way to the exporters.

    records: 1-d array of layout.EXCHANGE or layout.LARGE_EXCHANGE, our own copy; `head`
        may be shorter than there, but not than what any of the records uses.
    resources: one index into `table` per record.
    clock_offset_ns: Unix time minus CLOCK_MONOTONIC when the batch was read.
    events: by span id, what else happened within spans of the batch, in Unix time.
    dropped_events: of these spans, how many more there were than are kept.
    """

    records: Records
    resources: npt.NDArray[np.intp]
    table: ResourceTable
    clock_offset_ns: int
    events: Mapping[bytes, tuple["Event", ...]] = field(default_factory=dict)
    dropped_events: Mapping[bytes, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened within a span. unix_ns: in a Decoded still CLOCK_MONOTONIC."""

    name: str
    unix_ns: int
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """One span, spelled out. Ids are raw bytes; an empty parent_id means none."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    trace_state: str
    name: str
    kind: int  # opentelemetry.proto Span.SpanKind
    start_unix_ns: int
    end_unix_ns: int
    attributes: Attributes
    error: bool
    status_message: str
    flags: int
    resource: int
    detail: dict[str, Any] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    dropped_events: int = 0


class Facts(NamedTuple):
    """The fixed columns of one record, as Python values (order: layout.EXCHANGE)."""

    ring_length: int
    ring_page: int
    start_ns: int
    response_ns: int
    end_ns: int
    shape: int
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    request_body: int
    response_body: int
    process_start_ns: int
    tgid: int
    tid: int
    local_addr: bytes
    peer_addr: bytes
    local_port: int
    peer_port: int
    status: int
    flags: int
    family: int
    role: int
    link: int
    end: int
    method: int
    version: int
    protocol: int
    trace_flags: int
    target_len: int
    kept_len: int
    target_full_len: int
    http2_len: int
    sampling: int


@dataclass(slots=True)
class Exchange:
    """One record taken apart. `kept` holds raw bytes by layout.Kept.

    peer: the address of the connection's other end, as text; None when it has none.
    """

    facts: Facts
    target: bytes
    kept: dict[int, bytes]
    peer: str | None

    def text(self, tag: int) -> str:
        """A kept field as text; bytes that are not UTF-8 become U+FFFD."""
        return self.kept.get(tag, b"").decode("utf-8", "replace")


@dataclass(slots=True)
class Decoded:
    """What a protocol knows about an exchange; `decode_span` adds what all have in common."""

    name: str
    kind: int
    attributes: Attributes
    error: bool = False
    status_message: str = ""
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Targets:
    """The request targets of some records, as columns.

    buffer: the bytes of all records; row i's target is buffer[starts[i]:][:lengths[i]].
    queries: where in the target its first '?' is, or its length when it has none.
    """

    buffer: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.intp]
    lengths: npt.NDArray[np.intp]
    queries: npt.NDArray[np.intp]

    def take(self, rows: npt.NDArray[np.intp]) -> "Targets":
        return Targets(self.buffer, self.starts[rows], self.lengths[rows], self.queries[rows])


class VaryingField(Protocol):
    """A kept field that differs from request to request: a column, not part of a shape.

    Its value means one text and one variant, nothing else: the span is the same for
    any other value of that meaning. The text appears in the span unchanged or not at
    all, and only its length may decide anything; the variant may.
    """

    def plain(self, values: Slices) -> Positions:
        """How long the text is where the value begins with it and the variant is 0.

        -1 says that `read` must look at the value.
        """
        ...

    def read(self, value: bytes) -> tuple[int, int, int] | None:
        """Where in the value its text is, how long it is, and the variant (0 to 254).

        None: the value means more than that, and stays a part of the shape.
        """
        ...

    def write(self, text: bytes, variant: int) -> bytes:
        """A value of this meaning."""
        ...


class Decoder(Protocol):
    """What a protocol offers to the pipeline: `DECODER` in waggle.probes.NAME.decode.

    The text of a server's peer is a column too: `decode` uses Exchange.peer, never
    facts.peer_addr, and of a server shows it unchanged or not at all.
    """

    protocol: int  # layout.Protocol
    varying: Mapping[int, VaryingField]  # by layout.Kept, or OWN_TEXT

    def decode(self, exchange: Exchange) -> Decoded: ...

    def plain_targets(self, targets: Targets) -> npt.NDArray[np.bool_]:
        """Which targets the columnar encoder may copy without looking at them.

        True promises that `decode` uses the target in one way only: its first byte
        and its first '?' stay where they are, and the bytes between and after them
        appear in the span unchanged. Only ASCII targets are asked about.
        """
        ...


# How an exchange failed: error.type, and the status description. The kernel's
# errno names where it has one.
END_ERRORS: Mapping[int, tuple[str, str]] = {
    layout.End.RESET: ("ECONNRESET", "the peer reset the connection"),
    layout.End.TIMED_OUT: ("ETIMEDOUT", "the peer did not answer in time"),
    layout.End.PEER_CLOSED: ("connection_closed", "the peer closed before the response was whole"),
    layout.End.LOCAL_CLOSED: ("cancelled", "closed on this side before the response was whole"),
    layout.End.PROCESS_EXIT: ("process_exit", "the process ended with the exchange open"),
}

LINK_METHODS: Mapping[int, str] = {
    layout.Link.TRACEPARENT: "traceparent",
    layout.Link.SOCKET: "socket",
    layout.Link.THREAD: "thread",
    layout.Link.TURN: "turn",
    layout.Link.GOROUTINE: "goroutine",
    layout.Link.TASK: "task",
    layout.Link.OPTION: "option",
    layout.Link.B3: "b3",
    layout.Link.JAEGER: "jaeger",
    layout.Link.XRAY: "xray",
    layout.Link.ALONE: "alone",
    layout.Link.TRACE_BIN: "trace_bin",
    layout.Link.FORWARDED: "forwarded",
}
# Evidence whose parent is no span of this machine's: the request entered here.
ENTRY_LINKS = (
    layout.Link.NONE,
    layout.Link.TRACEPARENT,
    layout.Link.OPTION,
    layout.Link.B3,
    layout.Link.JAEGER,
    layout.Link.XRAY,
    layout.Link.TRACE_BIN,
)

# What is kept of one value of HTTP/1 (HTTP1_KEPT_MAX in bpf/http1_head.h), which is cut there.
_LONGEST_TRACESTATE = 1023

# Header fields that may come more than once and then mean one list (RFC 9110, 5.3).
_LISTS = (
    layout.Kept.X_FORWARDED_FOR,
    layout.Kept.FORWARDED,
    layout.Kept.TRACESTATE,
    layout.Kept.BAGGAGE,
)


def decode_span(batch: SpanBatch, i: int) -> Span:
    """The span of row `i`, spelled out."""
    exchange = read_exchange(batch.records, i)
    span = span_of(exchange, batch.clock_offset_ns, int(batch.resources[i]))
    events = batch.events.get(span.span_id) if batch.events else None
    if events is None:
        return span
    dropped = batch.dropped_events.get(span.span_id, 0)
    return replace(span, events=(*span.events, *events), dropped_events=dropped)


def span_of(exchange: Exchange, clock_offset_ns: int, resource: int) -> Span:
    """The span of an exchange that was taken apart."""
    facts = exchange.facts
    decoded = _decoded(exchange)
    parent_id = facts.parent_id if any(facts.parent_id) else b""
    _add_call_site(decoded.attributes, exchange)
    _add_baggage(decoded.attributes, exchange)
    _add_waggle_attributes(decoded.attributes, facts, parent_id)
    return Span(
        trace_id=facts.trace_id,
        span_id=facts.span_id,
        parent_id=parent_id,
        trace_state=_trace_state(exchange),
        name=decoded.name,
        kind=decoded.kind,
        start_unix_ns=(facts.start_ns + clock_offset_ns) & _U64,
        end_unix_ns=(max(facts.start_ns, facts.end_ns) + clock_offset_ns) & _U64,
        attributes=decoded.attributes,
        error=decoded.error,
        status_message=decoded.status_message,
        flags=_span_flags(facts, parent_id),
        resource=resource,
        events=tuple(
            Event(event.name, (event.unix_ns + clock_offset_ns) & _U64, event.attributes)
            for event in decoded.events
        ),
    )


def decode_batch(batch: SpanBatch) -> list[Span]:
    """All spans of a batch, in its order: for the terminal, not for the hot path."""
    return [decode_span(batch, i) for i in range(len(batch))]


def read_exchange(records: Records, i: int) -> Exchange:
    """Take row `i` apart. Lengths that do not fit the head are cut, never trusted."""
    raw = records[i].tobytes()
    facts = Facts._make(_FACTS.unpack_from(raw))
    target_end = min(_HEAD + facts.target_len, len(raw))
    kept_end = min(target_end + facts.kept_len, len(raw))
    kept: dict[int, bytes] = {}
    for tag, value in kept_fields(raw, target_end, kept_end):
        if tag not in kept:
            kept[tag] = value
        elif tag in _LISTS:
            kept[tag] += b", " + value
    return Exchange(facts, raw[_HEAD:target_end], kept, connection_address(facts, facts.peer_addr))


def connection_address(facts: Facts, address: bytes) -> str | None:
    """An end of the connection as text; UNIX sockets have none, whatever the record holds."""
    return None if is_unix(facts) else address_text(address)


def is_unix(facts: Facts) -> bool:
    return facts.family == socket.AF_UNIX or bool(facts.flags & layout.Flag.NO_POSITION)


@lru_cache(maxsize=1024)
def address_text(address: bytes) -> str | None:
    """An address of a record (IPv6, or IPv4 mapped into it); None when there is none."""
    if not any(address):
        return None
    if address.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, address[12:])
    return socket.inet_ntop(socket.AF_INET6, address)


class PlainText:
    """A varying field that is shown as it is."""

    def plain(self, values: Slices) -> Positions:
        text = gather_bytes(values.buffer, values.starts, values.lengths)
        if int(text.max(initial=0)) < 0x80:
            return values.lengths
        return np.full(len(values.lengths), -1, np.intp)

    def read(self, value: bytes) -> tuple[int, int, int] | None:
        return (0, len(value), 0) if value.isascii() else None

    def write(self, text: bytes, variant: int) -> bytes:
        return text


class TraceStateText(PlainText):
    """The same while it is within the limits of a tracestate, which is what it nearly always is."""

    def plain(self, values: Slices) -> Positions:
        shown = super().plain(values)
        commas = gather_bytes(values.buffer, values.starts, values.lengths) == ord(",")
        ends = np.cumsum(values.lengths)
        counts = np.concatenate(([0], np.cumsum(commas)))
        many = counts[ends] - counts[ends - values.lengths] >= MOST_MEMBERS
        return np.where(many | (values.lengths >= _LONGEST_TRACESTATE), -1, shown)

    def read(self, value: bytes) -> tuple[int, int, int] | None:
        fits = within_limits(value, _LONGEST_TRACESTATE) == value
        return super().read(value) if fits else None


_COMMON_VARYING: Mapping[int, VaryingField] = {
    layout.Kept.TRACESTATE: TraceStateText(),
    OWN_TEXT: PlainText(),
}


def varying_field(protocol: int, tag: int) -> VaryingField | None:
    """How a kept field of a protocol varies; None when it is part of a shape."""
    decoder = decoder_of(protocol)
    own = decoder.varying.get(tag) if decoder is not None else None
    return own or _COMMON_VARYING.get(tag)


def kept_fields(raw: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Tag and value of the kept fields between two places."""
    while at + 4 <= end:
        tag, _, length = _KEPT_HEADER.unpack_from(raw, at)
        if tag == layout.Kept.END:
            return
        yield tag, raw[at + 4 : min(at + 4 + length, end)]
        at += 4 + length


def decoder_of(protocol: int) -> Decoder | None:
    """The decoder registered for a layout.Protocol number, if there is one."""
    return _decoders().get(protocol)


def load_decoders() -> None:
    """Import what knows the protocols now, not when the first span waits for it."""
    _decoders()


@cache
def _decoders() -> dict[int, Decoder]:
    from waggle import probes  # they import this module

    found: dict[int, Decoder] = {}
    for package in pkgutil.iter_modules(probes.__path__, probes.__name__ + "."):
        if package.ispkg and importlib.util.find_spec(package.name + ".decode"):
            decoder: Decoder = importlib.import_module(package.name + ".decode").DECODER
            found[decoder.protocol] = decoder
    return found


def _decoded(exchange: Exchange) -> Decoded:
    decoder = decoder_of(exchange.facts.protocol)
    if decoder is not None:
        return decoder.decode(exchange)
    return Decoded(name=f"protocol {exchange.facts.protocol}", kind=KIND_INTERNAL, attributes={})


def _add_baggage(attributes: Attributes, exchange: Exchange) -> None:
    raw = exchange.kept.get(layout.Kept.BAGGAGE)
    if raw:
        attributes.update(BAGGAGE.attributes(raw.decode("utf-8", "replace")))


def _add_call_site(attributes: Attributes, exchange: Exchange) -> None:
    """The line of code that made the call, where it is known.

    https://opentelemetry.io/docs/specs/semconv/general/attributes/#source-code-attributes
    """
    raw = exchange.kept.get(layout.Kept.CALL_SITE)
    site = SITES.at(int.from_bytes(raw, "little")) if raw else None
    if site is None:
        return
    attributes["code.file.path"] = site.file
    attributes["code.function.name"] = site.function
    if site.line:
        attributes["code.line.number"] = site.line


def _add_waggle_attributes(attributes: Attributes, facts: Facts, parent_id: bytes) -> None:
    """What has no name in the conventions. No parent, no evidence for it."""
    method = LINK_METHODS.get(facts.link)
    if parent_id and method is not None:
        attributes["waggle.link.method"] = method
    if facts.flags & layout.Flag.AFTER_RESPONSE:
        attributes["waggle.after_response"] = True
    if facts.flags & layout.Flag.RESYNCED:
        attributes["waggle.resynced"] = True
    if reason := TAIL_REASONS.get(tail_reason(facts.sampling)):
        attributes["waggle.sampling.tail"] = reason


def tail_reason(sampling: int) -> int:
    """Why a span is kept that was dropped when its trace began (TAIL_REASONS); 0 for others."""
    known = sampling & layout.Sampling.KNOWN << SAMPLING_SHIFT
    return 0 if known else sampling & 0xFF


def _trace_state(exchange: Exchange) -> str:
    """The request's tracestate; with the threshold it passed, where a sampler has decided."""
    facts, text = exchange.facts, exchange.text(layout.Kept.TRACESTATE)
    if len(text) >= _LONGEST_TRACESTATE or text.count(",") >= MOST_MEMBERS:
        raw = text.encode("utf-8", "replace")
        text = within_limits(raw, _LONGEST_TRACESTATE).decode("utf-8", "replace")
    if not facts.sampling:
        return text
    if not facts.flags & layout.Flag.HAD_TRACEPARENT:
        text = ""  # void without (Trace Context 3.3.1)
    state = facts.sampling >> SAMPLING_SHIFT
    if not state & layout.Sampling.KNOWN or state & layout.Sampling.SAID:
        return text
    own = f"ot=th:{threshold_text(facts.sampling & THRESHOLD_MASK)}"
    return f"{own},{text}" if text else own


def _span_flags(facts: Facts, parent_id: bytes) -> int:
    flags = facts.trace_flags | FLAG_HAS_IS_REMOTE
    if parent_id and facts.flags & layout.Flag.REMOTE_PARENT:
        flags |= FLAG_IS_REMOTE
    return flags


def _facts_struct() -> struct.Struct:
    """The generated layout as a struct format: unpacking once beats 32 numpy scalars."""
    letters = {1: "B", 2: "H", 4: "I", 8: "Q"}
    text, at = "<", 0
    for name in Facts._fields:
        kind, offset = layout.EXCHANGE.fields[name][:2]  # type: ignore[index]
        text += f"{offset - at}x" if offset > at else ""
        text += f"{kind.itemsize}s" if kind.shape else letters[kind.itemsize]
        at = offset + kind.itemsize
    return struct.Struct(text)


_FACTS = _facts_struct()
_HEAD: int = layout.EXCHANGE.fields["head"][1]  # type: ignore[index]
_KEPT_HEADER = struct.Struct("<BBH")
