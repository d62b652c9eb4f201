"""Inside TLS: what real programs say to each other encrypted, seen as if it were not."""

import itertools
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from waggle.probes.tls.handshakes import CONNECT, CONNECTED, DONE, GREETING

from .agent import WAGGLE, Agent, SeenSpan, started_agent, started_as
from .harness import ensure_built, tool
from .processes import Program
from .tls_programs import (
    HERE,
    go_server,
    make_certificate,
    nginx_server,
    node_server,
    python_server,
)

COUNT = 30
VERSIONS = [pytest.param("1.2", marks=pytest.mark.slow), "1.3"]
SYSTEM_PYTHON = "/usr/bin/python3"  # with Debian's OpenSSL


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_built()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def certificate(folder: Path) -> Path:
    return make_certificate(folder)


def curl(*arguments: str, number: int = COUNT) -> None:
    """`number` requests over one connection; fails when one is not answered by 200."""
    url = arguments[-1].replace("{}", f"[1-{number}]")
    command = [tool("curl"), "-sSkf", "-o", "/dev/null", *arguments[:-1], url]
    subprocess.run(command, check=True, timeout=60)


def of(spans: list[SeenSpan], kind: str, pid: int) -> dict[str, SeenSpan]:
    """By path; fails where one is doubled."""
    found = [span for span in spans if span.kind == kind and span.pid == pid]
    doubled = [path for path, n in Counter(span.path for span in found).items() if n > 1]
    assert not doubled
    return {span.path: span for span in found}


def paths(prefix: str, number: int = COUNT) -> set[str]:
    return {f"{prefix}/{n}" for n in range(1, number + 1)}


def complete(agent: Agent) -> list[SeenSpan]:
    """Everything, once the agent has ended well and lost nothing."""
    ended = agent.stop()
    assert ended.code == 0, ended.stderr
    return ended.spans


def client_of_tls(*arguments: str) -> list[str]:
    """Ends at the first request that fails."""
    return [tool("curl"), "-sSkf", "--fail-early", "-o", "/dev/null", *arguments]


@pytest.mark.parametrize("tls", VERSIONS)
def test_blocking_server(certificate: Path, tls: str) -> None:
    """Every request of an HTTPS server on blocking sockets becomes a span with its own status."""
    server = python_server("threads.py", certificate, f"--tls={tls}", python=SYSTEM_PYTHON)
    with server as (program, port), started_agent("--tls=auto", pids=[program.pid]) as agent:
        curl(f"https://localhost:{port}/n/{{}}")
        curl("-X", "POST", "-d", "y" * 40_000, f"https://localhost:{port}/body/{{}}", number=3)
        curl(f"https://localhost:{port}/large/{{}}", number=3)
        agent.wait_for(lambda spans: len(spans) >= COUNT + 6)
        spans = of(complete(agent), "server", program.pid)
    assert set(spans) == paths("/n") | paths("/body", 3) | paths("/large", 3)
    one = spans["/n/1"].attributes
    assert (one["url.scheme"], one["http.response.status_code"]) == ("https", 200)
    assert (one["tls.protocol.name"], one["tls.protocol.version"]) == ("tls", tls)
    assert (one["server.address"], one["server.port"]) == ("localhost", port)
    assert spans["/large/1"].attributes["http.response.body.size"] == 300_000
    assert spans["/body/1"].attributes["http.request.body.size"] == 40_000


def test_command_is_seen_from_its_first_call(certificate: Path) -> None:
    """A program that the agent starts is seen from its first byte on: curl, on its own BIO."""
    with ExitStack() as stack:
        program, port = stack.enter_context(
            python_server("threads.py", certificate, python=SYSTEM_PYTHON)
        )
        url = f"https://localhost:{port}/n/[1-{COUNT}]"
        agent = stack.enter_context(
            started_agent("--tls=auto", pids=[program.pid], command=client_of_tls(url))
        )
        agent.wait()
        spans = agent.spans()
    served = of(spans, "server", program.pid)
    asked = {span.path: span for span in spans if span.kind == "client"}
    assert set(served) == set(asked) == paths("/n")
    assert asked["/n/1"].attributes["url.full"] == f"https://localhost:{port}/n/1"
    for path, span in served.items():
        assert (span.parent_id, span.trace_id) == (asked[path].span_id, asked[path].trace_id)
        assert span.link == "socket"


def test_not_wanted(certificate: Path) -> None:
    """Without --tls there are no spans of encrypted connections; how many there were is told, and
    what shows them."""
    with ExitStack() as stack:
        program, port = stack.enter_context(python_server("threads.py", certificate))
        agent = stack.enter_context(started_agent(pids=[program.pid]))
        for _ in range(2):
            curl(f"https://localhost:{port}/n/{{}}", number=3)
        ended = agent.stop()
    assert ended.spans == []
    told = "\n  encrypted  2 connections were not looked into: --tls auto does\n"
    assert told in ended.stderr


def test_calls_of_blocking_server(certificate: Path) -> None:
    """A call that a blocking HTTPS server makes over TLS is the child of its request, and the
    parent of what it calls."""
    with ExitStack() as stack:
        made = [
            stack.enter_context(python_server("threads.py", certificate, python=SYSTEM_PYTHON))
            for _ in range(2)
        ]
        (caller, port), (called, other) = made
        agent = stack.enter_context(started_agent("--tls=auto", pids=[caller.pid, called.pid]))
        curl(f"https://localhost:{port}/call/{{}}?url=https://localhost:{other}/n/1", number=1)
        for n in range(2, COUNT + 1):
            curl(f"https://localhost:{port}/call/{n}?url=https://localhost:{other}/n/{n}", number=1)
        agent.wait_for(lambda spans: len(spans) >= 3 * COUNT)
        spans = complete(agent)
    check_calls(spans, caller, called, "thread")


def check_calls(spans: list[SeenSpan], caller: Program, called: Program, link: str) -> None:
    """Request n of the caller asks for n of the called, and each is the child of the one before."""
    served = of(spans, "server", caller.pid)
    calling = of(spans, "client", caller.pid)
    below = of(spans, "server", called.pid)
    assert set(served) == paths("/call")
    assert set(calling) == set(below) == paths("/n")
    for n in range(1, COUNT + 1):
        request, call, end = served[f"/call/{n}"], calling[f"/n/{n}"], below[f"/n/{n}"]
        assert (call.parent_id, call.trace_id) == (request.span_id, request.trace_id)
        assert (end.parent_id, end.trace_id) == (call.span_id, call.trace_id)
        assert (call.link, end.link) == (link, "socket")


def check_joined(
    served: Mapping[str, SeenSpan], asked: Mapping[str, SeenSpan], wanted: set[str]
) -> None:
    """These requests, and no others, were seen at both ends, and each server's span is the child of
    the client's. Spans by path."""
    assert set(served) == set(asked) == wanted
    for path, span in served.items():
        assert (span.parent_id, span.link) == (asked[path].span_id, "socket")


def of_kind(spans: Iterable[SeenSpan], kind: str) -> dict[str, SeenSpan]:
    """By path, of whichever process."""
    return {span.path: span for span in spans if span.kind == kind}


@pytest.mark.parametrize(
    ("loop", "client"),
    [
        ("asyncio", "aiohttp"),
        ("uvloop", "httpx"),
        pytest.param("asyncio", "httpx", marks=pytest.mark.slow),
        pytest.param("uvloop", "aiohttp", marks=pytest.mark.slow),
    ],
)
def test_calls_of_asynchronous_server(certificate: Path, loop: str, client: str) -> None:
    """The same through BIOs in memory: the library never sees a socket."""
    flags = (f"--loop={loop}", f"--client={client}")
    with ExitStack() as stack:
        caller, port = stack.enter_context(python_server("asynchronous.py", certificate, *flags))
        called, other = stack.enter_context(
            python_server("threads.py", certificate, python=SYSTEM_PYTHON)
        )
        agent = stack.enter_context(started_agent("--tls=auto", pids=[caller.pid, called.pid]))
        for n in range(1, COUNT + 1):
            curl(f"https://localhost:{port}/call/{n}?url=https://localhost:{other}/n/{n}", number=1)
        agent.wait_for(lambda spans: len(spans) >= 3 * COUNT)
        spans = complete(agent)
    check_calls(spans, caller, called, "task")


@pytest.mark.slow
def test_by_system_calls(certificate: Path) -> None:
    """What ciphertext is seen by makes no difference: hooks of system calls, where they must do."""
    with ExitStack() as stack:
        caller, port = stack.enter_context(python_server("asynchronous.py", certificate))
        called, other = stack.enter_context(
            python_server("threads.py", certificate, python=SYSTEM_PYTHON)
        )
        pids = [caller.pid, called.pid]
        agent = stack.enter_context(started_agent("--tls=auto", "--capture", "syscall", pids=pids))
        for n in range(1, COUNT + 1):
            curl(f"https://localhost:{port}/call/{n}?url=https://localhost:{other}/n/{n}", number=1)
        agent.wait_for(lambda spans: len(spans) >= 3 * COUNT)
        spans = complete(agent)
    check_calls(spans, caller, called, "task")


def test_connection_older_than_the_agent(certificate: Path) -> None:
    """A connection that is there when the agent comes is seen from then on, and nothing of it is
    taken for what it is not."""
    with ExitStack() as stack:
        server, port = stack.enter_context(
            python_server("threads.py", certificate, python=SYSTEM_PYTHON)
        )
        load = Program("curl", client_of_tls(f"https://localhost:{port}/n/[1-1000000]"))
        stack.callback(load.stop)
        agent = stack.enter_context(started_agent("--tls=auto", pids=[server.pid, load.pid]))
        agent.wait_for(lambda spans: len(spans) >= 400)
        load.stop()
        spans = complete(agent)
    asked = {span.path: span for span in spans if span.kind == "client"}
    served = [span for span in spans if span.kind == "server"]
    assert len(asked) > 100
    assert len(served) > 100
    for span in served:
        if span.parent_id:
            assert span.parent_id == asked[span.path].span_id
    # The two programs get their probes one after the other; from then on every request is joined.
    latest = sorted(served, key=lambda span: span.number or 0)[-100:]
    assert all(span.parent_id for span in latest)


@pytest.mark.parametrize("kind", ["memory", "sockets"])
def test_crossing_connections(certificate: Path, kind: str) -> None:
    """However one thread crosses its connections, no plaintext is taken for another's."""
    rounds, servers = 20, 4
    with ExitStack() as stack:
        made = [
            stack.enter_context(python_server("threads.py", certificate, python=SYSTEM_PYTHON))
            for _ in range(servers)
        ]
        ports = [port for _, port in made]
        command: list[str | Path]
        command = [SYSTEM_PYTHON, HERE / "crossing.py", f"--kind={kind}", f"--rounds={rounds}"]
        command += ["--ports", *map(str, ports)]
        program = Program("crossing", command, with_pipes=True)
        stack.callback(program.stop)
        pids = [program.pid, *(server.pid for server, _ in made)]
        agent = stack.enter_context(started_agent("--tls=auto", pids=pids))
        program.write_line()
        assert program.read_line(60) == "done"
        agent.wait_for(lambda spans: len(spans) >= 2 * rounds * servers)
        program.write_line()
        spans = complete(agent)
    clients = [span for span in spans if span.kind == "client"]
    regular = [span for span in clients if span.number != 999999]
    assert len(regular) == rounds * servers
    for span in clients:
        assert span.path.split("/")[1] == str(span.attributes["network.peer.port"])
    asked = {span.path: span for span in clients}
    for span in (span for span in spans if span.kind == "server"):
        assert span.parent_id == asked[span.path].span_id


def test_nginx(certificate: Path, folder: Path) -> None:
    """nginx serves HTTPS and calls an HTTPS server behind it: sockets that do not block."""
    with ExitStack() as stack:
        called, other = stack.enter_context(
            python_server("threads.py", certificate, python=SYSTEM_PYTHON)
        )
        location = f"proxy_pass https://127.0.0.1:{other}; proxy_http_version 1.1;"
        proxy, port = stack.enter_context(nginx_server(folder, certificate, location))
        agent = stack.enter_context(started_agent("--tls=auto", pids=[proxy.pid, called.pid]))
        curl(f"https://localhost:{port}/n/{{}}")
        agent.wait_for(lambda spans: len(spans) >= 3 * COUNT)
        spans = complete(agent)
    worker = next(span.pid for span in spans if span.kind == "client")
    served, calling = of(spans, "server", worker), of(spans, "client", worker)
    below = of(spans, "server", called.pid)
    assert set(served) == set(calling) == set(below) == paths("/n")
    for path in paths("/n"):
        assert calling[path].parent_id == served[path].span_id
        assert below[path].parent_id == calling[path].span_id


def test_node(certificate: Path) -> None:
    """Node's own OpenSSL: requests, answers of any length, and its calls, which have no rule."""
    served = check_node(certificate)
    assert served["/large/1"].attributes["http.response.body.size"] == 300_000


def check_node(certificate: Path, node: Path | None = None) -> dict[str, SeenSpan]:
    """Two servers of Node.js, one of which calls the other: every request and every call is seen,
    and calls are joined. node: another than the system's. Gives what the first one served."""
    with ExitStack() as stack:
        caller, port = stack.enter_context(node_server(certificate, node))
        called, other = stack.enter_context(node_server(certificate, node))
        agent = stack.enter_context(started_agent("--tls=auto", pids=[caller.pid, called.pid]))
        curl(f"https://localhost:{port}/large/{{}}", number=3)
        for n in range(1, COUNT + 1):
            curl(f"https://localhost:{port}/call/{n}?url=https://localhost:{other}/n/{n}", number=1)
        agent.wait_for(lambda spans: len(spans) >= 3 * COUNT + 3)
        spans = complete(agent)
    served, calling = of(spans, "server", caller.pid), of(spans, "client", caller.pid)
    below = of(spans, "server", called.pid)
    assert set(served) == paths("/call") | paths("/large", 3)
    assert set(calling) == set(below) == paths("/n")
    for path in paths("/n"):
        assert below[path].parent_id == calling[path].span_id
    return served


@pytest.mark.parametrize(
    "flags", [(), ("--fresh",), ("--http1",)], ids=["http2", "http2-fresh", "http1"]
)
def test_go(certificate: Path, folder: Path, flags: tuple[str, ...]) -> None:
    """Go's crypto/tls, by instructions that are emulated and no return probe: calls belong to
    the goroutines that serve, over a kept connection or a new one each."""
    with ExitStack() as stack:
        caller, port = stack.enter_context(go_server(folder, certificate, *flags))
        called, other = stack.enter_context(go_server(folder, certificate))
        agent = stack.enter_context(started_agent("--tls=auto", pids=[caller.pid, called.pid]))
        for n in range(1, COUNT + 1):
            curl(f"https://localhost:{port}/call/{n}?url=https://localhost:{other}/n/{n}", number=1)
        agent.wait_for(lambda spans: len(spans) >= 3 * COUNT)
        spans = complete(agent)
    check_calls(spans, caller, called, "goroutine")


@pytest.mark.slow  # as the test above
def test_go_names_streams(certificate: Path, folder: Path) -> None:
    """Over HTTP/2 in TLS the pattern of Go's ServeMux, as without."""
    with ExitStack() as stack:
        server, port = stack.enter_context(go_server(folder, certificate))
        agent = stack.enter_context(started_agent("--tls=auto", pids=[server.pid]))
        curl("--http2", f"https://localhost:{port}/large/{{}}")
        agent.wait_for(lambda spans: len(spans) >= COUNT)
        spans = complete(agent)
    assert {span.attributes["network.protocol.version"] for span in spans} == {"2"}
    assert {span.attributes.get("http.route") for span in spans} == {"/large/"}


def test_http2(certificate: Path, folder: Path) -> None:
    """HTTP/2 between curl and nginx over TLS: streams of both ends, joined by the record."""
    with ExitStack() as stack:
        program, port = stack.enter_context(nginx_server(folder, certificate, listen="ssl http2"))
        url = f"https://localhost:{port}/n/[1-{COUNT}]"
        agent = stack.enter_context(
            started_agent("--tls=auto", pids=[program.pid], command=client_of_tls("--http2", url))
        )
        agent.wait()
        spans = agent.spans()
    asked = of_kind(spans, "client")
    check_joined(of_kind(spans, "server"), asked, paths("/n"))
    assert asked["/n/1"].attributes["network.protocol.version"] == "2"


CANARIES = (
    *("canary-cookie", "canary-authorization", "canary-token", "canary-body", "canary-set-cookie"),
    *("canary-password", "canary-signature", "canary-proxy", "canary-user"),
)


def say_secrets(port: int) -> None:
    """Each request says everything that is confidential, wherever HTTP lets it be said."""
    cookie, authorization, token, body, _, password, signature, proxy, user = CANARIES
    headers = [
        *(f"cookie: session={cookie}", f"authorization: Bearer {authorization}"),
        *(f"proxy-authorization: Basic {proxy}", f"x-api-key: {authorization}"),
    ]
    given = [word for header in headers for word in ("-H", header)]
    query = f"token={token}&password={password}&X-Amz-Signature={signature}"
    url = f"https://{user}:{password}@localhost:{port}/secret/{{}}?{query}"
    curl(*given, "-d", body * 100, url)


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_secrets_stay(certificate: Path, tmp_path: Path) -> None:
    """No byte that was said in confidence is in what the agent prints, logs or keeps on disk, which
    is what it would have sent."""
    spool = tmp_path / "spool"
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}  # nobody listens there
    flags = ["--tls=auto", f"--spool={spool}", "--verbose"]
    with ExitStack() as stack:
        server, port = stack.enter_context(
            python_server("threads.py", certificate, python=SYSTEM_PYTHON)
        )
        agent = stack.enter_context(started_agent(*flags, pids=[server.pid], env=environment))
        say_secrets(port)
        agent.wait_for(lambda spans: len(spans) >= COUNT)
        ended = agent.stop()
        written = [agent.stdout.read_bytes(), ended.stderr.encode()]
    kept = [path.read_bytes() for path in files_under(spool)]
    assert b"token=REDACTED" in written[0]
    assert any(b"/secret/1" in content for content in kept), "nothing is in the spool"
    for content in (*written, *kept):
        assert not [canary for canary in CANARIES if canary.encode() in content]


def test_a_crash_leaves_no_core(certificate: Path, tmp_path: Path) -> None:
    """An agent that crashes leaves nothing of what it had seen on disk."""
    unlimited = ("prlimit", "--core=unlimited:unlimited")
    control = [*unlimited, "/bin/sh", "-c", "kill -SEGV $$"]
    subprocess.run(control, cwd=tmp_path, check=False)
    if not list(tmp_path.glob("core*")):
        pytest.skip("this machine writes no core into the folder of a program")
    for path in tmp_path.glob("core*"):
        path.unlink()
    with ExitStack() as stack:
        server, port = stack.enter_context(
            python_server("threads.py", certificate, python=SYSTEM_PYTHON)
        )
        command = [*unlimited, str(WAGGLE), "run", "--json", "--tls=auto", f"--pid={server.pid}"]
        agent = stack.enter_context(
            started_as(lambda ready: [*command, f"--ready-fd={ready}"], cwd=tmp_path)
        )
        say_secrets(port)
        agent.wait_for(lambda spans: len(spans) >= COUNT)
        agent.process.send_signal(signal.SIGSEGV)
        assert agent.process.wait(60) == -signal.SIGSEGV
    assert not files_under(tmp_path)


@pytest.mark.parametrize("tls", VERSIONS)
def test_gnutls(certificate: Path, tls: str) -> None:
    """wget of Debian, on GnuTLS: its calls are seen, and are the parents of what they ask for."""
    with ExitStack() as stack:
        server, port = stack.enter_context(
            python_server("threads.py", certificate, f"--tls={tls}", python=SYSTEM_PYTHON)
        )
        urls = [f"https://localhost:{port}/n/{n}" for n in range(1, COUNT + 1)]
        command = [tool("wget"), "-q", "--no-check-certificate", "-O", "/dev/null", *urls]
        agent = stack.enter_context(started_agent("--tls=auto", pids=[server.pid], command=command))
        agent.wait()
        spans = agent.spans()
    served = of(spans, "server", server.pid)
    asked = of_kind(spans, "client")
    check_joined(served, asked, paths("/n"))
    for path, span in served.items():
        assert asked[path].attributes["tls.protocol.version"] == tls
        assert span.attributes["tls.protocol.version"] == tls


def test_killed_agent_harms_nobody(certificate: Path) -> None:
    """Under load the agent comes, is killed and goes, again and again: no request fails, over
    connections that are kept, over new ones, and those that the servers themselves make. For
    WAGGLE_TEST_SOAK times ten seconds, and for three agents at least."""
    long_s = 10 * int(os.environ.get("WAGGLE_TEST_SOAK", "1"))
    with ExitStack() as stack:
        threads, one = stack.enter_context(
            python_server("threads.py", certificate, python=SYSTEM_PYTHON)
        )
        tasks, two = stack.enter_context(python_server("asynchronous.py", certificate))
        node, three = stack.enter_context(node_server(certificate))
        loads = [
            stack.enter_context(endless_load(*arguments))
            for arguments in (
                (f"https://localhost:{one}/call/{{}}?url=https://localhost:{three}/n/1",),
                (f"https://localhost:{two}/call/{{}}?url=https://localhost:{three}/n/1",),
                (f"https://localhost:{three}/call/{{}}?url=https://localhost:{one}/n/1",),
                ("-H", "connection: close", f"https://localhost:{two}/n/{{}}"),
                ("-H", "connection: close", f"https://localhost:{three}/n/{{}}"),
            )
        ]
        pids = [threads.pid, tasks.pid, node.pid, *(load.pid for load in loads)]
        began = time.monotonic()
        for attempt in itertools.count():
            if attempt >= 3 and time.monotonic() - began > long_s:
                break
            with started_agent("--tls=auto", pids=pids) as agent:
                agent.wait_for(lambda spans: len(spans) > 2 * COUNT)
                if attempt % 2 == 0:
                    agent.kill()
            agent.stdout.unlink()
            for load in loads:
                assert load.process.poll() is None, load.output()
        print(f"{attempt} agents in {time.monotonic() - began:.0f} s")
        for load in loads:
            assert load.process.poll() is None, load.output()
            print(f"{load.name}: {answered(load)} requests")


@contextmanager
def endless_load(*arguments: str) -> Iterator[Program]:
    """curl, which asks again and again: a byte of output for each answer, and an end where one is
    missing."""
    url = arguments[-1].replace("{}", "[1-999999999]")
    kept = ("-w", "%{stderr}.", "--max-time", "60", "--rate", "100/s")
    command = client_of_tls(*kept, *arguments[:-1], url)
    load = Program("load", command)
    try:
        yield load
    finally:
        load.stop()


def answered(load: Program) -> int:
    """How many requests, and every one with success: at least one."""
    number = load.log.stat().st_size
    assert number, load.output()
    return number


@pytest.mark.parametrize("tls", VERSIONS)
def test_failed_handshakes(certificate: Path, tls: str) -> None:
    """A client that does not trust the server ends the handshake: a span of each end, the server's
    the child of the client's."""
    with ExitStack() as stack:
        server, port = stack.enter_context(
            python_server("threads.py", certificate, f"--tls={tls}", python=SYSTEM_PYTHON)
        )
        client = Program(
            "untrusting", [SYSTEM_PYTHON, "-c", UNTRUSTING, str(port)], with_pipes=True
        )
        stack.callback(client.stop)
        agent = stack.enter_context(started_agent("--tls=auto", pids=[client.pid, server.pid]))
        client.write_line()
        assert client.read_line(60) == "refused"
        agent.wait_for(lambda spans: len(spans) >= 2)
        client.write_line()
        spans = complete(agent)
    ends = {span.kind: span for span in spans}
    assert (len(spans), set(ends)) == (2, {"client", "server"})
    assert ends["server"].parent_id == ends["client"].span_id
    for span in spans:
        assert (span.name, span.is_error) == ("TLS handshake", True)
        assert span.attributes["error.type"] == "unknown_ca"
        assert span.attributes["tls.protocol.version"] == tls
        assert (span.attributes["server.address"], span.attributes["server.port"]) == (
            "localhost",
            port,
        )


UNTRUSTING = """
import socket, ssl, sys
input()
try:
    plain = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")
except ssl.SSLCertVerificationError:
    print("refused", flush=True)
input()
"""


def test_no_version_in_common(certificate: Path) -> None:
    """A server that speaks no version of its client's says so: the alert is the error of both."""
    with ExitStack() as stack:
        server, port = stack.enter_context(
            python_server("threads.py", certificate, "--tls=1.2", python=SYSTEM_PYTHON)
        )
        command = client_of_tls("--tlsv1.3", f"https://localhost:{port}/n/1")
        agent = stack.enter_context(started_agent("--tls=auto", pids=[server.pid], command=command))
        agent.wait()
        spans = agent.spans()
    assert {span.kind for span in spans} == {"client", "server"}
    assert {span.attributes["error.type"] for span in spans} == {"protocol_version"}


@pytest.mark.parametrize("tls", VERSIONS)
def test_odd_ways(certificate: Path, tls: str) -> None:
    """Resumed sessions, bytes that come singly, pipelining, closing by halves, writes that are
    tried again: each request has its span at both ends, and they are joined."""
    with ExitStack() as stack:
        server, port = stack.enter_context(
            python_server("threads.py", certificate, f"--tls={tls}", python=SYSTEM_PYTHON)
        )
        command: list[str | Path] = [SYSTEM_PYTHON, HERE / "odd.py", str(port), tls]
        program = Program("odd", command, with_pipes=True)
        stack.callback(program.stop)
        agent = stack.enter_context(started_agent("--tls=auto", pids=[program.pid, server.pid]))
        program.write_line()
        assert program.read_line(60) == "done"
        agent.wait_for(lambda spans: len(spans) >= 50)
        program.write_line()
        spans = complete(agent)
    asked, served = of(spans, "client", program.pid), of(spans, "server", server.pid)
    numbers = [first + i for first in (100, 200, 300, 400) for i in range(5)]
    wanted = {f"/n/{n}" for n in numbers} | {f"/body/{n}" for n in range(500, 505)}
    check_joined(served, asked, wanted)
    for path, span in served.items():
        # A client that has closed its direction is done as far as its connection tells.
        ends = [span] if path.startswith("/n/40") else [span, asked[path]]
        for end in ends:
            assert end.attributes["http.response.status_code"] == 200
            assert end.attributes["tls.protocol.version"] == tls
    assert served["/body/500"].attributes["http.request.body.size"] == 200_000


def test_handshakes_are_told(certificate: Path, folder: Path) -> None:
    """The first exchange of a connection, and no other, says when it was connected and how both
    ends met: at which version, and for which name and protocol."""
    with ExitStack() as stack:
        program, port = stack.enter_context(nginx_server(folder, certificate, listen="ssl http2"))
        url = f"https://localhost:{port}/n/"
        one = client_of_tls("--http2", f"{url}[1-3]")
        other = client_of_tls("--http1.1", f"{url}[4-6]")
        command = [*one, "--next", *other[1:]]
        agent = stack.enter_context(
            started_agent("--tls=auto", pids=[program.pid], command=command)
        )
        agent.wait()
        spans = agent.spans()
    asked = of(spans, "client", next(span.pid for span in spans if span.kind == "client"))
    served = {span.path: span for span in spans if span.kind == "server"}
    assert set(asked) == set(served) == paths("/n", 6)
    for told in (asked, served):
        assert {path for path, span in told.items() if span.events} == {"/n/1", "/n/4"}
    expiry = expiry_of(certificate)
    for path, protocol in (("/n/1", "h2"), ("/n/4", "http/1.1")):
        check_handshake(served[path], {GREETING, DONE}, protocol, expiry)
        # Whether a connection is there may be known only once the kernel's packets say so.
        check_handshake(asked[path], {CONNECT, GREETING, DONE}, protocol, expiry)


def expiry_of(certificate: Path) -> str:
    """By openssl's own word, as the conventions write it."""
    command = ["openssl", "x509", "-in", str(certificate), "-noout", "-enddate"]
    command += ["-dateopt", "iso_8601"]
    told: str = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return told.strip().removeprefix("notAfter=").replace(" ", "T").replace("Z", ".000Z")


def check_handshake(span: SeenSpan, least: set[str], protocol: str, expiry: str) -> None:
    names = [name for name, _ in span.events]
    assert least <= set(names) <= {CONNECT, CONNECTED, GREETING, DONE}
    assert [*span.event_ns, span.start_ns] == sorted([*span.event_ns, span.start_ns])
    assert span.events[-1] == (
        DONE,
        {
            "tls.protocol.name": "tls",
            "tls.protocol.version": "1.2",
            "tls.next_protocol": protocol,
            "tls.server.not_after": expiry,
            "server.address": "localhost",
        },
    )


def test_server_without_a_name(certificate: Path) -> None:
    """Of a request that does not say for whom it is the connection does."""
    with ExitStack() as stack:
        server, port = stack.enter_context(
            python_server("threads.py", certificate, python=SYSTEM_PYTHON)
        )
        command = [SYSTEM_PYTHON, "-c", NAMELESS, str(port)]
        client = Program("nameless", command, with_pipes=True)
        stack.callback(client.stop)
        agent = stack.enter_context(started_agent("--tls=auto", pids=[client.pid, server.pid]))
        client.write_line()
        assert client.read_line(60) == "done"
        agent.wait_for(lambda spans: len(spans) >= 2)
        client.write_line()
        spans = complete(agent)
    ends = {span.kind: span for span in spans}
    assert ends["client"].attributes["server.address"] == "shop.test"
    assert ends["client"].attributes["url.full"].startswith("https://shop.test")
    assert ends["server"].parent_id == ends["client"].span_id


NAMELESS = """
import socket, ssl, sys
input()
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
plain = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
with context.wrap_socket(plain, server_hostname="shop.test") as one:
    one.sendall(b"GET /n/1 HTTP/1.0\\r\\n\\r\\n")
    while one.recv(4096):
        pass
print("done", flush=True)
input()
"""


def seen_of_native(
    stack: ExitStack,
    server: Program,
    port: int,
    way: str,
    number: int,
    library: str | Path = "libssl.so.3",
) -> list[SeenSpan]:
    """The spans, `number` at least, of programs/tls/native.py and of the server that it calls."""
    command: list[str | Path] = [SYSTEM_PYTHON, HERE / "native.py", str(port), way, library]
    program = Program("native", command, with_pipes=True)
    stack.callback(program.stop)
    agent = stack.enter_context(started_agent("--tls=auto", pids=[program.pid, server.pid]))
    program.write_line()
    assert program.read_line(60) == "done"
    program.write_line()
    assert program.wait(60) == 0
    agent.wait_for(lambda spans: len(spans) >= number)
    return complete(agent)


@pytest.mark.parametrize(
    ("way", "tls"),
    [
        ("peeked", "1.3"),
        ("moved", "1.3"),
        pytest.param("renegotiated", "1.2", marks=pytest.mark.slow),
    ],
)
def test_native_ways(certificate: Path, way: str, tls: str) -> None:
    """Plaintext that is looked at before it is read, an object that moves to another connection,
    and handshakes between requests: each request has one span at both ends, and they are joined."""
    with ExitStack() as stack:
        server, port = stack.enter_context(
            python_server("threads.py", certificate, f"--tls={tls}", python=SYSTEM_PYTHON)
        )
        spans = seen_of_native(stack, server, port, way, 10)
    client = next(span.pid for span in spans if span.kind == "client")
    asked, served = of(spans, "client", client), of(spans, "server", server.pid)
    check_joined(served, asked, paths("/n", 5))
    for path, span in served.items():
        for end in (span, asked[path]):
            assert end.attributes["http.response.status_code"] == 200
            assert end.attributes["tls.protocol.version"] == tls


@pytest.mark.slow
def test_early_data(certificate: Path, folder: Path) -> None:
    """A request that comes before its handshake is seen at both ends, and may stay unjoined; what
    comes behind it on its connection is joined as ever."""
    with ExitStack() as stack:
        listen = "ssl; ssl_protocols TLSv1.3; ssl_early_data on"
        server, port = stack.enter_context(nginx_server(folder, certificate, listen=listen))
        spans = seen_of_native(stack, server, port, "early", 18)
    asked = {span.path: span for span in spans if span.kind == "client"}
    served = {span.path: span for span in spans if span.kind == "server"}
    assert set(asked) == set(served) == paths("/n", 9)
    assert len(spans) == 18
    early = {f"/n/{n}" for n in (2, 4, 6, 8)}
    for path, span in served.items():
        allowed = {asked[path].span_id} | ({""} if path in early else set())
        assert span.parent_id in allowed
        for end in (span, asked[path]):
            assert end.attributes["http.response.status_code"] == 200
