"""A target program: aiohttp, one ClientSession on one event loop."""

import asyncio
from typing import Any

import aiohttp
import client
import client_async


async def run(job: client.Job) -> None:
    # A connector that closes each connection refuses to be told when to close idle ones.
    kept: dict[str, Any] = (
        {"force_close": True} if job.close else {"keepalive_timeout": client.IDLE_S}
    )
    connector = (
        aiohttp.UnixConnector(job.unix, **kept)
        if job.unix
        else aiohttp.TCPConnector(ssl=client.trusted(), **kept)
    )
    timeout = aiohttp.ClientTimeout(30)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def fetch(n: int) -> None:
            async with session.get(job.url(n), headers=job.headers(n)) as answer:
                client.check(n, answer.status, await answer.text())

        await client_async.run_tasks(job, fetch)


if __name__ == "__main__":
    asyncio.run(run(client.parse(__doc__)))
