"""Event loops whose programs may keep to rule `turn` or not: a claim is proven, or is none.

The numbers in the requests are the truth (turn_matrix.py). A wrong parent is worse than none.
"""

from contextlib import ExitStack, closing
from http.client import HTTPConnection

import pytest

from .agent import started_agent
from .harness import ensure_built
from .servers import start_server
from .turn_matrix import CELLS, CONCURRENCIES, PROGRAMS_BY_NAME, Played, play

COUNT = 400
# What holds where one turn leads to the next: the rest are first calls of a process, whose
# turns are not known yet, and turns in which the thread slept.
LEAST = 0.9
HOLDS = {
    *(("node", shape, "agent") for shape in ("one", "three", "mixed")),
    *(("node", "mixed", client) for client in ("fetch", "close")),
    *(("node", shape, "agent") for shape in ("background", "fire")),
}


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_built()


def _least(one: Played) -> float:
    cell = one.result.cell
    if cell.shape == "query":  # each connection's first answer is nobody's
        return 0.75
    return LEAST if (cell.server, cell.shape, cell.client) in HOLDS else 0.0


@pytest.mark.parametrize("concurrency", CONCURRENCIES)
def test_a_turn_is_proven_or_nobodys(concurrency: int) -> None:
    """Node.js by every client and in every shape: no call has a wrong parent, whatever timers,
    immediates, other threads, queues and work in the background do; where nothing of that is
    between a request and its answer, nearly all have the right one."""
    played, ended = play(CELLS, concurrency, COUNT)
    for one in played:
        print(one)
    print(ended.losses)
    assert not [str(one) for one in played if one.wrong]
    assert not [str(one) for one in played if one.result.unserved or one.result.missing]
    assert not [str(one) for one in played if one.result.share < _least(one)]
    assert [one.nobodys for one in played if one.nobodys] == [400]
    assert ended.lost == []


def test_a_rule_that_was_trusted_is_refuted() -> None:
    """A process that answers one request after the other for long, and then many at once through a
    queue: calls that were claimed for others when that began have no parent, and none later."""
    cells = [("node", shape, "queue") for shape in ("mixed", "two", "one")]
    cells.append(("node", "pipeline", "agent"))
    played, ended = play(cells, 32, COUNT, alone=COUNT // 2)
    for one in played:
        print(one)
    assert not [str(one) for one in played if one.wrong]
    # The last of those that were asked one by one wait with the first of the others.
    assert not [str(one) for one in played if one.result.share < 0.25]
    assert "answers one request while it works on another" in ended.stderr


@pytest.mark.parametrize("client", ["agent", "fetch"])
def test_the_first_call_that_an_agent_sees(client: str) -> None:
    """An idle Node.js whose connections are older than the agent: its very first call has its
    parent, though no end of a turn was told before; behind an immediate (fetch) maybe none."""
    with ExitStack() as stack:
        called = stack.enter_context(start_server("go-nethttp"))
        env = {"CALLED": called.base_url}
        node = stack.enter_context(start_server("node", kinds=PROGRAMS_BY_NAME, env=env))
        address = node.base_url.removeprefix("http://")
        connection = stack.enter_context(closing(HTTPConnection(address, timeout=10)))
        _ask(connection, client, 1)
        agent = stack.enter_context(started_agent(pids=[called.pid, node.pid]))
        for number in (2, 3):
            _ask(connection, client, number)
        agent.settle(6)
        spans = {
            (span.kind, span.number): span for span in agent.stop().spans if span.pid == node.pid
        }
    for number in (2, 3):
        request, call = spans["server", number], spans["client", number]
        assert call.parent_id in (request.span_id, "")
        if number == 3 or client == "agent":
            assert (call.parent_id, call.link) == (request.span_id, "turn")


def _ask(connection: HTTPConnection, client: str, number: int) -> None:
    connection.request("GET", f"/m/one/{client}/{number}")
    assert connection.getresponse().read()
