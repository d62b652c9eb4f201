"""The last stage: what is dropped and why, tracestates made true, the limit held."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.records import record
from waggle.layout import Flag, Kept, Protocol
from waggle.layout import Sampling as State
from waggle.sampler import Limiter, Sampler, randomness
from waggle.sampling import NEVER, Rule, Sampling, Tail, threshold_of
from waggle.spans import SAMPLING_SHIFT, Records, read_exchange
from waggle.tail import TailBuffer

HERE = State.HERE << SAMPLING_SHIFT
KNOWN = State.KNOWN << SAMPLING_SHIFT
EDIT = State.EDIT << SAMPLING_SHIFT
TENTH = Sampling(0.1)


def dropped(count: int, sampling: int = HERE, **columns: Any) -> Records:
    return np.repeat(record(flags=Flag.UNSAMPLED, sampling=sampling, **columns), count)


def rows(parts: Sequence[Records]) -> int:
    return sum(len(part) for part in parts)


def test_the_order_of_what_is_kept_stays() -> None:
    """Rows that are not sampled leave, the others stay as they were."""
    records = np.concatenate([record(tid=n, flags=Flag.UNSAMPLED * (n % 3 == 0)) for n in range(9)])
    (kept,) = Sampler(Sampling()).process(records)
    assert kept["tid"].tolist() == [1, 2, 4, 5, 7, 8]


def test_a_batch_of_which_all_is_sampled_is_not_copied() -> None:
    """Without a sampler the stage costs one look."""
    records = np.repeat(record(), 5)
    assert Sampler(Sampling()).process(records)[0] is records


def test_every_dropped_span_has_one_reason() -> None:
    """Whoever called, the sampler, a rule, or the limit: by what the kernel noted."""
    sampling = Sampling(0.5, rules=(Rule(0.0, path=b"/a"), Rule(0.5)), limit=1.0)
    thresholds = np.zeros(16, np.uint64)
    limiter = Limiter(sampling, thresholds, lambda: (0, 0), lambda: 0.0)
    sampler = Sampler(sampling, limiter)
    low, high = bytes(16), b"\xff" * 16
    rule = [number << SAMPLING_SHIFT + 4 for number in range(3)]
    batch = np.concatenate(
        [
            dropped(1, 0),
            dropped(2, HERE, trace_id=low),
            dropped(4, HERE, trace_id=high),  # at 0.5 it would be kept
            dropped(8, HERE | rule[1], trace_id=high),  # at 0 it never would
            dropped(16, HERE | rule[2], trace_id=low),
            dropped(32, HERE | rule[2], trace_id=high),
        ]
    )
    assert sampler.process(batch) == []
    assert sampler.stats.dropped == {"parent": 1, "sampler": 2, "limit": 4 + 32, "rule": 8 + 16}


def test_only_what_was_dropped_here_may_be_kept_by_the_tail() -> None:
    """Where the caller said no, its own spans are nowhere: a part of a trace helps nobody."""
    tail = TailBuffer(Tail(errors=True))
    sampler = Sampler(Sampling(0.0), None, tail)
    assert sampler.process(dropped(3, 0, status=500)) == []
    assert rows(sampler.process(dropped(2, HERE, status=500))) == 2
    assert sampler.stats.dropped == {"parent": 3, "sampler": 2}
    assert sampler.stats.kept == {"error": 2}


def test_randomness_is_the_end_of_the_trace_id() -> None:
    """The last seven bytes, the first of them the most significant."""
    trace_id = bytes(range(0xF0, 0x100))
    assert randomness(record(trace_id=trace_id)["trace_id"]).tolist() == [0xF9FAFBFCFDFEFF]


def test_a_tracestate_that_is_not_true_is_corrected() -> None:
    """Rows that the kernel marked get the threshold that holds."""
    kept = [(Kept.TRACESTATE, b"a=1,ot=th:c")]
    threshold = threshold_of(0.5)
    records = np.concatenate(
        [record(kept=kept, sampling=EDIT | KNOWN | threshold, flags=Flag.HAD_TRACEPARENT)] * 2
    )
    (out,) = Sampler(Sampling(0.5, independent=True)).process(records)
    for row in range(2):
        assert read_exchange(out, row).kept[Kept.TRACESTATE] == b"ot=th:8,a=1"


@pytest.mark.parametrize(("independent", "text"), [(True, b"ot=th:8"), (False, b"ot=th:c")])
def test_a_stream_s_tracestate(independent: bool, text: bytes) -> None:
    """The kernel reads none of HTTP/2: where it decided all the same, it is corrected here."""
    kept = [(Kept.TRACESTATE, b"ot=th:c")]
    sampling = KNOWN | threshold_of(0.5) if independent else 0
    records = record(
        kept=kept, sampling=sampling, flags=Flag.HAD_TRACEPARENT, protocol=Protocol.HTTP2
    )
    (out,) = Sampler(Sampling(0.5, independent=independent)).process(records)
    assert read_exchange(out, 0).kept[Kept.TRACESTATE] == text


class Traffic:
    """Traces that begin at random times and are sampled as the kernel would."""

    def __init__(self, sampling: Sampling, seed: int) -> None:
        self.now = 0.0
        self.kept = self.dropped = 0
        self.thresholds = np.array([threshold_of(p) for p in sampling.probabilities], np.uint64)
        self.limiter = Limiter(
            sampling, self.thresholds, lambda: (self.kept, self.dropped), lambda: self.now
        )
        self._random = np.random.default_rng(seed)

    def run(self, rate: float, seconds: float) -> int:
        """So many seconds at a rate of traces a second; traces kept."""
        before = self.kept
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            begun = int(self._random.poisson(rate / 10))
            numbers = self._random.integers(0, NEVER, begun, np.uint64)
            kept = int(np.count_nonzero(numbers >= self.thresholds[0]))
            self.kept += kept
            self.dropped += begun - kept
            self.limiter.adjust()
        return self.kept - before


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.floats(1, 2000), st.floats(0.001, 100), st.floats(0.05, 1))
def test_the_limit_holds(seed: int, limit: float, load: float, probability: float) -> None:
    """Whatever comes, after a few seconds no more than the limit is kept, and not much less
    where there is enough of it."""
    sampling = Sampling(probability, limit=limit)
    traffic = Traffic(sampling, seed)
    offered = load * limit
    traffic.run(offered, 5)
    kept = traffic.run(offered, 30) / 30
    noise = 6 * np.sqrt(limit / 30)
    assert kept <= 1.1 * limit + noise
    assert kept >= 0.75 * min(limit, probability * offered) - noise


def test_a_burst_out_of_nothing_passes_until_the_next_look() -> None:
    """Half a second, as it is said; and afterwards the share comes back."""
    traffic = Traffic(Sampling(limit=10.0), 1)
    traffic.run(5, 10)
    assert traffic.limiter.share == 1.0
    burst = traffic.run(10_000, 1)
    assert burst < 10_000 * 0.8
    assert traffic.run(10_000, 10) < 10 * 10 * 1.5
    traffic.run(5, 60)
    assert traffic.limiter.share == 1.0


def test_thresholds_do_not_move_for_nothing() -> None:
    """Under an even load they rest most of the time: each new one costs templates."""
    traffic = Traffic(Sampling(limit=100.0), 3)
    traffic.run(5000, 10)
    seen = set()
    for _ in range(60):
        traffic.run(5000, 0.5)
        seen.add(int(traffic.thresholds[0]))
    assert len(seen) < 30


def test_rules_share_the_limit() -> None:
    """Every probability is scaled by the same share, so that weights stay comparable."""
    sampling = Sampling(rules=(Rule(0.5, path=b"/a"), Rule(0.0, path=b"/b")), limit=10.0)
    traffic = Traffic(sampling, 2)
    traffic.run(1000, 5)
    share = traffic.limiter.share
    assert share < 0.1
    assert traffic.thresholds[1] == threshold_of(0.5 * share)
    assert traffic.thresholds[2] == NEVER
