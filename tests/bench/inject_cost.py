"""What a header for a stranger costs: CPU of client and server for the smallest exchange."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.peers.agent import started_agent

from . import load
from .measure import paired
from .report import Table, middle, spread
from .targets import Target, go_server

CONNECTIONS = 8


@dataclass(slots=True)
class Arm:
    """One way to run the agent, which traces the load generator, and the us of each round."""

    name: str
    flags: Sequence[str]
    us: list[float] = field(default_factory=list)


def arms() -> list[Arm]:
    there = "--inject-to=loopback"
    return [
        Arm("`--inject off`", ["--inject=off"]),
        Arm("`--inject first`: connections that live on", ["--inject=first", there]),
        Arm("`--inject always`: a header in every request", ["--inject=always", there]),
    ]


def bench(seconds: float, rounds: int) -> Table:
    """Each arm in turn, round after round; ratios are of the same round."""
    tried = arms()
    with go_server() as server:
        for _ in range(rounds):
            for arm in tried:
                arm.us.append(_measure(arm, server, seconds))
    columns = ["", "us of CPU an exchange", "times `--inject off`"]
    rows = [
        [arm.name, f"{middle(arm.us)} ({spread(arm.us)})", f"x{paired(tried[0].us, arm.us)[1]:.2f}"]
        for arm in tried
    ]
    notes = [
        f"wrk, which is traced, with {CONNECTIONS} kept connections at full load, and a Go server, "
        f"which is not; {rounds} interleaved rounds. CPU of both: the server has a header more to "
        "read."
    ]
    return Table("inject", "Headers for strangers", columns, rows, notes)


def _measure(arm: Arm, server: Target, seconds: float) -> float:
    flags = ["--quiet", "--exe", "*/wrk", *arm.flags]
    with started_agent(*flags, json_lines=False):
        load.full_load(server.url, CONNECTIONS, 1)  # now it is known what is spoken there
        cpu_s, answered = server.cpu_s(), server.answered()
        used = load.full_load(server.url, CONNECTIONS, seconds)
        requests = server.answered() - answered
        return (server.cpu_s() - cpu_s + used.cpu_s) / requests * 1e6
