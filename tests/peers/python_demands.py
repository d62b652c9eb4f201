"""What each cell of the Python matrix must reach, and why some must reach nothing.

Wrong parents are not allowed anywhere. Where evidence exists, every call must have the right
parent; where none exists, or not always, the reason stands here, and docs/python.md has it too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .python_matrix import Cell
from .python_servers import PYTHON_SERVERS, QUEUE_CLIENT

ALL = 1.0
TEN_AT_ONCE = 10  # calls of a request are three at most


@dataclass(frozen=True, slots=True)
class Demand:
    """least: the share that must be right, 0 to 1. reason: why it is not all."""

    least: float
    reason: str = ""


_BY_SHAPE = {
    "thread": "a plain thread has no context; who began it is known, but not for whom it works",
    "executor": "`run_in_executor` and pools of threads hand no context over",
    "queue": "workers are older than the request whose work they do",
    "lazy-queue": "workers that were born in one request do the work of others, and live on",
    "lazy-proxy": "the same workers, before an answer that is streamed",
    "drain-proxy": "workers that end when their queue is empty do the work of others, too",
    "detached": "a task that outlives its request looks like a worker that was born in it",
}
_AFTER = (
    "answers of threads that block are looked at only once one of them has called after an answer"
)
_QUEUE = (
    "more requests wait than it has threads: between two answers of a thread nothing tells what "
    "comes after the first from what is for the second"
)
_POOL = "tornado's own client makes ten calls at once: whoever is done begins the next of a queue"
_HANDSHAKE = (
    "it answers the handshake before the handler runs: what a branch calls after an answer, while "
    "requests are open, may be theirs"
)
_GRANIAN = "its sockets are read and written by threads of Rust, which hold no context of Python"
_DAEMON = "requests reach mod_wsgi's daemon by a protocol of its own, which is no HTTP"
_NOT_AT_ALL: Mapping[str, str] = {
    "fastapi-granian": _GRANIAN,
    "starlette-granian-asyncio": _GRANIAN,
    "flask-mod_wsgi-daemon": _DAEMON,
}
# With more connections than threads, in all shapes but in the middle of an answer.
_NOT_WHEN_BUSY: Mapping[str, str] = {"flask-waitress": _QUEUE, "django-waitress": _QUEUE}
# Whose threads have no context that anybody has set a variable in.
_EMPTY = "its threads have no context before somebody sets a variable in one"
_MOST = 0.9
# redis.asyncio, as it connects, leaves a cycle that holds the task.
_CYCLE = "a task that is garbage is over only when the collector comes, and looks like a worker"
_WITHOUT_CYCLES = 0.75  # each of 32 requests of 160 may be the first on its connections


def demand(cell: Cell) -> Demand:
    """What is demanded of a cell."""
    server = PYTHON_SERVERS[cell.server]
    reason = _NOT_AT_ALL.get(cell.server) or _BY_SHAPE.get(cell.shape, "")
    if not reason and cell.concurrency > 1 and cell.shape != "stream":
        reason = _NOT_WHEN_BUSY.get(cell.server, "")
    if not reason and cell.client == QUEUE_CLIENT and cell.concurrency * 3 > TEN_AT_ONCE:
        reason = _POOL
    if reason:
        return Demand(0, reason)
    if cell.shape == "websocket" and cell.server == "sanic" and cell.concurrency > 1:
        return Demand(0, _HANDSHAKE)
    if cell.shape == "query-redis-async":
        return Demand(_WITHOUT_CYCLES, _CYCLE)
    if cell.shape == "after" and cell.server == "http.server":
        return Demand(0, _EMPTY)
    if cell.shape == "after" and server.kind == "threads":
        return Demand(_MOST, _AFTER)
    return Demand(ALL)


def reasons() -> Iterator[tuple[str, str]]:
    """(what, why not all is demanded of it), for people to read."""
    for shape, reason in _BY_SHAPE.items():
        yield f"`{shape}`", reason
    yield "`after` on servers with threads, the first", _AFTER
    yield "`after` on http.server", _EMPTY
    yield f"{QUEUE_CLIENT}, more than ten calls at once", _POOL
    yield "`websocket` on sanic, many at once", _HANDSHAKE
    for server, reason in _NOT_WHEN_BUSY.items():
        yield f"{server}, all but `stream`", reason
    yield from _NOT_AT_ALL.items()
