"""What each cell of the Go matrix must reach, and why some must reach nothing.

Wrong parents are allowed nowhere. docs/go.md has the reasons too.
"""

from .go_matrix import HANDOVER, POOLS
from .python_demands import ALL, Demand
from .python_matrix import Cell

_NO_EVIDENCE = {
    "pool": "workers are older than the request, and a channel does not say who put a job into it",
    "buffered": "workers are older than the request, and a channel does not say who put a job in",
    "lazy-pool": "workers that were born in one request do the work of others",
    "spare-pool": "a worker that waits for more does the work of others",
    "after-func-background": "the runtime makes a timer's goroutine, and no context says whose",
}
# With --go-handover.
_NOT_PROVEN = {
    "behind-pool": "workers take an order before they have answered the one before",
    "gather-pool": "workers take several orders before they answer, where there are several",
    "turning-pool": "workers that have answered each order first take two at once after a while",
    "chain-pool": "a second worker has its order from the first, which serves nobody",
    "woken-pool": "a number says that there is something to do, not what",
    "wait-pool": "answers pass no channel",
    "forget-pool": "there are no answers",
    "free-list": "what is called is nobody's: something else was put into the channel",
}
_HALF, _SOME = 0.4, 0.05
_MIXED = {
    "tidy-pool": "the second call of each order is for the order before",
    "ticking-pool": "some calls are for an order that was answered",
    "closing-pool": "some calls are for an order of an earlier request",
}
# A worker's answer may lie in a buffer for a moment: it may be for the request, or not.
_NEARLY_ALL_POOLS = 0.9
_LYING = "what a worker has sent, and nobody has received yet, may have been its answer"
# One that a request has made works for it at first.
_BORN_POOLS = {"spare-pool": 0.3}
# Their goroutines inherit nothing before one that runs the same function has ended.
_BORN = frozenset({"parallel", "each-two", "errgroup", "conc", "nested", "orphan", "detached"})
_FIRST_ONES = "the first goroutines of a function inherit nothing until one has ended"
# Of the cells that are warm: a goroutine may wait for a processor when a whole load has passed.
_NEARLY_ALL = 0.95


def demand(cell: Cell) -> Demand:
    """What is demanded of a cell after some requests that nobody judges."""
    if cell.server == HANDOVER and (found := _handed_over(cell.shape)):
        return found
    if reason := _NO_EVIDENCE.get(cell.shape):
        return Demand(0, reason)
    if (cell.server, cell.shape) == ("fiber", "pool-ctx"):
        return Demand(0, "requests of fasthttp have no context that is theirs alone")
    if cell.shape == "hijack-on":
        # Most calls are of such goroutines: twenty for each connection.
        return Demand(_SOME, "contexts say nothing once a connection was taken from net/http")
    return Demand(_NEARLY_ALL, _FIRST_ONES) if cell.shape in _BORN else Demand(ALL)


def _handed_over(shape: str) -> Demand | None:
    if shape in POOLS:
        return Demand(_BORN_POOLS.get(shape, _NEARLY_ALL_POOLS), _LYING)
    if shape in _MIXED:
        return Demand(_HALF, _MIXED[shape])
    if shape in _NOT_PROVEN:
        return Demand(0, _NOT_PROVEN[shape])
    return None
