"""Calls that end with their connection, since one of the two programs is killed: each is one span
a side, which says what became of it."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from .agent import SeenSpan, started_agent
from .grpc_programs import start_grpc_client, start_grpc_server
from .toolchain import ensure_grpc_built

OPEN = 8  # calls at once; of 2 * OPEN, the first half is answered, the other never
FIRST = 8 * OPEN * 2


def _ended_by_killing(victim: str, server_name: str) -> tuple[list[SeenSpan], list[str]]:
    with ExitStack() as stack:
        server = stack.enter_context(start_grpc_server(server_name))
        kinds = ["one"] * OPEN + ["wait"] * OPEN
        client = stack.enter_context(
            start_grpc_client(
                "grpc-go", server.address, 2 * OPEN, OPEN, first=FIRST, calls=kinds, gate=0
            )
        )
        client.wait_for_gate()
        agent = stack.enter_context(started_agent(pids=[server.program.pid, client.pid]))
        client.open_gate()
        assert client.program.read_line(60) == "open"
        sides = {"server": server.program, "client": client.program}
        sides[victim].send_signal(signal.SIGKILL)
        agent.settle(4 * OPEN)
        ended = agent.stop()
        return ended.spans, ended.lost


def _cases() -> Iterator[tuple[str, str]]:
    for victim in ("server", "client"):
        for server in ("grpc-go", "grpcio"):
            yield victim, server


def _code(side: str, victim: str, server: str) -> tuple[str, str | None]:
    """The code of a call that was open, and how it is known: who is left is told that the other
    has gone; who is killed, and a server without a client, has not got to the end of the call."""
    if (side, victim, server) == ("server", "client", "grpcio"):
        return "UNAVAILABLE", None  # which it still writes, to nobody
    is_left = (side, victim) == ("client", "server")
    return "UNAVAILABLE" if is_left else "CANCELLED", "connection"


@pytest.mark.parametrize(
    ("victim", "server"),
    [
        pytest.param(*case, marks=[] if case[1] == "grpc-go" else [pytest.mark.slow])
        for case in _cases()
    ],
)
def test_calls_that_a_kill_ends(victim: str, server: str) -> None:
    """Calls that were answered are OK; each that was open is one span a side, with what its
    library makes of a connection that is gone, and nothing is lost."""
    ensure_grpc_built()
    spans, lost = _ended_by_killing(victim, server)
    for side in ("client", "server"):
        found = {span.number or 0: span for span in spans if span.kind == side}
        assert sorted(found) == list(range(FIRST, FIRST + 2 * OPEN)), side
        assert len(found) == sum(span.kind == side for span in spans)
        for n, span in found.items():
            is_open = n % (2 * OPEN) >= OPEN
            wanted, by = _code(side, victim, server) if is_open else ("OK", None)
            assert span.attributes["rpc.response.status_code"] == wanted, (side, n)
            assert span.attributes.get("waggle.grpc.status_by") == by
            assert span.is_error == (is_open and (side == "client" or wanted == "UNAVAILABLE"))
    assert lost == []
