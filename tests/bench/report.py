"""Tables of results, on the terminal and in docs/performance.md."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from . import measure
from .paths import REPORT


@dataclass(frozen=True, slots=True)
class Table:
    """What one benchmark found. notes: what a reader must know to read the numbers."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default_factory=list)

    def markdown(self) -> str:
        lines = [f"### {self.title}", ""]
        lines += [_line(self.columns), _line(["---"] * len(self.columns))]
        lines += [_line(row) for row in self.rows]
        if self.notes:
            lines += ["", *self.notes]
        return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write(tables: Sequence[Table]) -> None:
    """Puts each table between its marks in the page; what no benchmark made stays as it is.

    Raises LookupError when the page has no marks for a table.
    """
    text = REPORT.read_text()
    for table in tables:
        text = _replaced(text, table.name, table.markdown())
    text = _replaced(text, "machine", f"Machine: {measure.machine()}.\n")
    REPORT.write_text(text)


def _replaced(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- bench {name} -->\n", f"<!-- end {name} -->\n"
    before, found_begin, rest = text.partition(begin)
    _old, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise LookupError(f"{REPORT.name} has no place for {name}: add {begin!r} and {end!r}")
    return f"{before}{begin}{content}{end}{after}"


def spread(values: Sequence[float]) -> str:
    """The lowest to the highest, for the noise to be seen."""
    return f"{min(values):.3g} to {max(values):.3g}"


def middle(values: Sequence[float], digits: int = 2) -> str:
    return f"{median(values):,.{digits}f}"
