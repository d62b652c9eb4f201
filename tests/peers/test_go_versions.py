"""Versions of Go that the table does not know, and programs that are large."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from waggle.probes.go.binary import build_id, name_at, read_program

from .agent import started_agent
from .clients import run_client
from .go_matrix import GOMATRIX, kind_of
from .go_table import WARM
from .servers import start_server
from .toolchain import GO_WAYS, PROGRAMS, ensure_go_matrix, ensure_go_old, tool
from .truth import judge

REQUESTS = 160
# Agents whose table ends earlier: the newest that it has is alike, or is not.
AS_IF_NEWER = "from waggle.probes.go.table import GO; GO.pop('1.27')"
AS_IF_MOVED = (
    "from waggle.probes.go.table import GO; row = GO['1.23']; GO.clear(); GO['1.23'] = row"
)
_AGENT = "; import sys; sys.argv[0] = 'waggle'; from waggle.main import main; sys.exit(main())"


def judged(change: str, requests: int, asked: Path = GOMATRIX) -> tuple[dict[str, int], str]:
    """The verdicts about a program by an agent that was changed so, and what it said."""
    ensure_go_matrix()
    kinds = {"called": kind_of(GOMATRIX, "nethttp"), "go": kind_of(asked, "nethttp")}
    program = [sys.executable, "-c", change + _AGENT]
    with (
        start_server("called", kinds=kinds) as called,
        start_server("go", env={"CALLED": called.base_url}, kinds=kinds) as server,
        started_agent(pids=[called.pid, server.pid], program=program) as agent,
    ):
        run_client("go", server.base_url, WARM, 8, path="/m/one/std/{}")
        run_client("go", server.base_url, requests, 8, first=1000, path="/m/parallel/std/{}")
        agent.settle(3 * WARM + 5 * requests)
        ended = agent.stop()
        truth = judge(ended.spans, server.pids(), [called.pid])
        after = truth.within(range(1000, 1000 + requests))
    assert truth.verdicts["wrong"] == 0
    return {str(name): n for name, n in after.verdicts.items()}, ended.stderr


@pytest.mark.slow
def test_a_newer_version_that_agrees_is_believed() -> None:
    """The nearest layout, once births agree with it; that it is a guess is said at the start."""
    verdicts, said = judged(AS_IF_NEWER, REQUESTS, ensure_go_old("1.27.0", way="stripped"))
    assert "is newer than what is known" in said
    assert verdicts.get("right", 0) >= 0.95 * 2 * REQUESTS


def test_a_newer_version_whose_layout_has_moved_has_no_parents() -> None:
    """No wrong ones either; and the agent says that the rule is off, and the way out."""
    verdicts, said = judged(AS_IF_MOVED, 1000)
    assert verdicts == {"none": 2000}
    assert "make go-offsets" in said


# What reading a file takes, apart from the libraries for it.
MEASURE = """
import resource, sys, time
import capstone, elftools.elf.elffile, elftools.common.exceptions
from waggle.probes.go import instructions
from waggle.probes.go.plans import make_plan
begun, size = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
plan = make_plan(sys.argv[1])
assert dict(plan.hooks).keys() >= {"go_round_trip", "go_birth"}, plan
print(time.process_time() - begun)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - size) / 1024)
"""
DATA_MB = 290


@pytest.mark.slow
def test_a_large_program_costs_little(tmp_path: Path) -> None:
    """Of 300 MB less than 50 MB are in memory and less than a second of CPU goes by."""
    source = tmp_path / "source"
    shutil.copytree(PROGRAMS / "golarge", source)
    with (source / "data").open("wb") as data:
        data.truncate(DATA_MB << 20)
    program = tmp_path / "golarge"
    build = [tool("go"), "build", "-trimpath", "-p=1", "-o", str(program), "."]
    subprocess.run(build, cwd=source, check=True, timeout=600)
    assert program.stat().st_size > 295 << 20
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, program], capture_output=True, text=True, check=True
    )
    cpu_s, memory_mb = (float(line) for line in done.stdout.split())
    print(f"{cpu_s:.2f} s, {memory_mb:.0f} MB")
    assert memory_mb < 50
    assert cpu_s < 1


@pytest.mark.parametrize("way", [pytest.param(way, marks=pytest.mark.slow) for way in GO_WAYS])
@pytest.mark.parametrize("version", ["1.17.13", "1.20.14", "1.27.0"])
def test_functions_have_their_names(version: str, way: str) -> None:
    """Where each begins, and nowhere else, however a program is built."""
    path = str(ensure_go_old(version, way=way))
    functions = read_program(path, ["main.main"], ["net/http.("]).functions
    assert "main.main" in functions
    for function in list(functions.values())[:20]:
        assert name_at(path, function.address) == function.name
        assert name_at(path, function.address + 1) == ""
    assert name_at(path, 0) == name_at(path, 1 << 40) == ""


def test_copies_of_a_program_are_one(tmp_path: Path) -> None:
    """A container's file is another; what the linker calls it by is the same, and another for
    every other program."""
    ensure_go_matrix()
    copy = tmp_path / "copy"
    shutil.copy(GOMATRIX, copy)
    assert build_id(str(copy)) == build_id(str(GOMATRIX)) != ""
    assert build_id(str(GOMATRIX.parent / "load")) not in ("", build_id(str(copy)))
    assert build_id(sys.executable) == ""
