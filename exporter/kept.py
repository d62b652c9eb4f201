"""The kept fields of a batch: what of them belongs to a row's shape, and what are columns.

Kept fields follow each other in a record, each after a header of 4 bytes (waggle.h). In
a row with varying fields (spans.VaryingField) the values of those are cut out, and their
headers say what of them does belong to the shape: the text's length and the variant.
What is left are the row's fixed bytes; their hash stands in for the kernel's, which
covers the values too.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from waggle.columns import Bytes, Positions, Slices, copy_slices, equal_rows, equal_slices, words
from waggle.layout import Kept
from waggle.spans import OWN_TEXT, VaryingField, varying_field

MAY_VARY = (Kept.X_FORWARDED_FOR, Kept.FORWARDED, Kept.TRACESTATE, OWN_TEXT)

_MOST_FIELDS = 16  # a row with more of them keeps them all in its shape
_BEYOND = 1 << 20  # a length that ends no row's fields where they should end
_ORDINARY, _VARYING, _STRANGE = 0, 1, 2
_KINDS = np.full(1 << 16, _STRANGE, np.uint8)  # by tag and the byte after it, which is zero
_KINDS[1:256] = _ORDINARY
_KINDS[list(MAY_VARY)] = _VARYING


@dataclass(frozen=True, slots=True)
class Varying:
    """One kept field as a column over all records; a start of -1 where it is none.

    The value is what was cut out of the row, the text the part of it that a span shows.
    """

    tag: int
    starts: Positions
    lengths: Positions
    text_starts: Positions
    text_lengths: Positions
    variants: Positions

    def texts(self, buffer: Bytes, rows: Positions) -> Slices:
        return Slices(buffer, self.text_starts[rows], self.text_lengths[rows])


class KeptFields:
    """The kept fields of all records.

    buffer: the bytes of the records. regular: the rows to look at; the others must not
    be asked about. starts, lengths: where kept fields are, one per record.
    """

    def __init__(
        self,
        buffer: Bytes,
        regular: Positions,
        starts: Positions,
        lengths: Positions,
        protocols: npt.NDArray[np.uint8],
    ) -> None:
        self._buffer, self._starts, self._lengths = buffer, starts, lengths
        self.varying: dict[int, Varying] = {}
        for tag, (at, sizes) in _find(buffer, regular, starts, starts + lengths).items():
            column = _as_column(tag, Slices(buffer, at, sizes), protocols)
            if (column.starts >= 0).any():
                self.varying[tag] = column
        self.fixed = _fixed_parts(self.varying, buffer, starts, lengths)

    def fixed_bytes(self, row: int) -> bytes:
        """What of the row's kept fields belongs to its shape."""
        if self.fixed is not None and self.fixed.index[row] >= 0:
            return self.fixed.slices(np.array([row])).one(0)
        return Slices(self._buffer, self._starts, self._lengths).one(row)

    def meanings(self, row: int) -> tuple[tuple[int, int, int], ...]:
        """Tag, variant and length of text of the row's varying fields."""
        return tuple(
            (tag, int(column.variants[row]), int(column.text_lengths[row]))
            for tag, column in self.varying.items()
            if column.starts[row] >= 0
        )

    def equal(self, these: Positions, those: Positions) -> npt.NDArray[np.bool_]:
        """Whether the fixed bytes of two rows are the same, pair by pair.

        Both rows of a pair have varying fields or neither has, and lengths are the same.
        """
        if self.fixed is None:
            return self._equal_in_records(these, those)
        cut = self.fixed.index[these] >= 0
        equal = np.empty(len(these), np.bool_)
        equal[cut] = self.fixed.equal(these[cut], those[cut])
        equal[~cut] = self._equal_in_records(these[~cut], those[~cut])
        return equal

    def _equal_in_records(self, these: Positions, those: Positions) -> npt.NDArray[np.bool_]:
        starts, lengths = self._starts, self._lengths
        return equal_slices(self._buffer, starts[these], starts[those], lengths[these])


@dataclass(frozen=True, slots=True)
class FixedParts:
    """The fixed bytes of the rows that have varying fields.

    rows: those rows. matrix: their fixed bytes, zeros behind them. lengths: how many.
    index: for every record its place in `rows`, or -1.
    """

    rows: Positions
    matrix: Bytes
    lengths: Positions
    index: Positions

    def slices(self, rows: Positions) -> Slices:
        index = self.index[rows]
        return Slices(self.matrix.reshape(-1), index * self.matrix.shape[1], self.lengths[index])

    def equal(self, these: Positions, those: Positions) -> npt.NDArray[np.bool_]:
        """Whether two of the rows, of the same length, have the same bytes, pair by pair."""
        numbers = self.matrix.view(np.uint64)
        return equal_rows(numbers[self.index[these]], numbers[self.index[those]])


def _find(
    buffer: Bytes, rows: Positions, starts: Positions, ends: Positions
) -> dict[int, tuple[Positions, Positions]]:
    """Where the values are that may vary, by tag: start (-1 for none) and length per record.

    Rows whose fields are not as the kernel writes them, or in which one comes twice
    (which makes a list), have none.
    """
    heads = words(buffer)
    found: dict[int, tuple[Positions, Positions]] = {}
    sound = np.zeros(len(starts), np.bool_)
    at, end = starts[rows], ends[rows]
    for _ in range(_MOST_FIELDS + 1):
        live = at + 4 <= end
        if not live.all():
            sound[rows[at == end]] = True
            rows, at, end = rows[live], at[live], end[live]
        if not len(rows):
            break
        head = heads[at]
        lengths = (head >> np.uint32(16)).astype(np.intp)
        kinds = _KINDS[head & np.uint32(0xFFFF)]
        if kinds.any():
            lengths[kinds == _STRANGE] = _BEYOND
            _note(found, head & np.uint32(0xFF), rows, at + 4, lengths, len(starts))
        at = at + 4 + lengths
    for places, _ in found.values():
        places[~sound] = -1
    return found


def _note(
    found: dict[int, tuple[Positions, Positions]],
    tags: npt.NDArray[np.uint32],
    rows: Positions,
    at: Positions,
    lengths: Positions,
    records: int,
) -> None:
    """Remember the values that may vary; a second one in a row makes its fields unsound."""
    for tag in MAY_VARY:
        hits = (tags == tag).nonzero()[0]
        if not len(hits):
            continue
        if tag not in found:
            found[tag] = np.full(records, -1, np.intp), np.zeros(records, np.intp)
        places, sizes = found[tag]
        again = hits[places[rows[hits]] >= 0]
        places[rows[hits]], sizes[rows[hits]] = at[hits], lengths[hits]
        lengths[again] = _BEYOND


def _as_column(tag: int, values: Slices, protocols: npt.NDArray[np.uint8]) -> Varying:
    """Ask the protocols what the values mean; what means too much is no column."""
    texts = values.starts.copy()
    lengths, variants = np.zeros_like(texts), np.zeros_like(texts)
    have = (texts >= 0).nonzero()[0]
    for protocol in np.bincount(protocols[have]).nonzero()[0].tolist():
        rows = have[protocols[have] == protocol]
        field = varying_field(protocol, tag)
        if field is None:
            texts[rows] = -1
            continue
        lengths[rows] = field.plain(values.take(rows))
        left = rows[lengths[rows] < 0]
        if len(left):
            offsets, lengths[left], variants[left] = _read(field, values.take(left))
            texts[left] = np.where(offsets >= 0, texts[left] + offsets, -1)
    starts = np.where(texts >= 0, values.starts, -1)
    return Varying(tag, starts, values.lengths, texts, lengths, variants)


def _read(field: VaryingField, values: Slices) -> tuple[Positions, Positions, Positions]:
    """Offset of the text (-1: no column), its length, and the variant of each value."""
    buffer, ends = values.buffer.data, values.starts + values.lengths
    pieces = zip(values.starts.tolist(), ends.tolist(), strict=True)
    read = [field.read(bytes(buffer[start:end])) or (-1, 0, 0) for start, end in pieces]
    offsets, lengths, variants = np.array(read, np.intp).T
    return offsets, lengths, variants


def _fixed_parts(
    varying: dict[int, Varying], buffer: Bytes, starts: Positions, lengths: Positions
) -> FixedParts | None:
    """Cut the varying values out of the rows that have any."""
    if not varying:
        return None
    columns = list(varying.values())
    rows = np.logical_or.reduce([column.starts >= 0 for column in columns]).nonzero()[0]
    index = np.full(len(starts), -1, np.intp)
    index[rows] = np.arange(len(rows))
    begins, ends = starts[rows], starts[rows] + lengths[rows]
    cuts, sizes, heads = _cuts(columns, rows, ends)
    froms = np.column_stack((begins, cuts + sizes))
    matrix, fixed = _put_together(buffer, froms, np.column_stack((cuts, ends)) - froms, heads)
    return FixedParts(rows, matrix, fixed, index)


def _put_together(
    buffer: Bytes, starts: Positions, lengths: Positions, heads: npt.NDArray[np.uint32]
) -> tuple[Bytes, Positions]:
    """The pieces of each row side by side, each but the last ending in its new header.

    Gives a matrix with zeros behind the pieces, and how many bytes of each row are theirs.
    """
    reached = lengths.cumsum(axis=1)
    total = reached[:, -1].copy()
    width = -8 * (-int(total.max()) // 8)  # whole words
    matrix = np.zeros((len(starts), width), np.uint8)
    flat = matrix.reshape(-1)
    reached += np.arange(0, matrix.size, width)[:, np.newaxis]
    for piece in range(starts.shape[1]):  # the first ones of all rows are often of one length
        size = lengths[:, piece]
        copy_slices(buffer, starts[:, piece], flat, reached[:, piece] - size, size, widest=64)
    cut = heads != 0
    words(flat)[reached[:, :-1][cut] - 4] = heads[cut]
    return matrix, total


def _cuts(
    columns: list[Varying], rows: Positions, ends: Positions
) -> tuple[Positions, Positions, npt.NDArray[np.uint32]]:
    """What is cut out of each row, in order: start, length, and the header it leaves.

    A matrix each, a row per row and a column per cut; a cut that is none is empty and
    at the end, with a header of 0.
    """
    there = np.column_stack([column.starts[rows] >= 0 for column in columns])
    cuts = np.column_stack([column.starts[rows] for column in columns])
    cuts = np.where(there, cuts, ends[:, np.newaxis])
    sizes = np.column_stack([column.lengths[rows] for column in columns])
    heads = np.column_stack([_headers(column, rows) for column in columns])
    sizes, heads = sizes * there, heads * there
    if len(columns) == 1:
        return cuts, sizes, heads
    order = cuts.argsort(axis=1, kind="stable")
    return (
        np.take_along_axis(cuts, order, 1),
        np.take_along_axis(sizes, order, 1),
        np.take_along_axis(heads, order, 1),
    )


def _headers(column: Varying, rows: Positions) -> npt.NDArray[np.uint32]:
    """A kept field's header, as no kernel writes it: the second byte is never zero."""
    heads = column.tag | (1 + column.variants[rows]) << 8 | column.text_lengths[rows] << 16
    return heads.astype(np.uint32)
