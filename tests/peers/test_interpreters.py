"""Each CPython of this machine: one server with threads, one with an event loop."""

import sys

import pytest

from .agent import SeenSpan, started_agent
from .clients import run_client
from .interpreters import Interpreter, interpreters
from .servers import Server, ServerKind, start_server
from .toolchain import PROGRAMS, ensure_called_server
from .truth import Truth, judge

FOLDER = PROGRAMS / "python"
COUNT = 300
# asyncio.run and start_server's serve_forever came with 3.7; contexts too.
FOUND = interpreters()


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_called_server()


def observe(interpreter: Interpreter, program: str, path: str) -> tuple[Truth, Server, set[str]]:
    """The truth about `program` under load, its server, and what its process is said to be."""
    kind = ServerKind(lambda place, _: [interpreter.path, FOLDER / program, str(place.port)])
    with start_server("go-nethttp") as called:
        env = {"CALLED": called.base_url}
        with start_server(program, env=env, kinds={program: kind}) as server:
            with started_agent(pids=[called.pid, server.pid]) as agent:
                run_client("go", server.base_url, COUNT, 32, path=path)
                agent.settle(COUNT * (7 if "asyncio" in program else 3))
                ended = agent.stop()
            assert ended.losses == ["nothing"]
            runtimes = {_runtime_of(span) for span in ended.spans if span.pid == server.pid}
            return judge(ended.spans, [server.pid], [called.pid]), server, runtimes


def _runtime_of(span: SeenSpan) -> str:
    words = ("name", "version")
    return " ".join(str(span.resource.get(f"process.runtime.{word}")) for word in words)


@pytest.mark.parametrize("interpreter", FOUND, ids=str)
def test_threads(interpreter: Interpreter) -> None:
    """http.server's threads: every call is part of its thread's request."""
    truth, _, _ = observe(interpreter, "plain_threads.py", "/n/{}")
    assert truth.verdicts == {"right": COUNT}, truth.examples("wrong")


@pytest.mark.parametrize("interpreter", FOUND, ids=str)
def test_event_loop(interpreter: Interpreter) -> None:
    """Three calls at once from a task of asyncio: none has a wrong parent, no trace is split."""
    truth, _, _ = observe(interpreter, "plain_asyncio.py", "/n/{}")
    print(interpreter, dict(truth.verdicts), dict(truth.links))
    assert len(truth.calls) == 3 * COUNT
    assert truth.verdicts["wrong"] == 0, truth.examples("wrong")
    assert truth.split == 0


@pytest.mark.parametrize("interpreter", FOUND, ids=str)
def test_the_version_is_true(interpreter: Interpreter) -> None:
    """process.runtime.name and version are what the interpreter says of itself."""
    _, _, runtimes = observe(interpreter, "plain_threads.py", "/n/{}")
    assert runtimes == {f"cpython {interpreter.version_text}"}


def test_this_interpreter_is_among_them() -> None:
    """The list is not empty by mistake: the one that runs the tests is found."""
    assert sys.version_info[:3] in {one.version for one in FOUND}
