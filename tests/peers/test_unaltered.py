"""No byte is altered: what leaves through enrolled sockets arrives as it was, but for our lines.

Between real clients and servers stand two hops (tap.py): one that the agent traces, whose sockets
are enrolled, and which keeps what it sends, in the pieces that it came in; and one that keeps what
arrives. Any protocol passes, and both sides are compared to the byte, in both directions. The same
clients are traced themselves as well: those whose bytes are never the same twice (HTTP/2, TLS) must
then succeed, and be given no line; which fields they are given is test_inject_http2.py's matter.
WAGGLE_TEST_SOAK is how many times as long this goes on.
"""

import http.client
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from . import http2_fields
from .agent import Agent, started_agent
from .clients import CLIENTS
from .grpc_programs import FIRST, IMPLEMENTATIONS, start_grpc_server
from .harness import RunningClient, ensure_built, start_server, tool
from .http2_fields import FIELD
from .ports import is_open, lease_port
from .processes import Program
from .stranger import LINE
from .tap import PATIENCE_S, Kept, Tap, read_kept, tapping
from .toolchain import GRPC_VENV, PROGRAMS, ensure_grpc_built, ensure_node_grpc

HERE = Path(__file__).resolve().parent
LENGTH = int(os.environ.get("WAGGLE_TEST_SOAK", "1"))
COUNT = 20 * LENGTH
_REQUEST_LINE = re.compile(rb"[A-Z]+ /[^ \r\n]* HTTP/1\.[01]\r\n\Z")
# A body before it need not end with its line.
_HEAD = re.compile(rb"[A-Z]+ (?!/fake)[^ \r\n]+ HTTP/1\.[01]\r\n")
_H2 = PROGRAMS / "http2"

Command = Sequence[str | Path]


@dataclass(frozen=True)
class Pairing:
    """A client with its server. command: given HOST:PORT and how many exchanges.

    requests: whether it speaks HTTP/1, so that lines are written.
    """

    server: str
    command: Callable[[str, int], Command]
    requests: bool = False
    direct: bool = False
    """Whether the client is traced itself as well, and must be given no line."""
    in_soak: bool = False


def _client(kind: str, *switches: str) -> Callable[[str, int], Command]:
    how = CLIENTS[kind]

    def command(address: str, count: int) -> Command:
        before = [tool(part) if part in ("node", "java") else part for part in how.command]
        return [*before, f"http://{address}", str(count), "2", *switches]

    return command


def _grpc(kind: str) -> Callable[[str, int], Command]:
    how = IMPLEMENTATIONS[kind]

    def command(address: str, count: int) -> Command:
        before = [tool(part) if part == "node" else part for part in how.client]
        calls = "one,down,up,both,fail,cancel"
        return [*before, address, str(count), "2", "--first", str(FIRST), "--calls", calls]

    return command


def _h2load(*flags: str, scheme: str = "http") -> Callable[[str, int], Command]:
    return lambda address, count: [
        *(tool("h2load"), "-n", str(count * 10), "-c", "2", *flags, f"{scheme}://{address}/n/1")
    ]


def _wrk(address: str, _: int) -> Command:
    return [tool("wrk"), "-t1", "-c4", f"-d{min(LENGTH, 10)}s", f"http://{address}/n/1"]


def _curl(*flags: str, scheme: str = "http") -> Callable[[str, int], Command]:
    def command(address: str, count: int) -> Command:
        words = [tool("curl"), "--silent", "--show-error", "--fail", "--noproxy", "*", *flags]
        return [*words, f"{scheme}://{address}/n/[1-{count}]"]

    return command


def _upload(address: str, _: int) -> Command:
    """A file of 100 MB in a soak, by curl, which waits for 100 Continue before it."""
    size = 100_000_000 if LENGTH > 1 else 3_000_000
    script = f"head -c {size} /dev/urandom | curl -sS --fail --noproxy '*' -T - \"$1\""
    return ["sh", "-c", script, "upload", f"http://{address}/echo/1"]


_RAW = "raw"
PAIRINGS = {
    **{kind: Pairing(_RAW, _client(kind), requests=True) for kind in CLIENTS},
    "curl, new connections": Pairing(_RAW, _client("curl", "--mode", "close"), requests=True),
    "wrk": Pairing(_RAW, _wrk, requests=True),
    "h2load, HTTP/1": Pairing(_RAW, _h2load("--h1"), requests=True),
    "raw, every framing": Pairing(_RAW, _client("raw", "--scenario", "all"), requests=True),
    "raw, pipelined": Pairing(_RAW, _client("raw", "--pipeline", "4", "--join"), requests=True),
    "curl, upload": Pairing(_RAW, _upload, requests=True),
    "curl, Upgrade: h2c": Pairing("hypercorn", _curl("--http2"), requests=True),
    "websocket": Pairing(
        "hypercorn",
        lambda address, count: [
            *(sys.executable, PROGRAMS / "python" / "client_websocket.py"),
            *(f"http://{address}", str(count), "2"),
        ],
        requests=True,
    ),
    "h2load": Pairing("nghttpd", _h2load("-m", "8"), direct=True),
    "h2load, TLS": Pairing("nghttpd-tls", _h2load("-m", "8", scheme="https"), direct=True),
    "curl, TLS": Pairing("nghttpd-tls", _curl("--insecure", scheme="https"), direct=True),
    "grpc-go": Pairing("grpc-go", _grpc("grpc-go"), direct=True),
    "grpcio": Pairing("grpc-go", _grpc("grpcio"), direct=True),
    "grpc-js": Pairing("grpc-go", _grpc("grpc-js"), direct=True, in_soak=True),
}
IN_TIME = {name: how for name, how in PAIRINGS.items() if LENGTH > 1 or not how.in_soak}
DIRECT = [name for name, how in IN_TIME.items() if how.direct]
# Of those where sockets stay enrolled, when there is little time.
FEW = [
    *("requests", "go", "node-http", "wrk", "raw, every framing", "curl, upload"),
    *("h2load", "grpc-go"),
]
OF_ALL = [name for name in IN_TIME if LENGTH > 1 or name in FEW]


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_built()
    ensure_grpc_built()
    if LENGTH > 1:
        ensure_node_grpc()


# -- What is compared ----------------------------------------------------------------------


def additions_in(sent: bytes, got: bytes, *, broken: bool = False) -> list[bytes]:
    """Our lines and fields in what arrived. Anything else that differs from what was sent fails;
    of a connection that broke, the end may be missing."""
    preface, there = sent.find(http2_fields.PREFACE), got.find(http2_fields.PREFACE)
    if preface < 0 or there < 0:
        return lines_in(sent, got, broken=broken)
    # From its beginning, or behind an `Upgrade: h2c`.
    lines = lines_in(sent[:preface], got[:there])
    fields = http2_fields.fields_in(sent[preface:], got[there:], broken=broken)
    return [*lines, *(f"{one.trace_id} {one.span_id}".encode() for one in fields)]


def lines_in(sent: bytes, got: bytes, *, broken: bool = False) -> list[bytes]:
    """Our lines in what arrived, each behind the first line of a request. Anything else that
    differs from what was sent fails; of a connection that broke, the end may be missing."""
    lines, at, taken = [], 0, 0
    for found in LINE.finditer(got):
        place = at + found.start() - taken
        if sent[place : place + len(found[0])] == found[0]:
            continue  # the sender's own
        assert got[taken : found.start()] == sent[at:place], f"changed before byte {place}"
        before = _REQUEST_LINE.search(sent[max(0, place - 8192) : place])
        assert before, f"a line at byte {place}, where no request line ends"
        assert b" /fake/" not in before[0], "a line in what is no request"
        lines.append(found[0])
        at, taken = place, found.end()
    rest, wanted = got[taken:], sent[at:]
    if broken:
        wanted = wanted[: len(rest)]
    assert len(rest) == len(wanted), f"{len(rest)} bytes behind the last line, not {len(wanted)}"
    assert rest == wanted, f"changed behind byte {at}"
    return lines


def compare(sent: list[Kept], arrived: list[Kept]) -> list[list[bytes]]:
    """The lines of each connection, everything else being the same in both directions."""
    found = []
    for port in sorted({one.port for one in (*sent, *arrived)}):
        ours, theirs = ([one for one in kept if one.port == port] for kept in (sent, arrived))
        assert len(ours) == len(theirs), f"port {port}: {len(ours)} and {len(theirs)} connections"
        for one, other in zip(ours, theirs, strict=True):
            broken = one.broken or other.broken
            found.append(additions_in(bytes(one.up), bytes(other.up), broken=broken))
            down = bytes(one.down)
            assert other.down[: len(down)] == down
            assert broken or len(other.down) == len(down)
    ids = [line for lines in found for line in lines]
    assert len(set(ids)) == len(ids), "one line twice"
    return found


# -- What it is played on ------------------------------------------------------------------


@contextmanager
def _sink() -> Iterator[int]:
    """Who reads whatever comes to its end, says a word and ends: its port."""

    def read(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            while sock.recv(1 << 16):
                pass
            sock.sendall(b"read")

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=read, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def _certificate(folder: Path) -> tuple[Path, Path]:
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    words = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    subprocess.run(
        [tool("openssl"), *words, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    return key, certificate


@contextmanager
def _listening(name: str, command: Callable[[str], Command]) -> Iterator[int]:
    lease = lease_port()
    program = Program(name, command(str(lease.port)))
    try:
        program.wait_until(lambda: is_open(lease.port), PATIENCE_S)
        yield lease.port
    finally:
        program.stop()
        lease.release()


@contextmanager
def _servers(folder: Path) -> Iterator[dict[str, int]]:
    (folder / "n").mkdir()
    for number in range(1, COUNT + 1):
        (folder / "n" / str(number)).write_text(f"n={number}\n")
    nghttpd: Command = [tool("nghttpd"), "-a", "127.0.0.1", "-d", folder]
    key, certificate = _certificate(folder)
    with ExitStack() as stack:

        def start(name: str, command: Callable[[str], Command]) -> int:
            return stack.enter_context(_listening(name, command))

        yield {
            "raw": stack.enter_context(start_server("raw")).port,
            "sink": stack.enter_context(_sink()),
            "nghttpd": start("nghttpd", lambda port: [*nghttpd, "--no-tls", port]),
            "nghttpd-tls": start("nghttpd-tls", lambda port: [*nghttpd, port, key, certificate]),
            "hypercorn": start(
                "hypercorn",
                lambda port: [GRPC_VENV / "bin" / "python", _H2 / "app.py", f"127.0.0.1:{port}"],
            ),
            "grpc-go": int(
                stack.enter_context(start_grpc_server("grpc-go")).address.rpartition(":")[2]
            ),
        }


@dataclass
class Stage:
    """An agent in one mode, the hop and the senders that it traces, and the hop where bytes
    arrive."""

    mode: str
    folder: Path
    servers: dict[str, int]
    hop: Program
    scrambler: Program
    arriving: Tap
    waiting: dict[str, RunningClient]
    """Clients that the agent traces, and that begin when their gate is opened."""
    agent: Agent
    count: int = 0
    """Connections that were compared, the exchanges on them, and the lines."""
    exchanges: int = 0
    lines: int = 0
    files: int = field(default=0)

    def file(self) -> Path:
        self.files += 1
        return self.folder / f"kept-{self.files}"

    def tell(self, program: Program, words: str, patience_s: float = 600) -> int:
        program.write_line(words)
        return int(program.read_line(patience_s))

    def through_both(self, server: str) -> int:
        """The port of a way through both hops."""
        arriving = self.arriving.route("127.0.0.1", self.servers[server])
        return self.tell(self.hop, f"route 127.0.0.1:{arriving}")

    def learn(self, port: int) -> None:
        """One exchange: now it is known that HTTP/1 is spoken there."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        connection.request("GET", "/ready", headers={"Connection": "close"})
        connection.getresponse().read()
        connection.close()
        self.take()

    def add_up(self, found: list[list[bytes]], exchanges: int) -> None:
        self.count += len(found)
        self.lines += sum(map(len, found))
        self.exchanges += exchanges

    def take(self) -> tuple[list[Kept], list[Kept]]:
        file = self.file()
        self.tell(self.hop, f"keep {file}")
        sent = read_kept(file)
        file.unlink()
        return sent, self.arriving.take()


@contextmanager
def _gated(name: str, command: Command) -> Iterator[RunningClient]:
    words = ["sh", "-c", 'echo gate; read line; exec "$@"', name]
    program = Program(f"direct-{name.split(',')[0]}", [*words, *command], with_pipes=True)
    try:
        yield RunningClient(name, program, 0, 0)
    finally:
        program.stop()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    with _servers(tmp_path_factory.mktemp("servers")) as ports:
        yield ports


@pytest.fixture(scope="class")
def stage(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    servers: dict[str, int],
) -> Iterator[Stage]:
    mode = str(request.cls.MODE)
    folder = tmp_path_factory.mktemp("unaltered")
    with ExitStack() as stack:
        arriving = stack.enter_context(tapping())
        programs = []
        for name in ("tap", "scrambler"):
            command = [sys.executable, "-m", f"peers.{name}"]
            program = Program(name, command, cwd=HERE.parent, with_pipes=True)
            stack.callback(program.stop)
            programs.append(program)
        waiting = {}
        for name in DIRECT:
            how = PAIRINGS[name]
            port = arriving.route("127.0.0.1", servers[how.server])
            client = how.command(f"127.0.0.1:{port}", COUNT)
            waiting[name] = stack.enter_context(_gated(name, client))
            waiting[name].wait_for_gate()
        assert programs[1].read_line(PATIENCE_S) == "gate"
        agent = stack.enter_context(
            started_agent(
                *("--inject", mode, "--inject-to", "loopback"),
                pids=[*(one.pid for one in programs), *(one.pid for one in waiting.values())],
                json_lines=False,
                env={"OTEL_TRACES_EXPORTER": "none"},
            )
        )
        if "is written into none" in agent.stderr():
            pytest.skip(agent.stderr())
        one = Stage(
            mode=mode,
            folder=folder,
            servers=servers,
            hop=programs[0],
            scrambler=programs[1],
            arriving=arriving,
            waiting=waiting,
            agent=agent,
        )
        yield one
        summary = agent.stop().stderr
        told = re.search(r"^  headers +(.*(?:\n {13}.*)*)", summary, re.MULTILINE)
        assert told, summary
        print(told[1])
        print(
            f"{mode}: {one.exchanges} exchanges on {one.count} connections compared, "
            f"{one.lines} lines in them"
        )


# -- What holds ----------------------------------------------------------------------------


def _requests_in(sent: bytes) -> int:
    """How many requests may begin in it, those behind an `Upgrade: h2c` too."""
    preface = sent.find(http2_fields.PREFACE)
    frames = http2_fields.frames(sent[preface:]) if preface >= 0 else ()
    streams = {frame.stream for frame in frames if frame.type == http2_fields.HEADERS}
    return len(_HEAD.findall(sent)) + len(streams)


def _pass_on(stage: Stage, name: str) -> None:
    how = PAIRINGS[name]
    port = stage.through_both(how.server)
    if how.requests:
        stage.learn(port)
    done = subprocess.run(
        [str(word) for word in how.command(f"127.0.0.1:{port}", COUNT)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Socket errors" not in done.stdout
    sent, arrived = stage.take()
    found = compare(sent, arrived)
    heads = sum(len(_HEAD.findall(one.up)) for one in sent)
    stage.add_up(found, heads if how.requests else COUNT * (10 if "h2load" in name else 1))
    assert found
    if how.requests:
        # How many depends on what the agent knows of the hop by then; there is none too many.
        assert any(found)
        in_order = sorted(sent, key=lambda one: one.port)
        for one, lines in zip(in_order, found, strict=True):
            assert len(lines) <= (1 if stage.mode == "first" else _requests_in(bytes(one.up)))


def _leave_alone(stage: Stage, name: str) -> None:
    client = stage.waiting[name]
    client.open_gate()
    client.finish()
    kept = stage.arriving.take()
    stage.add_up([[] for _ in kept], COUNT * (10 if "h2load" in name else 1))
    assert sum(len(one.up) for one in kept) > 1000
    assert not any(LINE.search(one.up) for one in kept)
    # HTTP/2 in plain text is given fields, which test_inject_http2.py looks at.
    if "TLS" in name or stage.mode == "first":
        assert not any(FIELD.search(one.up) for one in kept)


def _scramble(stage: Stage, what: str) -> None:
    server = "raw" if what == "http" else "sink"
    port = stage.arriving.route("127.0.0.1", stage.servers[server])
    if what == "http":
        stage.tell(stage.scrambler, f"http 127.0.0.1:{port} learn 1 {stage.file()}")
    file = stage.file()
    stage.arriving.take()
    exchanges = stage.tell(
        stage.scrambler, f"{what} 127.0.0.1:{port} {stage.mode} {2 * COUNT} {file}"
    )
    found = compare(read_kept(file), stage.arriving.take())
    stage.add_up(found, exchanges)
    assert len(found) == 2 * COUNT
    assert any(found) == (what == "http" or (what == "http2" and stage.mode == "always"))


class TestFirst:
    """Sockets leave with their first request."""

    MODE = "first"

    @pytest.mark.parametrize("name", IN_TIME)
    def test_passed_on(self, stage: Stage, name: str) -> None:
        """What any client says to its server passes an enrolled socket unaltered, there and back: a
        line behind the first line of a request, or a field behind a header block, where one may be,
        is all that is more."""
        _pass_on(stage, name)

    @pytest.mark.parametrize("name", DIRECT)
    def test_left_alone(self, stage: Stage, name: str) -> None:
        """A client of HTTP/2, gRPC or TLS that is traced itself succeeds, and is given no line."""
        _leave_alone(stage, name)

    @pytest.mark.parametrize("what", ["http", "http2", "other"])
    def test_scrambled(self, stage: Stage, what: str) -> None:
        """Requests framed and cut in every way with requests in their bodies, streams of HTTP/2
        with streams in their data, and frames of other protocols with requests in them, by every
        way to send: no line is where no request begins, and no field where no stream does.
        """
        _scramble(stage, what)


class TestAlways:
    """Sockets stay enrolled, as they do on kernels that are well."""

    MODE = "always"

    @pytest.mark.parametrize("name", OF_ALL)
    def test_passed_on(self, stage: Stage, name: str) -> None:
        """As where they leave; each plain request has a line."""
        _pass_on(stage, name)

    @pytest.mark.parametrize("name", [name for name in OF_ALL if name in DIRECT])
    def test_left_alone(self, stage: Stage, name: str) -> None:
        """As where they leave."""
        _leave_alone(stage, name)

    @pytest.mark.parametrize("what", ["http", "http2", "other"])
    def test_scrambled(self, stage: Stage, what: str) -> None:
        """As where they leave."""
        _scramble(stage, what)
