"""A target program: httpx, one AsyncClient with its pool on one event loop."""

import asyncio

import client
import client_async
import httpx


async def run(job: client.Job) -> None:
    limits = httpx.Limits(keepalive_expiry=client.IDLE_S)
    transport = httpx.AsyncHTTPTransport(verify=client.trusted(), uds=job.unix, limits=limits)
    async with httpx.AsyncClient(transport=transport, timeout=30, trust_env=False) as session:

        async def fetch(n: int) -> None:
            answer = await session.get(job.url(n), headers=job.headers(n))
            client.check(n, answer.status_code, answer.text)

        await client_async.run_tasks(job, fetch)


if __name__ == "__main__":
    asyncio.run(run(client.parse(__doc__)))
