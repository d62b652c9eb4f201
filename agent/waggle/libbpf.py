"""A thin typed binding to libbpf: objects, programs, maps, links.

    with Object.open("waggle.bpf.o") as bpf:
        bpf.rodata["agent_tgid"] = os.getpid()
        bpf.map("exchanges").max_entries = 1 << 22
        bpf.load()
        bpf.attach("on_send")
        totals = bpf.map("counters").sum_over_cpus()

Works with libbpf.so.1 from 1.1 on; the library is loaded at first use, so that
what needs no kernel runs without it. Nothing is ever printed: what libbpf says
goes into the `full_log` of the LoadError that the same call raises.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from waggle.errors import PrivilegeError, UnsupportedError, WaggleError

if TYPE_CHECKING:  # numpy is imported where it is used: loading need not wait for it
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Value = int | bool | bytes | npt.NDArray[Any] | np.generic

MAX_LOG_BYTES = 4 << 20  # a verifier's log may be 16 MiB; what matters is at its end
ENOTSUPP = 524  # the kernel's own "not supported", which has no name in user space

# Update flags of bpf_map_update_elem.
ANY, NO_EXIST, EXIST = 0, 1, 2

_PTR = ctypes.c_void_p
_INT = ctypes.c_int
_STR = ctypes.c_char_p
_U32 = ctypes.c_uint32
_U64 = ctypes.c_uint64
_SIZE = ctypes.c_size_t
_BOOL = ctypes.c_bool

# name -> (result, arguments...), as in bpf/libbpf.h, bpf/bpf.h and bpf/btf.h.
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "bpf_object__open_file": (_PTR, _STR, _PTR),
    "bpf_object__load": (_INT, _PTR),
    "bpf_object__close": (None, _PTR),
    "bpf_object__btf": (_PTR, _PTR),
    "bpf_object__next_program": (_PTR, _PTR, _PTR),
    "bpf_object__next_map": (_PTR, _PTR, _PTR),
    "bpf_object__find_map_by_name": (_PTR, _PTR, _STR),
    "bpf_program__name": (_STR, _PTR),
    "bpf_program__section_name": (_STR, _PTR),
    "bpf_program__fd": (_INT, _PTR),
    "bpf_program__autoload": (_BOOL, _PTR),
    "bpf_program__set_autoload": (_INT, _PTR, _BOOL),
    "bpf_program__set_expected_attach_type": (_INT, _PTR, _INT),
    "bpf_program__attach": (_PTR, _PTR),
    "bpf_program__attach_cgroup": (_PTR, _PTR, _INT),
    "bpf_program__attach_uprobe_opts": (_PTR, _PTR, _INT, _STR, _SIZE, _PTR),
    "bpf_link__fd": (_INT, _PTR),
    "bpf_link__destroy": (_INT, _PTR),
    "bpf_iter_create": (_INT, _INT),
    "bpf_map__fd": (_INT, _PTR),
    "bpf_map__name": (_STR, _PTR),
    "bpf_map__type": (_INT, _PTR),
    "bpf_map__key_size": (_U32, _PTR),
    "bpf_map__value_size": (_U32, _PTR),
    "bpf_map__max_entries": (_U32, _PTR),
    "bpf_map__set_max_entries": (_INT, _PTR, _U32),
    "bpf_map__set_autocreate": (_INT, _PTR, _BOOL),
    "bpf_map__initial_value": (_PTR, _PTR, ctypes.POINTER(_SIZE)),
    "bpf_map_lookup_elem": (_INT, _INT, _PTR, _PTR),
    "bpf_map_update_elem": (_INT, _INT, _PTR, _PTR, _U64),
    "bpf_map_delete_elem": (_INT, _INT, _PTR),
    "bpf_map_get_next_key": (_INT, _INT, _PTR, _PTR),
    "bpf_map_lookup_batch": (_INT, _INT, _PTR, _PTR, _PTR, _PTR, ctypes.POINTER(_U32), _PTR),
    "bpf_map_create": (_INT, _INT, _STR, _U32, _U32, _U32, _PTR),
    "bpf_prog_attach": (_INT, _INT, _INT, _INT, ctypes.c_uint),
    "bpf_prog_detach2": (_INT, _INT, _INT, _INT),
    "bpf_prog_test_run_opts": (_INT, _INT, _PTR),
    "bpf_prog_load": (_INT, _INT, _STR, _STR, _PTR, _SIZE, _PTR),
    "bpf_raw_tracepoint_open": (_INT, _STR, _INT),
    "bpf_obj_get_info_by_fd": (_INT, _INT, _PTR, ctypes.POINTER(_U32)),
    "bpf_enable_stats": (_INT, _INT),
    "btf__load_vmlinux_btf": (_PTR,),
    "btf__free": (None, _PTR),
    "btf__find_by_name_kind": (ctypes.c_int32, _PTR, _STR, _U32),
    "btf__type_by_id": (_PTR, _PTR, _U32),
    "btf__name_by_offset": (_STR, _PTR, _U32),
    "libbpf_num_possible_cpus": (_INT,),
    "libbpf_set_print": (_PTR, _PTR),
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

_PRINT_CALLBACK = ctypes.CFUNCTYPE(_INT, _INT, _STR, _PTR)
_LEVEL_DEBUG = 2


class LoadError(WaggleError):
    """libbpf or the kernel refused an object, a program or an attachment.

    The message is one line: what was refused, the line of the log that says
    why, how many lines were left out, and the remedy when the cause is known.
    full_log: everything libbpf and the verifier said (its last 4 MiB).
    exit_code: 3 when a privilege is missing, 4 when the kernel lacks something.
    """

    def __init__(self, message: str, full_log: str = "", exit_code: int = 1, code: int = 0) -> None:
        super().__init__(message)
        self.full_log = full_log
        self.exit_code = exit_code
        self.errno = code


# -- What went wrong, in one line ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cause:
    """A known failure: how its log reads and what to do about it."""

    pattern: re.Pattern[str]
    remedy: str
    exit_code: int


def _cause(pattern: str, remedy: str, exit_code: int = UnsupportedError.exit_code) -> _Cause:
    return _Cause(re.compile(pattern), remedy, exit_code)


# The first that matches wins. Poisoned CO-RE instructions come before unknown helpers, whose
# wording they share: libbpf writes the impossible call 195896080 (0xbad2310) over them.
_CAUSES = (
    _cause(
        r"(?:invalid|unknown) func (?:unknown)?#195896080|<invalid CO-RE relocation>"
        r"|failed to resolve CO-RE relocation",
        "this kernel has not the type or field that the program reads",
    ),
    _cause(
        r"(?:helper|unknown func) bpf_probe_write_user#36",
        "bpf_probe_write_user is refused where kernel lockdown is on (Secure Boot)",
    ),
    _cause(
        r"(?:unknown func|invalid func|cannot use helper) (?P<helper>\S+)",
        "this kernel does not offer {helper} to this type of program",
    ),
    _cause(
        r"failed to find valid kernel BTF|Error loading vmlinux BTF|kernel BTF is missing",
        "kernel without BTF: needs CONFIG_DEBUG_INFO_BTF "
        "(then /sys/kernel/btf/vmlinux exists), as most distributions' kernels have it",
    ),
    _cause(
        r"failed to find kernel BTF type ID of '(?P<name>[^']+)'"
        r"|'(?P<name2>[^']+)' is not found in vmlinux BTF"
        r"|failed to attach to raw tracepoint '(?P<name3>[^']+)': No such file",
        "this kernel has no hook {name}; choose another --capture",
    ),
    _cause(
        r"map '(?P<name>[^']+)': failed to create: Invalid argument",
        "this kernel has no maps of that type, or {name} has a size it cannot have",
    ),
    _cause(
        r"BPF program is too large|The sequence of \d+ jumps is too complex",
        "the verifier of this kernel gave up on the program's size; choose another --capture",
    ),
)

_BEGIN_LOG = re.compile(r"-- BEGIN PROG LOAD LOG --")
_END_LOG = re.compile(r"-- END PROG LOAD LOG --")
# Statistics and frames that the verifier puts after the line that matters.
_AFTER_THE_LINE = re.compile(
    r"^(processed \d+ insns? |verification time |stack depth |max_states_per_insn|mark_precise)"
)
_SOURCE_LINE = re.compile(r"^; (?P<text>.*?)(?: @ [^ ]+:\d+)?$")
# What libbpf says of every failure, or while it goes on regardless: tells nothing.
_SUMMARY = re.compile(
    r"^libbpf: (failed to load object|prog '[^']*': failed to load:|Failed to bump RLIMIT_MEMLOCK"
    r"|Error in bpf_create_map_xattr)"
)


def useful_line(log: str) -> tuple[str, int]:
    """The one line of a log that says why, and how many lines were left out.

    In a verifier's log that is the last line before the statistics, with the
    source line it was at; without one, libbpf's first line that is no summary.
    """
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    verifier = _verifier_lines(lines)
    if verifier:
        reason, source = _verifier_reason(verifier)
        text = f"{reason} (at: {source})" if source else reason
        return text, len(lines) - 1
    said = [line for line in lines if not _SUMMARY.match(line)] or lines
    if not said:
        return "", 0
    return said[0].removeprefix("libbpf: "), len(lines) - 1


def _verifier_lines(lines: list[str]) -> list[str]:
    """The lines between the last pair of log marks (an earlier pair may be a retry).

    A log that was too long to keep has lost its first mark.
    """
    begins = [i for i, line in enumerate(lines) if _BEGIN_LOG.search(line)]
    ends = [i for i, line in enumerate(lines) if _END_LOG.search(line)]
    if not begins and not ends:
        return []
    begin = begins[-1] + 1 if begins else 0
    return lines[begin : ends[-1] if ends else len(lines)]


def _verifier_reason(lines: list[str]) -> tuple[str, str]:
    telling = [line for line in lines if not _AFTER_THE_LINE.match(line)]
    if not telling:
        return lines[-1].strip(), ""
    sources = [m["text"].strip() for line in telling if (m := _SOURCE_LINE.match(line))]
    return telling[-1].strip(), sources[-1] if sources else ""


def explain_failure(what: str, code: int, log: str, *, missing: tuple[str, ...] = ()) -> LoadError:
    """The LoadError for a refused call.

    what: the act that failed, such as "load waggle.bpf.o". code: its positive
    errno. log: what libbpf said meanwhile. missing: names of the capabilities
    this process lacks of those that loading needs.
    """
    line, omitted = useful_line(log)
    remedy, exit_code = _remedy(code, log, missing)
    if code == errno.EPERM and missing:
        line, remedy, omitted = remedy, "", len(log.splitlines())  # libbpf can only guess here
    parts = [f"cannot {what}: {line or _error_name(code)}"]
    if omitted:
        parts.append(f" ({omitted} line{'s' if omitted > 1 else ''} omitted)")
    if remedy:
        parts.append(f": {remedy}")
    return LoadError("".join(parts), log, exit_code, code)


def _remedy(code: int, log: str, missing: tuple[str, ...]) -> tuple[str, int]:
    """What to do about a failure and the exit code that goes with it."""
    if code in (errno.EPERM, errno.EACCES) and missing:
        names = ", ".join(missing)
        return f"missing {names}: run with sudo, or grant them", PrivilegeError.exit_code
    for cause in _CAUSES:
        if match := cause.pattern.search(log):
            found = [value for value in match.groupdict().values() if value]
            fields = dict.fromkeys(("helper", "name"), found[0] if found else "")
            return cause.remedy.format(**fields), cause.exit_code
    if code in (ENOTSUPP, errno.EOPNOTSUPP):
        return "choose another --capture", UnsupportedError.exit_code
    if code == errno.EPERM:
        return (
            "all capabilities are there, so the kernel itself refuses: lockdown, a security "
            "module, a container's seccomp profile or, before 5.11, `ulimit -l`; "
            "choose another --capture",
            UnsupportedError.exit_code,
        )
    return "", WaggleError.exit_code


def _error_name(code: int) -> str:
    if code == ENOTSUPP:
        return "not supported by this kernel"
    if code in errno.errorcode:
        return os.strerror(code)
    return f"libbpf error {code}"


# -- The library ---------------------------------------------------------------------------


class _Logs(threading.local):
    """What libbpf says on this thread goes to the innermost capture."""

    def __init__(self) -> None:
        self.captures: list[_Log] = []


class _Log:
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
def _captured_log() -> Iterator[_Log]:
    log = _Log()
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
    libc.vasprintf.argtypes = [ctypes.POINTER(_PTR), _STR, _PTR]
    libc.free.argtypes = [_PTR]

    def on_print(level: int, fmt: bytes, arguments: int) -> int:
        if level >= _LEVEL_DEBUG or not _logs.captures:
            return 0
        out = _PTR()
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
    lib.libbpf_set_print(ctypes.cast(_print_callback, _PTR))
    return lib


@contextmanager
def _silence() -> Iterator[None]:
    """While it holds, libbpf logs nothing: in no thread, so only at the start."""
    library().libbpf_set_print(None)
    try:
        yield
    finally:
        library().libbpf_set_print(ctypes.cast(_print_callback, _PTR))


def missing_library(detail: str) -> LoadError:
    """The error for a machine without libbpf.so.1; detail is the dynamic linker's word."""
    return LoadError(
        f"libbpf.so.1 cannot be loaded ({detail}): install libbpf1 "
        "(Debian, Ubuntu: apt install libbpf1; Fedora: dnf install libbpf)",
        exit_code=UnsupportedError.exit_code,
    )


def _fail(what: str, code: int, log: _Log | None = None) -> NoReturn:
    raise explain_failure(what, code, log.text() if log else "", missing=_missing_for_loading())


def _missing_for_loading() -> tuple[str, ...]:
    # Imported here: privileges needs nothing of this module, but is wanted only on failure.
    from waggle import privileges

    return tuple(c.label for c in privileges.missing(privileges.LOADING))


def _check(result: int, what: str, log: _Log | None = None) -> int:
    """Pass a non-negative result on, raise LoadError for a negative errno."""
    if result < 0:
        _fail(what, -result, log)
    return result


def possible_cpus() -> int:
    """How many values an element of a per-cpu map has."""
    return _check(library().libbpf_num_possible_cpus(), "count the possible CPUs")


# -- Maps ----------------------------------------------------------------------------------

_PERCPU_TYPES = {5, 6, 10, 21}  # PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH, PERCPU_CGROUP_STORAGE
_BATCH = 4096  # elements a lookup_batch asks for at first
_NO_BATCH = {errno.EINVAL, errno.EOPNOTSUPP, ENOTSUPP, errno.EPERM}


class Map:
    """A BPF map. Keys and values are bytes of exactly the map's sizes.

    Every call that the kernel refuses raises LoadError with its errno.
    """

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer
        lib = library()
        self.name = str(lib.bpf_map__name(pointer).decode())
        self.type = int(lib.bpf_map__type(pointer))
        self.key_size = int(lib.bpf_map__key_size(pointer))
        self.value_size = int(lib.bpf_map__value_size(pointer))
        self.per_cpu = self.type in _PERCPU_TYPES

    @property
    def fd(self) -> int:
        """The descriptor, owned by the object. Raises LoadError before load()."""
        return _check(library().bpf_map__fd(self._pointer), f"use map {self.name} before load")

    @property
    def max_entries(self) -> int:
        """Elements, or bytes of a ring buffer. Settable before load()."""
        return int(library().bpf_map__max_entries(self._pointer))

    @max_entries.setter
    def max_entries(self, entries: int) -> None:
        result = library().bpf_map__set_max_entries(self._pointer, entries)
        _check(result, f"set max_entries of map {self.name} to {entries}")

    def leave_out(self) -> None:
        """Before load(): no program that is loaded uses it, so it takes no memory."""
        result = library().bpf_map__set_autocreate(self._pointer, False)
        _check(result, f"leave out map {self.name}")

    @property
    def element_size(self) -> int:
        """Bytes that a lookup returns: a value, or one per possible CPU, 8-byte aligned."""
        if not self.per_cpu:
            return self.value_size
        return _align8(self.value_size) * possible_cpus()

    def lookup(self, key: bytes) -> bytes | None:
        """The element under a key, or None."""
        value = ctypes.create_string_buffer(self.element_size)
        result = library().bpf_map_lookup_elem(self.fd, self._key(key), value)
        if result == -errno.ENOENT:
            return None
        _check(result, f"look up in map {self.name}")
        return value.raw

    def update(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        """Store an element; E2BIG (on `errno` of the LoadError) means that the map is full."""
        if len(value) != self.element_size:
            raise LoadError(
                f"map {self.name} takes values of {self.element_size} bytes, not {len(value)}: "
                "agent and BPF object are of different builds; run make build"
            )
        result = library().bpf_map_update_elem(self.fd, self._key(key), value, flags)
        _check(result, f"update map {self.name}")

    def delete(self, key: bytes) -> bool:
        """Remove an element; False when there was none."""
        result = library().bpf_map_delete_elem(self.fd, self._key(key))
        if result == -errno.ENOENT:
            return False
        _check(result, f"delete an element of map {self.name}")
        return True

    def keys(self) -> Iterator[bytes]:
        """Each key once. What is added or removed meanwhile may or may not be seen.

        The kernel starts over when the key it continues from was deleted, so
        repeats are dropped and the walk ends after two full rounds.
        """
        seen: set[bytes] = set()
        previous: bytes | None = None
        key = ctypes.create_string_buffer(self.key_size)
        for _ in range(2 * self.max_entries + 1):
            result = library().bpf_map_get_next_key(self.fd, previous, key)
            if result == -errno.ENOENT:
                return
            _check(result, f"walk map {self.name}")
            previous = key.raw
            if previous not in seen:
                seen.add(previous)
                yield previous

    def items(self) -> tuple[Bytes, Bytes]:
        """All elements: keys (n, key_size) and values (n, element_size) as bytes.

        One system call for thousands of elements where the kernel can, one per
        element where it cannot.
        """
        import numpy as np

        keys, values = zip(*self.chunks(), strict=True)
        return np.concatenate(keys), np.concatenate(values)

    def chunks(self) -> Iterator[tuple[Bytes, Bytes]]:
        """The same, a few thousand elements at a time (at least one chunk, which may be empty):
        for maps whose values are too large to hold them all."""
        read = False
        for chunk in self._batches():
            read = True
            yield chunk
        if not read:
            yield self._items_by_key()

    def sum_over_cpus(self, dtype: npt.DTypeLike = "<u8") -> npt.NDArray[Any]:
        """The totals of a per-cpu array: (max_entries,) or (max_entries, numbers a value)."""
        import numpy as np

        if not self.per_cpu:
            raise LoadError(f"map {self.name} is not a per-cpu map")
        keys, values = self.items()
        order = np.argsort(keys.copy().view(np.uint32)[:, 0])
        per_cpu = values[order].reshape(len(keys), possible_cpus(), _align8(self.value_size))
        numbers = np.ascontiguousarray(per_cpu[:, :, : self.value_size]).view(dtype)
        totals: npt.NDArray[Any] = numbers.sum(axis=1, dtype=dtype)
        return totals[:, 0] if totals.shape[1] == 1 else totals

    def _key(self, key: bytes) -> bytes:
        if len(key) != self.key_size:
            raise LoadError(
                f"map {self.name} takes keys of {self.key_size} bytes, not {len(key)}: "
                "agent and BPF object are of different builds; run make build"
            )
        return key

    def _batches(self) -> Iterator[tuple[Bytes, Bytes]]:
        """Chunks through BPF_MAP_LOOKUP_BATCH; none where that is not to be had."""
        import numpy as np

        chunk = min(_BATCH, self.max_entries)
        position: bytes | None = None
        while True:
            some_keys = np.zeros((chunk, self.key_size), np.uint8)
            some_values = np.zeros((chunk, self.element_size), np.uint8)
            result, count, after = self._batch(position, some_keys, some_values)
            if result == -errno.ENOSPC and chunk < self.max_entries:
                chunk = min(2 * chunk, self.max_entries)  # one bucket held more than fits
                continue
            if -result in _NO_BATCH and position is None:
                return
            if result != -errno.ENOENT:
                _check(result, f"read map {self.name}")
            yield some_keys[:count], some_values[:count]
            if result == -errno.ENOENT or count == 0:
                return
            position = after

    def _batch(self, position: bytes | None, keys: Bytes, values: Bytes) -> tuple[int, int, bytes]:
        after = ctypes.create_string_buffer(max(self.key_size, 8))
        count = _U32(len(keys))
        result = library().bpf_map_lookup_batch(
            self.fd, position, after, keys.ctypes.data, values.ctypes.data, count, None
        )
        return int(result), count.value, after.raw

    def _items_by_key(self) -> tuple[Bytes, Bytes]:
        import numpy as np

        found = [(key, value) for key in self.keys() if (value := self.lookup(key)) is not None]
        keys = np.frombuffer(b"".join(key for key, _ in found), np.uint8)
        values = np.frombuffer(b"".join(value for _, value in found), np.uint8)
        return keys.reshape(-1, self.key_size), values.reshape(-1, self.element_size)


def _align8(size: int) -> int:
    return (size + 7) & ~7


# -- Programs and links --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel knows of a loaded program. Times count only inside RunTimeStats."""

    id: int
    name: str
    run_time_ns: int
    run_cnt: int
    recursion_misses: int
    verified_insns: int
    jited_bytes: int


# Of struct bpf_prog_info, which only ever grows at its end:
# id, jited, name, run time, runs, recursion misses, verified instructions.
_PROG_INFO = struct.Struct("=4xI8xI44x16s112xQQQI")
_PROG_INFO_SIZE = 232
assert _PROG_INFO.size == 220


class Program:
    """One program of an object."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer
        self.name = str(library().bpf_program__name(pointer).decode())
        self.section = str(library().bpf_program__section_name(pointer).decode())

    @property
    def pointer(self) -> int:
        """The struct bpf_program of libbpf."""
        return self._pointer

    @property
    def fd(self) -> int:
        """The descriptor, owned by the object. Raises LoadError when it is not loaded."""
        return _check(library().bpf_program__fd(self._pointer), f"use {self.name} before load")

    @property
    def autoload(self) -> bool:
        """Whether load() loads it. Settable before load()."""
        return bool(library().bpf_program__autoload(self._pointer))

    @autoload.setter
    def autoload(self, wanted: bool) -> None:
        result = library().bpf_program__set_autoload(self._pointer, wanted)
        _check(result, f"set autoload of {self.name}")

    def as_uprobe_multi(self) -> None:
        """Before loading: the program will be attached by attach_uprobe_multi."""
        result = library().bpf_program__set_expected_attach_type(self._pointer, _UPROBE_MULTI)
        _check(result, f"set the attach type of {self.name}")

    def run(self) -> int:
        """Run a raw tracepoint program once, here and now; what it returned."""
        options = _TestRunOptions(sz=ctypes.sizeof(_TestRunOptions))
        result = library().bpf_prog_test_run_opts(self.fd, ctypes.addressof(options))
        _check(result, f"run {self.name}")
        return int(options.retval)

    def info(self) -> ProgramInfo:
        """Costs and size, as the kernel counts them now."""
        raw = ctypes.create_string_buffer(_PROG_INFO_SIZE)
        size = _U32(_PROG_INFO_SIZE)
        result = library().bpf_obj_get_info_by_fd(self.fd, raw, size)
        _check(result, f"read the info of {self.name}")
        number, jited, name, run_time, runs, misses, verified = _PROG_INFO.unpack_from(raw)
        return ProgramInfo(
            id=number,
            name=name.rstrip(b"\0").decode(errors="replace"),
            run_time_ns=run_time,
            run_cnt=runs,
            recursion_misses=misses,
            verified_insns=verified,
            jited_bytes=jited,
        )


class _TestRunOptions(ctypes.Structure):
    """struct bpf_test_run_opts of bpf/bpf.h."""

    _fields_ = (
        ("sz", _SIZE),
        ("data_in", _PTR),
        ("data_out", _PTR),
        ("data_size_in", _U32),
        ("data_size_out", _U32),
        ("ctx_in", _PTR),
        ("ctx_out", _PTR),
        ("ctx_size_in", _U32),
        ("ctx_size_out", _U32),
        ("retval", _U32),
        ("repeat", _INT),
        ("duration", _U32),
        ("flags", _U32),
        ("cpu", _U32),
        ("batch_size", _U32),
    )


class Link:
    """An attachment; close() detaches. The kernel detaches it when this process dies."""

    def __init__(self, pointer: int, name: str) -> None:
        self._pointer: int | None = pointer
        self.name = name

    @property
    def fd(self) -> int:
        """The link's descriptor. Raises LoadError after close()."""
        if self._pointer is None:
            raise LoadError(f"{self.name} is detached")
        return _check(library().bpf_link__fd(self._pointer), f"use the link of {self.name}")

    def read_iterator(self) -> bytes:
        """Run the iterator program of this link once over everything; what it wrote."""
        fd = _check(library().bpf_iter_create(self.fd), f"iterate with {self.name}")
        with os.fdopen(fd, "rb", buffering=0) as stream:
            return stream.readall()

    def close(self) -> None:
        """Detach. Further calls do nothing."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            _check(library().bpf_link__destroy(pointer), f"detach {self.name}")

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class DescriptorLink(Link):
    """An attachment that libbpf knows nothing of: closing its descriptor detaches."""

    def __init__(self, fd: int, name: str) -> None:
        super().__init__(0, name)
        self._fd: int | None = fd

    @property
    def fd(self) -> int:
        if self._fd is None:
            raise LoadError(f"{self.name} is detached")
        return self._fd

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


# bpf(BPF_LINK_CREATE) for several uprobes at once (Linux 6.6), which libbpf 1.1 has not:
# include/uapi/linux/bpf.h. It asks for no capability where a uprobe of perf asks for
# CAP_SYS_ADMIN, so it can be used after privileges were given up.
_SYS_BPF = {"x86_64": 321, "aarch64": 280}
_BPF_LINK_CREATE = 28
_UPROBE_MULTI = 48
_UPROBE_MULTI_RETURN = 1


_SK_MSG_VERDICT = 7  # enum bpf_attach_type


class _MapLink(Link):
    """A program that a map of sockets runs. When the map goes, so does this."""

    def __init__(self, program: Program, target: Map) -> None:
        super().__init__(0, program.name)
        self._fds: tuple[int, int] | None = (program.fd, target.fd)
        with _captured_log() as log:
            result = library().bpf_prog_attach(program.fd, target.fd, _SK_MSG_VERDICT, 0)
            _check(result, f"attach {program.name} to map {target.name}", log)

    @property
    def fd(self) -> int:
        raise LoadError(f"{self.name} is attached to a map, which has no descriptor for that")

    def close(self) -> None:
        fds, self._fds = self._fds, None
        if fds is not None:
            library().bpf_prog_detach2(*fds, _SK_MSG_VERDICT)


class _UprobeMulti(ctypes.Structure):
    """The part of union bpf_attr that BPF_LINK_CREATE reads for uprobes."""

    _fields_ = (
        ("prog_fd", _U32),
        ("target_fd", _U32),
        ("attach_type", _U32),
        ("link_flags", _U32),
        ("path", _PTR),
        ("offsets", _PTR),
        ("ref_ctr_offsets", _PTR),
        ("cookies", _PTR),
        ("count", _U32),
        ("flags", _U32),
        ("pid", _U32),
        ("reserved", _U32),
    )


class RunTimeStats:
    """While open, the kernel measures every BPF program (about 20 ns a run)."""

    def __init__(self) -> None:
        run_time = 0  # BPF_STATS_RUN_TIME
        self._fd = _check(library().bpf_enable_stats(run_time), "measure BPF programs")

    def __enter__(self) -> RunTimeStats:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)


# -- Types ---------------------------------------------------------------------------------

KIND_FUNC, KIND_TYPEDEF, KIND_DATASEC = 12, 8, 15
_BTF_TYPE = struct.Struct("=III")  # name_off, info, size
_SECINFO = struct.Struct("=III")  # type, offset, size


@dataclass(frozen=True, slots=True)
class _Variable:
    offset: int
    size: int


def _variables(btf: int, section: str) -> dict[str, _Variable]:
    """The variables of a data section by name, from the object's BTF."""
    lib = library()
    section_id = lib.btf__find_by_name_kind(btf, section.encode(), KIND_DATASEC)
    if section_id < 0:
        return {}
    base = lib.btf__type_by_id(btf, section_id)
    _name, info, _size = _BTF_TYPE.unpack(ctypes.string_at(base, _BTF_TYPE.size))
    raw = ctypes.string_at(base + _BTF_TYPE.size, (info & 0xFFFF) * _SECINFO.size)
    found = {}
    for kind, offset, size in _SECINFO.iter_unpack(raw):
        variable = lib.btf__type_by_id(btf, kind)
        name_offset, *_ = _BTF_TYPE.unpack(ctypes.string_at(variable, _BTF_TYPE.size))
        name = lib.btf__name_by_offset(btf, name_offset).decode()
        found[name] = _Variable(offset, size)
    return found


class ReadOnlyData:
    """The `const volatile` variables of an object, written before load().

        bpf.rodata["agent_tgid"] = 4121          # an integer of any width
        bpf.rodata["seed"] = os.urandom(16)      # bytes of exactly its size
        bpf.rodata["table"] = np.arange(8, dtype=np.uint32)

    Raises LoadError for an unknown name, a value that does not fit, and after load().
    """

    def __init__(self, object_pointer: int, name: str) -> None:
        self._object_name = name
        self._sealed = False
        lib = library()
        self._variables: dict[str, _Variable] = {}
        self._base = 0
        section = lib.bpf_object__find_map_by_name(object_pointer, b".rodata")
        btf = lib.bpf_object__btf(object_pointer)
        if section and btf:
            size = _SIZE()
            self._base = lib.bpf_map__initial_value(section, size) or 0
            self._variables = _variables(btf, ".rodata")

    def __contains__(self, name: str) -> bool:
        return name in self._variables

    def __getitem__(self, name: str) -> bytes:
        variable = self._variable(name)
        return ctypes.string_at(self._base + variable.offset, variable.size)

    def __setitem__(self, name: str, value: Value) -> None:
        if self._sealed:
            raise LoadError(f"{self._object_name}: {name} cannot change after load")
        variable = self._variable(name)
        raw = self._encode(name, value, variable.size)
        ctypes.memmove(self._base + variable.offset, raw, len(raw))

    def seal(self) -> None:
        """The kernel has its copy: further writes would change nothing."""
        self._sealed = True

    def _variable(self, name: str) -> _Variable:
        if name not in self._variables:
            raise LoadError(
                f"{self._object_name}: no read-only variable {name}: "
                "agent and BPF object are of different builds; run make build"
            )
        return self._variables[name]

    def _encode(self, name: str, value: Value, size: int) -> bytes:
        # A numpy scalar counts as its number.
        if isinstance(value, int) or getattr(value, "shape", None) == ():
            number = int(value)
            if size > 8 or not -(1 << (8 * size - 1)) <= number < 1 << (8 * size):
                raise LoadError(f"{self._object_name}: {number} does not fit into {name}")
            return (number & ((1 << (8 * size)) - 1)).to_bytes(size, "little")
        raw = value if isinstance(value, bytes) else value.tobytes()
        if len(raw) != size:
            raise LoadError(
                f"{self._object_name}: {name} takes {size} bytes, not {len(raw)}: "
                "agent and BPF object are of different builds; run make build"
            )
        return raw


class KernelTypes:
    """The running kernel's BTF, to ask what it has. Raises LoadError when there is none."""

    def __init__(self) -> None:
        with _captured_log() as log:
            self._btf: int | None = library().btf__load_vmlinux_btf()
            if not self._btf:
                _fail("read the kernel's BTF", ctypes.get_errno(), log)

    def find(self, name: str, kind: int) -> int:
        """The type's id, or 0 when this kernel has no such type."""
        found = library().btf__find_by_name_kind(self._btf, name.encode(), kind)
        return max(0, int(found))

    def close(self) -> None:
        """Give the memory back (some megabytes)."""
        btf, self._btf = self._btf, None
        if btf:
            library().btf__free(btf)

    def __enter__(self) -> KernelTypes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


# -- Objects -------------------------------------------------------------------------------


class _UprobeOptions(ctypes.Structure):
    """struct bpf_uprobe_opts as of libbpf 1.1; `size` tells newer ones where it ends."""

    _fields_ = [
        ("size", _SIZE),
        ("ref_ctr_offset", _SIZE),
        ("bpf_cookie", _U64),
        ("retprobe", _BOOL),
        ("func_name", _STR),
    ]


class Object:
    """A compiled BPF object: open, set what must be set before, load, attach, close.

    Links made through it are detached by close(), in the reverse order.
    """

    def __init__(self, pointer: int, path: Path) -> None:
        self._pointer: int | None = pointer
        self.path = path
        self.rodata = ReadOnlyData(pointer, path.name)
        self.programs: dict[str, Program] = {p.name: p for p in self._all_programs(pointer)}
        self.maps: dict[str, Map] = {m.name: m for m in self._all_maps(pointer)}
        self._links: list[Link] = []

    @classmethod
    def open(cls, path: str | Path) -> Object:
        """Parse an object file; the kernel is not asked yet."""
        path = Path(path)
        if not path.is_file():
            raise LoadError(f"no BPF object at {path}: run make build")
        with _captured_log() as log:
            pointer = library().bpf_object__open_file(str(path).encode(), None)
            if not pointer:
                _fail(f"open {path.name}", ctypes.get_errno(), log)
        return cls(pointer, path)

    def program(self, name: str) -> Program:
        """A program by the name of its function."""
        if name not in self.programs:
            raise LoadError(f"{self.path.name}: no program {name}: run make build")
        return self.programs[name]

    def map(self, name: str) -> Map:
        """A map by its name in the source."""
        if name not in self.maps:
            raise LoadError(f"{self.path.name}: no map {name}: run make build")
        return self.maps[name]

    def load_only(self, *names: str) -> None:
        """Let load() load these programs and no other."""
        wanted = {self.program(name).name for name in names}
        for program in self.programs.values():
            program.autoload = program.name in wanted

    def load(self, *, silent: bool = False) -> None:
        """Create the maps and have the programs verified.

        silent: libbpf, which otherwise calls Python more than a thousand times, says
        nothing meanwhile, nor does an error say more than its number.
        """
        with _silence() if silent else nullcontext(), _captured_log() as log:
            result = library().bpf_object__load(self._open_pointer())
            _check(result, f"load {self.path.name}", log)
        self.rodata.seal()

    def attach(self, program: str | Program) -> Link:
        """Attach by the program's section name (tp_btf/..., raw_tp/..., iter/tcp, ...)."""
        p = self._resolve(program)
        with _captured_log() as log:
            pointer = library().bpf_program__attach(p.pointer)
            return self._own(pointer, p, f"attach {p.name} ({p.section})", log)

    def attach_cgroup(self, program: str | Program, cgroup: str | Path) -> Link:
        """Attach to a directory of the cgroup v2 tree."""
        p = self._resolve(program)
        fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with _captured_log() as log:
                pointer = library().bpf_program__attach_cgroup(p.pointer, fd)
                return self._own(pointer, p, f"attach {p.name} to {cgroup}", log)
        finally:
            os.close(fd)

    def attach_to_map(self, program: str | Program, target: Map) -> Link:
        """Attach an sk_msg program to a map of sockets; it runs for those that are in it."""
        p = self._resolve(program)
        link = _MapLink(p, target)
        self._links.append(link)
        return link

    def attach_uprobe(
        self,
        program: str | Program,
        binary: str | Path,
        *,
        offset: int,
        pid: int = -1,
        cookie: int = 0,
        retprobe: bool = False,
    ) -> Link:
        """Attach at a file offset of a binary, in one process or (-1) in all."""
        p = self._resolve(program)
        options = _UprobeOptions(ctypes.sizeof(_UprobeOptions), 0, cookie, retprobe, None)
        with _captured_log() as log:
            pointer = library().bpf_program__attach_uprobe_opts(
                p.pointer, pid, os.fsencode(binary), offset, ctypes.byref(options)
            )
            return self._own(pointer, p, f"attach {p.name} to {binary}+{offset:#x}", log)

    def attach_uprobe_multi(
        self,
        program: str | Program,
        binary: str | Path,
        *,
        offset: int,
        pid: int,
        cookie: int = 0,
        retprobe: bool = False,
    ) -> Link:
        """As attach_uprobe, for a program of the section uprobe.multi; needs Linux 6.6.

        The program must have been told by `as_uprobe_multi` before it was loaded.
        """
        p = self._resolve(program)
        path = ctypes.c_char_p(os.fsencode(binary))
        offsets, cookies = (_U64 * 1)(offset), (_U64 * 1)(cookie)
        attributes = _UprobeMulti(
            prog_fd=p.fd,
            attach_type=_UPROBE_MULTI,
            path=ctypes.cast(path, _PTR),
            offsets=ctypes.cast(offsets, _PTR),
            cookies=ctypes.cast(cookies, _PTR),
            count=1,
            flags=_UPROBE_MULTI_RETURN if retprobe else 0,
            pid=pid,
        )
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.syscall(
            _SYS_BPF[platform.machine()],
            _BPF_LINK_CREATE,
            ctypes.byref(attributes),
            ctypes.sizeof(attributes),
        )
        if fd < 0:
            _fail(f"attach {p.name} to {binary}+{offset:#x}", ctypes.get_errno())
        link = DescriptorLink(fd, p.name)
        self._links.append(link)
        return link

    def attach_in_process(
        self,
        program: str | Program,
        binary: str | Path,
        *,
        offset: int,
        pid: int,
        cookie: int = 0,
        retprobe: bool = False,
    ) -> Link:
        """Attach at a file offset of a binary, in one process, the way this kernel allows it."""
        try:
            return self.attach_uprobe_multi(
                program, binary, offset=offset, pid=pid, cookie=cookie, retprobe=retprobe
            )
        except LoadError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
        return self.attach_uprobe(
            program, binary, offset=offset, pid=pid, cookie=cookie, retprobe=retprobe
        )

    def detach(self, link: Link) -> None:
        """Detach one link before the rest."""
        if link in self._links:
            self._links.remove(link)
        link.close()

    def close(self) -> None:
        """Detach what is attached and give programs and maps up. Further calls do nothing."""
        while self._links:
            self._links.pop().close()
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            library().bpf_object__close(pointer)

    def __enter__(self) -> Object:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open_pointer(self) -> int:
        if self._pointer is None:
            raise LoadError(f"{self.path.name} is closed")
        return self._pointer

    def _resolve(self, program: str | Program) -> Program:
        self._open_pointer()
        return self.program(program) if isinstance(program, str) else program

    def _own(self, pointer: int | None, program: Program, what: str, log: _Log) -> Link:
        if not pointer:
            _fail(what, ctypes.get_errno(), log)
        link = Link(pointer, program.name)
        self._links.append(link)
        return link

    @staticmethod
    def _all_programs(pointer: int) -> Iterator[Program]:
        at = library().bpf_object__next_program(pointer, None)
        while at:
            yield Program(at)
            at = library().bpf_object__next_program(pointer, at)

    @staticmethod
    def _all_maps(pointer: int) -> Iterator[Map]:
        at = library().bpf_object__next_map(pointer, None)
        while at:
            yield Map(at)
            at = library().bpf_object__next_map(pointer, at)
