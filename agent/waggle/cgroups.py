"""Where control groups, version 2, are: programs on sockets are attached to their root."""

from __future__ import annotations

import os
from pathlib import Path

from waggle.errors import UnsupportedError

_ROOT_INODE = 1  # of the whole tree; what a container sees as its root has another


class NoRootError(UnsupportedError):
    """There is no root of the whole tree to attach to; the message says what to mount."""


def root(mounts: str | None = None) -> Path:
    """The root of all control groups. mounts: as in /proc/self/mounts.

    Raises NoRootError where version 2 is not mounted, and where all that can be seen is a
    container's own tree: what is attached there sees nobody but ourselves.
    """
    text = Path("/proc/self/mounts").read_text() if mounts is None else mounts
    found = [
        Path(path.encode().decode("unicode_escape"))
        for _, path, kind, *_ in map(str.split, text.splitlines())
        if kind == "cgroup2"
    ]
    if not found:
        raise NoRootError("cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")
    for path in found:
        if _is_root(path):
            return path
    raise NoRootError(
        f"{found[0]} has the control groups of a container only: mount the machine's "
        "/sys/fs/cgroup into it, as deploy/daemonset.yaml does"
    )


def _is_root(path: Path) -> bool:
    try:
        return os.stat(path).st_ino == _ROOT_INODE  # noqa: PTH116
    except OSError:
        return False
