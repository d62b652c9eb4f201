"""One HTTP/1 exchange as the stable HTTP conventions want it (span names, kinds, attributes).

https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

import os
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from waggle.layout import Flag, Kept, Method, Protocol, Role, Version
from waggle.probes.go.handlers import HANDLERS
from waggle.probes.http1 import forwarded, targets
from waggle.spans import (
    END_ERRORS,
    KIND_CLIENT,
    KIND_SERVER,
    Attributes,
    Decoded,
    Exchange,
    Facts,
    Targets,
    VaryingField,
    connection_address,
    is_unix,
)

KNOWN_METHODS_VARIABLE = "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS"

_KNOWN_METHODS = frozenset(m.name for m in Method if m != Method.OTHER) | {"QUERY"}
_METHOD_NAMES: Mapping[int, str] = {m.value: m.name for m in Method if m != Method.OTHER}
_VERSIONS: Mapping[int, str] = {10: "1.0", 11: "1.1", 20: "2"}
_INT64_MAX = (1 << 63) - 1


def known_methods(environ: Mapping[str, str]) -> frozenset[str]:
    """The methods that are not `_OTHER`; the conventions let a variable replace the list."""
    listed = environ.get(KNOWN_METHODS_VARIABLE, "")
    names = frozenset(name.strip() for name in listed.split(",")) - {""}
    return names or _KNOWN_METHODS


class Http1Decoder:
    """Decodes records of layout.Protocol.HTTP1; `methods` are the known ones."""

    protocol: int = Protocol.HTTP1
    varying: Mapping[int, VaryingField] = {
        Kept.X_FORWARDED_FOR: forwarded.XForwardedFor(),
        Kept.FORWARDED: forwarded.Forwarded(),
    }

    def __init__(self, methods: frozenset[str] = _KNOWN_METHODS) -> None:
        self._methods = methods

    def decode(self, exchange: Exchange, scheme: str = "") -> Decoded:
        """The exchange; scheme: of a request whose target and proxies name none, where it is
        known better than by whether it was encrypted."""
        attributes: Attributes = {}
        scheme = scheme or default_scheme(exchange.facts)
        method = self._method(exchange, attributes)
        if exchange.facts.role == Role.SERVER:
            kind = KIND_SERVER
            _server_attributes(exchange, attributes, scheme)
            if route := route_of(exchange.text(Kept.ROUTE)):
                attributes["http.route"] = route
                method = f"{method} {route}"
            if function := _handler(exchange):
                attributes["code.function.name"] = function
        else:
            kind = KIND_CLIENT
            _client_attributes(exchange, attributes, scheme)
        _common_attributes(exchange, attributes)
        error, message = _outcome(exchange.facts, attributes)
        return Decoded(method, kind, attributes, error, message)

    def plain_targets(self, columns: Targets) -> npt.NDArray[np.bool_]:
        return targets.plain_targets(columns)

    def _method(self, exchange: Exchange, attributes: Attributes) -> str:
        """Sets the method's attributes and returns what stands for it in a span's name."""
        text = _METHOD_NAMES.get(exchange.facts.method) or exchange.text(Kept.METHOD)
        if text in self._methods:
            attributes["http.request.method"] = text
            return text
        attributes["http.request.method"] = "_OTHER"
        if text:
            attributes["http.request.method_original"] = text
        return "HTTP"


def _handler(exchange: Exchange) -> str:
    """The function that a router chose; "" where that is not known."""
    number = exchange.kept.get(Kept.HANDLER)
    return HANDLERS.name(int.from_bytes(number, "little")) if number else ""


def route_of(pattern: str) -> str:
    """The path of a pattern of Go's ServeMux, "[METHOD ][HOST]/PATH", or of another router.
    Empty where that says nothing: "/" matches whatever nothing else does. A router of chi's
    within another says "/*" for what the inner one matches, and "/" for nothing more."""
    path = pattern[pattern.index("/") :] if "/" in pattern else ""
    if "/*/" in path:
        while "/*/" in path:
            path = path.replace("/*/", "/")
        path = path.rstrip("/") or "/"
    return "" if path == "/" else path


def _server_attributes(exchange: Exchange, attributes: Attributes, default: str) -> None:
    facts = exchange.facts
    target = _target(exchange)
    said = exchange.text(Kept.FORWARDED)
    scheme = forwarded.scheme(said, exchange.text(Kept.X_FORWARDED_PROTO)) or target.scheme
    scheme = scheme or default
    attributes["url.scheme"] = scheme
    attributes["url.path"] = target.path
    if target.query:
        attributes["url.query"] = target.query
    local = connection_address(facts, facts.local_addr)
    server_address(_authority(exchange, target), scheme, local, facts, attributes)
    client = forwarded.client_address(said, exchange.text(Kept.X_FORWARDED_FOR))
    client = client or exchange.peer
    if client is not None:
        attributes["client.address"] = client
    user_agent = exchange.text(Kept.USER_AGENT)
    if user_agent:
        attributes["user_agent.original"] = user_agent


def _client_attributes(exchange: Exchange, attributes: Attributes, default: str) -> None:
    facts = exchange.facts
    target = _target(exchange)
    scheme = target.scheme or default
    authority = _authority(exchange, target)
    rest = "" if target.path == "*" else target.rest
    server_address(authority, scheme, exchange.peer, facts, attributes)
    shown = (
        targets.redact_userinfo(authority)
        if authority.host
        else _peer_authority(attributes, scheme)
    )
    attributes["url.full"] = f"{scheme}://{shown}{rest}"


def default_scheme(facts: Facts) -> str:
    """Of a request that does not say it."""
    return "https" if facts.flags & Flag.TLS else "http"


def tls_attributes(facts: Facts) -> Attributes:
    """Which TLS a connection speaks; nothing where that was not seen.

    https://opentelemetry.io/docs/specs/semconv/registry/attributes/tls/
    """
    minor = facts.version >> Version.TLS_SHIFT
    if not minor:
        return {}
    return {"tls.protocol.name": "tls", "tls.protocol.version": f"1.{minor - 1}"}


def _target(exchange: Exchange) -> targets.Target:
    text = exchange.target.decode("utf-8", "replace")
    return targets.parse_target(text, exchange.facts.method == Method.CONNECT)


def _authority(exchange: Exchange, target: targets.Target) -> targets.Authority:
    """Where the request is for: the target says it, or else the Host header does."""
    return targets.parse_authority(target.authority or exchange.text(Kept.HOST))


def server_address(
    authority: targets.Authority,
    scheme: str,
    address: str | None,
    facts: Facts,
    attributes: Attributes,
) -> None:
    """server.address and server.port; `address` is the server's end of the connection."""
    if authority.host:
        attributes["server.address"] = authority.host
        port = authority.port or targets.DEFAULT_PORTS.get(scheme)
        if port is not None:
            attributes["server.port"] = port
        return
    if address is not None:
        attributes["server.address"] = address
        attributes["server.port"] = (
            facts.local_port if facts.role == Role.SERVER else facts.peer_port
        )
    elif facts.role != Role.SERVER:  # required of clients; a UNIX socket's server is this host
        attributes["server.address"] = "localhost"
        attributes["server.port"] = targets.DEFAULT_PORTS[scheme if scheme == "https" else "http"]


def _peer_authority(attributes: Attributes, scheme: str) -> str:
    """The authority of a URL whose request named none: what the connection goes to."""
    host, port = str(attributes["server.address"]), attributes["server.port"]
    if ":" in host:
        host = f"[{host}]"
    return host if port == targets.DEFAULT_PORTS.get(scheme) else f"{host}:{port}"


def _common_attributes(exchange: Exchange, attributes: Attributes) -> None:
    facts = exchange.facts
    if facts.status:
        attributes["http.response.status_code"] = facts.status
    if is_unix(facts):
        attributes["network.transport"] = "unix"
    if exchange.peer is not None:
        attributes["network.peer.address"] = exchange.peer
        attributes["network.peer.port"] = facts.peer_port
    version = _VERSIONS.get(facts.version & Version.HTTP_MASK)
    if version is not None:
        attributes["network.protocol.version"] = version
    attributes |= tls_attributes(facts)
    if facts.flags & Flag.REQUEST_BODY:
        attributes["http.request.body.size"] = min(facts.request_body, _INT64_MAX)
    if facts.flags & Flag.RESPONSE_BODY:
        attributes["http.response.body.size"] = min(facts.response_body, _INT64_MAX)
    if facts.flags & Flag.TARGET_CUT:
        attributes["waggle.target.truncated"] = True


def _outcome(facts: Facts, attributes: Attributes) -> tuple[bool, str]:
    """Sets error.type; returns whether the span is an error, and its description.

    A status that is an error names itself, so it wins and needs no description.
    """
    if facts.status >= (500 if facts.role == Role.SERVER else 400):
        attributes["error.type"] = str(facts.status)
        return True, ""
    failure = END_ERRORS.get(facts.end)
    if failure is None:
        return False, ""
    attributes["error.type"] = failure[0]
    return True, failure[1]


DECODER = Http1Decoder(known_methods(os.environ))
