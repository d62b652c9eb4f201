"""What the agent itself takes: CPU a span from ring to socket, and memory over time."""

import threading
import time
from collections.abc import Sequence
from statistics import median

from tests.peers.agent import Agent, started_agent

from . import agent as seen
from . import load, measure
from .report import Table, middle, spread
from .targets import Sink, Target, go_server, sink

CONNECTIONS = 64
LOW_RATE = 1_500
STEADY_RATE = 20_000
FULL = 0
_WARM_UP_S = 1.0
_SAMPLE_S = 0.5


def bench(seconds: float, rounds: int) -> list[Table]:
    """Two steady rates and full load in turn; each warms the agent up first. Then no load."""
    found: dict[int, list[Cost]] = {LOW_RATE: [], STEADY_RATE: [], FULL: []}
    with sink() as receiver, go_server() as server:
        for _ in range(rounds):
            for rate, costs in found.items():
                costs.append(measured(server, receiver, rate, seconds / len(found) / rounds))
        idle = _idle_share(server, receiver, seconds / len(found))
    return [_table(found, idle)]


def _idle_share(server: Target, receiver: Sink, seconds: float) -> float:
    """The share of one CPU that an agent takes whose process does nothing."""
    with started_agent(
        "--otlp", receiver.base_url, pids=[server.worker], json_lines=False
    ) as agent:
        server.answered()
        time.sleep(_WARM_UP_S)
        cpu_s, begun = measure.cpu_s(agent.pid), time.monotonic()
        time.sleep(seconds)
        return (measure.cpu_s(agent.pid) - cpu_s) / (time.monotonic() - begun)


class Cost:
    """One run: spans a second, CPU us a span, MB of memory from its first to its last third."""

    def __init__(
        self,
        spans: int,
        answered: int,
        cpu_us: float,
        rate: float,
        others: float,
        memory: list[float],
        lost: int,
    ) -> None:
        self.spans, self.answered, self.lost = spans, answered, lost
        self.cpu_us, self.rate, self.others = cpu_us, rate, others
        third = max(1, len(memory) // 3)
        self.first_mb, self.last_mb = median(memory[:third]), median(memory[-third:])
        self.memory = f"{self.first_mb:.0f} -> {self.last_mb:.0f} (most {max(memory):.0f})"


def measured(
    server: Target, receiver: Sink, rate: int, seconds: float, flags: Sequence[str] = ()
) -> Cost:
    """One run of an agent with these flags too, after a warm-up."""
    with started_agent(
        "--otlp", receiver.base_url, *flags, pids=[server.worker], json_lines=False
    ) as agent:
        start, answered_before = receiver.taken(), server.answered()
        _load(server, rate, _WARM_UP_S)
        warm = receiver.settled(start.numbered + server.answered() - answered_before)
        before, busy = server.answered(), measure.Busy.now()
        cpu_s, server_s = measure.cpu_s(agent.pid), server.cpu_s()
        with _Sampler(agent) as sampler:
            came_to = _load(server, rate, seconds)
        answered = server.answered() - before
        taken = receiver.settled(warm.numbered + answered)
        cpu_s = measure.cpu_s(agent.pid) - cpu_s
        ours = cpu_s + server.cpu_s() - server_s + came_to.cpu_s
        others = measure.others_share(busy, measure.Busy.now(), ours)
        spans = taken.numbered - warm.numbered
        lost = sum(seen.lost(agent.stop().stderr).values())
    return Cost(spans, answered, cpu_s / spans * 1e6, came_to.rate, others, sampler.mb, lost)


def _load(server: Target, rate: int, seconds: float) -> load.Load:
    if rate == FULL:
        return load.full_load(server.url, CONNECTIONS, seconds)
    return load.steady_load(server.port, CONNECTIONS, rate, seconds)


class _Sampler:
    """Resident memory of the agent in MB, every half second, while it is open."""

    def __init__(self, agent: Agent) -> None:
        self.mb: list[float] = [measure.rss_mb(agent.pid)]
        self._pid = agent.pid
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._end.wait(_SAMPLE_S):
            self.mb.append(measure.rss_mb(self._pid))

    def __enter__(self) -> "_Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        self._thread.join()


def _table(found: dict[int, list[Cost]], idle: float) -> Table:
    rows = []
    for rate, costs in found.items():
        cpu = [cost.cpu_us for cost in costs]
        rows.append(
            [
                f"{rate:,} requests/s" if rate else "full load",
                middle([cost.rate for cost in costs], 0),
                f"{middle(cpu)} ({spread(cpu)})",
                f"{sum(c.spans for c in costs):,} of {sum(c.answered for c in costs):,}",
                f"{sum(c.lost for c in costs):,}",
                costs[-1].memory,
            ]
        )
    columns = [
        "load",
        "spans/s",
        "CPU us a span, ring to socket",
        "arrived",
        "counted as lost",
        "MB resident, first to last third",
    ]
    others = [cost.others for costs in found.values() for cost in costs]
    notes = [
        "After a warm-up of a second; until the last span is at the receiver. "
        f"Other programs had {100 * median(others):.0f} % of the machine (at most "
        f"{100 * max(others):.0f} %). Without load the agent takes {100 * idle:.2f} % of one CPU."
    ]
    return Table(
        "agent", "The agent: OTLP by HTTP to a receiver that only counts", columns, rows, notes
    )
