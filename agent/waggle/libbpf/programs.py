"""Programs, and what the kernel tells of them."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass

from waggle.closing import Closing
from waggle.libbpf.calls import INT, PTR, SIZE, U32, check, library

UPROBE_MULTI = 48  # enum bpf_attach_type


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
        return check(library().bpf_program__fd(self._pointer), f"use {self.name} before load")

    @property
    def autoload(self) -> bool:
        """Whether load() loads it. Settable before load()."""
        return bool(library().bpf_program__autoload(self._pointer))

    @autoload.setter
    def autoload(self, wanted: bool) -> None:
        result = library().bpf_program__set_autoload(self._pointer, wanted)
        check(result, f"set autoload of {self.name}")

    def as_uprobe_multi(self) -> None:
        """Before loading: the program will be attached by attach_uprobe_multi."""
        result = library().bpf_program__set_expected_attach_type(self._pointer, UPROBE_MULTI)
        check(result, f"set the attach type of {self.name}")

    def run(self) -> int:
        """Run a raw tracepoint program once, here and now; what it returned."""
        options = _TestRunOptions(sz=ctypes.sizeof(_TestRunOptions))
        result = library().bpf_prog_test_run_opts(self.fd, ctypes.addressof(options))
        check(result, f"run {self.name}")
        return int(options.retval)

    def info(self) -> ProgramInfo:
        """Costs and size, as the kernel counts them now."""
        raw = ctypes.create_string_buffer(_PROG_INFO_SIZE)
        size = U32(_PROG_INFO_SIZE)
        result = library().bpf_obj_get_info_by_fd(self.fd, raw, size)
        check(result, f"read the info of {self.name}")
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
        ("sz", SIZE),
        ("data_in", PTR),
        ("data_out", PTR),
        ("data_size_in", U32),
        ("data_size_out", U32),
        ("ctx_in", PTR),
        ("ctx_out", PTR),
        ("ctx_size_in", U32),
        ("ctx_size_out", U32),
        ("retval", U32),
        ("repeat", INT),
        ("duration", U32),
        ("flags", U32),
        ("cpu", U32),
        ("batch_size", U32),
    )


class RunTimeStats(Closing):
    """While open, the kernel measures every BPF program (about 20 ns a run)."""

    def __init__(self) -> None:
        run_time = 0  # BPF_STATS_RUN_TIME
        self._fd = check(library().bpf_enable_stats(run_time), "measure BPF programs")

    def close(self) -> None:
        """Measure no more."""
        os.close(self._fd)
