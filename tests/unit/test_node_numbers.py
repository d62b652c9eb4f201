"""Where Node.js keeps the numbers of what runs: read from code as its compilers have written it."""

import pytest

from waggle.probes.node.numbers import environment_before, numbers_in

# push rbp; mov rbp, rsp; push r15; push r14; lea r14, [rdi - 0x100]
CHECK_IMMEDIATE_18 = bytes.fromhex("55 4889e5 4157 4156 4c8db700ffffff")
# push rbp; mov rbp, rsp; push r15 ... push rbx; lea rbx, [rdi - 0x180]
CHECK_IMMEDIATE_24 = bytes.fromhex("55 4889e5 4157 4156 4155 4154 53 488d9f80feffff")
# mov rax, [rbx + 0x488]; movsd xmm0, [rax]; ret
NUMBER_24 = bytes.fromhex("488b8388040000 f20f1000 c3")
# mov rax, [r12 + 0x480]; mov r12, [rbp - 8]; movsd xmm0, [rax]; leave; ret
NUMBER_22 = bytes.fromhex("498b842480040000 4c8b65f8 f20f1000 c9 c3")


@pytest.mark.parametrize(
    ("code", "before"), [(CHECK_IMMEDIATE_18, 0x100), (CHECK_IMMEDIATE_24, 0x180)]
)
def test_environment(code: bytes, before: int) -> None:
    """How far before its handle the Environment begins is what the code subtracts."""
    assert environment_before(code) == before


@pytest.mark.parametrize(("code", "at"), [(NUMBER_22, 0x480), (NUMBER_24, 0x488)])
def test_numbers(code: bytes, at: int) -> None:
    """The pointer is where the code loads from what it loads its result through."""
    assert numbers_in(code) == at


@pytest.mark.parametrize(
    "code",
    [
        b"",
        bytes.fromhex("f20f1000 c3"),  # nothing is loaded before
        bytes.fromhex("4889d8 f20f1000 c3"),  # mov rax, rbx
        bytes.fromhex("488b8388040000 f20f104008 c3"),  # not the first number
        bytes.fromhex("488b83f8ffffff f20f1000 c3"),  # before the Environment
        bytes.fromhex("488b8388040000 31c0 f20f1000 c3"),  # xor eax, eax in between
    ],
)
def test_other_code(code: bytes) -> None:
    """Code that looks otherwise tells nothing, and is no error."""
    assert numbers_in(code) is None
    assert environment_before(code) is None


def test_call_comes_first() -> None:
    """After a call the register no longer holds the handle: what is computed then is not it."""
    assert environment_before(bytes.fromhex("e800000000") + CHECK_IMMEDIATE_24) is None
