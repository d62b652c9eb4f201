"""What each cell of the Python matrix must reach, and why some must reach nothing.

Wrong parents are not allowed anywhere. Where evidence exists, the share of calls with the right
parent is demanded; where none exists, the reason stands here, and docs/python.md has it too.
"""

from dataclasses import dataclass

from .python_matrix import Cell
from .python_servers import PYTHON_SERVERS

ALL = 1.0


@dataclass(frozen=True, slots=True)
class Demand:
    """least: the share that must be right, 0 to 1. reason: why it is not all."""

    least: float
    reason: str = ""


_NO_EVIDENCE = {
    "thread": "a plain thread begins with an empty context, and nothing says who started it",
    "executor": "run_in_executor and a pool of threads hand no context over",
    "queue": "a worker lives longer than the request it was born in, and takes any request's work",
}
_ALSO_OF_THREADS = {
    "after": "the request is answered: its thread may serve the next one any moment",
}
_READ_ELSEWHERE = {
    "flask-waitress": "waitress reads requests on its main thread and serves them on others",
    "django-waitress": "waitress reads requests on its main thread and serves them on others",
}


def demand(cell: Cell) -> Demand:
    """What is demanded of a cell."""
    server = PYTHON_SERVERS[cell.server]
    if reason := _NO_EVIDENCE.get(cell.shape):
        return Demand(0, reason)
    if server.kind != "threads":
        return Demand(0, "no rule for contexts yet")
    reason = _ALSO_OF_THREADS.get(cell.shape) or _READ_ELSEWHERE.get(cell.server)
    return Demand(0, reason) if reason else Demand(ALL)
