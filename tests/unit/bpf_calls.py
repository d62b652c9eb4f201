"""The calls between the functions of the BPF object, and the stack that each of them takes.

As the verifier counts them, so that a test can say what Linux 6.1 would, which is under nobody's
hands: a kernel from 6.13 on gives deep programs a stack of their own.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Symbol, SymbolTableSection

# Of include/uapi/linux/bpf.h: classes, codes, registers.
_LDX, _ST, _STX = 1, 2, 3
_LD_IMM64, _CALL, _MOV_X, _ADD_K = 0x18, 0x85, 0xBF, 0x07
_PSEUDO_CALL = 1
_FRAME_POINTER = 10
_WORD = 8
_WRITES_A_REGISTER = (1, 4, 7)  # LDX, ALU, ALU64

ROUNDED_TO = 32  # bytes a frame, in kernels before 6.8


@dataclass(slots=True)
class Function:
    """One function. depth: bytes of stack. calls: whom it calls, or has called by a helper.
    maps: what maps it names itself; libbpf makes a section of data one too."""

    name: str
    depth: int = 0
    calls: set[str] = field(default_factory=set)
    maps: set[str] = field(default_factory=set)

    @property
    def frame(self) -> int:
        return (max(self.depth, 1) + ROUNDED_TO - 1) // ROUNDED_TO * ROUNDED_TO


Place = tuple[int, int]  # section, offset


class CallGraph:
    """Every function of an object by name, and the programs among them."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            elf = ELFFile(stream)
            table = elf.get_section_by_name(".symtab")
            assert isinstance(table, SymbolTableSection)
            symbols = list(table.iter_symbols())
            self._names = {
                (s["st_shndx"], s["st_value"]): (s.name, s["st_size"])
                for s in symbols
                if s["st_info"]["type"] == "STT_FUNC"
            }
            self._targets = dict(_relocations(elf, symbols))
            sections = {n: (s.name, s.data()) for n, s in enumerate(elf.iter_sections())}
            self._sections = {n: name for n, (name, _) in sections.items()}
        self.functions: dict[str, Function] = {}
        self.programs: list[str] = []
        for place, (name, size) in self._names.items():
            section, code = sections[place[0]]
            self.functions[name] = self._read(name, place, code[place[1] : place[1] + size])
            if section != ".text":
                self.programs.append(name)
        self.deepest = cache(self._deepest)
        self.longest = cache(self._longest)

    def _read(self, name: str, place: Place, code: bytes) -> Function:
        function = Function(name)
        frame: dict[int, int] = {_FRAME_POINTER: 0}  # register -> where in the frame it points
        at = 0
        while at < len(code):
            opcode, registers, offset, immediate = struct.unpack_from("<BBhi", code, at)
            to, source = registers & 15, registers >> 4
            here = (place[0], place[1] + at)
            if called := self._called(here, opcode, source, immediate):
                function.calls.add(called)
            elif opcode == _LD_IMM64 and (symbol := self._targets.get(here)):
                function.maps.add(self._map_of(symbol))
            touched = _touched(frame, opcode, to, source, offset)
            _follow(frame, opcode, to, source, immediate)
            if opcode == _ADD_K:
                touched = min(touched, frame.get(to, 0))
            function.depth = max(function.depth, -touched)
            at += 2 * _WORD if opcode == _LD_IMM64 else _WORD
        return function

    def _called(self, here: Place, opcode: int, source: int, immediate: int) -> str | None:
        symbol = self._targets.get(here)
        if opcode == _CALL and source == _PSEUDO_CALL:
            forward = (immediate + 1) * _WORD
            if symbol is None:
                return self._at(here[0], here[1] + forward)
            return self._of(symbol, forward)
        if opcode == _LD_IMM64 and symbol is not None:  # a function for a helper to call
            return self._of(symbol, immediate)
        return None

    def _map_of(self, symbol: Symbol) -> str:
        section = self._sections.get(symbol["st_shndx"], "extern")
        return symbol.name if section == ".maps" else section

    def maps_of(self, name: str) -> set[str]:
        """The maps that a program uses, or a function that it calls."""
        seen = {name}
        left = [name]
        while left:
            new = self.functions[left.pop()].calls - seen
            seen |= new
            left += new
        return set().union(*(self.functions[one].maps for one in seen)) - {"extern"}

    def _of(self, symbol: Symbol, offset: int) -> str | None:
        by_section = symbol["st_info"]["type"] == "STT_SECTION"
        return self._at(symbol["st_shndx"], symbol["st_value"] + (offset if by_section else 0))

    def _at(self, section: int, offset: int) -> str | None:
        return self._names.get((section, offset), (None, 0))[0]

    def _deepest(self, name: str) -> Sequence[Function]:
        """The chain of calls from here that takes the most stack."""
        chains = [self.deepest(called) for called in self.functions[name].calls]
        return (self.functions[name], *max(chains, key=stack_of, default=()))

    def _longest(self, name: str) -> Sequence[Function]:
        """The longest chain of calls from here."""
        chains = [self.longest(called) for called in self.functions[name].calls]
        return (self.functions[name], *max(chains, key=len, default=()))


def stack_of(chain: Sequence[Function]) -> int:
    """Bytes of stack that functions take which have called each other."""
    return sum(function.frame for function in chain)


def shown(chain: Sequence[Function]) -> str:
    return " > ".join(f"{function.name}:{function.depth}" for function in chain)


def _relocations(elf: ELFFile, symbols: list[Symbol]) -> Iterator[tuple[Place, Symbol]]:
    for section in elf.iter_sections():
        if isinstance(section, RelocationSection):
            for entry in section.iter_relocations():
                place = (section["sh_info"], entry["r_offset"])
                yield place, symbols[entry["r_info_sym"]]


def _touched(frame: dict[int, int], opcode: int, to: int, source: int, offset: int) -> int:
    """The lowest byte of the frame that an instruction reads or writes itself."""
    kind = opcode & 7
    base = source if kind == _LDX else to if kind in (_ST, _STX) else None
    return min(0, frame[base] + offset) if base in frame else 0


def _follow(frame: dict[int, int], opcode: int, to: int, source: int, immediate: int) -> None:
    """Keeps account of which registers point into the frame."""
    if opcode == _MOV_X and source in frame:
        frame[to] = frame[source]
    elif opcode == _ADD_K and to in frame:
        frame[to] += immediate
    elif opcode & 7 in _WRITES_A_REGISTER or opcode == _LD_IMM64:
        frame.pop(to, None)
    elif opcode == _CALL:
        for register in range(6):  # 0 to 5 are not kept
            frame.pop(register, None)
