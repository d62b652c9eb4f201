"""The line of code on each call, against what the interpreter says of itself."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .agent import Agent, SeenSpan, started_agent
from .interpreters import Interpreter, interpreters
from .servers import start_server
from .toolchain import PROGRAMS, VENV, ensure_called_server, ensure_python_peers

PROGRAM = PROGRAMS / "python" / "lines.py"
WITH_FRAMES = [one for one in interpreters() if one.version >= (3, 11)]
NAMES = ("code.file.path", "code.line.number", "code.function.name")
ASYNC_CALLS = 20 * 13 + 5
_WARM_CALLS = 2000  # by then the agent has long attached


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_called_server()
    ensure_python_peers()


def test_this_interpreter_is_among_them() -> None:
    """The list is not empty by mistake."""
    assert sys.version_info[:3] in {one.version for one in WITH_FRAMES}


QUICK = {WITH_FRAMES[0], WITH_FRAMES[-1]}


@pytest.mark.parametrize(
    "interpreter",
    [
        pytest.param(one, id=str(one), marks=[] if one in QUICK else [pytest.mark.slow])
        for one in WITH_FRAMES
    ],
)
def test_every_kind_of_code(interpreter: Interpreter, tmp_path: Path) -> None:
    """Each call carries file, line and function as the interpreter itself says, and none where
    only the event loop is on the stack: in every kind of code, in each version."""
    told, seen = observe(interpreter.path, "urllib", tmp_path)
    assert len(told) > 100
    assert any(value[1] is None for value in told.values())
    assert wrong(told, seen) == {}


@pytest.mark.parametrize("client", ["requests", "urllib3", "httpx"])
def test_every_client(client: str, tmp_path: Path) -> None:
    """A client library's own frames are passed, however many."""
    told, seen = observe(VENV / "bin" / "python", client, tmp_path)
    assert wrong(told, seen) == {}


@pytest.mark.parametrize("loop", ["asyncio.run", "uvloop.run", "uvloop"])
@pytest.mark.parametrize("client", ["httpx", "aiohttp"])
def test_tasks(client: str, loop: str) -> None:
    """Hundreds of tasks at once: a line is the caller's own, or there is none, never another's.

    Under asyncio's loop httpx writes in the calling task, so every call has its line; uvloop
    writes at the end of its turn.
    """
    with start_server("go-nethttp") as called:
        host = called.base_url.removeprefix("http://")
        program = PROGRAM.with_name("lines_async.py")
        command = [str(VENV / "bin" / "python"), str(program), host, client, loop]
        with running(command) as process, started_agent(pids=[process.pid]) as agent:
            if (client, loop) == ("httpx", "asyncio.run"):
                warm_up(process, agent)
            for _ in range(20):
                say(process, "warm", "warm")
            say(process, "go", "done")
            agent.wait_for(lambda spans: len(numbered(spans)) == ASYNC_CALLS)
            ended = agent.stop()
    lines = Counter(map(verdict, (span for span in ended.spans if span.number)))
    assert set(lines) <= {"right", "none", "nobody's"}, lines
    assert lines["nobody's"] == 5
    if (client, loop) == ("httpx", "asyncio.run"):
        assert lines["none"] == 0


def test_greenlets() -> None:
    """Greenlets have stacks of their own: each call its own line, a library's greenlet none."""
    with start_server("go-nethttp") as called:
        host = called.base_url.removeprefix("http://")
        program = PROGRAM.with_name("lines_gevent.py")
        command = [str(VENV / "bin" / "python"), str(program), host]
        with running(command) as process, started_agent(pids=[process.pid]) as agent:
            warm_up(process, agent)
            say(process, "go", "done")
            agent.wait_for(lambda spans: len(numbered(spans)) == 205)
            ended = agent.stop()
    lines = Counter(map(verdict, (span for span in ended.spans if span.number)))
    assert lines == {"right": 200, "nobody's": 5}


def verdict(span: SeenSpan) -> str:
    """Whether a span's line is the one in its URL; 0 there stands for no line at all."""
    truth = int(span.path.split("/")[2])
    line = span.attributes.get("code.line.number")
    if line is None:
        return "none" if truth else "nobody's"
    return "right" if line == truth else f"{line} for {truth}"


def test_by_system_calls(tmp_path: Path) -> None:
    """The frames are the same where the bytes are seen by system calls."""
    told, seen = observe(VENV / "bin" / "python", "urllib", tmp_path, "--capture=syscall")
    assert wrong(told, seen) == {}


def test_off(tmp_path: Path) -> None:
    """--call-site off: no span says anything of code."""
    _, seen = observe(VENV / "bin" / "python", "urllib", tmp_path, "--call-site=off")
    assert Counter(seen.values()) == {(None, None, None): len(seen)}


def observe(
    python: Path, client: str, folder: Path, *flags: str
) -> tuple[dict[int, Any], dict[int, tuple[Any, ...]]]:
    """What the program says of each numbered call, and what its span says."""
    truth = folder / "truth.json"
    with start_server("go-nethttp") as called:
        host = called.base_url.removeprefix("http://")
        command = [str(word) for word in (python, PROGRAM, host, truth, client)]
        with running(command) as program, started_agent(*flags, pids=[program.pid]) as agent:
            if "--call-site=off" not in flags:
                warm_up(program, agent)
            say(program, "go", "done")
            told = {int(n): value for n, value in json.loads(truth.read_text()).items()}
            agent.wait_for(lambda spans: len(numbered(spans)) == len(told))
            ended = agent.stop()
    assert not ended.lost
    return told, numbered(ended.spans)


@contextmanager
def running(command: Sequence[str]) -> Iterator["subprocess.Popen[str]"]:
    """A program that says `ready`, and is ended on leaving."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        try:
            assert program.stdout
            assert program.stdout.readline() == "ready\n"
            yield program
        finally:
            program.kill()


def warm_up(program: "subprocess.Popen[str]", agent: Agent) -> None:
    """Calls until one carries a line: from then on all must."""
    for _ in range(_WARM_CALLS):
        say(program, "warm", "warm")
        if any("code.line.number" in span.attributes for span in agent.spans()):
            return
    raise agent.error("never knew a line")


def say(program: "subprocess.Popen[str]", word: str, answer: str) -> None:
    assert program.stdin
    assert program.stdout
    program.stdin.write(word + "\n")
    program.stdin.flush()
    assert program.stdout.readline() == answer + "\n"


def numbered(spans: list[SeenSpan]) -> dict[int, tuple[Any, ...]]:
    return {
        span.number: tuple(span.attributes.get(name) for name in NAMES)
        for span in spans
        if span.number
    }


def wrong(told: dict[int, Any], seen: dict[int, tuple[Any, ...]]) -> dict[int, Any]:
    """Number -> what the interpreter said, and what the span says, where they differ."""
    return {n: (value, seen[n]) for n, value in told.items() if tuple(value[1:]) != seen[n]}
