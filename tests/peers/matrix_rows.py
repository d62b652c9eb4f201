"""The command of a matrix whose rows stand in docs/parents.md: plays cells, writes their rows."""

import argparse
from collections.abc import Callable, Iterator, Sequence

from .agent import Ended
from .harness import ensure_built
from .processes import ROOT
from .turn_matrix import CONCURRENCIES, Played, table

PAGE = ROOT / "docs" / "parents.md"

Named = tuple[str, str, str]
"""program, shape, client"""
PlayAll = Callable[[Sequence[Named], int, int], Iterator[tuple[list[Played], Ended]]]


def with_rows(page: str, name: str, cells: Sequence[Named], rows: str) -> str:
    """The page with these rows in its table of that name; rows of cells that were not played stay.

    Raises LookupError where the page has no such table.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->\n"
    before, found_begin, rest = page.partition(begin)
    old, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise LookupError(f"the page has no table {name}: add {begin!r} and {end!r}")
    head, known = rows.splitlines()[:2], {}
    for line in [*old.splitlines()[2:], *rows.splitlines()[2:]]:
        program, shape, client, at_once = (word.strip(" `") for word in line.split("|")[1:5])
        known[(program, shape, client), int(at_once)] = line
    order = [(cell, at_once) for at_once in CONCURRENCIES for cell in cells]
    lines = [*head, *(known[place] for place in order if place in known)]
    return before + begin + "\n".join(lines) + "\n" + end + after


def run(description: str, name: str, cells: Sequence[Named], play_all: PlayAll) -> None:
    """Plays the cells that the command line names, all by default. What they need beside
    ensure_built() is there.

    name: of the table in docs/parents.md.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, action="append")
    parser.add_argument("--write", action="store_true", help=f"write these rows of {PAGE.name}")
    parser.add_argument("cells", nargs="*", metavar="CELL", help="program/shape/client, or program")
    arguments = parser.parse_args()
    ensure_built()
    wanted = set(arguments.cells)
    cells_wanted = [cell for cell in cells if not wanted or wanted & {cell[0], "/".join(cell)}]
    for concurrency in arguments.concurrency or CONCURRENCIES:
        for played, ended in play_all(cells_wanted, concurrency, arguments.count):
            for one in played:
                print(one, flush=True)
            print(ended.stderr, flush=True)
            if arguments.write:
                written = with_rows(PAGE.read_text(), name, cells, table(played))
                PAGE.write_text(written)
