"""Which instruction of a function a probe is put on, and why that one.

A uprobe is a trap. The kernel emulates what it can: `nop`, `push`, `jmp`, a conditional
jump, `call`; anything else is copied and stepped over with a second trap, which costs
five times as much (docs/performance.md). Go's functions begin by comparing the stack
pointer with the end of the stack, and jump where it must grow: that jump is emulated,
and all arguments are still in the registers they came in.

What depends on the architecture is here and in bpf/go_machine.h.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass

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

# Where Go passes arguments (its internal ABI, src/cmd/compile/abi-internal.md).
_ARGUMENTS = frozenset({"rax", "rbx", "rcx", "rdi", "rsi", "r8", "r9", "r10", "r11"})
_NARROW = {
    **{f"e{letter}x": f"r{letter}x" for letter in "abc"},
    **{f"e{rest}": f"r{rest}" for rest in ("di", "si")},
    **{f"r{n}d": f"r{n}" for n in range(8, 12)},
}
_MAX_INSTRUCTIONS = 16  # of a prologue


class NoInstructionError(ValueError):
    """No instruction of the function can carry the probe cheaply. Says why."""


@dataclass(frozen=True, slots=True)
class Code:
    """Machine code and the address that its first byte has in the file."""

    data: bytes
    address: int


def at_entry(code: Code) -> int:
    """Address of the first emulated instruction at which all arguments are still in place."""
    for instruction in _disassembled(code, _MAX_INSTRUCTIONS):
        if is_emulated(bytes(instruction.bytes)):
            return int(instruction.address)
        if _overwrites_argument(instruction):
            raise NoInstructionError("an argument is gone before the first emulated instruction")
        if _leaves(instruction):
            break
    raise NoInstructionError("no emulated instruction at its entry")


def first_emulated(code: Code) -> int:
    """Address of the first instruction that is emulated, for who wants no arguments."""
    for instruction in _disassembled(code, _MAX_INSTRUCTIONS):
        if is_emulated(bytes(instruction.bytes)):
            return int(instruction.address)
        if _leaves(instruction):
            break
    raise NoInstructionError("no emulated instruction at its entry")


def call_to(code: Code, target: int) -> int:
    """Address of the one call of a function in it."""
    found = [
        int(instruction.address)
        for instruction in _disassembled(code)
        if bytes(instruction.bytes)[:1] == b"\xe8"
        and instruction.operands[0].type == CS_OP_IMM
        and instruction.operands[0].imm == target
    ]
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
    address = call_to(code, assign)
    before = [one for one in _disassembled(code) if one.address < address]
    at, key = _loaded_from(before, len(before), _KEY)
    if key.disp != id_offset:
        raise NoInstructionError("the key is not where a stream keeps its number")
    stream = _place(before, at, key.base)
    at, streams = _loaded_from(before, len(before), _MAP)
    return Assignment(address, _place(before, at, streams.base), stream)


def thread_slot(code: Code) -> int:
    """Where from a thread's pointer on Go keeps g: the displacement of the first access there.

    Where the code loads the displacement from memory, a loader has decided; it is the
    usual one then, which is verified in the process before it is believed.
    """
    for instruction in _disassembled(code):
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


def _disassembled(code: Code, most: int = 0) -> list[CsInsn]:
    if platform.machine() == "aarch64":
        engine = Cs(CS_ARCH_ARM64, CS_MODE_ARM)
    else:
        engine = Cs(CS_ARCH_X86, CS_MODE_64)
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


def _overwrites_argument(instruction: CsInsn) -> bool:
    return bool(_written(instruction) & _ARGUMENTS)


def _leaves(instruction: CsInsn) -> bool:
    return instruction.mnemonic in ("ret", "jmp", "call", "int3", "ud2")
