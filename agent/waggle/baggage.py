"""The header `baggage`, as attributes of spans: of the keys that were asked for, and no others.

https://www.w3.org/TR/baggage/ ; what is in it belongs to the application, and may be private.
"""

import fnmatch
from collections.abc import Sequence
from urllib.parse import unquote

MAX_MEMBERS = 64  # of one header, as the specification has it
MAX_VALUE = 256  # characters of a value that become an attribute


class Baggage:
    """Which members of a request's baggage become attributes: those whose key matches."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self.patterns = tuple(patterns)

    def attributes(self, header: str) -> dict[str, str]:
        """`baggage.KEY` for each member that was asked for; what breaks the rules is left out."""
        found: dict[str, str] = {}
        if not self.patterns:
            return found
        for member in header.split(",")[:MAX_MEMBERS]:
            key, equals, value = member.partition(";")[0].partition("=")
            key = key.strip()
            if equals and key and self._wanted(key):
                found[f"baggage.{key}"] = unquote(value.strip())[:MAX_VALUE]
        return found

    def _wanted(self, key: str) -> bool:
        return any(fnmatch.fnmatchcase(key, pattern) for pattern in self.patterns)


#: Of this run; nobody's, unless the settings name keys.
BAGGAGE = Baggage()
