"""A target program: aiohttp, one ClientSession on one event loop."""

import asyncio

import aiohttp
import client
import client_async


async def run(job: client.Job) -> None:
    connector = (
        aiohttp.UnixConnector(job.unix, force_close=job.close)
        if job.unix
        else aiohttp.TCPConnector(force_close=job.close)
    )
    timeout = aiohttp.ClientTimeout(30)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def fetch(n: int) -> None:
            async with session.get(job.url(n), headers=job.headers(n)) as answer:
                client.check(n, answer.status, await answer.text())

        await client_async.run_tasks(job, fetch)


if __name__ == "__main__":
    asyncio.run(run(client.parse(__doc__)))
