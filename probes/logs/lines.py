"""From pieces of writes to log records: by columns, line by line only where lines belong together.

    pieces -> sorted by thread and stream -> one text, in which the writes of a thread to a stream
    lie one behind the other -> lines -> heads (formats.py) -> records (tracebacks.py)

A record has the ids of the request that its write belongs to. Of a write that holds several
records nobody knows when each was written: a buffer may have kept them since other requests. So
they have none, and neither has a record whose writes belong to different requests.

What may go on (a line without its end, a traceback) waits in `_Carry` for a bounded time.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.columns import Bytes, Positions, gather_bytes, windows
from waggle.probes.logs.formats import Head, read_head
from waggle.probes.logs.tracebacks import BEGINNINGS, group, is_second_line, names_error
from waggle.spans import Attributes, Records

Mask = npt.NDArray[np.bool_]

MAX_LINE = 16_384
PARTIAL_NS = 1_000_000_000  # a line waits so long for its end,
OPEN_NS = 100_000_000  # a traceback for more lines
MAX_CARRIED = 64 << 10  # bytes of one thread's line or traceback that wait
MAX_CARRIED_PIECES = 16_384

_SKIPPED = ("ring_length", "ring_page", "bytes", "reserved")
FACTS = np.dtype(
    [
        (name, layout.LOG.fields[name][0])  # type: ignore[index]
        for name in layout.LOG.names or ()
        if name not in _SKIPPED
    ]
)
_BYTES_AT: int = layout.LOG.fields["bytes"][1]  # type: ignore[index]
_OWNER = ("link", "parent_id", "context", "trace_id", "span_id", "flags", "trace_flags")
_BEGINNINGS = np.array([int.from_bytes(text, "little") for text in BEGINNINGS], np.uint64)
_SEVEN_BYTES = np.uint64((1 << 56) - 1)

# Bytes that no text has: C0 without tab, line ends, form feed, bell, backspace and escape.
_NO_TEXT = np.zeros(256, np.bool_)
_NO_TEXT[[*range(7), *range(14, 27), 28, 29, 30, 31]] = True


@dataclass(slots=True)
class LineStats:
    """Records by what became of them; bytes that were left out of records. binary: records that
    are no text. cut: longer than what is kept of one. broken: without their end or beginning,
    since a write of the process was not recorded."""

    records: int = 0
    binary: int = 0
    cut: int = 0
    broken: int = 0


@dataclass(slots=True)
class Entries:
    """Log records in columns: row i's text is text[starts[i]:][:lengths[i]].

    facts: of the first write, as layout.LOG has them; without ids where none are sure.
    heads: what each says of itself.
    """

    text: Bytes
    starts: Positions
    lengths: Positions
    facts: npt.NDArray[np.void]
    heads: list[Head | None]
    cut: Mask
    extra: dict[int, Attributes] = field(default_factory=dict)  # of single rows

    @classmethod
    def none(cls) -> "Entries":
        none = np.empty(0, np.intp)
        return cls(np.empty(0, np.uint8), none, none, np.empty(0, FACTS), [], np.empty(0, np.bool_))

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, rows: Positions) -> "Entries":
        """Some of the rows, with nothing but their own text."""
        lengths = self.lengths[rows]
        return Entries(
            gather_bytes(self.text, self.starts[rows], lengths),
            np.cumsum(lengths) - lengths,
            lengths,
            self.facts[rows],
            [self.heads[row] for row in rows.tolist()],
            self.cut[rows],
            {n: self.extra[row] for n, row in enumerate(rows.tolist()) if row in self.extra},
        )

    def one(self, row: int) -> bytes:
        start = int(self.starts[row])
        return self.text[start : start + int(self.lengths[row])].tobytes()


@dataclass(slots=True)
class _Pieces:
    """Facts of pieces, in order, and their bytes, one behind the other."""

    facts: npt.NDArray[np.void]
    text: Bytes

    @classmethod
    def none(cls) -> "_Pieces":
        return cls(np.empty(0, FACTS), np.empty(0, np.uint8))

    @classmethod
    def read(cls, records: Records) -> "_Pieces":
        facts = np.empty(len(records), FACTS)
        for name in FACTS.names or ():
            facts[name] = records[name]
        raw = np.ascontiguousarray(records).view(np.uint8).reshape(-1)
        starts = np.arange(len(records)) * records.dtype.itemsize + _BYTES_AT
        return cls(facts, gather_bytes(raw, starts, facts["length"].astype(np.intp)))

    def behind(self, others: "_Pieces") -> "_Pieces":
        if not len(others.facts):
            return self
        return _Pieces(
            np.concatenate([others.facts, self.facts]), np.concatenate([others.text, self.text])
        )

    def take(self, rows: Positions) -> "_Pieces":
        lengths = self.facts["length"].astype(np.intp)
        starts = np.cumsum(lengths) - lengths
        return _Pieces(self.facts[rows], gather_bytes(self.text, starts[rows], lengths[rows]))


def same_owner(facts: npt.NDArray[np.void]) -> Mask:
    """Whether each piece belongs to what the one before it does. Ids that may stand for others
    differ from write to write: there the context tells."""
    same = np.ones(len(facts), np.bool_)
    for name in ("link", "context", "tgid"):
        same[1:] &= facts[name][1:] == facts[name][:-1]
    same[1:] &= (facts["parent_id"][1:] == facts["parent_id"][:-1]).all(1)
    if len(same):
        same[0] = False
    return same


@dataclass(slots=True)
class Assembler:
    """Makes records of what the ring holds. max_line: bytes kept of one record."""

    max_line: int = MAX_LINE
    stats: LineStats = field(default_factory=LineStats)
    _carried: _Pieces = field(default_factory=_Pieces.none)

    def add(self, records: Records, now_ns: int, *, last: bool = False) -> Entries:
        """Records of layout.LOG, oldest first, and the time; last: nothing more will come."""
        pieces = _Pieces.read(records).behind(self._carried)
        if not len(pieces.facts):
            self._carried = pieces
            return Entries.none()
        order = np.lexsort([pieces.facts[name] for name in ("inode", "device", "tid", "tgid")])
        batch = _Batch(pieces.take(order), now_ns, last=last)
        self._carried = batch.carried()
        if len(self._carried.facts) > MAX_CARRIED_PIECES:
            batch = _Batch(pieces.take(order), now_ns, last=True)
            self._carried = _Pieces.none()
        self.stats.broken += batch.broken
        return self._finish(batch)

    def waits(self) -> bool:
        """Whether something waits for more."""
        return bool(len(self._carried.facts))

    def _finish(self, batch: "_Batch") -> Entries:
        entries = batch.entries()
        unreadable = _rows_with(entries, _NO_TEXT[entries.text])
        if unreadable.any():
            self.stats.binary += int(unreadable.sum())
            entries = _select(entries, ~unreadable)
        too_long = entries.lengths > self.max_line
        entries.cut |= too_long
        entries.lengths = np.minimum(entries.lengths, self.max_line)
        self.stats.cut += int(entries.cut.sum())
        self.stats.records += len(entries)
        return entries


class _Batch:
    """Pieces, sorted by thread and stream, on their way to records."""

    def __init__(self, pieces: _Pieces, now_ns: int, *, last: bool) -> None:
        self._facts, self._text = pieces.facts, pieces.text
        self._now_ns, self._last = now_ns, last
        self._ends = np.cumsum(self._facts["length"].astype(np.intp))
        self._begins = self._ends - self._facts["length"]
        self._find_writes()
        self._find_lines()
        self._read_heads()
        self._group()

    def _find_writes(self) -> None:
        facts = self._facts
        count = len(facts)
        same_run = np.zeros(count, np.bool_)
        same_run[1:] = True
        for name in ("inode", "device", "tid", "tgid"):
            same_run[1:] &= facts[name][1:] == facts[name][:-1]
        reached = facts["offset"] + facts["length"]
        follows = same_run.copy()
        follows[1:] &= (facts["offset"][1:] == reached[:-1]) & (facts["offset"][1:] > 0)
        follows[1:] &= facts["time_ns"][1:] == facts["time_ns"][:-1]
        self._write = np.cumsum(~follows) - 1
        self._run = np.cumsum(~same_run) - 1
        self._ends_run = np.append(~same_run[1:], True)
        ends_write = np.append(~follows[1:], True)
        unfinished = ends_write & (reached < facts["kept"])
        # At the end of a run the rest of a write may still come.
        self._rest_comes = unfinished & self._ends_run
        hole = np.zeros(count, np.bool_)
        hole[:-1] = same_run[1:] & (facts["lost"][1:] != facts["lost"][:-1])
        hole |= ends_write & (facts["kept"] < facts["written"]) & ~self._rest_comes
        hole |= unfinished & ~self._ends_run
        self._breaks = hole | self._ends_run
        self.broken = int(hole.sum())

    def _find_lines(self) -> None:
        ends = np.union1d(np.flatnonzero(self._text == 10) + 1, self._ends[self._breaks])
        starts = np.concatenate(([0], ends[:-1]))
        whole = self._text[ends - 1] == 10
        lengths = ends - starts - whole
        carriage = (lengths > 0) & (self._text[starts + lengths - 1] == 13)
        self._line_starts, self._line_ends, self._whole = starts, ends, whole
        self._line_lengths = lengths - carriage
        self._first = np.searchsorted(self._begins, starts, "right") - 1
        self._final = np.searchsorted(self._begins, ends - 1, "right") - 1
        self._line_run = self._run[self._first]

    def _read_heads(self) -> None:
        text = self._text.tobytes()
        bounds = zip(self._line_starts.tolist(), self._line_lengths.tolist(), strict=True)
        self._heads = [read_head(text[at : at + size]) if size else None for at, size in bounds]
        self._bytes = text

    def _group(self) -> None:
        """Which lines continue the one before them; which runs may go on."""
        has_head = np.fromiter((head is not None for head in self._heads), np.bool_)
        write = self._write[self._first]
        numbers = np.arange(len(write))
        headed = np.maximum.accumulate(np.where(has_head, numbers, -1))
        self._continues = ~has_head & (headed >= 0) & (write[headed] == write)
        self._has_head = has_head
        self._open = np.zeros(int(self._run[-1]) + 1, np.bool_)
        for run in np.unique(self._line_run[self._may_belong()]).tolist():
            self._follow(run)
        self._end_blanks()

    def _may_belong(self) -> Mask:
        """Lines that look like a part of a traceback, or behind which one may follow."""
        padded = np.concatenate([self._text, np.zeros(8, np.uint8)])
        firsts = windows(padded, 8)[self._line_starts].view("<u8") & _SEVEN_BYTES
        byte = firsts & np.uint64(0xFF)
        found: Mask = (byte == 32) | (byte == 9) | np.isin(firsts, _BEGINNINGS)
        for line in np.flatnonzero(np.append(np.diff(self._line_run) != 0, True)).tolist():
            found[line] |= names_error(self._line(line))
        return found

    def _follow(self, run: int) -> None:
        first, end = np.searchsorted(self._line_run, [run, run + 1]).tolist()
        lines = [self._line(number) for number in range(first, end)]
        continues = self._continues[first:end].tolist()
        heads = self._has_head[first:end].tolist()
        for number in range(1, len(lines)):
            if heads[number] and is_second_line(lines[number - 1], lines[number]):
                continues[number] = True
                self._heads[first + number - 1] = self._heads[first + number]
        grouping = group(lines, continues, heads)
        self._continues[first:end] = grouping.continues
        self._open[run] = grouping.open

    def _line(self, number: int) -> bytes:
        start = int(self._line_starts[number])
        return self._bytes[start : start + int(self._line_lengths[number])]

    def _end_blanks(self) -> None:
        """Empty lines are in a record only where more of it follows."""
        blank = self._line_lengths == 0
        numbers = np.flatnonzero(~blank)
        following = np.searchsorted(numbers, np.flatnonzero(blank), "right")
        known = following < len(numbers)
        goes_on = np.zeros(len(known), np.bool_)
        goes_on[known] = self._continues[numbers[following[known]]]
        self._continues[np.flatnonzero(blank)] &= goes_on
        self._begins_record = ~blank & ~self._continues

    def carried(self) -> _Pieces:
        """The pieces of what may go on, without what is a record already; after it, those records
        are none of this batch's."""
        lines = np.flatnonzero(self._begins_record)
        self._records = lines
        self._keep = np.ones(len(lines), np.bool_)
        if self._last or not len(self._line_starts):
            return _Pieces.none()
        wanted: list[tuple[int, int]] = []  # from this byte to the run's end
        ends = np.flatnonzero(self._ends_run)
        for run, end in enumerate(ends.tolist()):
            begin = self._carry_from(run, end)
            if begin is not None:
                wanted.append((begin, int(self._ends[end])))
        return self._cut_out(wanted)

    def _carry_from(self, run: int, end: int) -> int | None:
        first, behind = np.searchsorted(self._line_run, [run, run + 1]).tolist()
        partial = not self._whole[behind - 1] or bool(self._rest_comes[end])
        if not (partial or self._open[run]):
            return None
        patience = PARTIAL_NS if partial else OPEN_NS
        if self._now_ns - int(self._facts["time_ns"][end]) > patience:
            return None
        line = behind - 1
        if self._rest_comes[end]:  # nobody knows yet how many records the write holds
            begin = int(self._begins[np.searchsorted(self._write, self._write[end])])
            line = min(line, int(np.searchsorted(self._line_ends, begin, "right")))
        while line > first and not self._begins_record[line]:
            line -= 1
        start = int(self._line_starts[line])
        return start if int(self._ends[end]) - start <= MAX_CARRIED else None

    def _cut_out(self, wanted: list[tuple[int, int]]) -> _Pieces:
        if not wanted:
            return _Pieces.none()
        parts = [self._pieces_from(begin, end) for begin, end in wanted]
        begins = np.array([begin for begin, _ in wanted])
        ends = np.array([end for _, end in wanted])
        at = self._line_starts[self._records]
        inside = np.searchsorted(begins, at, "right") - 1
        self._keep = (inside < 0) | (at >= ends[inside])
        return _Pieces(
            np.concatenate([part.facts for part in parts]),
            np.concatenate([part.text for part in parts]),
        )

    def _pieces_from(self, begin: int, end: int) -> _Pieces:
        first = int(np.searchsorted(self._ends, begin, "right"))
        last = int(np.searchsorted(self._ends, end, "left")) + 1
        facts = self._facts[first:last].copy()
        skipped = begin - int(self._begins[first])
        if skipped:
            facts["offset"][0] += skipped
            facts["length"][0] -= skipped
            # The write holds another record as well.
            _forget_owner(facts, facts["time_ns"] == facts["time_ns"][0])
        return _Pieces(facts, self._text[begin:end].copy())

    def entries(self) -> Entries:
        lines = self._records
        if not len(lines):
            return Entries.none()
        last = self._last_lines(lines)
        starts = self._line_starts[lines]
        lengths = self._line_starts[last] + self._line_lengths[last] - starts
        facts = self._facts[self._first[lines]].copy()
        _forget_owner(facts, ~self._sure(lines, last))
        cut = self._facts["kept"] < self._facts["written"]
        heads = [self._heads[line] for line in lines.tolist()]
        entries = Entries(self._text, starts, lengths, facts, heads, cut[self._final[last]])
        return entries if self._keep.all() else _select(entries, self._keep)

    def _last_lines(self, lines: Positions) -> Positions:
        """The last line of each record: the last that continues it."""
        following = np.append(lines[1:], len(self._line_starts)) - 1
        belongs = self._continues | self._begins_record
        latest = np.maximum.accumulate(np.where(belongs, np.arange(len(belongs)), -1))
        found: Positions = latest[following]
        return found

    def _sure(self, lines: Positions, last: Positions) -> Mask:
        """Records that have their writes for themselves, all of one owner."""
        write_first = self._write[self._first[lines]]
        write_last = self._write[self._final[last]]
        alone = np.ones(len(lines), np.bool_)
        shared = write_last[:-1] == write_first[1:]
        alone[:-1] &= ~shared
        alone[1:] &= ~shared
        changes = np.cumsum(~same_owner(self._facts))
        one_owner: Mask = changes[self._first[lines]] == changes[self._final[last]]
        return alone & one_owner


def _forget_owner(facts: npt.NDArray[np.void], which: Mask) -> None:
    for name in _OWNER:
        if name == "flags":
            facts[name][which] &= np.uint16(layout.Flag.PROVISIONAL)
        else:
            facts[name][which] = 0


def _rows_with(entries: Entries, marked: Mask) -> Mask:
    """Records in whose text something is marked."""
    if not marked.any():
        return np.zeros(len(entries), np.bool_)
    so_far = np.concatenate(([0], np.cumsum(marked)))
    found: Mask = so_far[entries.starts + entries.lengths] > so_far[entries.starts]
    return found


def _select(entries: Entries, which: Mask) -> Entries:
    rows = np.flatnonzero(which)
    heads = [entries.heads[row] for row in rows.tolist()]
    return Entries(
        entries.text,
        entries.starts[rows],
        entries.lengths[rows],
        entries.facts[rows],
        heads,
        entries.cut[rows],
    )
