"""Which instruction of a function a probe is put on, and why that one.

A uprobe is a trap. The kernel emulates what it can: `nop`, `push`, `jmp`, a conditional
jump, `call`; anything else is copied and stepped over with a second trap, which costs
five times as much (docs/performance.md). Go's functions begin by comparing the stack
pointer with the end of the stack, and jump where it must grow: that jump is emulated,
and all arguments are still in the registers they came in.

What depends on the architecture is here and in bpf/go_machine.h.
"""

import platform
from dataclasses import dataclass

from capstone import (
    CS_ARCH_ARM64,
    CS_ARCH_X86,
    CS_MODE_64,
    CS_MODE_ARM,
    CS_OP_IMM,
    CS_OP_MEM,
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


def _overwrites_argument(instruction: CsInsn) -> bool:
    _, written = instruction.regs_access()
    names = {instruction.reg_name(register) for register in written}
    return bool({_NARROW.get(name, name) for name in names} & _ARGUMENTS)


def _leaves(instruction: CsInsn) -> bool:
    return instruction.mnemonic in ("ret", "jmp", "call", "int3", "ud2")
