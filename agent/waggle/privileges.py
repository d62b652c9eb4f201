"""Capabilities: what this thread has, what is missing, giving up what is done with."""

import ctypes
import errno
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum

from waggle.errors import PrivilegeError, WaggleError


class Capability(IntEnum):
    """The capabilities this program has an opinion about, numbered as in linux/capability.h."""

    DAC_READ_SEARCH = 2
    SETPCAP = 8
    NET_ADMIN = 12
    SYS_PTRACE = 19
    SYS_ADMIN = 21
    PERFMON = 38
    BPF = 39

    @property
    def label(self) -> str:
        """The name people know: CAP_BPF."""
        return f"CAP_{self.name}"


# Loading: CAP_BPF for maps and programs, CAP_PERFMON for programs that trace.
LOADING = (Capability.BPF, Capability.PERFMON)
# Running: /proc/PID/{environ,exe,cwd,fd} of other users' processes.
RUNNING = (Capability.SYS_PTRACE, Capability.DAC_READ_SEARCH)
# Telling other programs: programs on sockets (tcp_option.py, injecting.py). Not needed to trace.
TELLING = (Capability.NET_ADMIN,)

# CAP_SYS_ADMIN was what CAP_BPF and CAP_PERFMON were split from (5.8) and still implies them.
_IMPLIED = {
    Capability.BPF: Capability.SYS_ADMIN,
    Capability.PERFMON: Capability.SYS_ADMIN,
}

_VERSION_3 = 0x20080522
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Words(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


@dataclass(frozen=True, slots=True)
class Sets:
    """A thread's capability sets as bit masks."""

    effective: int
    permitted: int
    inheritable: int


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def current() -> Sets:
    """The capability sets of the calling thread."""
    header = _Header(_VERSION_3, 0)
    words = (_Words * 2)()
    if _libc().capget(ctypes.byref(header), words) != 0:
        raise WaggleError(f"cannot read capabilities: {os.strerror(ctypes.get_errno())}")
    low, high = words
    return Sets(
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def _set(sets: Sets) -> None:
    header = _Header(_VERSION_3, 0)
    low = [mask & 0xFFFFFFFF for mask in (sets.effective, sets.permitted, sets.inheritable)]
    high = [mask >> 32 for mask in (sets.effective, sets.permitted, sets.inheritable)]
    words = (_Words * 2)(_Words(*low), _Words(*high))
    if _libc().capset(ctypes.byref(header), words) != 0:
        raise PrivilegeError(f"cannot give up capabilities: {os.strerror(ctypes.get_errno())}")


def has(capability: Capability) -> bool:
    """Whether the calling thread may use a capability, itself or by CAP_SYS_ADMIN."""
    effective = current().effective
    implied = _IMPLIED.get(capability, capability)
    return bool(effective >> capability & 1 or effective >> implied & 1)


def missing(needed: Iterable[Capability] = LOADING) -> tuple[Capability, ...]:
    """Those of `needed` that the calling thread does not have."""
    return tuple(capability for capability in needed if not has(capability))


def require(needed: Iterable[Capability] = LOADING) -> None:
    """Raise PrivilegeError, naming what is missing and three ways to get it."""
    lacking = missing(needed)
    if lacking:
        raise PrivilegeError(remedy(lacking))


def remedy(lacking: Iterable[Capability]) -> str:
    """The message for missing capabilities."""
    lacking = tuple(lacking)
    wanted = dict.fromkeys((*lacking, *RUNNING))
    names = ", ".join(c.label for c in lacking)
    low = ",".join(c.label.lower() for c in wanted)
    unit = " ".join(c.label for c in wanted)
    return (
        f"missing {names}: run with sudo; or `sudo setcap {low}+ep` a copy of {sys.executable}; "
        f"or, as a systemd service, AmbientCapabilities={unit}"
    )


def drop(
    keep: Iterable[Capability] = RUNNING, still_works: Callable[[], None] | None = None
) -> tuple[Capability, ...]:
    """Give up every capability but `keep`, for good, and say which of `keep` remain.

    still_works is run without them first and raises when something the agent
    still does needs more: kernels before 5.19 refuse even map reads without
    CAP_BPF when unprivileged BPF is off. Then CAP_BPF is kept as well.

    Capabilities belong to a thread: call it before other threads start, and
    after commands were started, which would inherit the restrictions. Nothing
    this process executes later can regain them (bounding set, no_new_privs).
    """
    before = current()
    kept = _mask(keep) & before.permitted
    _set(Sets(kept, before.permitted, 0))
    if still_works is not None and not _passes(still_works):
        kept |= _mask((Capability.BPF, Capability.SYS_ADMIN)) & before.permitted
        kept = _least(kept)
    _seal(before, kept)
    return tuple(c for c in Capability if kept >> c & 1)


def _passes(check: Callable[[], None]) -> bool:
    try:
        check()
    except (OSError, WaggleError) as error:
        if getattr(error, "errno", None) in (errno.EPERM, errno.EACCES):
            return False
        raise
    return True


def _least(kept: int) -> int:
    """CAP_SYS_ADMIN is only kept where there is no CAP_BPF to keep."""
    return kept & ~_mask((Capability.SYS_ADMIN,)) if kept >> Capability.BPF & 1 else kept


def _seal(before: Sets, kept: int) -> None:
    """Make the loss permanent: bounding and ambient sets, permitted set, no_new_privs."""
    prctl = _libc().prctl
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    if before.permitted >> Capability.SETPCAP & 1:
        with_setpcap = kept | _mask((Capability.SETPCAP,))
        _set(Sets(with_setpcap, before.permitted, 0))
        _shrink_bounding_set(kept)
    _set(Sets(kept, kept, 0))
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise PrivilegeError(f"cannot set no_new_privs: {os.strerror(ctypes.get_errno())}")


def _shrink_bounding_set(kept: int) -> None:
    prctl = _libc().prctl
    capability = 0
    while (held := prctl(_PR_CAPBSET_READ, capability, 0, 0, 0)) >= 0:  # -1: past the last one
        if held and not kept >> capability & 1:
            prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        capability += 1


def leave_no_core() -> None:
    """What we hold may be confidential: if we crash, none of it is written to disk."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
    if os.geteuid() == 0:  # others could not read their own /proc/self any more
        _libc().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _mask(capabilities: Iterable[Capability]) -> int:
    return sum(1 << capability for capability in set(capabilities))
