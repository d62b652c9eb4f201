"""What a header for a stranger costs, for the smallest exchange: CPU of client and server,
throughput and p99, beside no header."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.peers.agent import started_agent

from . import load
from .measure import paired
from .report import Table, middle, spread
from .targets import Target, go_server

CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class Round:
    """What one run came to."""

    us: float  # of CPU an exchange
    per_s: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to run the agent, which traces the load generator."""

    name: str
    flags: Sequence[str]


def arms() -> list[Arm]:
    there = "--inject-to=loopback"
    return [
        Arm("`--inject off`", ["--inject=off"]),
        Arm("`--inject first`: connections that live on", ["--inject=first", there]),
        Arm("`--inject always`: a header in every request", ["--inject=always", there]),
    ]


def bench(seconds: float, rounds: int) -> Table:
    """Each arm in turn, round after round; ratios are of the same round."""
    found: dict[str, list[Round]] = {arm.name: [] for arm in arms()}
    with go_server() as server:
        for _ in range(rounds):
            for arm in arms():
                found[arm.name].append(_measure(arm, server, seconds))
    off = next(iter(found.values()))
    columns = [
        *("", "us of CPU an exchange", "times `--inject off`"),
        *("exchanges/s", "throughput x", "p99 ms", "p99 x"),
    ]
    rows = [[name, *_row(off, of)] for name, of in found.items()]
    notes = [
        f"wrk, which is traced, with {CONNECTIONS} kept connections at full load, and a Go server, "
        f"which is not; {rounds} interleaved rounds. CPU of both: the server has a header more to "
        "read."
    ]
    return Table("inject", "Headers for strangers", columns, rows, notes)


def _row(off: Sequence[Round], of: Sequence[Round]) -> list[str]:
    def times(value: Callable[[Round], float]) -> str:
        return f"x{paired(list(map(value, off)), list(map(value, of)))[1]:.2f}"

    us = [one.us for one in of]
    return [
        f"{middle(us)} ({spread(us)})",
        times(lambda one: one.us),
        middle([one.per_s for one in of], 0),
        times(lambda one: one.per_s),
        middle([one.p99_ms for one in of]),
        times(lambda one: one.p99_ms),
    ]


def _measure(arm: Arm, server: Target, seconds: float) -> Round:
    flags = ["--quiet", "--exe", "*/wrk", *arm.flags]
    with started_agent(*flags, json_lines=False):
        load.full_load(server.url, CONNECTIONS, 1)  # now it is known what is spoken there
        cpu_s, answered = server.cpu_s(), server.answered()
        used = load.full_load(server.url, CONNECTIONS, seconds)
        requests = server.answered() - answered
        us = (server.cpu_s() - cpu_s + used.cpu_s) / requests * 1e6
    return Round(us, used.requests / used.seconds, used.p99_ms)
