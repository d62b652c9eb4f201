"""Where the root of control groups is looked for."""

from pathlib import Path

import pytest

from waggle import cgroups
from waggle.cgroups import NoRootError


def line(path: object) -> str:
    return f"cgroup2 {path} cgroup2 rw 0 0\n"


def test_the_root_is_found_beside_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of several mounts the one whose root is that of the whole tree, in whichever order."""
    monkeypatch.setattr(cgroups, "_ROOT_INODE", tmp_path.stat().st_ino)
    (own := tmp_path / "own").mkdir()
    other = "cgroup /sys/fs/cgroup/memory cgroup rw 0 0\n"
    for text in (line(own) + line(tmp_path), other + line(tmp_path) + line(own)):
        assert cgroups.root(text) == tmp_path


def test_a_containers_tree_is_none(tmp_path: Path) -> None:
    """Where only a container's own tree can be seen nothing is attached, and what to do is said."""
    with pytest.raises(NoRootError, match=r"container only: mount the machine's"):
        cgroups.root(line(tmp_path))


def test_what_is_not_mounted() -> None:
    """Its absence says what to do."""
    with pytest.raises(NoRootError, match="mount -t cgroup2"):
        cgroups.root("cgroup /sys/fs/cgroup/memory cgroup rw 0 0\n")
