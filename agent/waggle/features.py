"""What this kernel can do, found out by trying it.

Every probe gives one of three answers with its reason: yes, no, could not tell.
Kernel versions are never compared. A probe leaves nothing attached and never
raises for what it finds. The tiny programs that are tried are written as
instructions here, so no object file is needed.

Loading takes below 1 ms. What attaches also waits for the kernel to let go: up
to 10 ms for a tracepoint, 100 ms for a uprobe. The kernel's types take 15 ms to
parse: give one KernelTypes to several probes.
"""

import ctypes
import errno
import fcntl
import os
import platform
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import wraps
from pathlib import Path

from waggle import privileges
from waggle.libbpf import ENOTSUPP, KIND_FUNC, KIND_TYPEDEF, KernelTypes, LoadError, library
from waggle.privileges import Capability

# Hooks of the flavour `socket`, by what is lost without them.
SOCKET_HOOKS = ("tcp_sendmsg_locked", "sock_recv_length", "sk_data_ready")


class Answer(Enum):
    """What a probe found."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "could not tell"


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing a kernel may have. True in a condition only when it surely has it."""

    name: str
    answer: Answer
    reason: str

    def __bool__(self) -> bool:
        return self.answer is Answer.YES


class _Refused(Exception):  # noqa: N818 - the private way from a try to its answer
    """A system call of a probe failed."""

    def __init__(self, what: str, code: int, log: str = "") -> None:
        super().__init__(f"{what}: {_error_text(code)}")
        self.errno = code
        self.log = log


class _Absent(Exception):  # noqa: N818
    """A probe found that the kernel lacks something; the text says what."""


def _error_text(code: int) -> str:
    return "not supported" if code == ENOTSUPP else os.strerror(code)


# Errors that say nothing about the kernel's abilities.
_TRANSIENT = {errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EINTR, errno.EAGAIN, errno.EBUSY}


def _answered(name: str, attempt: Callable[[], str]) -> Feature:
    """Run one attempt; what it returns is the reason of its yes."""
    try:
        return Feature(name, Answer.YES, attempt())
    except _Absent as absent:
        return Feature(name, Answer.NO, str(absent))
    except _Refused as refused:
        return Feature(name, *_judge(refused))
    except (LoadError, OSError) as error:
        return Feature(name, Answer.UNKNOWN, str(error))


def _judge(refused: _Refused) -> tuple[Answer, str]:
    lacking = privileges.missing(privileges.LOADING)
    if refused.errno in (errno.EPERM, errno.EACCES) and lacking:
        names = ", ".join(c.label for c in lacking)
        return Answer.UNKNOWN, f"{refused} (missing {names})"
    if refused.errno in _TRANSIENT:
        return Answer.UNKNOWN, str(refused)
    return Answer.NO, str(refused)


def _probe(name: str) -> Callable[[Callable[[], str]], Callable[[], Feature]]:
    """Turn an attempt into a function that gives the Feature called `name`."""

    def wrap(attempt: Callable[[], str]) -> Callable[[], Feature]:
        @wraps(attempt)
        def ask() -> Feature:
            return _answered(name, attempt)

        return ask

    return wrap


# -- Trying programs -----------------------------------------------------------------------

_KPROBE, _RAW_TRACEPOINT, _TRACING = 2, 17, 26  # enum bpf_prog_type
_TRACE_RAW_TP, _TRACE_FENTRY = 23, 24  # enum bpf_attach_type
_RINGBUF = 27  # enum bpf_map_type
_PROBE_WRITE_USER, _PROBE_READ_KERNEL, _LOOP = 36, 113, 181  # enum bpf_func_id
_LOG_SIZE = 16 << 10


def _instruction(code: int, registers: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("<BBhi", code, registers, 0, immediate)


_RETURN_0 = _instruction(0xB7) + _instruction(0x95)  # r0 = 0; exit


class _LoadOptions(ctypes.Structure):
    """struct bpf_prog_load_opts as of libbpf 1.1."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_int),
        ("prog_btf_fd", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_ifindex", ctypes.c_uint32),
        ("kern_version", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
        ("attach_prog_fd", ctypes.c_uint32),
        ("attach_btf_obj_fd", ctypes.c_uint32),
        ("fd_array", ctypes.c_void_p),
        ("func_info", ctypes.c_void_p),
        ("func_info_cnt", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("line_info", ctypes.c_void_p),
        ("line_info_cnt", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_char_p),
    ]


@contextmanager
def _program(
    kind: int, code: bytes = _RETURN_0, *, attach_type: int = 0, type_id: int = 0
) -> Iterator[int]:
    """The descriptor of a loaded program; it is gone when the block ends."""
    log = ctypes.create_string_buffer(_LOG_SIZE)
    options = _LoadOptions(
        size=ctypes.sizeof(_LoadOptions),
        expected_attach_type=attach_type,
        attach_btf_id=type_id,
        log_level=1,
        log_size=_LOG_SIZE,
        log_buf=ctypes.cast(log, ctypes.c_char_p),
    )
    count = len(code) // 8
    fd = library().bpf_prog_load(kind, b"waggle_probe", b"GPL", code, count, ctypes.byref(options))
    if fd < 0:
        raise _Refused("load", -fd, log.value.decode(errors="replace"))
    with _closing(fd):
        yield fd


@contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _attach_raw(fd: int, name: str | None) -> None:
    link = library().bpf_raw_tracepoint_open(name.encode() if name else None, fd)
    if link < 0:
        raise _Refused("attach", -link)
    os.close(link)


def _has_helper(number: int) -> bool:
    """Whether raw tracepoint programs may call a helper.

    A call without arguments never passes the verifier; what matters is whether
    it complains about the helper or about the arguments.
    """
    call = _instruction(0x85, immediate=number) + _RETURN_0
    try:
        with _program(_RAW_TRACEPOINT, call):
            return True
    except _Refused as refused:
        words = ("unknown func", "invalid func", "cannot use helper")
        if any(word in refused.log for word in words):
            return False
        if f"#{number}" in refused.log:
            return True
        raise


# -- The features --------------------------------------------------------------------------


@_probe("BTF of the kernel")
def btf() -> str:
    """Whether the kernel describes its types, which every program of ours reads."""
    if not Path("/sys/kernel/btf/vmlinux").exists():
        raise _Absent("no /sys/kernel/btf/vmlinux: needs CONFIG_DEBUG_INFO_BTF")
    return "/sys/kernel/btf/vmlinux"


@_probe("ring buffer")
def ring_buffer() -> str:
    """BPF_MAP_TYPE_RINGBUF (Linux 5.8)."""
    fd = library().bpf_map_create(_RINGBUF, b"waggle_probe", 0, 0, os.sysconf("SC_PAGESIZE"), None)
    if fd < 0:
        raise _Refused("create", -fd)
    os.close(fd)
    return "created one"


@_probe("bpf_loop")
def bpf_loop() -> str:
    """Loops with a bound that the verifier does not unroll (Linux 5.17)."""
    if not _has_helper(_LOOP):
        raise _Absent("the verifier does not know the helper")
    return "the verifier knows the helper"


def raw_tracepoint(name: str = "sys_enter") -> Feature:
    """raw_tp: a tracepoint with its raw arguments."""

    def attempt() -> str:
        with _program(_RAW_TRACEPOINT) as fd:
            _attach_raw(fd, name)
        return "attached"

    return _answered(f"raw_tp/{name}", attempt)


def typed_tracepoint(name: str, types: KernelTypes | None = None) -> Feature:
    """tp_btf: a named tracepoint with typed arguments. types: to save loading them again."""

    def attempt() -> str:
        type_id = _type_id(f"btf_trace_{name}", KIND_TYPEDEF, types)
        with _program(_TRACING, attach_type=_TRACE_RAW_TP, type_id=type_id) as fd:
            _attach_raw(fd, None)
        return "attached"

    return _answered(f"tp_btf/{name}", attempt)


def function_entry(function: str = "tcp_sendmsg", types: KernelTypes | None = None) -> Feature:
    """fentry: the entry of a kernel function, by trampoline."""

    def attempt() -> str:
        type_id = _type_id(function, KIND_FUNC, types)
        with _program(_TRACING, attach_type=_TRACE_FENTRY, type_id=type_id) as fd:
            _attach_raw(fd, None)
        return "attached"

    return _answered(f"fentry/{function}", attempt)


def _type_id(name: str, kind: int, types: KernelTypes | None) -> int:
    if types is None:
        with KernelTypes() as loaded:
            return _type_id(name, kind, loaded)
    found = types.find(name, kind)
    if not found:
        raise _Absent(f"the kernel's BTF has no {name}")
    return found


def kprobe(function: str = "tcp_sendmsg") -> Feature:
    """kprobe: the entry of a kernel function, by breakpoint or ftrace."""

    def attempt() -> str:
        name = ctypes.create_string_buffer(function.encode())
        with _perf_probe("kprobe", ctypes.addressof(name), 0) as event, _program(_KPROBE) as fd:
            fcntl.ioctl(event, _PERF_SET_BPF, fd)
        return "attached"

    return _answered(f"kprobe/{function}", attempt)


@_probe("uprobe")
def uprobe() -> str:
    """A breakpoint in user memory, tried on a file of our own that nobody has mapped."""
    with _closing(os.memfd_create("waggle_probe", os.MFD_CLOEXEC)) as file:
        os.ftruncate(file, os.sysconf("SC_PAGESIZE"))
        path = ctypes.create_string_buffer(f"/proc/self/fd/{file}".encode())
        with _perf_probe("uprobe", ctypes.addressof(path), 0) as event, _program(_KPROBE) as fd:
            fcntl.ioctl(event, _PERF_SET_BPF, fd)
    return "attached"


_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_PERF_ATTR_SIZE = 112
_PERF_CLOEXEC = 8
_PERF_SET_BPF = 0x40042408  # PERF_EVENT_IOC_SET_BPF


@contextmanager
def _perf_probe(kind: str, target: int, offset: int) -> Iterator[int]:
    """A perf event of the dynamic source `kind`. target: address of its name or path."""
    source = Path(f"/sys/bus/event_source/devices/{kind}/type")
    if not source.parent.parent.exists():
        raise LoadError("no /sys/bus/event_source: mount sysfs to find out")
    if not source.exists():
        raise _Absent(f"the kernel was built without {kind}s (CONFIG_{kind.upper()}_EVENTS)")
    number = _PERF_EVENT_OPEN.get(platform.machine())
    if number is None:
        raise LoadError(f"not tried on {platform.machine()}")
    attr = struct.pack("<II", int(source.read_text()), _PERF_ATTR_SIZE).ljust(56, b"\0")
    attr = (attr + struct.pack("<QQ", target, offset)).ljust(_PERF_ATTR_SIZE, b"\0")
    libc = ctypes.CDLL(None, use_errno=True)
    every_process, first_cpu, no_group = -1, 0, -1
    fd = libc.syscall(number, attr, every_process, first_cpu, no_group, _PERF_CLOEXEC)
    if fd < 0:
        raise _Refused("open", ctypes.get_errno())
    with _closing(fd):
        yield fd


# -- Lockdown and privileges ---------------------------------------------------------------


class Lockdown(Enum):
    """How far the kernel is closed even to root."""

    NONE = "none"
    INTEGRITY = "integrity"
    CONFIDENTIALITY = "confidentiality"
    UNKNOWN = "unknown"


_LOCKDOWN_FILE = Path("/sys/kernel/security/lockdown")


def lockdown() -> tuple[Lockdown, str]:
    """The mode and how it was found: from securityfs, else by what is refused."""
    try:
        text = _LOCKDOWN_FILE.read_text()
        return parse_lockdown(text), f"{_LOCKDOWN_FILE}: {text.strip()}"
    except OSError:
        pass  # not mounted, or not ours to read: try what it would refuse
    if privileges.missing((Capability.BPF, Capability.PERFMON, Capability.SYS_ADMIN)):
        return Lockdown.UNKNOWN, f"{_LOCKDOWN_FILE} is not readable, and not enough privilege"
    try:
        if not _has_helper(_PROBE_READ_KERNEL):
            return Lockdown.CONFIDENTIALITY, "bpf_probe_read_kernel is refused"
        if not _has_helper(_PROBE_WRITE_USER):
            return Lockdown.INTEGRITY, "bpf_probe_write_user is refused"
    except (_Refused, LoadError) as error:
        return Lockdown.UNKNOWN, str(error)
    return Lockdown.NONE, "bpf_probe_write_user is allowed"


def parse_lockdown(text: str) -> Lockdown:
    """The mode in brackets of `none [integrity] confidentiality`."""
    mode = text.partition("[")[2].partition("]")[0]
    return Lockdown(mode) if mode in {m.value for m in Lockdown} else Lockdown.UNKNOWN


def write_user() -> Feature:
    """bpf_probe_write_user, which lockdown refuses."""

    def attempt() -> str:
        if privileges.missing((Capability.SYS_ADMIN,)):
            raise LoadError("CAP_SYS_ADMIN is needed to ask")
        if not _has_helper(_PROBE_WRITE_USER):
            raise _Absent("refused: lockdown, or not offered by this kernel")
        return "allowed"

    return _answered("bpf_probe_write_user", attempt)


def capability(wanted: Capability) -> Feature:
    """Whether the calling thread has a capability."""

    def attempt() -> str:
        if not privileges.has(wanted):
            raise _Absent("not in the effective set")
        return "effective"

    return _answered(wanted.label, attempt)
