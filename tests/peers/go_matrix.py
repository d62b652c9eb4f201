"""Playing the Go matrix: one program and framework, one concurrency, shapes with clients.

As python_matrix.py does: the program, another that it calls, the agent beside both, and one load
after the other with numbers of its own.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from .agent import WAGGLE, Agent, SeenSpan, started_agent
from .clients import FINISH_TIMEOUT_S, ClientKind, start_client
from .python_matrix import Cell, Result, Run, result_of, settle
from .servers import Server, ServerKind, start_server
from .toolchain import GO_MATRIX_BIN
from .truth import judge

# With --go-handover, net/http.
HANDOVER = "handover"
FRAMEWORKS = ("nethttp", "gin", "chi", "mux", "echo", "fiber")
CONCURRENCIES = (1, 64)
# Shape -> calls of one request; None: it depends. First what needs births of goroutines: a
# program that needs none for a thousand requests is looked at without them for a while.
CALLS: Mapping[str, int | None] = {
    **dict.fromkeys(("detached", "orphan"), 1),
    **dict.fromkeys(("none",), 0),
    **dict.fromkeys(("one", "background", "after-func", "after-func-background"), 1),
    **dict.fromkeys(("late", "deep"), 1),
    **dict.fromkeys(("pool-ctx", "pool", "buffered", "lazy-pool", "spare-pool"), 1),
    **dict.fromkeys(("two", "parallel", "errgroup", "conc", "nested", "stream", "redirect"), 2),
    **dict.fromkeys(("retry", "hijack"), 2),
    **dict.fromkeys(("each-two",), 4),
    **dict.fromkeys(("flaky", "timeout", "hijack-on"), None),
}
# The same of workers that get no context: where what passes a channel tells whose work they do,
# and where it only seems to.
POOLS: Mapping[str, int | None] = {
    **dict.fromkeys(("pool", "buffered", "lazy-pool", "spare-pool"), 1),
    **dict.fromkeys(("full-pool", "select-pool", "offer-pool"), 1),
    "twice-pool": 2,
    "several-pool": 3,
}
TRAPS: Mapping[str, int | None] = {
    **dict.fromkeys(("behind-pool", "gather-pool", "woken-pool", "chain-pool", "wait-pool"), 1),
    **dict.fromkeys(("forget-pool", "turning-pool"), 1),
    **dict.fromkeys(("tidy-pool", "ticking-pool", "closing-pool", "free-list"), None),
}
_ALL_CALLS = {**CALLS, **POOLS, **TRAPS}
CLIENTS = (
    *("std", "close", "limit", "wrapped", "proxy", "few", "post", "raw", "h2c", "grpc", "stream"),
    *("connect", "xnet"),
)
# Over TLS, by HTTP/1 or HTTP/2, with kept connections or a new one for each call.
TLS_CLIENTS = ("https", "https-close", "https2", "https2-close")
# Asked by gRPC, or HTTP/2 without TLS, by net/http's or the module's, or over it: the handlers are
# those of net/http.
MULTIPLEXED = ("grpc", "h2c", "https", "xnet")
# What tells frameworks apart: how they call the handler.
EVERYWHERE = ("detached", "one", "parallel", "errgroup", "pool-ctx", "stream")
GOMATRIX = GO_MATRIX_BIN / "gomatrix"
_PATIENCE_S = 0.1  # for each request of a cell


def kind_of(program: Path, framework: str) -> ServerKind:
    return ServerKind(
        lambda place, _: [program, "--listen", place.address, "--framework", framework]
    )


def cells_of(framework: str, concurrency: int) -> list[Cell]:
    """Every shape with the pooled client and every client with two shapes on net/http; elsewhere
    what may differ."""
    if framework == HANDOVER:
        shapes: Iterable[str] = ("one", "parallel", "pool-ctx", *POOLS, *TRAPS)
    else:
        shapes = CALLS if framework == "nethttp" else EVERYWHERE
    # Neither has an answer that begins before its handler has ended.
    left_out = {"none", "stream"} if framework in ("grpc", "fiber") else {"none"}
    found = [(shape, "std") for shape in shapes if shape not in left_out]
    if framework == HANDOVER:  # HTTP/2's first: births tell of it
        found = [("pool", "h2c"), ("gather-pool", "h2c"), ("pool", "grpc"), *found]
    if framework in MULTIPLEXED:
        found += [("one", "grpc"), ("one", "h2c"), ("parallel", "stream")]
    if framework == "https":
        found += [(shape, client) for client in TLS_CLIENTS for shape in ("one", "parallel")]
    if framework == "nethttp":
        found += [(shape, client) for client in CLIENTS[1:] for shape in ("one", "parallel")]
    return [Cell(framework, shape, client, concurrency) for shape, client in found]


def play(
    cells: Sequence[Cell],
    count: int,
    *,
    program: Path = GOMATRIX,
    called_program: Path = GOMATRIX,
    flags: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    prefix: str = "/m",
    warm: int = 0,
    tell: Callable[[Result], None] = lambda result: None,
    agent_program: Sequence[str | Path] = (WAGGLE,),
) -> Run:
    """Plays cells of one framework and one concurrency, `count` requests each, after `warm` more
    that nobody judges. Raises ProgramError when a program fails.

    A cell is judged when the next one is warm, and its spans are forgotten then: a run may be
    as long as one likes. Those of the last one are in Run.ended. tell: is given each result as soon
    as it is there."""
    started = time.monotonic()
    framework = cells[0].server
    load = None
    if framework == HANDOVER:
        flags, framework = (*flags, "--go-handover=auto"), "nethttp"
    if framework == "https":
        flags = (*flags, "--tls=auto")
    if framework in MULTIPLEXED:
        load = ClientKind([GO_MATRIX_BIN / "load", "h2c" if framework == "xnet" else framework])
        framework = "xnet" if framework == "xnet" else "nethttp"
    with ExitStack() as stack:
        kinds = {"called": kind_of(called_program, "nethttp"), "go": kind_of(program, framework)}
        called = stack.enter_context(start_server("called", kinds=kinds))
        settings = {**(env or {}), "CALLED": called.base_url}
        server = stack.enter_context(start_server("go", env=settings, kinds=kinds))
        pids = [called.pid, server.pid]
        agent = stack.enter_context(started_agent(*flags, pids=pids, program=agent_program))
        each = warm + count
        numbers = [range(1 + i * each, 1 + (i + 1) * each) for i in range(len(cells))]
        pending = list(zip(cells, numbers, strict=True))
        judging = _Judging(pending, warm, server, called, tell)
        for cell, mine in zip(cells, numbers, strict=True):
            for part in filter(None, (mine[:warm], mine[warm:])):
                path = f"{prefix}/{cell.shape}/{cell.client}/{{}}"
                before = len(agent.spans())
                with start_client(
                    *("go", server.base_url, len(part), cell.concurrency),
                    first=part.start,
                    path=path,
                    how=load,
                ) as client:
                    try:
                        client.finish(FINISH_TIMEOUT_S + _PATIENCE_S * len(part))
                    except Exception as error:
                        error.add_note(f"{cell}; the server wrote:\n{server.program.output()}")
                        raise
                if part.start == mine.start:
                    # What the first requests left behind (`detached`) is over when their calls are.
                    settle(agent, before + 3 * len(part))
            if warm:  # all that came before has settled
                judging.judge_before(mine, agent)
        settle(agent, 3 * each)
        ended = agent.stop()
        judging.judge(ended.spans)
    services = frozenset(span.service for span in ended.spans)
    return Run(tuple(judging.results), ended, services, time.monotonic() - started)


@dataclass(slots=True)
class _Judging:
    """Cells and their numbers, until they are judged. warm: how many of each do not count."""

    cells: list[tuple[Cell, range]]
    warm: int
    server: Server
    called: Server
    tell: Callable[[Result], None]
    results: list[Result] = field(default_factory=list)

    def judge_before(self, numbers: range, agent: Agent) -> None:
        """All cells whose numbers come before these, and their spans are forgotten."""
        ready = [one for one in self.cells if one[1].stop <= numbers.start]
        if ready:
            self.cells = self.cells[len(ready) :]
            self._judge(ready, agent.spans())
            agent.forget(lambda span: (span.number or 0) < numbers.start)

    def judge(self, spans: Iterable[SeenSpan]) -> None:
        """Those that are left."""
        self._judge(self.cells, spans)
        self.cells = []

    def _judge(self, cells: Iterable[tuple[Cell, range]], spans: Iterable[SeenSpan]) -> None:
        truth = judge(spans, self.server.pids(), [self.called.pid])
        for cell, mine in cells:
            numbers, calls = mine[self.warm :], _ALL_CALLS[cell.shape]
            result = result_of(cell, numbers, truth, calls)
            self.results.append(result)
            self.tell(result)


def runs() -> Iterator[list[Cell]]:
    """The cells of each run that a full matrix has."""
    for framework in (*FRAMEWORKS, *MULTIPLEXED, HANDOVER):
        for concurrency in CONCURRENCIES:
            yield cells_of(framework, concurrency)


def old_cells(concurrency: int, framework: str = "nethttp") -> list[Cell]:
    """What the small program for old versions of Go can play; framework may be HANDOVER."""
    handed_over = framework == HANDOVER
    few = ("pool", "buffered", "pool-ctx")
    shapes = few if handed_over else ("one", "parallel", "pool-ctx", "pool")
    return [Cell(framework, shape, "std", concurrency) for shape in shapes]
