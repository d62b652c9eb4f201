"""What files are as TLS libraries: each is read once, however many processes map it.

To read one takes a hundred milliseconds, in which many a program begins and ends. So those that
programs of this system load are read while the kernel verifies, before anybody waits for them.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from waggle.probes.tls.library import Library, read_library

CRYPTOGRAPHY = "libcrypto"  # what the names of OpenSSL's other half begin with
_KEPT = 256
_TAGS_READ = 4096  # at most, of a file's dynamic table

# Device, inode, size in bytes, time of change in ns.
Identity = tuple[int, int, int, int]


class Libraries:
    """Files that were read, bounded: the oldest is forgotten, and read again when it is met."""

    def __init__(self) -> None:
        self._read: dict[Identity, Library | None] = {}

    def of(
        self, path: str, halves: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[Identity, Library | None]:
        """A file, and what to hook in it: None where it is no TLS library that we know how to
        hook. halves: files with OpenSSL's other half that are mapped, by name. Raises OSError."""
        identity = identity_of(path)
        if identity not in self._read:
            library = read_library(path, _cryptography_of(path, halves))
            if len(self._read) >= _KEPT:
                self._read.pop(next(iter(self._read)))
            self._read[identity] = library
        return identity, self._read[identity]

    def prepare(self, paths: Iterable[str]) -> None:
        """Read files that may soon be met; those that are not there are left out."""
        for path in paths:
            with suppress(OSError):
                self.of(path)


def identity_of(path: str) -> Identity:
    """Which file this is now. Raises OSError."""
    state = Path(path).stat()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def wants_of(path: str) -> tuple[list[str], list[str]]:
    """What an ELF file asks the loader for: names of libraries, and the folders of its RUNPATH or
    RPATH as they stand there; nothing where it cannot be understood. Raises OSError."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.elffile import ELFFile

    needed: list[str] = []
    folders: list[str] = []
    try:
        with Path(path).open("rb") as file:
            for segment in ELFFile(file).iter_segments("PT_DYNAMIC"):
                assert isinstance(segment, DynamicSegment)
                for tag in islice(segment.iter_tags(), _TAGS_READ):
                    if tag.entry.d_tag == "DT_NEEDED":
                        needed.append(str(getattr(tag, "needed", "")))
                    elif tag.entry.d_tag in ("DT_RUNPATH", "DT_RPATH"):
                        folders += str(getattr(tag, tag.entry.d_tag[3:].lower())).split(":")
    except (ELFError, ValueError, KeyError):
        return [], []
    return needed, folders


def _cryptography_of(path: str, mapped: Mapping[str, str]) -> str | None:
    """The file with OpenSSL's other half, in the version that it wants: one that is mapped, else
    beside it."""
    for name in wants_of(path)[0]:
        if name in mapped:
            return mapped[name]
        if name.startswith(CRYPTOGRAPHY):
            beside = Path(path).resolve().parent if "/exe" in path else Path(path).parent
            found = beside / name
            if found.exists():
                return str(found)
    return None
