"""Which templates are remembered, and when one is worth making."""

from collections import OrderedDict
from dataclasses import dataclass

from waggle.exporter.rows import Groups, Rows
from waggle.exporter.templates import Template, build_template

# A template costs about as much as this many rows on the slow path, so it is built
# when that many rows of its shape have been seen: at worst twice the work, whatever comes.
BUILD_AFTER = 4
# A template is given up for another one only when this many batches did not use it;
# otherwise more shapes in turn than there is room for would rebuild them all for ever.
STALE_AFTER = 64


@dataclass(slots=True)
class _Entry:
    """A template with the identity it is good for; None: this identity has no template."""

    identity: bytes
    template: Template | None
    used: int  # the batch that used it last


class TemplateCache:
    """Templates by key, bounded; the least recently used goes first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._sightings: OrderedDict[int, int] = OrderedDict()  # key -> rows seen so far
        self._batch = 0
        self.built = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def of_groups(self, rows: Rows, groups: Groups) -> list[Template | None]:
        """The template of each group, or None where its rows must go slowly."""
        self._batch += 1
        firsts, counts = groups.firsts.tolist(), groups.counts.tolist()
        keys = rows.keys[groups.firsts].tolist()
        found = map(self._of_group, keys, firsts, counts, (rows,) * len(keys))
        return list(found)

    def _of_group(self, key: int, first: int, count: int, rows: Rows) -> Template | None:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._sighted(key, first, count, rows)
            return None if entry is None else entry.template
        if entry.template is not None and entry.identity != rows.identity(first):
            return None
        self._entries.move_to_end(key)
        entry.used = self._batch
        return entry.template

    def _sighted(self, key: int, first: int, count: int, rows: Rows) -> _Entry | None:
        """Count an unknown identity's rows; when there were enough of them, build."""
        seen = self._sightings.pop(key, 0) + count
        if seen < BUILD_AFTER or not self._has_room():
            self._sightings[key] = seen
            if len(self._sightings) > 4 * self._size:
                self._sightings.popitem(last=False)
            return None
        template = build_template(rows.records[first : first + 1], rows.meaning(first))
        self.built += 1
        entry = _Entry(rows.identity(first), template, self._batch)
        self._entries[key] = entry
        return entry

    def _has_room(self) -> bool:
        if len(self._entries) < self._size:
            return True
        oldest = next(iter(self._entries.values()))
        if self._batch - oldest.used < STALE_AFTER:
            return False
        self._entries.popitem(last=False)
        self.evicted += 1
        return True
