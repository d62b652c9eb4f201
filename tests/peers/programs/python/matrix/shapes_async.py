"""What coroutines do with a call: one coroutine a shape."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any
from weakref import WeakKeyDictionary

import calls
import calls_async
import queries
import shapes

Shape = Callable[[str, int], Awaitable[str]]
# What a synchronous client does inside of a coroutine's thread.
IN_THREADS = "requests"
_detached: set["asyncio.Task[str]"] = set()


async def _one(client: str, n: int) -> str:
    return await calls_async.call(client, n)


async def _late(client: str, n: int) -> str:
    """The coroutine sleeps before it calls: other requests come between."""
    await asyncio.sleep(n % 3 / 1000)
    return await calls_async.call(client, n)


async def _twice(client: str, n: int) -> str:
    await calls_async.call(client, n)
    return await calls_async.call(client, n)


async def _gather(client: str, n: int) -> str:
    return (await asyncio.gather(*(calls_async.call(client, n) for _ in range(3))))[0]


async def _task_group(client: str, n: int) -> str:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(calls_async.call(client, n)) for _ in range(3)]
    return tasks[0].result()


async def _nested(client: str, n: int) -> str:
    """A task of a task, with a sleep between."""

    async def inner() -> str:
        await asyncio.sleep(0.001)
        return await asyncio.create_task(calls_async.call(client, n))

    return await asyncio.create_task(inner())


async def _retry(client: str, n: int) -> str:
    await calls_async.fail(client, n)
    return await calls_async.call(client, n)


async def _cancel(client: str, n: int) -> str:
    await calls_async.cancel(client, n)
    return await calls_async.call(client, n)


async def _context_run(client: str, n: int) -> str:
    """A task in a context that was copied by hand."""
    context = contextvars.copy_context()
    task = context.run(asyncio.ensure_future, calls_async.call(client, n))
    return await task


async def _generator(client: str, n: int) -> str:
    async def each() -> AsyncIterator[str]:
        for _ in range(2):
            yield await calls_async.call(client, n)

    return [text async for text in each()][-1]


async def _to_thread(_client: str, n: int) -> str:
    return await asyncio.to_thread(calls.call, IN_THREADS, n)


@cache
def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(8)


async def _in_executor(_client: str, n: int) -> str:
    """run_in_executor hands no context over."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_executor(), calls.call, IN_THREADS, n)


async def _in_thread(_client: str, n: int) -> str:
    """A plain thread of the request's own."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[str] = loop.create_future()

    def work() -> None:
        text = calls.call(IN_THREADS, n)
        loop.call_soon_threadsafe(done.set_result, text)

    threading.Thread(target=work).start()
    return await asyncio.wait_for(done, calls.TIMEOUT_S)


_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Any]] = WeakKeyDictionary()


async def _work(jobs: Any) -> None:
    while True:
        done, client, n = await jobs.get()
        try:
            done.set_result(await calls_async.call(client, n))
        except Exception as failure:
            done.set_exception(failure)


def _jobs(name: str, context: contextvars.Context) -> Any:
    """A queue with four workers, which are born in that context and live for ever."""
    loop = asyncio.get_running_loop()
    own = _queues.setdefault(loop, {})
    if name not in own:
        jobs: asyncio.Queue[Any] = asyncio.Queue()
        own[name] = jobs, [loop.create_task(_work(jobs), context=context) for _ in range(4)]
    return own[name][0]


async def _put(jobs: Any, client: str, n: int) -> str:
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    await jobs.put((done, client, n))
    return await asyncio.wait_for(done, calls.TIMEOUT_S)


async def _by_queue(client: str, n: int) -> str:
    """The workers have a context of their own, as if the program had started them at its start."""
    return await _put(_jobs("queue", contextvars.Context()), client, n)


async def _by_lazy_queue(client: str, n: int) -> str:
    """The workers were born in the first request, and take any request's work."""
    return await _put(_jobs("lazy-queue", contextvars.copy_context()), client, n)


async def _by_drained_queue(client: str, n: int) -> str:
    """Who puts something into the queue when nobody works begins a worker, which ends when the
    queue is empty."""
    loop = asyncio.get_running_loop()
    own = _queues.setdefault(loop, {})
    jobs = own.setdefault("drained", asyncio.Queue())

    async def drain() -> None:
        while not jobs.empty():
            done, client, n = jobs.get_nowait()
            done.set_result(await calls_async.call(client, n))
        own["drain"] = None

    done: asyncio.Future[str] = loop.create_future()
    jobs.put_nowait((done, client, n))
    if own.get("drain") is None:
        own["drain"] = asyncio.create_task(drain())
    return await asyncio.wait_for(done, calls.TIMEOUT_S)


async def _detach(client: str, n: int) -> str:
    """A task that nobody waits for: it calls after the response."""

    async def later() -> str:
        await asyncio.sleep(0.02)
        return await calls_async.call(client, n)

    task = asyncio.create_task(later())
    _detached.add(task)
    task.add_done_callback(_detached.discard)
    return f"n={n} detached\n"


async def _between_queries(driver: str, client: str, n: int) -> str:
    """Two calls at once, after a query each."""

    async def one() -> str:
        await queries.query_async(driver, n)
        return await calls_async.call(client, n)

    return (await asyncio.gather(one(), one()))[0]


SHAPES: dict[str, Shape] = {
    "one": _one,
    "late": _late,
    "twice": _twice,
    "gather": _gather,
    "task-group": _task_group,
    "nested": _nested,
    "retry": _retry,
    "cancel": _cancel,
    "context-run": _context_run,
    "generator": _generator,
    "to-thread": _to_thread,
    "executor": _in_executor,
    "thread": _in_thread,
    "queue": _by_queue,
    "lazy-queue": _by_lazy_queue,
    "detached": _detach,
    **{f"query-{driver}": partial(_between_queries, driver) for driver in queries.ASYNC_QUERIES},
}


async def run(shape: str, client: str, n: int) -> str:
    """The answer. A shape of the framework's own makes no call here."""
    return await SHAPES[shape](client, n) if shape in SHAPES else f"n={n}\n"


async def stream(client: str, n: int) -> AsyncIterator[bytes]:
    """Calls after the head of the response has gone out."""
    yield f"n={n} streamed\n".encode()
    for _ in range(2):
        yield (await calls_async.call(client, n)).encode()


# Calls, and streams what was answered: how the call is made.
PROXIES: dict[str, Shape] = {
    "proxy": calls_async.call,
    "proxy-length": calls_async.call,
    "proxy-slow": calls_async.call,
    "proxy-gather": _gather,
    "lazy-proxy": _by_lazy_queue,
    "drain-proxy": _by_drained_queue,
}


async def proxy(shape: str, client: str, n: int) -> tuple[AsyncIterator[bytes], dict[str, str]]:
    """The body of an answer to stream, and its header fields."""
    text = await PROXIES[shape](client, n)
    # Whoever knows the length may send the next request before the server sees the end.
    fields = {"content-length": str(len(text))} if shape == "proxy-length" else {}
    takes_long = shape == "proxy-slow" and n % 8 == 0
    return pieces(text, 0.6 if takes_long else 0), fields


async def pieces(text: str, pause_s: float) -> AsyncIterator[bytes]:
    """An answer that is there already, streamed, with a pause in the middle and at the end."""
    yield text[:1].encode()
    await asyncio.sleep(pause_s)
    yield text[1:].encode()
    await asyncio.sleep(pause_s)


async def after(client: str, n: int) -> None:
    """A background task after the response."""
    await calls_async.call(client, n)


class Middleware:
    """A plain ASGI middleware that makes the call for the shape `middleware`."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        parsed = shapes.parse(scope.get("path", "")) if scope["type"] == "http" else None
        if parsed and parsed[0] == "middleware":
            await calls_async.call(parsed[1], parsed[2])
        await self._app(scope, receive, send)
