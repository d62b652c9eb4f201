"""The one summary at the end of a run: what was seen, what was lost, what it cost.

Plain text for stderr. Whoever ends the run fills in a Summary; `render` says it.
"""

import re
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from waggle.exporter.base import ExporterStats
from waggle.layout import Counter
from waggle.spans import Records

_LINE = 100
_INDENT = " " * 13

# What a counter of the kernel's side, or a reason of an exporter's, means to a reader.
_MEANINGS: Mapping[str, str] = {
    "ring_full": "the agent did not keep up with the kernel's records",
    "large_ring_full": "the same, for exchanges with long heads",
    "event_ring_full": "events of processes; some may have been noticed late",
    "connection_map_full": "more connections at once than there is room for",
    "exchange_map_full": "more open exchanges than there is room for",
    "partial_map_full": "more half-read heads than there is room for",
    "head_too_large": "a request's head was longer than what is looked at",
    "bytes_unreadable": "the program's memory could not be read at that moment",
    "bytes_unseen": "bytes that passed no hook",
    "bad_framing": "HTTP that ended in nonsense",
    "framing_budget": "too many chunks in one call",
    "pipeline_too_deep": "too many requests at once on one connection",
    "process_map_full": "more processes than there is room for",
    "response_unmatched": "the answer to a request that was not seen, as from before the agent",
    "exchange_gone": "an open exchange was not there any more",
    "opaque_rate": "encrypted exchanges that nobody can read, beyond what is told in a second",
    "handshake_rate": "TLS handshakes beyond what is told in a second",
    "handshake_ring_full": "TLS handshakes: the agent did not keep up",
    "handshake_forgotten": "TLS handshakes of spans that came late or never",
    "log_rate": "writes to a log beyond what one process may (--logs-rate)",
    "log_ring_full": "the agent did not keep up with what was logged",
    "log_unreadable": "the program's memory could not be read at that moment",
    "log_cut": "log records that are longer than what is kept of one (--logs-line)",
    "log_unproven": "log records that went without the ids of their request",
    "log_internal_error": "a fault in the agent, please report it",
    "log_binary": "log records that are no text",
    "log_journal_unread": "entries of the journal without a message, or larger than a datagram",
    "log_exception_late": "exceptions whose span had left already",
    "above_draw_rate": "more traces than a screen can show",
    "trace_too_large": "not drawn: the trace has too many spans",
    "too_many_traces": "not drawn: too many unfinished traces at once",
    "duplicate_span": "not drawn: a span id that came twice",
    "screen_behind": "the terminal took too long",
    "output_closed": "the reader of the output has gone",
    "output_failed": "the output could not be written",
    "output_blocked": "the terminal was stopped",
}

# Left out of what a terminal draws on purpose, and exported wherever else spans go: no loss.
_NOT_DRAWN = "above_draw_rate"


@dataclass(frozen=True, slots=True)
class AgentCost:
    """What this process has used: CPU seconds, seconds since the start, bytes of memory, and how
    many of the CPU seconds it took to be ready.

    The BPF programs run on the time of the programs they watch; that is not in here.
    """

    cpu_s: float
    wall_s: float
    peak_memory: int
    start_cpu_s: float = 0.0

    @classmethod
    def since(cls, started_s: float, start_cpu_s: float = 0.0) -> "AgentCost":
        """Until now; `started_s` is time.monotonic() of the start."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        wall_s = max(time.monotonic() - started_s, 0.0)
        cpu_s = usage.ru_utime + usage.ru_stime
        return cls(cpu_s, wall_s, _peak_memory(), start_cpu_s)


def _peak_memory() -> int:
    """Most resident memory so far, in bytes. Not what getrusage says: that counts whoever
    started us as well, up to the moment when we took over."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


class TraceCount:
    """How many different traces there were, in bounded memory.

    Exact up to `exact` traces; above that a HyperLogLog sketch of 16 KiB, whose
    standard error is 0.8 % (Flajolet et al., 2007).
    """

    _BITS = 14
    _SIZE = 1 << _BITS

    def __init__(self, exact: int = 10_000) -> None:
        self._most = exact
        self._seen: set[int] | None = set()
        self._ranks = np.zeros(self._SIZE, dtype=np.uint8)

    @property
    def exact(self) -> bool:
        return self._seen is not None

    @property
    def value(self) -> int:
        return len(self._seen) if self._seen is not None else self._estimate()

    def add(self, records: Records) -> None:
        """Count the traces of a batch of EXCHANGE or LARGE_EXCHANGE records."""
        hashes = _hashes(records)
        if self._seen is not None:
            self._seen.update(hashes.tolist())
            if len(self._seen) <= self._most:
                return
            hashes = np.array(list(self._seen), np.uint64)
            self._seen = None
        places = (hashes >> np.uint64(64 - self._BITS)).astype(np.intp)
        # A hash without its place has at most 50 bits, of which all count in a float: its
        # exponent, in the bits 52 and up, is the place of the highest of them, from 0 and 1023.
        rest = hashes & np.uint64((1 << (64 - self._BITS)) - 1) | np.uint64(1)
        highest = rest.astype(np.float64).view(np.uint64) >> np.uint64(52)
        ranks = (np.uint64(1023 + 64 - self._BITS) - highest).astype(np.uint8)
        # Few are news once there were many: looking costs less than writing.
        higher = ranks > self._ranks[places]
        np.maximum.at(self._ranks, places[higher], ranks[higher])

    def _estimate(self) -> int:
        alpha = 0.7213 / (1 + 1.079 / self._SIZE)
        estimate = alpha * self._SIZE**2 / float(np.exp2(-self._ranks.astype(np.float64)).sum())
        empty = int(np.count_nonzero(self._ranks == 0))
        if estimate <= 2.5 * self._SIZE and empty:
            estimate = self._SIZE * float(np.log(self._SIZE / empty))
        return round(estimate)


def _hashes(records: Records) -> npt.NDArray[np.uint64]:
    """Both halves of the trace ids, mixed so that every bit depends on every byte."""
    halves = np.ascontiguousarray(records["trace_id"]).view(np.uint64)
    mixed = halves[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ halves[:, 1]
    # The finalizer of SplitMix64 (Steele et al., 2014).
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    hashes: npt.NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return hashes


@dataclass(slots=True)
class Summary:
    """What a run came to.

    processes: names like `shop 4121`, in the order they were first seen.
    kernel: the counters of the kernel's side.
    exporters: name and final stats of each.
    lost: losses of the pipeline itself, reason -> spans.
    unsampled: spans that were not to be kept, by who decided so; kept_by_tail: those that were
        kept all the same, by why; forgotten_by_tail: those it had no room for.
    rules: lines on how the rules that find parents stand, with --verbose.
    """

    spans: int
    traces: int
    cost: AgentCost
    traces_exact: bool = True
    processes: Sequence[str] = ()
    kernel: Mapping[Counter, int] = field(default_factory=dict)
    exporters: Sequence[tuple[str, ExporterStats]] = ()
    lost: Mapping[str, int] = field(default_factory=dict)
    unsampled: Mapping[str, int] = field(default_factory=dict)
    kept_by_tail: Mapping[str, int] = field(default_factory=dict)
    forgotten_by_tail: int = 0
    rules: Sequence[str] = ()


def kernel_losses(counters: Mapping[Counter, int]) -> dict[str, int]:
    """The counters that stand for something lost, by reason."""
    return {
        counter.name.removeprefix("LOST_").lower(): count
        for counter, count in counters.items()
        if counter.name.startswith("LOST_") and count
    }


def render(summary: Summary) -> str:
    """The summary as lines, the last one ended by a newline."""
    lines = [_headline(summary)]
    if summary.processes:
        lines += _wrapped("processes", summary.processes)
    for name, stats in summary.exporters:
        lines.append(_field("exported", f"{stats.exported:,} by {name}{_queued(stats)}"))
    lines += _not_drawn(summary)
    lines += _sampling(summary)
    lines += _headers(summary)
    lines += _encrypted(summary)
    lines += [_field("rules" if not at else "", text) for at, text in enumerate(summary.rules)]
    lines += _losses(summary)
    lines.append(_field("cost", _cost(summary.cost, summary.spans)))
    return "\n".join(lines) + "\n"


def _headline(summary: Summary) -> str:
    about = "" if summary.traces_exact else "about "
    return (
        f"waggle: {_count(summary.spans, 'span')} in {about}{_count(summary.traces, 'trace')}"
        f" from {_count(len(summary.processes), 'process', 'es')}"
        f" in {summary.cost.wall_s:,.1f} s"
    )


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def _field(name: str, text: str) -> str:
    return f"  {name:<9}  {text}"


def _queued(stats: ExporterStats) -> str:
    queued = f", {stats.queued:,} not sent" if stats.queued else ""
    kept = f", {stats.kept:,} kept on disk for the next run" if stats.kept else ""
    return queued + kept


def _wrapped(name: str, words: Sequence[str], most_lines: int = 3) -> list[str]:
    """The words, as many as fit into a few lines, then how many there are besides."""
    lines: list[str] = [""]
    for number, word in enumerate(words):
        more = f"{word}," if number < len(words) - 1 else word
        if lines[-1] and len(lines[-1]) + len(more) + 1 > _LINE - len(_INDENT) - len(
            "and 9,999 more"
        ):
            if len(lines) == most_lines:
                lines[-1] += f" and {len(words) - number:,} more"
                break
            lines.append("")
        lines[-1] = f"{lines[-1]} {more}".lstrip()
    return [_field(name, lines[0]), *(_INDENT + line for line in lines[1:])]


def _not_drawn(summary: Summary) -> list[str]:
    """What no screen could have shown."""
    spans = sum(stats.lost.get(_NOT_DRAWN, 0) for _, stats in summary.exporters)
    if not spans:
        return []
    return [_field("not drawn", f"{_count(spans, 'span')}: {_MEANINGS[_NOT_DRAWN]}")]


def _sampling(summary: Summary) -> list[str]:
    """What was left out because somebody wanted it so: no loss."""
    if not summary.unsampled:
        return []
    text = f"{_count(sum(summary.unsampled.values()), 'span')} ({_reasons(summary.unsampled)})"
    if kept := sum(summary.kept_by_tail.values()):
        text += f"; {kept:,} of them kept by the tail ({_reasons(summary.kept_by_tail)})"
    if summary.forgotten_by_tail:
        text += f"; {summary.forgotten_by_tail:,} could not wait for a reason: --tail-max"
    return [_field("unsampled", text)]


def _headers(summary: Summary) -> list[str]:
    """What was written into requests for strangers, and what was left alone."""
    counts = {
        counter.name.removeprefix("INJECT_").lower(): count
        for counter, count in summary.kernel.items()
        if counter.name.startswith("INJECT_") and count
    }
    for told in ("enrolled", "left"):
        counts.pop(told, None)
    written = counts.pop("written", 0)
    if not written and not counts:
        return []
    text = f"traceparent written into {_count(written, 'request')}"
    return [_field("headers", text + (f"; not into {_reasons(counts)}" if counts else ""))]


def _encrypted(summary: Summary) -> list[str]:
    """Why requests over TLS are missing, and what shows them."""
    number = summary.kernel.get(Counter.TLS_LEFT_ALONE, 0)
    if not number:
        return []
    left = f"{_count(number, 'connection')} {'was' if number == 1 else 'were'} not looked into"
    return [_field("encrypted", f"{left}: --tls auto does")]


def _reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def _losses(summary: Summary) -> list[str]:
    losses = [(count, reason, "") for reason, count in kernel_losses(summary.kernel).items()]
    losses += [(count, reason, "") for reason, count in summary.lost.items() if count]
    for name, stats in summary.exporters:
        losses += [
            (count, reason, name)
            for reason, count in stats.lost.items()
            if count and reason != _NOT_DRAWN
        ]
    if not losses:
        return [_field("lost", "nothing")]
    losses.sort(key=lambda loss: (-loss[0], loss[1:]))
    width = len(f"{losses[0][0]:,}")
    texts = [f"{count:>{width},} {_reason(reason, name)}" for count, reason, name in losses]
    return [_field("lost", texts[0]), *(_INDENT + text for text in texts[1:])]


def _reason(reason: str, exporter: str) -> str:
    named = f"{exporter} {reason}" if exporter else reason
    meaning = _MEANINGS.get(reason)
    return f"{named}: {meaning}" if meaning else named


def _cost(cost: AgentCost, spans: int) -> str:
    shares = []
    if cost.wall_s > 0:
        shares.append(f"{_percent(cost.cpu_s / cost.wall_s)} of one core")
    if cost.start_cpu_s:
        shares.append(f"{cost.start_cpu_s:.2f} s of it to start")
    if spans:
        # What it took to start would make a short run look dear.
        shares.append(f"{1e6 * (cost.cpu_s - cost.start_cpu_s) / spans:,.1f} us a span")
    share = f" ({', '.join(shares)})" if shares else ""
    memory = f"{cost.peak_memory / 1e6:,.0f} MB of memory at most"
    return f"{cost.cpu_s:,.2f} s of CPU{share}, {memory}"


def _percent(share: float) -> str:
    """With two digits, or all that come before the point."""
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"
