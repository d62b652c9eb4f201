"""What handlers that are no coroutines do with a call: one function a shape.

A shape gives the text of the answer, or pieces of it to be streamed. What needs the framework
(`middleware`, `after`) calls the pieces at the end of this module.
"""

import contextvars
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial

import calls
import queries

Shape = Callable[[str, int], "str | Iterator[str]"]


def _one(client: str, n: int) -> str:
    return calls.call(client, n)


def _twice(client: str, n: int) -> str:
    calls.call(client, n)
    return calls.call(client, n)


def _retry(client: str, n: int) -> str:
    calls.fail(n)
    return calls.call(client, n)


def _context_run(client: str, n: int) -> str:
    return contextvars.copy_context().run(calls.call, client, n)


def _generator(client: str, n: int) -> str:
    def each() -> Iterator[str]:
        for _ in range(2):
            yield calls.call(client, n)

    return list(each())[-1]


def _stream(client: str, n: int) -> Iterator[str]:
    """Calls after the head of the response has gone out."""
    yield f"n={n} streamed\n"
    yield calls.call(client, n)
    yield calls.call(client, n)


def _in_thread(client: str, n: int) -> str:
    """A thread of the request's own."""
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(calls.call(client, n)))
    thread.start()
    thread.join()
    return answers[0]


@cache
def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(8)


def _in_executor(client: str, n: int) -> str:
    """A pool of threads that all requests share."""
    return _executor().submit(calls.call, client, n).result()


@cache
def _jobs() -> "queue.Queue[tuple[Future[str], str, int]]":
    """A queue with four workers that live for ever."""
    jobs: queue.Queue[tuple[Future[str], str, int]] = queue.Queue()

    def work() -> None:
        while True:
            done, client, n = jobs.get()
            try:
                done.set_result(calls.call(client, n))
            except Exception as failure:
                done.set_exception(failure)

    for _ in range(4):
        threading.Thread(target=work, daemon=True).start()
    return jobs


def _by_queue(client: str, n: int) -> str:
    done: Future[str] = Future()
    _jobs().put((done, client, n))
    return done.result(calls.TIMEOUT_S)


def _between_queries(driver: str, client: str, n: int) -> str:
    """Two calls, with a query before each."""
    for _ in range(2):
        queries.query(driver, n)
        text = calls.call(client, n)
    return text


SHAPES: dict[str, Shape] = {
    "one": _one,
    "twice": _twice,
    "retry": _retry,
    "context-run": _context_run,
    "generator": _generator,
    "stream": _stream,
    "thread": _in_thread,
    "executor": _in_executor,
    "queue": _by_queue,
    **{f"query-{driver}": partial(_between_queries, driver) for driver in queries.QUERIES},
}


def run(shape: str, client: str, n: int) -> str | Iterator[str]:
    """The answer, whole or in pieces. The shapes of the framework's own begin as `one`."""
    return SHAPES.get(shape, _no_call)(client, n)


def _no_call(_client: str, n: int) -> str:
    """The framework makes the call: before the handler, or after the response."""
    return f"n={n}\n"


def parse(path: str) -> tuple[str, str, int] | None:
    """(shape, client, n) of /m/<shape>/<client>/<n>."""
    parts = path.split("/")
    if len(parts) != 5 or parts[1] != "m":
        return None
    return parts[2], parts[3], int(parts[4])


def before_handler(path: str) -> None:
    """What a middleware does: for `middleware` it makes the call."""
    parsed = parse(path)
    if parsed and parsed[0] == "middleware":
        calls.call(parsed[1], parsed[2])
