"""A grpc-go server at full load from grpc-go: without the agent, with it, and with it exporting."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tests.peers.agent import Agent, started_agent
from tests.peers.grpc_programs import FIRST, GrpcServer, start_grpc_client, start_grpc_server
from tests.peers.toolchain import ensure_grpc_built

from . import agent as seen
from . import measure
from .report import Table, middle, spread
from .servers import SPARED_S
from .targets import Sink, sink

WITHOUT, QUIET, OTLP = "without", "--quiet", "--otlp"
ARMS = (WITHOUT, QUIET, OTLP)
CONCURRENCY = 64
# Messages have as many bytes as their number: all of a run are of about this size.
_CALLS_TO_MEASURE_BY = 2_000
_SETTLED_WITHIN_S = 8.0


@dataclass(frozen=True, slots=True)
class Run:
    """One arm of one round. arrived: spans at the receiver, of both ends' calls the server's."""

    rate: float
    server_cpu_us: float
    calls: int
    arrived: int = 0
    lost: int = 0
    agent_cpu_us: float = 0.0


def bench(seconds: float, rounds: int) -> Table:
    ensure_grpc_built()
    runs: dict[str, list[Run]] = {arm: [] for arm in ARMS}
    with start_grpc_server("grpc-go") as server, sink() as receiver:
        _load(server, _CALLS_TO_MEASURE_BY)
        calls = int(_load(server, _CALLS_TO_MEASURE_BY).rate * seconds)
        for number in range(rounds):
            first = number % len(ARMS)
            for arm in (*ARMS[first:], *ARMS[:first]):
                runs[arm].append(_measure(arm, server, receiver, calls, seconds))
    return _table(runs)


def _measure(arm: str, server: GrpcServer, receiver: Sink, calls: int, seconds: float) -> Run:
    if arm == WITHOUT:
        return _load(server, calls)
    flags = ["--quiet"] if arm == QUIET else ["--otlp", receiver.base_url]
    with started_agent(*flags, pids=[server.program.pid], json_lines=False) as agent:
        before = receiver.taken().spans
        _load(server, warm := int(SPARED_S * calls / seconds))
        if arm == QUIET:
            return _load(server, calls)
        _settle(receiver, before + warm)
        return _accounted(server, receiver, agent, calls)


def _load(server: GrpcServer, calls: int) -> Run:
    """`calls` unary calls as fast as they go, over one connection."""
    pid = server.program.pid
    with ExitStack() as stack:
        client = stack.enter_context(
            start_grpc_client(
                "grpc-go",
                server.address,
                calls,
                CONCURRENCY,
                first=FIRST,
                gate=0,
                args=["--same-size"],
            )
        )
        client.wait_for_gate()
        cpu = measure.cpu_s(pid)
        begun = time.monotonic()
        client.open_gate()
        result = client.finish()
        took = (result.ended_ns / 1e9) - begun
        cpu = measure.cpu_s(pid) - cpu
    return Run(calls / took, cpu / calls * 1e6, calls)


def _settle(receiver: Sink, enough: int) -> None:
    """Returns when so many spans are there, or no more will come."""
    deadline = time.monotonic() + _SETTLED_WITHIN_S
    while receiver.taken().spans < enough and time.monotonic() < deadline:
        time.sleep(0.05)


def _accounted(server: GrpcServer, receiver: Sink, agent: Agent, calls: int) -> Run:
    taken, cpu_s = receiver.taken().spans, measure.cpu_s(agent.pid)
    run = _load(server, calls)
    _settle(receiver, taken + calls)
    arrived = receiver.taken().spans - taken
    used = measure.cpu_s(agent.pid) - cpu_s
    lost = sum(seen.lost(agent.stop().stderr).values())
    return Run(
        run.rate,
        run.server_cpu_us,
        calls,
        arrived,
        lost,
        used / max(arrived, 1) * 1e6,
    )


def _table(runs: dict[str, list[Run]]) -> Table:
    title = f"grpc-go, unary calls from grpc-go, {CONCURRENCY} at once over one connection"
    columns = ["agent", "calls/s", "server CPU us a call", "added us", "CPU x", "throughput x"]
    rows = [_row(arm, runs[arm], runs[WITHOUT]) for arm in ARMS]
    exported = runs[OTLP]
    calls, arrived = sum(run.calls for run in exported), sum(run.arrived for run in exported)
    cpu = [run.agent_cpu_us for run in exported]
    lost = sum(run.lost for run in exported)
    return Table(
        "grpc",
        title,
        columns,
        rows,
        [
            f"{len(exported)} interleaved rounds of {exported[0].calls:,} calls.",
            f"Of {calls:,} calls, {arrived:,} arrived as spans ({100 * arrived / calls:.3f} %), "
            f"{lost:,} are counted as lost.",
            f"Agent: {middle(cpu)} us of CPU a span ({spread(cpu)}).",
        ],
    )


def _row(arm: str, runs: Sequence[Run], base: Sequence[Run]) -> list[str]:
    cpu = [run.server_cpu_us for run in runs]
    added, cpu_ratio = measure.paired([run.server_cpu_us for run in base], cpu)
    rate = [run.rate for run in runs]
    _, rate_ratio = measure.paired([run.rate for run in base], rate)
    return [
        arm,
        middle(rate, 0),
        f"{middle(cpu)} ({spread(cpu)})",
        f"{added:+.2f}",
        f"{cpu_ratio:.3f}",
        f"{rate_ratio:.3f}",
    ]
