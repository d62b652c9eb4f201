"""Playing event loops: a process for each cell, since one that refutes a rule does so for good.

    python -m tests.peers.turn_matrix [--count N] [CELL...]     the table of docs/parents.md

A cell is `program/shape/client`. The numbers in the requests are the truth, as in truth.py; what
a program calls for nobody has numbers from NOBODYS on, and must have no parent.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from .agent import Ended, started_agent
from .clients import start_client, trust_in
from .harness import ensure_built
from .ports import lease_port
from .python_matrix import Cell, Result, result_of, settle
from .servers import ServerKind, start_server
from .toolchain import PROGRAMS, tool
from .truth import judge

NOBODYS = range(9_000_000, 9_100_000)
CONCURRENCIES = (1, 32)

# Shape -> calls of one request.
CALLS: Mapping[str, int] = {
    **dict.fromkeys(("one", "late", "background", "proxy", "batch"), 1),
    **dict.fromkeys(("two", "parallel", "timer", "pool", "immediate", "fire", "spawned"), 2),
    **dict.fromkeys(("query", "pipeline", "subrequest", "callbacks", "worker"), 2),
    **dict.fromkeys(("pg", "pg-queue", "mysql2", "mysql2-queue", "ioredis"), 2),
    **dict.fromkeys(("jdbc", "future"), 2),
    **dict.fromkeys(("three", "mixed"), 3),
}

PROGRAMS_BY_NAME: Mapping[str, ServerKind] = {
    "node": ServerKind(
        lambda place, _: [tool("node"), PROGRAMS / "node" / "matrix.js", place.address]
    ),
}

# Of a protocol that nobody knows, and not traced.
_BESIDE = {
    "lines": ServerKind(
        lambda place, _: [tool("node"), PROGRAMS / "node" / "lines.js", place.address]
    ),
}

CELLS: tuple[tuple[str, str, str], ...] = (
    *(("node", shape, "agent") for shape in ("one", "three", "mixed")),
    *(("node", "mixed", client) for client in ("fetch", "close", "dns")),
    *(("node", shape, "agent") for shape in ("timer", "late", "pool", "immediate")),
    *(("node", shape, "agent") for shape in ("background", "fire", "query", "pipeline")),
    ("node", "mixed", "queue"),
)

TRACEPARENT = "traceparent"  # in place of a client: a proxy is sent that header, and passes it on


@dataclass(frozen=True, slots=True)
class Played:
    """A cell's result, its calls for nobody, and those of them that have a parent."""

    result: Result
    nobodys: int
    nobodys_wrong: int

    @property
    def wrong(self) -> int:
        return self.result.wrong + self.nobodys_wrong

    def __str__(self) -> str:
        return f"{self.result} nobody's: {self.nobodys}, WRONG {self.nobodys_wrong}"


def play(
    cells: Sequence[tuple[str, str, str]],
    concurrency: int,
    count: int,
    *,
    alone: int = 0,
    programs: Mapping[str, ServerKind] = PROGRAMS_BY_NAME,
    env: Mapping[str, str] | None = None,
    certificate: Path | None = None,
) -> tuple[list[Played], Ended]:
    """Plays `count` requests of each cell, the first `alone` of them one by one, on a process of
    its own beside one agent. A proxy among `programs` hands each on as it is, with the header of a
    trace where its "client" is TRACEPARENT.

    env: more for the programs' environment. certificate: of the server that is called, over TLS.
    """
    with ExitStack() as stack:
        called = stack.enter_context(start_server("go-nethttp", certificate=certificate))
        lease = lease_port()
        stack.callback(lease.release)
        settings = {"CALLED": called.base_url, "LINES": f"127.0.0.1:{lease.port}", **(env or {})}
        settings |= trust_in(certificate) if certificate else {}
        stack.enter_context(start_server("lines", env=settings, kinds=_BESIDE))
        servers = [
            stack.enter_context(
                start_server(name, env=settings, kinds=programs, upstream=called.base_url)
            )
            for name, _, _ in cells
        ]
        pids = [called.pid, *(server.pid for server in servers)]
        flags = ("--tls", "auto") if certificate else ()
        agent = stack.enter_context(started_agent(*flags, pids=pids))
        least = 0
        for at, ((name, shape, client), server) in enumerate(zip(cells, servers, strict=True)):
            is_proxy = programs[name].needs_upstream
            path = "/n/{}" if is_proxy else f"/m/{shape}/{client}/{{}}"
            first = 1 + at * count
            for begin, many, at_once in ((0, alone, 1), (alone, count - alone, concurrency)):
                if not many:
                    continue
                with start_client(
                    "go",
                    server.base_url,
                    many,
                    at_once,
                    first=first + begin,
                    path=path,
                    traceparent=client == TRACEPARENT,
                ) as load:
                    load.finish()
                least += (1 + 2 * CALLS[shape]) * many
                if begin < alone:
                    # What is proven by now stays, whatever the others' answers refute.
                    settle(agent, least)
        settle(agent, least)
        ended = agent.stop()
        played = []
        for at, ((name, shape, client), server) in enumerate(zip(cells, servers, strict=True)):
            truth = judge(ended.spans, server.pids(), [called.pid])
            numbers = range(1 + at * count, 1 + (at + 1) * count)
            cell = Cell(name, shape, client, concurrency)
            result = result_of(cell, numbers, truth, CALLS[shape])
            others = [one for one in truth.calls if one.call.number in NOBODYS]
            wrong = sum(bool(one.call.parent_id) for one in others)
            played.append(Played(result, len(others), wrong))
    return played, ended


def table(played: Iterable[Played]) -> str:
    """Markdown, one row a cell."""
    lines = ["| program | shape | client | at once | right | wrong | none |", "|---" * 7 + "|"]
    for one in played:
        cell, result = one.result.cell, one.result
        calls = (result.calls + one.nobodys) or 1
        counts = (result.right, one.wrong, calls - result.right - one.wrong)
        shares = [f"{100 * n / calls:.1f} %" for n in counts]
        words = [cell.server, f"`{cell.shape}`", cell.client, str(cell.concurrency), *shares]
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, action="append")
    parser.add_argument("cells", nargs="*", metavar="CELL", help="program/shape/client")
    arguments = parser.parse_args()
    ensure_built()
    wanted = set(arguments.cells)
    cells = [cell for cell in CELLS if not wanted or "/".join(cell) in wanted]
    found: list[Played] = []
    for concurrency in arguments.concurrency or CONCURRENCIES:
        played, ended = play(cells, concurrency, arguments.count)
        for one in played:
            print(one, flush=True)
        print(ended.stderr, flush=True)
        found += played
    print(table(found))


if __name__ == "__main__":
    main()
