"""Each CPython of this machine: one server with threads, one with an event loop."""

import sys

import pytest
from _pytest.mark import ParameterSet

from .agent import SeenSpan, started_agent
from .clients import run_client
from .interpreters import Interpreter, interpreters
from .servers import ServerKind, start_server
from .toolchain import PROGRAMS, ensure_called_server
from .truth import Truth, judge

FOLDER = PROGRAMS / "python"
COUNT = 300
FOUND = interpreters()


def _params() -> list[ParameterSet]:
    """The oldest, the newest and the one that runs the tests always; the rest is slow."""
    quick = {FOUND[0], FOUND[-1], *(one for one in FOUND if one.version == sys.version_info[:3])}
    return [
        pytest.param(one, id=str(one), marks=[] if one in quick else [pytest.mark.slow])
        for one in FOUND
    ]


each_interpreter = pytest.mark.parametrize("interpreter", _params())


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_called_server()


def observe(interpreter: Interpreter, program: str, calls: int) -> tuple[Truth, set[str]]:
    """The truth about `program`, which makes so many calls a request, at 32 requests at once; and
    what its process is said to run on."""
    kind = ServerKind(lambda place, _: [interpreter.path, FOLDER / program, str(place.port)])
    with start_server("go-nethttp") as called:
        env = {"CALLED": called.base_url}
        with start_server(program, env=env, kinds={program: kind}) as server:
            with started_agent(pids=[called.pid, server.pid]) as agent:
                run_client("go", server.base_url, COUNT, 32)
                agent.settle(COUNT * (1 + 2 * calls))
                ended = agent.stop()
            assert ended.losses == ["nothing"]
            runtimes = {_runtime_of(span) for span in ended.spans if span.pid == server.pid}
            return judge(ended.spans, [server.pid], [called.pid]), runtimes


def _runtime_of(span: SeenSpan) -> str:
    words = ("name", "version")
    return " ".join(str(span.resource.get(f"process.runtime.{word}")) for word in words)


@each_interpreter
def test_threads(interpreter: Interpreter) -> None:
    """http.server's threads: every call is part of its thread's request; and
    process.runtime.version is what the interpreter says of itself."""
    truth, runtimes = observe(interpreter, "plain_threads.py", calls=1)
    assert truth.verdicts == {"right": COUNT}, truth.examples("wrong")
    assert truth.split == 0
    assert runtimes == {f"cpython {interpreter.version_text}"}


@each_interpreter
def test_event_loop(interpreter: Interpreter) -> None:
    """Three calls at once from a task of asyncio: all have the right parent, no trace is split."""
    truth, _ = observe(interpreter, "plain_asyncio.py", calls=3)
    assert truth.verdicts == {"right": 3 * COUNT}, truth.examples("wrong")
    assert truth.split == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "interpreter", [pytest.param(one, id=str(one)) for one in FOUND if one.version >= (3, 12)]
)
def test_subinterpreter(interpreter: Interpreter) -> None:
    """The same in a second interpreter of the process, whose thread has a state in both."""
    truth, _ = observe(interpreter, "plain_inside.py", calls=3)
    assert truth.verdicts == {"right": 3 * COUNT}, truth.examples("wrong")
    assert truth.split == 0


def test_this_interpreter_is_among_them() -> None:
    """The list is not empty by mistake: the one that runs the tests is found."""
    assert sys.version_info[:3] in {one.version for one in FOUND}
