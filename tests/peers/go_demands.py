"""What each cell of the Go matrix must reach, and why some must reach nothing.

Wrong parents are allowed nowhere. docs/go.md has the reasons too.
"""

from .python_demands import ALL, Demand
from .python_matrix import Cell

_NO_EVIDENCE = {
    "pool": "workers are older than the request, and a channel does not say who put a job into it",
    "buffered": "workers are older than the request, and a channel does not say who put a job in",
    "lazy-pool": "workers that were born in one request do the work of others",
    "spare-pool": "a worker that waits for more does the work of others",
    "after-func-background": "the runtime makes a timer's goroutine, and no context says whose",
}
# Their goroutines inherit nothing before one that runs the same function has ended.
_BORN = frozenset({"parallel", "each-two", "errgroup", "conc", "nested", "orphan", "detached"})
_FIRST_ONES = "the first goroutines of a function inherit nothing until one has ended"
# Of the cells that are warm: a goroutine may wait for a processor when a whole load has passed.
_NEARLY_ALL = 0.95


def demand(cell: Cell) -> Demand:
    """What is demanded of a cell after some requests that nobody judges."""
    if reason := _NO_EVIDENCE.get(cell.shape):
        return Demand(0, reason)
    if (cell.server, cell.shape) == ("fiber", "pool-ctx"):
        return Demand(0, "requests of fasthttp have no context that is theirs alone")
    return Demand(_NEARLY_ALL, _FIRST_ONES) if cell.shape in _BORN else Demand(ALL)
