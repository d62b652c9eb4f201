"""The programs around the agent: servers that count what they answered, and the OTLP sink."""

import http.client
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.peers.ports import lease_port
from tests.peers.processes import Program, answers
from tests.peers.toolchain import VENV

from . import measure
from .paths import PROGRAMS, go_programs

READY_WITHIN_S = 20.0
_QUIET_S = 0.1


@dataclass(frozen=True, slots=True)
class Target:
    """A server on the loopback. `worker` is the process that answers requests."""

    program: Program
    port: int
    worker: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/n/1"

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        return measure.cpu_s(self.worker)

    def ask(self) -> None:
        """One request, answered when it returns."""
        _get(self.port, "/n/1")

    def answered(self) -> int:
        """How many requests for numbers it has answered, once that grows no more.

        A load generator that stops leaves requests behind that the server still works on.
        """
        before, now = -1, int(_get(self.port, "/answered"))
        while now != before:
            time.sleep(_QUIET_S)
            before, now = now, int(_get(self.port, "/answered"))
        return now


@dataclass(frozen=True, slots=True)
class Taken:
    """What the sink got so far. numbered: the spans of requests for numbers."""

    spans: int
    numbered: int
    bodies: int
    bytes: int


class Sink(Target):
    """Takes OTLP by HTTP and counts."""

    def taken(self) -> Taken:
        return Taken(*map(int, _get(self.port, "/taken").split()))

    def settled(self, enough: int, timeout_s: float = 4.0) -> Taken:
        """What it got, once that is `enough` numbered spans, or in the end whatever it is."""
        deadline = time.monotonic() + timeout_s
        while (taken := self.taken()).numbered < enough and time.monotonic() < deadline:
            time.sleep(0.02)
        return taken


def _get(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().read().decode()
    finally:
        connection.close()


Command = Callable[[int], list[str | Path]]


@contextmanager
def listening(
    name: str, command: Command, env: Mapping[str, str] | None = None
) -> Iterator[tuple[Program, int]]:
    """A program that answers on a port of its own: given the port, started, ended on leaving."""
    lease = lease_port()
    try:
        program = Program(name, command(lease.port), env=env)
        try:
            program.wait_until(
                lambda: answers(
                    http.client.HTTPConnection("127.0.0.1", lease.port, timeout=5), "/ready"
                ),
                READY_WITHIN_S,
            )
            yield program, lease.port
        finally:
            program.stop()
    finally:
        lease.release()


@contextmanager
def go_server() -> Iterator[Target]:
    path = go_programs() / "server"
    with listening("bench-go", lambda p: [path, "-listen", f"127.0.0.1:{p}"]) as (program, port):
        yield Target(program, port, program.pid)


@contextmanager
def sink() -> Iterator[Sink]:
    path = go_programs() / "sink"
    with listening("bench-sink", lambda p: [path, "-listen", f"127.0.0.1:{p}"]) as (program, port):
        yield Sink(program, port, program.pid)


@contextmanager
def flask_server() -> Iterator[Target]:
    """Flask under gunicorn, one worker of the class gthread with four threads."""

    def command(port: int) -> list[str | Path]:
        return [
            *(VENV / "bin" / "gunicorn", "counting:app", "--chdir", PROGRAMS),
            *("--bind", f"127.0.0.1:{port}", "--worker-class", "gthread", "--threads", "4"),
            *("--keep-alive", "30", "--no-control-socket"),
        ]

    with listening("bench-flask", command) as (program, port):
        yield Target(program, port, program.pids()[1])
