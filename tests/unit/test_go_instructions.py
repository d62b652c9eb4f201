"""Of a Go function the instruction is chosen that the kernel emulates, or none."""

import pytest

from waggle.probes.go.instructions import (
    Assignment,
    Code,
    NoInstructionError,
    assignment_of,
    at_entry,
    call_to,
    is_emulated,
    thread_slot,
)

AT = 0x401000
COMPARE = bytes.fromhex("493b6610")  # cmp rsp, [r14 + 0x10]
JUMP = bytes.fromhex("0f86c3000000")  # jbe, far
REST = bytes.fromhex("554889e54883ec18")  # push rbp; mov rbp, rsp; sub rsp, 0x18


def test_the_jump_to_where_the_stack_grows_is_chosen() -> None:
    """The first emulated instruction of Go's usual prologue, arguments untouched."""
    assert at_entry(Code(COMPARE + JUMP + REST, AT)) == AT + 4


def test_a_large_frame_is_compared_through_r12() -> None:
    """`lea r12, [rsp - 0x1d0]` writes no argument: the jump after it is as good."""
    lea = bytes.fromhex("4c8da42430feffff")
    assert at_entry(Code(lea + bytes.fromhex("4d3b6610") + JUMP + REST, AT)) == AT + 12


def test_a_leaf_function_that_begins_with_push_is_as_good() -> None:
    """Its first instruction is emulated."""
    assert at_entry(Code(REST, AT)) == AT


@pytest.mark.parametrize(
    "code",
    [
        "4889c3" + "7510",  # mov rbx, rax; jne
        "31c0" + "7510",  # xor eax, eax: the narrow name of an argument
        "4531c0" + "7510",  # xor r8d, r8d
        "4883ec18c3",  # sub rsp, 0x18; ret
    ],
)
def test_where_an_argument_is_gone_nothing_is_chosen(code: str) -> None:
    """A probe that would read what is no argument any more is refused."""
    with pytest.raises(NoInstructionError):
        at_entry(Code(bytes.fromhex(code) + b"\x90" * 4, AT))


def test_the_one_call_of_a_function_is_found() -> None:
    """By where it leads, not by its place."""
    code = REST + b"\xe8" + (0x100 - len(REST) - 5).to_bytes(4, "little") + REST
    assert call_to(Code(code, AT), AT + 0x100) == AT + len(REST)


@pytest.mark.parametrize("times", [0, 2])
def test_a_call_that_is_not_the_only_one_is_refused(times: int) -> None:
    """None, or one of two, would be a guess."""
    calls = b"".join(
        b"\xe8" + (0x100 - 5 * (i + 1)).to_bytes(4, "little", signed=True) for i in range(times)
    )
    with pytest.raises(NoInstructionError, match=f"{times} times"):
        call_to(Code(calls + REST, AT), AT + 0x100)


def test_the_slot_of_g_is_read_from_the_code() -> None:
    """`mov rdi, fs:[-8]`, as the linker writes it."""
    assert thread_slot(Code(bytes.fromhex("64488b3c25f8ffffff") + REST, AT)) == -8


def test_code_without_a_slot_is_refused() -> None:
    """Nothing there reads what belongs to a thread."""
    with pytest.raises(NoInstructionError):
        thread_slot(Code(REST, AT))


@pytest.mark.parametrize(
    ("code", "emulated"),
    [
        ("90", True),  # nop
        ("0f1f00", True),  # nop of several bytes
        ("55", True),  # push rbp
        ("4154", True),  # push r12
        ("eb10", True),  # jmp
        ("e910000000", True),
        ("7610", True),  # jbe
        ("0f8610000000", True),
        ("e810000000", True),  # call
        ("493b6610", False),  # cmp
        ("4883ec18", False),  # sub
        ("c3", False),  # ret
        ("ffd0", False),  # call rax
        ("f30f1efa", False),  # endbr64
    ],
)
def test_what_the_kernel_emulates(code: str, emulated: bool) -> None:
    """By its first bytes, as the kernel decides."""
    assert is_emulated(bytes.fromhex(code)) is emulated


ASSIGN = AT + 0x1000


def calling(*before: str) -> Code:
    """Code that ends in a call of ASSIGN."""
    code = bytes.fromhex("".join(before))
    return Code(code + b"\xe8" + (ASSIGN - AT - len(code) - 5).to_bytes(4, "little"), AT)


MAP_OF_SI = "488b9ec0010000"  # mov rbx, [rsi + 0x1c0]
KEY_OF_DI = "8b4f6c"  # mov ecx, [rdi + 0x6c]
KEY_OF_DX = "8b0a"  # mov ecx, [rdx]
KEY_OF_DX_BY_SI = "8b3289f1"  # mov esi, [rdx]; mov ecx, esi
MAP_OF_CX = "488b99c0010000"  # mov rbx, [rcx + 0x1c0]
CX_OF_STACK = "488b4c2420"  # mov rcx, [rsp + 0x20]
TO_STACK = "48894c2420"  # mov [rsp + 0x20], rcx


@pytest.mark.parametrize(
    ("before", "id_offset", "client", "stream"),
    [
        ((MAP_OF_SI, KEY_OF_DI), 0x6C, "rsi", "rdi"),  # grpc 1.77
        ((CX_OF_STACK, MAP_OF_CX, KEY_OF_DX), 0, 0x20, "rdx"),  # grpc 1.64
        ((CX_OF_STACK, MAP_OF_CX, KEY_OF_DX_BY_SI), 0, 0x20, "rdx"),  # the same by Go 1.21
    ],
)
def test_where_an_assignment_has_its_parts(
    before: tuple[str, ...], id_offset: int, client: str | int, stream: str
) -> None:
    """In a register that is still what it was, or on the stack from where it came."""
    code = calling(*before)
    at = AT + len(code.data) - 5
    assert assignment_of(code, ASSIGN, id_offset) == Assignment(at, client, stream)


@pytest.mark.parametrize(
    ("before", "id_offset"),
    [
        ((MAP_OF_SI, KEY_OF_DI), 0),  # the key is another field
        ((MAP_OF_CX, KEY_OF_DX), 0),  # the client is gone, and it is not known from where it came
        ((CX_OF_STACK, TO_STACK, MAP_OF_CX, KEY_OF_DX), 0),  # the stack has something else now
        ((KEY_OF_DI,), 0x6C),  # no map
        ((MAP_OF_SI, KEY_OF_DI, "488b3f"), 0x6C),  # mov rdi, [rdi]: the stream is gone
    ],
)
def test_where_a_part_is_not_certain_there_is_none(before: tuple[str, ...], id_offset: int) -> None:
    """A probe that might read something else is refused."""
    with pytest.raises(NoInstructionError):
        assignment_of(calling(*before), ASSIGN, id_offset)
