"""HTTP/1 spans against the stable HTTP semantic conventions."""

import importlib
import pkgutil
import socket
from collections.abc import Mapping
from typing import Any

import numpy as np
import opentelemetry.semconv.attributes as stable_attributes
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.semconv._incubating.attributes import http_attributes

from unit.records import address, batch, record
from waggle.layout import End, Flag, Kept, Method, Role
from waggle.probes.http1.decode import Http1Decoder, known_methods, route_of
from waggle.probes.http1.forwarded import client_address, first_element
from waggle.probes.http1.targets import parse_authority, plain_targets, redact_query
from waggle.spans import KIND_CLIENT, KIND_SERVER, Span, Targets, decode_span, read_exchange

HOST = {Kept.HOST: b"shop.test:8080"}
CONNECT = {"method": Method.CONNECT, "role": Role.CLIENT}


def server(target: bytes = b"/", kept: Any = HOST, **columns: Any) -> Span:
    return decode_span(batch([record(target, kept, role=Role.SERVER, **columns)]), 0)


def client(target: bytes = b"/", kept: Any = HOST, **columns: Any) -> Span:
    values = {"role": Role.CLIENT, "peer_port": 9000, **columns}
    return decode_span(batch([record(target, kept, **values)]), 0)


def published_names() -> set[str]:
    """Every attribute name of the conventions package that is stable, and two that are not.

    The body sizes are still in development; they are opt-in for both kinds of spans.
    """
    names = {http_attributes.HTTP_REQUEST_BODY_SIZE, http_attributes.HTTP_RESPONSE_BODY_SIZE}
    path, prefix = stable_attributes.__path__, stable_attributes.__name__ + "."
    for module in pkgutil.iter_modules(path, prefix):
        values = vars(importlib.import_module(module.name)).items()
        names |= {value for name, value in values if name.isupper() and isinstance(value, str)}
    return names


EVERYTHING = {
    Kept.HOST: b"shop.test:8080",
    Kept.USER_AGENT: b"curl/8",
    Kept.FORWARDED: b"for=192.0.2.1;proto=https",
    Kept.METHOD: b"BREW",
    Kept.TRACESTATE: b"a=1",
}


@pytest.mark.parametrize("role", [Role.SERVER, Role.CLIENT])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
@pytest.mark.parametrize("status", [0, 200, 500])
def test_every_emitted_name_is_published(role: Role, family: int, status: int) -> None:
    """All attributes are of the conventions, but for those under waggle."""
    flags = 0
    for flag in Flag:
        flags |= 0 if flag == Flag.NO_POSITION else flag
    made = record(
        b"/a?b=c",
        EVERYTHING,
        role=role,
        family=family,
        status=status,
        flags=flags,
        method=Method.OTHER,
        end=End.RESET,
    )
    emitted = set(decode_span(batch([made]), 0).attributes)
    assert len(emitted) > 10
    ours = {name for name in emitted if name.startswith("waggle.")}
    assert ours == {
        "waggle.after_response",
        "waggle.link.method",
        "waggle.resynced",
        "waggle.target.truncated",
    }
    assert emitted - ours <= published_names()


def test_a_server_span_has_what_is_required_and_recommended() -> None:
    """A plain request gives exactly the attributes of the conventions' table."""
    span = server(
        b"/items/7?page=2",
        {**HOST, Kept.USER_AGENT: b"curl/8"},
        status=201,
        flags=Flag.REQUEST_BODY | Flag.RESPONSE_BODY,
        request_body=10,
        response_body=20,
        method=Method.POST,
        link=0,
    )
    assert (span.name, span.kind, span.error) == ("POST", KIND_SERVER, False)
    assert span.attributes == {
        "http.request.method": "POST",
        "url.scheme": "http",
        "url.path": "/items/7",
        "url.query": "page=2",
        "server.address": "shop.test",
        "server.port": 8080,
        "client.address": "10.0.0.2",
        "user_agent.original": "curl/8",
        "http.response.status_code": 201,
        "network.peer.address": "10.0.0.2",
        "network.peer.port": 41234,
        "network.protocol.version": "1.1",
        "http.request.body.size": 10,
        "http.response.body.size": 20,
    }


def test_a_client_span_has_what_is_required_and_recommended() -> None:
    """A plain request gives exactly the attributes of the conventions' table."""
    span = client(
        b"/items/7?page=2", {**HOST, Kept.USER_AGENT: b"curl/8"}, version=10, flags=0, link=0
    )
    assert (span.name, span.kind, span.error) == ("GET", KIND_CLIENT, False)
    assert span.attributes == {
        "http.request.method": "GET",
        "server.address": "shop.test",
        "server.port": 8080,
        "url.full": "http://shop.test:8080/items/7?page=2",
        "http.response.status_code": 200,
        "network.peer.address": "10.0.0.2",
        "network.peer.port": 9000,
        "network.protocol.version": "1.0",
    }


@pytest.mark.parametrize("method", [m for m in Method if m != Method.OTHER])
def test_known_methods_name_the_span(method: Method) -> None:
    """The name of a span is its method; nothing original is told."""
    span = server(method=method)
    assert span.name == span.attributes["http.request.method"] == method.name
    assert "http.request.method_original" not in span.attributes


@pytest.mark.parametrize("text", [b"BREW", b"get", b"G\xff"])
def test_an_unknown_method_is_other(text: bytes) -> None:
    """Methods compare with case; unknown ones are _OTHER, the span is HTTP."""
    span = server(kept={Kept.METHOD: text}, method=Method.OTHER)
    assert span.name == "HTTP"
    assert span.attributes["http.request.method"] == "_OTHER"
    assert span.attributes["http.request.method_original"] == text.decode("utf-8", "replace")


def test_query_is_a_known_method() -> None:
    """QUERY is known to the conventions though the kernel has no number for it."""
    span = server(kept={Kept.METHOD: b"QUERY"}, method=Method.OTHER)
    assert (span.name, span.attributes["http.request.method"]) == ("QUERY", "QUERY")


def test_the_known_methods_can_be_replaced() -> None:
    """The variable of the conventions is the whole list, not an addition."""
    methods = known_methods({"OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS": "BREW, POST"})
    decoder = Http1Decoder(methods)
    brew = decoder.decode(read_exchange(record(kept={Kept.METHOD: b"BREW"}, method=0), 0))
    get = decoder.decode(read_exchange(record(method=Method.GET), 0))
    assert brew.name == "BREW"
    assert get.name == "HTTP"
    assert get.attributes["http.request.method_original"] == "GET"
    assert "QUERY" in known_methods({})


@pytest.mark.parametrize(
    ("status", "of_server", "of_client"),
    [
        (101, None, None),
        (200, None, None),
        (302, None, None),
        (404, None, "404"),
        (500, "500", "500"),
        (599, "599", "599"),
        (999, "999", "999"),
    ],
)
def test_which_status_is_an_error(
    status: int, of_server: str | None, of_client: str | None
) -> None:
    """4xx is an error for clients only, 5xx for both; the status needs no description."""
    for span, want in ((server(status=status), of_server), (client(status=status), of_client)):
        assert span.error is (want is not None)
        assert span.attributes.get("error.type") == want
        assert span.status_message == ""
        assert span.attributes["http.response.status_code"] == status


@pytest.mark.parametrize(
    ("end", "error_type"),
    [
        (End.RESET, "ECONNRESET"),
        (End.TIMED_OUT, "ETIMEDOUT"),
        (End.PEER_CLOSED, "connection_closed"),
        (End.LOCAL_CLOSED, "cancelled"),
        (End.PROCESS_EXIT, "process_exit"),
    ],
)
@pytest.mark.parametrize("status", [0, 200])
def test_a_failed_exchange_is_an_error(end: End, error_type: str, status: int) -> None:
    """Whoever failed, both kinds of spans tell it, with a description; no status is made up."""
    for span in (server(end=end, status=status), client(end=end, status=status)):
        assert span.error
        assert span.attributes["error.type"] == error_type
        assert span.status_message
        assert ("http.response.status_code" in span.attributes) is bool(status)


def test_a_status_that_is_an_error_wins_over_the_end() -> None:
    """A 503 whose connection was reset is a 503."""
    span = server(status=503, end=End.RESET)
    assert (span.attributes["error.type"], span.status_message) == ("503", "")


ABSOLUTE = b"http://u:p@Other.test:81/way?x=1"


@pytest.mark.parametrize(
    ("target", "columns", "want"),
    [
        (b"/", {}, {"url.path": "/", "url.query": None}),
        (b"/a?", {}, {"url.path": "/a", "url.query": None}),
        (b"/a?b?c", {}, {"url.path": "/a", "url.query": "b?c"}),
        (b"//a", {}, {"url.path": "//a"}),
        (b"*", {"method": Method.OPTIONS}, {"url.path": "*", "server.address": "shop.test"}),
        (
            ABSOLUTE,
            {},
            {
                "url.path": "/way",
                "url.query": "x=1",
                "server.address": "Other.test",
                "server.port": 81,
            },
        ),
        (b"https://other.test", {}, {"url.path": "/", "url.scheme": "https", "server.port": 443}),
        (
            b"other.test:443",
            {"method": Method.CONNECT},
            {"url.path": "", "server.address": "other.test", "server.port": 443},
        ),
        (b"", {}, {"url.path": "/"}),
        (b"/\xff", {}, {"url.path": "/\ufffd"}),
    ],
)
def test_the_forms_of_a_target_on_the_server(
    target: bytes, columns: Mapping[str, Any], want: Mapping[str, Any]
) -> None:
    """Origin, absolute, authority and asterisk form each give their path and address."""
    attributes = server(target, **columns).attributes
    assert {name: attributes.get(name) for name in want} == want


@pytest.mark.parametrize(
    ("target", "columns", "want"),
    [
        (b"/a?b", {}, "http://shop.test:8080/a?b"),
        (b"/a?", {}, "http://shop.test:8080/a?"),
        (b"*", {"method": Method.OPTIONS}, "http://shop.test:8080"),
        (ABSOLUTE, {}, "http://REDACTED:REDACTED@Other.test:81/way?x=1"),
        (b"http://u@other.test", {}, "http://REDACTED@other.test"),
        (b"other.test:443", CONNECT, "http://other.test:443"),
        (b"evil.test", {}, "http://shop.test:8080/evil.test"),
        (b"/x?sig=abc&y=1", {}, "http://shop.test:8080/x?sig=REDACTED&y=1"),
    ],
)
def test_the_full_url_of_a_client(target: bytes, columns: Mapping[str, Any], want: str) -> None:
    """url.full is the target URI (RFC 9112, 3.3) without credentials."""
    assert client(target, **columns).attributes["url.full"] == want


@pytest.mark.parametrize(
    ("host", "address_", "port"),
    [
        (b"shop.test", "shop.test", 80),
        (b"shop.test:81", "shop.test", 81),
        (b"[2001:db8::1]", "2001:db8::1", 80),
        (b"[2001:db8::1]:81", "2001:db8::1", 81),
        (b"2001:db8::1", "2001:db8::1", 80),
        (b"shop.test:", "shop.test", 80),
        (b"shop.test:99999", "shop.test", 80),
        (b"u:p@shop.test", "shop.test", 80),
    ],
)
def test_the_host_header_names_the_server(host: bytes, address_: str, port: int) -> None:
    """Host gives address and port on both sides; without a port it is the default one."""
    for span in (server(kept={Kept.HOST: host}), client(kept={Kept.HOST: host})):
        assert span.attributes["server.address"] == address_
        assert span.attributes["server.port"] == port


def test_without_host_the_connection_names_the_server() -> None:
    """HTTP/1.0 without Host: the server's own address, or the peer's for a client."""
    for span, want in (
        (server(kept={}), ("10.0.0.1", 8080)),
        (client(kept={}), ("10.0.0.2", 9000)),
    ):
        found = span.attributes
        assert (found["server.address"], found["server.port"]) == want
    assert client(b"/a", kept={}).attributes["url.full"] == "http://10.0.0.2:9000/a"
    over_v6 = client(b"/a", kept={}, peer="2001:db8::7", peer_port=80, family=socket.AF_INET6)
    assert over_v6.attributes["url.full"] == "http://[2001:db8::7]/a"


def test_a_unix_socket_has_no_address_and_no_port() -> None:
    """AF_UNIX: the transport is told, peers are not made up; a client's server is this host."""
    for columns in ({"family": socket.AF_UNIX}, {"flags": Flag.NO_POSITION}):
        for span in (server(**columns), client(**columns)):
            assert span.attributes["network.transport"] == "unix"
            assert not {"network.peer.address", "network.peer.port"} & set(span.attributes)
            assert span.attributes["server.address"] == "shop.test"
        assert "client.address" not in server(**columns).attributes
        assert "server.address" not in server(kept={}, **columns).attributes
        assert client(kept={}, **columns).attributes["url.full"] == "http://localhost/"
    assert "network.transport" not in server().attributes


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("::1", "::1"),
    ],
)
def test_addresses_are_written_as_usual(text: str, want: str) -> None:
    """IPv4-mapped addresses are IPv4, others IPv6 in their short form."""
    span = server(peer_addr=address(text), family=socket.AF_INET6)
    assert span.attributes["network.peer.address"] == want


def test_an_unknown_address_is_left_out() -> None:
    """No peer known: neither address nor port."""
    attributes = server(peer_addr=bytes(16)).attributes
    assert not {"network.peer.address", "network.peer.port", "client.address"} & set(attributes)


@pytest.mark.parametrize(
    ("forwarded", "x_forwarded_for", "want"),
    [
        (b"for=192.0.2.43", b"", "192.0.2.43"),
        (b'For="[2001:db8:cafe::17]:4711";proto=http', b"", "2001:db8:cafe::17"),
        (b"for=192.0.2.43:47011, for=198.51.100.17", b"", "192.0.2.43"),
        (b'for="192.0.2.43";host="a;b,c";proto=https', b"203.0.113.9", "192.0.2.43"),
        (b"for=unknown", b"203.0.113.9, 10.0.0.9", "203.0.113.9"),
        (b"for=_hidden", b"", "10.0.0.2"),
        (b"proto=https", b"203.0.113.9:1234", "203.0.113.9"),
        (b";;;", b" , x", "10.0.0.2"),
        (b"", b"[2001:db8::1]:80", "2001:db8::1"),
    ],
)
def test_the_client_is_who_began_the_request(
    forwarded: bytes, x_forwarded_for: bytes, want: str
) -> None:
    """Forwarded comes first, then X-Forwarded-For, then the connection; peers stay peers."""
    span = server(kept={Kept.FORWARDED: forwarded, Kept.X_FORWARDED_FOR: x_forwarded_for})
    assert span.attributes["client.address"] == want
    assert span.attributes["network.peer.address"] == "10.0.0.2"


@pytest.mark.parametrize(
    ("forwarded", "x_forwarded_proto", "want"),
    [
        (b"proto=https;for=_x", b"http", ("https", 443)),
        (b"for=_x", b"HTTPS, http", ("https", 443)),
        (b"", b"<script>", ("http", 80)),
        (b'proto="https', b"", ("http", 80)),
        (b"", b"", ("http", 80)),
    ],
)
def test_the_scheme_is_the_one_the_client_used(
    forwarded: bytes, x_forwarded_proto: bytes, want: tuple[str, int]
) -> None:
    """A proxy that ended TLS says so; the default port goes with the scheme."""
    kept = {
        Kept.HOST: b"shop.test",
        Kept.FORWARDED: forwarded,
        Kept.X_FORWARDED_PROTO: x_forwarded_proto,
    }
    attributes = server(kept=kept).attributes
    assert (attributes["url.scheme"], attributes["server.port"]) == want
    assert client(kept=kept).attributes["url.full"] == "http://shop.test/"


@pytest.mark.parametrize(
    "key",
    [
        "X-Amz-Signature",
        "X-Amz-Credential",
        "X-Amz-Security-Token",
        "X-Goog-Signature",
        "AWSAccessKeyId",
        "Signature",
        "sig",
        "access_token",
        "Token",
        "api_key",
        "apikey",
        "key",
        "client_secret",
        "passwd",
        "password_confirmation",
        "user%5Bpassword%5D",
    ],
)
def test_credentials_in_a_query_are_not_shown(key: str) -> None:
    """Values of credential-like keys are replaced, the key and the rest stay."""
    span = server(f"/x?a=1&{key}=s3cr=et&b=token".encode())
    assert span.attributes["url.query"] == f"a=1&{key}=REDACTED&b=token"
    assert "s3cr" not in str(client(f"/x?{key}=s3cr".encode()).attributes)


@pytest.mark.parametrize("query", ["monkey=1", "page=2", "design=x", "q=token", "keyword=z", "a"])
def test_other_values_are_shown(query: str) -> None:
    """A key that only looks a little like a credential is left alone."""
    assert redact_query(query) == query


def plain(*targets: str) -> list[bool]:
    """Which of these the columnar encoder may copy without a look."""
    buffer = np.frombuffer("".join(targets).encode(), np.uint8)
    lengths = np.array([len(target) for target in targets], np.intp)
    queries = np.array([(target + "?").index("?") for target in targets], np.intp)
    found = plain_targets(Targets(buffer, np.cumsum(lengths) - lengths, lengths, queries))
    return [bool(one) for one in found]


PIECES = ("id", "=", "&", "token", "KEY", "api", "sid", "_", "Sig", "auth", "page", "x", "1", "")


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=8), min_size=1, max_size=5))
def test_no_query_with_a_credential_is_copied(queries: list[list[str]]) -> None:
    """Whatever is redacted in the span must be looked at; what lies beside it in memory is no
    matter."""
    targets = [f"/a?{''.join(query)}" for query in queries]
    for target, is_plain in zip(targets, plain(*targets), strict=True):
        query = target.partition("?")[2]
        assert not is_plain or redact_query(query) == query, target


def test_common_queries_are_copied() -> None:
    """Identifiers, which differ from request to request, must not slow each of them down."""
    assert plain("/a?id=7", "/a?userid=7&page=2", "/a?q=monkey", "/a") == [True] * 4
    assert plain("/a?sid=7", "/a?Api_Key=1", "/a?x=1&TOKEN=2", "http://h/a") == [False] * 4


def test_a_cut_target_is_told() -> None:
    """waggle.target.truncated is there when the target is longer than what was kept."""
    assert server(flags=Flag.TARGET_CUT).attributes["waggle.target.truncated"] is True
    assert "waggle.target.truncated" not in server().attributes


def test_sizes_are_told_only_of_bodies_that_were_announced() -> None:
    """No announced body, no size; an empty announced one has size 0."""
    assert server(flags=Flag.RESPONSE_BODY).attributes["http.response.body.size"] == 0
    assert "http.request.body.size" not in server(request_body=5, flags=0).attributes
    huge = server(flags=Flag.REQUEST_BODY, request_body=2**64 - 1)
    assert huge.attributes["http.request.body.size"] == 2**63 - 1


@given(st.text(max_size=60))
def test_no_header_breaks_the_parsers(text: str) -> None:
    """Whatever proxies send, parsing ends, and gives what can be encoded."""
    parse_authority(text)
    first_element(text)
    assert client_address(text, text) != ""


@given(st.text("ab=&;?tokensig%", max_size=40))
def test_redaction_is_done_once(query: str) -> None:
    """Redacting what was redacted changes nothing."""
    once = redact_query(query)
    assert redact_query(once) == once


def test_a_route_names_the_span() -> None:
    """What the server's router matched, and never the path itself."""
    span = server(b"/items/7", ((Kept.HOST, b"shop"), (Kept.ROUTE, b"GET /items/{id}")))
    assert span.name == "GET /items/{id}"
    assert span.attributes["http.route"] == "/items/{id}"
    assert span.attributes["url.path"] == "/items/7"


@pytest.mark.parametrize(
    ("pattern", "route"),
    [
        ("/items/{id}", "/items/{id}"),
        ("GET shop.example/items/{rest...}", "/items/{rest...}"),
        ("/static/", "/static/"),
        ("/{$}", "/{$}"),
        ("/", ""),  # whatever nothing else matches
        ("POST /", ""),
        ("", ""),
        ("\0\0", ""),  # it could not be read
    ],
)
def test_the_route_of_a_pattern(pattern: str, route: str) -> None:
    """ServeMux's patterns begin with a method and a host, if they like."""
    assert route_of(pattern) == route
