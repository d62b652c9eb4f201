"""Lines of a code object's instructions: CPython's location tables, 3.11 and later.

https://github.com/python/cpython/blob/main/InternalDocs/code_objects.md
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_UNIT = 2  # bytes of an instruction
_NO_COLUMNS, _LONG, _NONE = 13, 14, 15
_ONE_LINE = range(10, 13)  # the code says how many lines further, columns follow


class MalformedError(ValueError):
    """Not a location table."""


@dataclass(frozen=True, slots=True)
class LineTable:
    """Of one code object. ends: byte offsets, each the end of a run of instructions of one line.

    lines: the line of each run; 0 where it has none.
    """

    ends: npt.NDArray[np.uint32]
    lines: npt.NDArray[np.uint32]

    def line_at(self, offset: int) -> int:
        """The line of the instruction at a byte offset; 0 when it has none, or lies outside."""
        run = int(np.searchsorted(self.ends, offset, "right"))
        return int(self.lines[run]) if offset >= 0 and run < len(self.lines) else 0


def parse(table: bytes, first_line: int) -> LineTable:
    """The lines of a code object. Raises MalformedError."""
    ends: list[int] = []
    lines: list[int] = []
    end = 0
    for size, line in _entries(table, first_line):
        end += size
        if lines and lines[-1] == line:
            ends[-1] = end
        else:
            ends.append(end)
            lines.append(line)
    return LineTable(np.array(ends, np.uint32), np.array(lines, np.uint32))


def _entries(table: bytes, line: int) -> Iterator[tuple[int, int]]:
    """(bytes of instructions, their line) of each entry; line: the code object's first."""
    at = 0
    while at < len(table):
        head = table[at]
        if not head & 0x80:
            raise MalformedError(f"no entry begins with {head:#x} at {at}")
        code = head >> 3 & 15
        delta, at = _line_delta(table, at + 1, code)
        line += delta
        if line < 0:
            raise MalformedError(f"line {line} before {at}")
        yield _UNIT * ((head & 7) + 1), 0 if code == _NONE else line


def _line_delta(table: bytes, at: int, code: int) -> tuple[int, int]:
    """How many lines further an entry is, and where the next one begins."""
    if code == _NONE:
        return 0, at
    if code in (_NO_COLUMNS, _LONG):
        delta, at = _signed(table, at)
        for _ in range(3 if code == _LONG else 0):  # end line, column, end column
            _, at = _number(table, at)
        return delta, at
    if code in _ONE_LINE:
        return code - _ONE_LINE.start, at + 2
    return 0, at + 1


def _signed(table: bytes, at: int) -> tuple[int, int]:
    number, at = _number(table, at)
    return (-(number >> 1) if number & 1 else number >> 1), at


def _number(table: bytes, at: int) -> tuple[int, int]:
    """Six bits a byte, the lowest first; another byte follows where bit 6 is set."""
    number = shift = 0
    while at < len(table) and shift < 36:
        byte = table[at]
        at += 1
        number |= (byte & 0x3F) << shift
        shift += 6
        if not byte & 0x40:
            return number, at
    raise MalformedError(f"a number has no end at {at}")
