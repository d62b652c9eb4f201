"""What each side of each connection has put into its HPACK table, by number.

The kernel tells every block that changes a table at once, in order, with its number of
insertions before it (waggle.h: struct waggle_table_event). An entry is kept until the
log of its side is full, long after the table itself has evicted it: a stream that ends
now may have begun when the entry was new. What was never told, or is forgotten, is
unknown; numbers make sure that it is never taken for another.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from waggle.layout import Side, TableEventKind
from waggle.probes.http2.blocks import DYNAMIC_START, STATIC, BlockError, Field, Literal
from waggle.probes.http2.quick import (
    NAME_KINDS,
    Known,
    LiteralField,
    NameKind,
    insertions,
    read_known,
)
from waggle.spans import Records

# Bounds: entries and bytes of one side of one connection, bytes of all, and connections.
MAX_ENTRIES = 8192
MAX_LOG_BYTES = 1 << 20
MAX_BYTES = 64 << 20
MAX_CONNECTIONS = 16384
_MAX_PIECES = 1024  # blocks of which only a part has come
_LAST_EPOCH = 255  # shared by all further ones: never decodes
_ENTRY_OVERHEAD = 200  # bytes that an entry costs here beside its strings
_LOG_OVERHEAD = 1000


class TableEntry:
    """One insertion. The value is decoded at once only where heads may be told apart by it."""

    __slots__ = ("_field", "_name", "kind", "value")

    def __init__(self, name: bytes | None, value: Literal) -> None:
        self._name = name
        self.value = value
        unknown = NameKind.UNKNOWN
        self.kind = unknown if name is None else NAME_KINDS.get(name, NameKind.UNUSED)
        self._field: Field | None = None
        if self.kind == NameKind.WANTED and self.field() is None:
            self.kind = NameKind.UNKNOWN

    def field(self) -> Field | None:
        """Name and value; None when one of them cannot be known."""
        if self._field is None and self._name is not None:
            value = self.value.text()
            if value is not None:
                self._field = (self._name, value)
        return self._field

    def name(self) -> bytes | None:
        return self._name

    def size(self) -> int:
        return len(self._name or b"") + len(self.value.raw) + _ENTRY_OVERHEAD


class EntryLog:
    """The insertions of one side in one epoch: number -> entry, the latest MAX_ENTRIES."""

    __slots__ = ("_entries", "_first", "size")

    def __init__(self) -> None:
        self._entries: list[TableEntry | None] = []
        self._first = 0  # the number of _entries[0]
        self.size = 0

    def entry(self, number: int) -> TableEntry | None:
        at = number - self._first
        return self._entries[at] if 0 <= at < len(self._entries) else None

    def insert(self, block: bytes, inserted: int) -> int:
        """Read the insertions of a block that came after `inserted`; how many there were.

        Raises BlockError where the block cannot be read on.
        """
        self._continue_at(inserted)
        count = 0
        for one in insertions(block):
            self._append(self._entry_of(one, inserted + count))
            count += 1
        return count

    def known(self, block: bytes, inserted: int) -> Known | None:
        """What a block says by entries and strings, if it is of the ordinary kind (quick.py)."""
        return read_known(block, inserted - self._first, self._entries)

    def _continue_at(self, number: int) -> None:
        """Fill what was lost with unknown entries."""
        missing = number - self._first - len(self._entries)
        if missing < 0:  # told before: the kernel does not do that
            del self._entries[max(0, len(self._entries) + missing) :]
            self._first = min(self._first, number)
        elif missing >= MAX_ENTRIES:
            self._forget(len(self._entries))
            self._first = number
        else:
            self._entries.extend([None] * missing)
            self._make_room()

    def _append(self, entry: TableEntry) -> None:
        self._entries.append(entry)
        self.size += entry.size()
        self._make_room()

    def _make_room(self) -> None:
        if len(self._entries) > MAX_ENTRIES or self.size > MAX_LOG_BYTES:
            self._forget(len(self._entries) // 4 + 1)  # some at once: the rest moves

    def _forget(self, count: int) -> None:
        self.size -= sum(entry.size() for entry in self._entries[:count] if entry)
        del self._entries[:count]
        self._first += count

    def _entry_of(self, one: LiteralField, number: int) -> TableEntry:
        name = self._name_of(one.ref, number) if one.name is None else one.name.text()
        return TableEntry(name, one.value)

    def _name_of(self, index: int, inserted: int) -> bytes | None:
        if index < DYNAMIC_START:
            return STATIC[index - 1][0]
        entry = self.entry(inserted - (index - DYNAMIC_START) - 1)
        return None if entry is None else entry.name()


_NOTHING = EntryLog()


@dataclass(slots=True)
class _Connection:
    logs: dict[tuple[int, int], EntryLog] = field(default_factory=dict)  # by side and epoch
    sequences: dict[int, int] = field(default_factory=dict)  # next expected, by side

    def size(self) -> int:
        return sum(log.size + _LOG_OVERHEAD for log in self.logs.values())


@dataclass(slots=True)
class TableStats:
    """What was read of table events so far."""

    events: int = 0
    insertions: int = 0
    lost_events: int = 0  # holes in the kernel's numbers
    malformed_blocks: int = 0
    forgotten_connections: int = 0  # for want of room


class _Event(NamedTuple):
    """One layout.TABLE_EVENT."""

    connection: int
    kind: int
    side: int
    epoch: int
    sequence: int
    inserted: int
    offset: int
    block_full: int
    length: int
    bytes: bytes


_COLUMNS = _Event._fields[:-1]
_LENGTH = _COLUMNS.index("length")


class Tables:
    """All connections' logs, the least recently used forgotten first. Not for two threads."""

    def __init__(self, max_bytes: int = MAX_BYTES, max_connections: int = MAX_CONNECTIONS) -> None:
        self.stats = TableStats()
        self._max_bytes = max_bytes
        self._max_connections = max_connections
        self._connections: OrderedDict[int, _Connection] = OrderedDict()
        self._closed: OrderedDict[int, None] = OrderedDict()
        self._pieces: OrderedDict[tuple[int, int], bytearray] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._connections)

    def log(self, connection: int, side: int, epoch: int) -> EntryLog:
        """What a side of a connection has inserted, as far as that is known."""
        known = self._connections.get(connection)
        if known is None or epoch == _LAST_EPOCH:
            return _NOTHING
        return known.logs.get((side, epoch), _NOTHING)

    def add(self, events: Records) -> None:
        """Take a batch of layout.TABLE_EVENT, in the order of the ring."""
        self.stats.events += len(events)
        columns = [events[name].tolist() for name in _COLUMNS]
        pieces = np.ascontiguousarray(events["bytes"]).tobytes()
        width = events["bytes"].shape[1] if len(events) else 0
        for at, values in enumerate(zip(*columns, strict=True)):
            start = at * width
            event = _Event._make((*values, pieces[start : start + values[_LENGTH]]))
            if event.kind == TableEventKind.CLOSED:
                self._closed[event.connection] = None
                self._forget_closed()
                continue
            known = self._known(event.connection)
            self._check_sequence(known, event)
            if event.kind == TableEventKind.BLOCK:
                block = self._joined(event)
                if block is not None:
                    self._insert(known, event, block)

    def touch(self, connection: int) -> None:
        """Say that a connection is in use, so that others are forgotten before it."""
        if connection in self._connections:
            self._connections.move_to_end(connection)

    def _forget_closed(self) -> None:
        """Of closed connections the oldest; the last records of others are still on their way."""
        while len(self._closed) > self._max_connections // 4:
            connection, _ = self._closed.popitem(last=False)
            self._forget(connection)

    def _check_sequence(self, known: _Connection, event: "_Event") -> None:
        expected = known.sequences.get(event.side, 0)
        if event.sequence != expected:
            self.stats.lost_events += max(0, event.sequence - expected)
            self._pieces.pop((event.connection, event.side), None)
        known.sequences[event.side] = event.sequence + 1

    def _joined(self, event: "_Event") -> bytes | None:
        """The whole block once its last piece has come; None before, and when one was lost."""
        if event.offset == 0 and event.length >= event.block_full:
            return event.bytes
        key = (event.connection, event.side)
        if event.offset == 0:
            self._pieces[key] = bytearray()
            if len(self._pieces) > _MAX_PIECES:
                self._pieces.popitem(last=False)
        joined = self._pieces.get(key)
        if joined is None or len(joined) != event.offset:
            self._pieces.pop(key, None)
            return None
        joined += event.bytes
        if len(joined) < event.block_full:
            return None
        del self._pieces[key]
        return bytes(joined)

    def _insert(self, known: _Connection, event: "_Event", block: bytes) -> None:
        log = known.logs.get((event.side, event.epoch))
        if log is None:
            log = known.logs[event.side, event.epoch] = EntryLog()
            self._size += _LOG_OVERHEAD
        before = log.size
        try:
            self.stats.insertions += log.insert(block, event.inserted)
        except BlockError:
            self.stats.malformed_blocks += 1
        self._size += log.size - before
        self._make_room()

    def _known(self, connection: int) -> _Connection:
        known = self._connections.get(connection)
        if known is None:
            known = self._connections[connection] = _Connection()
        else:
            self._connections.move_to_end(connection)
        return known

    def _make_room(self) -> None:
        while len(self._connections) > 1 and (
            self._size > self._max_bytes or len(self._connections) > self._max_connections
        ):
            oldest = next(iter(self._connections))
            self._forget(oldest)
            self.stats.forgotten_connections += 1

    def _forget(self, connection: int) -> None:
        known = self._connections.pop(connection, None)
        if known is not None:
            self._size -= known.size()
        for side in Side:
            self._pieces.pop((connection, side), None)
