"""Exceptions that were logged while a request was served, kept until its span comes."""

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from waggle.spans import Event

MAX_FAILURES = 4096  # exceptions whose span has not come yet
FAILURES_A_SPAN = 8


class Failures:
    """Exceptions by the span that they belong to, until it comes.

    Those of MAX_FAILURES spans wait; the oldest go first. late: how many went without their span,
    though it was sampled.
    """

    def __init__(self) -> None:
        self.late = 0
        self._events: OrderedDict[bytes, list[Event]] = OrderedDict()
        self._dropped: dict[bytes, int] = {}  # how many more than FAILURES_A_SPAN
        self._unsampled: set[bytes] = set()  # which only the tail may let go

    def add(self, span_id: bytes, event: Event, *, sampled: bool) -> None:
        """Keep an exception, where the span has not the same one already."""
        events = self._events.setdefault(span_id, [])
        if not sampled:
            self._unsampled.add(span_id)
        twice = any(one.attributes == event.attributes for one in events)
        if len(events) < FAILURES_A_SPAN and not twice:
            events.append(event)
        elif not twice:
            self._dropped[span_id] = self._dropped.get(span_id, 0) + 1
        if len(self._events) > MAX_FAILURES:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        span_id, events = self._events.popitem(last=False)
        dropped = self._dropped.pop(span_id, 0)
        if span_id in self._unsampled:
            self._unsampled.remove(span_id)
        else:
            self.late += len(events) + dropped

    def give_up(self) -> None:
        """No more spans come."""
        while self._events:
            self._forget_oldest()

    def take(
        self, span_ids: npt.NDArray[np.uint8]
    ) -> tuple[dict[bytes, tuple[Event, ...]], dict[bytes, int]]:
        """Those of a batch's spans, by span id, and how many more there were.

        span_ids: (n, 8).
        """
        if not self._events:
            return {}, {}
        wanted = np.frombuffer(b"".join(self._events), np.uint64)
        have = np.ascontiguousarray(span_ids).view(np.uint64).reshape(-1)
        keys = dict.fromkeys(key.tobytes() for key in have[np.isin(have, wanted)])
        self._unsampled.difference_update(keys)
        dropped = {key: self._dropped.pop(key) for key in keys if key in self._dropped}
        return {key: tuple(self._events.pop(key)) for key in keys}, dropped
