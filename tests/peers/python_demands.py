"""What each cell of the Python matrix must reach, and why some must reach nothing.

Wrong parents are not allowed anywhere. Where evidence exists, every call must have the right
parent; where none exists, or not always, the reason stands here, and docs/python.md has it too.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from .python_matrix import Cell
from .python_servers import PYTHON_SERVERS, Kind

ALL = 1.0


@dataclass(frozen=True, slots=True)
class Demand:
    """least: the share that must be right, 0 to 1. reason: why it is not all."""

    least: float
    reason: str = ""


_BY_SHAPE = {
    "thread": "a plain thread begins with an empty context, and nothing says who started it",
    "executor": "`run_in_executor` and pools of threads hand no context over",
    "queue": "workers are older than the request whose work they do",
    "lazy-queue": "workers that were born in one request do the work of others; their context "
    "says the first",
    "detached": "a task that outlives its request looks like a worker that was born in it",
}
_BY_KIND: dict[Kind, dict[str, str]] = {
    "threads": {
        "after": "the request is answered: its thread may serve the next one any moment",
    },
    "greenlets": {
        "after": "the request is answered: its greenlet may serve the next one any moment",
        "stream": "the answer has begun: what proves the parent has passed",
    },
    "tasks": {},
}
_WAITRESS = "its main thread reads requests ahead, and may write answers that others made"
_UWSGI = "its threads never block in a read, and the answer has begun"
_GRANIAN = "its sockets are read and written by threads of Rust, which hold no context of Python"
_DAEMON = "requests reach mod_wsgi's daemon by a protocol of its own, which is no HTTP"
_BY_SERVER: dict[str, tuple[str, tuple[str, ...]]] = {
    "flask-waitress": (_WAITRESS, ()),
    "django-waitress": (_WAITRESS, ()),
    "fastapi-granian": (_GRANIAN, ()),
    "starlette-granian-asyncio": (_GRANIAN, ()),
    "flask-mod_wsgi-daemon": (_DAEMON, ()),
    "flask-mod_wsgi": (_UWSGI, ("stream",)),
    "flask-uwsgi": (_UWSGI, ("stream",)),
    "flask-uwsgi-threads": (_UWSGI, ("stream",)),
    "flask-uwsgi-of-debian": (_UWSGI, ("stream",)),
    "django-uwsgi-threads": (_UWSGI, ("stream",)),
}
"""Server -> reason and the shapes it is for; () for all of them."""


def demand(cell: Cell) -> Demand:
    """What is demanded of a cell."""
    kind = PYTHON_SERVERS[cell.server].kind
    reason, shapes = _BY_SERVER.get(cell.server, ("", ("none of them",)))
    if not shapes or cell.shape in shapes:
        return Demand(0, reason)
    reason = _BY_SHAPE.get(cell.shape) or _BY_KIND[kind].get(cell.shape, "")
    return Demand(0, reason) if reason else Demand(ALL)


def reasons() -> Iterator[tuple[str, str]]:
    """(what, why nothing is demanded of it), for people to read."""
    for shape, reason in _BY_SHAPE.items():
        yield f"`{shape}`", reason
    for kind, shapes in _BY_KIND.items():
        for shape, reason in shapes.items():
            yield f"`{shape}` on servers with {kind}", reason
    for server, (reason, only) in _BY_SERVER.items():
        which = " ".join(f"`{shape}`" for shape in only)
        yield f"{which} on {server}" if which else server, reason
