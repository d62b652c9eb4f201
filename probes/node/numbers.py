"""Where Node.js keeps the numbers of what runs (async_hooks), as its own code says (x86-64).

AsyncHooksGetExecutionAsyncId ends by loading a pointer from the Environment, and the first number
from where that points to. Environment::CheckImmediate is given a handle that lies within the
Environment, and computes where that begins. Both looked so in Node.js 18, 20, 22 and 24.
"""

from capstone import CS_ARCH_X86, CS_MODE_64, Cs, CsInsn
from capstone.x86 import X86_OP_MEM, X86_REG_INVALID, X86_REG_RDI, X86OpMem

_ENVIRONMENT_SIZE = 1 << 16  # of what is plausible


def environment_before(code: bytes) -> int | None:
    """How many bytes before the handle that it is given an Environment begins: of the first
    `lea register, [rdi - bytes]` in CheckImmediate."""
    for instruction in _disassembled(code):
        if instruction.mnemonic == "lea":
            source = instruction.operands[1].mem
            if source.base == X86_REG_RDI and -_ENVIRONMENT_SIZE < source.disp < 0:
                return -int(source.disp)
        if instruction.mnemonic == "call":
            break
    return None


def numbers_in(code: bytes) -> int | None:
    """At which byte of an Environment the pointer to its numbers is: the load from which, in
    AsyncHooksGetExecutionAsyncId, the one comes that the function's result is loaded from."""
    before: list[CsInsn] = []
    for instruction in _disassembled(code):
        if instruction.mnemonic == "movsd" and instruction.operands[1].type == X86_OP_MEM:
            result = instruction.operands[1].mem
            if _is_plain(result) and not result.disp:
                return _loaded_from(before, int(result.base))
        before.append(instruction)
    return None


def _loaded_from(before: list[CsInsn], register: int) -> int | None:
    for instruction in reversed(before):
        wanted = _family(instruction, register)
        written = {_family(instruction, each) for each in instruction.regs_access()[1]}
        if wanted not in written:
            continue
        if instruction.mnemonic != "mov" or instruction.operands[1].type != X86_OP_MEM:
            return None
        source = instruction.operands[1].mem
        plausible = _is_plain(source) and 0 < source.disp < _ENVIRONMENT_SIZE
        return int(source.disp) if plausible else None
    return None


def _family(instruction: CsInsn, register: int) -> str:
    """The same for all names of a register: ax for rax and eax, r8 for r8 and r8d."""
    name = str(instruction.reg_name(register))
    return name.rstrip("dwb") if name[1:2].isdigit() else name[-2:]


def _is_plain(memory: X86OpMem) -> bool:
    """[register + bytes]"""
    return bool(memory.base != X86_REG_INVALID and memory.index == X86_REG_INVALID)


def _disassembled(code: bytes) -> list[CsInsn]:
    machine = Cs(CS_ARCH_X86, CS_MODE_64)
    machine.detail = True
    return list(machine.disasm(code, 0))
