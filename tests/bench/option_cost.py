"""What the TCP option takes: the smallest exchange over a link, with it and without."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from statistics import median

from tests.peers.agent import started_agent
from tests.peers.processes import Program
from tests.peers.test_two_machines import LEFT, RIGHT, two_machines

from .paths import c_program
from .report import Table, middle, spread

EXCHANGES = 20_000
_WARM_UP = 2_000
_PATIENCE_S = 120.0

_ARMS: tuple[tuple[str, Sequence[str] | None], ...] = (
    ("no agent", None),
    ("--tcp-option off", ["--inject", "off", "--tcp-option", "off"]),
    ("--tcp-option auto", ["--inject", "off"]),
)


def bench(rounds: int) -> Table:
    """Each arm in turn, round after round, on new connections of the same two threads."""
    found: dict[str, list[float]] = {name: [] for name, _ in _ARMS}
    with two_machines(), _threads() as program:
        for _ in range(rounds):
            for name, flags in _ARMS:
                found[name].append(_measure(program, flags))
    base = found[_ARMS[0][0]]
    without = found[_ARMS[1][0]]
    rows = [
        [
            name,
            f"{middle([one / 1000 for one in times])} ({spread([one / 1000 for one in times])})",
            f"x{_ratio(times, base):.2f}",
            f"x{_ratio(times, without):.2f}" if times is not base else "",
        ]
        for name, times in found.items()
    ]
    columns = ["", "CPU of both ends an exchange, us", "of no agent", "of the option off"]
    notes = [
        f"{EXCHANGES:,} requests of 31 bytes one after the other on one connection between two "
        f"network namespaces, {rounds} interleaved rounds; medians of the ratios of each round. "
        "One agent traces both ends, so a hand-off is left and found as well."
    ]
    return Table("option", "The TCP option", columns, rows, notes)


def _ratio(times: Sequence[float], base: Sequence[float]) -> float:
    return median(one / other for one, other in zip(times, base, strict=True))


def _measure(program: Program, flags: Sequence[str] | None) -> float:
    agent = (
        nullcontext()
        if flags is None
        else started_agent("--quiet", *flags, pids=[program.pid], json_lines=False)
    )
    with agent:
        _exchange(program, _WARM_UP)
        return _exchange(program, EXCHANGES)


def _exchange(program: Program, count: int) -> float:
    program.write_line(str(count))
    return float(program.read_line(_PATIENCE_S))


@contextmanager
def _threads() -> Iterator[Program]:
    spaces = [f"/run/netns/{name}" for name, _ in (LEFT, RIGHT)]
    program = Program("twohosts", [c_program("twohosts"), *spaces, RIGHT[1]], with_pipes=True)
    try:
        assert program.read_line(_PATIENCE_S) == "ready"
        yield program
    finally:
        program.stop()
