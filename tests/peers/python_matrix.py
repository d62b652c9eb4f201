"""Playing the Python matrix: one server, one concurrency, each shape with each client that fits.

A run starts the server and the server it calls, the agent beside both, and then one load after
the other, one for each cell, with numbers of its own. The agent's spans are judged by `truth`.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from .agent import Agent, Ended, started_agent
from .clients import WEBSOCKET, start_client
from .python_servers import (
    HEAVY_CLIENTS,
    PYTHON_SERVERS,
    QUEUE_CLIENT,
    SYNC_CLIENTS,
    calls_of,
)
from .servers import Server, start_server
from .toolchain import MATRIX_VENV, VENV
from .truth import Truth, judge

CONCURRENCIES = (1, 32)
_SETTLE_S = 30.0
_QUIET_S = 2.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of the matrix."""

    server: str
    shape: str
    client: str
    concurrency: int

    def __str__(self) -> str:
        return f"{self.server}, {self.shape} by {self.client}, {self.concurrency} at once"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a cell. The verdicts count calls; `missing` are calls without a span (None
    where the shape does not tell how many there are), `unserved` requests without one."""

    cell: Cell
    requests: int
    right: int
    wrong: int
    none: int
    unserved: int
    missing: int | None
    split: int
    astray: int
    links: dict[str, int]
    examples: tuple[str, ...] = ()

    @property
    def calls(self) -> int:
        return self.right + self.wrong + self.none

    @property
    def share(self) -> float:
        """Of all calls those with the right parent, 0 to 1."""
        return self.right / self.calls if self.calls else 0.0

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self.cell), **{k: v for k, v in asdict(self).items() if k != "cell"}}

    def __str__(self) -> str:
        links = " ".join(f"{link}:{count}" for link, count in sorted(self.links.items()))
        words = f"{self.cell}: right {self.right} WRONG {self.wrong} none {self.none}"
        words += f" missing {self.missing} unserved {self.unserved} split {self.split}"
        words += f" astray {self.astray}" if self.astray else ""
        return " ".join([words, f"[{links}]", *self.examples])


@dataclass(frozen=True, slots=True)
class Run:
    """All cells of one server at one concurrency, and how the agent ended."""

    results: tuple[Result, ...]
    ended: Ended
    services: frozenset[str]
    seconds: float


def cells_of(
    name: str,
    concurrency: int,
    *,
    heavy: bool,
    shapes: Sequence[str] = (),
    clients: Sequence[str] = (),
) -> list[Cell]:
    """Every shape with the first client that fits, every other client with `one` (coroutines also
    `gather`). `shapes` and `clients`, when given, pick some."""
    server = PYTHON_SERVERS[name]
    found = [(shape, server.client_for(shape)) for shape in server.shapes]
    more = ("one", "gather") if server.kind == "tasks" else ("one",)
    found += [(shape, client) for client in server.clients[1:] for shape in more]
    if QUEUE_CLIENT in server.clients:
        found += [(shape, QUEUE_CLIENT) for shape in ("twice", "retry", "cancel")]
    if server.kind == "tasks":
        found += [("sync", client) for client in SYNC_CLIENTS[1:]]
        found += [("one", "streams")]
    # Last, since a process that was seen to go on after its answers is trusted less from then on.
    found.sort(key=lambda one: one[0] == "after")
    return [
        Cell(name, shape, client, concurrency)
        for shape, client in dict.fromkeys(found)
        if (heavy or client not in HEAVY_CLIENTS)
        and (not shapes or shape in shapes)
        and (not clients or client in clients)
    ]


def play(
    cells: Sequence[Cell],
    count: int,
    *,
    heavy: bool,
    flags: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Run:
    """Plays cells of one server and one concurrency, `count` requests each.

    heavy: with all that requirements-python.txt has. env: more for the server's environment.
    Raises ProgramError when a program fails.
    """
    started = time.monotonic()
    name = cells[0].server
    server_kind = PYTHON_SERVERS[name].started_from((MATRIX_VENV if heavy else VENV) / "bin")
    with ExitStack() as stack:
        called = stack.enter_context(start_server("go-nethttp"))
        env = {"CALLED": called.base_url, **(env or {})}
        server = stack.enter_context(start_server(name, env=env, kinds={name: server_kind}))
        agent = stack.enter_context(started_agent(*flags, pids=[called.pid, server.pid]))
        numbers = [range(1 + i * count, 1 + (i + 1) * count) for i in range(len(cells))]
        for cell, mine in zip(cells, numbers, strict=True):
            _load(cell, server, mine)
        # Server and called server, and each call: what waits for its proof comes last.
        settle(agent, sum(count * (1 + 2 * (calls_of(cell.shape) or 1)) for cell in cells))
        pids = server.pids()
        ended = agent.stop()
        truth = judge(ended.spans, pids, [called.pid])
    results = [
        result_of(cell, mine, truth, calls_of(cell.shape))
        for cell, mine in zip(cells, numbers, strict=True)
    ]
    services = frozenset(span.service for span in ended.spans if span.pid in pids)
    return Run(tuple(results), ended, services, time.monotonic() - started)


def _load(cell: Cell, server: Server, numbers: range) -> None:
    how = WEBSOCKET if cell.shape == "websocket" else None
    path = f"/m/{cell.shape}/{cell.client}/{{}}"
    with start_client(
        "go",
        server.base_url,
        len(numbers),
        cell.concurrency,
        first=numbers.start,
        path=path,
        how=how,
    ) as client:
        try:
            client.finish()
        except Exception as error:
            error.add_note(f"{cell}; the server wrote:\n{server.program.output()}")
            raise


def settle(agent: Agent, least: int) -> None:
    """Waits until at least so many spans are there and no more come."""
    deadline = time.monotonic() + _SETTLE_S
    seen, since = -1, time.monotonic()
    while time.monotonic() < deadline:
        now = len(agent.spans())
        if now != seen:
            seen, since = now, time.monotonic()
        quiet_s = time.monotonic() - since
        if quiet_s > _QUIET_S or (now >= least and quiet_s > _QUIET_S / 4):
            return
        time.sleep(0.1)


def result_of(cell: Cell, numbers: range, truth: Truth, calls: int | None) -> Result:
    """What became of a cell. calls: of one request; None: it depends."""
    mine = truth.within(numbers)
    verdicts = mine.verdicts
    return Result(
        cell,
        requests=len(numbers),
        right=verdicts["right"],
        wrong=verdicts["wrong"],
        none=verdicts["none"],
        unserved=len(numbers) - len(mine.requests),
        missing=None if calls is None else calls * len(numbers) - len(mine.calls),
        split=mine.split,
        astray=mine.astray,
        links={str(link): count for link, count in mine.links.items()},
        examples=tuple(mine.examples("wrong")),
    )


def runs(names: Sequence[str], heavy: bool) -> Iterator[list[Cell]]:
    """The cells of each run that a full matrix has."""
    for name in names:
        for concurrency in CONCURRENCIES:
            yield cells_of(name, concurrency, heavy=heavy)
