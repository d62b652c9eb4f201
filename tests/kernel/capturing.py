"""Kernel tests of whole exchanges: a loaded capture, processes it watches, and what it saw of them.

The agent never traces itself, so whatever moves bytes is an `Actor` (actor.py), a process that
makes one system call after the other as the test says. The truth travels as a number in the URL:
/n/NUMBER, and after the scenario the records must tell exactly that story.
"""

import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from kernel.support import HERE, unavailable
from waggle import flavours, procfs, spans
from waggle.capture import OBJECT_PATH, Capture
from waggle.capture_options import CaptureOptions, configure
from waggle.discovery import Decision
from waggle.errors import UnsupportedError
from waggle.flavours import FLAVOURS
from waggle.layout import Counter, End, Link, ProcessMode, Role
from waggle.libbpf import LoadError, Object
from waggle.sampling import Sampling

TRACED = ProcessMode.TRACED | ProcessMode.FOLLOW
THREADED = TRACED | ProcessMode.RULE_THREAD
PATIENCE_S = 30.0  # a bound, for a machine under load; nothing waits longer than it must
SWEPT_WITHIN_S = 3.0
LOOPBACK = {"AF_INET": "127.0.0.1", "AF_INET6": "::1"}

# Maps that must be empty when all connections are closed.
LEFT_BEHIND = (
    *("connections", "exchanges", "large_exchanges", "partial_heads", "threads"),
    *("http2_connections", "near_streams", "http2_streams", "large_streams", "tls_connections"),
    *("near_goroutines", "near_contexts"),
)
LOSSES = tuple(counter for counter in Counter if counter.name.startswith("LOST_"))


@cache
def _refusal(flavour: str) -> str:
    """Why this kernel does not take a flavour; empty when it does."""
    try:
        Capture.open(CaptureOptions(capture=flavour)).close()
    except UnsupportedError as error:
        return str(error)
    return ""


def open_flavour(flavour: str, sampling: Sampling | None = None, *, tls: bool = False) -> Capture:
    """A capture of one flavour. Skips the test where this kernel has no such thing."""
    if not OBJECT_PATH.exists():
        unavailable("needs the BPF object: run make build")
    if reason := _refusal(flavour):
        pytest.skip(f"no flavour {flavour}: {reason.splitlines()[-1].strip()[:120]}")
    options = CaptureOptions(capture=flavour, sampling=sampling or Sampling(), tls=tls)
    return Capture.open(options)


def open_small(flavour: str, entries: Mapping[str, int]) -> Capture:
    """As `open_flavour`, with other bounds: map name -> max_entries (bytes for a ring)."""
    if reason := _refusal(flavour):
        pytest.skip(f"no flavour {flavour}: {reason.splitlines()[-1].strip()[:120]}")
    chosen = next(one for one in FLAVOURS if one.name == flavour)
    bpf = Object.open(OBJECT_PATH)
    try:
        bpf.load_only(flavours.SWEEP, *flavours.COMMON, *chosen.loaded())
        configure(bpf, CaptureOptions())
        for name, count in entries.items():
            bpf.map(name).max_entries = count
        bpf.load()
        return Capture(bpf, chosen, flavours.attach(bpf, chosen))
    except LoadError:
        bpf.close()
        raise


def capture_fixture(sampling: Sampling | None = None) -> Any:
    """A fixture for a module of tests: one capture for all of them, in turns of every flavour."""

    @pytest.fixture(scope="module", params=[one.name for one in FLAVOURS])
    def capture(request: pytest.FixtureRequest) -> Iterator[Capture]:
        loaded = open_flavour(request.param, sampling)
        yield loaded
        _dismiss_idle()
        loaded.close()

    return capture


class Window(NamedTuple):
    """When a command began and ended, CLOCK_MONOTONIC nanoseconds."""

    began_ns: int
    ended_ns: int

    def has(self, time_ns: int) -> bool:
        return self.began_ns <= time_ns <= self.ended_ns


class ActorError(AssertionError):
    """A command failed in the actor: the scenario did not take place."""


class Promise:
    """The answer to a command that is still running."""

    def __init__(self, actor: "Actor", number: int) -> None:
        self._actor = actor
        self._number = number

    def get(self) -> Any:
        return self._actor._answer_to(self._number)


# What an actor is not the same process after.
_CHANGING = frozenset({"fork", "fork_aside", "execute", "make_ring", "send_by_ring"})


class Actor:
    """One process. Verbs of actor.py are methods: actor.send("a", ...)."""

    def __init__(self, given: Mapping[str, int] | None = None, prefix: Sequence[str] = ()) -> None:
        given = given or {}
        arguments = [f"{name}={descriptor}" for name, descriptor in given.items()]
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(HERE / "actor.py"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=tuple(given.values()),
        )
        self._numbers = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self.plain = not given and not prefix
        self.listening: tuple[str, Any] | None = None
        self.traced_by: Capture | None = None
        self.window = Window(0, 0)
        try:
            self.pid = int(self._answer_to(0))
        except BaseException:
            self.kill()
            raise

    def start(self, verb: str, *, thread: str = "", **arguments: Any) -> Promise:
        """Begin a command; its answer is fetched later."""
        self.plain = self.plain and not thread and verb not in _CHANGING
        number = next(self._numbers)
        command = {"id": number, "thread": thread, "verb": verb, "arguments": arguments}
        assert self.process.stdin
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()
        return Promise(self, number)

    def do(self, verb: str, *, thread: str = "", **arguments: Any) -> Any:
        """Carry a command out; `window` is then when that was."""
        return self.start(verb, thread=thread, **arguments).get()

    def _answer_to(self, number: int) -> Any:
        assert self.process.stdout
        while number not in self._answers:
            line = self.process.stdout.readline()
            if not line:
                raise ActorError(f"the actor ended: exit code {self.process.wait()}")
            answer = json.loads(line)
            self._answers[answer["id"]] = answer
        answer = self._answers.pop(number)
        self.window = Window(answer["began_ns"], answer["ended_ns"])
        if "error" in answer:
            raise ActorError(answer["error"])
        return answer["result"]

    # The verbs that nearly every test uses, spelled out.

    def listen(self, family: str = "AF_INET", address: Any = None, **more: Any) -> Any:
        address = address or [LOOPBACK[family], 0]
        return self.do("listen", name="listener", family=family, address=address, **more)

    def send(self, name: str, *pieces: bytes, how: str = "send", thread: str = "") -> Window:
        text = [piece.decode("latin-1") for piece in pieces]
        self.do("send", name=name, pieces=text, how=how, thread=thread)
        return self.window

    def receive(self, name: str, size: int = 65536, how: str = "recv", thread: str = "") -> bytes:
        got: str = self.do("receive", name=name, size=size, how=how, thread=thread)
        return got.encode("latin-1")

    def receive_to(self, name: str, mark: bytes, *, thread: str = "", **more: Any) -> bytes:
        text = mark.decode("latin-1")
        got: str = self.do("receive_to", name=name, mark=text, thread=thread, **more)
        return got.encode("latin-1")

    def close(self, *names: str) -> None:
        for name in names:
            self.do("close", name=name)

    def fork(self) -> int:
        """Go on in a child. Gives its pid."""
        self.pid = int(self.do("fork"))
        return self.pid

    def execute(self) -> None:
        """Go on in a fresh program of the same process."""
        self.start("execute")
        self._answer_to(0)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.end()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self.listening
        return int(self.listening[1][1])

    def rest(self) -> bool:
        """Close all sockets. Whether the process can take part in another scenario."""
        Path(_path_of(self.pid)).unlink(missing_ok=True)
        if not self.plain or self.process.poll() is not None:
            self.end()
            return False
        try:
            self.do("close_all")
        except (ActorError, OSError):
            self.process.kill()
            self.end()
            return False
        self.listening = None
        return True

    def end(self) -> None:
        """No more commands: the process leaves its loop and ends with its sockets."""
        assert self.process.stdin and self.process.stdout
        if not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


# Starting a program costs more than most scenarios: idle ones wait here for the next.
_idle: list[Actor] = []


def _dismiss_idle() -> None:
    while _idle:
        _idle.pop().end()


@dataclass(frozen=True)
class Seen:
    """One record: its facts, its target, and the span made of it."""

    facts: spans.Facts
    target: str
    kept: dict[int, bytes]
    span: spans.Span
    large: bool

    @property
    def number(self) -> int:
        """The number in the URL; -1 where there is none."""
        path = self.target.partition("?")[0]
        last = path.rpartition("/")[2]
        return int(last) if last.isdigit() else -1

    @property
    def role(self) -> Role:
        return Role(self.facts.role)

    @property
    def end(self) -> End:
        return End(self.facts.end)

    @property
    def link(self) -> Link:
        return Link(self.facts.link)

    @property
    def has_parent(self) -> bool:
        return bool(self.span.parent_id)

    def __str__(self) -> str:
        facts = self.facts
        return (
            f"{self.role.name} {facts.tgid} {facts.method} {self.target[:60]} {facts.status} "
            f"{self.end.name} {self.link.name} in {facts.request_body} out {facts.response_body}"
        )


_TABLE = spans.ResourceTable([spans.Resource({})])


def decode(records: spans.Records, *, large: bool = False) -> list[Seen]:
    """Records as the rest of the agent would read them."""
    resources = np.zeros(len(records), np.intp)
    batch = spans.SpanBatch(records, resources, _TABLE, 0)
    seen = []
    for i in range(len(records)):
        exchange = spans.read_exchange(records, i)
        target = exchange.target.decode("latin-1")
        seen.append(Seen(exchange.facts, target, exchange.kept, spans.decode_span(batch, i), large))
    return seen


class Recording:
    """What a capture sees of the processes of one scenario."""

    def __init__(self, capture: Capture, mode: int = TRACED) -> None:
        self.capture = capture
        self.mode = mode
        self.seen: list[Seen] = []
        self._actors: list[Actor] = []
        self._numbers = itertools.count(1)
        self._forget_connections()
        self.begin_again()

    def begin_again(self) -> None:
        """What was seen and counted so far was not what this is about."""
        self._drain()
        self.seen.clear()
        self._before = self.capture.counters()

    def number(self) -> int:
        """The next number for a URL."""
        return next(self._numbers)

    def actor(
        self,
        *,
        traced: bool = True,
        given: Mapping[str, int] | None = None,
        prefix: Sequence[str] = (),
    ) -> Actor:
        """A process, traced from here on unless told otherwise. It is a new one, unless all of
        them are treated alike."""
        plain = traced and not given and not prefix and self.mode == TRACED
        actor = (self._idle_one() if plain else None) or Actor(given, prefix)
        actor.plain = plain
        actor.traced_by = self.capture
        self._actors.append(actor)
        if traced:
            self.trace(actor.pid)
        return actor

    def _idle_one(self) -> Actor | None:
        """One that no other capture traces, which may still be open and enrol its sockets."""
        for number, actor in enumerate(_idle):
            if actor.traced_by is self.capture:
                return _idle.pop(number)
        return None

    def trace(self, pid: int, mode: int | None = None) -> None:
        facts = procfs.ProcFs().facts(pid)
        assert facts, f"process {pid} is gone"
        wanted = self.mode if mode is None else mode
        self.capture.decide(Decision(pid, facts.start_ns, wanted, "a test"))

    def counted(self, counter: Counter) -> int:
        """How often something happened since the recording began."""
        return self.capture.counters()[counter] - self._before[counter]

    def losses(self) -> dict[str, int]:
        """What was lost since the recording began, by reason; nothing that is 0."""
        now = self.capture.counters()
        lost = {counter.name: now[counter] - self._before[counter] for counter in LOSSES}
        return {name: count for name, count in lost.items() if count}

    def wait(self, count: int, patience_s: float = PATIENCE_S) -> list[Seen]:
        """All records, once there are `count` or after so many seconds."""
        deadline = time.monotonic() + patience_s
        self._drain()
        while len(self.seen) < count and time.monotonic() < deadline:
            time.sleep(0.002)
            self._drain()
        return self.seen

    def finish(self, count: int) -> list[Seen]:
        """As wait(), after all sockets are closed and the kernel side has looked for those that
        no hook saw end: whatever comes, has come then."""
        self.dismiss()
        self.capture.sweep()
        return self.wait(count)

    def dismiss(self) -> None:
        """Close the sockets of all processes, and end those nobody else can use."""
        for actor in self._actors:
            if actor.rest():
                _idle.append(actor)
        self._actors.clear()

    def _forget_connections(self) -> None:
        """What UNIX connections of other scenarios left behind is not this one's matter."""
        for name in LEFT_BEHIND:
            left = self.capture.bpf.map(name)
            for key in left.items()[0]:
                left.delete(key.tobytes())

    def _drain(self) -> None:
        for ring, large in (
            (self.capture.exchanges, False),
            (self.capture.large_exchanges, True),
        ):
            while len(records := ring.read()):
                self.seen += decode(records, large=large)
        while len(self.capture.events.read()):
            pass

    def left_behind(self) -> dict[str, int]:
        """Entries of maps that hold something, by map: none once all connections are closed. What
        the kernel had not let go of at one sweep is found by one of the next, as in the agent."""
        deadline = time.monotonic() + SWEPT_WITHIN_S
        while True:
            counts = {name: entries(self.capture, name) for name in LEFT_BEHIND}
            left = {name: count for name, count in counts.items() if count}
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.02)
            self.capture.sweep()

    def of(self, role: Role) -> list[Seen]:
        return [one for one in self.seen if one.role == role]

    def pair(self, number: int) -> tuple[Seen, Seen]:
        """The client's and the server's record of a number, of which there must be one each."""
        clients = [one for one in self.of(Role.CLIENT) if one.number == number]
        servers = [one for one in self.of(Role.SERVER) if one.number == number]
        assert (len(clients), len(servers)) == (1, 1), f"{number}: {self}"
        return clients[0], servers[0]

    def __str__(self) -> str:
        lines = "\n  ".join(str(one) for one in self.seen)
        return f"{len(self.seen)} records, lost {self.losses()}\n  {lines}"


@contextmanager
def recording(capture: Capture, mode: int = TRACED) -> Iterator[Recording]:
    """A recording whose processes end with the block, however that ends."""
    recorded = Recording(capture, mode)
    try:
        yield recorded
    finally:
        recorded.dismiss()


@dataclass
class Connection:
    """A client and a server with one connection between them; each calls it by `name`."""

    recorded: Recording
    client: Actor
    server: Actor
    name: str = "c"

    def ask(self, request: bytes, how: str = "send", receive: str = "recv") -> Window:
        """The client sends all of `request`, the server receives it. Gives the client's window."""
        window = self.client.send(self.name, request, how=how)
        self.server.receive_to(self.name, request[-40:], how=receive)
        return window

    def answer(self, response: bytes, how: str = "send", receive: str = "recv") -> Window:
        """The other way round. Gives the server's window."""
        window = self.server.send(self.name, response, how=how)
        self.client.receive_to(self.name, response[-40:], how=receive)
        return window

    def exchange(self, request: bytes, response: bytes) -> None:
        self.ask(request)
        self.answer(response)

    def close(self) -> None:
        """The client closes first, the server sees the end and closes too."""
        self.client.close(self.name)
        assert self.server.receive(self.name) == b""
        self.server.close(self.name)


FAMILIES = ("ipv4", "ipv6", "dual", "unix", "abstract")


def open_connection(
    server: Actor, client: Actor, recorded: Recording, family: str = "ipv4", name: str = "c"
) -> Connection:
    """Connect two actors; the server listens first if it does not yet."""
    if not server.listening:
        server.listening = _listen(server, family)
    kind, address = server.listening
    if family == "dual":
        kind, address = "AF_INET", ["127.0.0.1", address[1]]
    client.do("connect", name=name, family=kind, address=address)
    server.do("accept", listener="listener", name=name)
    return Connection(recorded, client, server, name)


def _path_of(pid: int) -> str:
    return str(Path(tempfile.gettempdir()) / f"waggle-test-{pid}.sock")


def _listen(server: Actor, family: str) -> tuple[str, Any]:
    if family == "unix":
        return "AF_UNIX", server.listen("AF_UNIX", _path_of(server.pid))
    if family == "abstract":
        return "AF_UNIX", server.listen("AF_UNIX", f"@waggle-test-{server.pid}")
    if family == "dual":
        return "AF_INET6", server.listen("AF_INET6", ["::", 0])
    kind = "AF_INET6" if family == "ipv6" else "AF_INET"
    return kind, server.listen(kind, [LOOPBACK[kind], 0])


@contextmanager
def connected(capture: Capture, family: str = "ipv4", mode: int = TRACED) -> Iterator[Connection]:
    """Two traced processes, a server and a client, connected."""
    with recording(capture, mode) as recorded:
        server, client = recorded.actor(), recorded.actor()
        yield open_connection(server, client, recorded, family)


def request(
    number: int,
    *fields: str,
    method: str = "GET",
    target: str = "",
    version: str = "HTTP/1.1",
    body: bytes = b"",
) -> bytes:
    """A request with its number in the URL. A body brings its Content-Length, unless a field
    already says how it is framed."""
    lines = [f"{method} {target or f'/n/{number}'} {version}", "Host: test", *fields]
    if body and not _is_framed(fields):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def response(
    body: bytes = b"ok", *fields: str, status: str = "200 OK", version: str = "HTTP/1.1"
) -> bytes:
    """A response; framed by its length unless a field says otherwise."""
    lines = [f"{version} {status}", *fields]
    if not _is_framed(fields):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def _is_framed(fields: Sequence[str]) -> bool:
    names = ("content-length", "transfer-encoding", "x-until-close")
    return any(field.lower().startswith(names) for field in fields)


def expect_pairs(recorded: Recording, numbers: Sequence[int]) -> None:
    """Every number is there exactly once on each side, whole, and handed over by the socket;
    and nothing else is."""
    seen = sorted((one.number, one.role) for one in recorded.seen)
    wanted = sorted((number, role) for number in numbers for role in (Role.SERVER, Role.CLIENT))
    assert seen == wanted, str(recorded)
    for number in numbers:
        expect_pair(recorded, number)


def expect_pair(recorded: Recording, number: int) -> tuple[Seen, Seen]:
    """One number on both sides, and each side's facts fit the other's."""
    client, server = recorded.pair(number)
    for one in (client, server):
        facts = one.facts
        assert one.end == End.DONE, str(recorded)
        assert 0 < facts.start_ns <= facts.response_ns <= facts.end_ns, str(one)
    assert client.facts.start_ns <= server.facts.start_ns, "the client asks first"
    assert server.facts.response_ns <= client.facts.response_ns, "the server answers first"
    assert server.link == Link.SOCKET, str(recorded)
    assert server.span.parent_id == client.span.span_id, str(recorded)
    assert server.span.trace_id == client.span.trace_id, str(recorded)
    for name in ("method", "status", "version", "request_body", "response_body"):
        assert getattr(client.facts, name) == getattr(server.facts, name), f"{name}: {recorded}"
    return client, server


def entries(capture: Capture, name: str) -> int:
    """How many entries a map has."""
    keys, _ = capture.bpf.map(name).items()
    return len(keys)
