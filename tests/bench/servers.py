"""A server under full load: without the agent, with it, and with it exporting."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median

from tests.peers.agent import Agent, started_agent

from . import agent as seen
from . import load, measure
from .report import Table, middle, spread
from .targets import Sink, Target, sink

WITHOUT, QUIET, OTLP = "without", "--quiet", "--otlp"
ARMS = (WITHOUT, QUIET, OTLP)
WARM_UP_S = 1.0
SPARED_S = 3.0  # within this time the agent takes away what the program can be spared


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the requests of one run with the exporting agent.

    agent_cpu_s: from before the first request until the last span has arrived.
    """

    answered: int
    arrived: int
    lost: dict[str, int]
    agent_cpu_s: float
    resident_mb: float
    anonymous_mb: float
    bytes: int

    @property
    def unexplained(self) -> int:
        """Requests that are neither a span at the receiver nor counted as lost."""
        return self.answered - self.arrived - sum(self.lost.values())


@dataclass(frozen=True, slots=True)
class Run:
    """One arm of one round. others: share of the machine that went to what is not ours."""

    load: load.Load
    server_cpu_us: float
    others: float
    strangers: int
    account: Account | None = None


def measure_arms(
    server: Target, receiver: Sink, *, connections: int, seconds: float, rounds: int
) -> dict[str, list[Run]]:
    """Every arm once a round, each round beginning with another."""
    runs: dict[str, list[Run]] = {arm: [] for arm in ARMS}
    load.full_load(server.url, connections, WARM_UP_S)
    for number in range(rounds):
        first = number % len(ARMS)
        for arm in (*ARMS[first:], *ARMS[:first]):
            runs[arm].append(_measure(arm, server, receiver, connections, seconds))
    return runs


def _measure(arm: str, server: Target, receiver: Sink, connections: int, seconds: float) -> Run:
    if arm == WITHOUT:
        return _loaded(server, None, connections, seconds)[0]
    flags = ["--quiet"] if arm == QUIET else ["--otlp", receiver.base_url]
    with started_agent(*flags, pids=[server.worker], json_lines=False) as agent:
        before, answered = receiver.taken().numbered, server.answered()
        load.full_load(server.url, connections, SPARED_S)
        warm = before + server.answered() - answered
        if arm == QUIET:
            return _loaded(server, agent, connections, seconds)[0]
        return _accounted(server, receiver, agent, connections, seconds, warm)


def _loaded(
    server: Target, agent: Agent | None, connections: int, seconds: float
) -> tuple[Run, int]:
    """The run, and how many requests the server answered in it."""
    answered, busy = server.answered(), measure.Busy.now()
    agent_s = measure.cpu_s(agent.pid) if agent else 0.0
    server_s = server.cpu_s()
    came_to = load.full_load(server.url, connections, seconds)
    server_s = server.cpu_s() - server_s
    agent_s = measure.cpu_s(agent.pid) - agent_s if agent else 0.0
    others = measure.others_share(busy, measure.Busy.now(), server_s + agent_s + came_to.cpu_s)
    requests = server.answered() - answered
    strangers = seen.strangers(agent.pid if agent else None)
    return Run(came_to, server_s / requests * 1e6, others, strangers), requests


def _accounted(
    server: Target, receiver: Sink, agent: Agent, connections: int, seconds: float, warm: int
) -> Run:
    """warm: spans that the receiver has had when nothing of before is on its way any more."""
    receiver.settled(warm)
    taken, cpu_s = receiver.taken(), measure.cpu_s(agent.pid)
    run, requests = _loaded(server, agent, connections, seconds)
    after = receiver.settled(taken.numbered + requests)
    account = Account(
        answered=requests,
        arrived=after.numbered - taken.numbered,
        agent_cpu_s=measure.cpu_s(agent.pid) - cpu_s,
        resident_mb=measure.rss_mb(agent.pid),
        anonymous_mb=measure.private_mb(agent.pid),
        bytes=after.bytes - taken.bytes,
        lost=seen.lost(agent.stop().stderr),
    )
    return Run(run.load, run.server_cpu_us, run.others, run.strangers, account)


def table(name: str, title: str, runs: dict[str, list[Run]]) -> Table:
    rows = [_row(arm, runs[arm], runs[WITHOUT]) for arm in ARMS]
    columns = [
        "agent",
        "requests/s",
        "server CPU us a request",
        "added us",
        "CPU x",
        "throughput x",
        "p99 ms",
        "p99 x",
    ]
    return Table(name, title, columns, rows, [_noise(runs), *_account(runs[OTLP])])


def _row(arm: str, runs: Sequence[Run], base: Sequence[Run]) -> list[str]:
    cpu = [run.server_cpu_us for run in runs]
    added, cpu_ratio = measure.paired([run.server_cpu_us for run in base], cpu)
    rate = [run.load.rate for run in runs]
    _, rate_ratio = measure.paired([run.load.rate for run in base], rate)
    p99 = [run.load.p99_ms for run in runs]
    _, p99_ratio = measure.paired([run.load.p99_ms for run in base], p99)
    return [
        arm,
        middle(rate, 0),
        f"{middle(cpu)} ({spread(cpu)})",
        f"{added:+.2f}",
        f"{cpu_ratio:.3f}",
        f"{rate_ratio:.3f}",
        middle(p99),
        f"{p99_ratio:.2f}",
    ]


def _noise(runs: dict[str, list[Run]]) -> str:
    others = [run.others for arm in runs.values() for run in arm]
    strangers = sum(run.strangers > 0 for arm in runs.values() for run in arm)
    return (
        f"{len(runs[WITHOUT])} interleaved rounds; other programs had "
        f"{100 * median(others):.0f} % of the machine (at most {100 * max(others):.0f} %), "
        f"and other programs traced it in {strangers} of {len(others)} runs."
    )


def _account(runs: Sequence[Run]) -> list[str]:
    accounts = [run.account for run in runs if run.account]
    answered = sum(account.answered for account in accounts)
    arrived = sum(account.arrived for account in accounts)
    losses = sum(sum(account.lost.values()) for account in accounts)
    cpu = [account.agent_cpu_s / account.arrived * 1e6 for account in accounts if account.arrived]
    memory = [account.resident_mb for account in accounts]
    anonymous = [account.anonymous_mb for account in accounts]
    size = sum(account.bytes for account in accounts) / max(arrived, 1)
    return [
        f"Of {answered:,} requests answered, {arrived:,} arrived as spans "
        f"({100 * arrived / answered:.3f} %), {losses:,} are counted as lost, "
        f"{sum(account.unexplained for account in accounts):,} are neither.",
        f"Agent: {middle(cpu)} us of CPU a span ({spread(cpu)}), {middle(memory, 0)} MB resident, "
        f"{middle(anonymous, 0)} MB of it anonymous, {size:.0f} bytes a span sent.",
    ]


def bench(
    name: str,
    title: str,
    started: AbstractContextManager[Target],
    *,
    connections: int,
    seconds: float,
    rounds: int,
) -> Table:
    with sink() as receiver, started as server:
        runs = measure_arms(
            server, receiver, connections=connections, seconds=seconds, rounds=rounds
        )
    return table(name, title, runs)
