"""Where the TLS libraries of a program will be that has not loaded them yet.

A program that lives for some milliseconds is over before anybody has read what it has mapped. Three
things tell sooner, and what they name wrongly costs nothing: a probe on a file that no process
maps is never met.

    usual()      where systems keep the libraries of all programs
    Habits       what the same executable mapped when it ran before
    needed_by()  what an executable that has not begun asks the loader for
"""

import glob
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from waggle.probes.tls.libraries import Identity, identity_of, wants_of

_NAMES = ("libssl.so.3", "libssl.so.1.1", "libgnutls.so.30")
_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/lib")
_USUAL = tuple(f"{folder}/{name}" for folder in _FOLDERS for name in _NAMES)
# Parts of the names of files in which TLS may be; of Python's packages, of all of the path.
_HINTS = ("ssl", "tls", "crypt", "boring", "curl")
_PACKAGES = re.compile(r".*/(?:site|dist)-packages/|.*/")

_HABITS_KEPT = 256  # executables,
_LIBRARIES_KEPT = 8  # and libraries of each
_FILES_READ = 64  # at most, of those that an executable needs
_FOLDERS_READ = 64  # in which the loader looks


def may_have_tls(path: str) -> bool:
    """Whether a mapped file is worth a look, by what it is called."""
    told = _PACKAGES.sub("", path, count=1).lower()
    return any(hint in told for hint in _HINTS)


def usual(root: str = "") -> Iterator[str]:
    """Files that programs of a system load; root: where that begins, as /proc/PID/root."""
    for path in _USUAL:
        yield f"{root}{path}"


class Habits:
    """Which TLS libraries an executable mapped when it ran before: the latest of the latest."""

    def __init__(self) -> None:
        self._mapped: OrderedDict[Identity, tuple[str, ...]] = OrderedDict()

    def learn(self, tgid: int, paths: Iterable[str]) -> None:
        """paths: TLS libraries that a process has mapped, as they are opened from here."""
        root = f"/proc/{tgid}/root"
        seen = [path.removeprefix(root) for path in paths if path.startswith(root)]
        executable = _executable(tgid)
        if executable is None or not seen:
            return
        before = self._mapped.pop(executable, ())
        kept = dict.fromkeys([*seen, *before])
        self._mapped[executable] = tuple(islice(kept, _LIBRARIES_KEPT))
        if len(self._mapped) > _HABITS_KEPT:
            self._mapped.popitem(last=False)

    def of(self, tgid: int) -> Iterator[str]:
        """What a process will map, by its executable, as it can be opened from here."""
        executable = _executable(tgid)
        if executable is None or executable not in self._mapped:
            return
        self._mapped.move_to_end(executable)
        for path in self._mapped[executable]:
            yield f"/proc/{tgid}/root{path}"


def _executable(tgid: int) -> Identity | None:
    try:
        return identity_of(f"/proc/{tgid}/exe")
    except OSError:
        return None


def needed_by(path: str, environ: Mapping[str, str]) -> list[str]:
    """TLS libraries of an executable that we will start with this environment, and the file itself.

    The loader's folders are asked, nearest first: RUNPATH or RPATH of whoever needs a library,
    LD_LIBRARY_PATH, /etc/ld.so.conf. In the program's own folders libraries of the usual names are
    taken too: an interpreter loads them later by itself. A library in a folder of the system needs
    none elsewhere, and is not read for what it needs.
    """
    found = {path: None}
    system = [*_FOLDERS, "/lib/x86_64-linux-gnu", "/usr/local/lib", *_configured()]
    shared = _absolute(environ.get("LD_LIBRARY_PATH", "").split(":"))
    waiting, read = [path], {os.path.realpath(path)}
    while waiting and len(read) <= _FILES_READ:
        needed, own = _needed(waiting.pop())
        own += shared
        for name in dict.fromkeys([*needed, *_NAMES]):
            library, is_own = _first(name, own, system)
            if library is None or (name not in needed and not is_own):
                continue
            if may_have_tls(library):
                found[library] = None
            if is_own and os.path.realpath(library) not in read:
                read.add(os.path.realpath(library))
                waiting.append(library)
    return list(found)


def _first(name: str, own: list[str], system: list[str]) -> tuple[str | None, bool]:
    """Where the loader finds a library, and whether that is in one of the program's own folders."""
    for folders, is_own in ((own, True), (system, False)):
        for folder in folders:
            at = f"{folder}/{name}"
            if os.path.isfile(at):  # noqa: PTH113
                return at, is_own and folder not in system
    return None, False


def _needed(path: str) -> tuple[list[str], list[str]]:
    """What a file needs, and the folders that it names itself; nothing of what cannot be read."""
    try:
        needed, folders = wants_of(path)
    except OSError:
        return [], []
    origin = str(Path(path).resolve().parent)
    named = [re.sub(r"\$(?:ORIGIN\b|\{ORIGIN\})", lambda _: origin, folder) for folder in folders]
    return needed, _absolute(named)


def _configured() -> list[str]:
    """Folders that the system's loader is told of."""
    folders: list[str] = []
    for file in ["/etc/ld.so.conf", *sorted(glob.glob("/etc/ld.so.conf.d/*.conf"))]:  # noqa: PTH207
        try:
            folders += Path(file).read_text("utf-8", "replace").split()
        except OSError:
            continue
    return _absolute(folders)


def _absolute(folders: Iterable[str]) -> list[str]:
    found = (os.path.normpath(folder) for folder in folders if folder.startswith("/"))
    return list(islice(dict.fromkeys(found), _FOLDERS_READ))
