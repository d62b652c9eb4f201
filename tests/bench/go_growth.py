"""What a request of a Go service costs with few connections or many, beside many goroutines."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from statistics import median

from tests.peers.agent import started_agent
from tests.peers.go_matrix import GOMATRIX, kind_of
from tests.peers.loaded import programs
from tests.peers.processes import Program
from tests.peers.servers import Server, start_server
from tests.peers.toolchain import GO_MATRIX_BIN, ensure_go_matrix

from waggle.libbpf import RunTimeStats

from . import measure
from .report import Table

# Connections, of which 32 have a request under way at once, and goroutines that do nothing.
SIZES = ((10, 0), (1_000, 0), (10_000, 0), (1_000, 100_000))
PATH = "/m/one/std/{}"
_READY_S = 120.0


@dataclass
class _Found:
    without: list[float] = field(default_factory=list)  # CPU us a request
    traced: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)  # of it in BPF programs


def bench(seconds: float, rounds: int) -> Table:
    ensure_go_matrix()
    found = {size: _Found() for size in SIZES}
    for _ in range(rounds):
        for size, one in found.items():
            _play(size, seconds, one)
    base = found[SIZES[0]]
    columns = ["connections", "goroutines beside", "CPU us a request without", "added us"]
    columns += ["in BPF programs, us", "x"]
    rows = []
    for (connections, parked), one in found.items():
        added, _ = measure.paired(one.without, one.traced)
        inside = median(one.inside)
        row = [f"{connections:,}", f"{parked:,}", f"{median(one.without):.1f}", f"{added:+.1f}"]
        rows.append([*row, f"{inside:.2f}", f"{inside / median(base.inside):.2f}"])
    notes = [
        f"{rounds} interleaved rounds. At most 32 requests are under way, each of which makes one "
        "pooled call; connections are used in turn, so with many of them none is in a cache. What "
        "BPF programs take is the kernel's own count, stops of uprobes not included."
    ]
    return Table("gogrowth", "Go: many connections, many goroutines", columns, rows, notes)


def _play(size: tuple[int, int], seconds: float, found: _Found) -> None:
    connections, parked = size
    kinds = {"called": kind_of(GOMATRIX, "nethttp"), "go": kind_of(GOMATRIX, "nethttp")}
    with start_server("called", kinds=kinds) as called:
        env = {"CALLED": called.base_url}
        with start_server("go", env=env, kinds=kinds) as server:
            if parked:
                _park(server, parked)
            with _load(server, connections) as load:
                used, asked = _measured(load, server, seconds)
                found.without.append(used / asked * 1e6)
                with (
                    started_agent("--quiet", pids=[server.pid], json_lines=False) as agent,
                    RunTimeStats(),
                ):
                    # Every connection must have been met, and what nobody needs be taken away.
                    _pass(load, 1500 + 2 * connections)
                    _measured(load, server, 5)
                    before = _inside_s(agent.pid)
                    used, asked = _measured(load, server, seconds)
                    found.inside.append((_inside_s(agent.pid) - before) / asked * 1e6)
                    found.traced.append(used / asked * 1e6)


def _park(server: Server, count: int) -> None:
    connection = HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", f"/park/{count}")
    assert connection.getresponse().read()
    connection.close()


@contextmanager
def _load(server: Server, connections: int) -> Iterator[Program]:
    address = f"127.0.0.1:{server.port}"
    words = [str(GO_MATRIX_BIN / "soak"), address, str(connections), "0", PATH]
    load = Program("soak", words, with_pipes=True)
    try:
        # Its handler of signals is there when it has asked something.
        load.wait_until(lambda: measure.cpu_s(load.pid) > 0.05, _READY_S)
        _pass(load, 2 * connections)
        yield load
    finally:
        load.stop()


def _pass(load: Program, requests: int) -> None:
    goal = _answered(load) + requests
    while _answered(load) < goal:
        time.sleep(0.2)


def _answered(load: Program) -> int:
    load.send_signal(signal.SIGUSR1)
    return int(load.read_line(_READY_S))


def _measured(load: Program, server: Server, seconds: float) -> tuple[float, int]:
    """CPU seconds of the server, and requests, for about so long."""
    used, asked = measure.cpu_s(server.pid), _answered(load)
    time.sleep(seconds)
    return measure.cpu_s(server.pid) - used, _answered(load) - asked


def _inside_s(agent: int) -> float:
    return sum(ns for ns, _ in programs(agent).values()) / 1e9
