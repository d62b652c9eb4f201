"""python -m tests.peers.python_table: plays the Python matrix, prints each cell, writes the tables.

What was found, here or by `make test-python`, is kept in build/python-matrix.json, so that parts
can be played by themselves; --write makes the tables in docs/python.md from all that is there,
--kept plays nothing before.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from .matrix_page import Found, keep, kept, replaced, share, table, total
from .matrix_page import key as key_of
from .processes import BUILD, ROOT, ProgramError
from .python_demands import demand, reasons
from .python_matrix import CONCURRENCIES, Cell, Result, cells_of, play
from .python_servers import PYTHON_SERVERS
from .toolchain import ensure_called_server, ensure_python_matrix, ensure_python_peers

PAGE = ROOT / "docs" / "python.md"
KEPT = BUILD / "python-matrix.json"
_TITLES = {
    "threads": "Servers with threads",
    "greenlets": "Servers with greenlets",
    "tasks": "Servers with an event loop",
}


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    (ensure_python_peers if chosen.light else ensure_python_matrix)()
    ensure_called_server()
    results: list[Result] = []
    is_broken = False
    for name in () if chosen.kept else chosen.server or PYTHON_SERVERS:
        if chosen.light and not PYTHON_SERVERS[name].is_light:
            continue
        for concurrency in chosen.concurrency or CONCURRENCIES:
            cells = cells_of(
                name,
                concurrency,
                heavy=not chosen.light,
                shapes=chosen.shape,
                clients=chosen.client,
            )
            try:
                played = _play(cells, chosen) if cells else []
            except ProgramError as error:
                print(f"{name}: {error}", *getattr(error, "__notes__", ()), sep="\n", flush=True)
                is_broken = True
                continue
            results += played
            keep(KEPT, played)
    if chosen.write:
        _write(kept(KEPT))
    return int(is_broken or any(result.wrong for result in results))


def _play(cells: Sequence[Cell], chosen: argparse.Namespace) -> Sequence[Result]:
    run = play(cells, chosen.count, heavy=not chosen.light, flags=chosen.flag)
    for result in run.results:
        wanted = demand(result.cell).least
        mark = "WRONG" if result.wrong else "ok" if result.share >= wanted else "LOW"
        print(f"{mark:5} {result}", flush=True)
    print(f"      lost: {', '.join(run.ended.losses)}; {run.seconds:.0f} s", flush=True)
    return run.results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.peers.python_table", description=__doc__)
    parser.add_argument("--server", action="append", choices=list(PYTHON_SERVERS))
    parser.add_argument("--shape", action="append", default=[])
    parser.add_argument("--client", action="append", default=[])
    parser.add_argument("--concurrency", action="append", type=int)
    parser.add_argument("--count", type=int, default=320, help="requests a cell")
    parser.add_argument("--light", action="store_true", help="only what requirements.txt has")
    parser.add_argument("--flag", action="append", default=[], help="one more for the agent")
    parser.add_argument("--kept", action="store_true", help="play nothing: only write")
    parser.add_argument("--write", action="store_true", help="write docs/python.md")
    return parser


# --- the page ---------------------------------------------------------------


def _write(found: Found) -> None:
    text = PAGE.read_text()
    for kind, title in _TITLES.items():
        names = [name for name, server in PYTHON_SERVERS.items() if server.kind == kind]
        rows = [row for row in found.values() if row["server"] in names]
        content = f"### {title}\n\n" + _shape_table(names, rows) + "\n" + _client_table(names, rows)
        text = replaced(text, kind, content)
    text = replaced(text, "total", total(found.values()))
    PAGE.write_text(replaced(text, "reasons", table(["where", "why not"], reasons())))


def _shape_table(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """A row a server, a column a shape."""
    shapes = list(dict.fromkeys(s for name in names for s in PYTHON_SERVERS[name].shapes))
    lines = []
    for shape in shapes:
        cells = [_of(rows, name, shape, PYTHON_SERVERS[name].client_for(shape)) for name in names]
        lines.append([f"`{shape}`", *cells])
    return _turned(["shape", *names], lines)


def _client_table(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """A row a server, a column a client (with its shape)."""
    shapes = ("one", "gather", "sync")
    pairs = dict.fromkeys((row["client"], row["shape"]) for row in rows if row["shape"] in shapes)
    lines = [
        [f"{client}, `{shape}`", *(_of(rows, name, shape, client) for name in names)]
        for client, shape in pairs
    ]
    return _turned(["client", *names], lines)


def _of(rows: Sequence[dict[str, Any]], server: str, shape: str, client: str) -> str:
    """Both concurrencies in one cell: the shares that are right, and wrong ones, if any."""
    shares = []
    for concurrency in CONCURRENCIES:
        key = (server, shape, client, concurrency)
        row = next((row for row in rows if key_of(row) == key), None)
        if row is not None:
            shares.append(share(row))
    return " / ".join(dict.fromkeys(shares)) or ""


def _turned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A row a server: there are more servers than a page is wide."""
    turned = [list(line) for line in zip(columns, *rows, strict=True)]
    first, *rest = turned
    return table(first, [line for line in rest if any(line[1:])])


if __name__ == "__main__":
    sys.exit(main())
