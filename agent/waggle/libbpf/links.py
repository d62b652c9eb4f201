"""Attachments, which go when they are closed or this process dies."""

from __future__ import annotations

import ctypes
import os
import platform

from waggle.closing import Closing
from waggle.libbpf.calls import BOOL, PTR, SIZE, STR, U32, U64, captured_log, check, fail, library
from waggle.libbpf.failures import LoadError
from waggle.libbpf.maps import Map
from waggle.libbpf.programs import UPROBE_MULTI, Program

# bpf(BPF_LINK_CREATE) for several uprobes at once (Linux 6.6), which libbpf 1.1 has not:
# include/uapi/linux/bpf.h. It asks for no capability where a uprobe of perf asks for
# CAP_SYS_ADMIN, so it can be used after privileges were given up.
_SYS_BPF = {"x86_64": 321, "aarch64": 280}
_BPF_LINK_CREATE = 28
_UPROBE_MULTI_RETURN = 1

_SK_MSG_VERDICT = 7  # enum bpf_attach_type


class Link(Closing):
    """An attachment; close() detaches. The kernel detaches it when this process dies."""

    def __init__(self, pointer: int, name: str) -> None:
        self._pointer: int | None = pointer
        self.name = name

    @property
    def fd(self) -> int:
        """The link's descriptor. Raises LoadError after close()."""
        if self._pointer is None:
            raise LoadError(f"{self.name} is detached")
        return check(library().bpf_link__fd(self._pointer), f"use the link of {self.name}")

    def read_iterator(self) -> bytes:
        """Run the iterator program of this link once over everything; what it wrote."""
        fd = check(library().bpf_iter_create(self.fd), f"iterate with {self.name}")
        with os.fdopen(fd, "rb", buffering=0) as stream:
            return stream.readall()

    def close(self) -> None:
        """Detach. Further calls do nothing."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            check(library().bpf_link__destroy(pointer), f"detach {self.name}")


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


class MapLink(Link):
    """A program that a map of sockets runs. When the map goes, so does this."""

    def __init__(self, program: Program, target: Map) -> None:
        super().__init__(0, program.name)
        self._fds: tuple[int, int] | None = (program.fd, target.fd)
        with captured_log() as log:
            result = library().bpf_prog_attach(program.fd, target.fd, _SK_MSG_VERDICT, 0)
            check(result, f"attach {program.name} to map {target.name}", log)

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
        ("prog_fd", U32),
        ("target_fd", U32),
        ("attach_type", U32),
        ("link_flags", U32),
        ("path", PTR),
        ("offsets", PTR),
        ("ref_ctr_offsets", PTR),
        ("cookies", PTR),
        ("count", U32),
        ("flags", U32),
        ("pid", U32),
        ("reserved", U32),
    )


class UprobeOptions(ctypes.Structure):
    """struct bpf_uprobe_opts as of libbpf 1.1; `size` tells newer ones where it ends."""

    _fields_ = [
        ("size", SIZE),
        ("ref_ctr_offset", SIZE),
        ("bpf_cookie", U64),
        ("retprobe", BOOL),
        ("func_name", STR),
    ]


def attach_uprobe_multi(
    program: Program,
    binary: str | os.PathLike[str],
    *,
    offset: int,
    pid: int,
    cookie: int = 0,
    retprobe: bool = False,
) -> DescriptorLink:
    """A uprobe that was told by `as_uprobe_multi` before it was loaded. Raises LoadError."""
    path = ctypes.c_char_p(os.fsencode(binary))
    offsets, cookies = (U64 * 1)(offset), (U64 * 1)(cookie)
    attributes = _UprobeMulti(
        prog_fd=program.fd,
        attach_type=UPROBE_MULTI,
        path=ctypes.cast(path, PTR),
        offsets=ctypes.cast(offsets, PTR),
        cookies=ctypes.cast(cookies, PTR),
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
        fail(f"attach {program.name} to {binary}+{offset:#x}", ctypes.get_errno())
    return DescriptorLink(fd, program.name)
