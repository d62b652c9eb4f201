"""Lines of code that calls were made from: what the numbers in records stand for.

A record that has one carries a kept field CALL_SITE: eight bytes, an index into a
`SiteTable`. The kernel writes a number of its own there; a stage of the pipeline puts
the index in its place (probes/python/call_sites.py).
"""

from dataclasses import dataclass, field

MAX_SITES = 65536


@dataclass(frozen=True, slots=True)
class Site:
    """A place in a program's code. line: 1 is the first, 0 where it is not known."""

    file: str
    function: str
    line: int


@dataclass(slots=True)
class SiteTable:
    """Places by index, from 1 on: append-only, so an index stays true. 0 is no place.

    Holds MAX_SITES; what comes then is no place, and counted in `refused`.
    """

    refused: int = 0
    _rows: list[Site] = field(default_factory=list)
    _known: dict[Site, int] = field(default_factory=dict)

    def add(self, site: Site) -> int:
        index = self._known.get(site)
        if index is not None:
            return index
        if len(self._rows) >= MAX_SITES:
            self.refused += 1
            return 0
        self._rows.append(site)
        self._known[site] = len(self._rows)
        return len(self._rows)

    def at(self, index: int) -> Site | None:
        return self._rows[index - 1] if 0 < index <= len(self._rows) else None

    def __len__(self) -> int:
        return len(self._rows)


# Of this agent: spans are decoded where nothing but their records is at hand.
SITES = SiteTable()
