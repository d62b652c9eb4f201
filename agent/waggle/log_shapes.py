"""What log records have in common, kept once: where they were written, how severe they are, and by
which rule they belong to a request."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from waggle.columns import Positions
from waggle.layout import Flag, LogSource
from waggle.logrecords import LogShape
from waggle.probes.logs.lines import Entries
from waggle.spans import LINK_METHODS, Attributes

MAX_SHAPES = 4096
_STREAMS = {LogSource.STDOUT: "stdout", LogSource.STDERR: "stderr"}


def path_of_descriptor(tgid: int, descriptor: int, inode: int) -> str:
    """The path of an open file of a process, empty when that is no longer to be had."""
    link = Path(f"/proc/{tgid}/fd/{descriptor}")
    try:
        return str(link.readlink()) if link.stat().st_ino == inode else ""
    except OSError:
        return ""


class Shapes:
    """The shapes of records, each once.

    rows: they are only added. When there are more than MAX_SHAPES a new list begins; batches that
        were made before keep theirs.
    """

    def __init__(self, path_of: Callable[[int, int, int], str]) -> None:
        """path_of: see path_of_descriptor()."""
        self.rows: list[LogShape] = []
        self._path_of = path_of
        self._known: dict[tuple[object, ...], int] = {}
        self._paths: OrderedDict[tuple[int, int, int], str] = OrderedDict()

    def of(
        self,
        entries: Entries,
        rows: Positions,
        resources: npt.NDArray[np.intp],
        owned: npt.NDArray[np.bool_],
    ) -> Positions:
        """The shape of each of `rows`, as a place in self.rows.

        resources: rows of the resource table. owned: which belong to a request. Both (len(rows),).
        """
        if len(self.rows) > MAX_SHAPES:
            self.rows, self._known = [], {}
        facts = entries.facts[rows]
        columns = zip(
            resources.tolist(),
            facts["source"].tolist(),
            np.where(owned, facts["link"], 0).tolist(),
            (facts["flags"] & np.uint16(Flag.AFTER_RESPONSE)).astype(np.bool_).tolist(),
            entries.cut[rows].tolist(),
            facts["inode"].tolist(),
            rows.tolist(),
            strict=True,
        )
        found = np.empty(len(rows), np.intp)
        for number, (*key, row) in enumerate(columns):
            head = entries.heads[row]
            said = (head.number, head.text) if head is not None else (0, "")
            known = self._known.get((*key, *said))
            if known is None:
                known = self._make(key, said, facts[number], bool(owned[number]))
                self._known[(*key, *said)] = known
            found[number] = known
        return found

    def _make(self, key: Sequence[int], said: tuple[int, str], facts: np.void, owned: bool) -> int:
        resource, source, link, after, cut, *_ = key
        attributes = self._stream(source, facts)
        if owned and link in LINK_METHODS:
            attributes["waggle.link.method"] = LINK_METHODS[link]
        if owned and after:
            attributes["waggle.after_response"] = True
        if cut:
            attributes["waggle.log.cut"] = True
        self.rows.append(LogShape(resource, *said, attributes))
        return len(self.rows) - 1

    def _stream(self, source: int, facts: np.void) -> Attributes:
        if source in _STREAMS:
            return {"log.iostream": _STREAMS[LogSource(source)]}
        if source != LogSource.FILE:
            return {}
        key = (int(facts["tgid"]), int(facts["process_start_ns"]), int(facts["inode"]))
        path = self._paths.get(key)
        if path is None:
            path = self._path_of(key[0], int(facts["descriptor"]), key[2])
            self._paths[key] = path
            if len(self._paths) > MAX_SHAPES:
                self._paths.popitem(last=False)
        if not path:
            return {}
        return {"log.file.path": path, "log.file.name": PurePosixPath(path).name}
