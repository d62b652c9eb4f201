"""The Python matrix: whose request is a call part of, on every server, by every client, in every
shape. The numbers in the URLs are the truth; a wrong parent is worse than none."""

import os
from collections.abc import Sequence

import pytest

from .matrix_page import keep
from .python_demands import demand
from .python_matrix import CONCURRENCIES, Run, cells_of, play
from .python_servers import PYTHON_SERVERS
from .python_table import KEPT
from .toolchain import ensure_called_server, ensure_python_matrix, ensure_python_peers

FEW = 64
# Its workers are born in a request that waits for them: they have its trace until the proof fails.
STRAYS = (", lazy-queue by ", ", lazy-proxy by ", ", drain-proxy by ")
MANY = int(os.environ.get("WAGGLE_TEST_REQUESTS", "640"))
# Of each kind one, with the shapes that tell kinds apart, and those that led rules astray.
QUICK = (
    ("flask-gunicorn-gthread", 32, ("one", "retry", "stream", "middleware", "queue", "after")),
    ("flask-gunicorn-gevent", 32, ("one", "generator", "stream", "after")),
    ("flask-waitress", 32, ("one", "stream", "after")),
    ("flask-waitress", 1, ("one", "stream", "after")),
    ("http.server", 1, ("one", "context-run")),
    (
        "fastapi-uvicorn-uvloop-httptools",
        32,
        ("one", "gather", "nested", "sync", "stream", "after"),
    ),
    (
        "fastapi-uvicorn-asyncio-h11",
        32,
        ("proxy", "proxy-length", "lazy-proxy", "one", "after"),
    ),
    ("starlette-uvicorn-asyncio-httptools", 1, ("gather", "to-thread", "websocket")),
    ("starlette-uvicorn-asyncio-httptools", 32, ("queue", "lazy-queue", "detached")),
    ("aiohttp-asyncio", 32, ("one", "task-group", "cancel", "detached", "websocket")),
    ("tornado", 32, ("one", "gather", "cancel", "lazy-queue")),
)


def check(run: Run) -> None:
    """No call has a wrong parent or another's trace, no trace is split, nothing is missing, and
    each cell has the share of right ones that its row demands."""
    for result in run.results:
        print(result)
    wrong = [str(result) for result in run.results if result.wrong]
    assert not wrong, wrong
    assert not [result for result in run.results if result.split]
    astray = [str(result) for result in run.results if result.astray]
    assert not [words for words in astray if not any(stray in words for stray in STRAYS)], astray
    assert not [result for result in run.results if result.unserved or result.missing]
    low = [result for result in run.results if result.share < demand(result.cell).least]
    assert not low, [str(result) for result in low]
    assert not run.ended.lost
    assert run.services == {PYTHON_SERVERS[run.results[0].cell.server].service}


@pytest.mark.parametrize(
    ("server", "concurrency", "shapes"), QUICK, ids=[f"{one[0]}-{one[1]}" for one in QUICK]
)
def test_calls_are_part_of_their_request(
    server: str, concurrency: int, shapes: Sequence[str]
) -> None:
    """Some requests a cell, on what the base requirements have."""
    ensure_python_peers()
    ensure_called_server()
    check(play(cells_of(server, concurrency, heavy=False, shapes=shapes), FEW, heavy=False))


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", CONCURRENCIES)
@pytest.mark.parametrize("server", PYTHON_SERVERS)
def test_the_whole_matrix(server: str, concurrency: int) -> None:
    """Every server, shape and client, hundreds of requests a cell: make test-python. What it found
    is kept for the tables in docs/python.md."""
    ensure_python_matrix()
    ensure_called_server()
    count = MANY if concurrency > 1 else MANY // 4
    run = play(cells_of(server, concurrency, heavy=True), count, heavy=True)
    keep(KEPT, run.results)
    check(run)
