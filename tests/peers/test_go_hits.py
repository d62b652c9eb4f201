"""What a Go program pays in stops: how often a request meets a probe, counted by the kernel."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count, islice

import pytest
from _pytest.mark import ParameterSet

from waggle.libbpf import RunTimeStats

from .agent import started_agent
from .clients import ClientKind, start_client
from .go_matrix import GOMATRIX, MULTIPLEXED, kind_of
from .loaded import programs
from .servers import start_server
from .toolchain import GO_MATRIX_BIN, ensure_go_matrix
from .truth import judge

REQUESTS = 400
CONNECTIONS = 8
_WITHIN_S = 60.0
# As the program is asked, what the request does, by which client -> stops a request, by probe.
# Accepting a connection is one more (go_conn_serve), which many requests share.
HITS: dict[tuple[str, str, str], dict[str, int]] = {
    ("nethttp", "none", "std"): {},
    ("gin", "none", "std"): {"go_route_gin": 1},
    ("chi", "none", "std"): {"go_route_chi": 2},  # a router within another
    ("mux", "none", "std"): {"go_route_mux": 1},
    ("echo", "none", "std"): {"go_route_echo": 1},
    ("nethttp", "one", "std"): {"go_round_trip": 1},
    ("gin", "two", "std"): {"go_round_trip": 2, "go_route_gin": 1},
    ("gin", "one", "grpc"): {"go_grpc_call": 1, "go_route_gin": 1},
    ("gin", "one", "stream"): {"go_grpc_call": 1, "go_route_gin": 1},
    ("gin", "pool-ctx", "std"): {"go_round_trip": 1, "go_route_gin": 1},
    ("gin", "errgroup", "std"): {"go_round_trip": 2, "go_route_gin": 1},
    ("gin", "one", "raw"): {"go_route_gin": 1},
    ("h2c", "none", "std"): {"go_http2_handler": 1},
    ("grpc", "none", "std"): {"go_grpc_handler": 1},
    ("grpc", "one", "grpc"): {"go_grpc_handler": 1, "go_grpc_call": 1},
}


QUICK = {("nethttp", "none", "std"), ("grpc", "one", "grpc")}


def _case(framework: str, shape: str, client: str) -> "ParameterSet":
    case = (framework, shape, client)
    return pytest.param(case, id=" ".join(case), marks=[] if case in QUICK else pytest.mark.slow)


def hits(pid: int) -> Counter[str]:
    """How often each of the agent's probes for Go has run."""
    return Counter({name: n for name, (_, n) in programs(pid).items() if name.startswith("go_")})


@pytest.mark.parametrize("case", [_case(*case) for case in HITS])
def test_a_request_stops_no_more_often_than_it_must(case: tuple[str, str, str]) -> None:
    """Once a thousand requests have shown that nobody needs more: none for a handler that only
    answers, one for each call and for each stream, and one for each router but net/http's."""
    found = hits_of(*case)
    print(" ".join(case), dict(found))
    assert found.pop("go_conn_serve", 0) <= 2 * CONNECTIONS  # some clients dial more than they use
    assert found == Counter({name: n * REQUESTS for name, n in HITS[case].items()})


@pytest.mark.slow
def test_births_are_looked_at_where_they_tell() -> None:
    """Goroutines that are handed no context keep their probe, however many requests pass."""
    found = hits_of("gin", "conc", "std")
    assert found["go_birth"] >= 2 * REQUESTS
    assert found["go_serve_http"] == 0


def test_births_come_back() -> None:
    """When calls come of which they might have told, after thousands without: nothing is wrong
    meanwhile, and then all are right again."""
    ensure_go_matrix()
    kinds = {"called": kind_of(GOMATRIX, "nethttp"), "go": kind_of(GOMATRIX, "gin")}
    with ExitStack() as stack:
        called = stack.enter_context(start_server("called", kinds=kinds))
        env = {"CALLED": called.base_url}
        server = stack.enter_context(start_server("go", env=env, kinds=kinds))
        agent = stack.enter_context(started_agent(pids=[called.pid, server.pid]))
        stack.enter_context(RunTimeStats())
        numbers = count(1)

        def ask(shape: str, requests: int) -> tuple[range, int]:
            """The requests' numbers, and how many births were seen."""
            before, first = (
                hits(agent.pid),
                next(islice(numbers, requests - 1, None)) - requests + 1,
            )
            path = f"/m/{shape}/raw/{{}}"
            with start_client(
                "go", server.base_url, requests, CONNECTIONS, first=first, path=path
            ) as client:
                client.finish()
            return range(first, first + requests), (hits(agent.pid) - before)["go_birth"]

        ask("one", 2000)
        until(lambda: not ask("one", CONNECTIONS)[1])
        lost, _ = ask("conc", CONNECTIONS)
        until(lambda: bool(ask("conc", CONNECTIONS)[1]))
        ask("conc", REQUESTS)
        found, _ = ask("conc", REQUESTS)
        agent.settle(3 * found.stop)
        truth = judge(agent.stop().spans, server.pids(), [called.pid])
    assert truth.verdicts["wrong"] == 0, truth.examples("wrong")
    assert truth.within(lost).verdicts["none"]
    assert truth.within(found).verdicts == {"right": 2 * REQUESTS}


def hits_of(framework: str, shape: str, client: str) -> Counter[str]:
    """Probes that REQUESTS requests of a shape meet, when what nobody needs is taken away."""
    ensure_go_matrix()
    how = ClientKind([GO_MATRIX_BIN / "load", framework]) if framework in MULTIPLEXED else None
    path = f"/m/{shape}/{client}/{{}}"
    with ExitStack() as stack:
        kinds = {
            "called": kind_of(GOMATRIX, "nethttp"),
            "go": kind_of(GOMATRIX, "nethttp" if framework in MULTIPLEXED else framework),
        }
        called = stack.enter_context(start_server("called", kinds=kinds))
        env = {"CALLED": called.base_url}
        server = stack.enter_context(start_server("go", env=env, kinds=kinds))
        agent = stack.enter_context(started_agent("--quiet", pids=[server.pid], json_lines=False))
        stack.enter_context(RunTimeStats())

        def ask(requests: int) -> Counter[str]:
            before = hits(agent.pid)
            with start_client(
                "go", server.base_url, requests, CONNECTIONS, path=path, how=how
            ) as client:
                client.finish()
            return hits(agent.pid) - before

        ask(2000)
        settled(lambda: ask(CONNECTIONS))
        return ask(REQUESTS)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WITHIN_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def settled(ask: Callable[[], Counter[str]]) -> None:
    """Waits until a few requests meet neither births nor introductions, or births for good."""
    deadline = time.monotonic() + _WITHIN_S
    several = 0
    while several < 6 and time.monotonic() < deadline:
        found = ask()
        several = several + 1 if not found["go_serve_http"] else 0
        if not found["go_birth"] and not found["go_serve_http"]:
            return
        time.sleep(0.5)
