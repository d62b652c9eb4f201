"""What proxies say of a request: Forwarded (RFC 7239), X-Forwarded-For, X-Forwarded-Proto.

Only the first element counts: it was added by the proxy nearest to the client.
"""

import re

from waggle.probes.http1.targets import parse_authority

_PAIR = re.compile(r'\s*([^=;,\s"]+)=(?:"((?:[^"\\]|\\.)*)"|([^;,"\s]*))\s*([;,]|$)', re.DOTALL)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")


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
