"""Target program: makes each numbered call once with grpcio, threads."""

from concurrent.futures import ThreadPoolExecutor

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


def call(channel: grpc.Channel, job: Job, n: int) -> None:
    which = job.calls[n % len(job.calls)]
    method, sends_many, gets_many = METHODS[which]
    path = f"/{SERVICE}/{method}"
    options = {
        "metadata": job.metadata_of(n),
        "timeout": GIVE_UP_S if which == "deadline" else job.timeout,
    }
    if which in ("fail", "cancel", "deadline"):
        expect_failure(channel, path, which, n, options)
        return
    sent = iter([message(n)] * PARTS) if sends_many else message(n)
    kind = ("stream" if sends_many else "unary") + "_" + ("stream" if gets_many else "unary")
    answer = getattr(channel, kind)(path)(sent, wait_for_ready=True, **options)
    check(n, list(answer) if gets_many else [answer], PARTS if gets_many else 1)


def expect_failure(
    channel: grpc.Channel, path: str, which: str, n: int, options: dict[str, object]
) -> None:
    future = channel.unary_unary(path).future(message(n), wait_for_ready=True, **options)
    if which == "cancel":
        # Only a call that is on its way can be cancelled where others can see it.
        try:
            future.result(timeout=GIVE_UP_S)
        except grpc.FutureTimeoutError:
            future.cancel()
        code = future.code()
    else:
        code = future.exception().code()
    # A server that knows the deadline may cancel the call a moment before the client does.
    wanted = {"fail": [failing_code(n)], "cancel": [1], "deadline": [4, 1]}[which]
    if code.value[0] not in wanted:
        raise ValueError(f"call {n}: {code} instead of {wanted}")


def main() -> None:
    job = parse()
    with grpc.insecure_channel(job.target) as channel, ThreadPoolExecutor(job.concurrency) as pool:
        for numbers in job.phases():
            # A deadline shall not pass before the connection is there, which is new after the gate.
            if numbers:
                grpc.channel_ready_future(channel).result(READY_S)
            for _ in pool.map(lambda n: call(channel, job, n), numbers):
                pass


main()
