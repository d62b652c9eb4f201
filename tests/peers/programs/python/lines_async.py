"""A target program: calls from tasks by real clients, whose URLs say the line they are made at.

    lines_async.py HOST:PORT CLIENT LOOP

CLIENT: httpx or aiohttp. LOOP: `asyncio.run`, `uvloop.run`, or `uvloop` for a loop that this
program runs itself, so that nothing but its own frame is below what the loop does. Reads `warm`
and `go` from stdin; `go` calls /line/<line>/n/<number>, with the line of the call.
"""

import asyncio
import functools
import itertools
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

HOST, CLIENT, LOOP = sys.argv[1:]
URL = f"http://{HOST}"
REQUESTS = 20
numbers = itertools.count(1)
Get = Callable[[str], Awaitable[Any]]
Read = Callable[[Any], Awaitable[Any]]


def here() -> str:
    """The URL of a call that is made at the line where this is called."""
    return f"{URL}/line/{sys._getframe(1).f_lineno}/n/{next(numbers)}"


async def one(get: Get, read: Read) -> None:
    await read(await get(here()))


async def several(get: Get, read: Read) -> None:
    await asyncio.gather(*(one(get, read) for _ in range(5)))
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(one(get, read))
    for _ in range(3):
        await read(await get(here()))


async def nobody(get: Get, read: Read) -> None:
    """Tasks that begin in the library: none of ours is on their stack."""
    answers = [asyncio.create_task(get(f"{URL}/line/0/n/{next(numbers)}")) for _ in range(5)]
    await asyncio.gather(*[read(await answer) for answer in answers])


async def calls(get: Get, read: Read) -> None:
    print("ready", flush=True)
    while (await asyncio.to_thread(sys.stdin.readline)) == "warm\n":
        await read(await get(f"{URL}/n/0"))
        print("warm", flush=True)
    await asyncio.gather(*(several(get, read) for _ in range(REQUESTS)))
    await nobody(get, read)
    print("done", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


async def by_httpx() -> None:
    import httpx

    async with httpx.AsyncClient(timeout=60) as client:
        await calls(client.get, httpx.Response.aread)


async def by_aiohttp() -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session:
        await calls(functools.partial(session._request, "GET"), aiohttp.ClientResponse.read)


def main() -> None:
    program = {"httpx": by_httpx, "aiohttp": by_aiohttp}[CLIENT]()
    if LOOP == "uvloop":
        uvloop.new_event_loop().run_until_complete(program)
    else:
        {"asyncio.run": asyncio.run, "uvloop.run": uvloop.run}[LOOP](program)


main()
