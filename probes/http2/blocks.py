"""Header blocks: HPACK (RFC 7541) read against numbered entries instead of a live table.

A decoder that follows a connection sees every block in its order. Ours are read when
their stream has ended, in any order, so an entry is known by its number: how many were
inserted before it. Index 62 is the latest insertion, whatever was evicted since.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from waggle.errors import WaggleError

Field = tuple[bytes, bytes]

STATIC: tuple[Field, ...] = tuple(
    (bytes(name), bytes(value)) for name, value in HeaderTable.STATIC_TABLE
)
DYNAMIC_START = len(STATIC) + 1
# A block of this many fields is no request's: what follows is left unread. Entries it
# inserts after that count as lost.
MOST_FIELDS = 512
# Continuation bytes of an integer that mean something below 2**28; more is an attack.
_MOST_CONTINUED = 4


class BlockError(WaggleError):
    """Bytes that are no HPACK. What came before them is good."""


class Literal(NamedTuple):
    """A string as it was sent."""

    raw: bytes
    is_huffman: bool

    def text(self) -> bytes | None:
        """The string; None when it is no valid Huffman code."""
        return huffman_text(self.raw) if self.is_huffman else self.raw


class Representation(NamedTuple):
    """One field of a block. ref: index of the whole field (no value) or its name (0: `name`)."""

    ref: int
    name: Literal | None
    value: Literal | None
    inserts: bool


class Entry(Protocol):
    """What the table's log has under a number."""

    def field(self) -> Field | None: ...


@dataclass(frozen=True, slots=True)
class Unknown:
    """A field of which the table's entry is not known.

    ref: the index as it was sent. value: its own value, if it was a literal.
    """

    ref: int
    value: bytes | None = None


@lru_cache(maxsize=8192)
def huffman_text(raw: bytes) -> bytes | None:
    try:
        return bytes(decode_huffman(raw))
    except Exception:  # the library's own errors and what odd padding makes of its table
        return None


def representations(block: bytes) -> Iterator[Representation]:
    """The fields of a block in their order; size updates are left out.

    Raises BlockError where the bytes end within a field or make no sense.
    """
    at, end, fields = 0, len(block), 0
    while at < end:
        first = block[at]
        if first & 0xE0 == 0x20:  # dynamic table size update
            _, at = read_integer(block, at, 0x1F)
            continue
        fields += 1
        if fields > MOST_FIELDS:
            raise BlockError(f"a header block of more than {MOST_FIELDS} fields")
        if first & 0x80:
            index, at = read_integer(block, at, 0x7F)
            if index == 0:
                raise BlockError("a header field of index 0")
            yield Representation(index, None, None, False)
            continue
        inserts = first & 0x40 != 0
        index, at = read_integer(block, at, 0x3F if inserts else 0x0F)
        name = None
        if index == 0:
            name, at = read_string(block, at)
        value, at = read_string(block, at)
        yield Representation(index, name, value, inserts)


def read_integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    number = block[at] & mask
    at += 1
    if number < mask:
        return number, at
    for shift in range(0, 7 * _MOST_CONTINUED, 7):
        if at >= len(block):
            raise BlockError("a header block ends within a number")
        byte = block[at]
        at += 1
        number += (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise BlockError("a number in a header block has too many bytes")


def read_string(block: bytes, at: int) -> tuple[Literal, int]:
    if at >= len(block):
        raise BlockError("a header block ends before a string")
    length, start = read_integer(block, at, 0x7F)
    end = start + length
    if end > len(block):
        raise BlockError("a header block ends within a string")
    return Literal(block[start:end], block[at] & 0x80 != 0), end


class Decoded(NamedTuple):
    """The fields of a block. damage: why the rest is missing, or None."""

    fields: list[Field]
    unknown: list[Unknown]
    damage: str | None
    uses_table: bool  # whether any field came of the dynamic table


def decode(block: bytes, inserted: int, entry: Callable[[int], Entry | None]) -> Decoded:
    """The fields of a block that came after `inserted` insertions.

    entry: gives the log's entry of a number, or None where that is not known. The
    block's own insertions need not be in the log.
    """
    own: list[Field | None] = []
    fields: list[Field] = []
    unknown: list[Unknown] = []
    uses_table = False

    def indexed(index: int) -> Field | None:
        nonlocal uses_table
        if index < DYNAMIC_START:
            return STATIC[index - 1]
        uses_table = True
        number = inserted + len(own) - (index - DYNAMIC_START) - 1
        if number >= inserted:
            return own[number - inserted]
        found = entry(number)
        return None if found is None else found.field()

    damage = None
    try:
        for one in representations(block):
            field = _field(one, indexed)
            if one.inserts:
                own.append(None if isinstance(field, Unknown) else field)
            if isinstance(field, Unknown):
                unknown.append(field)
            else:
                fields.append(field)
    except BlockError as error:
        damage = str(error)
    return Decoded(fields, unknown, damage, uses_table)


def _field(one: Representation, indexed: Callable[[int], Field | None]) -> Field | Unknown:
    if one.value is None:
        return indexed(one.ref) or Unknown(one.ref)
    value = one.value.text()
    if one.name is not None:
        name = one.name.text()
    else:
        named = indexed(one.ref)
        name = named[0] if named else None
    if name is None or value is None:
        return Unknown(one.ref, value)
    return name, value
