"""Records of the ring of logs, as the kernel would have made them of writes."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from waggle import layout
from waggle.layout import Link, LogSource
from waggle.spans import Records


@dataclass(frozen=True, slots=True)
class Write:
    """One write. request: of which it is part, 0 of none. lost: writes of the process lost so
    far. written: bytes the call wrote, where the kernel kept fewer."""

    text: bytes
    request: int = 0
    tid: int = 7
    source: int = LogSource.STDOUT
    tgid: int = 7
    inode: int = 1
    time_ns: int = 0
    lost: int = 0
    written: int = 0


def span_id(request: int) -> bytes:
    return request.to_bytes(8, "big")


def records_of(writes: Iterable[Write], begin_ns: int = 1_000) -> Records:
    """The pieces of writes, each a microsecond after the one before it."""
    pieces = [
        piece
        for number, write in enumerate(writes)
        for piece in _pieces(write, write.time_ns or begin_ns + 1_000 * number)
    ]
    return np.concatenate(pieces) if pieces else np.empty(0, layout.LOG)


def _pieces(write: Write, time_ns: int) -> list[Records]:
    size = layout.LOG.fields["bytes"][0].itemsize  # type: ignore[index]
    made = []
    for offset in range(0, len(write.text), size):
        piece = np.zeros(1, layout.LOG)
        part = write.text[offset : offset + size]
        piece["time_ns"], piece["tgid"], piece["tid"] = time_ns, write.tgid, write.tid
        piece["inode"], piece["source"], piece["lost"] = write.inode, write.source, write.lost
        piece["written"], piece["kept"] = write.written or len(write.text), len(write.text)
        piece["offset"], piece["length"] = offset, len(part)
        piece["bytes"][0, : len(part)] = np.frombuffer(part, np.uint8)
        if write.request:
            piece["link"] = Link.THREAD
            piece["trace_id"][0] = np.frombuffer(span_id(write.request) * 2, np.uint8)
            piece["parent_id"][0] = np.frombuffer(span_id(write.request), np.uint8)
        made.append(piece)
    return made
