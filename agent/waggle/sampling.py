"""What is to be sampled: probabilities, rules, the limit and the tail, as the agent holds them.

Probabilities become rejection thresholds out of 2^56, as in OpenTelemetry's "TraceState:
Probability Sampling"; the kernel compares them with a trace's randomness (bpf/sampling.h).
Loading the programs needs this, so it imports nothing that takes long; sampling_settings.py
makes it of what the user says.
"""

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase

NEVER = 1 << 56  # a threshold that nothing passes
_DIGITS = 14  # hexadecimal, of a threshold
_PRECISION = 4  # of them that say something, which is what OpenTelemetry recommends
_MOST_DIGITS = 12  # the rest has no room in a hand-off

# Bits of the kernel's sampling_mode (enum sampling_mode in bpf/sampling.h).
_ON, _INDEPENDENT, _BY_RULES, _BY_PATHS = 1, 2, 4, 8


def threshold_of(probability: float) -> int:
    """The rejection threshold of a probability from 0 to 1, to four hexadecimal digits behind
    those that are all ones."""
    if probability >= 1:
        return 0
    kept = math.floor(math.ldexp(probability, 56) + 0.5)
    exact = NEVER - kept
    ones = _DIGITS - len(f"{kept - 1 or 1:x}") if kept else _DIGITS
    digits = min(_MOST_DIGITS, ones + _PRECISION)
    unit = 1 << 4 * (_DIGITS - digits)
    rounded = (exact + unit // 2) // unit * unit
    # Whoever asks for little does not mean nothing.
    return min(rounded, NEVER - unit) if probability > 0 else NEVER


def threshold_text(threshold: int) -> str:
    """A threshold as `th` has it: without the zeros at its end."""
    return f"{threshold:0{_DIGITS}x}".rstrip("0") or "0"


@dataclass(frozen=True, slots=True)
class Rule:
    """For traces that begin with a request like this. service: a pattern, "" for any. path: what
    the target begins with, b"" for any; exact: all of it, but for a query."""

    probability: float
    service: str = ""
    path: bytes = b""
    exact: bool = False

    def suits(self, service: str) -> bool:
        """Whether it may be for a process of this service."""
        return not self.service or fnmatchcase(service, self.service)


@dataclass(frozen=True, slots=True)
class Tail:
    """What is kept of traces that were dropped here: those with an error, with a span that took
    slow_s seconds, or longer than 95 of 100 requests of its route. hold_s: how long spans wait
    for a reason to be kept; max_bytes: all together."""

    errors: bool = False
    slow_s: float | None = None
    p95: bool = False
    hold_s: float = 10.0
    max_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Sampling:
    """Everything about sampling. By itself: parentbased_always_on, with nothing to decide."""

    probability: float = 1.0
    independent: bool = False  # decides even where the caller has decided
    rules: tuple[Rule, ...] = ()
    limit: float | None = None  # traces a second
    tail: Tail | None = None

    @property
    def mode(self) -> int:
        """The kernel's sampling_mode; 0 where there is nothing to decide."""
        decides = self.probability < 1 or self.independent or self.rules or self.limit
        if not decides:
            return 0
        independent = _INDEPENDENT if self.independent else 0
        rules = _BY_RULES if self.rules else 0
        return _ON | independent | rules | (_BY_PATHS if self.by_path else 0)

    @property
    def by_path(self) -> bool:
        return any(rule.path for rule in self.rules)

    @property
    def by_service(self) -> bool:
        return any(rule.service for rule in self.rules)

    def rules_for(self, service: str) -> int:
        """One bit for each rule that may be for a process of this service: bit n is rule n."""
        return sum(1 << n for n, rule in enumerate(self.rules, 1) if rule.suits(service))

    @property
    def rules_for_all(self) -> int:
        """The same for a process whose name is not known yet."""
        return sum(1 << n for n, rule in enumerate(self.rules, 1) if not rule.service)

    @property
    def probabilities(self) -> tuple[float, ...]:
        """By number of the rule; number 0 is the sampler itself."""
        return (self.probability, *(rule.probability for rule in self.rules))
