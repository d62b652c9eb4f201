"""Which series each exchange of a batch belongs to, without looking at each.

    key of the kernel's hash and a few columns -> known? most are
    -> else: key of only what metrics show -> known?
    -> else: the span of one row for each is decoded, and says

The kernel's hash covers fields that differ from client to client and no metric shows (the user
agent, forwarded addresses), so a miss there is no news; the second key leaves them out. Keys are 64
bits by multipliers that differ from run to run: two of the at most 32,768 that are known are the
same once in 10^10 runs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.columns import Positions, Slices, multipliers, words
from waggle.layout import Flag, Kept, Role
from waggle.metrics.instruments import ATTRIBUTES, Kind
from waggle.metrics.series import NO_SERIES, Numbers, Pairs, SeriesTable
from waggle.probes.http2.kept import StreamKept
from waggle.spans import KIND_SERVER, Attributes, Records, SpanBatch, decode_span, varying_field

Keys = npt.NDArray[np.uint64]
# For some rows of a batch, a key of what is added to their attributes, and what that is.
Extra = tuple[Keys, Callable[[int], Pairs]]

MOST_KNOWN = 16_384  # of each kind of key
MOST_DECODED = 512  # new ones of one batch; the others count as overflow that once
_MOST_LEARNED = 256  # first keys of one batch

_HEAD: int = layout.EXCHANGE.fields["head"][1]  # type: ignore[index]
_FAMILY: int = layout.EXCHANGE.fields["family"][1]  # type: ignore[index]
_MULTIPLIERS = multipliers(64)
# family, role, link, end, method, version, protocol and trace_flags lie side by side: all but link
# and trace_flags decide.
_DECIDING = np.uint64(0x00FF_FFFF_FF00_FFFF)
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)
_MOST_FIELDS = 16

_ALL = 1 << 16
# How many bytes of a kept field attributes of a server's and a client's metrics can depend on.
_DEPENDS = np.full((2, 256), _ALL)
_DEPENDS[:, [Kept.USER_AGENT, Kept.X_FORWARDED_FOR, Kept.TRACESTATE, Kept.UPGRADE]] = 0
_DEPENDS[:, [StreamKept.RPC_MESSAGE, StreamKept.MESSAGE_TIMES, StreamKept.RPC_TIMEOUT]] = 0
_DEPENDS[:, StreamKept.STREAM] = 4  # the error's code; the rest counts messages
_DEPENDS[0, Kept.HOST] = 0
_DEPENDS[1, [Kept.X_FORWARDED_PROTO, Kept.FORWARDED]] = 0


class SeriesFinder:
    """Not for use by two threads at once."""

    def __init__(self, table: SeriesTable, since_ns: int) -> None:
        """since_ns: Unix time from which all series count."""
        self._table = table
        self._since_ns = since_ns
        self._known = _Known()
        self._by_meaning: dict[int, int] = {}
        self.undecided = 0  # rows that were too many new ones at once

    def of(self, batch: SpanBatch, facts: Records, extra: Extra | None = None) -> Numbers:
        """The number of each row's series; NO_SERIES for what has none.

        facts: of the batch's records, by facts_of().
        """
        rows = _Rows(batch, facts, extra)
        numbers, known = self._known.find(rows.keys)
        if not known.all():
            self._find_others(rows, (~known).nonzero()[0], numbers)
        return numbers

    def forget(self) -> None:
        """Series have got other numbers."""
        self._known = _Known()
        self._by_meaning.clear()

    def _find_others(self, rows: "_Rows", missing: Positions, numbers: Numbers) -> None:
        keys, firsts, group, counts = np.unique(
            rows.keys[missing], return_index=True, return_inverse=True, return_counts=True
        )
        found = self._by_meanings(rows, missing[firsts])
        numbers[missing] = found[group]
        self._undecided_overflow(rows, missing, numbers)
        likely = (counts > 1) & (found != _UNDECIDED)
        likely[np.random.default_rng().integers(0, len(keys), _MOST_LEARNED // 2)] = True
        self._known.learn(keys, found, likely & (found != _UNDECIDED))

    def _by_meanings(self, rows: "_Rows", these: Positions) -> Numbers:
        """The series of rows whose first key is unknown."""
        meanings, firsts, group = np.unique(
            rows.meanings(these), return_index=True, return_inverse=True
        )
        found = np.empty(len(meanings), np.intp)
        decoded = 0
        for at, meaning in enumerate(meanings.tolist()):
            number = self._by_meaning.get(meaning)
            if number is None and decoded < MOST_DECODED:
                decoded += 1
                number = self._decode(rows, int(these[firsts[at]]))
                self._remember(meaning, number)
            found[at] = _UNDECIDED if number is None else number
        return found[group]

    def _remember(self, meaning: int, number: int) -> None:
        if len(self._by_meaning) >= MOST_KNOWN:
            self._by_meaning.clear()
        self._by_meaning[meaning] = number

    def _decode(self, rows: "_Rows", row: int) -> int:
        batch = rows.batch
        span = decode_span(batch, row)
        kind = kind_of(span.attributes, is_server=span.kind == KIND_SERVER)
        if kind is None:
            return NO_SERIES
        added = rows.added(row) if kind is Kind.HTTP_SERVER else ()
        pairs = attributes_of(kind, span.attributes) + added
        return self._table.number(kind, int(batch.resources[row]), pairs, self._since_ns)

    def _undecided_overflow(self, rows: "_Rows", missing: Positions, numbers: Numbers) -> None:
        undecided = missing[numbers[missing] == _UNDECIDED]
        self.undecided += len(undecided)
        records, resources = rows.batch.records, rows.batch.resources
        for resource in np.unique(resources[undecided]).tolist():
            these = undecided[resources[undecided] == resource]
            is_server = records["role"][these] == Role.SERVER
            # That it is HTTP is a guess, the likely one: who makes up names makes up these.
            for kind, some in ((Kind.HTTP_SERVER, is_server), (Kind.HTTP_CLIENT, ~is_server)):
                if some.any():
                    number = self._table.overflow(kind, resource, self._since_ns)
                    numbers[these[some]] = number


_UNDECIDED = -2


def kind_of(attributes: Attributes, *, is_server: bool) -> Kind | None:
    """How the exchange of a span is measured; None when it is not."""
    if "http.request.method" in attributes:
        return Kind.HTTP_SERVER if is_server else Kind.HTTP_CLIENT
    if "rpc.system.name" in attributes:
        return Kind.RPC_SERVER if is_server else Kind.RPC_CLIENT
    return None


def attributes_of(kind: Kind, attributes: Attributes) -> Pairs:
    """Those of a span's attributes that its metrics have."""
    return tuple(
        (name, attributes[name])
        for name in ATTRIBUTES[kind]
        if name in attributes and not isinstance(attributes[name], list)
    )


# The columns of a record before its head, and the head's first byte.
_WIDTH = -8 * (-(_HEAD + 1) // 8)


def _facts_dtype() -> "np.dtype[np.void]":
    fields = [
        (name, *layout.EXCHANGE.fields[name][:2])  # type: ignore[index]
        for name in layout.EXCHANGE.names or ()
        if name != "head"
    ]
    fields.append(("first", np.dtype("u1"), _HEAD))
    names, formats, offsets = map(list, zip(*fields, strict=True))
    spelled: Any = {"names": names, "formats": formats, "offsets": offsets, "itemsize": _WIDTH}
    made: np.dtype[np.void] = np.dtype(spelled)
    return made


_FACTS = _facts_dtype()


def facts_of(records: Records) -> Records:
    """The fixed columns of records side by side, with `first`, the first byte of each head.

    Records are far from each other: looking at one column is as dear as copying them all.
    """
    records = np.ascontiguousarray(records)
    size = records.dtype.itemsize
    if size < _WIDTH:  # heads were cut to less than a word, since nobody used more
        facts = np.zeros(len(records), _FACTS)
        for name in _FACTS.names or ():
            facts[name] = records[name] if name != "first" else records["head"][:, :1].sum(axis=1)
        return facts
    wide = np.ndarray((len(records),), f"V{_WIDTH}", records, 0, (size,))
    return np.ascontiguousarray(wide).view(_FACTS)


class _Known:
    """First keys and their series, sorted; bounded: when there are too many it begins anew."""

    def __init__(self) -> None:
        self._keys = np.empty(0, np.uint64)
        self._numbers = np.empty(0, np.intp)

    def find(self, keys: Keys) -> tuple[Numbers, npt.NDArray[np.bool_]]:
        """The series of each key, and whether it is known."""
        if not len(self._keys):
            return np.full(len(keys), NO_SERIES, np.intp), np.zeros(len(keys), np.bool_)
        places = np.searchsorted(self._keys, keys)
        np.minimum(places, len(self._keys) - 1, out=places)
        return self._numbers[places], self._keys[places] == keys

    def learn(self, keys: Keys, numbers: Numbers, which: npt.NDArray[np.bool_]) -> None:
        keys, numbers = keys[which][:_MOST_LEARNED], numbers[which][:_MOST_LEARNED]
        if len(self._keys) + len(keys) <= MOST_KNOWN:
            keys = np.concatenate((self._keys, keys))
            numbers = np.concatenate((self._numbers, numbers))
        order = keys.argsort()
        self._keys, self._numbers = keys[order], numbers[order]


class _Rows:
    """A batch as keys: `keys` by the kernel's hash, meanings() by what is shown."""

    def __init__(self, batch: SpanBatch, facts: Records, extra: Extra | None) -> None:
        self.batch = batch
        self._extra = extra
        self._small = facts
        self._clients = facts["role"] != Role.SERVER
        self._base = self._facts()
        if extra is not None:
            self._base += extra[0]
        self.keys = _scrambled(self._base + facts["shape"] * _MULTIPLIERS[0])

    def added(self, row: int) -> Pairs:
        return () if self._extra is None else self._extra[1](row)

    def meanings(self, these: Positions) -> Keys:
        """The second key of some rows."""
        return _scrambled(self._base[these] + _shown_fields(self.batch.records, these))

    def _facts(self) -> Keys:
        """What decides in the columns of fixed width."""
        records = self._small
        size = records.dtype.itemsize
        small = np.ndarray((len(records),), np.uint64, records, _FAMILY, (size,))
        key: Keys = (small & _DECIDING) * _MULTIPLIERS[1]
        number = records["status"].astype(np.uint64)
        number |= (records["flags"] & np.uint16(Flag.NO_POSITION)).astype(np.uint64) << np.uint64(
            16
        )
        number |= self.batch.resources.astype(np.uint64) << np.uint64(32)
        key += number * _MULTIPLIERS[2]
        clients = self._clients.nonzero()[0]
        if len(clients):
            halves = np.ascontiguousarray(records["peer_addr"][clients]).view(np.uint64)
            key[clients] += halves[:, 0] * _MULTIPLIERS[3] + halves[:, 1] * _MULTIPLIERS[4]
            key[clients] += records["peer_port"][clients].astype(np.uint64) * _MULTIPLIERS[5]
        self._add_odd_targets(key)
        return key

    def _add_odd_targets(self, key: Keys) -> None:
        """A target that is no path says more than a path: scheme and authority (proxies)."""
        records = self.batch.records
        odd = (self._small["target_len"] != 0) & (self._small["first"] != ord("/"))
        rows = odd.nonzero()[0]
        hashes = []
        for row in rows.tolist():
            target = records["head"][row][: int(records["target_len"][row])].tobytes()
            told = b"/".join(target.split(b"/", 3)[:3]) if b"://" in target else target
            hashes.append(hash(told) & 0xFFFF_FFFF_FFFF_FFFF)
        key[rows] += np.array(hashes, np.uint64)


def _scrambled(keys: Keys) -> Keys:
    """Bits of sums of products: the low ones alone would depend on the low ones alone."""
    keys = keys ^ (keys >> np.uint64(32))
    keys *= _MULTIPLIERS[6]
    mixed: Keys = keys ^ (keys >> np.uint64(29))
    return mixed


def _shown_fields(records: Records, these: Positions) -> Keys:
    """A hash of the kept fields of some rows, of those that attributes of metrics depend on."""
    size = records.dtype.itemsize
    buffer = np.zeros(len(these) * size + 8, np.uint8)  # so that a word may be read at any place
    buffer[:-8].view(records.dtype)[:] = records[these]
    taken = buffer[:-8].view(records.dtype)
    at = np.arange(len(these)) * size + _HEAD + taken["target_len"].astype(np.intp)
    end = np.minimum(at + taken["kept_len"], (1 + np.arange(len(these))) * size)
    is_client = (taken["role"] != Role.SERVER).astype(np.intp)
    total = np.zeros(len(these), np.uint64)
    heads = words(buffer)
    rows = np.arange(len(these))
    for step in range(_MOST_FIELDS):
        live = (at + 4 <= end).nonzero()[0]
        rows, at, end = rows[live], at[live], end[live]
        if not len(live):
            return total
        head = heads[at]
        tags = (head & np.uint32(0xFF)).astype(np.intp)
        lengths = np.minimum((head >> np.uint32(16)).astype(np.intp), end - at - 4)
        shown = np.minimum(lengths, _DEPENDS[is_client[rows], tags])
        values = Slices(buffer, at + 4, shown)
        _shorten_forwarded(values, tags, rows, taken, total)
        hashed = values.lengths.nonzero()[0]
        # The place counts: of two fields of one name the first may be the one that says it.
        total[rows[hashed]] += _hashes(values.take(hashed), tags[hashed] + (step << 8))
        at = at + 4 + lengths
    total[rows] += taken["shape"][rows]  # whatever is beyond
    return total


def _shorten_forwarded(
    values: Slices, tags: Positions, rows: Positions, taken: Records, total: Keys
) -> None:
    """Of a Forwarded field attributes depend on what varying_field() calls its variant."""
    for at in (tags == Kept.FORWARDED).nonzero()[0].tolist():
        if not values.lengths[at]:
            continue
        field = varying_field(int(taken["protocol"][rows[at]]), Kept.FORWARDED)
        read = field.read(values.one(at)) if field is not None else None
        if read is not None:
            values.lengths[at] = 0
            total[rows[at : at + 1]] += np.array([1 + read[2]], np.uint64) * _MULTIPLIERS[7]


def _hashes(values: Slices, tags: Positions) -> Keys:
    """A hash of each value, none of them empty, and its tag."""
    at_word: npt.NDArray[np.uint64] = np.ndarray(
        (len(values.buffer) - 7,), np.uint64, values.buffer, 0, (1,)
    )
    seeds = (tags.astype(np.uint64) << np.uint64(32)) | values.lengths.astype(np.uint64)
    total: Keys = seeds * _MULTIPLIERS[8]
    rows = np.arange(len(tags))
    for word in range(0, int(values.lengths.max(initial=0)), 8):
        rows = rows[values.lengths[rows] > word]
        left = np.minimum(values.lengths[rows] - word, 8)
        number = at_word[values.starts[rows] + word] & _MASKS[left]
        total[rows] += _scrambled((number + np.uint64(word)) * _MULTIPLIERS[9] + seeds[rows])
    return _scrambled(total)
