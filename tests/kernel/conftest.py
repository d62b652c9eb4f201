"""Tests that load BPF: they need root, clang and a kernel with BTF.

Without those they are skipped with the reason; WAGGLE_REQUIRE_KERNEL=1 makes
every such skip a failure, so that no run passes by not running.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from kernel.support import HERE, clang, compiled, unavailable
from waggle import features, privileges
from waggle.libbpf import Object


@cache
def _reason_to_skip() -> str:
    lacking = privileges.missing(privileges.LOADING)
    if lacking:
        return "needs root: missing " + ", ".join(c.label for c in lacking)
    if not (btf := features.btf()):
        return f"needs BTF: {btf.reason}"
    if not clang():
        return "needs clang"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder loads BPF and is marked so."""
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker("kernel")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Ask once whether this machine can run the tests of this folder."""
    if HERE in Path(item.path).parents and (reason := _reason_to_skip()):
        unavailable(reason)


@pytest.fixture
def open_object() -> Iterator[Callable[[str], Object]]:
    """Open test objects by name; they are closed, and so detached, after the test."""
    opened: list[Object] = []

    def open_one(name: str) -> Object:
        opened.append(Object.open(compiled(name)))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()
