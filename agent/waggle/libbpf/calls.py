"""The shared library: its functions' types, what it says, and the errors it returns."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NoReturn

from waggle.libbpf.failures import explain_failure, missing_library

MAX_LOG_BYTES = 4 << 20  # a verifier's log may be 16 MiB; what matters is at its end

PTR = ctypes.c_void_p
INT = ctypes.c_int
STR = ctypes.c_char_p
U32 = ctypes.c_uint32
U64 = ctypes.c_uint64
SIZE = ctypes.c_size_t
BOOL = ctypes.c_bool

# name -> (result, arguments...), as in bpf/libbpf.h, bpf/bpf.h and bpf/btf.h.
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "bpf_object__open_file": (PTR, STR, PTR),
    "bpf_object__load": (INT, PTR),
    "bpf_object__close": (None, PTR),
    "bpf_object__btf": (PTR, PTR),
    "bpf_object__next_program": (PTR, PTR, PTR),
    "bpf_object__next_map": (PTR, PTR, PTR),
    "bpf_object__find_map_by_name": (PTR, PTR, STR),
    "bpf_program__name": (STR, PTR),
    "bpf_program__section_name": (STR, PTR),
    "bpf_program__fd": (INT, PTR),
    "bpf_program__autoload": (BOOL, PTR),
    "bpf_program__set_autoload": (INT, PTR, BOOL),
    "bpf_program__set_expected_attach_type": (INT, PTR, INT),
    "bpf_program__attach": (PTR, PTR),
    "bpf_program__attach_cgroup": (PTR, PTR, INT),
    "bpf_program__attach_uprobe_opts": (PTR, PTR, INT, STR, SIZE, PTR),
    "bpf_link__fd": (INT, PTR),
    "bpf_link__destroy": (INT, PTR),
    "bpf_iter_create": (INT, INT),
    "bpf_map__fd": (INT, PTR),
    "bpf_map__name": (STR, PTR),
    "bpf_map__type": (INT, PTR),
    "bpf_map__key_size": (U32, PTR),
    "bpf_map__value_size": (U32, PTR),
    "bpf_map__max_entries": (U32, PTR),
    "bpf_map__set_max_entries": (INT, PTR, U32),
    "bpf_map__set_autocreate": (INT, PTR, BOOL),
    "bpf_map__initial_value": (PTR, PTR, ctypes.POINTER(SIZE)),
    "bpf_map_lookup_elem": (INT, INT, PTR, PTR),
    "bpf_map_update_elem": (INT, INT, PTR, PTR, U64),
    "bpf_map_delete_elem": (INT, INT, PTR),
    "bpf_map_get_next_key": (INT, INT, PTR, PTR),
    "bpf_map_lookup_batch": (INT, INT, PTR, PTR, PTR, PTR, ctypes.POINTER(U32), PTR),
    "bpf_map_create": (INT, INT, STR, U32, U32, U32, PTR),
    "bpf_prog_attach": (INT, INT, INT, INT, ctypes.c_uint),
    "bpf_prog_detach2": (INT, INT, INT, INT),
    "bpf_prog_test_run_opts": (INT, INT, PTR),
    "bpf_prog_load": (INT, INT, STR, STR, PTR, SIZE, PTR),
    "bpf_raw_tracepoint_open": (INT, STR, INT),
    "bpf_obj_get_info_by_fd": (INT, INT, PTR, ctypes.POINTER(U32)),
    "bpf_enable_stats": (INT, INT),
    "btf__load_vmlinux_btf": (PTR,),
    "btf__free": (None, PTR),
    "btf__find_by_name_kind": (ctypes.c_int32, PTR, STR, U32),
    "btf__type_by_id": (PTR, PTR, U32),
    "btf__name_by_offset": (STR, PTR, U32),
    "libbpf_num_possible_cpus": (INT,),
    "libbpf_set_print": (PTR, PTR),
}

# What only looks into libbpf's own memory keeps the interpreter's lock. To give it away for
# each of the some hundred such calls of a start means to wait for it again: for as long as the
# thread that imports likes to keep it.
_QUICK = frozenset(
    name
    for name in _SIGNATURES
    if name.startswith(("bpf_program__", "bpf_map__", "bpf_object__next", "bpf_object__find"))
    and "attach" not in name
)

_PRINT_CALLBACK = ctypes.CFUNCTYPE(INT, INT, STR, PTR)
_LEVEL_DEBUG = 2


class _Logs(threading.local):
    """What libbpf says on this thread goes to the innermost capture."""

    def __init__(self) -> None:
        self.captures: list[Log] = []


class Log:
    """Text, the newest MAX_LOG_BYTES of it."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._size = 0

    def add(self, text: str) -> None:
        self._parts.append(text)
        self._size += len(text)
        if self._size > 2 * MAX_LOG_BYTES:
            self._parts = [self.text()]
            self._size = len(self._parts[0])

    def text(self) -> str:
        return "".join(self._parts)[-MAX_LOG_BYTES:]


_logs = _Logs()


@contextmanager
def captured_log() -> Iterator[Log]:
    log = Log()
    _logs.captures.append(log)
    try:
        yield log
    finally:
        _logs.captures.pop()


def _formatter() -> Any:
    """A callback for libbpf_set_print that formats into the current capture.

    A va_list is a pointer or decays to one in the ABIs of x86-64 and arm64, so
    it may be handed on as it came; vasprintf makes a string of any length.
    """
    libc = ctypes.CDLL(None)
    libc.vasprintf.argtypes = [ctypes.POINTER(PTR), STR, PTR]
    libc.free.argtypes = [PTR]

    def on_print(level: int, fmt: bytes, arguments: int) -> int:
        if level >= _LEVEL_DEBUG or not _logs.captures:
            return 0
        out = PTR()
        if libc.vasprintf(ctypes.byref(out), fmt, arguments) < 0 or not out.value:
            return 0
        try:
            text = ctypes.string_at(out.value)[-MAX_LOG_BYTES:]
        finally:
            libc.free(out)
        _logs.captures[-1].add(text.decode(errors="replace"))
        return 0

    return _PRINT_CALLBACK(on_print)


_print_callback: Any = None  # libbpf keeps the pointer: it must live as long as the process


@cache
def library() -> Any:
    """libbpf with its signatures declared. Raises LoadError when it is not installed."""
    global _print_callback
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise missing_library(str(error)) from None
    quick = ctypes.PyDLL("libbpf.so.1", use_errno=True)
    for name, (result, *arguments) in _SIGNATURES.items():
        function = getattr(quick if name in _QUICK else lib, name)
        setattr(lib, name, function)
        function.restype = result
        function.argtypes = arguments
    _print_callback = _formatter()
    lib.libbpf_set_print(ctypes.cast(_print_callback, PTR))
    return lib


@contextmanager
def silence() -> Iterator[None]:
    """While it holds, libbpf logs nothing: in no thread, so only at the start."""
    library().libbpf_set_print(None)
    try:
        yield
    finally:
        library().libbpf_set_print(ctypes.cast(_print_callback, PTR))


def fail(what: str, code: int, log: Log | None = None) -> NoReturn:
    raise explain_failure(what, code, log.text() if log else "", missing=_missing_for_loading())


def _missing_for_loading() -> tuple[str, ...]:
    # Imported here: privileges needs nothing of this module, but is wanted only on failure.
    from waggle import privileges

    return tuple(c.label for c in privileges.missing(privileges.LOADING))


def check(result: int, what: str, log: Log | None = None) -> int:
    """Pass a non-negative result on, raise LoadError for a negative errno."""
    if result < 0:
        fail(what, -result, log)
    return result


def possible_cpus() -> int:
    """How many values an element of a per-cpu map has."""
    return check(library().libbpf_num_possible_cpus(), "count the possible CPUs")
