"""python -m tests.peers.go_table: plays the Go matrix, prints each cell, writes the tables.

What was found is kept in build/go-matrix.json, so that parts can be played by themselves;
--write makes the tables in docs/go.md from all that is there.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from .go_demands import demand
from .go_matrix import (
    CONCURRENCIES,
    FRAMEWORKS,
    HANDOVER,
    MULTIPLEXED,
    cells_of,
    old_cells,
    play,
)
from .matrix_page import Found, keep, kept, replaced, share, table, total
from .processes import BUILD, ROOT, ProgramError
from .python_matrix import Cell, Result
from .toolchain import GO_WAYS, ensure_go_matrix, ensure_go_old

PAGE = ROOT / "docs" / "go.md"
KEPT, KEPT_OLD = BUILD / "go-matrix.json", BUILD / "go-matrix-old.json"
OLD = ("1.17.13", "1.20.14", "1.22.12", "1.24.10", "1.25.4", "1.27.0")
OLD_CONCURRENCY = 16
WARM = 160  # requests before those that count: see go_demands
COUNTS = {1: 160, 64: 1000}
RING = "128M"  # what is lost is judged wrong, and an agent beside much else may be late
LONG = 10_000  # requests of a cell that was played at length
_COUNTED = ("requests", "right", "none", "wrong", "split", "unserved", "missing")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.peers.go_table", description=__doc__)
    parser.add_argument(
        "--framework", action="append", choices=[*FRAMEWORKS, *MULTIPLEXED, HANDOVER]
    )
    parser.add_argument("--concurrency", action="append", type=int, choices=CONCURRENCIES)
    parser.add_argument("--requests", type=int, metavar="N", help="of each cell")
    parser.add_argument("--shape", action="append", help="only these")
    parser.add_argument("--client", action="append", help="only these")
    parser.add_argument("--version", action="append", choices=OLD, help="of Go, other than ours")
    parser.add_argument("--way", action="append", choices=list(GO_WAYS), help="to build it")
    parser.add_argument("--write", action="store_true", help="write docs/go.md")
    parser.add_argument(
        "--write-long", action="store_true", help="there, what was played at length"
    )
    chosen = parser.parse_args(arguments)
    ensure_go_matrix()
    is_fine = True
    for framework in chosen.framework or ():
        for concurrency in chosen.concurrency or CONCURRENCIES:
            cells = cells_of(framework, concurrency)
            cells = [cell for cell in cells if cell.shape in (chosen.shape or [cell.shape])]
            cells = [cell for cell in cells if cell.client in (chosen.client or [cell.client])]
            is_fine &= _play(cells, chosen.requests or COUNTS[concurrency])
    for version in chosen.version or ():
        for way in chosen.way or GO_WAYS:
            is_fine &= _play_old(version, way)
    if chosen.write:
        _write(kept(KEPT), kept(KEPT_OLD))
    if chosen.write_long:
        PAGE.write_text(replaced(PAGE.read_text(), "long", _long(kept(KEPT).values())))
    return int(not is_fine)


def _play(cells: Sequence[Cell], count: int) -> bool:
    fine: list[bool] = []

    def tell(result: Result) -> None:
        keep(KEPT, [result])
        fine.append(_judged([result]))

    try:
        run = play(cells, count, flags=[f"--ring-size={RING}"], warm=WARM, tell=tell)
    except ProgramError as error:
        print(f"{cells[0]}: {error}", *getattr(error, "__notes__", ()), sep="\n", flush=True)
        return False
    print(f"{cells[0].server}: {run.seconds:.0f} s, lost: {', '.join(run.ended.losses)}")
    return all(fine)


def _play_old(version: str, way: str) -> bool:
    program = ensure_go_old(version, way=way)
    fine = True
    for framework in ("nethttp", HANDOVER):
        cells = old_cells(OLD_CONCURRENCY, framework)
        run = play(cells, COUNTS[1], program=program, warm=WARM)
        fine &= _judged(run.results)
        for result in run.results:
            object.__setattr__(result.cell, "server", f"{version} {way}")
            if framework == HANDOVER:
                object.__setattr__(result.cell, "shape", f"{result.cell.shape}, handed over")
        keep(KEPT_OLD, run.results)
    return fine


def _judged(results: Iterable[Result]) -> bool:
    is_fine = True
    for result in results:
        low = result.share < demand(result.cell).least
        is_fine &= not (result.wrong or low)
        print("WRONG" if result.wrong else "LOW  " if low else "ok   ", result, flush=True)
    return is_fine


def _write(found: Found, old: Found) -> None:
    names = [name for name in (*FRAMEWORKS, *MULTIPLEXED) if any(k[0] == name for k in found)]
    text = PAGE.read_text()
    handed_over = [row for row in found.values() if row["server"] == HANDOVER]
    usual = [row for row in found.values() if _usual(row) and row not in handed_over]
    text = replaced(text, "frameworks", _cells(names, usual))
    text = replaced(
        text, "handover", _cells([HANDOVER], [row for row in handed_over if _usual(row)])
    )
    others = [r for r in found.values() if not _usual(r) and r not in handed_over]
    text = replaced(text, "clients", _clients(others))
    text = replaced(text, "versions", _versions(old.values()))
    PAGE.write_text(replaced(text, "total", total([*found.values(), *old.values()])))


def _long(rows: Iterable[dict[str, Any]]) -> str:
    """A row a framework and concurrency, of cells that were played at length."""
    sums: dict[tuple[str, int], Counter[str]] = {}
    for row in rows:
        if row["requests"] >= LONG:
            one = sums.setdefault((row["server"], row["concurrency"]), Counter())
            one.update({name: row[name] or 0 for name in _COUNTED}, cells=1)
    lines = [
        [server, str(concurrency), *(f"{one[name]:,}" for name in ("cells", *_COUNTED))]
        for (server, concurrency), one in sums.items()
    ]
    return table(["framework", "at once", "cells", *_COUNTED], lines)


def _usual(row: dict[str, Any]) -> bool:
    return bool(row["client"] == "std")


def _cells(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """A row a shape, a column a framework; both concurrencies in a cell."""
    shapes = dict.fromkeys(row["shape"] for row in rows)
    lines = [
        [f"`{shape}`", *(_shares(rows, server=name, shape=shape) for name in names)]
        for shape in shapes
    ]
    return table(["shape", *names], lines)


def _clients(rows: Sequence[dict[str, Any]]) -> str:
    """A row a client, a column a shape and a framework."""
    heads = dict.fromkeys((row["server"], row["shape"]) for row in rows)
    lines = [
        [client, *(_shares(rows, server=s, shape=shape, client=client) for s, shape in heads)]
        for client in dict.fromkeys(row["client"] for row in rows)
    ]
    return table(["client", *(f"{server}, `{shape}`" for server, shape in heads)], lines)


def _versions(rows: Iterable[dict[str, Any]]) -> str:
    """A row a version and way to build, a column a shape."""
    rows = list(rows)
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    lines = [
        [name, *(_shares(rows, server=name, shape=shape) for shape in shapes)]
        for name in sorted({row["server"] for row in rows})
    ]
    return table(["Go", *(f"`{shape}`" for shape in shapes)], lines)


def _shares(rows: Iterable[dict[str, Any]], **wanted: str) -> str:
    fitting = [row for row in rows if all(row[k] == v for k, v in wanted.items())]
    fitting.sort(key=lambda row: int(row["concurrency"]))
    return " / ".join(dict.fromkeys(share(row) for row in fitting))


if __name__ == "__main__":
    sys.exit(main())
