"""Paths and methods on connections of HTTP/2 that are older than the agent, out of Go's memory.

Each path is asked for before the agent comes, so that it is in the table of the connection, and
once more under the agent: then the wire only has a number for it. The handler calls with the
number that it was asked with, by HTTP/1, which is the truth.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest

from .agent import SeenSpan, started_agent
from .clients import run_client
from .go_matrix import GOMATRIX, kind_of
from .servers import start_server
from .toolchain import ensure_go_matrix, ensure_go_matrix_by

FEW = 20
NEWER = "1.27.0"


@dataclass(frozen=True)
class Named:
    """What both ends of the old connection were called. numbers: of the requests, in order."""

    calls: list[SeenSpan]
    served: list[SeenSpan]
    by_span: dict[str, SeenSpan]

    def number_of(self, span: SeenSpan) -> int | None:
        """The truth: what the request had that began it all."""
        while span.parent_id:
            span = self.by_span[span.parent_id]
        return span.number


def asked_twice(framework: str, client: str, program: Path) -> Named:
    """What is seen of the second time that the same numbers are asked for. framework: of the
    called program."""
    kinds = {"called": kind_of(program, framework), "go": kind_of(program, "nethttp")}
    path = f"/m/one/{client}/{{}}"
    with (
        start_server("called", kinds=kinds) as called,
        start_server("go", env={"CALLED": called.base_url}, kinds=kinds) as server,
    ):
        run_client("go", server.base_url, FEW, 1, path=path)
        with started_agent(pids=[called.pid, server.pid]) as agent:
            run_client("go", server.base_url, FEW, 1, path=path)
            agent.settle(3 * FEW - 1)  # a server's first request may be under way
            ended = agent.stop()
    assert not ended.lost
    spans = ended.spans
    return Named(
        [span for span in spans if span.kind == "client"],
        [span for span in spans if span.kind == "server" and span.pid == called.pid],
        {span.span_id: span for span in spans},
    )


def check_paths(named: Named) -> None:
    """Every span of both ends has the path with the number of its request, known by memory. A
    server's first request may be under way before an answer has said what connection it is."""
    assert len(named.calls) == FEW
    assert len(named.served) in (FEW - 1, FEW)
    for span in (*named.calls, *named.served):
        told = (span.name.split()[0], span.path, span.attributes.get("waggle.http2.name_by"))
        assert told == ("GET", f"/n/{named.number_of(span)}", "memory")


@pytest.mark.parametrize(("framework", "client"), [("nethttp", "h2c"), ("xnet", "xnet")])
def test_paths_of_old_connections(framework: str, client: str) -> None:
    """net/http's HTTP/2 and the module's, as client and as server: no path is wrong or missing."""
    ensure_go_matrix()
    check_paths(asked_twice(framework, client, GOMATRIX))


@pytest.mark.slow
@pytest.mark.parametrize("client", ["h2c", "xnet"])
def test_paths_by_the_newest_go(client: str) -> None:
    """The same where HTTP/2 is a package of its own, since Go 1.27."""
    ensure_go_matrix()
    check_paths(asked_twice("nethttp", client, ensure_go_matrix_by(NEWER)))


def test_methods_of_old_connections() -> None:
    """grpc as client and as server: every span has its method, known by memory."""
    ensure_go_matrix()
    named = asked_twice("nethttp", "grpc", GOMATRIX)
    for spans in (named.calls, named.served):
        assert len(spans) == FEW
        for span in spans:
            assert span.attributes["waggle.http2.name_by"] == "memory"
        methods = {span.attributes["rpc.method"] for span in spans}
        assert len(methods) == 1, methods
