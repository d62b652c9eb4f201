"""Attaches to the TLS libraries of a process: those it has mapped, and those it maps later.

A uprobe is put on a file, for one process: the kernel sets it when the process maps that
file. So a program that has only just begun gets its probes on the libraries of its system
before it has loaded them, and sees its first connection whole. What a process loads later
is found by looking at its mappings now and then.

No process is stopped and nothing is written into one.
"""

import itertools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np

from waggle import layout
from waggle.attach import Target
from waggle.errors import WaggleError
from waggle.libbpf import Link, Map, Program
from waggle.probes.tls.library import Layout, Library, read_library
from waggle.process_memory import DELETED, file_mappings
from waggle.procfs import same_start
from waggle.runtimes import GO, JVM

LAYOUTS, SINCE = "tls_layouts", "tls_since"
RESULT_IS_COUNT, EPOCH_SHIFT = 0x10000, 32  # as in bpf/tls_maps.h
MAX_LAYOUTS = 256
_YOUNG_S = 60.0  # so old at most is a process that may not have mapped its libraries yet
_PARKED_S = 5.0
_LIBRARIES_KEPT = 256
_CRYPTOGRAPHY = "libcrypto"
# Where systems keep the libraries of all programs; tried in young processes.
_USUAL = tuple(
    f"{folder}/{name}"
    for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/lib")
    for name in ("libssl.so.3", "libssl.so.1.1", "libgnutls.so.30")
)
# Parts of the names of files in which TLS may be; of Python's packages, of all of the path.
_HINTS = ("ssl", "tls", "crypt", "boring", "curl")
_PACKAGES = re.compile(r".*/(?:site|dist)-packages/|.*/")

Identity = tuple[int, int, int, int]


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

    def detach(self, link: Link) -> None: ...


@dataclass(frozen=True, slots=True)
class Known:
    """A file that was read. layout: its index in the kernel's map, 0: none."""

    library: Library | None
    layout: int


class TlsProbe:
    """Plaintext of OpenSSL and what is like it."""

    name = "tls"

    def __init__(self, kernel: Kernel, say: Callable[[str], None] = lambda text: None) -> None:
        self.kernel = kernel
        self._say = say
        self._known: dict[Identity, Known] = {}
        self._layouts: dict[Layout, int] = {}
        self._epochs = itertools.count(1)
        self._parked: dict[int, TlsAttachment] = {}

    def wants(self, target: Target) -> bool:
        return target.runtime.name not in (GO, JVM)

    def attach(self, target: Target) -> "TlsAttachment":
        self.reap()
        attachment = self._parked.pop(target.tgid, None)
        if attachment is not None and not same_start(attachment.start_ns, target.start_ns):
            attachment.detach()
            attachment = None
        if attachment is None:
            attachment = TlsAttachment(self, target.tgid, target.start_ns, next(self._epochs))
        try:
            if _age_s(target.start_ns) < _YOUNG_S:
                attachment.try_files(_usual(target.tgid))
            attachment.look()
        except BaseException:
            attachment.detach()
            raise
        return attachment

    def park(self, attachment: "TlsAttachment") -> None:
        """A process runs another program now, or has ended: see `TlsAttachment.close`."""
        self.reap()
        self._parked[attachment.tgid] = attachment

    def reap(self) -> None:
        """Give up what nobody has come back for."""
        now = time.monotonic()
        for tgid, attachment in list(self._parked.items()):
            if now - attachment.closed >= _PARKED_S:
                del self._parked[tgid]
                attachment.detach()

    def known(self, path: str, halves: Mapping[str, str]) -> tuple[Identity, Known]:
        """What a file is; read once, however many processes map it. halves: as `try_files` has
        them. Raises OSError."""
        state = Path(path).stat()
        identity = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        known = self._known.get(identity)
        if known is None:
            library = read_library(path, _cryptography_of(path, halves))
            known = Known(library, self._index(library))
            if len(self._known) >= _LIBRARIES_KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[identity] = known
        return identity, known

    def _index(self, library: Library | None) -> int:
        """Tells the kernel a layout; 0 where there is none to tell, or no room."""
        if library is None or library.layout is None:
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

    def __init__(self, probe: TlsProbe, tgid: int, start_ns: int, epoch: int) -> None:
        self.tgid = tgid
        self.start_ns = start_ns
        self.closed = 0.0
        self._probe = probe
        self._epoch = epoch
        self._links: list[Link] = []
        self._done: set[Identity] = set()
        self._mapped: frozenset[str] = frozenset()

    def look(self) -> str | None:
        """Attach to what has been mapped since the last look."""
        self._probe.reap()
        mapped, halves = _candidates(self.tgid)
        if mapped != self._mapped:
            self._mapped = mapped
            self.try_files(mapped, halves)
        return None

    def try_files(
        self, paths: Iterable[str], halves: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """halves: files with OpenSSL's other half that are mapped, by name."""
        for path in paths:
            try:
                identity, known = self._probe.known(path, halves)
            except OSError:
                continue
            if identity in self._done or known.library is None:
                continue
            self._done.add(identity)
            self._hook(path, known)

    def close(self) -> None:
        """Detach, a little later: a process that has become another program keeps what was put
        on its files, and what that program says first is not missed."""
        self.closed = time.monotonic()
        self._probe.park(self)

    def detach(self) -> None:
        links, self._links = self._links, []
        for link in links:
            self._probe.kernel.detach(link)

    def _hook(self, path: str, known: Known) -> None:
        """All places of a library, or none: half of its plaintext would make no sense."""
        if known.library is None:
            return
        before = len(self._links)
        try:
            for hook in known.library.hooks:
                cookie = known.layout | (RESULT_IS_COUNT if hook.counts else 0)
                cookie |= self._epoch << EPOCH_SHIFT
                # The return first: who enters meanwhile is then not waited for in vain.
                if hook.leave is not None:
                    self._attach(hook.leave, path, hook.offset, cookie, retprobe=True)
                self._attach(hook.enter, path, hook.offset, cookie, retprobe=False)
            tell_since(self._probe.kernel.map(SINCE), self.tgid)
        except (WaggleError, OSError):
            for link in self._links[before:]:
                self._probe.kernel.detach(link)
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


def _usual(tgid: int) -> Iterator[str]:
    """Files that programs of its system load, as they can be opened from here."""
    for path in _USUAL:
        yield f"/proc/{tgid}/root{path}"


def may_have_tls(path: str) -> bool:
    """Whether a mapped file is worth a look, by what it is called."""
    told = _PACKAGES.sub("", path, count=1).lower()
    return any(hint in told for hint in _HINTS)


def _candidates(tgid: int) -> tuple[frozenset[str], Mapping[str, str]]:
    """Mapped files in which TLS may be, the program itself among them; and those that are
    OpenSSL's other half, by name. As they can be opened from here."""
    candidates, halves = {f"/proc/{tgid}/exe"}, {}
    for path, mapping in {mapping.path: mapping for mapping in file_mappings(tgid)}.items():
        name = path.removesuffix(DELETED).rpartition("/")[2]
        if name.startswith(_CRYPTOGRAPHY):
            halves[name] = mapping.reachable(tgid)
        if may_have_tls(path):
            candidates.add(mapping.reachable(tgid))
    return frozenset(candidates), halves


def _cryptography_of(path: str, mapped: Mapping[str, str] = MappingProxyType({})) -> str | None:
    """The file with OpenSSL's other half, in the version that it wants: one that is mapped, else
    beside it."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile

    try:
        with Path(path).open("rb") as file:
            section = ELFFile(file).get_section_by_name(".dynamic")
            if not isinstance(section, DynamicSection):
                return None
            needed = [str(getattr(tag, "needed", "")) for tag in section.iter_tags("DT_NEEDED")]
    except (ELFError, ValueError, KeyError):
        return None
    for name in needed:
        if name in mapped:
            return mapped[name]
        if name.startswith(_CRYPTOGRAPHY):
            beside = Path(path).resolve().parent if "/exe" in path else Path(path).parent
            found = beside / name
            if found.exists():
                return str(found)
    return None
