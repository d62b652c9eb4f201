"""Names of requests in Go: the pattern by which a router found the handler."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from .agent import SeenSpan, started_agent
from .clients import ClientKind, start_client
from .go_matrix import GOMATRIX, kind_of
from .servers import start_server
from .toolchain import GO_MATRIX_BIN, ensure_go_matrix, ensure_go_old

ROUTES = {
    "nethttp": "/{kind}/{shape}/{client}/{n}",
    "gin": "/:kind/:shape/:client/:n",
    "chi": "/{kind}/{shape}/{client}/{n}",  # of a router within another
    "mux": "/{kind}/{shape}/{client}/{n}",  # the same
    "echo": "/:kind/:shape/:client/:n",
    "echo-pre": "/:kind/:shape/:client/:n",  # with middleware before the router
}
QUICK = ("gin", "mux", "echo")
REQUESTS, CONCURRENCY = 400, 16


# A client of HTTP/2 without TLS. There is no other difference with TLS than who writes the bytes.
H2C = ClientKind([GO_MATRIX_BIN / "load", "h2c"])


def routes_of(
    framework: str, path: str, how: ClientKind | None = None, asked: Path = GOMATRIX
) -> list[SeenSpan]:
    """The server's spans of requests that a framework was asked for, on a path."""
    ensure_go_matrix()
    kinds = {"go": kind_of(asked, framework)}
    env = {"CALLED": "http://127.0.0.1:1", "GODEBUG": "httpmuxgo121=0"}
    with (
        start_server("go", env=env, kinds=kinds) as server,
        started_agent(pids=[server.pid]) as agent,
    ):
        with start_client("go", server.base_url, REQUESTS, CONCURRENCY, path=path, how=how) as load:
            load.finish()
        agent.settle(REQUESTS)
        spans = agent.stop().spans
    return [span for span in spans if span.path.startswith(path.partition("{")[0])]


def _some(quick: Sequence[str], every: Iterable[str]) -> list[str | ParameterSet]:
    return [one if one in quick else pytest.param(one, marks=pytest.mark.slow) for one in every]


def _check(found: Sequence[SeenSpan], route: str) -> None:
    assert len(found) == REQUESTS
    assert Counter(span.attributes.get("http.route") for span in found) == {route: REQUESTS}
    assert {span.name for span in found} == {f"GET {route}"}


@pytest.mark.parametrize("framework", _some(QUICK, ROUTES))
def test_a_request_is_named_by_the_pattern_that_matched(framework: str) -> None:
    """Of the innermost router, and all that stand before it; every request, many at once."""
    _check(routes_of(framework, "/m/none/std/{}"), ROUTES[framework])


@pytest.mark.parametrize("framework", _some(("nethttp",), ROUTES))
def test_a_stream_is_named_by_the_pattern_that_matched(framework: str) -> None:
    """Over HTTP/2, many streams at once on a connection."""
    _check(routes_of(framework, "/m/none/std/{}", H2C), ROUTES[framework])


@pytest.mark.parametrize("how", _some(("http1",), ("http1", "h2c")))
@pytest.mark.parametrize("framework", _some(("nethttp", "gin"), ROUTES))
def test_a_router_in_another_goroutine(framework: str, how: str) -> None:
    """http.TimeoutHandler serves in a goroutine of its own, which has the request's context."""
    found = routes_of(framework, "/limited/none/std/{}", H2C if how == "h2c" else None)
    _check(found, ROUTES[framework])


# Since Go 1.23 the pattern is in the Request, since 1.27 HTTP/2 has another; HTTP/2 without TLS is
# there since 1.24.
BY_SERVEMUX = [
    *(("1.22.12", "http1"), ("1.24.10", "http1"), ("1.24.10", "h2c")),
    *(("1.27.0", "http1"), ("1.27.0", "h2c")),
]


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["nethttp", "copied"])
@pytest.mark.parametrize(("version", "how"), BY_SERVEMUX)
def test_a_pattern_of_servemux_in_every_version(version: str, how: str, framework: str) -> None:
    """Whether middleware has copied the Request before or not, and in http.TimeoutHandler. Where
    it costs a stop the handler's name is told too."""
    asked = ensure_go_old(version, way="stripped")
    ask = H2C if how == "h2c" else None
    _check(routes_of(framework, "/limited/{}", ask, asked), "/limited/{n}")
    found = routes_of(framework, "/r/{}", ask, asked)
    _check(found, "/r/{n}")
    is_free = framework == "nethttp" and (version == "1.24.10" or (version, how) == BY_SERVEMUX[3])
    name = None if is_free else "main.answer"
    assert {span.attributes.get("code.function.name") for span in found} == {name}


@pytest.mark.parametrize("how", _some(("h2c",), ("http1", "h2c")))
@pytest.mark.parametrize("framework", _some(("chi", "echo"), ("gin", "chi", "mux", "echo")))
def test_the_function_that_a_router_chose(framework: str, how: str) -> None:
    """By the name that the runtime has for it; where the router is net/http's none is told."""
    ensure_go_matrix()
    kinds = {"go": kind_of(GOMATRIX, framework)}
    ask = H2C if how == "h2c" else None
    with (
        start_server("go", env={"CALLED": "http://127.0.0.1:1"}, kinds=kinds) as server,
        started_agent(pids=[server.pid]) as agent,
    ):
        for path in ("/m/none/std/{}", "/n/{}"):
            with start_client(
                "go", server.base_url, REQUESTS, CONCURRENCY, path=path, how=ask
            ) as load:
                load.finish()
        agent.settle(2 * REQUESTS)
        spans = agent.stop().spans
        said = re.findall("handler (.+)", server.program.output())
    names = Counter((span.path[:3], span.attributes.get("code.function.name")) for span in spans)
    assert said[0].startswith("main.")
    assert names == {("/m/", said[0]): REQUESTS, ("/n/", None): REQUESTS}


KNOWN_AFTER = 1000  # requests until a connection's reader is not looked at each time


def test_a_route_is_that_of_its_own_request() -> None:
    """What a router has said of one request is not said of the next on its connection, which
    another router answered, or nobody."""
    ensure_go_matrix()
    routes = {
        "/m/none/std/7": ROUTES["chi"],
        "/n/7": "/n/{n}",  # net/http's
        "/m/none": "/{kind}/{shape}",  # the outer router alone
        "/m/": "/m/",  # chi finds nothing in what net/http gave it
        "/ready": "/ready",
    }
    kinds = {"go": kind_of(GOMATRIX, "chi")}
    with (
        start_server("go", env={"CALLED": "http://127.0.0.1:1"}, kinds=kinds) as server,
        started_agent(pids=[server.pid]) as agent,
    ):
        connection = server.connection()
        asked = 0
        while asked < KNOWN_AFTER + 400:
            for path in routes:
                connection.request("GET", path)
                connection.getresponse().read()
                asked += 1
        connection.close()
        agent.settle(asked)
        spans = agent.stop().spans
    found = {(span.path, span.attributes.get("http.route")) for span in spans}
    assert found == set(routes.items())


def test_a_connection_that_a_handler_took_over() -> None:
    """What it answers by hand has its route, once; of what it reads from there after that net/http
    knows nothing."""
    ensure_go_matrix()
    kinds = {one: kind_of(GOMATRIX, "nethttp") for one in ("called", "go")}
    with (
        start_server("called", kinds=kinds) as called,
        start_server("go", env={"CALLED": called.base_url}, kinds=kinds) as server,
        started_agent(pids=[server.pid]) as agent,
    ):
        connection = server.connection()
        paths = ["/n/1", "/m/hijack-on/std/2", "/by/hand/3", "/by/hand/4"]
        for path in paths:
            connection.request("GET", path)
            connection.getresponse().read()
        connection.close()
        agent.settle(len(paths))
        spans = agent.stop().spans
    served = {s.path: s.attributes.get("http.route") for s in spans if s.kind == "server"}
    assert [served[path] for path in paths] == ["/n/{n}", ROUTES["nethttp"], None, None]
