"""Python servers with one call a request: without anything, with Waggle, with OpenTelemetry's SDK.

Both are traced to the same receiver, which only counts. The SDK is what opentelemetry-instrument
puts into a program: its spans cost the server itself; Waggle's cost the server a little and the
agent the rest, and both are told.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.peers.agent import started_agent
from tests.peers.processes import BUILD
from tests.peers.toolchain import ensure_venv

from . import agent as seen
from . import load, measure
from .paths import PROGRAMS
from .report import Table, middle, spread
from .targets import Command, Sink, Target, go_server, listening, sink

VENV = BUILD / "bench-sdk-venv"
REQUIREMENTS = Path(__file__).resolve().parent / "requirements-sdk.txt"

WITHOUT, WAGGLE, SDK = "without", "waggle", "opentelemetry-instrument"
ARMS = (WITHOUT, WAGGLE, SDK)
_WARM_UP_S = 1.0
# Longer than a batch waits.
_QUIET_S = 1.5
_SETTLE_S = 10.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A server: its name, how it is started, its load, and the throughput that is to be kept."""

    name: str
    title: str
    command: Callable[[int], Sequence[str | Path]]
    connections: int
    has_master: bool
    goal: float


def _flask(port: int) -> list[str | Path]:
    return [
        *("gunicorn", "calling_flask:app", "--chdir", PROGRAMS, "--bind", f"127.0.0.1:{port}"),
        *("--worker-class", "gthread", "--threads", "4", "--keep-alive", "30"),
        "--no-control-socket",
    ]


def _fastapi(port: int) -> list[str | Path]:
    return [
        *("uvicorn", "calling_fastapi:app", "--app-dir", PROGRAMS, "--port", str(port)),
        *("--loop", "uvloop", "--http", "httptools", "--no-access-log"),
    ]


KINDS = (
    Kind(
        "python-flask",
        "Flask under gunicorn (gthread, 4 threads), one call by requests, 8 connections",
        _flask,
        8,
        True,
        0.97,
    ),
    Kind(
        "python-fastapi",
        "FastAPI under uvicorn (uvloop, httptools), one call by httpx, 16 connections",
        _fastapi,
        16,
        False,
        0.95,
    ),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One arm of one round. cpu_us: of the server a request; agent_us: of the agent. spans: at the
    receiver, a request."""

    load: load.Load
    cpu_us: float
    agent_us: float
    spans: float
    others: float
    strangers: int


def bench(seconds: float, rounds: int) -> list[Table]:
    ensure_venv(VENV, REQUIREMENTS)
    return [_bench(kind, seconds, rounds) for kind in KINDS]


def _bench(kind: Kind, seconds: float, rounds: int) -> Table:
    runs: dict[str, list[Run]] = {arm: [] for arm in ARMS}
    with ExitStack() as stack:
        called, receiver = stack.enter_context(go_server()), stack.enter_context(sink())
        plain = stack.enter_context(_started(kind, called, None))
        instrumented = stack.enter_context(_started(kind, called, receiver))
        for server in (plain, instrumented):
            load.full_load(server.url, kind.connections, _WARM_UP_S)
        _all_spans(receiver)
        for number in range(rounds):
            first = number % len(ARMS)
            for arm in (*ARMS[first:], *ARMS[:first]):
                server = instrumented if arm == SDK else plain
                runs[arm].append(_measure(arm, server, receiver, kind.connections, seconds))
    return _table(kind, runs)


@contextmanager
def _started(kind: Kind, called: Target, receiver: Sink | None) -> Iterator[Target]:
    """The server, with the SDK when there is a receiver for what that sends."""
    env = {"CALLED": called.base_url, "PYTHONUNBUFFERED": "1"}
    before: list[str | Path] = []
    if receiver:
        before = [VENV / "bin" / "opentelemetry-instrument"]
        env |= {
            "OTEL_SERVICE_NAME": kind.name,
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_BSP_SCHEDULE_DELAY": "500",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.base_url,
        }

    def command(port: int) -> list[str | Path]:
        program, *arguments = kind.command(port)
        return [*before, VENV / "bin" / program, *arguments]

    started: Command = command
    with listening(f"bench-{kind.name}", started, env) as (program, port):
        yield Target(program, port, program.pids()[1] if kind.has_master else program.pid)


def _measure(arm: str, server: Target, receiver: Sink, connections: int, seconds: float) -> Run:
    before = receiver.taken()
    if arm != WAGGLE:
        return _loaded(server, receiver, before.numbered, connections, seconds, None)
    flags = ("--otlp", receiver.base_url)
    with started_agent(*flags, pids=[server.worker], json_lines=False) as agent:
        return _loaded(server, receiver, before.numbered, connections, seconds, agent.pid)


def _loaded(
    server: Target,
    receiver: Sink,
    numbered: int,
    connections: int,
    seconds: float,
    agent: int | None,
) -> Run:
    answered, busy, server_s = server.answered(), measure.Busy.now(), server.cpu_s()
    agent_s = measure.cpu_s(agent) if agent else 0.0
    came_to = load.full_load(server.url, connections, seconds)
    requests = server.answered() - answered
    spans = _all_spans(receiver) - numbered
    server_s = server.cpu_s() - server_s
    agent_s = measure.cpu_s(agent) - agent_s if agent else 0.0
    others = measure.others_share(busy, measure.Busy.now(), server_s + agent_s + came_to.cpu_s)
    per_request = 1e6 / requests
    return Run(
        came_to,
        server_s * per_request,
        agent_s * per_request,
        spans / requests,
        others,
        seen.strangers(agent),
    )


def _all_spans(receiver: Sink) -> int:
    """How many have come, once no more do: whoever exports in batches has something left."""
    deadline = time.monotonic() + _SETTLE_S
    taken, since = receiver.taken().numbered, time.monotonic()
    while time.monotonic() < min(deadline, since + _QUIET_S):
        time.sleep(0.05)
        now = receiver.taken().numbered
        if now != taken:
            taken, since = now, time.monotonic()
    return taken


def _table(kind: Kind, runs: dict[str, list[Run]]) -> Table:
    columns = [
        "tracing",
        "requests/s",
        "throughput x",
        "server CPU us a request",
        "server CPU x",
        "agent CPU us a request",
        "p50 ms",
        "p99 ms",
        "p99 x",
        "spans a request",
    ]
    rows = [_row(arm, runs[arm], runs[WITHOUT]) for arm in ARMS]
    strangers = sum(run.strangers > 0 for arm in runs.values() for run in arm)
    count = sum(len(arm) for arm in runs.values())
    notes = [
        f"{len(runs[WITHOUT])} interleaved rounds; ratios are medians of pairs. The called server, "
        "the load generator, the receiver and the agent share the two cores; programs of others "
        f"traced the machine in {strangers} of {count} runs. "
        f"Goal: Waggle keeps {kind.goal:.2f} of the throughput."
    ]
    return Table(kind.name, kind.title, columns, rows, notes)


def _row(arm: str, runs: Sequence[Run], base: Sequence[Run]) -> list[str]:
    def ratio(value: Callable[[Run], float]) -> float:
        return measure.paired([value(run) for run in base], [value(run) for run in runs])[1]

    cpu = [run.cpu_us for run in runs]
    return [
        arm,
        middle([run.load.rate for run in runs], 0),
        f"{ratio(lambda run: run.load.rate):.3f}",
        f"{middle(cpu, 0)} ({spread(cpu)})",
        f"{ratio(lambda run: run.cpu_us):.3f}",
        middle([run.agent_us for run in runs], 1),
        middle([run.load.p50_ms for run in runs]),
        middle([run.load.p99_ms for run in runs]),
        f"{ratio(lambda run: run.load.p99_ms):.2f}",
        f"{median(run.spans for run in runs):.2f}",
    ]
