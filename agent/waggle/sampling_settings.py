"""What is to be sampled: the standard variables, our rules, the limit and the tail, checked once.

    OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG      the sampler, as any OpenTelemetry SDK has it
    --sample 'service=checkout,path=/health*:0'       rules for traces that begin here, first wins
    --sample-limit 100                                traces a second
    --tail error,slow=500ms,p95                       what is kept all the same

sampling.py has what comes of it.
"""

import math
from collections.abc import Mapping

from waggle.config import Settings, nearest
from waggle.errors import UsageError
from waggle.sampling import Rule, Sampling, Tail

SAMPLER = "OTEL_TRACES_SAMPLER"
ARGUMENT = "OTEL_TRACES_SAMPLER_ARG"
MOST_RULES = 15  # WAGGLE_SAMPLE_RULES without the one for everything else
LONGEST_PATH = 64  # bytes: WAGGLE_SAMPLE_PATH

_PARENT_BASED = "parentbased_"
_ROOTS = ("always_on", "always_off", "traceidratio")
_KNOWN = (*_ROOTS, *(_PARENT_BASED + name for name in _ROOTS))
_REMOTE = ("jaeger_remote", "parentbased_jaeger_remote", "xray")
_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_TAIL_TERMS = ("error", "slow=500ms", "p95", "hold=10s")


def sampling_of(settings: Settings, environ: Mapping[str, str]) -> Sampling:
    """All of it, from settings and environment. Raises UsageError for what cannot be used."""
    probability, independent = _sampler(environ)
    rules = tuple(_rule(text) for text in settings.sample)
    if len(rules) > MOST_RULES:
        raise UsageError(f"--sample: {len(rules)} rules are too many, {MOST_RULES} are possible")
    for number, rule in enumerate(rules[:-1]):
        if not rule.service and not rule.path:
            raise UsageError(
                f"--sample {settings.sample[number]}: no rule behind it can ever apply: "
                "put what is for everything last"
            )
    tail = _tail(settings)
    sampling = Sampling(probability, independent, rules, settings.sample_limit, tail)
    if tail is not None and not sampling.mode:
        raise UsageError(
            "--tail keeps what a sampler drops, and nothing is dropped: "
            f"add --sample 0.1, --sample-limit or {SAMPLER}"
        )
    return sampling


def _sampler(environ: Mapping[str, str]) -> tuple[float, bool]:
    """Probability, and whether it holds for traces of others too."""
    given = environ.get(SAMPLER, "").strip()
    name = given.lower()
    if not name:
        return 1.0, False
    if name in _REMOTE:
        raise UsageError(
            f"{SAMPLER}={given}: samplers that ask a server are not supported: "
            f"known are {', '.join(_KNOWN)}"
        )
    if name not in _KNOWN:
        raise UsageError(f"{SAMPLER}={given}: no such sampler: {nearest(name, _KNOWN)}")
    root = name.removeprefix(_PARENT_BASED)
    independent = root == name
    if root == "always_on":
        return 1.0, independent
    if root == "always_off":
        return 0.0, independent
    return _ratio(environ), independent


def _ratio(environ: Mapping[str, str]) -> float:
    text = environ.get(ARGUMENT, "").strip()
    if not text:
        return 1.0  # the specification's default
    return _probability(text, f"{ARGUMENT}={text}")


def _probability(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise UsageError(f"{where}: expected a probability from 0 to 1, such as 0.1")
    return value


def _rule(text: str) -> Rule:
    where = f"--sample {text}"
    conditions, colon, probability = text.rpartition(":")
    chosen = _probability(probability.strip(), where)
    if not colon:
        return Rule(chosen)
    given: dict[str, str] = {}
    for condition in conditions.split(","):
        key, equals, value = (part.strip() for part in condition.partition("="))
        if key not in ("service", "path") or not equals or not value:
            raise UsageError(
                f"{where}: '{condition}' is no condition: expected service=NAME or path=/PATH"
            )
        if key in given:
            raise UsageError(f"{where}: {key} is there twice: give two rules")
        given[key] = value
    path, exact = _path(given.get("path", ""), where)
    return Rule(chosen, given.get("service", ""), path, exact)


def _path(text: str, where: str) -> tuple[bytes, bool]:
    """What a target must begin with, and whether that is all."""
    if not text:
        return b"", False
    path = text.removesuffix("*")
    encoded = path.encode()
    if not path.startswith("/") or "*" in path or "?" in path:
        raise UsageError(
            f"{where}: the kernel compares the beginning of a path: it starts with /, "
            "and a * may only end it"
        )
    if len(encoded) > LONGEST_PATH:
        raise UsageError(
            f"{where}: the path has {len(encoded)} bytes, {LONGEST_PATH} are looked at: "
            "cut it and end it with *"
        )
    from waggle.path_codes import code_bits

    if (bits := code_bits(encoded)) > 8 * LONGEST_PATH:
        raise UsageError(
            f"{where}: the path takes {(bits + 7) // 8} bytes in HTTP/2's Huffman code, "
            f"{LONGEST_PATH} are looked at: cut it and end it with *"
        )
    return encoded, path == text


def _tail(settings: Settings) -> Tail | None:
    if not settings.tail:
        return None
    found: dict[str, float | bool] = {}
    for term in settings.tail:
        name, _, value = term.partition("=")
        if name in ("error", "p95") and not value:
            found[name] = True
        elif name in ("slow", "hold"):
            found[name] = _seconds(value, term)
        else:
            raise UsageError(f"--tail: no term '{term}': {nearest(term, _TAIL_TERMS)}")
    slow = float(found["slow"]) if "slow" in found else None
    tail = Tail("error" in found, slow, "p95" in found, max_bytes=settings.tail_max)
    if not (tail.errors or tail.slow_s is not None or tail.p95):
        raise UsageError("--tail: say what is to be kept: error, slow=500ms or p95")
    if "hold" not in found:
        return tail
    return Tail(tail.errors, tail.slow_s, tail.p95, float(found["hold"]), tail.max_bytes)


def _seconds(text: str, term: str) -> float:
    for unit in ("us", "ms", "s"):
        digits = text.removesuffix(unit)
        if digits != text and digits.replace(".", "", 1).isdecimal() and float(digits) > 0:
            return float(digits) * _UNITS_S[unit]
    raise UsageError(f"--tail {term}: expected a time such as 500ms or 2s")
