"""Where a TLS library takes and gives plaintext, as its file tells.

A library of OpenSSL's kind (OpenSSL, BoringSSL, LibreSSL) exports SSL_read and SSL_write,
and their forms `_ex`, which return how many bytes through a fourth argument. In OpenSSL
both forms call one function, which no symbol names: it is what SSL_read_ex calls first and
SSL_read calls too. A probe there sees both, and it begins with a `push`, which the kernel
emulates, where SSL_read itself does not.

Where an SSL keeps what it reads from is read out of the library's own accessors: what
SSL_get_rbio, BIO_get_data and BIO_method_type load, and from where, is in their code.
Nothing is taken from a table of versions.

A library that is a part of another file, and not exported, has the same names in the table that
stripping removes, if nobody has.

GnuTLS has gnutls_record_recv and gnutls_record_send. Since 3.6.3 the latter is a jump to
gnutls_record_send2, which begins with a `push`. Where a session keeps its descriptor is not looked
for: which connection it is shows in the calls that pass its ciphertext.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from waggle.elf import Image, read_image

if TYPE_CHECKING:
    from capstone import CsInsn

READ, WRITE, SHAKE = "SSL_read", "SSL_write", "SSL_do_handshake"
READ_EX, WRITE_EX, FREE = "SSL_read_ex", "SSL_write_ex", "SSL_free"
GET_RBIO = "SSL_get_rbio"
_SSL = (READ, WRITE, READ_EX, WRITE_EX, SHAKE, FREE, GET_RBIO)
GNUTLS_READ, GNUTLS_WRITE = "gnutls_record_recv", "gnutls_record_send"
GNUTLS_WRITE_2, GNUTLS_SHAKE = "gnutls_record_send2", "gnutls_handshake"
GNUTLS_FREE = "gnutls_deinit"
_GNUTLS = (GNUTLS_READ, GNUTLS_WRITE, GNUTLS_WRITE_2, GNUTLS_SHAKE, GNUTLS_FREE)
GET_DATA, METHOD_TYPE, TEST_FLAGS = "BIO_get_data", "BIO_method_type", "BIO_test_flags"
_BIO = (GET_DATA, METHOD_TYPE, TEST_FLAGS)

_ENDBR64 = bytes.fromhex("f30f1efa")
_CODE_SIZE = 96  # bytes of a function that are looked at
_PIECE, _LONGEST = 1 << 20, 32  # bytes of a file that are looked through at once; of a name
_CALL, _JUMP = 0xE8, 0xE9
_FIRST = 4  # instructions of an accessor that are looked at
_RETURNS = re.compile(r"rax, qword ptr \[rdi(?: \+ (?P<offset>0x[0-9a-f]+|\d+))?\]$")
_FROM_ARGUMENT = re.compile(r"\[rdi(?: \+ (?P<offset>0x[0-9a-f]+|\d+))?\]$")


@dataclass(frozen=True, slots=True)
class Hook:
    """A place for two programs: at a function's entry and at its return.

    offset: in the file. counts: the function returns how many bytes, and does not leave that
    where its fourth argument says.
    """

    enter: str
    leave: str | None
    offset: int
    counts: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """See struct waggle_tls_layout; all in bytes."""

    reader: int
    method: int
    number: int
    data: int


@dataclass(frozen=True, slots=True)
class Library:
    """path: as it can be opened from here. layout: None where the code does not say it."""

    path: str
    hooks: tuple[Hook, ...]
    layout: Layout | None


def read_library(path: str, cryptography: str | None = None) -> Library | None:
    """What to hook in a file; None when it is no TLS library that we know how to hook.

    cryptography: the file that has the BIOs, where it is another (libcrypto). Raises OSError.
    """
    if not _says(path, (READ.encode() + b"\0", GNUTLS_READ.encode() + b"\0")):
        return None
    image = read_image(path, (*_SSL, *_GNUTLS), hidden=True)
    if image is None:
        return None
    code = _Code(path, image)
    if GNUTLS_READ in image.symbols and GNUTLS_WRITE in image.symbols:
        return Library(path, tuple(_gnutls(code)), None)
    if READ not in image.symbols or WRITE not in image.symbols:
        return None
    hooks = [
        *_transfer(code, "tls_read", "tls_did_read", READ, READ_EX),
        *_transfer(code, "tls_write", "tls_wrote", WRITE, WRITE_EX),
    ]
    if SHAKE in image.symbols:
        hooks += code.hook("tls_handshake", "tls_shook", image.symbols[SHAKE])
    if FREE in image.symbols:
        hooks += code.hook("tls_free", None, image.symbols[FREE])
    return Library(path, tuple(hooks), _layout(code, cryptography))


def _says(path: str, names: Iterable[bytes]) -> bool:
    """Whether any of these bytes are in a file: most files that may be libraries are none, and that
    is told a hundred times as fast as by their symbols. By pieces: a file may be cut meanwhile."""
    overlap = b""
    with Path(path).open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            piece = overlap + piece
            if any(name in piece for name in names):
                return True
            overlap = piece[-_LONGEST:]
    return False


def _gnutls(code: "_Code") -> list[Hook]:
    symbols = code.image.symbols
    write = symbols.get(GNUTLS_WRITE_2, symbols[GNUTLS_WRITE])
    hooks = code.hook("tls_read", "tls_did_read", symbols[GNUTLS_READ], counts=True)
    hooks += code.hook("tls_write", "tls_wrote", write, counts=True)
    if GNUTLS_SHAKE in symbols:
        hooks += code.hook("tls_handshake", "tls_shook", symbols[GNUTLS_SHAKE])
    if GNUTLS_FREE in symbols:
        hooks += code.hook("tls_free", None, symbols[GNUTLS_FREE])
    return hooks


def _transfer(code: "_Code", enter: str, leave: str, name: str, name_ex: str) -> list[Hook]:
    """The function behind both forms where there is one, else each form by itself."""
    symbols = code.image.symbols
    plain, extended = symbols[name], symbols.get(name_ex)
    if extended is None:
        return code.hook(enter, leave, plain, counts=True)
    shared = next(code.calls(extended), None)
    if shared is not None and shared in code.calls(plain) and code.begins_with_push(shared):
        return code.hook(enter, leave, shared)
    return [
        *code.hook(enter, leave, plain, counts=True),
        *code.hook(enter, leave, extended),
    ]


def _layout(code: "_Code", cryptography: str | None) -> Layout | None:
    """What the accessors load; None unless they agree with each other."""
    bio = code
    if cryptography is not None:
        image = read_image(cryptography, _BIO)
        if image is None:
            return None
        bio = _Code(cryptography, image)
    else:
        image = read_image(code.path, _BIO, hidden=True)
        if image is None:
            return None
        bio = _Code(code.path, image)
    reader = code.returned(GET_RBIO)
    data, method, flags = (bio.loaded(name) for name in (GET_DATA, METHOD_TYPE, TEST_FLAGS))
    if reader is None or data is None or method is None or flags is None:
        return None
    # struct bio_st: int flags, retry_reason, num; void *ptr. The last must lie where it then does.
    number = flags + 8
    if data != (number + 4 + 7) & ~7:
        return None
    return Layout(reader=reader, method=method, number=number, data=data)


class _Code:
    """Machine code of a file (x86-64)."""

    def __init__(self, path: str, image: Image) -> None:
        self.path = path
        self.image = image

    def hook(
        self, enter: str, leave: str | None, address: int, *, counts: bool = False
    ) -> list[Hook]:
        offset = self.image.file_offset(self._after_mark(address))
        return [] if offset is None else [Hook(enter, leave, offset, counts)]

    def begins_with_push(self, address: int) -> bool:
        code = self._at(address)
        code = code.removeprefix(_ENDBR64)
        if code[:1] == b"\x41":
            code = code[1:]
        return bool(code) and 0x50 <= code[0] <= 0x57

    def calls(self, address: int) -> Iterator[int]:
        """What a function calls by name of address, in order, until it returns.

        By capstone: which bytes are instructions is not to be guessed.
        """
        from capstone import CS_ARCH_X86, CS_MODE_64, Cs

        for instruction in Cs(CS_ARCH_X86, CS_MODE_64).disasm(self._at(address), address):
            if instruction.mnemonic == "ret":
                return
            code = bytes(instruction.bytes)
            if code[0] in (_CALL, _JUMP) and len(code) == 5:
                relative = int.from_bytes(code[1:], "little", signed=True)
                yield address + (instruction.address - address) + 5 + relative

    def loaded(self, symbol: str) -> int | None:
        """The offset from its first argument that a function reads first."""
        from capstone import CS_ARCH_X86, CS_MODE_64, Cs

        address = self.image.symbols.get(symbol)
        if address is None:
            return None
        engine = Cs(CS_ARCH_X86, CS_MODE_64)
        for instruction in engine.disasm(self._at(address), address, _FIRST):
            found = _FROM_ARGUMENT.search(instruction.op_str)
            if found is not None and instruction.mnemonic in ("mov", "and"):
                return int(found["offset"] or "0", 16)
        return None

    def returned(self, symbol: str) -> int | None:
        """The offset from its first argument of the one pointer that a function loads and returns.

        Since OpenSSL 3.2 an accessor first looks whether it is given an SSL or another kind of
        object: what it loads for that it does not return.
        """
        from capstone import CS_ARCH_X86, CS_MODE_64, Cs

        address = self.image.symbols.get(symbol)
        if address is None:
            return None
        engine = Cs(CS_ARCH_X86, CS_MODE_64)
        code = {one.address: one for one in engine.disasm(self._at(address), address)}
        found: set[int] = set()
        left, seen = [_Reached(address)], set[_Reached]()
        while left:
            at = left.pop()
            one = code.get(at.address)
            if one is None or at in seen:
                continue
            seen.add(at)
            if one.mnemonic == "ret" and at.loaded is not None:
                found.add(at.loaded)
            left += _reached_from(at, one)
        return found.pop() if len(found) == 1 else None

    def _after_mark(self, address: int) -> int:
        """A mark for indirect branches does nothing, but is not emulated."""
        return address + (len(_ENDBR64) if self._at(address).startswith(_ENDBR64) else 0)

    def _at(self, address: int) -> bytes:
        offset = self.image.file_offset(address)
        if offset is None:
            return b""
        with Path(self.path).open("rb") as file:
            file.seek(offset)
            return file.read(_CODE_SIZE)


@dataclass(frozen=True, slots=True)
class _Reached:
    """A place that a function may come to. intact: its first argument is in its register still.
    loaded: the offset from that of what it would return now, if it is a pointer from there."""

    address: int
    intact: bool = True
    loaded: int | None = None


def _reached_from(at: _Reached, one: "CsInsn") -> list[_Reached]:
    """Where an instruction leads to."""
    behind = at.address + one.size
    if one.mnemonic == "ret":
        return []
    if one.mnemonic.startswith("j"):
        target = [replace(at, address=int(one.op_str, 16))] if one.op_str[:2] == "0x" else []
        return target if one.mnemonic == "jmp" else [*target, replace(at, address=behind)]
    if one.mnemonic == "call":
        return [_Reached(behind, intact=False)]
    if one.mnemonic in ("test", "cmp"):
        return [replace(at, address=behind)]
    pointer = _RETURNS.match(one.op_str) if one.mnemonic == "mov" and at.intact else None
    loaded = at.loaded
    if one.op_str.startswith(("rax", "eax")):
        loaded = int(pointer["offset"] or "0", 16) if pointer else None
    return [_Reached(behind, at.intact and not one.op_str.startswith(("rdi", "edi")), loaded)]
