"""Attaches to the TLS libraries of a process: those it has mapped, and those it maps later.

A uprobe is put on a file, for one process: the kernel sets it when the process maps that
file. So a program that has only just begun gets its probes on the libraries that it will
load (places.py), and its first connection is seen whole. What a process loads later
is found by looking at its mappings now and then.

No process is stopped and nothing is written into one.
"""

import itertools
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, wait
from types import MappingProxyType
from typing import Protocol

import numpy as np

from waggle import layout
from waggle.attach import Target
from waggle.errors import WaggleError
from waggle.libbpf import Link, Map, Program
from waggle.probes.tls.libraries import CRYPTOGRAPHY, Identity, Libraries
from waggle.probes.tls.library import Layout, Library
from waggle.probes.tls.places import Habits, may_have_tls, needed_by, usual
from waggle.process_memory import DELETED, file_mappings
from waggle.procfs import runs_program, same_start
from waggle.runtimes import GO, JVM, go_build

LAYOUTS, SINCE = "tls_layouts", "tls_since"
RESULT_IS_COUNT, EPOCH_SHIFT = 0x10000, 32  # as in bpf/tls_maps.h
MAX_LAYOUTS = 256
_YOUNG_S = 60.0  # so old at most is a process that may not have mapped its libraries yet
_PARKED_S = 5.0
_MAX_PARKED = 256


class Kernel(Protocol):
    """What the probe needs of the loaded BPF object."""

    def map(self, name: str) -> Map: ...

    def attach_in_process(
        self,
        program: str | Program,
        binary: str,
        *,
        offset: int,
        pid: int,
        cookie: int,
        retprobe: bool,
    ) -> Link: ...

    def detach_soon(self, links: Iterable[Link]) -> "Future[None]": ...


class TlsProbe:
    """Plaintext of OpenSSL and what is like it."""

    name = "tls"

    def __init__(
        self,
        kernel: Kernel,
        libraries: Libraries | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """environ: that of the command which we start."""
        self.kernel = kernel
        self.libraries = libraries or Libraries()
        self.habits = Habits()
        self._environ = environ
        self._layouts: dict[Layout, int] = {}
        self._epochs = itertools.count(1)
        self._parked: dict[int, TlsAttachment] = {}
        self._leaving: dict[int, Future[None]] = {}

    def wants(self, target: Target) -> bool:
        return target.runtime.name not in (GO, JVM)

    def expect(self, tgid: int, path: str) -> None:
        """A process will execute this file next: all is there before its first instruction."""
        if go_build(path) is not None:
            return
        attachment = TlsAttachment(self, tgid, None, next(self._epochs))
        attachment.closed = time.monotonic() + _YOUNG_S
        try:
            attachment.try_files(needed_by(path, self._environ))
            attachment.try_files(usual())
        except (WaggleError, OSError):  # then it is tried again when it was executed
            self.leave(attachment)
        else:
            self._parked[tgid] = attachment

    def attach(self, target: Target) -> "TlsAttachment":
        attachment = self._parked.pop(target.tgid, None)
        if attachment is not None and not attachment.is_of(target):
            self.leave(attachment)
            attachment = None
        if attachment is None:
            self._wait_for(target.tgid)
            attachment = TlsAttachment(self, target.tgid, target.start_ns, next(self._epochs))
        try:
            if _age_s(target.start_ns) < _YOUNG_S:
                attachment.try_files(self.habits.of(target.tgid))
                attachment.try_files(usual(f"/proc/{target.tgid}/root"))
            attachment.look()
        except BaseException:
            self.leave(attachment)
            raise
        return attachment

    def park(self, attachment: "TlsAttachment") -> None:
        """A process runs another program now, or has ended: see `TlsAttachment.close`."""
        if not runs_program(attachment.tgid):
            self.leave(attachment)
            return
        self._parked[attachment.tgid] = attachment
        if len(self._parked) > _MAX_PARKED:
            self.leave(self._parked.pop(next(iter(self._parked))))

    def reap(self) -> None:
        """Give up what nobody has come back for."""
        now = time.monotonic()
        for tgid, attachment in list(self._parked.items()):
            if now - attachment.closed >= _PARKED_S:
                del self._parked[tgid]
                self.leave(attachment)

    def leave(self, attachment: "TlsAttachment") -> None:
        """Detach it in another thread: the kernel takes its time, and others wait for theirs."""
        self.let_go(attachment.tgid, attachment.taken())

    def let_go(self, tgid: int, links: list[Link]) -> None:
        """The same for some that a process has. What comes later is detached later."""
        for one in [one for one, gone in self._leaving.items() if gone.done()]:
            del self._leaving[one]
        self._leaving[tgid] = self.kernel.detach_soon(links)

    def _wait_for(self, tgid: int) -> None:
        """No program may run twice for one hit."""
        leaving = self._leaving.pop(tgid, None)
        if leaving is not None:
            wait([leaving])

    def layout_of(self, library: Library) -> int:
        """The index of its layout, which the kernel is told; 0 where there is none, or no room."""
        if library.layout is None:
            return 0
        found = self._layouts.get(library.layout)
        if found is not None:
            return found
        index = len(self._layouts) + 1
        if index >= MAX_LAYOUTS:
            return 0
        row = np.zeros(1, layout.TLS_LAYOUT)
        for field in ("reader", "method", "number", "data"):
            row[field] = getattr(library.layout, field)
        row["known"] = 1
        self.kernel.map(LAYOUTS).update(index.to_bytes(4, "little"), row.tobytes())
        self._layouts[library.layout] = index
        return index


class TlsAttachment:
    """The libraries of one process."""

    def __init__(self, probe: TlsProbe, tgid: int, start_ns: int | None, epoch: int) -> None:
        """start_ns: None of a process that is held until it is told to begin."""
        self.tgid = tgid
        self.closed = 0.0
        self._start_ns = start_ns
        self._probe = probe
        self._epoch = epoch
        self._links: list[Link] = []
        self._done: set[Identity] = set()
        self._mapped: frozenset[str] = frozenset()

    def is_of(self, target: Target) -> bool:
        """Whether this is that very process, and not one that had its id before."""
        if self._start_ns is None:
            self._start_ns = target.start_ns
        return same_start(self._start_ns, target.start_ns)

    def look(self) -> str | None:
        """Attach to what has been mapped since the last look."""
        self._probe.reap()
        mapped, halves = _candidates(self.tgid)
        if mapped != self._mapped:
            self._mapped = mapped
            self._probe.habits.learn(self.tgid, self.try_files(mapped, halves))
        return None

    def try_files(
        self, paths: Iterable[str], halves: Mapping[str, str] = MappingProxyType({})
    ) -> list[str]:
        """Attach to those that are TLS libraries, once to each; which they are. halves: files with
        OpenSSL's other half that are mapped, by name."""
        found = []
        for path in paths:
            try:
                identity, library = self._probe.libraries.of(path, halves)
            except OSError:
                continue
            if library is None:
                continue
            found.append(path)
            if identity not in self._done:
                self._done.add(identity)
                self._hook(path, library)
        return found

    def close(self) -> None:
        """Detach; from a process that has become another program a little later: it keeps what
        was put on its files, and what that program says first is not missed."""
        self.closed = time.monotonic()
        self._probe.park(self)

    def taken(self) -> list[Link]:
        """All that is attached, for the caller to detach."""
        links, self._links = self._links, []
        return links

    def _hook(self, path: str, library: Library) -> None:
        """All places of a library, or none: half of its plaintext would make no sense."""
        before = len(self._links)
        try:
            index = self._probe.layout_of(library)
            for hook in library.hooks:
                cookie = index | (RESULT_IS_COUNT if hook.counts else 0)
                cookie |= self._epoch << EPOCH_SHIFT
                # The return first: who enters meanwhile is then not waited for in vain.
                if hook.leave is not None:
                    self._attach(hook.leave, path, hook.offset, cookie, retprobe=True)
                self._attach(hook.enter, path, hook.offset, cookie, retprobe=False)
            tell_since(self._probe.kernel.map(SINCE), self.tgid)
        except (WaggleError, OSError):
            self._probe.let_go(self.tgid, self._links[before:])
            del self._links[before:]
            raise

    def _attach(self, program: str, path: str, offset: int, cookie: int, *, retprobe: bool) -> None:
        self._links.append(
            self._probe.kernel.attach_in_process(
                program, path, offset=offset, pid=self.tgid, cookie=cookie, retprobe=retprobe
            )
        )


def tell_since(since: Map, tgid: int) -> None:
    """All probes are in a process now: connections that begin from here on are seen whole."""
    since.update(tgid.to_bytes(4, "little"), time.monotonic_ns().to_bytes(8, "little"))


def _age_s(start_ns: int) -> float:
    return (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - start_ns) / 1e9


def _candidates(tgid: int) -> tuple[frozenset[str], Mapping[str, str]]:
    """Mapped files in which TLS may be, the program itself among them; and those that are
    OpenSSL's other half, by name. As they can be opened from here."""
    candidates, halves = {f"/proc/{tgid}/exe"}, {}
    for path, mapping in {mapping.path: mapping for mapping in file_mappings(tgid)}.items():
        name = path.removesuffix(DELETED).rpartition("/")[2]
        if name.startswith(CRYPTOGRAPHY):
            halves[name] = mapping.reachable(tgid)
        if may_have_tls(path):
            candidates.add(mapping.reachable(tgid))
    return frozenset(candidates), halves
