"""Target program: makes each numbered call once with grpcio, asyncio."""

import asyncio
from collections.abc import Iterator

import grpc
from client_arguments import Job, parse
from numbers_service import (
    GIVE_UP_S,
    METHODS,
    PARTS,
    READY_S,
    SERVICE,
    check,
    failing_code,
    message,
)


async def call(channel: grpc.aio.Channel, job: Job, n: int) -> None:
    which = job.calls[n % len(job.calls)]
    method, sends_many, gets_many = METHODS[which]
    kind = ("stream" if sends_many else "unary") + "_" + ("stream" if gets_many else "unary")
    made = getattr(channel, kind)(f"/{SERVICE}/{method}")(
        iter([message(n)] * PARTS) if sends_many else message(n),
        metadata=job.metadata_of(n),
        timeout=GIVE_UP_S if which == "deadline" else job.timeout,
        wait_for_ready=True,
    )
    if which in ("fail", "cancel", "deadline"):
        await expect_failure(made, which, n)
    else:
        answers = [one async for one in made] if gets_many else [await made]
        check(n, answers, PARTS if gets_many else 1)


async def expect_failure(made: grpc.aio.UnaryUnaryCall, which: str, n: int) -> None:
    if which == "cancel":
        # Only a call that is on its way can be cancelled where others can see it.
        await asyncio.sleep(GIVE_UP_S)
        made.cancel()
    code = await made.code()
    # A server that knows the deadline may cancel the call a moment before the client does.
    wanted = {"fail": [failing_code(n)], "cancel": [1], "deadline": [4, 1]}[which]
    if code.value[0] not in wanted:
        raise ValueError(f"call {n}: {code} instead of {wanted}")


async def work(channel: grpc.aio.Channel, job: Job, numbers: Iterator[int]) -> None:
    for n in numbers:
        await call(channel, job, n)


async def main() -> None:
    job = parse()
    async with grpc.aio.insecure_channel(job.target) as channel:
        for numbers in job.phases():
            # A deadline shall not pass before the connection is there, which is new after the gate.
            if numbers:
                await asyncio.wait_for(channel.channel_ready(), READY_S)
            left = iter(numbers)
            await asyncio.gather(*(work(channel, job, left) for _ in range(job.concurrency)))


asyncio.run(main())
