"""Which instruction of a function a probe is put on, and why that one.

A uprobe is a trap. The kernel emulates what it can: `nop`, `push`, `jmp`, a conditional
jump, `call`; anything else is copied and stepped over with a second trap, which costs
five times as much (docs/performance.md). Go's functions begin by comparing the stack
pointer with the end of the stack, and jump where it must grow: that jump is emulated,
and all arguments are still in the registers they came in.

What depends on the architecture is here and in bpf/go_machine.h. For arm64 it is tested on
code, and has not run; what is found by following registers (_X86_ONLY) is not there yet.
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from capstone import (
    CS_ARCH_ARM64,
    CS_ARCH_X86,
    CS_MODE_64,
    CS_MODE_ARM,
    CS_OP_IMM,
    CS_OP_MEM,
    CS_OP_REG,
    Cs,
    CsInsn,
)
from capstone.x86 import X86_REG_FS, X86_REG_INVALID

_NARROW = {
    **{f"e{letter}x": f"r{letter}x" for letter in "abc"},
    **{f"e{rest}": f"r{rest}" for rest in ("di", "si")},
    **{f"r{n}d": f"r{n}" for n in range(8, 12)},
    **{f"w{n}": f"x{n}" for n in range(31)},
}
_MAX_INSTRUCTIONS = 16  # of a prologue


class NoInstructionError(ValueError):
    """No instruction of the function can carry the probe cheaply. Says why."""


@dataclass(frozen=True, slots=True)
class Code:
    """Machine code and the address that its first byte has in the file."""

    data: bytes
    address: int
    machine: str = field(default_factory=platform.machine)


def at_entry(code: Code) -> int:
    """Address of the first emulated instruction at which all arguments are still in place."""
    machine = _machine(code)
    for instruction in _disassembled(code, _MAX_INSTRUCTIONS):
        if machine.is_emulated(bytes(instruction.bytes)):
            return int(instruction.address)
        if _written(instruction) & machine.arguments:
            raise NoInstructionError("an argument is gone before the first emulated instruction")
        if instruction.mnemonic in machine.leaves:
            break
    raise NoInstructionError("no emulated instruction at its entry")


def at_stack_check(code: Code) -> int:
    """As `at_entry`, where it must be the jump to where the stack grows: the function begins anew
    after it, and what may not be seen twice tells by the flags whether it is taken (go_jumps())."""
    address = at_entry(code)
    machine = _machine(code)
    chosen = next(i for i in _disassembled(code, _MAX_INSTRUCTIONS) if i.address == address)
    if chosen.mnemonic != machine.grows:
        raise NoInstructionError(f"it begins with {chosen.mnemonic}, not with a look at the stack")
    return address


def first_emulated(code: Code) -> int:
    """Address of the first instruction that is emulated, for who wants no arguments."""
    machine = _machine(code)
    for instruction in _disassembled(code, _MAX_INSTRUCTIONS):
        if machine.is_emulated(bytes(instruction.bytes)):
            return int(instruction.address)
        if instruction.mnemonic in machine.leaves:
            break
    raise NoInstructionError("no emulated instruction at its entry")


def calls_to(code: Code, target: int) -> list[int]:
    """Addresses of all calls of a function in it."""
    return [
        int(instruction.address)
        for instruction in _disassembled(code)
        if instruction.mnemonic == _machine(code).call
        and instruction.operands[0].type == CS_OP_IMM
        and instruction.operands[0].imm == target
    ]


def call_to(code: Code, target: int) -> int:
    """Address of the one call of a function in it."""
    found = calls_to(code, target)
    if len(found) != 1:
        raise NoInstructionError(f"it calls what is looked for {len(found)} times")
    return found[0]


@dataclass(frozen=True, slots=True)
class Assignment:
    """Of `client.streams[stream.id] = stream`. address: of the call that assigns; client and
    stream: where each is then, as a register's name ("rsi") or bytes above the stack pointer."""

    address: int
    client: str | int
    stream: str | int


def assignment_of(code: Code, assign: int, id_offset: int) -> Assignment:
    """Finds it in a function that calls `assign` once. id_offset: of `id` in `stream`.

    The map is loaded from the client and its key from the stream, just before the call;
    where each was loaded from is followed back to a register that nothing overwrites
    until the call, or to the place on the stack that the register was loaded from.
    """
    address = call_to(_followed(code), assign)
    before = [one for one in _disassembled(code) if one.address < address]
    at, key = _loaded_from(before, len(before), _KEY)
    if key.disp != id_offset:
        raise NoInstructionError("the key is not where a stream keeps its number")
    stream = _place(before, at, key.base)
    at, streams = _loaded_from(before, len(before), _MAP)
    return Assignment(address, _place(before, at, streams.base), stream)


@dataclass(frozen=True, slots=True)
class Found:
    """An emulated instruction, and where something is then: as in Assignment."""

    address: int
    place: str | int


def after_call(code: Code, target: int, register: str) -> Found:
    """The first emulated instruction after the one call of `target`, at which what the call was
    given in a register is still on the stack. Calls that are not emulated may lie between."""
    call = call_to(_followed(code), target)
    instructions = _disassembled(code)
    index = next(i for i, one in enumerate(instructions) if one.address == call)
    saved, slot = _saved(instructions, index, register)
    for at in range(index + 1, len(instructions)):
        instruction = instructions[at]
        if is_emulated(bytes(instruction.bytes)):
            if any(_stack_slot(one, 0) == slot for one in instructions[saved + 1 : at]):
                break
            return Found(int(instruction.address), slot)
        if instruction.mnemonic in _ENDS:
            break
    raise NoInstructionError("what the call was given is gone before the next instruction of use")


def is_left_alone(code: Code, target: int, at: int, register: str) -> bool:
    """Whether a register has at an instruction what the one call of `target` returned in it."""
    call = call_to(_followed(code), target)
    between = [one for one in _disassembled(code) if call < one.address < at]
    return call < at and not any(
        one.mnemonic == "call" or register in _written(one) for one in between
    )


def captured(code: Code, target: int, register: str) -> int:
    """Where a closure has what the one call of `target` in its code is given in a register, in
    bytes from its own address, which is in rdx when it begins."""
    call = call_to(_followed(code), target)
    before = [one for one in _disassembled(code) if one.address < call]
    at, memory = _loaded_from(before, len(before), register)
    if memory.base != "rdx" or any("rdx" in _written(one) for one in before[:at]):
        raise NoInstructionError("an argument is not one of what the closure is over")
    return memory.disp


def after_store(code: Code, offset: int) -> Found:
    """The first emulated instruction after a string was stored at `offset` of something, whose
    address is still in its register."""
    instructions = _disassembled(_followed(code))
    found = [
        (at, base)
        for at, instruction in enumerate(instructions)
        if (base := _stored_at(instruction, offset))
        and any(
            _stored_at(one, offset + _WORD) == base
            for one in instructions[max(0, at - _MAX_INSTRUCTIONS) : at]
        )
    ]
    if len(found) != 1:
        raise NoInstructionError(f"it stores what is looked for {len(found)} times")
    at, base = found[0]
    while True:
        at += 1
        if at >= len(instructions) or instructions[at].mnemonic in _ENDS:
            raise NoInstructionError("no emulated instruction after it stores what is looked for")
        instruction = instructions[at]
        if instruction.mnemonic == "jmp" and instruction.operands[0].type == CS_OP_IMM:
            # Others come here by another way: what they have in common is behind it.
            at = _index_of(instructions, instruction.operands[0].imm) - 1
        elif is_emulated(bytes(instruction.bytes)):
            return Found(int(instruction.address), base)
        elif base in _written(instruction):
            raise NoInstructionError("what was stored into is gone before the next instruction")


def thread_slot(code: Code) -> int:
    """Where from a thread's pointer on Go keeps g: the displacement of the first access there.

    Where the code loads the displacement from memory, a loader has decided; it is the
    usual one then, which is verified in the process before it is believed.
    """
    for instruction in _disassembled(_followed(code)):
        for operand in instruction.operands:
            if operand.type != CS_OP_MEM or operand.mem.segment != X86_REG_FS:
                continue
            if operand.mem.base == X86_REG_INVALID:
                return int(operand.mem.disp)
            return USUAL_SLOT
    raise NoInstructionError("it does not say where a thread keeps its goroutine")


USUAL_SLOT = -8


def is_emulated(code: bytes) -> bool:
    """Whether the kernel emulates an instruction under a uprobe (arch/x86/kernel/uprobes.c)."""
    if code[:1] == b"\x41" and len(code) == 2:  # REX.B push
        return 0x50 <= code[1] <= 0x57
    first, second = code[0], code[1] if len(code) > 1 else 0
    if 0x50 <= first <= 0x57 or 0x70 <= first <= 0x7F:
        return True
    if first in (0x90, 0xE8, 0xE9, 0xEB):
        return True
    return first == 0x0F and (0x80 <= second <= 0x8F or second == 0x1F)


def is_emulated_on_arm64(code: bytes) -> bool:
    """The same on arm64 (arch/arm64/kernel/probes/decode-insn.c): jumps and calls to addresses
    that they carry, with a condition or without."""
    word = int.from_bytes(code, "little")
    return (
        word & 0x7C000000 == 0x14000000  # b, bl
        or word & 0xFF000010 == 0x54000000  # b.cond
        or word & 0x7C000000 == 0x34000000  # cbz, cbnz, tbz, tbnz
    )


@dataclass(frozen=True, slots=True)
class _Machine:
    """arguments: where Go passes them (its internal ABI, src/cmd/compile/abi-internal.md)."""

    architecture: int
    mode: int
    arguments: frozenset[str]
    call: str
    leaves: tuple[str, ...]
    grows: str  # the jump to where the stack grows
    is_emulated: Callable[[bytes], bool]


_X86 = _Machine(
    CS_ARCH_X86,
    CS_MODE_64,
    frozenset({"rax", "rbx", "rcx", "rdi", "rsi", "r8", "r9", "r10", "r11"}),
    "call",
    ("ret", "jmp", "call", "int3", "ud2"),
    "jbe",
    is_emulated,
)
_ARM64 = _Machine(
    CS_ARCH_ARM64,
    CS_MODE_ARM,
    frozenset(f"x{n}" for n in range(16)),
    "bl",
    ("ret", "br", "blr", "b", "bl", "brk", "udf"),
    "b.ls",
    is_emulated_on_arm64,
)
_X86_ONLY = "registers are not followed on this processor yet"


def _machine(code: Code) -> _Machine:
    return _ARM64 if code.machine == "aarch64" else _X86


def _followed(code: Code) -> Code:
    if _machine(code) is not _X86:
        raise NoInstructionError(_X86_ONLY)
    return code


@lru_cache(maxsize=2)  # several questions are asked of a function, one after the other
def _disassembled(code: Code, most: int = 0) -> list[CsInsn]:
    machine = _machine(code)
    engine = Cs(machine.architecture, machine.mode)
    engine.detail = True
    return list(engine.disasm(code.data, code.address, most))


# Where Go passes the second and the third word of arguments: of a map's assignment its parts.
_MAP, _KEY = "rbx", "rcx"


@dataclass(frozen=True, slots=True)
class _Memory:
    base: str
    disp: int


def _written(instruction: CsInsn) -> set[str]:
    _, written = instruction.regs_access()
    names = {instruction.reg_name(register) for register in written}
    return {_NARROW.get(name, name) for name in names}


def _last_write(code: Sequence[CsInsn], end: int, register: str) -> int:
    for at in range(end - 1, -1, -1):
        if register in _written(code[at]):
            return at
        if code[at].mnemonic == "call":
            break
    raise NoInstructionError("it is not clear where an argument comes from")


def _loaded_from(code: Sequence[CsInsn], end: int, register: str) -> tuple[int, _Memory]:
    """Where a register is loaded that others may pass on, and from what memory."""
    at = _last_write(code, end, register)
    if code[at].mnemonic == "mov" and len(code[at].operands) == 2:
        source = code[at].operands[1]
        if source.type == CS_OP_REG:
            name = code[at].reg_name(source.reg)
            return _loaded_from(code, at, _NARROW.get(name, name))
        if source.type == CS_OP_MEM and source.mem.index == X86_REG_INVALID:
            return at, _Memory(code[at].reg_name(source.mem.base), source.mem.disp)
    raise NoInstructionError("it is not clear where an argument comes from")


def _place(code: Sequence[CsInsn], at: int, register: str) -> str | int:
    """Where what is in a register at one instruction can be had at the end of the code."""
    if not any(one.mnemonic == "call" or register in _written(one) for one in code[at:]):
        return register
    for load in range(at - 1, -1, -1):
        if register in _written(code[load]):
            slot = _stack_slot(code[load], 1)
            if slot is not None and not any(_stack_slot(one, 0) == slot for one in code[load:]):
                return slot
            break
    raise NoInstructionError("an argument's origin is gone before the call")


def _stack_slot(instruction: CsInsn, operand: int) -> int | None:
    """What of the stack a move reads (operand 1) or writes (0), in bytes above its pointer."""
    if instruction.mnemonic != "mov":
        return None
    found = instruction.operands[operand]
    if found.type != CS_OP_MEM or found.mem.index != X86_REG_INVALID:
        return None
    return int(found.mem.disp) if instruction.reg_name(found.mem.base) == "rsp" else None


_WORD = 8
_ENDS = ("ret", "int3", "ud2")


def _saved(code: Sequence[CsInsn], end: int, register: str) -> tuple[int, int]:
    """The last instruction before `end` that loads a register from the stack or stores it
    there, and where that is; another register may pass it on."""
    at = end - 1
    while at >= 0:
        instruction = code[at]
        slot = _stack_slot(instruction, 0)
        if slot is not None and _moved(instruction) == register:
            return at, slot
        if instruction.mnemonic == "jmp":
            at = _only_jump_to(code, code[at + 1].address)
            continue
        if register in _written(instruction):
            slot = _stack_slot(instruction, 1)
            if slot is not None:
                return at, slot
            register = _moved(instruction)
            if not register:
                break
        elif instruction.mnemonic == "call":
            break
        at -= 1
    raise NoInstructionError("an argument of the call is not on the stack")


def _only_jump_to(code: Sequence[CsInsn], address: int) -> int:
    """The one jump to what nothing else leads to; further down there is none, or it goes round."""
    jumps = [
        at
        for at, one in enumerate(code)
        if one.mnemonic.startswith("j")
        and one.operands[0].type == CS_OP_IMM
        and one.operands[0].imm == address
    ]
    if len(jumps) != 1 or code[jumps[0]].address >= address:
        raise NoInstructionError("it is not clear how a call is come to")
    return jumps[0]


def _moved(instruction: CsInsn) -> str:
    """The register from which a move takes its value; "" if none."""
    if instruction.mnemonic != "mov" or instruction.operands[1].type != CS_OP_REG:
        return ""
    name = str(instruction.reg_name(instruction.operands[1].reg))
    return _NARROW.get(name, name)


def _stored_at(instruction: CsInsn, offset: int) -> str:
    """The register from which on a move of a whole word stores at `offset`; "" if it does not."""
    if instruction.mnemonic != "mov" or len(instruction.operands) != 2:
        return ""
    target = instruction.operands[0]
    if target.type != CS_OP_MEM or target.size != _WORD or target.mem.disp != offset:
        return ""
    if instruction.operands[1].type != CS_OP_REG or target.mem.index != X86_REG_INVALID:
        return ""
    base = str(instruction.reg_name(target.mem.base))
    return "" if base in ("rsp", "rbp", "rip") else base


def _index_of(code: Sequence[CsInsn], address: int) -> int:
    for at, instruction in enumerate(code):
        if instruction.address == address:
            return at
    raise NoInstructionError("it goes on where it cannot be followed")
