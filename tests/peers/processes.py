"""Programs that are started for a test, watched until they are ready, and ended for certain."""

import http.client
import itertools
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
LOGS = BUILD / "tests" / "logs"

_POLL_S = 0.02
_LOG_TAIL_BYTES = 4000
_started = itertools.count(1)


class ProgramError(Exception):
    """A program did not start, or did not end well. The message ends in its last output."""


class Program:
    """A process in a session, hence a process group, of its own, its output in a log file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        with_pipes: bool = False,
    ) -> None:
        """Starts `command`. `env` is added to this process's environment. `with_pipes` gives
        pipes for stdin and stdout instead of nothing and the log."""
        LOGS.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log = LOGS / f"{name}-{os.getpid()}-{next(_started)}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE if with_pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if with_pipes else log,
                stderr=log,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )
        self.pid = self.process.pid
        self._pidfd = os.pidfd_open(self.pid)

    def output(self) -> str:
        """The end of what the program wrote to its log."""
        return self.log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")

    def error(self, what: str) -> ProgramError:
        return ProgramError(f"{self.name} (pid {self.pid}) {what}; it wrote:\n{self.output()}")

    def wait_until(self, is_ready: Callable[[], bool], timeout_s: float) -> None:
        """Polls `is_ready`. Raises ProgramError when the program ends or the time is up."""
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            if self._has_ended(within_s=0):
                raise self.error(f"ended with {self._reap()} before it was ready")
            if time.monotonic() > deadline:
                raise self.error(f"was not ready after {timeout_s:g} s")
            time.sleep(_POLL_S)

    def wait(self, timeout_s: float) -> int:
        """Waits for the end and gives the exit code. Raises ProgramError when the time is up."""
        if not self._has_ended(timeout_s):
            raise self.error(f"had not ended after {timeout_s:g} s")
        return self._reap()

    def read_line(self, timeout_s: float) -> str:
        """The next line of stdout (needs `with_pipes`). Raises ProgramError when none comes."""
        out = self.process.stdout
        assert out is not None
        ready, _, _ = select.select([out], [], [], timeout_s)
        line = out.readline() if ready else b""
        if not line:
            raise self.error(f"wrote no line within {timeout_s:g} s")
        return str(line, "utf-8").rstrip("\n")

    def write_line(self, line: str = "") -> None:
        """Writes a line to stdin (needs `with_pipes`)."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def send_signal(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self._pidfd, number)

    def pids(self) -> list[int]:
        """This process and its living descendants, as /proc has them now."""
        found = [self.pid]
        for pid in found:
            found.extend(_children(pid))
        return found

    def stop(self, timeout_s: float = 30) -> None:
        """Asks the process to end, then makes whatever is left of its group end. It may be
        called again."""
        if self.process.returncode is None:
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
            self._has_ended(timeout_s)
            self._reap()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def _has_ended(self, within_s: float) -> bool:
        """Whether the process ends within that time. Does not reap it."""
        if self.process.returncode is not None:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(within_s * 1000))

    def _reap(self) -> int:
        """Ends all of the group, this process too, and gives its exit code."""
        if self.process.returncode is None:
            # Before the leader is reaped its id, which is the group's, can be nobody else's.
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
            os.close(self._pidfd)
        return self.process.returncode


def _children(pid: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += map(int, task.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return children


class UnixConnection(http.client.HTTPConnection):
    """http.client over a UNIX socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def answers(connection: http.client.HTTPConnection, path: str = "/ready") -> bool:
    """Whether GET `path` is answered with 200 on this connection, which is closed."""
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        with connection.getresponse() as answer:
            answer.read()
            return answer.status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
