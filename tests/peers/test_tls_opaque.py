"""TLS that nobody can look into: Java's own, rustls, and what was missed. Its clients' exchanges
are spans that say so."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from .agent import SeenSpan, started_agent
from .harness import ensure_built, tool
from .processes import Program
from .test_tls import CANARIES, SYSTEM_PYTHON, complete, paths
from .tls_programs import PYTHON, leased_port, make_certificate, nginx_server, python_server
from .toolchain import JAVA_CLASSES, ensure_rustls, has_cargo

COUNT = 10
JAVA_FLAGS = ("-Xmx96m", "-XX:TieredStopAtLevel=1")
NAME = "shop.localhost"  # JSSE names no server whose name has no dot
LATE_S = 4.5  # longer than what ends an exchange, and is looked for
DATA = 40  # bytes; less is no answer

Start = Callable[[Path, str, str], AbstractContextManager[Program]]


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_built()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("opaque")
    (made / "hosts").write_text(f"127.0.0.1 {NAME} localhost\n")
    return made


@pytest.fixture(scope="module")
def certificate(folder: Path) -> Path:
    return make_certificate(folder)


@contextmanager
def java(folder: Path, url: str, version: str, count: int = COUNT) -> Iterator[Program]:
    """HttpClient, which calls when it is told to."""
    flags = [
        *JAVA_FLAGS,
        f"-Djdk.net.hosts.file={folder / 'hosts'}",
        "-Djdk.internal.httpclient.disableHostnameVerification=true",
    ]
    command: list[str | Path] = [tool("java"), *flags, "-cp", JAVA_CLASSES, "Encrypted"]
    program = Program("java-tls", [*command, "calls", url, str(count), version], with_pipes=True)
    try:
        yield program
    finally:
        program.stop()


@contextmanager
def rust(_folder: Path, url: str, version: str) -> Iterator[Program]:
    """reqwest on rustls, the same."""
    spoken = {"HTTP_1_1": "http1", "HTTP_2": "http2"}[version]
    command: list[str | Path] = [
        ensure_rustls(),
        url.replace(NAME, "localhost"),
        str(COUNT),
        spoken,
    ]
    program = Program("rustls", command, with_pipes=True)
    try:
        yield program
    finally:
        program.stop()


NEEDS_CARGO = pytest.mark.skipif(not has_cargo(), reason="no cargo that builds reqwest")
CLIENTS = [
    pytest.param(java, "HTTP_1_1", "1.3", id="java-http1"),
    pytest.param(java, "HTTP_1_1", "1.2", id="java-http1-tls1.2", marks=pytest.mark.slow),
    pytest.param(java, "HTTP_2", "1.2", id="java-http2", marks=pytest.mark.slow),
    pytest.param(rust, "HTTP_1_1", "1.3", id="rust-http1", marks=[NEEDS_CARGO, pytest.mark.slow]),
    pytest.param(rust, "HTTP_2", "1.2", id="rust-http2", marks=[NEEDS_CARGO, pytest.mark.slow]),
]


def opaque(spans: list[SeenSpan]) -> list[SeenSpan]:
    """In the order in which they began."""
    found = [span for span in spans if span.attributes.get("waggle.opaque") is True]
    return sorted(found, key=lambda span: span.start_ns)


@pytest.mark.parametrize(("client", "version", "tls"), CLIENTS)
def test_each_exchange(
    folder: Path, certificate: Path, client: Start, version: str, tls: str
) -> None:
    """A call is a span that says it is opaque: with whom, by which TLS, how long, how much; and is
    the parent of what the server did, whose plaintext is seen."""
    with ExitStack() as stack:
        if version == "HTTP_2":
            server, port = stack.enter_context(
                nginx_server(folder, certificate, listen="ssl http2")
            )
        else:
            server, port = stack.enter_context(
                python_server("threads.py", certificate, f"--tls={tls}", python=SYSTEM_PYTHON)
            )
        calling = stack.enter_context(client(folder, f"https://{NAME}:{port}/n/{{}}", version))
        agent = stack.enter_context(started_agent("--tls=auto", pids=[calling.pid, server.pid]))
        calling.write_line()
        assert calling.read_line(60) == "done"
        calling.write_line()
        assert calling.wait(60) == 0
        agent.wait_for(lambda spans: len(spans) >= 2 * COUNT)
        spans = complete(agent)
    calls = opaque(spans)
    served = {span.path: span for span in spans if span.kind == "server"}
    assert (len(calls), set(served), len(spans)) == (COUNT, paths("/n", COUNT), 2 * COUNT)
    for n, call in enumerate(calls, 1):
        check_call(call, calling.pid, port, tls)
        assert bool(call.events) == (n == 1)
        # Over HTTP/2 the first goes out behind a preface, so its request is nobody's.
        if version == "HTTP_1_1" or n > 1:
            assert served[f"/n/{n}"].parent_id == call.span_id
            assert served[f"/n/{n}"].link == "socket"
            assert call.start_ns <= served[f"/n/{n}"].start_ns
    if client is java:
        assert calls[0].attributes["server.address"] == NAME


def check_call(call: SeenSpan, pid: int, port: int, tls: str) -> None:
    assert (call.name, call.kind, call.pid) == ("TLS exchange", "client", pid)
    assert (call.is_error, call.parent_id) == (False, "")
    found = call.attributes
    assert (found["server.port"], found["network.peer.address"]) == (port, "127.0.0.1")
    assert found["tls.protocol.version"] == tls
    assert found["waggle.opaque.sent_bytes"] > DATA
    assert found["waggle.opaque.received_bytes"] > DATA
    assert not [name for name in found if name.startswith(("http.", "url."))]


def test_call_of_java_server(certificate: Path) -> None:
    """What a server in Java asks over TLS on the thread that serves is the child of its request."""
    with ExitStack() as stack:
        called, other = stack.enter_context(
            python_server("threads.py", certificate, python=SYSTEM_PYTHON)
        )
        port = stack.enter_context(leased_port())
        command: list[str | Path] = [tool("java"), *JAVA_FLAGS, "-cp", JAVA_CLASSES, "Encrypted"]
        caller = Program("java-caller", [*command, "server", str(port)])
        stack.callback(caller.stop)
        caller.wait_until(lambda: answered(port, "/ready"), 60)
        agent = stack.enter_context(started_agent("--tls=auto", pids=[caller.pid, called.pid]))
        for n in range(1, COUNT + 1):
            assert answered(port, f"/call/{n}?https://localhost:{other}/n/{n}")
        agent.wait_for(lambda spans: len(spans) >= 3 * COUNT)
        spans = complete(agent)
    requests = {span.path: span for span in spans if span.kind == "server"}
    calls = {span.span_id: span for span in opaque(spans)}
    assert len(calls) == COUNT
    for n in range(1, COUNT + 1):
        end = next(span for span in spans if span.kind == "server" and span.path == f"/n/{n}")
        call = calls[end.parent_id]
        assert (call.parent_id, call.link) == (requests[f"/call/{n}"].span_id, "thread")


def answered(port: int, target: str) -> bool:
    """Whether a request of its own connection is answered by 200."""
    try:
        with socket.create_connection(("127.0.0.1", port), 30) as plain:
            plain.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            return plain.recv(100).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def test_nothing_is_told_twice(certificate: Path) -> None:
    """Programs that begin while their probes are on their way: a request is seen in plain or as an
    opaque exchange, and never as both."""
    number = 6
    with ExitStack() as stack:
        server, port = stack.enter_context(
            python_server("threads.py", certificate, python=SYSTEM_PYTHON)
        )
        url = f"https://localhost:{port}/n/$n"
        script = f"for n in $(seq {number}); do {tool('curl')} -sSkfo /dev/null {url}; done"
        command = ["/bin/sh", "-c", script]
        agent = stack.enter_context(started_agent("--tls=auto", pids=[server.pid], command=command))
        agent.wait()
        spans = agent.spans()
    served = [span for span in spans if span.kind == "server"]
    asked = [span for span in spans if span.kind == "client"]
    assert len(served) == number
    assert len(asked) <= number
    plain = {span.path for span in asked if span not in opaque(asked)}
    by_id = {span.span_id: span for span in asked}
    parents = [by_id[span.parent_id] for span in served if span.parent_id]
    assert len({parent.span_id for parent in parents}) == len(parents)
    for end in (span for span in served if span.path in plain and span.parent_id):
        assert "waggle.opaque" not in by_id[end.parent_id].attributes


def library_of_its_own(folder: Path) -> Path:
    """A folder with a copy of libssl, where nobody looks for it before it is loaded."""
    said = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    found = next(line.split()[-1] for line in said.splitlines() if "libssl.so.3 " in line)
    copied = folder / "libraries"
    copied.mkdir(exist_ok=True)
    shutil.copy(Path(found).resolve(), copied / "libssl.so.3")
    return copied


@pytest.mark.slow
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_a_library_found_late(folder: Path, certificate: Path, version: str) -> None:
    """A connection that is opaque at first is read once its library is found; every request is told
    once, and what the server did is the child of the one span of it."""
    with ExitStack() as stack:
        server, port = stack.enter_context(nginx_server(folder, certificate, listen="ssl http2"))
        url = f"https://localhost:{port}/n/[1-9999999]"
        curl = [tool("curl"), "-sSkf", "--fail-early", "-o", "/dev/null", version, url]
        command = ["env", f"LD_LIBRARY_PATH={library_of_its_own(folder)}", *curl]
        agent = stack.enter_context(started_agent("--tls=auto", pids=[server.pid], command=command))
        agent.wait_for(lambda spans: sum("url.full" in span.attributes for span in spans) > 50)
        os.kill(next(span.pid for span in agent.spans() if span.kind == "client"), signal.SIGTERM)
        spans = agent.wait().spans
    calls = {span.span_id: span for span in spans if span.kind == "client"}
    served = [span for span in spans if span.kind == "server" and span.parent_id]
    unread = opaque(spans)
    read = [span for span in calls.values() if "url.full" in span.attributes]
    assert len(unread) + len(read) == len(calls)
    assert unread
    assert unread[0].start_ns < min(span.start_ns for span in read)
    assert max(span.start_ns for span in unread) < max(span.start_ns for span in read)
    assert len({span.path for span in read}) == len(read)
    told = [(span, calls[span.parent_id]) for span in served if span.parent_id in calls]
    assert len({call.span_id for _, call in told}) == len(told)
    plain = {span.span_id for span in read}
    for end, call in told:
        assert call.span_id not in plain or call.path == end.path


@contextmanager
def answering(
    certificate: Path, answer: bytes = b"", *, tickets: int = 0, late_s: float = 0
) -> Iterator[int]:
    """A server that reads requests, waits, answers, and closes; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.num_tickets = tickets
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    plain, _ = listening.accept()
                    with suppress(OSError), context.wrap_socket(plain, server_side=True) as one:
                        one.recv(4096)
                        time.sleep(late_s)
                        one.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(30)


@pytest.mark.slow
def test_no_answer(folder: Path, certificate: Path) -> None:
    """An exchange that its server does not answer is an error."""
    with ExitStack() as stack:
        port = stack.enter_context(answering(certificate))
        url = f"https://{NAME}:{port}/n/1?token={CANARIES[2]}"
        calling = stack.enter_context(java(folder, url, "HTTP_1_1"))
        agent = stack.enter_context(started_agent("--tls=auto", pids=[calling.pid]))
        calling.write_line()
        calling.wait(60)
        agent.wait_for(lambda spans: len(spans) >= 1)
        spans = complete(agent)
        said = agent.stdout.read_bytes()
    assert opaque(spans) == sorted(spans, key=lambda span: span.start_ns)
    for span in spans:
        assert span.is_error
        assert span.attributes["error.type"] in ("connection_closed", "ECONNRESET")
        assert span.attributes["waggle.opaque.received_bytes"] == 0
    assert CANARIES[2].encode() not in said


def test_tickets_are_no_answer(folder: Path, certificate: Path) -> None:
    """What a server of TLS 1.3 sends by itself after the handshake ends no exchange: it lasts until
    its answer."""
    answer = b"HTTP/1.1 200 fine\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with ExitStack() as stack:
        port = stack.enter_context(answering(certificate, answer, tickets=2, late_s=LATE_S))
        url = f"https://{NAME}:{port}/n/1"
        calling = stack.enter_context(java(folder, url, "HTTP_1_1", 1))
        agent = stack.enter_context(started_agent("--tls=auto", pids=[calling.pid]))
        calling.write_line()
        assert calling.read_line(60) == "done"
        [span] = complete(agent)
    assert span.attributes["waggle.opaque"] is True
    assert not span.is_error
    assert span.end_ns - span.start_ns >= LATE_S * 1e9


BORING = """
import sys, grpc
credentials = grpc.ssl_channel_credentials(open(sys.argv[2], "rb").read())
input()
with grpc.secure_channel(f"localhost:{sys.argv[1]}", credentials) as channel:
    for n in range(1, int(sys.argv[3]) + 1):
        try:
            channel.unary_unary(f"/n/{n}")(b"x" * 100)
        except grpc.RpcError:
            pass  # it is answered, though not by gRPC
print("done", flush=True)
input()
"""


@pytest.mark.slow
def test_grpcio(folder: Path, certificate: Path) -> None:
    """Calls of grpcio, whose BoringSSL has no names: each is the parent of what its server did.
    What HTTP/2 says before the first may be one more."""
    with ExitStack() as stack:
        server, port = stack.enter_context(nginx_server(folder, certificate, listen="ssl http2"))
        authority = folder / "certificate.pem"
        command: list[str | Path] = [PYTHON, "-c", BORING, str(port), authority, str(COUNT)]
        program = Program("grpcio", command, with_pipes=True)
        stack.callback(program.stop)
        agent = stack.enter_context(started_agent("--tls=auto", pids=[program.pid, server.pid]))
        program.write_line()
        assert program.read_line(60) == "done"
        program.write_line()
        assert program.wait(60) == 0
        agent.wait_for(lambda spans: len(spans) >= 2 * COUNT)
        spans = complete(agent)
    calls = {span.span_id for span in opaque(spans)}
    served = [span for span in spans if span.kind == "server"]
    assert len(served) == COUNT
    assert COUNT <= len(calls) <= COUNT + 1
    joined = {span.parent_id for span in served if span.parent_id}
    assert joined <= calls
    assert len(joined) >= COUNT - 1
