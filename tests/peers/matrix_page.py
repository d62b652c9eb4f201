"""What a matrix found, kept from run to run, and its tables in a page of the docs."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .python_matrix import Result

Found = dict[tuple[str, str, str, int], dict[str, Any]]


def keep(path: Path, results: Iterable[Result]) -> None:
    """Beside what was found before."""
    found = kept(path)
    for result in results:
        content = result.as_json()
        found[key(content)] = content
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(list(found.values()), indent=1))


def kept(path: Path) -> Found:
    rows = json.loads(path.read_text()) if path.exists() else []
    return {key(row): row for row in rows}


def key(row: dict[str, Any]) -> tuple[str, str, str, int]:
    return row["server"], row["shape"], row["client"], row["concurrency"]


def share(row: dict[str, Any]) -> str:
    """How many calls of a cell are right, in percent, and wrong ones, if any."""
    calls = row["right"] + row["wrong"] + row["none"]
    if not calls:
        return "?"
    if row["wrong"]:
        return f"{100 * row['right'] / calls:.3g} (**wrong {100 * row['wrong'] / calls:.2g}**)"
    return f"{_rounded_down(row['right'], calls)}" if row["right"] else "none"


def _rounded_down(part: int, whole: int) -> str:
    """In percent with one digit; 100 only for all."""
    return "100" if part == whole else f"{1000 * part // whole / 10:g}"


def total(rows: Iterable[dict[str, Any]]) -> str:
    rows = list(rows)
    right, wrong, none = (sum(row[name] for row in rows) for name in ("right", "wrong", "none"))
    split, unserved = (sum(row[name] for row in rows) for name in ("split", "unserved"))
    missing = sum(row["missing"] or 0 for row in rows)
    return (
        f"{len(rows):,} cells, {sum(row['requests'] for row in rows):,} requests, "
        f"{right + wrong + none:,} calls: {right:,} have the right parent, **{wrong:,} a wrong "
        f"one**, {none:,} none. {split:,} traces are split between a call and the server it "
        f"reached; {unserved:,} requests and {missing:,} calls have no span.\n"
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def replaced(text: str, name: str, content: str) -> str:
    """A page with other content in one of its places. Raises LookupError."""
    begin, end = f"<!-- matrix {name} -->\n", f"<!-- end {name} -->\n"
    before, found_begin, rest = text.partition(begin)
    _old, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise LookupError(f"the page has no place for {name}: add {begin!r} and {end!r}")
    return f"{before}{begin}{content}{end}{after}"
