"""A stage of the pipeline: raw records of streams -> records with readable heads.

What leaves is an exchange as HTTP/1's are: target and kept fields in its head, so
everything behind this (templates, sampling, exporters) treats it alike. What the head of
a stream means depends on its blocks and on the table entries they refer to, so it is
worked out once for each different (connection, insertions before, bytes) and remembered:
a warm connection, whose calls repeat each other's bytes, costs no decoding.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.columns import Bytes, Positions, equal_rows, multipliers
from waggle.layout import Block, BlockFlag, End, Http2Flag, Kept, Role, Side
from waggle.probes.http2 import grpc, heads
from waggle.probes.http2.blocks import Literal, decode
from waggle.probes.http2.heads import Blocks, Head
from waggle.probes.http2.kept import Known, MessageTimes, Stream, kept_field
from waggle.probes.http2.names import Told, Witnesses, read_told
from waggle.probes.http2.quick import known_fields
from waggle.probes.http2.tables import Tables
from waggle.ring import narrowed
from waggle.spans import Records

_FACTS: int = layout.EXCHANGE.fields["head"][1]  # type: ignore[index]
_STREAM_SIZE = layout.HTTP2.itemsize
_SMALL_HEAD = layout.EXCHANGE.itemsize - _FACTS
_LARGE_HEAD = layout.LARGE_EXCHANGE.itemsize - _FACTS
_REMEMBERED = 16384
_HANDLER = 8  # bytes of layout.Kept.HANDLER
_PREFIX = 5  # bytes before each message of gRPC
# Of the record's own columns, those that a resolved head depends on.
_KEYED_FACTS = ("end", "role", "method", "status", "target_len", "kept_len")
# Of struct waggle_http2, those it does not depend on.
_VARYING = ("request_end_ns", "first_message_ns", "last_message_ns", "stream")
_SIDE_OF = {
    Block.REQUEST: Side.CLIENT,
    Block.RESPONSE: Side.SERVER,
    Block.TRAILERS: Side.SERVER,
}


class TableSource(Protocol):
    """The ring of table events, or what stands in for it."""

    def pending(self) -> int: ...

    def read(self, max_records: int = ...) -> Records: ...


class Resolved(NamedTuple):
    """What a group of equal rows means, but for its grpc-timeout. kept: None where it differs
    from row to row."""

    head: Head
    stream: Stream
    kept: bytes | None


class _Known(NamedTuple):
    """A block with a number that stands for what it says."""

    number: int
    block: heads.Block


class _Block(NamedTuple):
    """A block of one row: what it says, and the grpc-timeout, which is another in each call."""

    known: _Known
    timeout: Literal | None


class _Beside(NamedTuple):
    """What is known of a stream beside its blocks: kept fields of its route, and its name."""

    routed: bytes
    told: Told | None


@dataclass(slots=True)
class ResolverStats:
    """Rows of streams so far. decoded: rows that said what no row before had said."""

    streams: int = 0
    decoded: int = 0
    unknown: int = 0  # kinds of rows with a field that could not be decoded
    untrue_names: int = 0  # names in a program's memory that were not those on the wire


class Resolver:
    """The stage. Not for two threads at once. Without a source there are no table events."""

    def __init__(self, source: TableSource | None = None, tables: Tables | None = None) -> None:
        self.stats = ResolverStats()
        self.tables = tables or Tables()
        self._source = source
        self._rows: dict[bytes, tuple[Resolved, Literal | None]] = {}
        self._meanings: dict[Hashable, Resolved] = {}
        self._blocks: dict[tuple[int, int, int, int, bytes], _Block] = {}
        self._known: dict[Hashable, _Known] = {}
        self._numbers = count(1)
        self._heads: dict[Hashable, Head] = {}
        self._witnesses = Witnesses()

    def poll(self) -> None:
        """Take what waits in the ring of table events."""
        while self._source is not None and self._source.pending():
            events = self._source.read()
            if not len(events):
                return  # the next one is still being written
            self.tables.add(events)

    def process(self, records: Records) -> Sequence[Records]:
        """The same records, those of streams resolved; one array of each layout.

        The records were read before this is called: every table event they need is in
        the ring by then (waggle.h: struct waggle_table_event).
        """
        is_stream = records["protocol"] == layout.Protocol.HTTP2
        if not is_stream.any():
            return (records,)
        self.poll()
        if is_stream.all():  # as where one service speaks gRPC: nothing to sort out
            self.stats.streams += len(records)
            return self._resolve(np.ascontiguousarray(records))
        rows = is_stream.nonzero()[0]
        self.stats.streams += len(rows)
        return [records[~is_stream], *self._resolve(np.ascontiguousarray(records[rows]))]

    def _resolve(self, records: Records) -> list[Records]:
        raw = _Raw(records)
        group, firsts = raw.groups()
        keys = [raw.key(row) for row in firsts.tolist()]
        found = [self._rows.get(key) for key in keys]
        missing = [at for at, one in enumerate(found) if one is None]
        if missing:
            for at, one in zip(missing, self._read(raw, firsts[missing]), strict=True):
                found[at] = one
                _remember(self._rows, keys[at], one)
        return _written(raw, group, [one for one in found if one is not None])

    def _read(self, raw: "_Raw", rows: Positions) -> Iterator[tuple[Resolved, Literal | None]]:
        """What rows mean whose bytes were not seen before."""
        for row, facts in zip(rows.tolist(), raw.facts(rows), strict=True):
            blocks = [self._block(raw, facts, row, block) for block in _SIDE_OF]
            beside = _Beside(_routed(raw, facts, row), self._told(raw, facts, row, blocks[0]))
            key = (facts.keyed, beside, *(block.known.number for block in blocks))
            resolved = None if facts.is_upgraded else self._meanings.get(key)
            if resolved is None:
                resolved = self._resolved(raw, facts, row, blocks, beside)
                _remember(self._meanings, key, resolved)
            yield resolved, blocks[0].timeout

    def _told(self, raw: "_Raw", facts: "_Facts", row: int, request: _Block) -> Told | None:
        """The stream's name in the program's memory, as far as that may be believed."""
        if not facts.told_length:
            return None
        told = read_told(raw.told(row, facts.told_length))
        process = raw.process(row)
        sent = dict(request.known.block.fields).get(b":path")
        if told is not None and sent is not None and sent != told.path:
            self.stats.untrue_names += 1
            self._witnesses.disagree(process)
            self._rows.clear()  # rows of its connections among them
        return told if self._witnesses.is_believed(process) else None

    def _resolved(
        self, raw: "_Raw", facts: "_Facts", row: int, blocks: Sequence[_Block], beside: _Beside
    ) -> Resolved:
        upgraded = raw.upgraded(row) if facts.is_upgraded else None
        said = Blocks(*(block.known.block for block in blocks))
        if facts.flags & Http2Flag.NO_TRACESTATE:
            said = said._replace(request=heads.without_tracestate(said.request))
        head = self._head(upgraded, said, beside)
        stream = _about(facts, head)
        self.stats.decoded += 1
        self.stats.unknown += head.unknown > 0
        return Resolved(head, stream, _common_kept(head, stream))

    def _head(
        self, upgraded: tuple[int, bytes, bytes] | None, blocks: Blocks, beside: _Beside
    ) -> Head:
        key = (upgraded, beside, *((block.fields, block.unknown) for block in blocks))
        head = self._heads.get(key)
        if head is None:
            head = heads.read_head(blocks, upgraded, _LARGE_HEAD - 256, *beside)
            _remember(self._heads, key, head)
        return head

    def _block(self, raw: "_Raw", facts: "_Facts", row: int, block: Block) -> _Block:
        if not facts.block_flags[block] & BlockFlag.PRESENT:
            return _NO_BLOCK
        side = _SIDE_OF[block]
        if block == Block.REQUEST and facts.flags & Http2Flag.PUSHED:
            side = Side.SERVER
        data = raw.block(row, facts.block_offset[block], facts.block_length[block])
        key = (facts.connection, side, facts.block_epoch[block], facts.block_inserted[block], data)
        found = self._blocks.get(key)
        if found is None:
            found = self._read_block(*key)
            _remember(self._blocks, key, found)
        return found

    def _read_block(
        self, connection: int, side: int, epoch: int, inserted: int, data: bytes
    ) -> _Block:
        self.tables.touch(connection)
        log = self.tables.log(connection, side, epoch)
        quick = log.known(data, inserted)
        if quick is not None:
            known = self._known.get(quick.key)
            if known is not None:
                return _Block(known, quick.timeout)
            fields = known_fields(quick)
            if fields is not None:
                known = self._numbered(heads.block_of(fields))
                _remember(self._known, quick.key, known)
                return _Block(known, quick.timeout)
        block, timeout = heads.read_block(decode(data, inserted, log.entry))
        return _Block(self._numbered(block), timeout)

    def _numbered(self, block: heads.Block) -> _Known:
        known = self._known.get(block)
        if known is None:
            known = _Known(next(self._numbers), block)
            _remember(self._known, block, known)
        return known


_NO_BLOCK = _Block(_Known(0, heads.NO_BLOCK), None)


def _remember(memory: dict[Any, Any], key: Hashable, value: object) -> None:
    """Keep something, forgetting what has been kept longest."""
    if len(memory) >= _REMEMBERED:
        for old in list(memory)[: _REMEMBERED // 8]:
            del memory[old]
    memory[key] = value


class _Facts(NamedTuple):
    """What is read of one row's layout.HTTP2 and facts, as Python's own values."""

    connection: int
    flags: int
    error: int
    end: int
    messages: list[int]
    block_inserted: list[int]
    block_offset: list[int]
    block_length: list[int]
    block_epoch: list[int]
    block_flags: list[int]
    route_offset: int
    route_length: int
    told_length: int
    keyed: tuple[int, ...]  # of what a row means, all that is not in its blocks

    @property
    def is_upgraded(self) -> bool:
        return bool(self.flags & Http2Flag.UPGRADED)


_OF_STREAM = tuple(name for name in _Facts._fields if name not in ("end", "keyed"))


class _Raw:
    """A contiguous batch of records of streams."""

    def __init__(self, records: Records) -> None:
        self.records = records
        size = records.dtype.itemsize
        self.rows: Bytes = records.view(np.uint8).reshape(-1, size)
        self.streams: Records = np.ndarray(
            (len(records),), layout.HTTP2, self.rows, _FACTS, (size,)
        )
        self._keys = self._make_keys()

    def key(self, row: int) -> bytes:
        # How many zeros follow depends on the other rows.
        return bytes(self._keys[row].tobytes()).rstrip(b"\0")

    def groups(self) -> tuple[Positions, Positions]:
        """The group of each row, and of each group the row that stands for it."""
        words = self._keys.view(np.uint64)
        hashes = words @ _multipliers(words.shape[1])
        hashes ^= hashes >> np.uint64(32)
        _, firsts, group = np.unique(hashes, return_index=True, return_inverse=True)
        equal = equal_rows(words, words[firsts[group]])
        if equal.all():
            return group, firsts
        # Two rows of one hash: whoever differs from the first becomes a group of its own.
        others = (~equal).nonzero()[0]
        group[others] = len(firsts) + np.arange(len(others))
        return group, np.concatenate((firsts, others))

    def facts(self, rows: Positions) -> Iterator[_Facts]:
        streams, records = self.streams[rows], self.records[rows]
        columns = {name: streams[name].tolist() for name in _OF_STREAM}
        columns["end"] = records["end"].tolist()
        keyed = [records[name].tolist() for name in _KEYED_FACTS]
        keyed += [columns["error"], columns["flags"], *streams["messages"].T.tolist()]
        columns["keyed"] = list(zip(*keyed, strict=True))
        return map(_Facts._make, zip(*(columns[name] for name in _Facts._fields), strict=True))

    def block(self, row: int, offset: int, length: int) -> bytes:
        """Bytes of a head."""
        start = _FACTS + offset
        return bytes(self.rows[row, start : start + length].tobytes())

    def told(self, row: int, length: int) -> bytes:
        """What follows all else in a head."""
        record = self.records[row]
        end = sum(int(record[name]) for name in ("target_len", "kept_len", "http2_len"))
        return self.block(row, end - length, length)

    def process(self, row: int) -> tuple[int, int]:
        record = self.records[row]
        return int(record["tgid"]), int(record["process_start_ns"])

    def upgraded(self, row: int) -> tuple[int, bytes, bytes]:
        """Method, target and kept fields of a request that was sent as HTTP/1."""
        record = self.records[row]
        start = _FACTS + _STREAM_SIZE
        middle = start + int(record["target_len"])
        end = middle + int(record["kept_len"])
        head = self.rows[row]
        return int(record["method"]), head[start:middle].tobytes(), head[middle:end].tobytes()

    def duration_ns(self, row: int) -> int:
        return max(0, int(self.records["end_ns"][row]) - int(self.records["start_ns"][row]))

    def times(self, row: int) -> bytes:
        stream = self.streams[row]
        first, last = stream["first_message_ns"].tolist(), stream["last_message_ns"].tolist()
        return MessageTimes(*first, *last).packed()

    def _make_keys(self) -> Bytes:
        """One row of whole words each: everything that decides what a row means."""
        used = self._used()
        width = int(used.max(initial=0))
        before = 8 * len(_KEYED_FACTS)
        keys = np.empty((len(self.records), before + width), np.uint8)
        keys[:, before:] = self.rows[:, _FACTS : _FACTS + width]
        if int(used.min(initial=width)) < width:  # a ring's memory is not wiped between records
            keys[:, before:] *= np.arange(width) < used[:, np.newaxis]
        for name in _VARYING:
            kind, offset = layout.HTTP2.fields[name][:2]  # type: ignore[index]
            keys[:, before + offset : before + offset + kind.itemsize] = 0
        words = keys.view(np.uint64)
        for at, name in enumerate(_KEYED_FACTS):
            words[:, at] = self.records[name]
        return keys

    def _used(self) -> Positions:
        """How many bytes of its head each row uses, in whole words."""
        there = (self.streams["block_flags"] & np.uint8(BlockFlag.PRESENT)) != 0
        ends = self.streams["block_offset"].astype(np.intp) + self.streams["block_length"]
        used = np.where(there, ends, 0).max(axis=1, initial=0)
        routes = self.streams["route_offset"].astype(np.intp) + self.streams["route_length"]
        used = np.maximum(used, routes)
        upgraded = self.records["target_len"].astype(np.intp) + self.records["kept_len"]
        is_told = self.streams["told_length"] != 0
        if is_told.any():
            used = np.maximum(used, np.where(is_told, self.records["http2_len"], 0))
        used = -8 * (-np.maximum(used, _STREAM_SIZE + upgraded) // 8)
        whole: Positions = np.minimum(used, self.rows.shape[1] - _FACTS)
        return whole


def _routed(raw: _Raw, facts: _Facts, row: int) -> bytes:
    """What a server's router said of a row, as kept fields."""
    route = raw.block(row, facts.route_offset, facts.route_length)
    if not facts.flags & Http2Flag.HANDLER:
        return kept_field(Kept.ROUTE, route) if route else b""
    route, handler = route[:-_HANDLER], route[-_HANDLER:]
    return kept_field(Kept.ROUTE, route) + kept_field(Kept.HANDLER, handler)


def _about(facts: _Facts, head: Head) -> Stream:
    """The numbers of a stream that are the same for all rows of its group."""
    counted = head.is_call and not facts.flags & Http2Flag.NOT_GRPC
    requests, responses = facts.messages if counted else (0, 0)
    failed = facts.end in (End.STREAM_CANCELLED, End.STREAM_RESET, End.GOAWAY)
    known = Known.SENT if head.code is not None else Known.NOT
    notable = Http2Flag.UPGRADED | Http2Flag.PUSHED
    return Stream(
        error=facts.error if failed else 0,
        requests=requests,
        responses=responses,
        unknown=head.unknown,
        known=known,
        flags=facts.flags & notable,
        told_by=head.told_by,
    )


def _common_kept(head: Head, stream: Stream) -> bytes | None:
    """The kept fields of all rows of a group; None where each row has its own."""
    if head.is_call and (stream.requests != 1 or stream.responses != 1):
        return None  # the times of its messages
    if head.is_call and head.code is None:
        return None  # how long it took decides what became of it
    return head.kept(stream, head.code)


def _own_kept(raw: _Raw, row: int, resolved: Resolved, timeout: bytes | None) -> bytes:
    """The kept fields of one row whose group has no common ones, but for its grpc-timeout."""
    head, stream = resolved.head, resolved.stream
    code, known = head.code, stream.known
    if code is None:
        record = raw.records[row]
        code, known = grpc.concluded(
            end=int(record["end"]),
            error=stream.error,
            http_status=head.status or int(record["status"]),
            duration_ns=raw.duration_ns(row),
            timeout=timeout,
            server=int(record["role"]) == Role.SERVER,
        )
    streams = (stream.requests, stream.responses) != (1, 1) and stream.requests + stream.responses
    times = raw.times(row) if streams else b""
    return head.kept(stream._replace(known=known), code, times)


@dataclass(slots=True)
class _Tails:
    """What follows the facts of a record: a target and kept fields, with what goes with them."""

    heads: list[Head]
    common: list[bytes]  # kept fields but for grpc-timeout
    kept: list[bytes]

    def add(self, head: Head, common: bytes, timeout: bytes | None) -> None:
        self.heads.append(head)
        self.common.append(common)
        self.kept.append(common + head.timeout_field(timeout) if timeout else common)

    def bytes(self) -> list[bytes]:
        return [head.target + kept for head, kept in zip(self.heads, self.kept, strict=True)]


def _written(
    raw: _Raw, group: Positions, found: Sequence[tuple[Resolved, Literal | None]]
) -> list[Records]:
    """The resolved records: those whose head fits in layout.EXCHANGE, then the others."""
    made = _Tails([], [], [])
    texts = [literal and literal.text() for _, literal in found]
    for (one, _), timeout in zip(found, texts, strict=True):
        made.add(one.head, one.kept or b"", timeout)
    has_own = np.array([one.kept is None for one, _ in found], np.bool_)[group]
    group = group.copy()
    for row in has_own.nonzero()[0].tolist():
        of = group[row]
        group[row] = len(made.heads)
        resolved, timeout = found[of][0], texts[of]
        made.add(resolved.head, _own_kept(raw, row, resolved, timeout), timeout)
    tails = made.bytes()
    is_large = np.array([len(tail) > _SMALL_HEAD for tail in tails], np.bool_)[group]
    columns = _Columns(made)
    written = []
    for rows, dtype in (
        ((~is_large).nonzero()[0], layout.EXCHANGE),
        (is_large.nonzero()[0], layout.LARGE_EXCHANGE),
    ):
        if len(rows):
            written.append(_write(raw, rows, group[rows], columns, tails, dtype))
    return written


class _Columns:
    """What the groups' heads put into the fixed columns of their records."""

    def __init__(self, tails: _Tails) -> None:
        heads, kept = tails.heads, tails.kept
        self.method = np.array([head.method for head in heads], np.uint8)
        self.status = np.array([head.status for head in heads], np.uint16)
        self.flags = np.array([head.flags for head in heads], np.uint16)
        self.target = np.array([len(head.target) for head in heads], np.uint16)
        self.kept = np.array([len(fields) for fields in kept], np.uint16)
        self.is_call = np.array([head.is_call for head in heads], np.bool_)
        hashes = [hash(fields) & 0xFFFFFFFFFFFFFFFF for fields in tails.common]
        self.shape = np.array(hashes, np.uint64)


def _write(
    raw: _Raw,
    rows: Positions,
    group: Positions,
    columns: _Columns,
    tails: list[bytes],
    dtype: "np.dtype[np.void]",
) -> Records:
    full = dtype.itemsize
    used, index = np.unique(group, return_inverse=True)
    dtype = narrowed(dtype, max(len(tails[one]) for one in used.tolist()))
    made = np.empty(len(rows), dtype)
    facts, heads = _part(raw.rows, 0, _FACTS), made.view(np.uint8).reshape(len(rows), -1)
    _part(heads, 0, _FACTS)[:] = facts if len(rows) == len(facts) else facts[rows]
    width = dtype.itemsize - _FACTS
    texts = np.frombuffer(b"".join(tails[one].ljust(width, b"\0") for one in used), f"V{width}")
    _part(heads, _FACTS, width)[:] = texts[index]
    made["ring_length"] = full - 8
    made["method"] = columns.method[group]
    status = columns.status[group]
    made["status"] = np.where(status != 0, status, made["status"])
    made["flags"] |= columns.flags[group]
    made["target_len"] = made["target_full_len"] = columns.target[group]
    made["kept_len"] = columns.kept[group]
    made["http2_len"] = 0  # nothing of a raw head is left
    made["shape"] = columns.shape[group]
    _take_prefixes_off(raw, rows, made, columns.is_call[group])
    return made


def _part(rows: Bytes, start: int, width: int) -> npt.NDArray[np.void]:
    """So many bytes of each row as one value, which is moved in one go."""
    return np.ndarray((len(rows),), f"V{width}", rows, start, (rows.strides[0],))


def _take_prefixes_off(
    raw: _Raw, rows: Positions, made: Records, is_call: npt.NDArray[np.bool_]
) -> None:
    """Bytes of messages instead of bytes of DATA, where messages were counted."""
    # Column by column: all of a row's columns are half a kilobyte.
    counted = is_call & ((raw.streams["flags"][rows] & np.uint8(Http2Flag.NOT_GRPC)) == 0)
    messages = raw.streams["messages"][rows]
    for name, side in (("request_body", Side.CLIENT), ("response_body", Side.SERVER)):
        prefixes = messages[:, side].astype(np.uint64) * np.uint64(_PREFIX)
        bodies = made[name]
        less = np.where(counted, np.minimum(prefixes, bodies), 0)
        made[name] = bodies - less


def _multipliers(count: int) -> npt.NDArray[np.uint64]:
    global _known_multipliers
    while len(_known_multipliers) < count:
        _known_multipliers = np.concatenate((_known_multipliers, multipliers(count)))
    return _known_multipliers[:count]


_known_multipliers: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
