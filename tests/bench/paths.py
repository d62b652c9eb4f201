"""Where the benchmarks find and keep things."""

import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.peers.processes import BUILD, ROOT
from tests.peers.toolchain import ToolMissingError, ensure_go_module, tool

PROGRAMS = Path(__file__).resolve().parent / "programs"
BIN = BUILD / "bin" / "bench"
WAGGLE = ROOT / ".venv" / "bin" / "waggle"
REPORT = ROOT / "docs" / "performance.md"


@cache
def go_programs() -> Path:
    """The folder with `server` and `sink`, built when their source has changed."""
    ensure_go_module(PROGRAMS / "go", ["server", "sink"], BIN)
    return BIN


@cache
def c_program(name: str) -> Path:
    """programs/NAME.c, compiled when its source is newer. Raises ToolMissingError."""
    source, target = PROGRAMS / f"{name}.c", BIN / name
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        BIN.mkdir(parents=True, exist_ok=True)
        warnings = ["-Wall", "-Wextra", "-Werror"]
        command = [tool("cc"), "-O2", "-std=gnu11", *warnings, "-o", str(target), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ToolMissingError(f"{source.name} does not compile:\n{done.stderr}")
    return target


def wrk() -> str:
    """The load generator. Raises ToolMissingError."""
    if found := shutil.which("wrk"):
        return found
    raise ToolMissingError("wrk is not installed: apt-get install wrk")
