"""Another process's memory and what is mapped into it: read, never written, never stopped."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from waggle.closing import Closing

DELETED = " (deleted)"
_MAPS_LIMIT = 4 << 20
_LINE = re.compile(
    r"(?P<start>[0-9a-f]+)-(?P<end>[0-9a-f]+) (?P<rights>\S+) (?P<offset>[0-9a-f]+) \S+ \d+ +"
    r"(?P<path>/.*)"
)


@dataclass(frozen=True, slots=True)
class Mapping:
    """A part of a file in a process's memory. path: as the process sees it, followed by DELETED
    when the file is no longer there."""

    start: int
    end: int
    offset: int
    path: str

    @property
    def is_deleted(self) -> bool:
        return self.path.endswith(DELETED)

    def reachable(self, tgid: int) -> str:
        """The file as it can be opened from here, also when another has taken its place. That
        other way needs CAP_SYS_ADMIN, or CAP_CHECKPOINT_RESTORE."""
        if self.is_deleted:
            return f"/proc/{tgid}/map_files/{self.start:x}-{self.end:x}"
        return f"/proc/{tgid}/root{self.path}"


def file_mappings(tgid: int) -> list[Mapping]:
    """What of files is mapped, in the order of addresses; empty when the process is gone."""
    try:
        path = Path(f"/proc/{tgid}/maps")
        with path.open(encoding="utf-8", errors="surrogateescape") as maps:
            text = maps.read(_MAPS_LIMIT)
    except OSError:
        return []
    return [
        Mapping(int(m["start"], 16), int(m["end"], 16), int(m["offset"], 16), m["path"])
        for m in map(_LINE.fullmatch, text.splitlines())
        if m is not None
    ]


class Memory(Closing):
    """The memory of one process. Needs CAP_SYS_PTRACE for other users' processes.

    Use as a context manager. Raises OSError when the process is gone or refuses.
    """

    def __init__(self, tgid: int) -> None:
        self._file = os.open(f"/proc/{tgid}/mem", os.O_RDONLY | os.O_CLOEXEC)

    def words(self, address: int, count: int) -> npt.NDArray[np.uint64]:
        """`count` words of 8 bytes, fewer when memory ends before; none for a wild address."""
        try:
            data = os.pread(self._file, 8 * count, address)
        except (OSError, OverflowError, ValueError):
            return np.empty(0, np.uint64)
        return np.frombuffer(data[: len(data) // 8 * 8], np.uint64)

    def word(self, address: int) -> int | None:
        found = self.words(address, 1)
        return int(found[0]) if len(found) else None

    def close(self) -> None:
        os.close(self._file)
