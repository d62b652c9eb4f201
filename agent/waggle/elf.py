"""What Waggle asks of an ELF file: where its symbols are, by section, never the whole file.

pyelftools reads what it is asked for; the answers are kept per file (device, inode,
size, time of change), since a machine runs few images in many processes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # nobody waits for it who meets no program to be looked into
    from elftools.elf.elffile import ELFFile


@dataclass(frozen=True, slots=True)
class Segment:
    """One PT_LOAD: where it lies in the file and where it wants to be."""

    offset: int
    address: int
    size: int


@dataclass(frozen=True, slots=True)
class Image:
    """Of an ELF file: its loadable segments and the symbols that were asked for.

    symbols: name -> virtual address as in the file; only those that are there.
    """

    segments: tuple[Segment, ...]
    symbols: dict[str, int]

    def bias(self, start: int, offset: int) -> int | None:
        """What is added to the file's addresses, when its byte `offset` is mapped at `start`."""
        for segment in self.segments:
            page = segment.offset & ~0xFFF
            if page <= offset < segment.offset + segment.size:
                return start - (segment.address - segment.offset + offset)
        return None

    def file_offset(self, address: int) -> int | None:
        """Where in the file the byte of a virtual address is."""
        for segment in self.segments:
            if segment.address <= address < segment.address + segment.size:
                return address - segment.address + segment.offset
        return None

    def address_at(self, offset: int) -> int | None:
        """The virtual address of a byte of the file."""
        for segment in self.segments:
            if segment.offset <= offset < segment.offset + segment.size:
                return offset - segment.offset + segment.address
        return None


def read_image(path: str, names: Iterable[str], *, hidden: bool = False) -> Image | None:
    """An ELF file's segments and the dynamic symbols of these names; None when it is no ELF file.

    path: as it can be opened from here. hidden: also those that the file does not export and only
    its table for debuggers has. Raises OSError when it cannot.
    """
    state = Path(path).stat()
    identity = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    return _read(_Path(path, identity), tuple(sorted(names)), hidden)


@dataclass(frozen=True, slots=True)
class _Path:
    """A path that is compared as the file that it leads to."""

    path: str
    identity: tuple[int, int, int, int]

    def __hash__(self) -> int:
        return hash(self.identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Path) and self.identity == other.identity


@lru_cache(maxsize=256)
def _read(file: _Path, names: tuple[str, ...], hidden: bool) -> Image | None:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with Path(file.path).open("rb") as stream:
            elf = ELFFile(stream)
            segments = tuple(
                Segment(s["p_offset"], s["p_vaddr"], s["p_filesz"])
                for s in elf.iter_segments("PT_LOAD")
            )
            symbols = _dynamic_symbols(elf, names)
            if hidden and not symbols:
                symbols = _hidden_symbols(elf, names)
            return Image(segments, symbols)
    except (ELFError, ValueError, KeyError):
        return None


def thread_storage(path: str) -> int | None:
    """Bytes that an executable's thread-local variables take, rounded up as they are laid out;
    None when it has none or is no ELF file. Raises OSError when it cannot be opened."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with Path(path).open("rb") as stream:
            for segment in ELFFile(stream).iter_segments("PT_TLS"):
                size, align = int(segment["p_memsz"]), max(1, int(segment["p_align"]))
                return -(-size // align) * align
    except (ELFError, ValueError, KeyError):
        pass
    return None


def _dynamic_symbols(elf: "ELFFile", names: tuple[str, ...]) -> dict[str, int]:
    """By the hash table, which needs a few reads; else by walking the table once."""
    from elftools.elf.hash import GNUHashTable
    from elftools.elf.sections import SymbolTableSection

    table = elf.get_section_by_name(".dynsym")
    if not isinstance(table, SymbolTableSection):
        return {}
    hashes = elf.get_section_by_name(".gnu.hash")
    if hashes is None:
        wanted = [symbol for symbol in table.iter_symbols() if symbol.name in names]
    else:
        by_hash = GNUHashTable(elf, hashes["sh_offset"], table)
        found = [by_hash.get_symbol(name) for name in names]
        wanted = [symbol for symbol in found if symbol is not None]
    return {s.name: int(s["st_value"]) for s in wanted if s["st_shndx"] != "SHN_UNDEF"}


# Elf64_Sym.
_SYMBOL = np.dtype("<u4, u1, u1, <u2, <u8, <u8")
_SYMBOL.names = ("name", "info", "other", "section", "value", "size")
_FUNCTION = 2  # STT_FUNC
_TABLE_MAX = 64 << 20  # bytes of names, or of symbols, that are looked through
_PIECE = 1 << 20


def _hidden_symbols(elf: "ELFFile", names: tuple[str, ...]) -> dict[str, int]:
    """Functions of these names in the table that stripping removes. A name that is there twice is
    in none: which is meant nobody knows."""
    from elftools.elf.sections import SymbolTableSection

    table = elf.get_section_by_name(".symtab")
    if not isinstance(table, SymbolTableSection):
        return {}
    texts = elf.get_section(table["sh_link"])
    if max(table["sh_size"], texts["sh_size"]) > _TABLE_MAX or table["sh_entsize"] != 24:
        return {}
    places = _places(elf, texts["sh_offset"], texts["sh_size"], names)
    if not places:
        return {}
    symbols = np.frombuffer(table.data(), _SYMBOL)
    symbols = symbols[(symbols["info"] & 0xF == _FUNCTION) & (symbols["section"] != 0)]
    found = {}
    for name, where in places.items():
        values = np.unique(symbols["value"][np.isin(symbols["name"], where)])
        if len(values) == 1:
            found[name] = int(values[0])
    return found


def _places(elf: "ELFFile", start: int, size: int, names: tuple[str, ...]) -> dict[str, list[int]]:
    """Where names may begin in a table of names, of which one may be the end of another. Of a file
    of any size only a piece is in memory."""
    wanted = {name: name.encode() + b"\0" for name in names}
    overlap = max(map(len, wanted.values())) - 1
    found: dict[str, list[int]] = {}
    for begin in range(0, size, _PIECE):
        elf.stream.seek(start + begin)
        piece = elf.stream.read(min(_PIECE + overlap, size - begin))
        for name, text in wanted.items():
            at = piece.find(text)
            while at >= 0:
                found.setdefault(name, []).append(begin + at)
                at = piece.find(text, at + 1)
    return found
