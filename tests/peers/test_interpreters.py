"""Each CPython of this machine: one server with threads, one with an event loop."""

import sys
from contextlib import ExitStack
from pathlib import Path

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


def observe(interpreter: Interpreter, program: str, calls: int) -> tuple[Truth, set[str], str]:
    """The truth about `program`, which makes so many calls a request, at 32 requests at once; what
    its process is said to run on; and what the agent said."""
    kind = ServerKind(lambda place, _: [interpreter.path, FOLDER / program, str(place.port)])
    with start_server("go-nethttp") as called:
        env = {"CALLED": called.base_url}
        with start_server(program, env=env, kinds={program: kind}) as server:
            with started_agent(pids=[called.pid, server.pid]) as agent:
                run_client("go", server.base_url, COUNT, 32)
                agent.settle(COUNT * (1 + 2 * calls))
                ended = agent.stop()
            assert not ended.lost
            runtimes = {_runtime_of(span) for span in ended.spans if span.pid == server.pid}
            return judge(ended.spans, [server.pid], [called.pid]), runtimes, ended.stderr


def _runtime_of(span: SeenSpan) -> str:
    words = ("name", "version")
    return " ".join(str(span.resource.get(f"process.runtime.{word}")) for word in words)


@each_interpreter
def test_threads(interpreter: Interpreter) -> None:
    """http.server's threads: every call is part of its thread's request, without a GIL too; and
    process.runtime.version is what the interpreter says of itself."""
    truth, runtimes, _ = observe(interpreter, "plain_threads.py", calls=1)
    assert truth.verdicts == {"right": COUNT}, truth.examples("wrong")
    assert truth.split == 0
    assert runtimes == {f"cpython {interpreter.version_text}"}


@each_interpreter
def test_event_loop(interpreter: Interpreter) -> None:
    """Three calls at once from a task of asyncio: all have the right parent, no trace is split.
    Without a GIL none has a parent, and the agent says why."""
    truth, _, said = observe(interpreter, "plain_asyncio.py", calls=3)
    verdict = "none" if interpreter.is_free else "right"
    assert truth.verdicts == {verdict: 3 * COUNT}, truth.examples("wrong")
    assert truth.split == 0
    assert ("without a GIL" in said) == interpreter.is_free


@pytest.mark.slow
@pytest.mark.parametrize(
    "interpreter", [pytest.param(one, id=str(one)) for one in FOUND if one.version >= (3, 12)]
)
def test_subinterpreter(interpreter: Interpreter) -> None:
    """The same in a second interpreter of the process, whose thread has a state in both."""
    truth, _, _ = observe(interpreter, "plain_inside.py", calls=3)
    verdict = "none" if interpreter.is_free else "right"
    assert truth.verdicts == {verdict: 3 * COUNT}, truth.examples("wrong")
    assert truth.split == 0


def test_this_interpreter_is_among_them() -> None:
    """The list is not empty by mistake: the one that runs the tests is found."""
    assert sys.version_info[:3] in {one.version for one in FOUND}


@pytest.mark.slow
def test_contexts_too_many_to_follow() -> None:
    """A program that copies contexts faster than is cheap to follow is let alone, and the agent
    says so: its calls have the parents that threads tell."""
    python = Path(sys.executable).resolve()
    kind = ServerKind(lambda place, _: [python, FOLDER / "plain_copies.py", str(place.port)])
    with ExitStack() as stack:
        called = stack.enter_context(start_server("go-nethttp"))
        env = {"CALLED": called.base_url}
        server = stack.enter_context(start_server("copies", env=env, kinds={"copies": kind}))
        agent = stack.enter_context(started_agent(pids=[called.pid, server.pid]))
        agent.wait_for_stderr("copies contexts faster")
        run_client("go", server.base_url, COUNT, 8)
        agent.settle(3 * COUNT)
        ended = agent.stop()
    truth = judge(ended.spans, [server.pid], [called.pid])
    assert truth.verdicts == {"right": COUNT}, truth.examples("wrong")
    assert truth.links == {"thread": COUNT}
    assert not ended.lost
