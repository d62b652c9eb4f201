"""What was joined: calls by the ids that were given out for them, each with the request that it
was proven to belong to, or with none; and records of these traces, rewritten.

The kernel gave what is in question a trace id of its own (Flag.TRACE_PENDING), or the parent that
it predicted (Flag.UNPROVEN). What it led to bears the same trace id, wherever on this machine.

    joined.add(calls, proven, after)           as soon as that is settled
    ready, waiting = joined.resolve(records)   again, whenever more was added

It keeps JOINED_KEPT calls and forgets those first that were joined first: records of theirs that
come later wait in vain.
"""

import numpy as np
import numpy.typing as npt

from waggle.answers import U64, Index, Mask
from waggle.layout import Flag, Link, Role, Sampling
from waggle.spans import Records

JOINED_KEPT = 65_536
_HOPS = 8  # a pending trace may stand for another that is pending itself

WAITS = Flag.TRACE_PENDING | Flag.UNPROVEN
# What a child does not inherit: it has no tracestate of its own.
_OF_THE_REQUEST = np.uint64((Sampling.SAID | Sampling.EDIT) << 56)

_JOINED = np.dtype(
    [
        ("key", np.uint64),  # of the trace id that was given out; of a prediction, the span id
        ("span_id", np.uint8, 8),  # the call's
        ("proven", np.bool_),
        ("after", np.bool_),  # sent when its parent had been answered
        ("link", np.uint8),  # by which rule
        ("trace_id", np.uint8, 16),  # the true one, which may be pending itself
        ("parent_id", np.uint8, 8),
        ("trace_flags", np.uint8),
        ("flags", np.uint16),  # of the parent
        ("sampling", np.uint64),
    ]
)


class Joined:
    """The table of what was joined.

    Records have the fields of layout.EXCHANGE that are read or written here: flags, trace_id
    (n, 16), span_id and parent_id (n, 8), trace_flags, link, role, sampling. They come back in any
    order; those that were given stay as they are, but for name_requests().

    corrected: calls whose predicted parent was not the proven one.
    """

    def __init__(self) -> None:
        self.corrected = 0
        self._rows = np.empty(0, _JOINED)  # sorted by key
        self._order: list[npt.NDArray[np.void]] = []  # of joining, to forget the oldest first

    def __len__(self) -> int:
        """Calls that are remembered."""
        return len(self._rows)

    def add(
        self,
        calls: npt.NDArray[np.void],
        proven: Mask,
        after: Mask,
        link: Link | npt.NDArray[np.uint8] = Link.TASK,
    ) -> None:
        """Calls of which all is known.

        calls: 1-d, with two columns of layout.EVIDENCE: `evidence`, of the call, and `parent`, the
            answer that proves its request.
        proven, after: (n,): it has a request; it was sent when that had been answered.
        link: by which rule, of all or of each.
        """
        rows = np.zeros(len(calls), _JOINED)
        rows["link"] = link
        evidence, parent = calls["evidence"], calls["parent"]
        predicted = has_flags(evidence, Flag.UNPROVEN)
        own_trace, own_span = _key_of(evidence["trace_id"]), _as_words(evidence["span_id"])
        rows["key"] = np.where(predicted, own_span, own_trace)
        rows["span_id"] = evidence["span_id"]
        rows["proven"] = proven
        rows["after"] = after
        rows["trace_id"] = np.where(proven[:, None], parent["trace_id"], evidence["trace_id"])
        rows["parent_id"][proven] = parent["span_id"][proven]
        rows["trace_flags"] = np.where(proven, parent["trace_flags"], evidence["trace_flags"])
        unsampled = evidence["flags"] & np.uint16(Flag.UNSAMPLED)
        rows["flags"] = np.where(proven, parent["flags"], unsampled)
        inherited = parent["sampling"] & ~_OF_THE_REQUEST
        rows["sampling"] = np.where(proven, inherited, evidence["sampling"])
        self._order.append(rows)
        total = sum(len(batch) for batch in self._order)
        while total > JOINED_KEPT and len(self._order) > 1:
            total -= len(self._order.pop(0))
        joined = np.concatenate(self._order)
        self._rows = joined[np.argsort(joined["key"], kind="stable")]

    def resolve(self, records: Records) -> tuple[Records, Records]:
        """Records of which all is known, rewritten; and those that wait on."""
        if not len(self._rows):
            return records[:0], records
        records, waiting = self.verify(records)
        pending = has_flags(records, Flag.TRACE_PENDING)
        if not pending.any():
            return records, waiting
        ready, unknown = self.to_true_traces(records[pending])
        return np.concatenate([records[~pending], ready]), np.concatenate([waiting, unknown])

    def verify(self, records: Records) -> tuple[Records, Records]:
        """Predicted parents that are proven, or corrected; and records that wait for that."""
        unproven = has_flags(records, Flag.UNPROVEN)
        if not unproven.any():
            return records, records[:0]
        at = self._find(_as_words(records["span_id"]))
        waiting = unproven & (at < 0)
        records, waits, at = records[~waiting].copy(), records[waiting], at[~waiting]
        rows = np.flatnonzero(has_flags(records, Flag.UNPROVEN))
        proof = self._rows[at[rows]]
        found = proof["proven"]
        wrong = found & (records["parent_id"][rows] != proof["parent_id"]).any(1)
        self.corrected += int(wrong.sum())
        records["flags"][rows] &= np.uint16(0xFFFF ^ Flag.UNPROVEN)
        records["flags"][rows[found & proof["after"]]] |= np.uint16(Flag.AFTER_RESPONSE)
        self._correct(records, rows[wrong], proof[wrong])
        records["parent_id"][rows[~found]] = 0
        records["link"][rows[~found]] = Link.NONE
        return records, waits

    def to_true_traces(self, records: Records) -> tuple[Records, Records]:
        """Records of pending traces whose true id is known, rewritten; and the others."""
        if not len(self._rows):
            return records[:0], records
        first = self._find(_key_of(records["trace_id"]))
        at, known = first.copy(), first >= 0
        moving = known & self._stands_for_pending(at)
        for _ in range(_HOPS):
            if not moving.any():
                break
            at[moving] = self._find(_key_of(self._rows["trace_id"][at[moving]]))
            known &= at >= 0
            moving &= known
            moving[moving] &= self._stands_for_pending(at[moving])
        known &= ~moving
        ready = records[known].copy()
        self._rewrite(ready, first[known], at[known])
        return ready, records[~known]

    def name_requests(self, records: Records) -> None:
        """Give records, in place, the requests that are proven; their traces may be pending."""
        rows = np.flatnonzero(has_flags(records, Flag.TRACE_PENDING))
        at = self._find(_key_of(records["trace_id"][rows]))
        rows, at = rows[at >= 0], at[at >= 0]
        named = records[rows]
        self._rewrite(named, at, at)
        named["flags"][self._stands_for_pending(at)] |= np.uint16(Flag.TRACE_PENDING)
        records[rows] = named

    def _correct(self, records: Records, rows: Index, proof: npt.NDArray[np.void]) -> None:
        """Give records the proven parents. What the calls led to keeps the predicted trace."""
        for field in ("trace_id", "parent_id", "trace_flags", "sampling"):
            records[field][rows] = proof[field]
        inherited = np.uint16(Flag.TRACE_PENDING | Flag.UNSAMPLED)
        kept = records["flags"][rows] & ~inherited
        records["flags"][rows] = kept | (proof["flags"] & inherited)

    def _find(self, keys: U64) -> Index:
        """Rows of the joined traces, -1 where a trace is not among them."""
        at = np.searchsorted(self._rows["key"], keys)
        at[at == len(self._rows)] = 0
        found: Index = np.where(self._rows["key"][at] == keys, at, -1)
        return found

    def _stands_for_pending(self, at: Index) -> Mask:
        rows = self._rows[at]
        pending: Mask = rows["proven"] & ((rows["flags"] & np.uint16(Flag.TRACE_PENDING)) != 0)
        return pending

    def _rewrite(self, records: Records, first: Index, last: Index) -> None:
        own, true = self._rows[first], self._rows[last]
        is_call = (records["role"] == Role.CLIENT) & (records["span_id"] == own["span_id"]).all(1)
        is_call &= own["proven"]
        records["trace_id"] = true["trace_id"]
        records["trace_flags"] = true["trace_flags"]
        records["sampling"] = true["sampling"]
        flags = records["flags"] & np.uint16(0xFFFF ^ (Flag.TRACE_PENDING | Flag.UNSAMPLED))
        flags |= true["flags"] & np.uint16(Flag.UNSAMPLED)
        flags[is_call & own["after"]] |= np.uint16(Flag.AFTER_RESPONSE)
        records["flags"] = flags
        records["parent_id"][is_call] = own["parent_id"][is_call]
        records["link"][is_call] = own["link"][is_call]


def _key_of(trace_ids: npt.NDArray[np.uint8]) -> U64:
    """The random half of trace ids (n, 16) as one word each."""
    return _as_words(trace_ids[:, 8:])


def _as_words(ids: npt.NDArray[np.uint8]) -> U64:
    """Ids of 8 bytes (n, 8) as one word each."""
    words: U64 = np.ascontiguousarray(ids).view(np.uint64).reshape(-1)
    return words


def has_flags(records: npt.NDArray[np.void], flags: int) -> Mask:
    has: Mask = (records["flags"] & np.uint16(flags)) != 0
    return has


def as_they_are(records: Records) -> Records:
    """Records that leave unproven: a predicted parent is none."""
    records = records.copy()
    predicted = has_flags(records, Flag.UNPROVEN)
    records["parent_id"][predicted] = 0
    records["link"][predicted] = Link.NONE
    records["flags"] &= np.uint16(0xFFFF ^ WAITS)
    return records
