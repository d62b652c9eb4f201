"""Request targets and authorities, and the parts of them that must not be shown.

Sources: RFC 9112 section 3.2 (the four forms of a target), RFC 3986 section 3.2
(authority), the HTTP conventions' notes on url.full and url.query.
"""

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from waggle.columns import gather_bytes, windows, words
from waggle.spans import Targets

REDACTED = "REDACTED"
DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

_ABSOLUTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)(.*)", re.DOTALL)
_PAIR = re.compile(r"([^&;=]*)=([^&;]*)")

# A key is credential-like when it holds one of the words, or is or ends in one of
# the short names. The conventions' list (X-Amz-Signature, X-Amz-Credential,
# X-Amz-Security-Token, X-Goog-Signature, Signature, AWSAccessKeyId, sig) is part of it.
_WORDS = ("token", "secret", "passw", "passphrase", "credential", "signature", "authoriz")
_ENDINGS = ("key", "keyid", "key_id", "key-id", "pwd", "sig", "auth", "jwt", "sid", "session")
_CREDENTIAL = re.compile(
    f"(?:{'|'.join(_WORDS)})|(?:^|[^a-z]|api|access|private){_ENDINGS[0]}\\Z"
    f"|accesskey|(?:^|[^a-z])(?:{'|'.join(map(re.escape, _ENDINGS[1:]))})\\Z",
    re.ASCII,
)
# What a query must contain (lower-case) to hold any such key: checked on whole batches.
_SUSPECTS = tuple(w.encode() for w in (*_WORDS, "accesskey", *(e + "=" for e in _ENDINGS)))


class Target(NamedTuple):
    """A request target in its parts; `scheme` and `authority` are empty in origin-form."""

    scheme: str
    authority: str
    path: str
    query: str
    rest: str  # path and query as they follow the authority in a URL, redacted


class Authority(NamedTuple):
    """Host without brackets, port or None, and what was before the '@' (or None)."""

    host: str
    port: int | None
    userinfo: str | None
    text: str  # host and port as they were written, without userinfo


def parse_target(text: str, is_connect: bool) -> Target:
    """Take a target of any of the four forms apart; anything else counts as a path."""
    if text.startswith("/"):
        return _with_rest("", "", text)
    if is_connect:
        return Target("", text, "", "", "")
    if text == "*":  # the target URI has no path; url.path names what was asked for
        return Target("", "", "*", "", "")
    absolute = _ABSOLUTE.fullmatch(text)
    if absolute is None:
        return _with_rest("", "", text)
    scheme, authority, rest = absolute.groups()
    return _with_rest(scheme.lower(), authority, rest)


def _with_rest(scheme: str, authority: str, rest: str) -> Target:
    path, mark, query = rest.partition("?")
    query = redact_query(query)
    full = path + mark + query
    if full and full[0] not in "/?":  # not a legal target: keep it apart from the host
        full = "/" + full
    return Target(scheme, authority, path or "/", query, full)


@lru_cache(maxsize=1024)
def parse_authority(text: str) -> Authority:
    """`host`, `host:port`, `[v6]:port`, with or without userinfo."""
    before, at, text = text.strip().rpartition("@")
    userinfo = before if at else None
    if text.startswith("["):
        host, _, after = text[1:].partition("]")
        return Authority(host, _port(after.removeprefix(":")), userinfo, text)
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return Authority(host, _port(port), userinfo, text)
    return Authority(text, None, userinfo, text)


def _port(text: str) -> int | None:
    if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 0xFFFF:
        return int(text)
    return None


def redact_userinfo(authority: Authority) -> str:
    """The authority for a URL, with names and passwords replaced."""
    if authority.userinfo is None:
        return authority.text
    hidden = f"{REDACTED}:{REDACTED}" if ":" in authority.userinfo else REDACTED
    return f"{hidden}@{authority.text}"


def redact_query(query: str) -> str:
    """The query with the values of credential-like keys replaced."""
    if "=" not in query:
        return query
    return _PAIR.sub(_redacted_pair, query)


def _redacted_pair(pair: re.Match[str]) -> str:
    key = pair[1]
    if _CREDENTIAL.search(key.lower()):
        return f"{key}={REDACTED}"
    return pair[0]


def plain_targets(targets: Targets) -> npt.NDArray[np.bool_]:
    """Which of the (ASCII) targets are in origin-form and hold nothing to be redacted."""
    plain = targets.lengths > 0
    at = np.where(plain, targets.starts, 0)
    plain &= targets.buffer[at] == ord("/")
    queries = (plain & (targets.queries < targets.lengths)).nonzero()[0]
    if len(queries):
        asking = targets if len(queries) == len(plain) else targets.take(queries)
        plain[queries[_suspects(asking)]] = False
    return plain


def _suspects(targets: Targets) -> npt.NDArray[np.intp]:
    """Rows whose query may hold a credential; a few more is no harm, one less is.

    First all queries at once by four letters of each word, then the few that have
    such letters one by one.
    """
    starts = targets.starts + targets.queries
    lengths = targets.lengths - targets.queries
    widest = int(lengths.max())
    if _are_much_the_same(lengths, widest) and int(starts.max()) + widest <= len(targets.buffer):
        # As wide as the widest: what lies behind shorter ones may look suspicious, no more.
        text = windows(targets.buffer, widest)[starts].view(np.uint8)
        rows = _hits(text) // widest
    else:
        text = gather_bytes(targets.buffer, starts, lengths)
        rows = np.searchsorted(np.cumsum(lengths), _hits(text), side="right")
    guilty = [
        row
        for row in np.unique(rows).tolist()
        if _SUSPECT.search(targets.buffer[starts[row] : starts[row] + lengths[row]].tobytes())
    ]
    return np.array(guilty, np.intp)


def _are_much_the_same(lengths: npt.NDArray[np.intp], widest: int) -> bool:
    """Whether as many windows of the widest are not much more than the texts themselves."""
    return widest * len(lengths) <= 2 * int(lengths.sum())


def _hits(text: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """Where four letters are that end a suspicious word."""
    return _QUADS.take(_quads(text), mode="clip").nonzero()[0]


def _quads(text: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """A 16-bit hash of every four neighbouring letters, upper and lower case alike."""
    folded = words(text) | np.uint32(0x20202020)
    return (folded * np.uint32(0x9E3779B1)) >> np.uint32(16)


def _quad_table() -> npt.NDArray[np.bool_]:
    table = np.zeros(1 << 16, np.bool_)
    for word in _SUSPECTS:
        # The last four: where words differ most, and '=' rules most places out. Three would not
        # tell `?id=`, which is everywhere, from `keyid=`.
        table[_quads(np.frombuffer(word[-4:], np.uint8))] = True
    return table


_SUSPECT = re.compile(b"(?i)" + b"|".join(map(re.escape, _SUSPECTS)))
_QUADS = _quad_table()
