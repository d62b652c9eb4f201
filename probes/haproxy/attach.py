"""Finds what a thread of HAProxy works on: no probe is needed, three words of its memory tell.

Each thread of HAProxy (2.5 and later) has a context, `th_ctx`, which holds the task that it runs
behind two trees of two words (2.6 to 3.2). A task begins with its state (two words of 4 bytes),
the function that it runs and what that works on. The function `process_stream` works on a
stream: one request, from its reading to its answer. HAProxy exports both names, since it prints
its own stack when it crashes.

Where the memory looks otherwise there is another function in that place, which says nothing.
"""

import platform
from pathlib import Path

import numpy as np

from waggle import layout
from waggle.attach import MapEntry, NotYetError, RefusedError, Target
from waggle.elf import Image, read_image, thread_storage
from waggle.probes.python.attach import Kernel
from waggle.process_memory import file_mappings
from waggle.runtimes import HAPROXY

SCHEDULERS = "schedulers"
THREAD, FUNCTION = "th_ctx", "process_stream"
_TASK_AT = 32
_FUNCTION_AT, _OBJECT_AT = 8, 16  # of a task


class HaproxyProbe:
    """What HAProxy's threads work on."""

    name = "haproxy"

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def wants(self, target: Target) -> bool:
        return target.runtime.name == HAPROXY

    def attach(self, target: Target) -> MapEntry:
        """Raises NotYetError while the program starts, RefusedError where it cannot be told."""
        row = np.zeros((), layout.SCHEDULER)
        row["function"], row["slot"] = find_scheduler(target.tgid)
        row["task_at"], row["function_at"], row["object_at"] = _TASK_AT, _FUNCTION_AT, _OBJECT_AT
        return MapEntry(self._kernel.map(SCHEDULERS), target.tgid, row.tobytes())


def find_scheduler(tgid: int) -> tuple[int, int]:
    """Where in its memory `process_stream` lies, and `th_ctx` from a thread's pointer on."""
    path = f"/proc/{tgid}/exe"
    try:
        image = read_image(path, (THREAD, FUNCTION))
        storage = thread_storage(path)
    except OSError as error:
        raise NotYetError(str(error)) from error
    if image is None or storage is None or {THREAD, FUNCTION} - image.symbols.keys():
        raise RefusedError(
            f"{path} does not export `{THREAD}` and `{FUNCTION}`, as HAProxy does since 2.5: the "
            "parents of its calls are not found"
        )
    if platform.machine() != "x86_64":
        raise RefusedError("where threads keep their variables is known for x86-64 only")
    # The executable's block ends where the thread's pointer points to.
    return _bias(tgid, path, image) + image.symbols[FUNCTION], image.symbols[THREAD] - storage


def _bias(tgid: int, path: str, image: Image) -> int:
    """What is added to the addresses of the executable's file."""
    own = str(Path(path).readlink())
    for mapping in file_mappings(tgid):
        if mapping.path == own:
            bias = image.bias(mapping.start, mapping.offset)
            if bias is not None:
                return bias
    raise NotYetError("the executable is not mapped yet")
