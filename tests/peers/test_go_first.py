"""The first requests of a Go program that no agent has read before: their calls have parents."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from .agent import Agent, SeenSpan, started_agent
from .go_matrix import GOMATRIX
from .ports import lease_port
from .processes import LOGS
from .servers import Server, start_server
from .toolchain import GO_WAYS, ensure_go_matrix, ensure_go_old
from .truth import judge

REQUESTS = 20
BEGINS_WITHIN_S = 60.0
SOON_S = 5.0  # on a machine that does much else: docs/go.md says what it takes
OWN = "/m/one/std/{}"


def ask(port: int, number: int, path: str) -> None:
    """One request on a connection of its own, as soon as somebody listens."""
    deadline = time.monotonic() + BEGINS_WITHIN_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), BEGINS_WITHIN_S) as connection:
                head = f"GET {path.format(number)} HTTP/1.1\r\nHost: localhost\r\n"
                connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            return
        except ConnectionRefusedError:
            assert time.monotonic() < deadline


def asked(port: int, first: int, path: str = OWN) -> range:
    numbers = range(first, first + REQUESTS)
    for number in numbers:
        ask(port, number, path)
    return numbers


@contextmanager
def port_of_ours() -> Iterator[int]:
    lease = lease_port()
    try:
        yield lease.port
    finally:
        lease.release()


@contextmanager
def running(command: Sequence[str], env: Mapping[str, str]) -> Iterator[int]:
    """A program that nobody waits for; its process id."""
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"first-{os.getpid()}.log").open("ab") as log:
        process = subprocess.Popen(command, env={**os.environ, **env}, stderr=log)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def spans_of(agent: Agent, numbers: range) -> list[SeenSpan]:
    """What the program served and called for these numbers, once all is there."""

    def mine(spans: Sequence[SeenSpan]) -> list[SeenSpan]:
        return [span for span in spans if span.number in numbers]

    return mine(agent.wait_for(lambda spans: len(mine(spans)) >= 2 * len(numbers)))


def until_right(agent: Agent, pid: int, port: int, first: int) -> float:
    """Asks a program that has just begun until a call has its parent; seconds from its first
    request to that one. None may have a wrong one."""
    begun, deadline = first, time.monotonic() + BEGINS_WITHIN_S
    while time.monotonic() < deadline:
        numbers = asked(port, first)
        first = numbers.stop
        truth = judge([s for s in spans_of(agent, range(begun, first)) if s.pid == pid], [pid])
        assert truth.verdicts["wrong"] == 0, truth.examples("wrong")
        right = [one.request for one in truth.calls if one.verdict == "right" and one.request]
        if right:
            earliest = min(span.start_ns for span in right)
            return (earliest - min(s.start_ns for s in truth.requests.values())) / 1e9
    raise AssertionError("its calls have no parents")


def verdicts_of(spans: Sequence[SeenSpan], called: Server) -> dict[str, int]:
    pids = {span.pid for span in spans} - {called.pid}
    return {str(name): count for name, count in judge(spans, pids).verdicts.items()}


def started_by_us(program: Path, path: str) -> dict[str, int]:
    """The verdicts about the first calls of a program that the agent starts."""
    ensure_go_matrix()
    with start_server("go-nethttp") as called, port_of_ours() as port:
        command = [str(program), "--listen", f"127.0.0.1:{port}", "--framework", "nethttp"]
        with started_agent(command=command, env={"CALLED": called.base_url}) as agent:
            spans = spans_of(agent, asked(port, 1, path))
            for pid in {span.pid for span in spans}:
                os.kill(pid, signal.SIGKILL)
            agent.wait()
        return verdicts_of(spans, called)


def test_a_program_that_we_start_has_parents_from_its_first_request() -> None:
    """Its probes are there before its first instruction, though its file has never been read."""
    ensure_go_matrix()
    assert started_by_us(GOMATRIX, OWN) == {"right": REQUESTS}


def test_a_program_that_is_seen_to_begin_has_parents_soon(tmp_path: Path) -> None:
    """Its file is read at once, and what is known is not read again: not when it is started anew
    at the moment that it ends, and not its copy."""
    ensure_go_matrix()
    program, copy = tmp_path / "seen", tmp_path / "other" / "seen"
    copy.parent.mkdir()
    for path in (program, copy):
        shutil.copy(GOMATRIX, path)
    first = 1
    with (
        start_server("go-nethttp") as called,
        started_agent(f"--exe={tmp_path}/*") as agent,
        port_of_ours() as port,
    ):
        for path in (program, program, copy):
            command = [str(path), "--listen", f"127.0.0.1:{port}", "--framework", "nethttp"]
            with running(command, {"CALLED": called.base_url}) as pid:
                late_s = until_right(agent, pid, port, first)
            print(f"{path}: {1e3 * late_s:.1f} ms")
            assert late_s < SOON_S
            first += 10_000
        agent.stop()


@pytest.mark.slow
@pytest.mark.parametrize("way", GO_WAYS)
@pytest.mark.parametrize("version", ["1.17.13", "1.27.0"])
def test_however_it_is_built(version: str, way: str) -> None:
    """Position independent programs too, whose addresses are not known before they run."""
    assert started_by_us(ensure_go_old(version, way=way), OWN) == {"right": REQUESTS}
