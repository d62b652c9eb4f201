"""Python programs that ask a database, by each driver, before and between their calls.

Queries have no spans yet. What must hold already: a driver's threads, pools and connections lead no
call to another request, since what shows whose a call is would show whose a query is.
"""

from collections.abc import Iterator, Mapping

import pytest

from .databases import started_databases
from .python_matrix import Cell, play
from .test_python import check
from .toolchain import ensure_called_server, ensure_python_matrix

COUNT = 160
THREADS = ("psycopg2", "psycopg", "pymysql", "redis")
# gevent makes what is written in Python wait together, and no C library.
GREENLETS = ("pymysql", "redis")
TASKS = ("psycopg-async", "asyncpg", "redis-async")
SERVERS = {
    "flask-gunicorn-gthread": (THREADS, "requests"),
    "flask-gunicorn-gevent": (GREENLETS, "requests"),
    "fastapi-uvicorn-asyncio-h11": (TASKS, "httpx-async"),
    "fastapi-uvicorn-uvloop-httptools": (TASKS, "httpx-async"),
    "aiohttp-asyncio": (TASKS, "aiohttp"),
}


@pytest.fixture(scope="module")
def databases() -> Iterator[Mapping[str, str]]:
    ensure_python_matrix()
    ensure_called_server()
    with started_databases() as places:
        yield places


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 32])
@pytest.mark.parametrize("server", SERVERS)
def test_queries_lead_no_call_astray(
    server: str, concurrency: int, databases: Mapping[str, str]
) -> None:
    """Every call has the right parent, whichever driver was asked before it."""
    drivers, client = SERVERS[server]
    cells = [Cell(server, f"query-{driver}", client, concurrency) for driver in drivers]
    check(play(cells, COUNT, heavy=True, env=databases))
