"""What the asyncio client programs share: workers that take the next number."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import client

AsyncFetch = Callable[[int], Awaitable[None]]


async def run_tasks(job: client.Job, fetch: AsyncFetch) -> None:
    """Runs the job on `concurrency` tasks of one event loop."""
    for numbers in job.phases():
        source = iter(numbers)
        async with asyncio.TaskGroup() as workers:
            for _ in range(job.concurrency):
                workers.create_task(_work(source, fetch))


async def _work(source: Iterator[int], fetch: AsyncFetch) -> None:
    for n in source:
        await fetch(n)
