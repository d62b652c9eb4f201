"""Header blocks of the ordinary kind, read without decoding what repeats or is not needed.

A connection's calls say the same things by other bytes: each insertion moves the indexes
of all entries, and a deadline or a trace id is another each time. What a span needs of a
block is a key that stays the same through all of that: the fields it refers to, with what
varies cut out. Whatever is not of the ordinary kind (blocks.py reads it) gives no key.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple, Protocol

from waggle.probes.http2.blocks import (
    DYNAMIC_START,
    STATIC,
    BlockError,
    Field,
    Literal,
    read_integer,
    read_string,
    representations,
)
from waggle.probes.http2.heads import BAGGAGE, TIMEOUT, WANTED


class NameKind(IntEnum):
    """What a field of a name is to a span."""

    UNUSED = 0
    WANTED = 1
    TIMEOUT = 2  # wanted, and another from call to call
    UNKNOWN = 3


NAME_KINDS: dict[bytes, NameKind] = dict.fromkeys(WANTED, NameKind.WANTED)
NAME_KINDS[TIMEOUT] = NameKind.TIMEOUT


def want_baggage(wanted: bool) -> None:
    """Whether `baggage` is one of them, of what is read from now on: not unless asked for, since
    what it says is another from call to call."""
    if wanted:
        WANTED.add(BAGGAGE)
        NAME_KINDS[BAGGAGE] = NameKind.WANTED
    else:
        WANTED.discard(BAGGAGE)
        NAME_KINDS.pop(BAGGAGE, None)


_UNUSED, _WANTED, _TIMEOUT, _UNKNOWN = map(int, NameKind)
# By the first byte of an index: the field where it is wanted, or an empty one.
_STATIC_FIELDS: Mapping[int, Field | tuple[()]] = {
    0x80 | index: field if field[0] in NAME_KINDS else () for index, field in enumerate(STATIC, 1)
}
_LONG_INDEX = 0xFF  # the index goes on in the next byte
_MOST_PARTS = 512


class Entry(Protocol):
    """An entry of a table's log."""

    @property
    def kind(self) -> int: ...

    @property
    def value(self) -> Literal: ...

    def field(self) -> Field | None: ...

    def name(self) -> bytes | None: ...


class Known(NamedTuple):
    """What a block says.

    key: a Field, or (name, Literal), for each field that a span needs; equal keys mean equal
    fields. timeout: of grpc-timeout.
    """

    key: tuple[tuple[bytes, bytes | Literal], ...]
    timeout: Literal | None


class LiteralField(NamedTuple):
    """A field that is spelled out. ref: index of its name, 0: `name`."""

    ref: int
    name: Literal | None
    value: Literal
    inserts: bool


# A block: one-byte and two-byte indexes in a row, and literals.
Parts = Sequence[bytes | LiteralField]
_INDEXES = re.compile(rb"(?:[\x81-\xfe]|\xff[\x00-\x7f])+")


@lru_cache(maxsize=4096)
def parts(block: bytes) -> Parts:
    """A block taken apart: once when its table is told of it, and once when its stream ends.

    Changes of the table's size are left out. Raises BlockError where the bytes end within a
    field, make no sense or are no ordinary block.
    """
    found: list[bytes | LiteralField] = []
    at, end = 0, len(block)
    while at < end:
        indexes = _INDEXES.match(block, at)
        if indexes:
            found.append(indexes[0])
            at = indexes.end()
        elif block[at] & 0xE0 == 0x20:
            _, at = read_integer(block, at, 0x1F)
        else:
            literal, at = _literal(block, at)
            found.append(literal)
        if len(found) > _MOST_PARTS:
            raise BlockError(f"a header block of more than {_MOST_PARTS} parts")
    return found


def _literal(block: bytes, at: int) -> tuple[LiteralField, int]:
    first = block[at]
    if first & 0x80:
        raise BlockError("an index that is not ordinary")
    ref, at = read_integer(block, at, 0x3F if first & 0x40 else 0x0F)
    name = None
    if ref == 0:
        name, at = read_string(block, at)
    value, at = read_string(block, at)
    return LiteralField(ref, name, value, first & 0x40 != 0), at


def insertions(block: bytes) -> Iterable[LiteralField]:
    """The fields of a block that become entries, in their order.

    Raises BlockError on the way where the block cannot be read on.
    """
    try:
        return [one for one in parts(block) if isinstance(one, LiteralField) and one.inserts]
    except BlockError:
        return _insertions_slowly(block)


def _insertions_slowly(block: bytes) -> Iterator[LiteralField]:
    for one in representations(block):
        if one.inserts and one.value is not None:
            yield LiteralField(one.ref, one.name, one.value, True)


class _Reading:
    """One block on its way to a key; `base` minus an index is the place of its entry."""

    __slots__ = ("base", "entries", "key", "timeout")

    def __init__(self, base: int, entries: Sequence[Entry | None]) -> None:
        self.base = base + DYNAMIC_START - 1
        self.entries = entries
        self.key: list[tuple[bytes, bytes | Literal]] = []
        self.timeout: Literal | None = None

    def indexes(self, run: bytes) -> bool:
        """Take fields that are referred to whole; False: one is not known."""
        if _LONG_INDEX in run:
            return all(self._index(index) for index in _long_indexes(run))
        key, base, entries = self.key, self.base, self.entries
        for first in run:
            field = _STATIC_FIELDS.get(first)
            if field is None:
                at = base - (first & 0x7F)
                entry = entries[at] if at >= 0 else None
                if entry is None or not self._take(entry):
                    return False
            elif field:
                key.append(field)
        return True

    def _index(self, index: int) -> bool:
        if index < DYNAMIC_START:
            return self.indexes(bytes((0x80 | index,)))
        entry = self._entry(index)
        return entry is not None and self._take(entry)

    def _entry(self, index: int) -> Entry | None:
        return self.entries[self.base - index] if self.base >= index else None

    def _take(self, entry: Entry) -> bool:
        if entry.kind == _WANTED:
            field = entry.field()
            if field is not None:
                self.key.append(field)
        elif entry.kind == _TIMEOUT and self.timeout is None:
            self.timeout = entry.value
        return entry.kind != _UNKNOWN

    def literal(self, one: LiteralField) -> bool:
        """Take a field that is spelled out; False: its name is not known."""
        name: bytes | None
        if one.name is not None:
            name = one.name.text()
        elif one.ref < DYNAMIC_START:
            name = STATIC[one.ref - 1][0]
        else:
            entry = self._entry(one.ref)
            name = entry.name() if entry is not None else None
        if name is None:
            return False
        kind = NAME_KINDS.get(name, _UNUSED)
        if kind == _WANTED:
            self.key.append((name, one.value))
        elif kind == _TIMEOUT and self.timeout is None:
            self.timeout = one.value
        self.base += one.inserts
        return True


def _long_indexes(run: bytes) -> Iterator[int]:
    left = iter(run)
    for first in left:
        yield 0x7F + next(left) if first == _LONG_INDEX else first & 0x7F


def read_known(block: bytes, base: int, entries: Sequence[Entry | None]) -> Known | None:
    """What a block says, or None where it is not ordinary or an entry is not known.

    base: the place in `entries` of the first entry that came after the block's beginning.
    entries: of the log; those of the block's own are among them.
    """
    reading = _Reading(base, entries)
    try:
        for one in parts(block):
            if not (reading.indexes(one) if isinstance(one, bytes) else reading.literal(one)):
                return None
    except (IndexError, BlockError):
        return None
    return Known(tuple(reading.key), reading.timeout)


def known_fields(known: Known) -> list[Field] | None:
    """The fields of a key; None when one is no valid Huffman code."""
    fields: list[Field] = []
    for name, value in known.key:
        text = value.text() if isinstance(value, Literal) else value
        if text is None:
            return None
        fields.append((name, text))
    return fields
