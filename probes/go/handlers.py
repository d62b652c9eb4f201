"""Names of the functions that routers chose to serve requests, from what records have of them.

A record has an address and the number of the look into the program (layout.Kept.HANDLER), so
that two programs with a function at one address are told apart. Names are read from the file
when a span needs one for the first time.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from waggle.probes.go.binary import NoGoProgramError, name_at

MAX_PROGRAMS = 4096  # looked into at once, or lately
_NAMES = 4096  # of each
_ADDRESS_BITS = 48
_ADDRESS = (1 << _ADDRESS_BITS) - 1
# What wraps a handler: its name would say nothing of the program.
_WRAPPERS = (
    *("net/http.", "github.com/gin-gonic/gin.", "github.com/go-chi/chi/", "github.com/gorilla/"),
    "github.com/labstack/echo/",
)
_BOUND = "-fm"  # how Go's linker calls a method that is used as a function


@dataclass(slots=True)
class _Program:
    path: str  # as it can be opened from here
    bias: int
    names: dict[int, str] = field(default_factory=dict)


class Handlers:
    """What is known of the programs that are looked into; those that have ended are kept for a
    while, since records come later."""

    def __init__(self) -> None:
        self._programs: OrderedDict[int, _Program] = OrderedDict()

    def add(self, epoch: int, path: str, bias: int) -> None:
        """A program is looked into. bias: what is added to its file's addresses."""
        while len(self._programs) >= MAX_PROGRAMS:
            self._programs.popitem(last=False)
        self._programs[epoch] = _Program(path, bias)

    def name(self, number: int) -> str:
        """The name of the function that a record has; "" where it is not known."""
        program = self._programs.get(number >> _ADDRESS_BITS)
        if program is None:
            return ""
        address = number & _ADDRESS
        name = program.names.get(address)
        if name is None:
            name = _read(program, address)
            if len(program.names) >= _NAMES:
                program.names.clear()
            program.names[address] = name
        return name


def _read(program: _Program, address: int) -> str:
    try:
        name = name_at(program.path, address - program.bias)
    except (OSError, NoGoProgramError):  # it has ended
        return ""
    return "" if name.startswith(_WRAPPERS) else name.removesuffix(_BOUND)


# Of this agent: spans are decoded where nothing but their records is at hand.
HANDLERS = Handlers()
