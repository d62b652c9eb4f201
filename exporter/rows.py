"""The records of a batch as the encoder sees them: identities, and groups of equal rows.

A row's identity is everything its template may depend on, byte for byte: the columns in
templates.KEYED, what is derived from others, and the kept fields without what varies in
them (kept.py). A 64-bit key finds rows that are probably equal; they are compared before
anything is made of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.columns import (
    Bytes,
    Positions,
    Slices,
    as_numbers,
    equal_rows,
    low_bytes,
    multipliers,
    windows,
)
from waggle.exporter.kept import KeptFields
from waggle.exporter.peers import PeerTexts
from waggle.exporter.templates import (
    BODY_LIMIT,
    BODY_WIDTH,
    KEPT_COLUMNS,
    KEYED,
    PORT_WIDTH,
    TEXT_COLUMNS,
    Column,
    Meaning,
    ephemeral_ports,
    padded_varints,
    service_ports,
)
from waggle.spans import SpanBatch, Targets, decoder_of

Booleans = npt.NDArray[np.bool_]

# From this many rows on a group is looked at by itself: the fixed cost of that is what
# indexing costs for so many rows.
LARGE_GROUP = 48

_MAX_KEPT = 1024  # longer kept fields make templates that are not worth their memory
_MAX_RESOURCES = 1 << 24  # the group key has 24 bits for the resource
_PORT_VARINTS = padded_varints(np.arange(1 << 16, dtype=np.uint32), PORT_WIDTH).astype(np.uint32)
_HEAD: int = layout.EXCHANGE.fields["head"][1]  # type: ignore[index]
_PARENT: int = layout.EXCHANGE.fields["parent_id"][1]  # type: ignore[index]
_HIGH_BITS = np.uint64(0x8080808080808080)
_ID_FIELDS = {
    Column.TRACE_ID: "trace_id",
    Column.SPAN_ID: "span_id",
    Column.PARENT_ID: "parent_id",
}


def _runs(names: Iterable[str]) -> list[tuple[int, int]]:
    """Where in a record the named fields are, neighbours joined: (offset, length)."""
    runs: list[tuple[int, int]] = []
    for offset, size in sorted(_place(name) for name in names):
        if runs and sum(runs[-1]) == offset:
            runs[-1] = (runs[-1][0], runs[-1][1] + size)
        else:
            runs.append((offset, size))
    return runs


def _place(name: str) -> tuple[int, int]:
    kind, offset = layout.EXCHANGE.fields[name][:2]  # type: ignore[index]
    return offset, kind.itemsize


_IDENTITY_RUNS = _runs(KEYED)
_IDENTITY_SIZE = -8 * (-sum(length for _, length in _IDENTITY_RUNS) // 8)  # whole words
_MULTIPLIERS = multipliers(_MAX_KEPT // 8)
assert _IDENTITY_SIZE + 8 <= _MAX_KEPT  # one list of multipliers serves both


def _identity_place(name: str) -> int:
    """Where in an identity a keyed column is."""
    place, at = _place(name)[0], 0
    for offset, length in _IDENTITY_RUNS:
        if offset <= place < offset + length:
            return at + place - offset
        at += length
    raise KeyError(name)


_SHAPE, _PEER_ADDRESS, _KEPT_LENGTH = map(_identity_place, ("shape", "peer_addr", "kept_len"))


class Rows:
    """The records of a batch as columns: what is regular, what each one's identity is."""

    def __init__(self, batch: SpanBatch) -> None:
        self.batch = batch
        self._made: dict[Column, npt.NDArray[np.void]] = {}
        self.records = np.ascontiguousarray(batch.records)
        self.size = self.records.dtype.itemsize
        self.buffer: Bytes = self.records.view(np.uint8).reshape(-1)
        self.rows: Bytes = self.buffer.reshape(-1, self.size)
        self.heads = np.arange(len(self.records)) * self.size + _HEAD
        self.target_lengths = self.records["target_len"].astype(np.intp)
        self.kept_lengths = self.records["kept_len"].astype(np.intp)
        self.regular = self._within_bounds()
        self.queries, candidates = self._read_targets()
        self.regular = self._plain(candidates)
        if batch.events:  # no template has them
            ids = np.ascontiguousarray(self.records["span_id"]).view(np.uint64).reshape(-1)
            with_events = np.frombuffer(b"".join(batch.events), np.uint64)
            self.regular = self.regular & ~np.isin(ids, with_events)
        self.peers = PeerTexts(self.records)
        self.kept = self._kept_fields()
        self.identities = self._identities()
        self.keys = _mix(self.identities)

    def identity(self, row: int) -> bytes:
        """All that decides which template is the row's, byte for byte."""
        return bytes(self.identities[row].tobytes() + self.kept.fixed_bytes(row))

    def meaning(self, row: int) -> Meaning:
        """What of the row's identity is not to be read in its record."""
        return Meaning(
            int(self.queries[row]), int(self.peers.lengths[row]), self.kept.meanings(row)
        )

    def fixed_column(self, column: Column) -> npt.NDArray[np.void]:
        """A column of fixed width as it appears in a span, for all rows; worked out once."""
        made = self._made.get(column)
        if made is None:
            ids = column in _ID_FIELDS
            made = self._raw(_ID_FIELDS[column]) if ids else self._encoded(column)
            self._made[column] = made
        return made

    def values(self, column: Column, rows: Positions, width: int) -> npt.NDArray[np.void]:
        """A column of rows in one group, where also the texts are of one width."""
        these = slice(None) if len(rows) == len(self.records) else rows  # no need to look up
        if column not in TEXT_COLUMNS:
            return self.fixed_column(column)[these]
        if column in (Column.PATH, Column.QUERY):
            offset = 1 if column == Column.PATH else 1 + int(self.queries[rows[0]])
            return _strided(self.rows, width, _HEAD + offset)[these]
        texts = self.texts(column, rows)
        return windows(texts.buffer, width)[texts.starts]

    def texts(self, column: Column, rows: Positions) -> Slices:
        """A column of texts (one of templates.TEXT_COLUMNS) of some rows."""
        if column == Column.PEER:
            return self.peers.slices(rows)
        if column in KEPT_COLUMNS:
            return self.kept.varying[KEPT_COLUMNS[column]].texts(self.buffer, rows)
        heads, queries = self.heads[rows], self.queries[rows]
        if column == Column.PATH:
            return Slices(self.buffer, heads + 1, queries - 1)
        lengths = self.target_lengths[rows] - queries - 1
        return Slices(self.buffer, heads + queries + 1, lengths)

    def _raw(self, name: str) -> npt.NDArray[np.void]:
        """One field of all records as raw bytes, a void per row."""
        offset, length = _place(name)
        return _strided(self.rows, length, offset)

    def _encoded(self, column: Column) -> npt.NDArray[np.void]:
        records = self.records
        if column == Column.EPHEMERAL_PORT:
            return low_bytes(_PORT_VARINTS[ephemeral_ports(records)], PORT_WIDTH)
        if column == Column.REQUEST_BODY:
            return low_bytes(padded_varints(records["request_body"], BODY_WIDTH), BODY_WIDTH)
        if column == Column.RESPONSE_BODY:
            return low_bytes(padded_varints(records["response_body"], BODY_WIDTH), BODY_WIDTH)
        times = records["start_ns"]
        if column == Column.END:
            times = np.maximum(times, records["end_ns"])
        offset = np.uint64(self.batch.clock_offset_ns & 0xFFFFFFFFFFFFFFFF)
        return low_bytes(times + offset, 8)

    def _within_bounds(self) -> npt.NDArray[np.bool_]:
        records = self.records
        regular = self.target_lengths + self.kept_lengths <= self.size - _HEAD
        regular &= self.kept_lengths <= _MAX_KEPT
        regular &= (records["request_body"] < BODY_LIMIT) & (records["response_body"] < BODY_LIMIT)
        regular &= (self.batch.resources >= 0) & (self.batch.resources < _MAX_RESOURCES)
        return regular

    def _read_targets(self) -> tuple[Positions, npt.NDArray[np.bool_]]:
        """Where each target's first '?' is (else its length), and whether it is ASCII."""
        lengths = np.where(self.regular, self.target_lengths, 0)
        longest = int(lengths.max(initial=0))
        width = min(-8 * (-longest // 8), self.size - _HEAD)  # whole words
        if not width:
            return lengths, self.regular
        heads = np.ascontiguousarray(self.records["head"][:, :width])
        marks = heads == ord("?")
        first = marks.argmax(axis=1)
        found = marks.reshape(-1)[np.arange(0, marks.size, width) + first] & (first < lengths)
        return np.where(found, first, lengths), self.regular & _ascii(heads, lengths)

    def _plain(self, candidates: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Candidates whose target, by their protocol's word, may be copied."""
        plain = np.zeros(len(self.records), np.bool_)
        protocols = self.records["protocol"]
        targets = Targets(self.buffer, self.heads, self.target_lengths, self.queries)
        for protocol in np.bincount(protocols).nonzero()[0].tolist():
            decoder = decoder_of(protocol)
            rows = (candidates & (protocols == protocol)).nonzero()[0]
            if decoder is not None and len(rows):
                these = targets if len(rows) == len(plain) else targets.take(rows)
                plain[rows] = decoder.plain_targets(these)
        return plain

    def _kept_fields(self) -> KeptFields:
        regular = self.regular.nonzero()[0]
        starts = self.heads + self.target_lengths
        protocols = self.records["protocol"]
        return KeptFields(self.buffer, regular, starts, self.kept_lengths, protocols)

    def _identities(self) -> npt.NDArray[np.uint64]:
        """A few words a row: every column that is in templates.KEYED, and what is derived."""
        records = self.records
        matrix = np.empty((len(records), _IDENTITY_SIZE + 8), np.uint8)
        matrix[:, _IDENTITY_SIZE - 8 : _IDENTITY_SIZE] = 0  # whose end no column fills
        at = 0
        for offset, length in _IDENTITY_RUNS:
            _strided(matrix, length, at)[:] = _strided(self.rows, length, offset)
            at += length
        self._leave_out_peers(matrix)
        self._leave_out_varying(matrix)
        words: npt.NDArray[np.uint64] = matrix.view(np.uint64)
        words[:, -1] = service_ports(records)
        words[:, -1] |= self.queries.astype(np.uint64) << np.uint64(16)
        words[:, -1] |= self._has_parent().astype(np.uint64) << np.uint64(32)
        words[:, -1] |= self.peers.lengths.astype(np.uint64) << np.uint64(33)
        if self.kept.fixed is not None:
            words[self.kept.fixed.rows, -1] |= np.uint64(1 << 40)
        return words

    def _leave_out_peers(self, matrix: Bytes) -> None:
        """Of a peer that is a column only the length of its text is identity."""
        is_column = self.peers.lengths > 0
        if is_column.any():
            _strided(matrix, 16, _PEER_ADDRESS)[is_column] = np.void(bytes(16))

    def _leave_out_varying(self, matrix: Bytes) -> None:
        """A hash and a length that do not cover what varies in kept fields."""
        fixed = self.kept.fixed
        if fixed is not None:
            shapes = _mix(fixed.matrix.view(np.uint64)).view("V8")
            _strided(matrix, 8, _SHAPE)[fixed.rows] = shapes
            lengths = low_bytes(fixed.lengths.astype(np.uint16), 2)
            _strided(matrix, 2, _KEPT_LENGTH)[fixed.rows] = lengths

    def _has_parent(self) -> npt.NDArray[np.bool_]:
        ids = np.ndarray((len(self.rows),), np.uint64, self.buffer, _PARENT, (self.size,))
        return np.asarray(ids != 0, np.bool_)


def _ascii(heads: Bytes, lengths: Positions) -> npt.NDArray[np.bool_]:
    """Whether the first `lengths` bytes of each row of a contiguous matrix are ASCII."""
    ascii_only = np.ones(len(heads), np.bool_)
    # Kept fields lie behind short targets, so first the rows with any such byte.
    words = heads.view(np.uint64) & _HIGH_BITS
    if words.any():
        suspects = np.flatnonzero(words.any(axis=1))
        is_target = np.arange(heads.shape[1]) < lengths[suspects, np.newaxis]
        ascii_only[suspects] = ~((heads[suspects] >= 0x80) & is_target).any(axis=1)
    return ascii_only


@dataclass(frozen=True, slots=True)
class Groups:
    """The regular rows, ordered by resource, and within it by identity.

    rows: row numbers. group: the group of each of them. firsts: of each group the
    row that stands for it. counts: its size. equal: whether a row truly equals it.
    """

    rows: Positions
    group: Positions
    firsts: Positions
    counts: Positions
    equal: npt.NDArray[np.bool_]


def group_rows(rows: Rows, large: int = LARGE_GROUP) -> Groups:
    """large: from how many rows on a group is compared by itself."""
    regular = rows.regular.nonzero()[0]
    resources = rows.batch.resources[regular].astype(np.uint64)
    keys = (resources << np.uint64(40)) | (rows.keys[regular] >> np.uint64(24))
    if len(keys) and not (keys == keys[0]).all():
        order = np.argsort(keys)
        regular, keys = regular[order], keys[order]
    begins = np.ones(len(keys), np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=begins[1:])
    starts = begins.nonzero()[0]
    counts = np.diff(starts, append=len(keys))
    group = np.repeat(np.arange(len(starts)), counts)
    firsts = regular[starts]
    equal = _equal(rows, regular, starts, counts, large)
    return Groups(regular, group, firsts, counts, equal)


def _equal(
    rows: Rows, these: Positions, starts: Positions, counts: Positions, large: int
) -> Booleans:
    """Whether each of the rows, which are in order of their groups, equals its group's first."""
    equal = np.zeros(len(these), np.bool_)
    small: list[Positions] = []
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        if count >= large and _are_alike(rows, these[start : start + count]):
            equal[start : start + count] = True
        else:
            small.append(np.arange(start, start + count))
    if small:
        left = np.concatenate(small)
        firsts = np.repeat(these[starts], counts)
        equal[left] = _equal_pairs(rows, these[left], firsts[left])
    return equal


def _are_alike(rows: Rows, these: Positions) -> bool:
    """Whether all of these rows surely have the same identity and the same kept bytes."""
    if rows.kept.fixed is not None:
        return False
    everyone = slice(None) if len(these) == len(rows.records) else these
    first = int(these[0])
    if not (rows.identities[everyone] == rows.identities[first]).all():
        return False
    length = int(rows.kept_lengths[first])
    kept = _strided(rows.rows, length, _HEAD + int(rows.target_lengths[first]))
    return not length or kept[everyone].tobytes() == kept[first].tobytes() * len(these)


def _equal_pairs(rows: Rows, these: Positions, those: Positions) -> Booleans:
    """Whether the identities and the kept bytes of two rows are the same, pair by pair."""
    identities = rows.identities
    voids = _strided(identities, identities.shape[1] * 8, 0)
    equal = equal_rows(as_numbers(voids[these]), as_numbers(voids[those]))
    pairs = equal.nonzero()[0]  # so their lengths are the same too
    these, those = these[pairs], those[pairs]
    equal[pairs] = rows.kept.equal(these, those)
    return equal


def _strided(
    matrix: npt.NDArray[np.unsignedinteger], length: int, offset: int
) -> npt.NDArray[np.void]:
    """`length` bytes at `offset` of each row of a contiguous matrix, one void a row."""
    return np.ndarray((len(matrix),), f"V{length}", matrix, offset, (matrix.strides[0],))


def _mix(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A 64-bit key of each row of words; multipliers differ from run to run."""
    keys: npt.NDArray[np.uint64] = words @ _MULTIPLIERS[: words.shape[1]]
    keys ^= keys >> np.uint64(32)
    keys *= _MULTIPLIERS[0]
    return keys
