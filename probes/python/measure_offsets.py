"""Where an interpreter keeps what Waggle reads: measured in the interpreter itself.

    some-python3.12 measure_offsets.py
    {"version": "3.12", "free_threaded": false, "interpreters": 40, "threads": 72, ...}

Runs under any CPython from 3.7 on, needs nothing but ctypes, and looks for known
values in its own memory: the interpreter's state in _PyRuntime, the thread's state in
that, this thread's identifier and the current context in the thread's. `make
python-offsets` writes what it prints, for many interpreters, into table.py.
"""

from __future__ import annotations

import contextvars
import ctypes
import json
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
    print(json.dumps(row))


main()
