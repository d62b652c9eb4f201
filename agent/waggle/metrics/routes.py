"""Guessed routes: `/users/{id}` for /users/4711, where nobody says what the route is.

`http.route` is what the framework matched, and the conventions forbid a path in its place; no wire
carries it. So it is never set here. A guess has a name of its own, `waggle.route.guess`, and is
made only when asked for. The rule is by characters: a segment is an `{id}` when it has a digit, or
is longer than words are. What is left of a path is its key.

Bounded: so many routes a resource, and of answers that say there is no such thing (404) none, so
that a scanner does not use them up. What has no room is `_OTHER`.
"""

import os
import re
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.columns import Bytes, Positions, multipliers
from waggle.layout import Role
from waggle.metrics.series import Pairs
from waggle.spans import Records, SpanBatch

ATTRIBUTE = "waggle.route.guess"
OTHER = "_OTHER"
PER_RESOURCE = 100
IN_ALL = 20_000
LONGEST_WORD = 32  # bytes; a longer segment is taken for a token
MOST_SEGMENTS = 8  # what is behind them is not looked at
_WIDTH = 128  # bytes of a path that are looked at
_NO_SUCH = (404, 405, 410)

_HEAD: int = layout.EXCHANGE.fields["head"][1]  # type: ignore[index]
_RANDOM = multipliers(_WIDTH)
# By segment and place in it.
_FACTORS = multipliers((MOST_SEGMENTS + 2) * _WIDTH)
_FACTORS = _FACTORS.reshape(MOST_SEGMENTS + 2, _WIDTH)
_LETTERS = np.frombuffer(os.urandom(8 * 256), np.uint64)
_DIGIT = re.compile(r"\d")


def guess(path: str) -> str:
    """The route that a path may have been matched by."""
    segments = path.split("/")[1:]
    named = [_segment(segment) for segment in segments[:MOST_SEGMENTS]]
    return "/" + "/".join(named + (["{rest}"] if len(segments) > MOST_SEGMENTS else []))


def _segment(text: str) -> str:
    # The version of an API is a digit that means something.
    if re.fullmatch(r"v\d{1,2}", text):
        return text
    return "{id}" if _DIGIT.search(text) or len(text.encode()) > LONGEST_WORD else text


@dataclass(slots=True)
class RouteGuesser:
    """Guesses for batches; one look at each new route, none at a path.

    A path is first reduced to a number: of each row's bytes, as a matrix, segments with a digit
    are blanked, and what is left is hashed by segment and place in it.
    """

    _names: dict[tuple[int, int], str] = field(default_factory=dict)  # by resource and skeleton
    _counts: dict[int, int] = field(default_factory=dict)

    def of(self, batch: SpanBatch) -> "tuple[npt.NDArray[np.uint64], _Added]":
        """A key of each row's route, 0 for rows that have none, and what it adds to attributes."""
        records = batch.records
        keys = np.zeros(len(records), np.uint64)
        heads = records["head"]
        rows = (records["role"] == Role.SERVER) & (heads[:, 0] == ord("/"))
        rows &= (records["target_len"] > 0) & ~np.isin(records["status"], _NO_SUCH)
        these = rows.nonzero()[0]
        if not len(these):
            return keys, _Added(these, these, [])
        skeletons = _skeletons(heads[these], records["target_len"][these].astype(np.intp))
        names = self._named(batch, these, skeletons)
        hashes = [hash(name) & 0xFFFF_FFFF_FFFF_FFFF for name in names.texts]
        keys[these] = np.array(hashes, np.uint64)[names.which]
        return keys, _Added(these, names.which, names.texts)

    def _named(
        self, batch: SpanBatch, these: Positions, skeletons: "npt.NDArray[np.uint64]"
    ) -> "_Names":
        resources = batch.resources[these].astype(np.uint64)
        mixed = skeletons ^ (resources * _RANDOM[0])
        _, firsts, which = np.unique(mixed, return_index=True, return_inverse=True)
        texts = [
            self._name(batch.records, int(these[first]), int(resources[first]), int(mixed[first]))
            for first in firsts.tolist()
        ]
        return _Names(which, texts)

    def _name(self, records: Records, row: int, resource: int, skeleton: int) -> str:
        known = self._names.get((resource, skeleton))
        if known is not None:
            return known
        count = self._counts.get(resource, 0)
        if count >= PER_RESOURCE or len(self._names) >= IN_ALL:
            return OTHER
        self._counts[resource] = count + 1
        length = int(records["target_len"][row])
        target = records["head"][row, :length].tobytes().partition(b"?")[0][:_WIDTH]
        name = self._names[(resource, skeleton)] = guess(target.decode("utf-8", "replace"))
        return name


@dataclass(frozen=True, slots=True)
class _Names:
    which: Positions
    texts: list[str]


@dataclass(frozen=True, slots=True)
class _Added:
    """What a row's route adds to the attributes of its metrics. rows: rising."""

    rows: Positions
    which: Positions
    texts: list[str]

    def __call__(self, row: int) -> Pairs:
        at = int(np.searchsorted(self.rows, row))
        if at == len(self.rows) or self.rows[at] != row:
            return ()
        return ((ATTRIBUTE, self.texts[self.which[at]]),)


def _skeletons(heads: Bytes, lengths: Positions) -> "npt.NDArray[np.uint64]":
    """A number for each path: the same for two that differ in `{id}` segments only."""
    width = min(_WIDTH, heads.shape[1], int(lengths.max()))
    paths = np.ascontiguousarray(heads[:, :width])
    at = np.arange(width, dtype=np.int16)
    ends = paths == ord("?")
    ends |= at >= lengths[:, np.newaxis].astype(np.int16)
    inside = ~np.logical_or.accumulate(ends, axis=1)
    slashes = (paths == ord("/")) & inside
    segments = np.minimum(np.cumsum(slashes, axis=1, dtype=np.int16), MOST_SEGMENTS + 1)
    # Places in the segment, its slash being 0.
    places = at - np.maximum.accumulate(np.where(slashes, at, np.int16(0)), axis=1)
    digits = (paths - np.uint8(ord("0")) < 10) & inside
    strange = (places > LONGEST_WORD) & inside
    strange |= digits & ~_versions(paths, inside, digits, places)
    is_id = np.zeros((len(paths), MOST_SEGMENTS + 2), np.bool_)
    where = strange.nonzero()
    is_id[where[0], segments[where]] = True
    is_id[:, MOST_SEGMENTS + 1] = True
    shown = inside & ~np.take_along_axis(is_id, segments.astype(np.intp), axis=1)
    rows, columns = shown.nonzero()
    hashes = (
        _LETTERS[paths[rows, columns]] * _FACTORS[segments[rows, columns], places[rows, columns]]
    )
    total = np.zeros(len(paths), np.uint64)
    np.add.at(total, rows, hashes)
    # Blanked segments count as such: /a/1 is not /a.
    total += (slashes.sum(axis=1).astype(np.uint64) + np.uint64(1)) * _RANDOM[2]
    total += is_id @ _RANDOM[3 : 3 + is_id.shape[1]]
    return total


def _versions(
    paths: Bytes, inside: npt.NDArray[np.bool_], digits: npt.NDArray[np.bool_], places: Positions
) -> npt.NDArray[np.bool_]:
    """Digits that belong to a segment such as v1 or v12."""
    ends = np.ones_like(inside)  # whether the byte after this one ends the segment
    ends[:, :-1] = ~inside[:, 1:] | (paths[:, 1:] == ord("/"))
    v = (paths == ord("v")) & (places == 1)
    after_v = np.zeros_like(v)
    after_v[:, 1:] = v[:, :-1]
    second = np.zeros_like(v)
    second[:, 1:] = (after_v & digits)[:, :-1]
    one = after_v & digits & ends
    two = second & digits & ends
    one_of_two = np.zeros_like(v)
    one_of_two[:, :-1] = two[:, 1:]
    versions: npt.NDArray[np.bool_] = one | two | (one_of_two & after_v)
    return versions
