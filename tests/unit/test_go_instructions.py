"""Of a Go function the instruction is chosen that the kernel emulates, or none."""

import pytest

from waggle.probes.go.instructions import (
    Assignment,
    Code,
    Found,
    NoInstructionError,
    after_call,
    after_store,
    assignment_of,
    at_entry,
    at_stack_check,
    call_to,
    calls_to,
    captured,
    is_emulated,
    is_emulated_on_arm64,
    is_left_alone,
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


def test_the_jump_of_the_stack() -> None:
    """What may not be seen twice is put on the jump to where the stack grows, or nowhere."""
    assert at_stack_check(Code(COMPARE + JUMP + REST, AT)) == AT + 4
    with pytest.raises(NoInstructionError, match="not with a look at the stack"):
        at_stack_check(Code(REST, AT))


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


@pytest.mark.parametrize("times", [0, 1, 2])
def test_all_calls_of_a_function_are_found(times: int) -> None:
    """Where each of them is wanted."""
    calls = b"".join(
        b"\xe8" + (0x100 - 5 * (i + 1)).to_bytes(4, "little", signed=True) for i in range(times)
    )
    assert calls_to(Code(calls + REST, AT), AT + 0x100) == [AT + 5 * i for i in range(times)]


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


FIND = AT + 0x2000
BX_OF_STACK = "488b5c2448"  # mov rbx, [rsp + 0x48]
R9_OF_BX = "4989d9"  # mov r9, rbx
BX_TO_STACK = "48895c2448"  # mov [rsp + 0x48], rbx
TEST_CX = "4885c9"  # test rcx, rcx
JNE = "7510"
CALL_DX = "ffd2"


def finding(before: tuple[str, ...], after: tuple[str, ...]) -> tuple[Code, int]:
    """Code that calls FIND between others, and where it goes on."""
    first = bytes.fromhex("".join(before))
    call = b"\xe8" + (FIND - AT - len(first) - 5).to_bytes(4, "little")
    return Code(first + call + bytes.fromhex("".join(after)), AT), AT + len(first) + 5


@pytest.mark.parametrize(
    ("before", "after", "register", "behind"),
    [
        ((BX_OF_STACK,), (TEST_CX, JNE), "rbx", 3),  # chi
        ((BX_OF_STACK, R9_OF_BX), ("90",), "r9", 0),  # echo: passed on by another register
        ((BX_TO_STACK, R9_OF_BX), (CALL_DX, "90"), "r9", 2),  # a call that is not emulated between
    ],
)
def test_what_a_call_was_given_is_found_behind_it(
    before: tuple[str, ...], after: tuple[str, ...], register: str, behind: int
) -> None:
    """On the stack, where it was loaded from or saved before."""
    code, goes_on = finding(before, after)
    assert after_call(code, FIND, register) == Found(goes_on + behind, 0x48)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("31db",), ("90",)),  # xor ebx, ebx: nothing on the stack
        ((CALL_DX,), ("90",)),  # a result that nobody has saved
        ((BX_OF_STACK,), (BX_TO_STACK, "90")),  # the stack has something else by then
        ((BX_OF_STACK,), ("c3",)),  # ret
    ],
)
def test_what_is_gone_behind_a_call_is_not_looked_for(
    before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    """A probe that might read something else is refused."""
    code, _ = finding(before, after)
    with pytest.raises(NoInstructionError):
        after_call(code, FIND, "rbx")


@pytest.mark.parametrize(
    ("after", "is_there"),
    [
        ((TEST_CX, JNE, "90"), True),
        (("488b7c2448", "90"), False),  # mov rdi, [rsp + 0x48]
        ((CALL_DX, "90"), False),
        (("31ff", "90"), False),  # xor edi, edi
    ],
)
def test_a_result_is_where_a_call_left_it(after: tuple[str, ...], is_there: bool) -> None:
    """Until something else is written there, or anything is called."""
    code, goes_on = finding((BX_OF_STACK,), after)
    nop = goes_on + len(bytes.fromhex("".join(after))) - 1
    assert is_left_alone(code, FIND, nop, "rdi") is is_there


JE_OVER = "7403"  # je: over what leaves by a jump


def test_where_a_call_is_come_to_by_a_jump_its_argument_is_found_before_that() -> None:
    """What lies between is another way; two ways are one too many."""
    before = (BX_TO_STACK, JE_OVER, "90", "eb10")
    code, goes_on = finding(before, ("90",))
    assert after_call(code, FIND, "rbx") == Found(goes_on, 0x48)
    code, _ = finding((BX_TO_STACK, "7405", *before[1:]), ("90",))
    with pytest.raises(NoInstructionError):
        after_call(code, FIND, "rbx")


AX_OF_DX = "488b4208"  # mov rax, [rdx + 8]


def test_what_a_closure_is_over_is_found() -> None:
    """By the call that it makes with that."""
    code, _ = finding((BX_TO_STACK, AX_OF_DX), ())
    assert captured(code, FIND, "rax") == 8


@pytest.mark.parametrize(
    "before",
    [
        ("488b13", AX_OF_DX),  # mov rdx, [rbx]: no closure any more
        ("488b4308",),  # mov rax, [rbx + 8]
        ("4889d8",),  # mov rax, rbx
    ],
)
def test_what_may_be_no_part_of_a_closure_is_not_read(before: tuple[str, ...]) -> None:
    """Nothing else is taken for a handler."""
    code, _ = finding(before, ())
    with pytest.raises(NoInstructionError):
        captured(code, FIND, "rax")


LENGTH = "48894878"  # mov [rax + 0x78], rcx
BARRIER = "7410"  # je
TEXT = "48897070"  # mov [rax + 0x70], rsi
COUNTER = "0fb64868"  # movzx ecx, byte [rax + 0x68]


@pytest.mark.parametrize(
    ("code", "chosen"),
    [
        (LENGTH + BARRIER + TEXT + COUNTER + "90", 14),
        (LENGTH + TEXT + "eb01" + "c3" + COUNTER + "90", 15),  # others come by another way
    ],
)
def test_a_string_that_was_just_stored_can_be_read(code: str, chosen: int) -> None:
    """Behind both its words, while the register still has what it was stored into."""
    assert after_store(Code(bytes.fromhex(code), AT), 0x70) == Found(AT + chosen, "rax")


@pytest.mark.parametrize(
    "code",
    [
        TEXT + "90",  # no length
        LENGTH + TEXT + "31c0" + "90",  # xor eax, eax
        LENGTH + TEXT + "c3",
        LENGTH + TEXT + LENGTH + TEXT + "90",  # which of them?
        LENGTH + "4889742470" + "90",  # mov [rsp + 0x70], rsi
    ],
)
def test_a_string_that_may_be_another_is_not_read(code: str) -> None:
    """Nor one that cannot be found again."""
    with pytest.raises(NoInstructionError):
        after_store(Code(bytes.fromhex(code), AT), 0x70)


# Of a program that Go 1.26 built for arm64: (*persistConn).roundTrip, runtime.newproc.func1.
ARM64_ENTRY = "f9400b90 d10703f1 eb10023f 54005b09 d10903f4 a93ffa9d"
ARM64_SMALL = "f9400b90 eb3063ff 540002c9 f81d0ffe"
ARM64_BIRTH = "f9401b85 f94068a5 aa0003e1 b24003e2 94001460"


def of_arm64(words: str) -> Code:
    return Code(b"".join(int(w, 16).to_bytes(4, "little") for w in words.split()), AT, "aarch64")


@pytest.mark.parametrize(("words", "jump"), [(ARM64_ENTRY, 12), (ARM64_SMALL, 8)])
def test_the_jump_of_arm64_is_chosen(words: str, jump: int) -> None:
    """`b.ls`, behind the comparison of the stack's end, arguments untouched."""
    assert at_entry(of_arm64(words)) == at_stack_check(of_arm64(words)) == AT + jump


def test_an_argument_of_arm64_that_is_gone() -> None:
    """`ldr w0, [x1]` before the jump."""
    with pytest.raises(NoInstructionError):
        at_entry(of_arm64("b9400020 " + ARM64_SMALL))


def test_a_call_of_arm64_is_found() -> None:
    """`bl`, by where it leads."""
    assert call_to(of_arm64(ARM64_BIRTH), AT + 16 + 4 * 0x1460) == AT + 16


@pytest.mark.parametrize(
    ("word", "emulated"),
    [
        (0x54005B09, True),  # b.ls
        (0x14000010, True),  # b
        (0x94000012, True),  # bl
        (0xB5000060, True),  # cbnz
        (0x37000060, True),  # tbnz
        (0xEB10023F, False),  # cmp
        (0xA93FFA9D, False),  # stp
        (0xD63F0020, False),  # blr
    ],
)
def test_what_the_kernel_emulates_on_arm64(word: int, emulated: bool) -> None:
    """Jumps and calls to addresses that they carry."""
    assert is_emulated_on_arm64(word.to_bytes(4, "little")) is emulated


def test_what_follows_registers_is_refused_on_arm64() -> None:
    """Until somebody has taught it: no probe, not one that reads something else."""
    with pytest.raises(NoInstructionError, match="yet"):
        after_call(of_arm64(ARM64_ENTRY), AT, "rbx")
    with pytest.raises(NoInstructionError, match="yet"):
        after_store(of_arm64(ARM64_ENTRY), 8)
