"""The last stage of the pipeline: what is not to be exported leaves here, counted by reason.

The kernel has decided, where each trace began (bpf/sampling.h). Left to do here: drop what
it decided against, unless the tail wants it (tail.py); correct a tracestate that says
another threshold; and hold the limit of traces a second, by moving the kernel's
thresholds.

Why thresholds and not a bucket of tokens in the kernel: a trace that a bucket refuses was
refused for when it came, so nobody could say for how many the others stand. A threshold
that moves keeps every trace a fair sample, and says its weight. The price: a burst out of
nothing passes until the next look, ADJUST_S later.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from waggle import tracestate
from waggle.capture import Capture
from waggle.columns import Positions
from waggle.layout import Flag, Kept, Protocol
from waggle.layout import Sampling as State
from waggle.sampling import Sampling, threshold_of
from waggle.spans import SAMPLING_SHIFT, THRESHOLD_MASK, Records, kept_fields
from waggle.tail import TailBuffer

ADJUST_S = 0.5
# Thresholds move by steps that matter: each new one makes new templates in the encoder.
_WORTH_IT = 0.05
_SMOOTHING_S = 3.0
_LEAST_SHARE = 1e-9

_EDIT = np.uint64(State.EDIT << SAMPLING_SHIFT)
_HERE = np.uint64(State.HERE << SAMPLING_SHIFT)
_KNOWN = np.uint64(State.KNOWN << SAMPLING_SHIFT)
_RULES = np.uint64(0xF << SAMPLING_SHIFT + 4)
_UNSAMPLED = np.uint16(Flag.UNSAMPLED)

Mask = npt.NDArray[np.bool_]


@dataclass(slots=True)
class SamplerStats:
    """Spans that were dropped, by reason, and those that the tail kept all the same.

    parent: whoever called had decided so. sampler, rule, limit: decided here. A span that
    waits in the tail's buffer counts as dropped until it is kept; forgotten: those that had to
    leave the buffer before their time.
    """

    dropped: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    forgotten: int = 0

    def drop(self, reason: str, spans: int) -> None:
        if spans:
            self.dropped[reason] = self.dropped.get(reason, 0) + spans


class Limiter:
    """Holds a number of traces a second by scaling every probability by one share.

    begun: the kernel's count of traces so far, kept and dropped.
    """

    def __init__(
        self,
        sampling: Sampling,
        thresholds: npt.NDArray[np.uint64],
        begun: Callable[[], tuple[int, int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert sampling.limit is not None
        self.share = 1.0
        self._limit = sampling.limit
        self._probabilities = sampling.probabilities
        self._thresholds = thresholds
        self._begun = begun
        self._clock = clock
        self._looked = clock()
        self._kept = begun()[0]
        self._offered: float | None = None  # traces a second that would be kept at a share of 1

    def adjust(self) -> None:
        """Look how many traces were kept, when it is time, and move the thresholds."""
        now = self._clock()
        elapsed_s = now - self._looked
        if elapsed_s < ADJUST_S:
            return
        kept = self._begun()[0]
        rate = (kept - self._kept) / elapsed_s
        self._looked, self._kept = now, kept
        self._learn(rate / self.share, elapsed_s)
        wanted = self._limit / max(self._offered or 0.0, _LEAST_SHARE)
        share = min(1.0, max(_LEAST_SHARE, wanted))
        if abs(share - self.share) > _WORTH_IT * self.share or (share == 1.0 != self.share):
            self._set(share)

    def _learn(self, offered: float, elapsed_s: float) -> None:
        """More is believed at once, less only bit by bit: a limit is a limit."""
        if self._offered is None or (offered > 2 * self._offered and offered > self._limit):
            self._offered = offered
            return
        weight = min(1.0, elapsed_s / _SMOOTHING_S)
        self._offered += weight * (offered - self._offered)

    def _set(self, share: float) -> None:
        self.share = share
        for number, probability in enumerate(self._probabilities):
            self._thresholds[number] = threshold_of(probability * share)


class Sampler:
    """The stage. Not for two threads at once.

    limiter: None where there is no limit. tail: None where nothing is kept all the same.
    """

    def __init__(
        self,
        sampling: Sampling,
        limiter: Limiter | None = None,
        tail: TailBuffer | None = None,
    ) -> None:
        self.stats = SamplerStats()
        self._limiter = limiter
        self._tail = tail
        self._decides = bool(sampling.mode)
        self._edits_streams = sampling.independent
        self._base = np.array([threshold_of(p) for p in sampling.probabilities], np.uint64)

    def poll(self) -> None:
        """Hold the limit."""
        if self._limiter is not None:
            self._limiter.adjust()

    def process(self, records: Records) -> Sequence[Records]:
        """What is sampled of a batch, and what the tail lets go of because of it."""
        unsampled = (records["flags"] & _UNSAMPLED) != 0
        if not unsampled.any():
            self._edit(records)
            return (records,)
        kept: Records = records[~unsampled]
        self._edit(kept)
        parts = [kept] if len(kept) else []
        dropped = unsampled.nonzero()[0]
        here = records["sampling"][dropped] & _HERE != 0
        self._count(records, dropped, here)
        if self._tail is not None:
            parts += self._tail.take(records, dropped[here])
            self.stats.kept, self.stats.forgotten = self._tail.kept, self._tail.forgotten
        return parts

    def _count(self, records: Records, dropped: Positions, here: Mask) -> None:
        number = (records["sampling"][dropped] & _RULES) >> np.uint64(SAMPLING_SHIFT + 4)
        self.stats.drop("parent", int(np.count_nonzero(~here)))
        limited = np.zeros(len(dropped), np.bool_)
        if self._limiter is not None:
            random = randomness(records["trace_id"][dropped])
            limited = here & (random >= self._base[number.astype(np.intp)])
            self.stats.drop("limit", int(np.count_nonzero(limited)))
        own = here & ~limited
        self.stats.drop("rule", int(np.count_nonzero(own & (number > 0))))
        self.stats.drop("sampler", int(np.count_nonzero(own & (number == 0))))

    def _edit(self, records: Records) -> None:
        """Correct tracestates. A few rows of traces that others began, one by one."""
        if not self._decides:
            return
        rows = records["sampling"] & _EDIT != 0
        if self._edits_streams:
            rows |= _with_unread_state(records)
        for row in rows.nonzero()[0].tolist():
            tracestate.edit(records, row)


def make_sampler(sampling: Sampling, capture: Capture) -> Sampler:
    """The stage for a kernel side that samples so."""
    limiter = None
    if sampling.limit is not None:
        thresholds = capture.sample_rules["threshold"]
        limiter = Limiter(sampling, thresholds, capture.traces_begun)
    tail = TailBuffer(sampling.tail) if sampling.tail is not None else None
    return Sampler(sampling, limiter, tail)


def randomness(trace_ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """The last 56 bits of trace ids (n, 16)."""
    words = np.ascontiguousarray(trace_ids[:, 8:]).view(">u8").reshape(-1)
    masked: npt.NDArray[np.uint64] = words.astype(np.uint64) & np.uint64(THRESHOLD_MASK)
    return masked


def _with_unread_state(records: Records) -> Mask:
    """Streams of HTTP/2 whose tracestate the kernel could not read, decided about here."""
    found: Mask = (records["protocol"] == Protocol.HTTP2) & (records["sampling"] & _KNOWN != 0)
    found &= (records["flags"] & np.uint16(Flag.HAD_TRACEPARENT)) != 0
    for row in found.nonzero()[0].tolist():
        record = records[row]
        start = int(record["target_len"])
        end = start + int(record["kept_len"])
        fields = kept_fields(record["head"].tobytes(), start, end)
        found[row] = any(tag == Kept.TRACESTATE for tag, _ in fields)
    return found
