"""A Gin service that makes one HTTP and one gRPC call a request: without the agent, with it, and
instrumented by OpenTelemetry's own libraries instead."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.peers.agent import started_agent
from tests.peers.go_matrix import GOMATRIX, kind_of
from tests.peers.processes import BUILD
from tests.peers.servers import Server, ServerKind, start_server
from tests.peers.toolchain import ensure_go_matrix, ensure_go_module

from . import measure
from .load import full_load
from .paths import PROGRAMS
from .report import Table, middle
from .targets import sink

WITHOUT, AGENT, SDK = "without", "--quiet", "otelhttp, otelgrpc"
ARMS = (WITHOUT, AGENT, SDK)
PATHS = ("none", "both")
CONNECTIONS = 64
WARM_S = 5.0  # what a program is spared is taken away within this time (probes/go/sparing.py)
GO_BIN = BUILD / "bin" / "bench-gosdk"


def bench(seconds: float, rounds: int) -> Table:
    ensure_go_matrix()
    ensure_go_module(PROGRAMS / "gosdk", ["."], GO_BIN)
    found: dict[tuple[str, str], list[float]] = {(p, a): [] for p in PATHS for a in ARMS}
    called = {"called": kind_of(GOMATRIX, "nethttp")}
    with sink() as receiver, start_server("called", kinds=called) as other:
        for number in range(rounds):
            first = number % len(ARMS)
            for arm in (*ARMS[first:], *ARMS[:first]):
                for path in PATHS:
                    with _service(arm, other, receiver.base_url) as service:
                        full_load(f"{service.base_url}/{path}", CONNECTIONS, WARM_S)
                        cpu = measure.cpu_s(service.pid)
                        load = full_load(f"{service.base_url}/{path}", CONNECTIONS, seconds)
                        used = measure.cpu_s(service.pid) - cpu
                        found[path, arm].append(used / load.requests * 1e6)
    return _table(found)


@contextmanager
def _service(arm: str, called: Server, otlp: str) -> Iterator[Server]:
    flags = ["--otlp", f"{otlp}/v1/traces"] if arm == SDK else []
    kind = ServerKind(
        lambda place, _: [
            *(GO_BIN / "gosdk", "--listen", place.address, "--called", called.base_url),
            *flags,
        ]
    )
    with start_server("gosdk", kinds={"gosdk": kind}) as service:
        if arm != AGENT:
            yield service
            return
        with started_agent("--quiet", pids=[service.pid], json_lines=False):
            yield service


def _table(found: dict[tuple[str, str], list[float]]) -> Table:
    columns = ["request", "with", "service's CPU us a request", "added us", "CPU x"]
    rows = [_row(path, arm, found[path, arm], found[path, WITHOUT]) for path, arm in found]
    notes = [
        f"{len(found['none', WITHOUT])} interleaved rounds; `both` is one pooled HTTP call and one "
        "gRPC call, `none` neither. Throughput says little: load, service, the one it calls and "
        "the agent share the machine."
    ]
    title = f"Gin with net/http's and grpc's clients, wrk with {CONNECTIONS} connections"
    return Table("gosdk", title, columns, rows, notes)


def _row(path: str, arm: str, cpu: Sequence[float], base: Sequence[float]) -> list[str]:
    added, ratio = measure.paired(list(base), list(cpu))
    return [f"`{path}`", arm, middle(cpu, 1), f"{added:+.1f}", f"{ratio:.2f}"]
