"""What proxies say of a request: Forwarded (RFC 7239), X-Forwarded-For, X-Forwarded-Proto.

Only the first element counts: it was added by the proxy nearest to the client.
"""

import re
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from waggle.columns import Bytes, Positions, Slices, windows
from waggle.probes.http1.targets import parse_authority

_PAIR = re.compile(r'\s*([^=;,\s"]+)=(?:"((?:[^"\\]|\\.)*)"|([^;,"\s]*))\s*([;,]|$)', re.DOTALL)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")

# Columns look at this much of an X-Forwarded-For: the longest IPv6 address and a comma.
_WIDE = 40
_USUAL = re.compile(rb"for=([0-9.]+)(?:;proto=(https?))?(?:,|\Z)")  # read without more ado
_SCHEMES = (None, "http", "https")  # of a Forwarded field that is a column, by variant
_REMEMBERED = 4096  # fields that had to be read one by one


def first_element(header: str) -> dict[str, str]:
    """The parameters of the first element of a Forwarded header, keys in lower case.

    Stops at the first thing that is not by the grammar and keeps what came before.
    """
    found: dict[str, str] = {}
    at = 0
    while pair := _PAIR.match(header, at):
        key, quoted, plain, end = pair.groups()
        value = re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL) if quoted is not None else plain
        found.setdefault(key.lower(), value)
        if end != ";":
            break
        at = pair.end()
    return found


def node_address(node: str) -> str | None:
    """The address in a node (`192.0.2.1:80`, `"[2001:db8::1]"`); None when it hides itself."""
    host = parse_authority(node.strip().strip('"')).host
    if not host or host.lower() == "unknown" or host.startswith("_"):
        return None
    return host


def client_address(forwarded: str, x_forwarded_for: str) -> str | None:
    """Who began the request, by the proxies' word; None when they do not say."""
    named = first_element(forwarded).get("for", "") if forwarded else ""
    return node_address(named) or node_address(x_forwarded_for.partition(",")[0])


def scheme(forwarded: str, x_forwarded_proto: str) -> str | None:
    """The scheme the client used, by the proxies' word; None when they do not say."""
    named = first_element(forwarded).get("proto", "") if forwarded else ""
    for text in (named, x_forwarded_proto.partition(",")[0]):
        candidate = text.strip().lower()
        if _SCHEME.fullmatch(candidate):
            return candidate
    return None


class XForwardedFor:
    """X-Forwarded-For as a varying field: its text is the client's address."""

    def plain(self, values: Slices) -> Positions:
        """Values that begin with a bare address, up to the first comma or the end."""
        found = np.full(len(values.lengths), -1, np.intp)
        rows = (values.starts + _WIDE <= len(values.buffer)).nonzero()[0]
        if len(rows):
            found[rows] = _bare_addresses(values.take(rows))
        return found

    @lru_cache(maxsize=_REMEMBERED)  # noqa: B019  # there is one object
    def read(self, value: bytes) -> tuple[int, int, int] | None:
        client = node_address(value.decode("utf-8", "replace").partition(",")[0]) or ""
        if (node_address(client) or "") != client:
            return None
        return _within(value, client, 0)

    def write(self, text: bytes, variant: int) -> bytes:
        return text


class Forwarded:
    """Forwarded as a varying field: its text is the client's address, its variant the scheme."""

    def plain(self, values: Slices) -> Positions:
        return np.full(len(values.lengths), -1, np.intp)

    def read(self, value: bytes) -> tuple[int, int, int] | None:
        usual = _USUAL.match(value)
        if usual is None:
            return self._read_by_grammar(value)
        start, end = usual.span(1)
        return start, end - start, len(usual[2]) - 3 if usual[2] else 0

    @lru_cache(maxsize=_REMEMBERED)  # noqa: B019  # there is one object
    def _read_by_grammar(self, value: bytes) -> tuple[int, int, int] | None:
        said = value.decode("utf-8", "replace")
        client, named = client_address(said, "") or "", scheme(said, "")
        if named not in _SCHEMES:
            return None
        variant = _SCHEMES.index(named)
        again = self.write(client.encode("utf-8", "replace"), variant).decode()
        if (client_address(again, "") or "", scheme(again, "")) != (client, named):
            return None
        return _within(value, client, variant)

    def write(self, text: bytes, variant: int) -> bytes:
        pairs = [b'for="' + text + b'"'] if text else []
        named = _SCHEMES[variant]
        if named is not None:
            pairs.append(b"proto=" + named.encode())
        return b";".join(pairs)


def _within(value: bytes, text: str, variant: int) -> tuple[int, int, int] | None:
    """Where the text is in the value it was read from, if it is there to be copied."""
    at = value.find(text.encode()) if text.isascii() else -1
    return (at, len(text), variant) if at >= 0 else None


def _bare_addresses(values: Slices) -> Positions:
    """The length of the address each value begins with, -1 where something is unusual.

    Exactly one colon is unusual: it comes before a port.
    """
    text = windows(values.buffer, _WIDE)[values.starts].view(np.uint8).reshape(-1, _WIDE)
    stops = ~_in_addresses(text)
    begins = np.arange(0, text.size, _WIDE)
    ends = stops.argmax(axis=1)
    is_stop = stops.reshape(-1)[begins + ends]
    last = text.reshape(-1)[begins + ends]
    ends = np.minimum(np.where(is_stop, ends, _WIDE), values.lengths)
    bare = (ends > 0) & ((ends == values.lengths) | (last == ord(",")))
    colons = text == ord(":")
    if colons.any():
        bare &= ~_has_one(colons & (np.arange(_WIDE) < ends[:, np.newaxis]))
    return np.where(bare, ends, -1)


def _in_addresses(text: Bytes) -> npt.NDArray[np.bool_]:
    """Which characters addresses are written with; sums, since a table costs ten times as much."""
    found = (text - np.uint8(ord("."))) <= ord(":") - ord(".")  # "./0123456789:", others wrap
    found &= text != ord("/")
    found |= ((text | np.uint8(0x20)) - np.uint8(ord("a"))) <= 5
    return np.asarray(found, np.bool_)


def _has_one(marks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Whether exactly one mark of each row is set."""
    first, behind = marks.argmax(axis=1), marks[:, ::-1].argmax(axis=1)
    rows = np.arange(len(marks))
    return np.asarray(marks[rows, first] & (first + behind == marks.shape[1] - 1), np.bool_)
