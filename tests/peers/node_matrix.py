"""Playing frameworks, clients, pools and versions of Node.js, a process for each cell.

    python -m tests.peers.node_matrix [--count N] [--write] [CELL...]

--write: into the table of docs/parents.md. A cell is `program/shape/client`; the program is
FRAMEWORK-VERSION of Node.js. turn_matrix.py has more shapes, of a program without a framework.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from .agent import Ended
from .databases import started_databases
from .matrix_rows import Named, run
from .python_matrix import Cell
from .servers import Options, Place, ServerKind
from .tls_programs import make_certificate
from .toolchain import NODE_FRAMEWORKS, ensure_node_frameworks
from .turn_matrix import Played, play

FRAMEWORKS = ("http", "express", "fastify", "koa", "nest")
VERSIONS = (18, 20, 22, 24)
NEWEST = VERSIONS[-1]
POOLS = ("pg", "mysql2", "ioredis", "pg-queue", "mysql2-queue")
_AT_ONCE = 8


def node(version: int) -> Path:
    return NODE_FRAMEWORKS / "node_modules" / f"node{version}" / "bin" / "node"


def _node(framework: str, version: int) -> ServerKind:
    def command(place: Place, _: Options) -> list[str | Path]:
        return [node(version), NODE_FRAMEWORKS / "main.js", place.address, framework]

    return ServerKind(command)


PROGRAMS = {
    f"{framework}-{version}": _node(framework, version)
    for framework in (*FRAMEWORKS, "cluster")
    for version in VERSIONS
}


def _cells() -> Iterator[Named]:
    for framework in FRAMEWORKS:
        for client in ("http", "fetch", "axios", "got"):
            yield f"{framework}-{NEWEST}", "mixed", client
    for version in VERSIONS[:-1]:
        for client in ("http", "fetch", "axios", *(["got"] if version > 18 else [])):
            yield f"express-{version}", "mixed", client
    for version in VERSIONS:
        yield f"http-{version}", "callbacks", "http"
        yield f"http-{version}", "mixed", "https"
    yield f"cluster-{NEWEST}", "mixed", "http"
    yield f"http-{NEWEST}", "batch", "http"
    yield f"express-{NEWEST}", "timer", "http"
    yield f"express-{NEWEST}", "worker", "http"
    for pool in POOLS:
        yield f"express-{NEWEST}", pool, "http"


CELLS = tuple(_cells())


# Where the rule does not hold. One by one, `alone` knows the second call of two at least.
_MANY = ("batch", "timer", "worker", "ioredis", "pg-queue", "mysql2-queue")
_FIRST_ANSWERS = ("pg", "mysql2")  # of each connection: of few requests they are many


def least(cell: Cell) -> float:
    """The share of right parents that a cell must have."""
    if cell.concurrency == 1:
        return 0.49 if cell.shape == "timer" else 0.97
    if cell.shape in _MANY:
        return 0.0
    return 0.75 if cell.shape in _FIRST_ANSWERS else 0.99


def play_all(
    cells: Sequence[Named], concurrency: int, count: int
) -> Iterator[tuple[list[Played], Ended]]:
    """Plays the cells, a few beside each other; those over TLS apart, and those with a database."""
    plain = [cell for cell in cells if cell[2] != "https" and cell[1] not in POOLS]
    for beside in _batches(plain):
        yield play(beside, concurrency, count, programs=PROGRAMS)
    pools = [cell for cell in cells if cell[1] in POOLS]
    with ExitStack() as stack:
        env = stack.enter_context(started_databases()) if pools else {}
        for beside in _batches(pools):
            yield play(beside, concurrency, count, programs=PROGRAMS, env=env)
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder))
        for beside in _batches([cell for cell in cells if cell[2] == "https"]):
            yield play(beside, concurrency, count, programs=PROGRAMS, certificate=certificate)


def _batches(cells: Sequence[Named]) -> Iterator[Sequence[Named]]:
    return (cells[begin : begin + _AT_ONCE] for begin in range(0, len(cells), _AT_ONCE))


def main() -> None:
    ensure_node_frameworks()
    run(str(__doc__), "node", CELLS, play_all)


if __name__ == "__main__":
    main()
