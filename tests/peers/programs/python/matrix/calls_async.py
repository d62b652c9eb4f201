"""The asynchronous HTTP clients of the matrix, one session for each event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakKeyDictionary

import calls

AsyncGet = Callable[[str], Awaitable[tuple[int, str]]]
_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Any]] = WeakKeyDictionary()


def _session(name: str, make: Callable[[], Any]) -> Any:
    """Made when it is first used, in whatever request that is: programs do so."""
    own = _sessions.setdefault(asyncio.get_running_loop(), {})
    if name not in own:
        own[name] = make()
    return own[name]


async def _with_httpx(url: str) -> tuple[int, str]:
    import httpx

    limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
    session = _session(
        "httpx",
        lambda: httpx.AsyncClient(timeout=calls.TIMEOUT_S, trust_env=False, limits=limits),
    )
    answer = await session.get(url)
    return answer.status_code, answer.text


async def _with_aiohttp(url: str) -> tuple[int, str]:
    import aiohttp

    session = _session("aiohttp", aiohttp.ClientSession)
    async with session.get(url) as answer:
        return answer.status, await answer.text()


async def _with_tornado(url: str) -> tuple[int, str]:
    """Tornado's own client, which takes a connection for each call."""
    from tornado.httpclient import AsyncHTTPClient

    client = _session("tornado", lambda: AsyncHTTPClient(force_instance=True, max_clients=200))
    answer = await client.fetch(url, raise_error=False)
    return answer.code, answer.body.decode()


async def _with_tornado_queue(url: str) -> tuple[int, str]:
    """As it comes, ten at once: the eleventh is begun by whoever is done, out of a queue."""
    from tornado.httpclient import AsyncHTTPClient

    client = _session("tornado-queue", lambda: AsyncHTTPClient(force_instance=True))
    answer = await client.fetch(url, raise_error=False)
    return answer.code, answer.body.decode()


async def _with_streams(url: str) -> tuple[int, str]:
    """asyncio's own streams: a connection for each call."""
    host, _, path = url.removeprefix("http://").partition("/")
    reader, writer = await asyncio.open_connection(*host.rsplit(":", 1))
    try:
        writer.write(f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    return int(head.split(maxsplit=2)[1]), body.decode()


GETS: dict[str, AsyncGet] = {
    "httpx-async": _with_httpx,
    "aiohttp": _with_aiohttp,
    "tornado": _with_tornado,
    "tornado-queue": _with_tornado_queue,
    "streams": _with_streams,
}


async def call(client: str, n: int) -> str:
    _, text = await GETS[client](calls.url(n))
    return calls.answer(n, text)


async def fail(client: str, n: int) -> None:
    """One call that is answered with 503."""
    status, _ = await GETS[client](calls.CALLED + calls.failing_path(n))
    if status != 503:
        raise ValueError(f"a failing call was answered with {status}")


async def cancel(client: str, n: int) -> None:
    """One call that is given up after 20 ms."""
    task = GETS[client](f"{calls.CALLED}/slow/{n}?ms=150")
    try:
        await asyncio.wait_for(task, 0.02)
    except TimeoutError:
        return
    raise ValueError("the called server was too quick to be cancelled")
