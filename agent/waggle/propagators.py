"""Which headers of a request say whose child it is: OTEL_PROPAGATORS, for what comes in.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

_VARIABLE = "OTEL_PROPAGATORS"

# By the name that the specification gives a propagator: the format that it reads. The two of
# B3 differ in what they send; both read one header, or else several ("B3 Requirements").
_FORMATS: Mapping[str, str] = {
    "tracecontext": "tracecontext",
    "b3": "b3",
    "b3multi": "b3",
    "jaeger": "jaeger",
    "xray": "xray",
    "opencensus": "trace_bin",
}
FORMATS = tuple(dict.fromkeys(_FORMATS.values()))
_NO_FORMAT = ("baggage", "none")  # known, and no trace context


@dataclass(frozen=True, slots=True)
class Propagators:
    """The formats to look for. The first of which a request has a valid context counts."""

    strongest_first: tuple[str, ...] = FORMATS

    @property
    def beside_traceparent(self) -> bool:
        """Whether any other format than W3C's is looked for."""
        return any(name != "tracecontext" for name in self.strongest_first)

    def variables(self) -> dict[str, int]:
        """What the kernel side is told, by name of its variable (bpf/maps.h)."""
        ranks = {name: rank for rank, name in enumerate(self.strongest_first, 1)}
        return {f"rank_of_{name}": ranks.get(name, 0) for name in FORMATS}


def propagators_of(environ: Mapping[str, str], say: Callable[[str], None]) -> Propagators:
    """What OTEL_PROPAGATORS asks for; all formats, W3C's first, where it says nothing.

    Listed propagators extract one after the other, and each that finds a valid context
    replaces what was found before, as in every SDK: so the last of the list is the strongest.
    """
    listed = environ.get(_VARIABLE, "").strip()
    if not listed:
        return Propagators()
    names = [name for name in (part.strip().lower() for part in listed.split(",")) if name]
    unknown = dict.fromkeys(name for name in names if name not in (*_FORMATS, *_NO_FORMAT))
    if unknown:
        known = ", ".join((*_FORMATS, *_NO_FORMAT))
        say(f"{_VARIABLE}: nothing reads {', '.join(unknown)} here; known are {known}")
    if "none" in names:
        return Propagators(())
    found = [_FORMATS[name] for name in names if name in _FORMATS]
    return Propagators(tuple(dict.fromkeys(reversed(found))))
