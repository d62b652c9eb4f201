"""What the kernel tests share: compiled objects, and the one way to say "not here"."""

import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

HERE = Path(__file__).resolve().parent
BUILT = HERE.parents[1] / "build" / "tests"
GETPPID = {"x86_64": 110, "aarch64": 173}  # its number, for programs on sys_enter


def unavailable(reason: str) -> NoReturn:
    """Skip for a reason, or fail for it where the kernel tests are required."""
    if os.environ.get("WAGGLE_REQUIRE_KERNEL") == "1":
        pytest.fail(f"required by WAGGLE_REQUIRE_KERNEL: {reason}")
    pytest.skip(reason)


def clang() -> str | None:
    """The compiler: $CLANG, or what Debian calls it."""
    names = (os.environ.get("CLANG", ""), "clang-14", "clang")
    return next((path for name in names if name and (path := shutil.which(name))), None)


@cache
def compiled(name: str) -> Path:
    """The object built from tests/kernel/NAME.bpf.c."""
    source, target = HERE / f"{name}.bpf.c", BUILT / f"{name}.bpf.o"
    BUILT.mkdir(parents=True, exist_ok=True)
    machine = platform.machine()
    command = [
        clang() or "clang",
        *("-target", "bpf", "-g", "-O2", "-Wall", "-Werror"),
        f"-I/usr/include/{machine}-linux-gnu",
        f"-DGETPPID={GETPPID[machine]}",
        *("-c", str(source), "-o", str(target)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def in_mount_namespace(command: str) -> str:
    """What a shell command prints in a mount namespace of its own; empty when it fails."""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command], capture_output=True, text=True, check=False
    )
    return done.stdout if done.returncode == 0 else ""
