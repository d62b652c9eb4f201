"""What /proc says about a process: read once, kept small, never trusted to stay true.

A process is named by its id and its start, because ids are used again. The
start is the group leader's `start_boottime` (ns, CLOCK_BOOTTIME of the machine).
/proc gives it in clock ticks, the kernel's events to the nanosecond, so two
starts are compared by `same_start`, never by `==`.
"""

import os
import pwd
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from glob import has_magic
from itertools import islice
from pathlib import Path
from typing import Protocol

from waggle import naming
from waggle.command_names import package_name
from waggle.packages import CONFIG_LIMIT, JAR_LIMIT, jar_name, nginx_name
from waggle.runtimes import Runtime, detect

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

_PF_KTHREAD = 0x00200000  # include/linux/sched.h
_TCP_LISTEN = "0A"
_READ_LIMIT = 256 * 1024
_MAPS_LIMIT = 4 * 1024 * 1024
_PACKAGE_LIMIT = 256 * 1024
_MATCHES = 256

# Environments hold secrets: only what naming and the resource need is kept.
ENVIRONMENT_KEPT = frozenset(
    {
        "OTEL_SERVICE_NAME",
        "OTEL_RESOURCE_ATTRIBUTES",
        "SPRING_APPLICATION_NAME",
        "DJANGO_SETTINGS_MODULE",
        "FLASK_APP",
        # Whether an SDK was put into it (sdk.py).
        "OTEL_SDK_DISABLED",
        "OTEL_TRACES_EXPORTER",
        "PYTHONPATH",
        "NODE_OPTIONS",
        "JAVA_TOOL_OPTIONS",
    }
)


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """One process as /proc showed it at one moment.

    start_ns is rounded down to a clock tick. Strings that could not be read (no
    privilege, or the process was ending) are empty. `image` is the auxiliary
    vector: a fork shares it with its parent, an exec replaces it.
    """

    tgid: int
    start_ns: int
    parent: int = 0
    comm: str = ""
    exe: str = ""
    cmdline: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    unit: str | None = None
    container_id: str | None = None
    uid: int | None = None
    image: bytes = b""
    kernel_thread: bool = False
    ended: bool = False

    def forked_from(self, other: "ProcessFacts") -> bool:
        """Whether this runs the very program image `other` runs: a fork without an exec.

        Addresses in the auxiliary vector are drawn anew by every exec, so equal
        vectors of one executable mean one image.
        """
        return bool(self.image) and self.image == other.image and self.exe == other.exe


class ProcessSource(Protocol):
    """Where facts about processes come from: /proc, or a fake one in tests."""

    def process_ids(self) -> list[int]: ...

    def facts(self, tgid: int) -> ProcessFacts | None:
        """Facts about one process, or None when there is none of that id."""
        ...

    def leader(self, task: int) -> int | None:
        """The process a process or thread id belongs to, or None."""
        ...

    def listeners(self, ports: Iterable[int]) -> dict[int, set[int]]:
        """Which processes hold a TCP socket that listens on one of `ports`: tgid -> ports."""
        ...

    def runtime(self, facts: ProcessFacts) -> Runtime: ...

    def package_name(self, facts: ProcessFacts, path: str) -> str | None:
        """The name of what lies at `path` as that process sees it: `name` of the package.json in
        a folder, what the manifest of a .jar says, the server_name in the .conf of nginx."""
        ...


def same_start(a_ns: int, b_ns: int) -> bool:
    """Whether two starts of one process id mean the same process.

    One tick of tolerance: /proc rounds down, and the offset of a time namespace
    need not be a whole number of ticks.
    """
    return abs(a_ns - b_ns) <= TICK_NS


def runs_program(tgid: int) -> bool:
    """Whether there is a program in a process: there is none once it has ended, reaped or not."""
    return bool(_link(f"/proc/{tgid}/exe"))


@lru_cache(maxsize=1)
def boottime_offset_ns() -> int:
    """CLOCK_BOOTTIME in our time namespace minus the machine's own, in ns.

    /proc/PID/stat is shifted by the reader's namespace, the kernel's events are not.
    """
    try:
        text = Path("/proc/self/timens_offsets").read_text("ascii")
    except OSError:  # a kernel without time namespaces has no offset
        return 0
    for line in text.splitlines():
        clock, seconds, nanoseconds = line.split()
        if clock in ("boottime", "7"):
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return 0


def start_to_unix_ns(start_ns: int) -> int:
    """Unix time (ns) of a process start."""
    boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - boottime_offset_ns()
    return time.time_ns() - boot_ns + start_ns


@lru_cache(maxsize=256)
def user_name(uid: int) -> str:
    """The login name of `uid` on this machine, or the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


class ProcFs:
    """The real ProcessSource: this machine's /proc, all namespaces of it."""

    def process_ids(self) -> list[int]:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208

    def facts(self, tgid: int) -> ProcessFacts | None:
        base = f"/proc/{tgid}/"
        head = _stat(base)
        if head is None:
            return None
        if head.flags & _PF_KTHREAD:  # most of what runs, and nothing more to be said of it
            return ProcessFacts(
                tgid,
                head.start_ns,
                head.parent,
                head.comm,
                kernel_thread=True,
                ended=head.state in "ZXx",
            )
        cgroup = _text(base + "cgroup")
        container_id = naming.container_of(cgroup)
        facts = ProcessFacts(
            tgid=tgid,
            start_ns=head.start_ns,
            parent=head.parent,
            comm=head.comm,
            exe=_link(base + "exe").removesuffix(" (deleted)"),
            cmdline=_words(_read(base + "cmdline")),
            environ=dict(_environment(_read(base + "environ"))),
            cwd=_link(base + "cwd"),
            unit=naming.unit_of(cgroup),
            container_id=container_id,
            uid=_uid(base),
            image=_read(base + "auxv"),
            ended=head.state in "ZXx",
        )
        after = _stat(base)  # the id may have been given to another process meanwhile
        return facts if after is not None and after.start_ns == head.start_ns else None

    def leader(self, task: int) -> int | None:
        value = _status_field(f"/proc/{task}/", "Tgid")
        return int(value) if value else None

    def listeners(self, ports: Iterable[int]) -> dict[int, set[int]]:
        wanted = frozenset(ports)
        found: dict[int, set[int]] = {}
        if not wanted:
            return found
        by_namespace: dict[str, dict[str, int]] = {}
        for tgid in self.process_ids():
            namespace = _link(f"/proc/{tgid}/ns/net")
            if namespace not in by_namespace:
                by_namespace[namespace] = _listening_inodes(tgid, wanted)
            inodes = by_namespace[namespace]
            held = {inodes[inode] for inode in _sockets(tgid) if inode in inodes} if inodes else ()
            if held:
                found[tgid] = set(held)
        return found

    def runtime(self, facts: ProcessFacts) -> Runtime:
        base = f"/proc/{facts.tgid}/"
        return detect(
            facts.exe,
            facts.cmdline,
            lambda: _read(base + "maps", _MAPS_LIMIT).decode("utf-8", "replace"),
            image=base + "exe",
            root=base + "root",
        )

    def package_name(self, facts: ProcessFacts, path: str) -> str | None:
        root = f"/proc/{facts.tgid}/root"
        if path.endswith(".jar"):
            return jar_name(_read_regular(root + path, JAR_LIMIT))
        if path.endswith(".conf"):
            return nginx_name(
                path,
                lambda file: _read_regular(root + _led_to(root, file), CONFIG_LIMIT),
                lambda pattern: _matching(root, pattern),
            )
        return package_name(_read_regular(f"{root}{path}/package.json", _PACKAGE_LIMIT))


def _led_to(root: str, path: str) -> str:
    """Where a link leads to within the process's own root, as sites-enabled of nginx does."""
    try:
        target = Path(root + path).readlink()
    except OSError:  # no link
        return path
    return os.path.normpath(Path(path).parent / target)


def _matching(root: str, pattern: str) -> list[str]:
    """The paths of a pattern; of one whose folder is a pattern none: that could be all files."""
    folder, _, last = pattern.rpartition("/")
    if has_magic(folder):
        return []
    if not has_magic(last):
        return [pattern]
    found = islice(Path(root + folder).glob(last), _MATCHES)
    return sorted(str(path).removeprefix(root) for path in found)


@dataclass(frozen=True, slots=True)
class _Stat:
    comm: str
    state: str
    parent: int
    flags: int
    start_ns: int


def _stat(base: str) -> _Stat | None:
    raw = _read(base + "stat")
    opening, closing = raw.find(b"("), raw.rfind(b")")  # comm may hold blanks and brackets
    if opening < 0 or closing < 0:
        return None
    rest = raw[closing + 2 :].split()
    return _Stat(
        comm=raw[opening + 1 : closing].decode("utf-8", "replace"),
        state=rest[0].decode("ascii"),
        parent=int(rest[1]),
        flags=int(rest[6]),
        start_ns=int(rest[19]) * TICK_NS - boottime_offset_ns(),
    )


def _uid(base: str) -> int | None:
    value = _status_field(base, "Uid")  # real, effective, saved, filesystem
    return int(value.split()[1]) if value else None


def _status_field(base: str, name: str) -> str:
    found = re.search(rf"^{name}:\s*(.*)$", _text(base + "status"), re.MULTILINE)
    return found.group(1) if found else ""


def _words(raw: bytes) -> tuple[str, ...]:
    text = raw.rstrip(b"\0 ").decode("utf-8", "replace")
    return tuple(text.split("\0")) if text else ()


def _environment(raw: bytes) -> Iterator[tuple[str, str]]:
    for entry in raw.split(b"\0"):
        name, separator, value = entry.partition(b"=")
        if separator and value and name.decode("utf-8", "replace") in ENVIRONMENT_KEPT:
            yield name.decode("ascii"), value.decode("utf-8", "replace")


def _listening_inodes(tgid: int, ports: frozenset[int]) -> dict[str, int]:
    """Sockets that listen on `ports` in the network namespace of `tgid`: inode -> port."""
    inodes: dict[str, int] = {}
    for table in ("tcp", "tcp6"):
        for line in _iter_lines(f"/proc/{tgid}/net/{table}"):
            columns = line.split()
            if len(columns) < 10 or columns[3] != _TCP_LISTEN:
                continue
            port = int(columns[1].rpartition(":")[2], 16)
            if port in ports:
                inodes[columns[9]] = port
    return inodes


def _sockets(tgid: int) -> Iterator[str]:
    folder = f"/proc/{tgid}/fd"
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return
    for name in names:
        target = _link(f"{folder}/{name}")
        if target.startswith("socket:["):
            yield target[8:-1]


def _iter_lines(path: str) -> Iterator[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as lines:  # noqa: PTH123
            yield from lines
    except OSError:
        return


def _link(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115
    except OSError:
        return ""


def _text(path: str) -> str:
    return _read(path).decode("utf-8", "replace")


def _read(path: str, limit: int = _READ_LIMIT) -> bytes:
    """At most `limit` bytes of a file in /proc; empty when it may not or cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return _read_up_to(descriptor, limit)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _read_regular(path: str, limit: int) -> bytes:
    """Like _read for a file the traced process owns: never blocks on a pipe, never follows a
    last-component link, which would lead out of that process's root."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        return _read_up_to(descriptor, limit)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _read_up_to(descriptor: int, limit: int) -> bytes:
    chunks: list[bytes] = []
    left = limit
    while left > 0 and (chunk := os.read(descriptor, min(left, 65536))):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)
