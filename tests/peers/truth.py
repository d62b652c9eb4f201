"""Right, wrong or none: the parents an agent found, against the numbers in the requests.

A program under test serves request n (a path that ends in /<n>) and calls others with the same
number. So of each call's span it is known which request's span must be its parent, whatever the
language, the library and the way in between.

    truth = judge(spans, caller_pids=server.pids(), called_pids=called.pids())
    assert truth.verdicts["wrong"] == 0, truth.examples("wrong")
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from .agent import SeenSpan

Verdict = Literal["right", "wrong", "none"]
_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Judged:
    """One call, the request whose number it has (None: that has no span), and the verdict.
    is_split: the called server's span is not the call's child, or in another trace. is_astray: it
    has no parent, and yet the trace of another request."""

    call: SeenSpan
    request: SeenSpan | None
    verdict: Verdict
    is_split: bool
    is_astray: bool


@dataclass(frozen=True, slots=True)
class Truth:
    """What was found out of one program: its requests by number, and its calls."""

    requests: Mapping[int, SeenSpan]
    calls: tuple[Judged, ...]

    @property
    def verdicts(self) -> Counter[Verdict]:
        return Counter(judged.verdict for judged in self.calls)

    @property
    def links(self) -> Counter[str | None]:
        """By which evidence the calls have their parents."""
        return Counter(judged.call.link for judged in self.calls)

    @property
    def split(self) -> int:
        """Calls whose called server is not below them in their trace."""
        return sum(judged.is_split for judged in self.calls)

    @property
    def astray(self) -> int:
        """Calls without a parent that are in the trace of a request that is not theirs."""
        return sum(judged.is_astray for judged in self.calls)

    def within(self, numbers: Collection[int]) -> "Truth":
        """The part that has these numbers."""
        requests = {n: span for n, span in self.requests.items() if n in numbers}
        return Truth(requests, tuple(one for one in self.calls if one.call.number in numbers))

    def examples(self, verdict: Verdict) -> list[str]:
        """Some calls with that verdict, in words."""
        found = [judged for judged in self.calls if judged.verdict == verdict]
        return [_in_words(judged, self.requests) for judged in found[:_EXAMPLES]]


def judge(
    spans: Iterable[SeenSpan], caller_pids: Collection[int], called_pids: Collection[int] = ()
) -> Truth:
    """The truth about the program whose processes are `caller_pids`. Its calls to processes that
    are not among `called_pids` are not looked at for being split.

    A request that got no answer, since the server closed the connection, and was sent again, counts
    once. Raises AssertionError when a number was answered twice.
    """
    spans = [span for span in spans if span.number is not None]
    requests: dict[int, SeenSpan] = {}
    below: dict[str, list[SeenSpan]] = defaultdict(list)
    unclaimed: Counter[int | None] = Counter()
    for span in spans:
        if span.kind != "server":
            continue
        if span.pid in caller_pids:
            assert span.number is not None
            known = requests.get(span.number)
            assert not (known and _is_answered(known) and _is_answered(span)), (
                f"request {span.number} was answered twice"
            )
            if known is None or _is_answered(span):
                requests[span.number] = span
        elif span.pid in called_pids:
            below[span.parent_id].append(span)
            unclaimed[span.number] += 1
    calls = [span for span in spans if span.kind == "client" and span.pid in caller_pids]
    seen = _Seen(requests, below, unclaimed)
    for number, request in requests.items():
        seen.traces[request.trace_id].add(number)
    return Truth(requests, tuple(_judged(call, seen) for call in calls))


@dataclass(frozen=True, slots=True)
class _Seen:
    """What calls are judged by. below: spans of the called servers by their parent; called: how
    many of them each number has; traces: which requests are in each."""

    requests: Mapping[int, SeenSpan]
    below: Mapping[str, list[SeenSpan]]
    called: Mapping[int | None, int]
    traces: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))


def _is_answered(span: SeenSpan) -> bool:
    codes = ("http.response.status_code", "rpc.response.status_code")
    return any(code in span.attributes for code in codes)


def _judged(call: SeenSpan, seen: _Seen) -> Judged:
    request = seen.requests.get(call.number or 0)
    verdict: Verdict = "none"
    if call.parent_id:
        wanted = (request.span_id, request.trace_id) if request else None
        verdict = "right" if (call.parent_id, call.trace_id) == wanted else "wrong"
    answered_by = seen.below.get(call.span_id, [])
    is_whole = any(span.trace_id == call.trace_id for span in answered_by)
    others = seen.traces.get(call.trace_id, set())
    is_astray = verdict == "none" and bool(others) and call.number not in others
    is_split = bool(seen.called.get(call.number)) and not is_whole
    return Judged(call, request, verdict, is_split, is_astray)


def _in_words(judged: Judged, requests: Mapping[int, SeenSpan]) -> str:
    call = judged.call
    owner = next((n for n, span in requests.items() if span.span_id == call.parent_id), None)
    taken = f"that of request {owner}" if owner else f"span {call.parent_id or '-'}"
    return f"call {call.number} (by {call.link}): its parent is {taken} in trace {call.trace_id}"
