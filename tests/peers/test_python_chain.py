"""A trace that crosses two event loops, from the very first request on."""

from collections import defaultdict
from contextlib import ExitStack

import pytest

from .agent import started_agent
from .clients import run_client
from .python_servers import PYTHON_SERVERS
from .servers import start_server
from .toolchain import VENV, ensure_called_server, ensure_python_peers
from .truth import judge

COUNT = 160
AT_ONCE = 32
# Who is asked first, who is asked by it, and the latter's client.
CHAINS = (
    ("fastapi-uvicorn-uvloop-httptools", "aiohttp-asyncio", "aiohttp"),
    ("aiohttp-uvloop", "fastapi-uvicorn-asyncio-h11", "httpx-async"),
    ("fastapi-uvicorn-asyncio-h11", "fastapi-uvicorn-uvloop-httptools", "httpx-async"),
    ("starlette-uvicorn-asyncio-httptools", "tornado", "tornado"),
)


@pytest.mark.parametrize(
    ("front", "back", "client"),
    [
        pytest.param(*chain, id="-".join(chain[:2]), marks=[pytest.mark.slow] if i else [])
        for i, chain in enumerate(CHAINS)
    ],
)
def test_each_request_is_one_trace(front: str, back: str, client: str) -> None:
    """32 requests at once go through two services whose loops nobody has seen before: the second
    calls three times at once. Each request is one trace, whole, and nothing is wrong in it."""
    ensure_python_peers()
    ensure_called_server()
    kinds = {name: PYTHON_SERVERS[name].started_from(VENV / "bin") for name in (front, back)}
    with ExitStack() as stack:
        called = stack.enter_context(start_server("go-nethttp"))
        env = {"CALLED": called.base_url}
        second = stack.enter_context(start_server(back, env=env, kinds=kinds))
        env = {"CALLED": second.base_url, "CALLED_PATH": f"/m/gather/{client}/{{n}}"}
        first = stack.enter_context(start_server(front, env=env, kinds=kinds))
        agent = stack.enter_context(started_agent(pids=[first.pid, second.pid, called.pid]))
        path = "/m/late/httpx-async/{}"
        run_client("go", first.base_url, COUNT, AT_ONCE, path=path)
        agent.settle(9 * COUNT)
        ended = agent.stop()
        hop = judge(ended.spans, first.pids(), second.pids())
        leaf = judge(ended.spans, second.pids(), [called.pid])
    assert hop.verdicts == {"right": COUNT}, hop.examples("wrong")
    assert leaf.verdicts == {"right": 3 * COUNT}, leaf.examples("wrong")
    assert (hop.split, leaf.split) == (0, 0)
    traces = defaultdict(set)
    for span in ended.spans:
        traces[span.number].add(span.trace_id)
    assert len(traces) == COUNT
    assert all(len(ids) == 1 for ids in traces.values())
    assert len(set().union(*traces.values())) == COUNT
    assert not ended.lost
