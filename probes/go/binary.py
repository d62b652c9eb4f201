"""What Waggle reads of a Go program's file: its versions, and where its functions are.

Every Go program carries `.gopclntab`, stripped or not: the runtime itself needs names
and entries of all functions for its stack traces. The layout has changed three times
(Go 1.16, 1.18, 1.20; `src/internal/abi/symtab.go` and `src/debug/gosym/pclntab.go` in
Go's source have the numbers). The build information (`debug/buildinfo`) has the version
of Go and of every module.

    program = read_program("/proc/4121/exe", lambda: [...])

Files are read in pieces, of which one is in memory at a time: a program of hundreds of
megabytes costs what its table of functions does. Answers are kept per build.
"""

import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from waggle.elf import Image, Segment

if TYPE_CHECKING:  # takes long to import, and few runs meet a Go program
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import Section
    from elftools.elf.segments import Segment as ElfSegment

_PIECE = 4 << 20
_LONGEST_NAME = 4096
_MAX_FUNCTIONS = 8 << 20
_MAX_FUNCTION_SIZE = 1 << 20
_MAX_BUILD_INFO = 1 << 20

_TABLES = (".gopclntab", ".data.rel.ro.gopclntab")
# C's linker puts the table of position independent programs among other data.
_AMONG = ".data.rel.ro"
_MAGIC_1_16, _MAGIC_1_18, _MAGIC_1_20 = 0xFFFFFFFA, 0xFFFFFFF0, 0xFFFFFFF1
_POINTER = 8
_EXECUTED = 1  # PF_X
# How a table begins: its magic, two zeros, the smallest size of an instruction, that of a pointer.
_BEGINNING = re.compile(rb"[\xfa\xf0\xf1]\xff\xff\xff\0\0[\x01\x04]\x08")
# Of runtime.moduledata (src/runtime/symtab.go): pcHeader, six slices, findfunctab, minpc, maxpc.
_MODULE_TEXT = _POINTER * (1 + 3 * 6 + 3)
_RELATIVE = 8  # R_X86_64_RELATIVE; arm64 calls its own 1027
_RELATIVES = (_RELATIVE, 1027)

_NOTE_HEAD = 16  # of .note.go.buildid: three numbers, and "Go"
_INFO_MAGIC = b"\xff Go buildinf:"
_INFO_INLINE = 2  # the strings follow the head (Go 1.18)
_INFO_HEAD = 32
_MODULE_FENCE = 16  # bytes around the text of the modules that are no text


class NoGoProgramError(ValueError):
    """The file is no Go program, or none that can be read. Says what is missing."""


@dataclass(frozen=True, slots=True)
class Function:
    """address: as in the file. size: to the next function, padding included."""

    name: str
    address: int
    size: int


@dataclass(frozen=True, slots=True)
class GoProgram:
    """A Go program, as its file tells.

    version: of Go, as "1.26.8"; "" when it does not say. modules: path -> version, with
    what replaced a module in its place. functions: those that were asked for, by name.
    code: virtual addresses between which lies what is executed. low, high: all that the file has.
    """

    version: str
    modules: dict[str, str]
    functions: dict[str, Function]
    image: Image
    code: tuple[int, int]

    @property
    def low(self) -> int:
        return min(segment.address for segment in self.image.segments)

    @property
    def high(self) -> int:
        return max(segment.address + segment.size for segment in self.image.segments)


def read_program(path: str, names: Iterable[str], prefixes: Iterable[str]) -> GoProgram:
    """The functions of these names, and all whose names begin so.

    path: as it can be opened from here. Raises NoGoProgramError, and OSError when the
    file cannot be read.
    """
    with Path(path).open("rb") as stream:
        state = Path(f"/proc/self/fd/{stream.fileno()}").stat()
        identity = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        file = _File(stream, identity)
        return _read_program(file, tuple(sorted(names)), tuple(sorted(prefixes)))


def name_at(path: str, address: int) -> str:
    """The name of the function that begins at an address of the file; "" where none does.

    Raises NoGoProgramError, and OSError when the file cannot be read.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    with Path(path).open("rb") as stream:
        try:
            return _Table.of(ELFFile(stream)).name_at(address)
        except (ELFError, struct.error, KeyError, IndexError, ValueError) as error:
            if isinstance(error, NoGoProgramError):
                raise
            raise NoGoProgramError(f"its tables cannot be read: {error}") from error


def build_id(path: str) -> str:
    """What Go's linker calls the program by: another for every other content, and the same in
    every file system that has a copy. "" where it has none. Raises OSError."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    with Path(path).open("rb") as stream:
        try:
            note = _section(ELFFile(stream), ".note.go.buildid")
            found = note.data()[_NOTE_HEAD:] if note is not None else b""
        except (ELFError, ValueError):
            return ""
        size = stream.seek(0, 2)
    return f"{found.hex()} {size}" if found.strip(b"\0") else ""


def code_of(path: str, program: GoProgram, function: Function, most: int = 4096) -> bytes:
    """The machine code of a function, at most so many bytes of it."""
    offset = program.image.file_offset(function.address)
    if offset is None:
        raise NoGoProgramError(f"{function.name} lies outside of the file")
    with Path(path).open("rb") as stream:
        stream.seek(offset)
        return stream.read(min(function.size, most))


@dataclass(frozen=True, slots=True)
class _File:
    """An open file that is compared as the file that it is."""

    stream: IO[bytes]
    identity: tuple[int, int, int, int]

    def __hash__(self) -> int:
        return hash(self.identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _File) and self.identity == other.identity


@lru_cache(maxsize=256)
def _read_program(file: _File, names: tuple[str, ...], prefixes: tuple[str, ...]) -> GoProgram:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        elf = ELFFile(file.stream)
        loaded = list(elf.iter_segments("PT_LOAD"))
        segments = tuple(Segment(s["p_offset"], s["p_vaddr"], s["p_filesz"]) for s in loaded)
        version, modules = _build_info(elf)
        table = _Table.of(elf)
        functions = table.find(names, prefixes)
        return GoProgram(version, modules, functions, Image(segments, {}), _code(loaded))
    except (ELFError, struct.error, KeyError, IndexError, ValueError) as error:
        if isinstance(error, NoGoProgramError):
            raise
        raise NoGoProgramError(f"its tables cannot be read: {error}") from error


def _code(loaded: Iterable["ElfSegment"]) -> tuple[int, int]:
    """As the kernel reckons mm->start_code and end_code when it executes a file."""
    parts = [(s["p_vaddr"], s["p_filesz"]) for s in loaded if s["p_flags"] & _EXECUTED]
    return min(at for at, _ in parts), max(at + size for at, size in parts)


# -- Names and entries ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """Some bytes of the file."""

    stream: IO[bytes]
    start: int
    size: int

    def at(self, offset: int, size: int) -> bytes:
        if offset < 0 or offset > self.size:
            raise NoGoProgramError("its table of functions points outside of itself")
        self.stream.seek(self.start + offset)
        return self.stream.read(min(size, self.size - offset))

    def pieces(self, overlap: int) -> Iterator[tuple[int, bytes]]:
        """(offset, bytes) one after the other, each beginning with the end of the one before."""
        for offset in range(0, self.size, _PIECE):
            start = max(0, offset - overlap)
            yield start, self.at(start, offset + _PIECE - start)


@dataclass(frozen=True, slots=True)
class _Table:
    """.gopclntab. text: the address that entries count from; 0 where they are addresses."""

    part: _Part
    text: int
    count: int
    names: int
    functions: int
    is_wide: bool  # entries of functions are addresses of eight bytes (before Go 1.18)

    @classmethod
    def of(cls, elf: "ELFFile") -> "_Table":
        section = _section(elf, *_TABLES)
        if section is not None:
            part = _Part(elf.stream, section["sh_offset"], section["sh_size"])
            return cls._read(elf, part, section["sh_addr"])
        section = _section(elf, _AMONG)
        if section is None:
            raise NoGoProgramError("it has no .gopclntab")
        whole = _Part(elf.stream, section["sh_offset"], section["sh_size"])
        for at in _beginnings(whole):
            part = _Part(elf.stream, whole.start + at, whole.size - at)
            with suppress(NoGoProgramError):
                return cls._read(elf, part, section["sh_addr"] + at)
        raise NoGoProgramError("it has no .gopclntab, and no such table among its data")

    @classmethod
    def _read(cls, elf: "ELFFile", part: _Part, address: int) -> "_Table":
        head = part.at(0, 8 + 8 * _POINTER)
        magic, _, _, pointer = struct.unpack_from("<IHBB", head)
        if pointer != _POINTER:
            raise NoGoProgramError(f"its pointers have {pointer} bytes")
        words = struct.unpack_from("<8Q", head, 8)
        if magic == _MAGIC_1_16:
            return cls._checked(part, 0, words[0], words[2], words[6], True)
        if magic in (_MAGIC_1_18, _MAGIC_1_20):
            text = _text_start(elf, address + 8 + 2 * _POINTER, words[2])
            return cls._checked(part, text, words[0], words[3], words[7], False)
        raise NoGoProgramError(f"its table of functions is of a kind that is not known: {magic:#x}")

    @classmethod
    def _checked(
        cls, part: _Part, text: int, count: int, names: int, functions: int, is_wide: bool
    ) -> "_Table":
        if not 0 < count <= _MAX_FUNCTIONS or max(names, functions) >= part.size:
            raise NoGoProgramError("its table of functions makes no sense")
        return cls(part, text, count, names, functions, is_wide)

    def find(self, names: tuple[str, ...], prefixes: tuple[str, ...]) -> dict[str, Function]:
        wanted = self._name_offsets(names, prefixes)
        entries, records = self._entries()
        if self.is_wide and not entries.any():
            raise NoGoProgramError("the addresses in its table are written when it is loaded")
        if not wanted:
            return {}
        offsets = np.sort(np.fromiter(wanted, np.int64, len(wanted)))
        rows, found = self._rows_of(records, offsets)
        functions: dict[str, Function] = {}
        for row, offset in zip(rows.tolist(), found.tolist(), strict=True):
            name = wanted[offset]
            address = int(entries[row])
            size = min(int(entries[row + 1]) - address, _MAX_FUNCTION_SIZE)
            # Some functions have several entries (ABI0 and a wrapper): the first is the real one.
            functions.setdefault(name, Function(name, address + self.text, size))
        return functions

    def name_at(self, address: int) -> str:
        """The name of the function with this entry; "" where there is none."""
        entries, records = self._entries()
        row = int(np.searchsorted(entries[:-1], np.uint64(max(0, address - self.text))))
        if row >= self.count or int(entries[row]) + self.text != address:
            return ""
        at = int(records[row]) + self.functions + (8 if self.is_wide else 4)
        (offset,) = struct.unpack("<i", self.part.at(at, 4))
        name = self.part.at(self.names + offset, _LONGEST_NAME)
        return name.partition(b"\0")[0].decode("utf-8", "replace")

    def _name_offsets(self, names: tuple[str, ...], prefixes: tuple[str, ...]) -> dict[int, str]:
        """Where in the table of names the wanted ones begin."""
        part = _Part(self.part.stream, self.part.start + self.names, self._names_size())
        pattern = _pattern(names, prefixes)
        found: dict[int, str] = {}
        for offset, piece in part.pieces(_LONGEST_NAME):
            for match in pattern.finditer(piece):
                found[offset + match.start(1)] = match.group(1).decode("utf-8", "replace")
        return found

    def _names_size(self) -> int:
        """The names end where the next table begins."""
        head = self.part.at(8, 8 * _POINTER)
        starts: tuple[int, ...] = struct.unpack("<8Q", head)[2 if self.is_wide else 3 :]
        later = [start for start in starts if start > self.names]
        return min([*later, self.part.size]) - self.names

    def _entries(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """Of every function the entry (one more at the end) and where its record is."""
        kind = np.uint64 if self.is_wide else np.uint32
        width = np.dtype(kind).itemsize
        data = self.part.at(self.functions, 2 * width * self.count + width)
        words = np.frombuffer(data, kind)
        if len(words) != 2 * self.count + 1:
            raise NoGoProgramError("its table of functions is cut short")
        return words[::2].astype(np.uint64), words[1::2].astype(np.int64)

    def _rows_of(
        self, records: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
        """Functions whose names begin at these offsets, which are sorted, and those. Records stand
        in the order of functions, so each piece of the table is read once."""
        at = records + self.functions + (8 if self.is_wide else 4)
        order = np.argsort(at, kind="stable")
        rows: list[npt.NDArray[np.intp]] = [np.empty(0, np.intp)]
        names: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
        begin = 0
        while begin < len(order):
            first = int(at[order[begin]])
            end = begin + int(np.searchsorted(at[order[begin:]], first + _PIECE))
            piece = np.frombuffer(self.part.at(first, _PIECE + 4), np.uint8)
            here = order[begin:end]
            here = here[at[here] - first + 4 <= len(piece)]
            index = (at[here] - first)[:, None] + np.arange(4)
            found = np.ascontiguousarray(piece[index]).view("<i4").reshape(-1).astype(np.int64)
            nearest = np.minimum(np.searchsorted(offsets, found), len(offsets) - 1)
            hit = offsets[nearest] == found  # np.isin would import what nobody else needs
            rows.append(here[hit])
            names.append(found[hit])
            begin = end
        return np.concatenate(rows), np.concatenate(names)


def _beginnings(part: _Part) -> Iterator[int]:
    """Where something begins that may be a table of functions."""
    for offset, piece in part.pieces(_POINTER):
        for match in _BEGINNING.finditer(piece):
            if (offset + match.start()) % _POINTER == 0:
                yield offset + match.start()


def _pattern(names: tuple[str, ...], prefixes: tuple[str, ...]) -> re.Pattern[bytes]:
    """What finds names between zeros: the wanted ones whole, and those that begin so."""
    whole = [re.escape(name.encode()) + rb"(?=\0)" for name in names]
    begun = [re.escape(prefix.encode()) + rb"[^\0]{0,1000}(?=\0)" for prefix in prefixes]
    return re.compile(rb"(?<=\0)(" + rb"|".join([*whole, *begun]) + rb")")


def _text_start(elf: "ELFFile", address: int, value: int) -> int:
    """Where the functions begin: as the table says, or, in a position independent program, what
    the loader will write there, or, from Go 1.26 on, as the program's moduledata says."""
    if value:
        return value
    relocated = _relocated(elf, address)
    if relocated:
        return relocated
    module = _section(elf, ".go.module")
    if module is not None:
        data = module.data()
        text: int = struct.unpack_from("<Q", data, _MODULE_TEXT)[0]
        text = text or _relocated(elf, module["sh_addr"] + _MODULE_TEXT)
        if text:
            return text
    code = _section(elf, ".text")
    if code is None:
        raise NoGoProgramError("it does not say where its functions begin")
    return int(code["sh_addr"])


def _relocated(elf: "ELFFile", address: int) -> int:
    """What the loader writes to an address, 0 if nothing."""
    section = _section(elf, ".rela.dyn", ".rela")
    if section is None:
        return 0
    part = _Part(elf.stream, section["sh_offset"], section["sh_size"] // 24 * 24)
    for start in range(0, part.size, _PIECE // 24 * 24):
        rows = np.frombuffer(part.at(start, _PIECE // 24 * 24), "<u8").reshape(-1, 3)
        is_relative = (rows[:, 1] == _RELATIVES[0]) | (rows[:, 1] == _RELATIVES[1])
        at = np.flatnonzero((rows[:, 0] == address) & is_relative)
        if len(at):
            return int(rows[at[0], 2])
    return 0


def _section(elf: "ELFFile", *names: str) -> "Section | None":
    for name in names:
        section = elf.get_section_by_name(name)
        if section is not None and section["sh_type"] != "SHT_NOBITS":
            return section
    return None


# -- Versions -------------------------------------------------------------------------------


def _build_info(elf: "ELFFile") -> tuple[str, dict[str, str]]:
    """Go's version and the modules', as far as the program says."""
    section = _section(elf, ".go.buildinfo")
    if section is None:
        raise NoGoProgramError("it has no build information")
    data = section.data()[:_MAX_BUILD_INFO]
    if not data.startswith(_INFO_MAGIC) or len(data) < _INFO_HEAD:
        raise NoGoProgramError("its build information makes no sense")
    if data[15] & _INFO_INLINE:
        version, end = _text_at(data, _INFO_HEAD)
        modules, _ = _text_at(data, end)
    else:
        first, second = struct.unpack_from("<2Q", data, 16)
        version, modules = _string_at(elf, first), _string_at(elf, second)
    text = modules[_MODULE_FENCE:-_MODULE_FENCE].decode("utf-8", "replace")
    return version.decode("utf-8", "replace").removeprefix("go").split(" ")[0], _modules(text)


def _text_at(data: bytes, at: int) -> tuple[bytes, int]:
    """A text after its length, which is a varint; and where it ends."""
    length = shift = 0
    while True:
        byte = data[at]
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return data[at : at + length], at + length


def _string_at(elf: "ELFFile", address: int) -> bytes:
    """A string of Go's: at the address are its own address and its length (before Go 1.18)."""
    start = _word(elf, address)
    length = _word(elf, address + _POINTER)
    return _bytes(elf, start, min(length, _MAX_BUILD_INFO)) if start and length else b""


def _word(elf: "ELFFile", address: int) -> int:
    found = _bytes(elf, address, _POINTER)
    value = int.from_bytes(found, "little") if len(found) == _POINTER else 0
    return value or _relocated(elf, address)


def _bytes(elf: "ELFFile", address: int, size: int) -> bytes:
    for segment in elf.iter_segments("PT_LOAD"):
        offset = address - int(segment["p_vaddr"])
        if 0 <= offset < segment["p_filesz"]:
            elf.stream.seek(segment["p_offset"] + offset)
            return bytes(elf.stream.read(min(size, segment["p_filesz"] - offset)))
    return b""


def _modules(text: str) -> dict[str, str]:
    """Lines `dep<TAB>path<TAB>version...`; a line `=>` replaces the module before it."""
    modules: dict[str, str] = {}
    latest = ""
    for line in text.splitlines():
        words = line.split("\t")
        if words[0] in ("dep", "mod") and len(words) > 2:
            latest = words[1]
            modules[latest] = words[2]
        elif words[0] == "=>" and len(words) > 2 and latest:
            modules[latest] = words[2]
    return modules
