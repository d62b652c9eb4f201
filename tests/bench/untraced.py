"""What a process that nobody traces pays while the agent runs on another one."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.peers.agent import started_agent

from . import agent as seen
from .measure import paired
from .paths import c_program
from .report import Table
from .targets import go_server

KINDS = {
    "getppid": "getppid()",
    "unix": "UNIX, write and read 64 B",
    "tcp": "TCP loopback, write and read 64 B",
}
FLAVOURS = (None, "socket", "syscall")
Measured = dict[tuple[str | None, str], list[float]]  # (flavour, kind) -> ns of each run
_STRETCH_S = 0.4
_PATIENCE_S = 0.3  # more would not help while other tests run, and the bench must end


def bench(rounds: int) -> Table:
    """One run of each kind of work, of `_STRETCH_S` CPU seconds, per flavour and round."""
    measured: Measured = {(flavour, kind): [] for flavour in FLAVOURS for kind in KINDS}
    strangers = 0
    with go_server() as other:
        for _ in range(rounds):
            for flavour in FLAVOURS:
                strangers += _measure(flavour, other.worker, measured)
    return _table(measured, rounds, strangers)


def _measure(flavour: str | None, pid: int, measured: Measured) -> int:
    """Adds a run of each kind of work; how many of them were made beside others' programs."""
    beside = 0
    with _attached(flavour, pid) as agent_pid:
        for kind in KINDS:
            _wait_until_alone(agent_pid)
            measured[flavour, kind].append(_turn_ns(kind))
            beside += seen.strangers(agent_pid) > 0
    return beside


def _wait_until_alone(agent_pid: int | None) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while seen.strangers(agent_pid) and time.monotonic() < deadline:
        time.sleep(0.05)


@contextmanager
def _attached(flavour: str | None, pid: int) -> Iterator[int | None]:
    if flavour is None:
        yield None
        return
    flags = ["--quiet", "--capture", flavour]
    with started_agent(*flags, pids=[pid], json_lines=False) as agent:
        yield agent.pid


def _turn_ns(kind: str) -> float:
    command: list[str | Path] = [c_program("untraced"), kind, str(_STRETCH_S)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    _least, middle = done.stdout.split()
    return float(middle)


def _table(measured: Measured, rounds: int, strangers: int) -> Table:
    rows = []
    for kind, words in KINDS.items():
        base = measured[None, kind]
        cells = [words, f"{median(base):,.0f} ns"]
        for flavour in FLAVOURS[1:]:
            added, ratio = paired(base, measured[flavour, kind])
            cells.append(f"{added:+.0f} ns (x{ratio:.2f})")
        rows.append(cells)
    columns = ["an untraced process", "no agent", "flavour socket", "flavour syscall"]
    notes = [
        f"CPU time of one turn, medians; differences and ratios of {rounds} pairs. {strangers} of "
        f"{rounds * len(measured)} runs were made while other programs traced this machine."
    ]
    return Table("untraced", "What a process pays that nobody traces", columns, rows, notes)
