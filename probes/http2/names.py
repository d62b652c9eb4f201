"""Names of streams out of a program's own memory (bpf/stream_names.h), where the wire has none.

They come with the records of connections whose HPACK tables are not known. What is not
surely what was sent is no name; a process whose memory once said something else than the
wire is believed no more.
"""

import re
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from waggle import layout
from waggle.layout import ToldAs

# What net/url leaves as it is in a path; everything else it may send in another form.
_UNESCAPED = re.compile(rb"[A-Za-z0-9._~$&+,/:;=@-]*")
_VISIBLE = re.compile(rb"[!-~]+")
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MOST_PROCESSES = 4096


class ToldBy(IntEnum):
    """Whose memory a name is from."""

    NOBODY = 0
    MEMORY = 1  # of the program whose span it is
    PEER = 2  # of the other end of the connection


class Told(NamedTuple):
    """A stream's name as a program has it. method: of HTTP, empty where it was not told."""

    method: bytes
    path: bytes
    is_call: bool
    by: ToldBy = ToldBy.MEMORY


def read_told(raw: bytes) -> Told | None:
    """The name in what follows the blocks of a record; None when there is none."""
    if len(raw) < layout.TOLD.itemsize:
        return None
    told = np.frombuffer(raw[: layout.TOLD.itemsize], layout.TOLD)[0]
    text = raw[layout.TOLD.itemsize :]
    method = bytes(told["method"].tobytes())[: int(told["method_length"])]
    how = int(told["as"]) & ~ToldAs.PEERS
    if how == ToldAs.URL:
        method = method or b"GET"
        path = _sent_path(text, int(told["path_length"]))
    else:
        path = text if text[:1] == b"/" or text == b"*" else None
    if path is None or not _VISIBLE.fullmatch(path):
        return None
    by = ToldBy.PEER if told["as"] & ToldAs.PEERS else ToldBy.MEMORY
    return Told(method if _METHOD.fullmatch(method) else b"", path, how == ToldAs.CALL, by)


def _sent_path(text: bytes, path_length: int) -> bytes | None:
    """What net/http makes of a URL's path and query."""
    path, query = text[:path_length], text[path_length:]
    if not _UNESCAPED.fullmatch(path) or (query and query[:1] != b"?"):
        return None
    if path[:1] != b"/":
        return None  # empty, or a text that net/http completes
    return path + query


class Witnesses:
    """Whose memory may be believed: whoever was never wrong where the wire said the same."""

    def __init__(self) -> None:
        self._liars: dict[tuple[int, int], None] = {}

    def is_believed(self, process: tuple[int, int]) -> bool:
        """process: id and start."""
        return process not in self._liars

    def disagree(self, process: tuple[int, int]) -> None:
        if len(self._liars) >= _MOST_PROCESSES:
            del self._liars[next(iter(self._liars))]
        self._liars[process] = None
