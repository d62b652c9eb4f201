"""Names of requests in Go: the pattern by which a router found the handler."""

import pytest

from .agent import SeenSpan, started_agent
from .clients import run_client
from .go_matrix import GOMATRIX, kind_of
from .servers import start_server
from .toolchain import ensure_go_matrix

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


def routes_of(framework: str, path: str) -> list[SeenSpan]:
    """The server's spans of requests that a framework was asked for, on a path."""
    ensure_go_matrix()
    kinds = {"go": kind_of(GOMATRIX, framework)}
    with (
        start_server("go", env={"CALLED": "http://127.0.0.1:1"}, kinds=kinds) as server,
        started_agent(pids=[server.pid]) as agent,
    ):
        run_client("go", server.base_url, REQUESTS, CONCURRENCY, path=path)
        agent.settle(REQUESTS)
        spans = agent.stop().spans
    return [span for span in spans if span.path.startswith(path.partition("{")[0])]


@pytest.mark.parametrize(
    "framework",
    [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in ROUTES],
)
def test_a_request_is_named_by_the_pattern_that_matched(framework: str) -> None:
    """Of the innermost router, and all that stand before it; every request, many at once."""
    found = routes_of(framework, "/m/none/std/{}")
    assert len(found) == REQUESTS
    assert {span.attributes.get("http.route") for span in found} == {ROUTES[framework]}
    assert {span.name for span in found} == {f"GET {ROUTES[framework]}"}


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
