"""Finds by which word of its memory uWSGI shows that it runs its own loop: no probe is needed.

uWSGI's own loop serves one request on each thread. Others (gevent's, asyncio's, uGreen's) serve
many on one, and what a request leaves behind there goes on while another is served. Each of these
puts functions of its own in the place of the two by which uWSGI waits for a socket, before it takes
its first request. So the kernel looks at that place whenever a request comes: it must hold uWSGI's.

The place is searched for in the structure `uwsgi`, where it lies elsewhere in every version: two
words beside each other with the addresses of two functions. uWSGI exports all three names to its
plugins.
"""

import time
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.attach import MapEntry, NotYetError, RefusedError, Target
from waggle.elf import read_image
from waggle.probes.python.attach import Kernel
from waggle.process_memory import Mapping, Memory, file_mappings
from waggle.runtimes import CPYTHON, OTHER

SCHEDULERS = "schedulers"
STATE = "uwsgi"
WRITE, READ = "uwsgi_simple_wait_write_hook", "uwsgi_simple_wait_read_hook"
_STATE_WORDS = 2048  # of `uwsgi`, which has 1,400: what lies behind it does no harm
_GREENLETS = "/gevent/"
# How long it is believed that a program has not loaded gevent since, in seconds: longer each time.
_LOOK_AFTER_S, _LOOK_AFTER_MOST_S = 0.25, 16.0


class UwsgiProbe:
    """Which loop uWSGI's processes run."""

    name = "uwsgi"

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def wants(self, target: Target) -> bool:
        words = (target.facts.exe, *target.facts.cmdline)
        return target.runtime.name in (CPYTHON, OTHER) and any(STATE in w.lower() for w in words)

    def attach(self, target: Target) -> "OwnLoop":
        """Raises NotYetError while uWSGI starts, RefusedError where it cannot be told."""
        row = np.zeros((), layout.SCHEDULER)
        row["held_at"], row["function"] = find_hook(target.tgid)
        return OwnLoop(MapEntry(self._kernel.map(SCHEDULERS), target.tgid, row.tobytes()), target)


class OwnLoop:
    """What the kernel was told of a process, until that loads greenlets."""

    def __init__(self, entry: MapEntry, target: Target) -> None:
        self._entry = entry
        self._tgid = target.tgid
        self._pause = _LOOK_AFTER_S
        self._due = time.monotonic() + self._pause

    def look(self) -> str | None:
        if time.monotonic() < self._due:
            return None
        self._pause = min(2 * self._pause, _LOOK_AFTER_MOST_S)
        self._due = time.monotonic() + self._pause
        return why_not(file_mappings(self._tgid))

    def close(self) -> None:
        self._entry.close()


def why_not(mappings: list[Mapping]) -> str | None:
    """Why a thread may call for others than the request that it serves, whatever the loop."""
    if any(_GREENLETS in mapping.path for mapping in mappings):
        return (
            "it has loaded gevent, whose greenlets may go on while another request is served: the "
            "parents of its calls behind uWSGI's protocol are not found"
        )
    return None


def find_hook(tgid: int) -> tuple[int, int]:
    """The address of the word that tells the loop, and what it holds under uWSGI's own."""
    mappings = file_mappings(tgid)
    reason = why_not(mappings)
    if reason:
        raise RefusedError(reason)
    missing = "uWSGI is not mapped yet"
    with Memory(tgid) as memory:
        for symbols in _uwsgi_symbols(tgid, mappings):
            words = memory.words(symbols[STATE], _STATE_WORDS)
            found = hook_in(words, symbols[WRITE], symbols[READ])
            if found is not None:
                return symbols[STATE] + 8 * found, symbols[READ]
            missing = (
                "it runs another loop than uWSGI's own, as gevent's: the parents of its calls "
                "behind uWSGI's protocol are not found"
            )
    raise NotYetError(missing)


def hook_in(words: npt.NDArray[np.uint64], write: int, read: int) -> int | None:
    """Which of the words holds `read`, with `write` before it; None: none, or more than one."""
    pairs = np.flatnonzero((words[:-1] == np.uint64(write)) & (words[1:] == np.uint64(read)))
    return int(pairs[0]) + 1 if len(pairs) == 1 else None


def _uwsgi_symbols(tgid: int, mappings: list[Mapping]) -> Iterator[dict[str, int]]:
    """Where the three names lie in memory, of each file that has them all."""
    names = {STATE, WRITE, READ}
    seen = set()
    for mapping in mappings:
        if mapping.path in seen or STATE not in PurePosixPath(mapping.path).name:
            continue
        try:
            image = read_image(mapping.reachable(tgid), names)
        except OSError:
            continue
        bias = image.bias(mapping.start, mapping.offset) if image else None
        if image is not None and bias is not None and image.symbols.keys() == names:
            seen.add(mapping.path)
            yield {name: bias + address for name, address in image.symbols.items()}
