"""A stage of the pipeline: the kernel's numbers for places in code -> indexes of lines.

The kernel tells each code object and each place once (struct waggle_code_event), copied
at the moment of a call, so nothing is read of a process that may have ended. What it has
told is found here by one look per different number in a batch.
"""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.callsites import SITES, Site, SiteTable
from waggle.capture import Capture
from waggle.columns import Positions, windows, words
from waggle.layout import CodeEventKind, CodeKind, Kept, Role
from waggle.layout import Protocol as Wire
from waggle.libbpf import Map
from waggle.probes.python import line_table, owners
from waggle.probes.python.text import read_str
from waggle.spans import Records

MAX_CODES = 16384
MAX_PLACES = 65536
_MAX_PIECES = 256  # line tables of which the rest has not come yet

_HEAD: int = layout.EXCHANGE.fields["head"][1]  # type: ignore[index]
_FIELD = 12  # header and number
_HEADER = np.uint32(Kept.CALL_SITE | 8 << 16)
_KIND_MASK = 3  # lowest bits of a slot of `code_kinds`
_PLACE_SHIFT = 40  # where in a key its slot is said

Slots = npt.NDArray[np.uint64]


class CodeSource(Protocol):
    """The ring of code events, or what stands in for it."""

    def pending(self) -> int: ...

    def read(self, max_records: int = ...) -> Records: ...


@dataclass(frozen=True, slots=True)
class Code:
    """A code object. lines: None where its table is not to be had."""

    kind: CodeKind
    file: str
    function: str
    lines: line_table.LineTable | None


@dataclass(slots=True)
class CallSiteStats:
    """Code objects and places told so far, and what became of them."""

    codes: int = 0
    places: int = 0
    unreadable: int = 0  # code objects without a name or a line table
    unresolved: int = 0  # places in code objects that are not known
    forgotten: int = 0  # times that everything was, as it was too much


class CallSites:
    """The stage. Not for two threads at once.

    kinds, told: the values of the kernel's maps `code_kinds` and `code_told`, shared with it.
    """

    def __init__(
        self, source: CodeSource, kinds: Slots, told: Slots, table: SiteTable = SITES
    ) -> None:
        self.stats = CallSiteStats()
        self._source = source
        self._kinds = kinds
        self._told = told
        self._table = table
        self._codes: dict[int, Code] = {}
        self._places: dict[int, int] = {}
        self._pieces: dict[int, bytes] = {}

    def poll(self) -> None:
        """Take what waits in the ring of code events."""
        while self._source.pending():
            events = self._source.read()
            if not len(events):
                return  # the next one is still being written
            for event in events:
                self._add(event)

    def process(self, records: Records) -> Sequence[Records]:
        """The same records; what stands for a place is now its index, 0 where it has no line."""
        calls = (records["role"] == Role.CLIENT) & (records["protocol"] == Wire.HTTP1)
        calls &= records["kept_len"] >= _FIELD
        if not calls.any():
            return (records,)
        records = np.ascontiguousarray(records)
        buffer = records.view(np.uint8).reshape(-1)
        ends = _ends_of_heads(records, calls.nonzero()[0])
        numbers = ends[words(buffer)[ends - _FIELD] == _HEADER] - 8
        if len(numbers):
            self.poll()
            of_rows = windows(buffer, 8)[numbers].view(np.uint64)
            different, which = np.unique(of_rows, return_inverse=True)
            indexes = [self._places.get(number, 0) for number in different.tolist()]
            windows(buffer, 8)[numbers] = np.array(indexes, np.uint64)[which].view("V8")
        return (records,)

    # -- What the kernel tells -------------------------------------------------------------

    def _add(self, event: np.void) -> None:
        if event["kind"] == CodeEventKind.OBJECT:
            self._add_piece(event)
        elif event["kind"] == CodeEventKind.SITE:
            self._add_place(event)

    def _add_piece(self, event: np.void) -> None:
        """A code object whose line table comes in pieces, in order."""
        number = int(event["id"])
        offset, size = int(event["offset"]), int(event["table_size"])
        table = self._pieces.pop(number, b"") if offset else b""
        table += event["line_table"][: event["length"]].tobytes()
        whole = len(table) >= size
        if not whole and len(table) == offset + len(event["line_table"]):
            if len(self._pieces) >= _MAX_PIECES:
                self._pieces.clear()
            self._pieces[number] = table
        self._add_code(number, event, table if whole else None)

    def _add_code(self, number: int, event: np.void, table: bytes | None) -> None:
        text = int(event["text"])
        file = read_str(event["file_name"][: event["file_name_size"]].tobytes(), text)
        function = read_str(event["function"][: event["function_size"]].tobytes(), text)
        lines = None
        if table is not None:
            try:
                lines = line_table.parse(table, int(event["first_line"]))
            except line_table.MalformedError:
                self.stats.unreadable += 1
        if file is None or function is None:
            self.stats.unreadable += 1
        kind = CodeKind.LOOP  # nobody's line is better than a wrong one
        if file is not None and function is not None:
            kind = owners.judge(file, function, bool(event["runs_loop"]))
        self._make_room()
        self.stats.codes += number not in self._codes
        self._codes[number] = Code(kind, file or "", function or "", lines)
        self._tell_kind(number & ~_KIND_MASK, kind)
        key = int(event["kind_key"])
        if key and kind != CodeKind.APPLICATION and not owners.is_made_up(file or ""):
            self._tell_kind(key, kind)

    def _add_place(self, event: np.void) -> None:
        number = int(event["id"])
        self._make_room()
        self.stats.places += 1
        for i in range(int(event["frames"])):
            code = self._codes.get(int(event["codes"][i]))
            if code is None:
                self.stats.unresolved += 1
                self._untell(number)
                return
            if code.kind == CodeKind.APPLICATION:
                line = code.lines.line_at(int(event["offsets"][i])) if code.lines else 0
                self._places[number] = self._table.add(Site(code.file, code.function, line))
                return
            if code.kind == CodeKind.LOOP:
                break
        self._places[number] = 0

    def _make_room(self) -> None:
        """At a bound everything is forgotten, and the kernel tells it again."""
        if len(self._codes) < MAX_CODES and len(self._places) < MAX_PLACES:
            return
        self._codes.clear()
        self._places.clear()
        self._pieces.clear()
        self._told[:] = 0
        self.stats.forgotten += 1

    # -- What the kernel is told -------------------------------------------------------------

    def _tell_kind(self, key: int, kind: CodeKind) -> None:
        at = key >> _PLACE_SHIFT & (len(self._kinds) - 2)
        first, second = self._kinds[at : at + 2].tolist()
        if first & ~_KIND_MASK != key and first:
            at += second & ~_KIND_MASK == key or not second or key >> 8 & 1
        self._kinds[at] = key | kind

    def _untell(self, number: int) -> None:
        at = number >> _PLACE_SHIFT & (len(self._told) - 2)
        for slot in (at, at + 1):
            if self._told[slot] == number:
                self._told[slot] = 0


def call_sites(capture: Capture) -> CallSites:
    """The stage over what the kernel side shares."""
    return CallSites(
        capture.codes, _shared(capture.bpf.map("code_kinds")), _shared(capture.bpf.map("code_told"))
    )


def _shared(values: Map) -> Slots:
    """The only value of a map, as the kernel sees it; mapped until the last use ends."""
    return np.frombuffer(mmap.mmap(values.fd, values.value_size), np.uint64)


def _ends_of_heads(records: Records, rows: Positions) -> Positions:
    """Where in the batch's bytes the kept fields of some rows end, but of those that are cut."""
    lengths = records["target_len"][rows].astype(np.intp) + records["kept_len"][rows]
    fits = lengths <= records.dtype.itemsize - _HEAD
    ends: Positions = rows[fits] * records.dtype.itemsize + _HEAD + lengths[fits]
    return ends
