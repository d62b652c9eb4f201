"""Moving bytes between columns: the few numpy idioms the hot path is made of.

A window is an array over every position of a buffer, `width` bytes each, overlapping.
Indexing a window with positions moves `width` bytes per row in one memcpy: 10 to
20 ns a row, where an index per byte costs 100.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.intp]
Numbers = npt.NDArray[np.unsignedinteger]

SHORT = 16  # bytes
_SHORT_MASKS = np.array([[0xFF] * size + [0] * (SHORT - size) for size in range(SHORT + 1)], "u1")
_SHORT_MASKS = _SHORT_MASKS.view(np.uint64)


@dataclass(frozen=True, slots=True)
class Slices:
    """A piece of text for each of some rows: buffer[starts[i]:][:lengths[i]]."""

    buffer: Bytes
    starts: Positions
    lengths: Positions

    def take(self, rows: Positions) -> "Slices":
        return Slices(self.buffer, self.starts[rows], self.lengths[rows])

    def one(self, row: int) -> bytes:
        start = int(self.starts[row])
        return self.buffer[start : start + int(self.lengths[row])].tobytes()


def windows(buffer: Bytes, width: int) -> npt.NDArray[np.void]:
    """All `width` bytes wide windows of a contiguous buffer, writable if it is."""
    count = max(0, len(buffer) - width + 1)
    return np.ndarray((count,), f"V{width}", buffer, 0, (1,))


def words(buffer: Bytes) -> npt.NDArray[np.uint32]:
    """The little-endian 32-bit number at every position of a contiguous buffer, aligned or not."""
    return np.ndarray((max(0, len(buffer) - 3),), "<u4", buffer, 0, (1,))


def low_bytes(column: npt.NDArray[np.unsignedinteger], width: int) -> npt.NDArray[np.void]:
    """The `width` lowest bytes of each number (little-endian), as one void per row."""
    column = np.ascontiguousarray(column)
    return np.ndarray((len(column),), f"V{width}", column, 0, (column.itemsize,))


def multipliers(count: int) -> npt.NDArray[np.uint64]:
    """Odd numbers that nobody can foresee, to hash with: a sum of products meets no collision
    that somebody prepared. From the system: numpy.random would be imported for nothing else."""
    return np.frombuffer(os.urandom(8 * count), np.uint64) | np.uint64(1)


def gather_bytes(buffer: Bytes, starts: Positions, lengths: Positions) -> Bytes:
    """The slices buffer[start:start + length], one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    positions = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    gathered: Bytes = buffer[positions]
    return gathered


def copy_slices(
    source: Bytes,
    starts: Positions,
    target: Bytes,
    places: Positions,
    lengths: Positions,
    widest: int = 16,
) -> None:
    """target[place:place + length] = source[start:start + length], for every row.

    widest: the chunk (a power of two) that long slices are moved by.
    """
    for width, rows, offsets in _chunks(lengths, widest):
        moved = windows(source, width)[starts[rows] + offsets]
        windows(target, width)[places[rows] + offsets] = moved


def copy_short(source: Slices, target: Bytes, places: Positions) -> bool:
    """The same for slices of up to SHORT bytes, three times as fast; False: nothing was done.

    No place may be less than SHORT bytes from another, or from the target's end: whole
    windows are read, changed and written back.
    """
    last = len(source.buffer) - SHORT
    if int(source.lengths.max(initial=0)) > SHORT or int(source.starts.max(initial=0)) > last:
        return False
    before = as_numbers(windows(target, SHORT)[places])
    wanted = as_numbers(windows(source.buffer, SHORT)[source.starts])
    wanted = before ^ ((before ^ wanted) & _SHORT_MASKS[source.lengths])
    windows(target, SHORT)[places] = wanted.view(f"V{SHORT}").reshape(-1)
    return True


def equal_slices(
    buffer: Bytes, these: Positions, those: Positions, lengths: Positions
) -> npt.NDArray[np.bool_]:
    """Whether buffer[this:this + length] == buffer[that:that + length], for every row."""
    equal = np.ones(len(lengths), np.bool_)
    for width, rows, offsets in _chunks(lengths, widest=64):
        window = windows(buffer, width)
        left = as_numbers(window[these[rows] + offsets])
        right = as_numbers(window[those[rows] + offsets])
        equal[rows] &= equal_rows(left, right)
    return equal


def equal_rows(left: Numbers, right: Numbers) -> npt.NDArray[np.bool_]:
    """Whether two matrices have the same rows; quick where all are."""
    same = left == right
    if same.all():
        return np.ones(len(left), np.bool_)
    return np.asarray(same.all(axis=1), np.bool_)


def as_numbers(chunks: npt.NDArray[np.void]) -> Numbers:
    """A matrix of numbers over contiguous voids; comparing voids is slow."""
    width = chunks.itemsize
    part = 8 if width % 8 == 0 else width
    return chunks.view(f"u{part}").reshape(len(chunks), width // part)


def _chunks(
    lengths: Positions, widest: int
) -> Iterator[tuple[int, Positions | slice, Positions | int]]:
    """Cover slices with chunks of few widths, never a byte outside: (width, rows, offsets).

    Slices of `widest` or more take chunks of that width, the last one overlapping the
    one before it; shorter ones take two overlapping chunks of half, a quarter, ... of it.
    """
    longest = int(lengths.max(initial=0))
    shortest = int(lengths.min(initial=longest))
    width, upper = widest, longest
    while width and shortest <= upper and longest:
        rows: Positions | slice = slice(None)
        if shortest < width or longest > upper:
            rows = ((lengths >= width) & (lengths <= upper)).nonzero()[0]
        last = lengths[rows] - width
        if len(last):
            yield width, rows, last
            yield width, rows, 0
            for at in range(width, int(last.max()), width):
                inside = (last > at).nonzero()[0]
                yield width, inside if isinstance(rows, slice) else rows[inside], at
        upper = width - 1
        width //= 2
