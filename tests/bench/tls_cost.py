"""What seeing inside TLS costs: a server's CPU for the smallest exchange, and its throughput."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from tests.peers.agent import started_agent
from tests.peers.processes import Program
from tests.peers.tls_programs import make_certificate, nginx_server, node_server

from . import load, measure
from .report import Table, middle, spread

CONNECTIONS = 8
WARM_UP_S = 3.0
WITHOUT = "no agent"
STREAMS = 4  # at once on a connection of HTTP/2
Started = AbstractContextManager[tuple[Program, int]]
Loader = Callable[[str, float], load.Load]


def by_wrk(url: str, seconds: float) -> load.Load:
    return load.full_load(url, CONNECTIONS, seconds)


def by_h2load(url: str, seconds: float) -> load.Load:
    return load.streams_load(url, CONNECTIONS // STREAMS, STREAMS, seconds)


@dataclass(slots=True)
class Arm:
    """One way to trace the server, and what each round came to. flags: None, no agent at all."""

    name: str
    flags: Sequence[str] | None
    us: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)


def arms() -> list[Arm]:
    return [
        Arm(WITHOUT, None),
        Arm("`--tls off`", ["--tls=off"]),
        Arm("`--tls auto`", ["--tls=auto"]),
    ]


def bench(seconds: float, rounds: int) -> Table:
    """Each arm in turn, round after round; ratios are of the same round."""
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder))
        servers: dict[str, tuple[Callable[[], Started], Loader]] = {
            "nginx": (lambda: nginx_server(Path(folder), certificate), by_wrk),
            "nginx, HTTP/2": (
                lambda: nginx_server(Path(folder), certificate, listen="ssl http2"),
                by_h2load,
            ),
            "Node.js": (lambda: node_server(certificate), by_wrk),
        }
        for name, (start, loads) in servers.items():
            tried = arms()
            with start() as (program, port):
                # A just-in-time compiler compiles before the first round, and not in one arm.
                loads(f"https://localhost:{port}/n/1", WARM_UP_S)
                for number in range(rounds):
                    first = number % len(tried)
                    for arm in (*tried[first:], *tried[:first]):
                        _measure(arm, program, f"https://localhost:{port}/n/1", loads, seconds)
            rows += [_row(name, arm, tried[0]) for arm in tried]
    columns = ["server", "agent", "CPU us a request", "added us", "requests/s", "throughput x"]
    per = CONNECTIONS // STREAMS
    notes = [
        f"TLS 1.3 at full load, {rounds} interleaved rounds: wrk with {CONNECTIONS} kept "
        f"connections; HTTP/2 by h2load with {per}, and {STREAMS} streams on each. One process "
        "that serves. CPU is the server's; throughput also has what the agent uses of the same "
        "two cores."
    ]
    return Table("tls", "Inside TLS", columns, rows, notes)


def _row(server: str, arm: Arm, base: Arm) -> list[str]:
    added, _ = measure.paired(base.us, arm.us)
    _, ratio = measure.paired(base.rate, arm.rate)
    used = f"{middle(arm.us)} ({spread(arm.us)})"
    return [server, arm.name, used, f"{added:+.2f}", middle(arm.rate, 0), f"{ratio:.3f}"]


def _measure(arm: Arm, program: Program, url: str, loads: Loader, seconds: float) -> None:
    serving = program.pids()[-1]
    agent = (
        nullcontext()
        if arm.flags is None
        else started_agent("--quiet", *arm.flags, pids=[serving], json_lines=False)
    )
    with agent:
        loads(url, 1)  # what is found late has been found then
        before = measure.cpu_s(serving)
        came_to = loads(url, seconds)
        arm.us.append((measure.cpu_s(serving) - before) / came_to.requests * 1e6)
        arm.rate.append(came_to.rate)
