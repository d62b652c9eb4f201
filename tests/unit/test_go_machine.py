"""What of Go depends on the processor, in BPF: compiled for each that has a part."""

import subprocess
from pathlib import Path

import pytest

from unit.parsers import COMPILER

ROOT = Path(__file__).resolve().parents[2]
_FLAGS = ("-target", "bpf", "-g", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wpadded")


@pytest.mark.parametrize(("machine", "read"), [("x86", "fsbase"), ("arm64", "user_pt_regs")])
def test_every_machine_compiles(machine: str, read: str, tmp_path: Path) -> None:
    """All programs, without a warning; where g comes from is that machine's own."""
    multiarch = next(Path("/usr/include").glob("*-linux-gnu"))
    source = ROOT / "bpf" / "waggle.bpf.c"
    out = tmp_path / "all.i"
    flags = [*_FLAGS, "-Werror", f"-D__TARGET_ARCH_{machine}", f"-I{multiarch}"]
    subprocess.run([COMPILER, *flags, "-fsyntax-only", source], check=True, timeout=300)
    subprocess.run([COMPILER, *flags, "-E", source, "-o", out], check=True, timeout=300)
    g = out.read_text().partition("go_thread_g(")[2].partition("struct waggle_go *go_of")[0]
    assert read in g
