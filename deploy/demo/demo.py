"""The demo: a small shop of six programs that know nothing of tracing, a stranger among them, and
Waggle looking at them.

nginx takes HTTPS and stands before `shop` (Flask under gunicorn), which calls `stock` (Go, Gin) and
`pay` (FastAPI under uvicorn). By gRPC, `stock` asks `prices` (Python), and `pay` has `stock` pack,
which streams. The stranger is `points` (Flask with OpenTelemetry's own SDK), between `shop` and
`stock`: it makes its own spans, in the same traces, since Waggle writes `traceparent` into what it
is asked. Beside the shop stands `window` (Node.js), which asks `stock` three things at once.
Six requests are made, one slow, one failing; the agent prints their traces. Then many look at the
window at the same time, and the demo tells whether each trace is whole.

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

from opentelemetry.proto.trace.v1.trace_pb2 import Span  # noqa: E402
from peers.ports import is_open, lease_port  # noqa: E402 (the path comes first)
from peers.processes import BUILD, Program, ProgramError, answers  # noqa: E402
from peers.toolchain import (  # noqa: E402
    SDK_REQUIREMENTS,
    SDK_VENV,
    VENV,
    ensure_go_module,
    ensure_python_peers,
    ensure_venv,
    tool,
)
from stranger import Receiver, judge, receiving  # noqa: E402
from visitors import LOOKS, SPANS, judge_looks, look_many  # noqa: E402

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
    """The running system: where its front listens, what proves that it is the front, the ids of all
    its processes and of those of the stranger, and where the stranger's own spans go to."""

    port: int
    certificate: Path
    pids: list[int]
    stranger: set[int]
    told: Receiver


def say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)


@contextmanager
def running_shop() -> Iterator[Shop]:
    """Starts the programs, innermost first, and ends them."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="waggle-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        ports = {}
        for name in ("prices", "calls", "stock", "points", "pay", "shop", "window", "nginx"):
            lease = lease_port()
            stack.callback(lease.release)
            ports[name] = lease.port
        certificate = _make_certificate(folder)
        told = stack.enter_context(receiving())
        pids: list[int] = []
        stranger: set[int] = set()
        for name, command in _commands(ports, folder).items():
            env = {**_environment(ports), **(_own_tracing(told) if name == "points" else {})}
            program = Program(f"demo-{name}", command, env=env, cwd=HERE)
            stack.callback(program.stop)
            _wait_until_ready(program, ports[name], by_http=name not in ("prices", "nginx"))
            pids += program.pids()
            if name == "points":
                stranger.update(program.pids())
        yield Shop(ports["nginx"], certificate, pids, stranger, told)


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
        "points": [
            *(SDK_VENV / "bin" / "opentelemetry-instrument", SDK_VENV / "bin" / "gunicorn"),
            *("points:app", "--no-control-socket", "--bind", f"127.0.0.1:{ports['points']}"),
        ],
        "pay": [
            VENV / "bin" / "uvicorn",
            "pay:app",
            "--loop",
            "asyncio",
            "--port",
            str(ports["pay"]),
        ],
        "shop": [*gunicorn, "--bind", f"127.0.0.1:{ports['shop']}", "--threads", "4"],
        "window": [tool("node"), "window.js", f"127.0.0.1:{ports['window']}"],
        "nginx": [tool("nginx"), "-e", "stderr", "-p", folder, "-c", config],
    }


def _environment(ports: dict[str, int]) -> dict[str, str]:
    return {
        "STOCK_URL": f"http://127.0.0.1:{ports['stock']}",
        "STOCK_GRPC": f"127.0.0.1:{ports['calls']}",
        "PAY_URL": f"http://127.0.0.1:{ports['pay']}",
        "POINTS_URL": f"http://127.0.0.1:{ports['points']}",
        "NO_PROXY": "127.0.0.1",
    }


def _own_tracing(told: Receiver) -> dict[str, str]:
    """What OpenTelemetry's SDK is told, as everywhere: by the environment."""
    return {
        "OTEL_SERVICE_NAME": "points",
        "OTEL_EXPORTER_OTLP_ENDPOINT": told.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "1000",
        "OTEL_PYTHON_EXCLUDED_URLS": "ready",
    }


def _nginx_config(ports: dict[str, int], folder: Path) -> str:
    text = (HERE / "nginx.conf.template").read_text()
    values = {
        "user": pwd.getpwuid(os.getuid()).pw_name,
        "folder": str(folder),
        "listen": f"127.0.0.1:{ports['nginx']}",
        "shop": f"127.0.0.1:{ports['shop']}",
        "window": f"127.0.0.1:{ports['window']}",
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
                env={**os.environ, "OTEL_TRACES_EXPORTER": "console,otlp"},
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
    """Opens the shop, which looks whether everybody is there, and makes the six requests on one
    connection. Raises ProgramError for an unexpected answer."""
    trusted = ssl.create_default_context(cafile=shop.certificate)
    connection = http.client.HTTPSConnection("localhost", shop.port, timeout=30, context=trusted)
    connection.request("GET", "/open")
    if (answer := connection.getresponse()).status != 200:
        raise ProgramError(f"GET /open was answered with {answer.status}")
    answer.read()
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
    ensure_venv(SDK_VENV, SDK_REQUIREMENTS)
    ensure_go_module(HERE / "stock", ["."], _BIN)
    with running_shop() as shop, receiving() as agents:
        say(f"the shop is open on https://localhost:{shop.port}, processes {shop.pids}")
        if waggle is None:
            visit_all(shop)
            look_at_window(shop)
            return 0
        with_header = ["--inject", "auto", "--inject-to", "loopback"]
        flags = ["--tls", "auto", *with_header, "--otlp", agents.url, *arguments]
        agent = Agent(waggle, shop.pids, flags)
        try:
            agent.wait_until_ready()
            visit_all(shop)
            agent.wait_for_traces(len(VISITS))
            own = shop.told.wait_for(len(VISITS), Span.SPAN_KIND_SERVER)
            look_at_window(shop)
        finally:
            code = agent.stop()
        tell_of_stranger(own, agents, shop.stranger)
        tell_of_window(agents)
        return code


def look_at_window(shop: Shop) -> None:
    """Many look at once. Raises ProgramError for an unexpected answer."""
    try:
        look_many(shop.port, ssl.create_default_context(cafile=shop.certificate))
    except (OSError, RuntimeError) as error:
        raise ProgramError(f"not everybody could look at the window: {error}") from error


def tell_of_window(agents: Receiver) -> None:
    """Says how many of the looks are whole. Raises ProgramError when a span is another's."""
    spans = [span for span, _ in agents.spans()]
    looks = judge_looks(spans)
    if looks.wrong:
        raise ProgramError(f"{looks.wrong} spans of looks at the window are in others' traces")
    say(
        f"{looks.whole} of {LOOKS} looks at the window, most of them made at the same time, are "
        f"whole: {SPANS} spans each, through nginx, Node.js and Go; none is in another's trace"
    )


def tell_of_stranger(own: list[Span], agents: Receiver, pids: set[int]) -> None:
    """Says how the stranger's spans fit those of the agent. Raises ProgramError when they do not,
    unless no header could be written here: the agent has said why."""
    served = [span for span in own if span.kind == Span.SPAN_KIND_SERVER]
    if served and not any(span.parent_span_id for span in served):
        say("points was told of no trace: its own spans are in traces of their own")
        return
    if wrong := judge(own, agents.spans(), pids, len(VISITS)):
        raise ProgramError(f"the spans of points and of the agent do not fit: {wrong}")
    say(
        f"points, whose SDK exports by itself, has told {len(own)} spans in {len(served)} of these "
        "traces: each below the call of shop, and above what it asked of stock; none is there twice"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Waggle's demo: a shop of six programs, traced.")
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
