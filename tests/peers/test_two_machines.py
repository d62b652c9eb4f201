"""Two machines: network namespaces with a link between them, and a real agent for each, which
traces the programs of its own machine and no others. What passes the link is joined by the option.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from .agent import Agent, SeenSpan, started_agent
from .processes import Program
from .toolchain import PROGRAMS, VENV, ensure_python_peers

LEFT, RIGHT = ("waggle-left", "10.79.0.1"), ("waggle-right", "10.79.0.2")
FLASK_PORT, RAW_PORT = 8101, 8102
COUNT = 30
READY_WITHIN_S = 120.0

# Asks when told to: for each line a kind of connection and the numbers of the requests.
_CLIENT = """
import http.client, sys
kept = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]))
kept.request("GET", "/ready"); kept.getresponse().read()
print("gate", flush=True)
for line in sys.stdin:
    kind, first, last = line.split()
    for n in range(int(first), int(last)):
        one = kept if kind == "kept" else http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]))
        one.request("GET", sys.argv[3].format(n=n))
        answer = one.getresponse()
        assert answer.status == 200, answer.status
        answer.read()
        if one is not kept:
            one.close()
    print("done", flush=True)
"""


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_python_peers()


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"ip {' '.join(words)}: {done.stderr.strip()}")


@contextmanager
def two_machines() -> Iterator[None]:
    names = [name for name, _ in (LEFT, RIGHT)]
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        ends = ("type", "veth", "peer", "name", "wr", "netns", RIGHT[0])
        _ip("link", "add", "wl", "netns", LEFT[0], *ends)
        for (name, address), device in ((LEFT, "wl"), (RIGHT, "wr")):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
            _ip("-n", name, "link", "set", device, "up")
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextmanager
def program(machine: tuple[str, str], name: str, *command: str | Path) -> Iterator[Program]:
    inside = ["ip", "netns", "exec", machine[0], *command]
    started = Program(f"{machine[0]}-{name}", inside, with_pipes=name == "client")
    try:
        yield started
    finally:
        started.stop()


def wait_for(machine: tuple[str, str], server: Program, port: int) -> None:
    """Until the server answers on its own machine."""
    ask = f"import urllib.request as u; u.urlopen('http://{machine[1]}:{port}/ready', timeout=5)"
    command = ["ip", "netns", "exec", machine[0], sys.executable, "-c", ask]

    def answers() -> bool:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    server.wait_until(answers, READY_WITHIN_S)


@dataclass(frozen=True)
class System:
    """A client on the left asks Flask on the right, which asks a server on the left."""

    client: Program
    flask: Program
    raw: Program

    def ask(self, kind: str, numbers: range) -> None:
        self.client.write_line(f"{kind} {numbers.start} {numbers.stop}")
        assert self.client.read_line(READY_WITHIN_S) == "done"


@contextmanager
def system() -> Iterator[System]:
    with two_machines(), ExitStack() as stack:
        raw = stack.enter_context(
            program(
                *(LEFT, "raw", sys.executable, PROGRAMS / "raw" / "rawserver.py"),
                f"{LEFT[1]}:{RAW_PORT}",
            )
        )
        flask = stack.enter_context(
            program(
                *(RIGHT, "flask", VENV / "bin" / "gunicorn", "flask_app:app"),
                *("--chdir", PROGRAMS / "python", "--bind", f"{RIGHT[1]}:{FLASK_PORT}"),
                *("--worker-class", "gthread", "--threads", "4", "--no-control-socket"),
                *("--keep-alive", "60"),
            )
        )
        wait_for(LEFT, raw, RAW_PORT)
        wait_for(RIGHT, flask, FLASK_PORT)
        target = f"/call/{{n}}?url=http://{LEFT[1]}:{RAW_PORT}/n/{{n}}"
        arguments = (sys.executable, "-c", _CLIENT, RIGHT[1], str(FLASK_PORT), target)
        client = stack.enter_context(program(LEFT, "client", *arguments))
        assert client.read_line(READY_WITHIN_S) == "gate"
        yield System(client, flask, raw)


def spans_of(agents: Sequence[Agent], count: int) -> list[SeenSpan]:
    found: list[SeenSpan] = []
    for agent in agents:
        agent.settle(count)
        ended = agent.stop()
        assert ended.losses == ["nothing"], ended.stderr
        found += [span for span in ended.spans if span.number is not None]
    return found


def test_a_chain_there_and_back() -> None:
    """Over the link and back, on a connection that is older than both agents and on new ones: each
    request is one trace of four spans, and each crossing is joined by the option."""
    with system() as one, ExitStack() as stack:
        agents = [
            stack.enter_context(started_agent(pids=[one.client.pid, *one.raw.pids()])),
            stack.enter_context(started_agent(pids=one.flask.pids())),
        ]
        one.ask("kept", range(1, COUNT + 1))
        one.ask("new", range(COUNT + 1, 2 * COUNT + 1))
        spans = spans_of(agents, 4 * COUNT)
        pids = set(one.flask.pids())
    assert len(spans) == 8 * COUNT
    for number in range(1, 2 * COUNT + 1):
        own = {(span.kind, span.pid in pids): span for span in spans if span.number == number}
        asking, serving = own["client", False], own["server", True]
        calling, called = own["client", True], own["server", False]
        assert (serving.parent_id, serving.link) == (asking.span_id, "option"), number
        assert (calling.parent_id, calling.link) == (serving.span_id, "thread"), number
        assert (called.parent_id, called.link) == (calling.span_id, "option"), number
        assert {span.trace_id for span in own.values()} == {asking.trace_id}
        assert not asking.parent_id


def test_off() -> None:
    """With `--tcp-option off` on the left no segment bears one: what crosses to the right begins
    a trace of its own, and nobody guesses."""
    with system() as one, ExitStack() as stack:
        left = [one.client.pid, *one.raw.pids()]
        agents = [
            stack.enter_context(started_agent("--tcp-option", "off", pids=left)),
            stack.enter_context(started_agent(pids=one.flask.pids())),
        ]
        one.ask("new", range(1, 6))
        spans = spans_of(agents, 10)
        pids = set(one.flask.pids())
    serving = [span for span in spans if span.kind == "server" and span.pid in pids]
    assert len(serving) == 5
    assert {(span.parent_id, span.link) for span in serving} == {("", None)}
