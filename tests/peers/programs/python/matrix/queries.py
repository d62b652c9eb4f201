"""The drivers of databases in the matrix: each asks for number n, and what comes back must be n.

$POSTGRES, $MYSQL and $REDIS say HOST:PORT; the libraries are imported when a driver is first used.
"""

import asyncio
import functools
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakKeyDictionary

TIMEOUT_S = 30
_per_thread = threading.local()
_per_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Any]] = WeakKeyDictionary()


def place(name: str) -> dict[str, Any]:
    host, _, port = os.environ[name].rpartition(":")
    return {"host": host, "port": int(port)}


def postgres() -> dict[str, Any]:
    return {**place("POSTGRES"), "user": "postgres", "dbname": "postgres"}


def seconds(n: int) -> float:
    """Answers come out of order: each takes 0 to 2 ms."""
    return n * 5 % 3 / 1000


def _own(name: str, make: Callable[[], Any]) -> Any:
    """A connection for each thread (greenlet, where threads are patched)."""
    if not hasattr(_per_thread, name):
        setattr(_per_thread, name, make())
    return getattr(_per_thread, name)


def _by_cursor(connection: Any, n: int, sleep: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT %s, {sleep}(%s)", (n, seconds(n)))
        return int(cursor.fetchone()[0])


def _with_psycopg2(n: int) -> int:
    def make() -> Any:
        import psycopg2

        connection = psycopg2.connect(**postgres())
        connection.autocommit = True
        return connection

    return _by_cursor(_own("psycopg2", make), n, "pg_sleep")


def _with_psycopg(n: int) -> int:
    def make() -> Any:
        import psycopg

        return psycopg.connect(**postgres(), autocommit=True)

    return _by_cursor(_own("psycopg", make), n, "pg_sleep")


def _with_pymysql(n: int) -> int:
    def make() -> Any:
        import pymysql

        return pymysql.connect(**place("MYSQL"), user="root", autocommit=True)

    return _by_cursor(_own("pymysql", make), n, "SLEEP")


@functools.cache
def _redis() -> Any:
    """One client, hence one pool, for all threads."""
    import redis

    return redis.Redis(**place("REDIS"))


def _with_redis(n: int) -> int:
    return int(_redis().echo(str(n)))


QUERIES: dict[str, Callable[[int], int]] = {
    "psycopg2": _with_psycopg2,
    "psycopg": _with_psycopg,
    "pymysql": _with_pymysql,
    "redis": _with_redis,
}


async def _shared(name: str, make: Callable[[], Awaitable[Any]]) -> Any:
    """One for each event loop, made by the first who asks: the others wait for it."""
    own = _per_loop.setdefault(asyncio.get_running_loop(), {})
    if name not in own:
        own[name] = asyncio.ensure_future(make())
    return await asyncio.shield(own[name])


async def _with_psycopg_async(n: int) -> int:
    """A connection for each query."""
    import psycopg

    connection = await psycopg.AsyncConnection.connect(**postgres(), autocommit=True)
    async with connection, connection.cursor() as cursor:
        await cursor.execute("SELECT %s, pg_sleep(%s)", (n, seconds(n)))
        row = await cursor.fetchone()
    assert row
    return int(row[0])


async def _with_asyncpg(n: int) -> int:
    """A pool that all requests share."""

    async def make() -> Any:
        import asyncpg

        return await asyncpg.create_pool(
            **place("POSTGRES"), user="postgres", database="postgres", min_size=1, max_size=6
        )

    pool = await _shared("asyncpg", make)
    row = await pool.fetchrow("SELECT $1::int, pg_sleep($2)", n, seconds(n))
    return int(row[0])


async def _with_redis_async(n: int) -> int:
    async def make() -> Any:
        import redis.asyncio

        return redis.asyncio.Redis(**place("REDIS"))

    return int(await (await _shared("redis", make)).echo(str(n)))


ASYNC_QUERIES: dict[str, Callable[[int], Awaitable[int]]] = {
    "psycopg-async": _with_psycopg_async,
    "asyncpg": _with_asyncpg,
    "redis-async": _with_redis_async,
}


def query(driver: str, n: int) -> None:
    """Raises ValueError for another's answer."""
    _check(QUERIES[driver](n), n)


async def query_async(driver: str, n: int) -> None:
    _check(await ASYNC_QUERIES[driver](n), n)


def _check(found: int, n: int) -> None:
    if found != n:
        raise ValueError(f"query {n} was answered with {found}")
