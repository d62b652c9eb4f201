"""Attaches to a running CPython: finds where its threads keep their state, and proves it.

Nothing is assumed that is not seen in the process itself. From the symbol _PyRuntime a
walk of two pointers leads to the states of its threads. Each state holds its thread's
identifier, which on Linux is the thread's pointer: the very address from which the C
library reaches what belongs to a thread, and whose first word points to itself. Near
it lies the slot in which CPython keeps the address of the state (PyThread_tss_set; since
3.15 a variable of the thread), so the slot is found by looking for that address, whatever
C library it is; it is believed when it holds the right state in every thread.

Since 3.13 an interpreter says itself where its interpreters and their threads are
(_Py_DebugOffsets, at the start of _PyRuntime), and whether it was built without a GIL.
Subinterpreters share the types of all, so what holds for one holds for each of them.

No process is stopped and nothing is written into one.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from waggle import layout, process_memory
from waggle.attach import NotYetError, RefusedError, Target
from waggle.elf import Image, read_image
from waggle.libbpf import Link, Map, Program
from waggle.probes.python.table import OFFSETS
from waggle.process_memory import Memory, file_mappings
from waggle.procfs import runs_program
from waggle.runtimes import CPYTHON

COPIED, FREED = "python_context_copied", "python_context_freed"
PROCESSES = "python_processes"

RUNTIME, CONTEXT_TYPE, COPY = "_PyRuntime", "PyContext_Type", "PyContext_CopyCurrent"
VERSION = "Py_Version"  # 3.11
_NEEDED = (RUNTIME, CONTEXT_TYPE, COPY)

MAX_THREADS = 4096
MAX_INTERPRETERS = 1024
_DEALLOC = 48  # of a type: its destructor, static in the image and so without a name
_PUSH = range(0x50, 0x58)  # instructions that the kernel emulates in a uprobe
# Marks where an indirect branch may lead, where a compiler was told to; not emulated.
_ENDBR64 = bytes.fromhex("f30f1efa")
_NEXT = 8  # of a thread's state: the next one
_COOKIE = int.from_bytes(b"xdebugpy", "little")
_SELF_DESCRIPTION_WORDS = 10  # of _Py_DebugOffsets, as far as no version has changed it
_BLOCK_WORDS = 0x900 // 8  # of what the C library keeps at the thread pointer
_VARIABLES = 0x1000  # bytes below it, where a thread's variables lie
_PIECE = 0x200  # not all of that need be there
_TABLE_WORDS = 64  # of a table of slots that lies elsewhere
_DIRECT = -1
Offsets = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Slot:
    """How to get from a thread's pointer to its state: see struct waggle_python."""

    offset: int
    indirect: int = _DIRECT


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The image of CPython in a process. path: as it can be opened from here."""

    path: str
    image: Image
    bias: int
    version: str

    def address(self, symbol: str) -> int:
        return self.image.symbols[symbol] + self.bias


class Kernel(Protocol):
    """What the probe needs of the loaded BPF object."""

    def map(self, name: str) -> Map: ...

    def attach_in_process(
        self, program: str | Program, binary: str, *, offset: int, pid: int, retprobe: bool
    ) -> Link: ...

    def detach(self, link: Link) -> None: ...

    def detach_soon(self, links: Iterable[Link]) -> "Future[None]": ...


class PythonProbe:
    """Rule `task` for CPython processes."""

    name = "python"

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._epochs = itertools.count(1)

    def wants(self, target: Target) -> bool:
        return target.runtime.name == CPYTHON

    def attach(self, target: Target) -> "PythonAttachment":
        """Attach to the process.

        Raises NotYetError while the interpreter starts, RefusedError where there is no
        evidence to be had.
        """
        interpreter = find_interpreter(target.tgid)
        with Memory(target.tgid) as memory:
            offsets = find_offsets(memory, interpreter)
            slot = find_slot(memory, interpreter, offsets)
            destructor = find_destructor(memory, interpreter)
        links = [
            self._hook(FREED, target.tgid, interpreter, destructor),
            self._hook(COPIED, target.tgid, interpreter, find_copying(interpreter)),
        ]
        row = np.zeros(1, layout.PYTHON)
        row["context_type"] = interpreter.address(CONTEXT_TYPE)
        row["slot"], row["indirect"] = slot.offset, slot.indirect
        row["context"], row["type"] = offsets["context"], offsets["type"]
        row["epoch"] = next(self._epochs)
        self._kernel.map(PROCESSES).update(_key(target.tgid), row.tobytes())
        return PythonAttachment(self._kernel, target.tgid, links)

    def _hook(self, program: str, tgid: int, interpreter: Interpreter, address: int) -> Link:
        """A uprobe on a function of the image; COPIED wants what it returns."""
        offset = interpreter.image.file_offset(address)
        if offset is None:
            raise RefusedError(f"{interpreter.path}: {address:#x} lies outside of the file")
        return self._kernel.attach_in_process(
            program, interpreter.path, offset=offset, pid=tgid, retprobe=program == COPIED
        )


class PythonAttachment:
    """One interpreter that is looked into."""

    def __init__(self, kernel: Kernel, tgid: int, links: list[Link]) -> None:
        self._kernel = kernel
        self._tgid = tgid
        self._links = links

    def look(self) -> str | None:
        found = self._kernel.map(PROCESSES).lookup(_key(self._tgid))
        if found is not None and np.frombuffer(found, layout.PYTHON)["too_many"][0]:
            return (
                "copies contexts faster than is cheap to follow: the parents of its calls are "
                "found by threads only from now on"
            )
        return None

    def close(self) -> None:
        links, self._links = self._links, []
        if links:
            self._kernel.map(PROCESSES).delete(_key(self._tgid))
        if not runs_program(self._tgid):  # nothing of it is hit again: nobody need wait
            self._kernel.detach_soon(links)
            return
        for link in links:
            self._kernel.detach(link)


def _key(tgid: int) -> bytes:
    return tgid.to_bytes(4, "little")


# -- Where the interpreter is ---------------------------------------------------------------


def find_interpreter(tgid: int) -> Interpreter:
    """The image that holds CPython: a shared library, or the executable itself.

    Raises NotYetError when none is mapped yet.
    """
    mappings = file_mappings(tgid)
    for mapping, path in _candidates(tgid, mappings):
        try:
            image = read_image(path, (*_NEEDED, VERSION))
        except OSError:
            continue
        if image is None or any(name not in image.symbols for name in _NEEDED):
            continue
        bias = image.bias(mapping.start, mapping.offset)
        if bias is not None:
            return Interpreter(path, image, bias, _version(tgid, image, bias, mapping.path))
    raise NotYetError("no image of CPython 3.7 or later that exports its symbols is mapped")


def _candidates(
    tgid: int, mappings: list[process_memory.Mapping]
) -> Iterator[tuple[process_memory.Mapping, str]]:
    """Files that may be the interpreter, likeliest first, as their first mapping."""
    first: dict[str, process_memory.Mapping] = {}
    for mapping in mappings:
        first.setdefault(mapping.path, mapping)
    for path, mapping in first.items():
        if "/libpython3" in path:
            yield mapping, f"/proc/{tgid}/root{path}"
    if mappings:
        yield mappings[0], f"/proc/{tgid}/exe"


def _version(tgid: int, image: Image, bias: int, path: str) -> str:
    """3.12, as the interpreter itself says (since 3.11) or its file is called."""
    if VERSION in image.symbols:
        with Memory(tgid) as memory:
            word = memory.word(image.symbols[VERSION] + bias)
        if word:
            return f"{word >> 24 & 0xFF}.{word >> 16 & 0xFF}"
    name = path.rpartition("/")[2].removeprefix("lib").removeprefix("python")
    major, _, rest = name.partition(".")
    minor = "".join(itertools.takewhile(str.isdigit, rest))
    return f"{major}.{minor}"


def find_destructor(memory: Memory, interpreter: Interpreter) -> int:
    """Address in the image of what frees contexts. Raises RefusedError where it cannot be hooked.

    Without it an address that is used again would be taken for the context that was
    there before. It must begin with an instruction that the kernel emulates: everything
    else costs several times as much.
    """
    address = (memory.word(interpreter.address(CONTEXT_TYPE) + _DEALLOC) or 0) - interpreter.bias
    begins_at, begin = _begin(interpreter, address)
    if not begin or begin[0] not in _PUSH:
        raise RefusedError(
            f"{interpreter.path}: the destructor of contexts does not begin as it does in builds "
            "that are known: the parents of its calls are found by threads only"
        )
    return begins_at


def find_copying(interpreter: Interpreter) -> int:
    """Address in the image of what copies contexts: where it does anything, so that nothing
    has to be stepped over."""
    return _begin(interpreter, interpreter.image.symbols[COPY])[0]


def _begin(interpreter: Interpreter, address: int) -> tuple[int, bytes]:
    """The first instruction of a function that does anything: its address and the code there,
    as the file has it. In memory a breakpoint may lie over it, which a fork has inherited."""
    offset = interpreter.image.file_offset(address)
    if offset is None:
        return address, b""
    with Path(interpreter.path).open("rb") as file:
        file.seek(offset)
        code = file.read(2 * len(_ENDBR64))
    skip = len(_ENDBR64) if code.startswith(_ENDBR64) else 0
    return address + skip, code[skip:]


# -- Where its threads keep their state -----------------------------------------------------


def find_offsets(memory: Memory, interpreter: Interpreter) -> Offsets:
    """The offsets of this interpreter: of its version, and what it says itself.

    Raises RefusedError for a version that is not known and for builds without a GIL.
    """
    said = self_description(memory.words(interpreter.address(RUNTIME), _SELF_DESCRIPTION_WORDS))
    if said.get("is_free"):
        raise RefusedError(
            f"CPython {interpreter.version} without a GIL is not supported: the parents of its "
            "calls are found by threads only"
        )
    known = OFFSETS.get((interpreter.version, False))
    if known is None:
        raise RefusedError(
            f"CPython {interpreter.version} is not known: the parents of its calls are found "
            "by threads only; `make python-offsets` with that interpreter teaches it"
        )
    return {**known, **said}


def self_description(words: npt.NDArray[np.uint64]) -> dict[str, int]:
    """What _Py_DebugOffsets says; nothing where there is none, before 3.13.

    words: the beginning of _PyRuntime. is_free: built without a GIL; next: of an interpreter,
    the next one; interpreters, threads: as in table.py.
    Source: Include/internal/pycore_debug_offsets.h of CPython 3.13 to 3.15.
    """
    if len(words) < _SELF_DESCRIPTION_WORDS or int(words[0]) != _COOKIE:
        return {}
    # cookie, version, free_threaded; of _PyRuntime: size, finalizing, interpreters_head; of an
    # interpreter: size, id, next, threads_head
    _, _, is_free, _, _, interpreters, _, _, next_, threads = words.tolist()
    return {
        "is_free": is_free,
        "interpreters": interpreters,
        "next": next_,
        "threads": threads,
    }


def find_slot(memory: Memory, interpreter: Interpreter, offsets: Offsets) -> Slot:
    """The slot that holds a right state in every thread. Raises NotYetError or RefusedError.

    A thread that has worked for several interpreters has a state in each, of which the slot
    holds the one it works with now.
    """
    running: dict[int, set[int]] = {}
    for pointer, state in threads(memory, interpreter, offsets):
        running.setdefault(pointer, set()).add(state)
    if not running:
        raise NotYetError("the interpreter has no thread yet")
    common: set[Slot] | None = None
    for pointer, states in running.items():
        found = set(_slots(memory, pointer, states))
        common = found if common is None else common & found
    if not common:
        raise NotYetError("no slot of the C library holds the state of each thread")
    variables = {slot for slot in common if slot.offset < 0}
    slots = common - variables
    # Another variable holds the state only while a thread has the GIL, as none has that waits.
    if not slots and len(variables) > 1:
        raise NotYetError("more than one variable holds the state of each thread")
    return min(
        slots or variables,
        key=lambda slot: (slot.indirect != _DIRECT, slot.offset, slot.indirect),
    )


def threads(
    memory: Memory, interpreter: Interpreter, offsets: Offsets
) -> Iterator[tuple[int, int]]:
    """Pointer and state of each thread that runs Python now, in any interpreter."""
    seen = 0
    for address in _interpreters(memory, interpreter, offsets):
        state = memory.word(address + offsets["threads"])
        while state and seen < MAX_THREADS:
            seen += 1
            pointer = memory.word(state + offsets["thread_id"])
            # A thread that has only just been made has no identifier yet.
            if pointer and memory.word(pointer) == pointer:
                yield pointer, state
            state = memory.word(state + _NEXT)


def _interpreters(memory: Memory, interpreter: Interpreter, offsets: Offsets) -> Iterator[int]:
    """Addresses of the interpreters of a process, the newest first."""
    address = memory.word(interpreter.address(RUNTIME) + offsets["interpreters"])
    for _ in range(MAX_INTERPRETERS):
        if not address:
            return
        yield address
        # The first word of an interpreter, until it began to say where it is.
        address = memory.word(address + offsets.get("next", 0))


def _slots(memory: Memory, pointer: int, states: set[int]) -> Iterator[Slot]:
    """Places reached from a thread's pointer that hold one of its states."""
    wanted = np.fromiter(states, np.uint64)
    for below in range(_PIECE, _VARIABLES + 1, _PIECE):
        piece = memory.words(pointer - below, _PIECE // 8)
        for i in np.flatnonzero(np.isin(piece, wanted)).tolist():
            yield Slot(8 * i - below)
    block = memory.words(pointer, _BLOCK_WORDS)
    direct = np.flatnonzero(np.isin(block, wanted))
    for i in direct.tolist():
        yield Slot(8 * i)
    if len(direct):
        return
    for i, word in enumerate(block.tolist()):
        if word < 4096 or word % 8 or word == pointer:
            continue
        table = memory.words(word, _TABLE_WORDS)
        for k in np.flatnonzero(np.isin(table, wanted)).tolist():
            yield Slot(8 * i, 8 * k)
