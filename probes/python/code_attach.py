"""Attaches to a running CPython, 3.11 or later: so that its calls carry their line of code.

Nothing is hooked: the kernel is told where frames and code objects are, and reads them
when a request goes out (bpf/python_code.h). That is by offsets per version (table.py),
which are believed when the frames of the process itself, as they lie in its memory now,
are what they must be by them.
"""

import os
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from waggle import layout
from waggle.attach import NotYetError, RefusedError, Target
from waggle.elf import read_image
from waggle.libbpf import Map
from waggle.probes.python.attach import (
    RUNTIME,
    Interpreter,
    Offsets,
    find_interpreter,
    find_offsets,
    find_slot,
    threads,
)
from waggle.process_memory import Memory
from waggle.runtimes import CPYTHON

LAYOUTS = "python_code"
CODE_TYPE = "PyCode_Type"
_FRAMES_LOOKED_AT = 4
_SIZE, _UNIT = 2, 2  # of a code object: the word that counts its instructions; their bytes
_FRAME_WORDS = 8


class Kernel(Protocol):
    """What the probe needs of the loaded BPF object."""

    def map(self, name: str) -> Map: ...


class CodeProbe:
    """Lines of code for CPython processes."""

    name = "python code"

    def __init__(self, kernel: Kernel) -> None:
        self._layouts = kernel.map(LAYOUTS)

    def wants(self, target: Target) -> bool:
        """Before 3.11 frames are objects, made when somebody asks for them: none are there."""
        version = (target.runtime.version or "3.11").split(".")
        numbers = tuple(int(part) for part in version[:2] if part.isdigit())
        return target.runtime.name == CPYTHON and numbers >= (3, 11)

    def attach(self, target: Target) -> "CodeAttachment":
        """Tell the kernel. Raises NotYetError while the interpreter starts, or RefusedError."""
        interpreter = find_interpreter(target.tgid)
        code_type = _code_type(interpreter)
        row = np.zeros(1, layout.CODE_LAYOUT)
        with Memory(target.tgid) as memory:
            offsets = find_offsets(memory, interpreter)
            if "frame" not in offsets:
                raise RefusedError(
                    f"the frames of CPython {interpreter.version} are not known: its calls carry "
                    "no line of code; `make python-offsets` with that interpreter teaches it"
                )
            slot = find_slot(memory, interpreter, offsets)
            verify(memory, interpreter, offsets, code_type)
        row["code_type"] = code_type
        row["salt"] = int.from_bytes(os.urandom(8), "little")
        row["slot"], row["indirect"] = slot.offset, slot.indirect
        for name in set(layout.CODE_LAYOUT.names or ()) & set(offsets):
            row[name] = offsets[name]
        self._layouts.update(_key(target.tgid), row.tobytes())
        return CodeAttachment(self._layouts, target.tgid)


class CodeAttachment:
    """One interpreter whose frames are read."""

    def __init__(self, layouts: Map, tgid: int) -> None:
        self._layouts = layouts
        self._tgid = tgid

    def look(self) -> str | None:
        return None

    def close(self) -> None:
        self._layouts.delete(_key(self._tgid))


def verify(memory: Memory, interpreter: Interpreter, offsets: Offsets, code_type: int) -> None:
    """That the offsets lead to frames in which functions run. Raises NotYetError.

    It may run meanwhile, so what is read of a frame may be of two: one thread whose frames
    are sound is proof, and to see none is no disproof.
    """
    for _, state in threads(memory, interpreter, offsets):
        if any(
            _is_sound(memory, frame, offsets, code_type)
            for frame in _frames(memory, state, offsets)
        ):
            return
    raise NotYetError(f"no frame of CPython {interpreter.version} is where it must be")


def _frames(memory: Memory, state: int, offsets: Offsets) -> Iterator[np.ndarray]:
    """The innermost frames of a thread, as words."""
    if offsets["c_frame"] >= 0:
        state = memory.word(state + offsets["c_frame"]) or 0
    frame = memory.word(state + offsets["frame"]) if state else None
    for _ in range(_FRAMES_LOOKED_AT):
        words = memory.words(frame or 0, _FRAME_WORDS)
        if len(words) < _FRAME_WORDS:
            return
        yield words
        frame = int(words[offsets["frame_previous"] // 8])


def _is_sound(memory: Memory, frame: np.ndarray, offsets: Offsets, code_type: int) -> bool:
    code = int(frame[offsets["frame_code"] // 8]) & ~7
    words = memory.words(code, offsets["instructions"] // 8)
    if len(words) <= _SIZE or int(words[1]) != code_type:
        return False
    at = int(frame[offsets["frame_instruction"] // 8]) - code - offsets["instructions"]
    return -_UNIT <= at < _UNIT * int(words[_SIZE])


def _code_type(interpreter: Interpreter) -> int:
    image = read_image(interpreter.path, (CODE_TYPE, RUNTIME))
    if image is None or CODE_TYPE not in image.symbols:
        raise RefusedError(f"{interpreter.path} does not export {CODE_TYPE}")
    return image.symbols[CODE_TYPE] + interpreter.bias


def _key(tgid: int) -> bytes:
    return tgid.to_bytes(4, "little")
