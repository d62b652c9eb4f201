"""The demo: a small shop of five programs that know nothing of tracing, and Waggle looking at them.

nginx takes HTTPS and stands before `shop` (Flask under gunicorn), which calls `stock` (Go, Gin) and
`pay` (FastAPI under uvicorn). By gRPC, `stock` asks `prices` (Python), and `pay` has `stock` pack,
which streams.
Six requests are made, one slow, one failing; the agent prints their traces.

    demo.py PATH_OF_WAGGLE [ARGUMENTS OF waggle run...]
    demo.py --without-agent

It ends with 0 when each request was answered as expected and the agent has printed each trace. All
programs listen on free ports of the loopback and are ended on leaving. The arguments must leave
the agent's output as it is: the traces are counted in it.
"""

import argparse
import http.client
import os
import pty
import pwd
import re
import select
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))

from peers.ports import is_open, lease_port  # noqa: E402 (the path comes first)
from peers.processes import BUILD, Program, ProgramError, answers  # noqa: E402
from peers.toolchain import VENV, ensure_go_module, ensure_python_peers, tool  # noqa: E402

_READY_TIMEOUT_S = 60.0
_TRACES_TIMEOUT_S = 30.0
_END_TIMEOUT_S = 20.0
_BIN = BUILD / "bin" / "demo"
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Visit:
    """One request of the demo, and whether the shop should say it was paid."""

    what: str
    path: str
    paid: bool


VISITS = (
    Visit("an order", "/checkout?article=7", True),
    Visit("an order", "/checkout?article=12", True),
    Visit("a slow bank", "/checkout?article=7&bank_delay_ms=400", True),
    Visit("an order", "/checkout?article=31", True),
    Visit("a bank that fails", "/checkout?article=7&card=refused", False),
    Visit("an order", "/checkout?article=8", True),
)


@dataclass(frozen=True)
class Shop:
    """The running system: where its front listens, what proves that it is the front, and the ids
    of all its processes."""

    port: int
    certificate: Path
    pids: list[int]


def say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)


@contextmanager
def running_shop() -> Iterator[Shop]:
    """Starts the five programs, innermost first, and ends them."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="waggle-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        ports = {}
        for name in ("prices", "calls", "stock", "pay", "shop", "nginx"):
            lease = lease_port()
            stack.callback(lease.release)
            ports[name] = lease.port
        certificate = _make_certificate(folder)
        pids: list[int] = []
        for name, command in _commands(ports, folder).items():
            program = Program(f"demo-{name}", command, env=_environment(ports), cwd=HERE)
            stack.callback(program.stop)
            _wait_until_ready(program, ports[name], by_http=name not in ("prices", "nginx"))
            pids += program.pids()
        yield Shop(ports["nginx"], certificate, pids)


def _make_certificate(folder: Path) -> Path:
    """Of the front: of a key that nobody else has, and that ends with the folder."""
    certificate = folder / "certificate.pem"
    command: list[str | Path] = [tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt"]
    command += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key.pem"]
    made = subprocess.run([*command, "-out", certificate], capture_output=True)
    if made.returncode:
        raise ProgramError(f"openssl made no certificate: {made.stderr.decode(errors='replace')}")
    return certificate


def _commands(ports: dict[str, int], folder: Path) -> dict[str, list[str | Path]]:
    """What to start, by name, in this order."""
    config = folder / "nginx.conf"
    config.write_text(_nginx_config(ports, folder))
    gunicorn: list[str | Path] = [VENV / "bin" / "gunicorn", "shop:app", "--no-control-socket"]
    listen, calls, prices = (f"127.0.0.1:{ports[name]}" for name in ("stock", "calls", "prices"))
    return {
        "prices": [VENV / "bin" / "python", "prices.py", prices],
        "stock": [_BIN / "stock", "--listen", listen, "--grpc", calls, "--prices", prices],
        "pay": [
            VENV / "bin" / "uvicorn",
            "pay:app",
            "--loop",
            "asyncio",
            "--port",
            str(ports["pay"]),
        ],
        "shop": [*gunicorn, "--bind", f"127.0.0.1:{ports['shop']}", "--threads", "4"],
        "nginx": [tool("nginx"), "-e", "stderr", "-p", folder, "-c", config],
    }


def _environment(ports: dict[str, int]) -> dict[str, str]:
    return {
        "STOCK_URL": f"http://127.0.0.1:{ports['stock']}",
        "STOCK_GRPC": f"127.0.0.1:{ports['calls']}",
        "PAY_URL": f"http://127.0.0.1:{ports['pay']}",
        "NO_PROXY": "127.0.0.1",
    }


def _nginx_config(ports: dict[str, int], folder: Path) -> str:
    text = (HERE / "nginx.conf.template").read_text()
    values = {
        "user": pwd.getpwuid(os.getuid()).pw_name,
        "folder": str(folder),
        "listen": f"127.0.0.1:{ports['nginx']}",
        "shop": f"127.0.0.1:{ports['shop']}",
    }
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _wait_until_ready(program: Program, port: int, *, by_http: bool) -> None:
    def is_ready() -> bool:
        if not by_http:
            return is_open(port)
        return answers(http.client.HTTPConnection("127.0.0.1", port, timeout=5))

    program.wait_until(is_ready, _READY_TIMEOUT_S)


class Agent:
    """`waggle run` on the shop's processes. What it prints is passed through and watched."""

    def __init__(self, waggle: Path, pids: list[int], arguments: list[str]) -> None:
        self._roots = 0
        self._ended = False
        self._changed = threading.Condition()
        self._out, out = _output_end()
        ready_reader, ready_writer = os.pipe()
        selectors = [word for pid in pids for word in ("--pid", str(pid))]
        command = [str(waggle), "run", *selectors, "--ready-fd", str(ready_writer), *arguments]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                pass_fds=[ready_writer],
                start_new_session=True,
            )
        except OSError as error:
            raise ProgramError(f"cannot start the agent: {error}; `make build` makes it") from error
        finally:
            os.close(out)
            os.close(ready_writer)
        self._reader = threading.Thread(target=self._pass_through, daemon=True)
        self._reader.start()
        self._ready = ready_reader

    def wait_until_ready(self) -> None:
        """Returns when the agent says so. Raises ProgramError when it ends instead."""
        readable, _, _ = select.select([self._ready], [], [], _READY_TIMEOUT_S)
        said = os.read(self._ready, 1) if readable else b""
        os.close(self._ready)
        if not said:
            code = self._process.poll()
            how = f"it ended with {code}" if code is not None else "it did not say it was"
            raise ProgramError(f"the agent was not ready to trace: {how}; see its words above")

    def wait_for_traces(self, count: int) -> None:
        """Returns when so many traces of /checkout have been printed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._ended or self._roots >= count, timeout=_TRACES_TIMEOUT_S
            )
            if self._roots < count:
                why = "ended" if self._ended else f"no more in {_TRACES_TIMEOUT_S:g} s"
                raise ProgramError(f"the agent printed {self._roots} of {count} traces: {why}")

    def stop(self) -> int:
        """Ends the agent as Ctrl-C does and gives its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            code = self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._reader.join(_END_TIMEOUT_S)
        return code

    def _pass_through(self) -> None:
        rest = b""
        while data := _read_some(self._out):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            *lines, rest = (rest + data).split(b"\n")
            with self._changed:
                self._roots += sum(_begins_trace(line) for line in lines)
                self._changed.notify_all()
        os.close(self._out)
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def _begins_trace(line: bytes) -> bool:
    """Whether a line is the first of a trace: what lies below is drawn with branches before it."""
    return _ESCAPE.sub("", line.decode(errors="replace")).strip().startswith("GET /checkout")


def _output_end() -> tuple[int, int]:
    """Where to read what the agent prints, and what to give it as stdout: a terminal of the same
    size where ours is one (so that it draws in colours), else a pipe."""
    if not sys.stdout.isatty():
        return os.pipe()
    reader, writer = pty.openpty()
    size = shutil.get_terminal_size()
    termios.tcsetwinsize(writer, (size.lines, size.columns))
    return reader, writer


def _read_some(source: int) -> bytes:
    try:
        return os.read(source, 65536)
    except OSError:  # the other end of a terminal has been closed
        return b""


def visit_all(shop: Shop) -> None:
    """Makes the six requests on one connection. Raises ProgramError for an unexpected answer."""
    trusted = ssl.create_default_context(cafile=shop.certificate)
    connection = http.client.HTTPSConnection("localhost", shop.port, timeout=30, context=trusted)
    for visit in VISITS:
        connection.request("GET", visit.path)
        answer = connection.getresponse()
        text = answer.read().decode()
        paid = '"paid":true' in text.replace(" ", "")
        if answer.status != 200 or paid != visit.paid:
            raise ProgramError(f"GET {visit.path} was answered with {answer.status}: {text}")
        say(f"{visit.what}: GET {visit.path} -> {answer.status} {text.strip()}")
    connection.close()


def run(waggle: Path | None, arguments: list[str]) -> int:
    say("building what is not built yet")
    ensure_python_peers()
    ensure_go_module(HERE / "stock", ["."], _BIN)
    with running_shop() as shop:
        say(f"the shop is open on https://localhost:{shop.port}, processes {shop.pids}")
        if waggle is None:
            visit_all(shop)
            return 0
        agent = Agent(waggle, shop.pids, ["--tls", "auto", *arguments])
        try:
            agent.wait_until_ready()
            visit_all(shop)
            agent.wait_for_traces(len(VISITS))
        finally:
            code = agent.stop()
        return code


def main() -> int:
    parser = argparse.ArgumentParser(description="Waggle's demo: a shop of five programs, traced.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("waggle", nargs="?", type=Path, help="path of the waggle executable")
    which.add_argument("--without-agent", action="store_true", help="only run the shop")
    given, arguments = parser.parse_known_args()
    signal.signal(signal.SIGTERM, _interrupt)  # so that everything is ended then too
    try:
        return run(given.waggle, arguments)
    except ProgramError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
