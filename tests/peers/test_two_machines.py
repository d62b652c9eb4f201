"""Two machines: network namespaces with a link between them, and a real agent for each, which
traces the programs of its own machine and no others. What passes the link is joined by the option,
or, where a hop between them takes that out, by the header.
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

HOP = "waggle-middle"
HOP_PROGRAM = Path(__file__).resolve().parents[1] / "kernel" / "middle_hop.py"
LEFT, RIGHT = ("waggle-left", "10.79.0.1"), ("waggle-right", "10.79.0.2")
FLASK_PORT, RAW_PORT = 8101, 8102
COUNT = 30
READY_WITHIN_S = 120.0
Command = Sequence[str | Path]

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
def two_machines(between: str = "") -> Iterator[None]:
    """between: what a hop does to segments (kernel/middle_hop.py); none: a cable."""
    names = [LEFT[0], RIGHT[0], *([HOP] if between else [])]
    with ExitStack() as stack:
        for name in names:
            _ip("netns", "add", name)
            stack.callback(
                subprocess.run, ["ip", "netns", "del", name], capture_output=True, check=False
            )
            _ip("-n", name, "link", "set", "lo", "up")
        if between:
            _cable(LEFT[0], "wl", HOP, "hl")
            _cable(RIGHT[0], "wr", HOP, "hr")
        else:
            _cable(LEFT[0], "wl", RIGHT[0], "wr")
        for (name, address), device in ((LEFT, "wl"), (RIGHT, "wr")):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
        if between:
            stack.enter_context(_hop(between))
        yield


def _cable(left: str, left_device: str, right: str, right_device: str) -> None:
    ends = ("type", "veth", "peer", "name", right_device, "netns", right)
    _ip("link", "add", left_device, "netns", left, *ends)
    _ip("-n", left, "link", "set", left_device, "up")
    _ip("-n", right, "link", "set", right_device, "up")


@contextmanager
def _hop(action: str) -> Iterator[None]:
    """Passes frames from cable to cable as the action says, until the block ends."""
    for (name, _), device in ((LEFT, "wl"), (RIGHT, "wr")):
        plain: Command = ["ip", "netns", "exec", name, sys.executable, HOP_PROGRAM, "plain", device]
        subprocess.run(plain, check=True)
    inside: Command = ["ip", "netns", "exec", HOP, sys.executable, HOP_PROGRAM, "hl", "hr", action]
    running = Program(f"{HOP}-{action}", inside, with_pipes=True)
    try:
        assert running.read_line(READY_WITHIN_S) == "ready"
        yield
    finally:
        running.stop()


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
def system(between: str = "") -> Iterator[System]:
    with two_machines(between), ExitStack() as stack:
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
        assert ended.lost == [], ended.stderr
        found += [span for span in ended.spans if span.number is not None]
    return found


@contextmanager
def agents_of(one: System, *flags: str) -> Iterator[list[Agent]]:
    with ExitStack() as stack:
        left, right = [one.client.pid, *one.raw.pids()], one.flask.pids()
        yield [stack.enter_context(started_agent(*flags, pids=pids)) for pids in (left, right)]


Four = tuple[SeenSpan, SeenSpan, SeenSpan, SeenSpan]


def four_of(spans: Sequence[SeenSpan], number: int, right: set[int]) -> Four:
    """Of one request: the client's call, the front's span, its call, and the server's behind."""
    own = {(span.kind, span.pid in right): span for span in spans if span.number == number}
    return own["client", False], own["server", True], own["client", True], own["server", False]


# What a bad way does to the option is in tests/kernel too, which always runs.
@pytest.mark.parametrize(
    "between", ["", *(pytest.param(one, marks=pytest.mark.slow) for one in ("lose", "reorder"))]
)
def test_a_chain_there_and_back(between: str) -> None:
    """Over the link and back, on a connection that is older than both agents and on new ones, also
    where segments are lost or overtake each other: each request is one trace of four spans, and
    each crossing is joined by the option."""
    count = 10 if between else COUNT
    with system(between) as one, agents_of(one) as agents:
        one.ask("kept", range(1, count + 1))
        one.ask("new", range(count + 1, 2 * count + 1))
        spans = spans_of(agents, 4 * count)
        right = set(one.flask.pids())
    assert len(spans) == 8 * count
    for number in range(1, 2 * count + 1):
        asking, serving, calling, called = four_of(spans, number, right)
        assert (serving.parent_id, serving.link) == (asking.span_id, "option"), number
        assert (calling.parent_id, calling.link) == (serving.span_id, "thread"), number
        assert (called.parent_id, called.link) == (calling.span_id, "option"), number
        assert len({one.trace_id for one in (asking, serving, calling, called)}) == 1
        assert not asking.parent_id


def test_a_hop_that_strips_options() -> None:
    """Where a hop takes the option out the header takes over, on new connections to where HTTP/1 is
    known to be spoken. On a connection that is older than the agents nothing can, and the trace
    begins anew behind it: no parent is guessed."""
    count = 10
    headers = ("--inject", "auto", "--inject-to", "private")
    with system("strip") as one, agents_of(one, *headers) as agents:
        if any("is written into none" in agent.stderr() for agent in agents):
            pytest.skip(agents[0].stderr())
        one.ask("kept", range(1, count + 1))
        one.ask("new", range(count + 1, 2 * count + 1))
        spans = spans_of(agents, 4 * count)
        right = set(one.flask.pids())
    assert len(spans) == 8 * count
    for number in range(1, 2 * count + 1):
        asking, serving, calling, called = four_of(spans, number, right)
        assert (calling.parent_id, calling.link) == (serving.span_id, "thread"), number
        assert (called.parent_id, called.link) in (("", None), (calling.span_id, "traceparent"))
        if number <= count:
            assert (serving.parent_id, serving.link) == ("", None), number
            assert serving.trace_id != asking.trace_id
        else:
            assert (serving.parent_id, serving.link) == (asking.span_id, "traceparent"), number
            assert serving.trace_id == asking.trace_id


def test_off() -> None:
    """With `--tcp-option off` on the left no segment bears one, nor with `--inject off` a header:
    what crosses to the right begins a trace of its own, and nobody guesses."""
    with system() as one, ExitStack() as stack:
        left = [one.client.pid, *one.raw.pids()]
        agents = [
            stack.enter_context(started_agent("--tcp-option=off", "--inject=off", pids=left)),
            stack.enter_context(started_agent(pids=one.flask.pids())),
        ]
        one.ask("new", range(1, 6))
        spans = spans_of(agents, 10)
        pids = set(one.flask.pids())
    serving = [span for span in spans if span.kind == "server" and span.pid in pids]
    assert len(serving) == 5
    assert {(span.parent_id, span.link) for span in serving} == {("", None)}
