"""What sampling takes and saves: the agent's CPU and the BPF programs' time for each request."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.peers.agent import WAGGLE, Agent, started_agent

from waggle.libbpf import RunTimeStats

from . import agent as seen
from . import load, measure
from .report import Table, middle, spread
from .targets import Sink, Target, go_server, sink

CONNECTIONS = 64
RATE = 10_000
_WARM_UP_S = 1.0
_QUIET_S = 0.4


@dataclass(slots=True)
class Arm:
    """One way to run the agent, and what each of its runs came to, for one request."""

    name: str
    flags: Sequence[str] = ()
    program: Path = WAGGLE
    agent_us: list[float] = field(default_factory=list)
    kernel_ns: list[float] = field(default_factory=list)
    spans: list[float] = field(default_factory=list)

    def row(self) -> list[str]:
        return [
            self.name,
            f"{middle(self.agent_us)} ({spread(self.agent_us)})",
            f"{middle(self.kernel_ns, 0)} ({spread(self.kernel_ns)})",
            f"{100 * sum(self.spans) / len(self.spans):.1f} %",
        ]


def arms() -> list[Arm]:
    tail = "error,slow=500ms,p95"
    rules = [f"--sample=path=/{n}*:0" for n in range(5)]
    return [
        Arm("no sampler"),
        Arm("always_on, which decides", ["--sample=1"]),
        Arm("--sample 0.1", ["--sample=0.1"]),
        Arm("--sample 0.1, five rules of paths before it", [*rules, "--sample=0.1"]),
        Arm(f"--sample 0.1 --tail {tail}", ["--sample=0.1", f"--tail={tail}"]),
    ]


def bench(seconds: float, rounds: int, chosen: Sequence[Arm] | None = None) -> Table:
    """Each arm in turn, round after round, at the same rate of requests."""
    tried = list(chosen or arms())
    with sink() as receiver, go_server() as server:
        for _ in range(rounds):
            for arm in tried:
                _measure(arm, server, receiver, seconds)
    columns = ["", "agent, us of CPU a request", "BPF programs, ns a request", "spans sent"]
    notes = [
        f"{RATE:,} requests a second to a Go server whose client is not traced, {rounds} "
        "interleaved rounds. The agent's CPU is all of it, from ring to socket, also for what is "
        "dropped."
    ]
    rows = [arm.row() for arm in tried]
    return Table("sampling", "Sampling", columns, rows, notes)


def _measure(arm: Arm, server: Target, receiver: Sink, seconds: float) -> None:
    flags = [*arm.flags, "--otlp", receiver.base_url]
    with (
        started_agent(
            *flags, pids=[server.worker], json_lines=False, program=(arm.program,)
        ) as agent,
        RunTimeStats(),
    ):
        load.steady_load(server.port, CONNECTIONS, RATE, _WARM_UP_S)
        _quiet(agent)
        taken, answered = receiver.taken().numbered, server.answered()
        cpu_s, before = measure.cpu_s(agent.pid), seen.programs(agent.pid)
        load.steady_load(server.port, CONNECTIONS, RATE, seconds)
        requests = server.answered() - answered
        after = seen.programs(agent.pid)
        _quiet(agent)
        cpu_s = measure.cpu_s(agent.pid) - cpu_s
        spans = receiver.taken().numbered - taken
    arm.agent_us.append(cpu_s / requests * 1e6)
    arm.kernel_ns.append(sum(after[name][0] - ns for name, (ns, _) in before.items()) / requests)
    arm.spans.append(spans / requests)


def _quiet(agent: Agent, patience_s: float = 5.0) -> None:
    """Returns when the agent has nothing more to do."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        before = measure.cpu_s(agent.pid)
        time.sleep(_QUIET_S)
        if measure.cpu_s(agent.pid) - before < 0.02 * _QUIET_S:
            return
