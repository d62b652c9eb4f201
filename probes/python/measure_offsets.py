"""Where an interpreter keeps what Waggle reads: measured in the interpreter itself.

    some-python3.12 measure_offsets.py
    {"version": "3.12", "free_threaded": false, "interpreters": 40, "threads": 72, ...}

Runs under any CPython from 3.7 on, needs nothing but ctypes, and looks for known
values in its own memory: the interpreter's state in _PyRuntime, the thread's state in
that, this thread's identifier and the current context in the thread's, its frames
and their code objects (from 3.11 on). `make python-offsets` writes what it prints, for
many interpreters, into table.py.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import json
import os
import sys
import sysconfig
import threading

WORD = ctypes.sizeof(ctypes.c_void_p)


def pointer(function: str) -> int:
    """What a function of the interpreter's C API returns, as an address."""
    found = getattr(ctypes.pythonapi, function)
    found.restype = ctypes.c_void_p
    return int(found())


def places(base: int, size: int, value: int) -> list[int]:
    """Offsets in [base, base + size) of words that hold `value`."""
    words = (ctypes.c_uint64 * (size // WORD)).from_address(base)
    return [i * WORD for i, word in enumerate(words) if word == value]


def first_place(what: str, base: int, size: int, value: int) -> int:
    found = places(base, size, value)
    if not found:
        raise SystemExit("measure_offsets: found no " + what)
    return found[0]


def context_place(state: int) -> int:
    """The one place that changes with the current context, as it changes."""
    common = set(range(512))
    for _ in range(3):
        context = contextvars.Context()
        common &= set(context.run(places, state, 512, id(context)))
    if len(common) != 1:
        raise SystemExit(f"measure_offsets: contexts at {sorted(common)}")
    return common.pop()


def type_place() -> int:
    """Of an object, its type: behind the reference count, which free threading widened."""
    context = contextvars.Context()
    return first_place("type", id(context), 64, id(contextvars.Context))


def read_words(address: int, count: int) -> list[int]:
    return list((ctypes.c_uint64 * count).from_address(address))


def place_in(what: str, words: list[int], value: int) -> int:
    if words.count(value) != 1:
        raise SystemExit(f"measure_offsets: {what} at {words.count(value)} places")
    return words.index(value) * WORD


def tell_them_apart(state: int) -> dict[str, int]:
    """Frames and code objects, from this function's own, which is like no other."""
    frame = sys._getframe()
    assert frame.f_back is not None
    code, other = frame.f_code, Witness.never_run.__code__
    inner, outer = (read_words(id(one), 4)[3] for one in (frame, frame.f_back))
    words, code_words = read_words(inner, 8), read_words(id(code), 20)
    executable = [word & ~7 for word in words]  # since 3.14 a reference has marks
    start = id(code) + instructions_place()
    inside = [i for i, word in enumerate(words) if start <= word < start + len(code.co_code)]
    if len(inside) != 1:
        raise SystemExit("measure_offsets: found no instruction")
    numbers = list((ctypes.c_uint32 * 40).from_address(id(code)))
    if numbers.count(code.co_firstlineno) != 1:
        raise SystemExit("measure_offsets: found no first line")
    return {
        **innermost_frame(state),
        "frame_code": place_in("code", executable, id(code)),
        "frame_globals": place_in("globals", words, id(frame.f_globals)),
        "frame_locals": locals_place(),
        "frame_previous": place_in("previous frame", words, outer),
        "frame_instruction": inside[0] * WORD,
        "file_name": place_in("file name", code_words, id(code.co_filename)),
        "function": place_in("function", read_words(id(other), 20), id(other.co_qualname)),
        "names": place_in("names", code_words, id(code.co_names)),
        "items": place_in("items", read_words(id(code.co_names), 8), id(code.co_names[0])),
        "line_table": place_in("line table", code_words, id(code.co_linetable)),
        "first_line": numbers.index(code.co_firstlineno) * 4,
        "instructions": instructions_place(),
        "text": bytes(read_bytes(id(TEXT), 128)).index(TEXT.encode()),
    }


def locals_place() -> int:
    """Where a frame has what it calls locals(): nothing in that of a function."""
    seen: dict[str, list[int]] = {}
    names = {"_getframe": sys._getframe, "read_words": read_words}
    text = "at = read_words(id(_getframe()), 4)[3]; words = read_words(at, 8)"
    exec(text, names, seen)  # noqa: S102
    return place_in("locals", seen["words"], id(seen))


class Witness:
    """Whose function is called otherwise with the class than without."""

    def never_run(self) -> None:
        """Its instructions are still what the compiler made of it."""


def instructions_place() -> int:
    """Where the fixed part of a code object ends, and its instructions begin."""
    code = Witness.never_run.__code__
    place = type(code).__basicsize__
    if bytes(read_bytes(id(code) + place, 4))[::2] != code.co_code[:4:2]:
        raise SystemExit("measure_offsets: instructions are elsewhere")
    return place


TEXT = "measure_offsets looks for this"


def read_bytes(address: int, size: int) -> ctypes.Array[ctypes.c_ubyte]:
    return (ctypes.c_ubyte * size).from_address(address)


def innermost_frame(state: int) -> dict[str, int]:
    """Where a thread's state leads to the innermost frame, which here is this function's.

    What may be no pointer is followed by a read that only fails.
    """
    own = read_words(id(sys._getframe()), 4)[3].to_bytes(WORD, "little")
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    words = os.pread(memory, 512, state)
    for at in range(0, 512, WORD):
        if words[at : at + WORD] == own:
            return {"c_frame": -1, "frame": at}
        held = b""
        with contextlib.suppress(OSError, OverflowError):
            held = os.pread(memory, 3 * WORD, int.from_bytes(words[at : at + WORD], "little"))
        for place in range(0, len(held), WORD):
            if held[place : place + WORD] == own:
                return {"c_frame": at, "frame": place}
    raise SystemExit("measure_offsets: found no frame")


def main() -> None:
    runtime = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    state = pointer("PyThreadState_Get")
    interpreter = pointer("PyInterpreterState_Head")
    row = {
        "version": "{}.{}".format(*sys.version_info[:2]),
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "interpreters": first_place("interpreter", runtime, 2048, interpreter),
        "threads": first_place("thread state", interpreter, 16384, state),
        "thread_id": first_place("thread id", state, 512, threading.get_ident()),
        "context": context_place(state),
        "type": type_place(),
    }
    if hasattr(main.__code__, "co_qualname"):  # 3.11: before, frames were objects
        try:
            row.update(tell_them_apart(state))
        except SystemExit as failure:
            print(f"{failure}: calls of {row['version']} carry no line of code", file=sys.stderr)
    print(json.dumps(row))


main()
