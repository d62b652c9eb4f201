"""The clients among the target programs. Each requests /n/<first> .. /n/<first+count-1>, each
number once, and exits 0 only if every answer began with its number."""

import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .processes import Program
from .toolchain import BIN, JAVA_CLASSES, PROGRAMS, VENV, tool

FINISH_TIMEOUT_S = 300.0
_PYTHON = PROGRAMS / "python"


@dataclass(frozen=True)
class ClientKind:
    """What comes before URL_BASE on the command line (a tool's name stands for its path), and what
    the client can do."""

    command: Sequence[str | Path]
    can_close: bool = True
    can_unix: bool = True
    can_send_traceparent: bool = True
    can_tls: bool = True
    """Whether it speaks TLS in the process that was started: in a new one probes may come late."""
    can_pass_gate: bool = True
    """Whether its connections outlive the gate; all clients can wait at `gate=0`."""


def _python(name: str) -> list[str | Path]:
    return [VENV / "bin" / "python", _PYTHON / f"client_{name}.py"]


_JAVA: list[str | Path] = [
    "java",
    "-Xmx64m",
    "-XX:TieredStopAtLevel=1",
    "-Djdk.httpclient.keepalive.timeout=600",
    "-cp",
    JAVA_CLASSES,
    "Client",
]

CLIENTS: dict[str, ClientKind] = {
    "curl": ClientKind(
        _python("curl"), can_send_traceparent=False, can_pass_gate=False, can_tls=False
    ),
    "requests": ClientKind(_python("requests"), can_unix=False),
    "httpx": ClientKind(_python("httpx")),
    "httpx-async": ClientKind(_python("httpx_async")),
    "aiohttp": ClientKind(_python("aiohttp")),
    "go": ClientKind([BIN / "client"]),
    "node-http": ClientKind(["node", PROGRAMS / "node" / "client.js", "http"]),
    "node-fetch": ClientKind(
        ["node", PROGRAMS / "node" / "client.js", "fetch"], can_close=False, can_unix=False
    ),
    "java": ClientKind(_JAVA, can_close=False, can_unix=False, can_tls=False),
    "raw": ClientKind([sys.executable, PROGRAMS / "raw" / "rawclient.py"], can_tls=False),
}
# A load generator for WebSocket handshakes: no client of the matrix.
WEBSOCKET = ClientKind([sys.executable, _PYTHON / "client_websocket.py"], can_unix=False)


@dataclass(frozen=True)
class ClientResult:
    """A finished client. Times are CLOCK_MONOTONIC in ns around its life."""

    kind: str
    pid: int
    first: int
    count: int
    started_ns: int
    ended_ns: int
    log: Path

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.count)


class RunningClient:
    """A client that was started. With a gate it stops there until `open_gate`."""

    def __init__(self, kind: str, program: Program, first: int, count: int) -> None:
        self.kind = kind
        self.program = program
        self.pid = program.pid
        self._numbers = (first, count)
        self._started_ns = time.monotonic_ns()

    def wait_for_gate(self, timeout_s: float = FINISH_TIMEOUT_S) -> None:
        """Returns when the requests before the gate are answered."""
        line = self.program.read_line(timeout_s)
        if line != "gate":
            raise self.program.error(f"wrote {line!r} where it should stand at its gate")

    def open_gate(self) -> None:
        self.program.write_line()

    def end_early(self, timeout_s: float = FINISH_TIMEOUT_S) -> ClientResult:
        """Makes a Go client take no further number, waits until what is under way has ended well,
        and gives the numbers it took. For a load that must outlast what a test does, however fast
        the machine is."""
        self.program.send_signal(signal.SIGINT)
        line = self.program.read_line(timeout_s)
        taken = re.fullmatch(r"took (\d+)", line)
        if taken is None:
            raise self.program.error(f"wrote {line!r} where it should say how many numbers it took")
        self._numbers = (self._numbers[0], int(taken[1]))
        return self.finish(timeout_s)

    def finish(self, timeout_s: float = FINISH_TIMEOUT_S) -> ClientResult:
        """Waits for the end. Raises ProgramError unless the client exits with 0."""
        code = self.program.wait(timeout_s)
        if code != 0:
            raise self.program.error(f"exited with {code}")
        first, count = self._numbers
        ended_ns = time.monotonic_ns()
        return ClientResult(
            self.kind, self.pid, first, count, self._started_ns, ended_ns, self.program.log
        )


@contextmanager
def start_client(
    kind: str,
    base_url: str,
    count: int,
    concurrency: int = 1,
    *,
    first: int = 1,
    close: bool = False,
    unix_path: str | None = None,
    path: str = "/n/{}",
    traceparent: bool = False,
    gate: int | None = None,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    how: ClientKind | None = None,
) -> Iterator[RunningClient]:
    """Starts a client of one of the kinds in CLIENTS; ends it on leaving, if it has not ended.

    `how` is a kind that is not among them.
    `path` is a template, {} is the number. `gate` makes it stop after so many requests: see
    RunningClient. `traceparent` sends the one that `traceparent_of` gives for each number.
    `args` are further arguments (the raw client's switches).
    """
    how = how or CLIENTS[kind]
    switches = ["--first", str(first), "--path", path, *args]
    switches += ["--mode", "close"] if close else []
    switches += ["--unix", unix_path] if unix_path else []
    switches += ["--traceparent"] if traceparent else []
    switches += ["--gate", str(gate)] if gate is not None else []
    before = [tool(part) if part in ("node", "java") else part for part in how.command]
    command = [*before, base_url, str(count), str(concurrency), *switches]
    program = Program(f"client-{kind}", command, env=env, with_pipes=True)
    try:
        yield RunningClient(kind, program, first, count)
    finally:
        program.stop()


def run_client(
    kind: str,
    base_url: str,
    count: int,
    concurrency: int = 1,
    *,
    timeout_s: float = FINISH_TIMEOUT_S,
    first: int = 1,
    close: bool = False,
    unix_path: str | None = None,
    path: str = "/n/{}",
    traceparent: bool = False,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> ClientResult:
    """Starts a client as `start_client` does and waits until it has ended well."""
    with start_client(
        kind,
        base_url,
        count,
        concurrency,
        first=first,
        close=close,
        unix_path=unix_path,
        path=path,
        traceparent=traceparent,
        args=args,
        env=env,
    ) as client:
        return client.finish(timeout_s)


def trust_in(certificate: Path) -> dict[str, str]:
    """The environment of a client that takes this certificate, by whichever of these it reads."""
    names = ("PEER_CERTIFICATE", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE")
    return dict.fromkeys(names, str(certificate))


def traceparent_of(n: int) -> tuple[bytes, bytes]:
    """Trace id and span id that clients send with request n when asked for a traceparent."""
    return bytes.fromhex(f"7ace{n:028x}"), bytes.fromhex(f"5fa0{n:012x}")
