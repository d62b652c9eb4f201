"""What each BPF program takes of a traced Go server's request, by the kernel's own account."""

from tests.peers.agent import started_agent

from waggle.libbpf import RunTimeStats

from . import agent as seen
from . import load
from .report import Table
from .targets import Target, go_server

CONNECTIONS = 64


def bench(seconds: float) -> Table:
    with go_server() as server:
        rows = [row for flavour in ("socket", "syscall") for row in _rows(server, flavour, seconds)]
    columns = ["flavour", "program", "runs a request", "ns a run", "ns a request"]
    notes = [
        "Measuring adds about 20 ns a run to the program's caller, not to these numbers. Runs for "
        "the load generator, which is not traced, are among them. A request is one GET on a kept "
        "connection."
    ]
    return Table("bpf", "BPF programs, Go net/http at full load", columns, rows, notes)


def _rows(server: Target, flavour: str, seconds: float) -> list[list[str]]:
    flags = ["--quiet", "--capture", flavour]
    with (
        started_agent(*flags, pids=[server.worker], json_lines=False) as agent,
        RunTimeStats(),
    ):
        before, answered = seen.programs(agent.pid), server.answered()
        load.full_load(server.url, CONNECTIONS, seconds)
        requests = server.answered() - answered
        after = seen.programs(agent.pid)
    spent = {
        name: (after[name][0] - ns, after[name][1] - runs) for name, (ns, runs) in before.items()
    }
    rows = [
        [
            flavour,
            f"`{name}`",
            f"{runs / requests:.2f}",
            f"{ns / runs:,.0f}",
            f"{ns / requests:,.0f}",
        ]
        for name, (ns, runs) in sorted(spent.items(), key=lambda item: -item[1][0])
        if runs > 0.01 * requests
    ]
    total = sum(ns for ns, _ in spent.values()) / requests
    return [*rows, [flavour, "all", "", "", f"{total:,.0f}"]]
