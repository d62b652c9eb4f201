"""HTTP/2 that is no gRPC, by programs of several languages, and a proxy between two of gRPC.

The number in the path, or in the sizes of messages, is the truth about which request is which.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from .agent import Ended, SeenSpan, started_agent
from .clients import RunningClient
from .grpc_programs import start_grpc_client, start_grpc_server
from .ports import is_open, lease_port
from .processes import Program
from .toolchain import ENVOY, GRPC_VENV, PROGRAMS, ensure_envoy, ensure_grpc_built, tool

COUNT = 6
_H2 = PROGRAMS / "http2"
_READY_S = 30.0

Command = Sequence[str | Path]


def _nghttpd(address: str) -> Command:
    host, _, port = address.rpartition(":")
    return [tool("nghttpd"), "--no-tls", "-a", host, "-d", _H2, port]


SERVERS: dict[str, Callable[[str], Command]] = {
    "nghttpd": _nghttpd,
    "hypercorn": lambda address: [GRPC_VENV / "bin" / "python", _H2 / "app.py", address],
    "node": lambda address: [tool("node"), _H2 / "server.js", address],
}


def _curl(how: str) -> Callable[[Sequence[str]], Command]:
    """One curl for each URL: Debian 12's cannot use a connection of HTTP/2 by prior knowledge
    twice, whoever is on the other side."""
    each = f"for url; do curl --silent --show-error --noproxy '*' {how} \"$url\" || exit 1; done"
    return lambda urls: ["sh", "-c", each, "curl", *urls]


@dataclass(frozen=True)
class Client:
    """How one is started with URLs, and what it needs of a server."""

    command: Callable[[Sequence[str]], Command]
    upgrades: bool = False


CLIENTS: dict[str, Client] = {
    "curl (prior knowledge)": Client(_curl("--http2-prior-knowledge")),
    "curl (Upgrade: h2c)": Client(_curl("--http2"), upgrades=True),
    "node": Client(lambda urls: [tool("node"), _H2 / "client.js", "--once", *urls]),
    "nghttp": Client(lambda urls: [tool("nghttp"), "--null-out", *urls]),
    "java": Client(lambda urls: [tool("java"), _H2 / "Upgrade.java", *urls], upgrades=True),
}
_KNOWS_UPGRADE = "hypercorn"  # the only one of them
PAIRS = [
    (server, client)
    for server in SERVERS
    for client, how in CLIENTS.items()
    if server == _KNOWS_UPGRADE or not how.upgrades
]
QUICK = {("hypercorn", "curl (Upgrade: h2c)"), ("node", "node")}


@contextmanager
def started(name: str, command: Callable[[str], Command]) -> Iterator[tuple[Program, str]]:
    """A server on a port of its own, once that is open."""
    lease = lease_port()
    try:
        program = Program(name, command(f"127.0.0.1:{lease.port}"))
        try:
            program.wait_until(lambda: is_open(lease.port), _READY_S)
            yield program, f"127.0.0.1:{lease.port}"
        finally:
            program.stop()
    finally:
        lease.release()


@contextmanager
def _at_the_gate(name: str, command: Command) -> Iterator[RunningClient]:
    """A program that begins when its gate is opened, in a process that is there before."""
    words = ["sh", "-c", 'echo gate; read line; exec "$@"', name]
    program = Program(f"client-{name}", [*words, *command], with_pipes=True)
    try:
        yield RunningClient(name, program, 0, 0)
    finally:
        program.stop()


def _play(server: str, command: Callable[[Sequence[str]], Command]) -> tuple[list[SeenSpan], Ended]:
    with ExitStack() as stack:
        running, address = stack.enter_context(started(server, SERVERS[server]))
        urls = [f"http://{address}/n/{n}" for n in range(COUNT)]
        client = stack.enter_context(_at_the_gate(server, command(urls)))
        client.wait_for_gate()
        agent = stack.enter_context(started_agent(pids=[running.pid, client.pid]))
        client.open_gate()
        client.finish()
        agent.settle(2 * COUNT)
        ended = agent.stop()
        return ended.spans, ended


@pytest.mark.parametrize(
    ("server", "client"),
    [
        pytest.param(*pair, marks=[] if pair in QUICK else [pytest.mark.slow], id="-".join(pair))
        for pair in PAIRS
    ],
)
def test_each_request_is_one_span_a_side(server: str, client: str) -> None:
    """Each request has a client's and a server's span, of HTTP/2, with its path and status; the
    one is the other's parent, and nothing is lost."""
    ensure_grpc_built()
    spans, ended = _play(server, CLIENTS[client].command)
    wanted = dict.fromkeys(range(COUNT), 1)
    status = 404 if server == "nghttpd" else 200
    sides = {kind: {s.number: s for s in spans if s.kind == kind} for kind in ("client", "server")}
    for kind in sides:
        assert Counter(span.number for span in spans if span.kind == kind) == wanted, kind
    for n in range(COUNT):
        above, below = sides["client"][n], sides["server"][n]
        assert (below.trace_id, below.parent_id) == (above.trace_id, above.span_id)
        for span in (above, below):
            assert span.name == "GET"
            assert span.attributes["network.protocol.version"] == "2"
            assert span.attributes["http.response.status_code"] == status
    assert ended.lost == []


def test_h2load() -> None:
    """2,000 requests of h2load on 4 connections, 32 streams at once on each: every one is a span
    on either side, by the right parent, and none is lost."""
    ensure_grpc_built()
    count = 2000
    load = ["-n", str(count), "-c", "4", "-m", "32"]
    with ExitStack() as stack:
        running, address = stack.enter_context(started("nghttpd", SERVERS["nghttpd"]))
        command = [tool("h2load"), *load, f"http://{address}/app.py"]
        client = stack.enter_context(_at_the_gate("h2load", command))
        client.wait_for_gate()
        agent = stack.enter_context(started_agent(pids=[running.pid, client.pid]))
        client.open_gate()
        client.finish()
        agent.settle(2 * count)
        ended = agent.stop()
    clients = {span.span_id: span for span in ended.spans if span.kind == "client"}
    servers = [span for span in ended.spans if span.kind == "server"]
    assert (len(clients), len(servers)) == (count, count)
    assert {span.parent_id for span in servers} == set(clients)
    assert {span.attributes["url.path"] for span in servers} == {"/app.py"}
    assert ended.lost == []


def _nginx(folder: Path, following: str) -> Callable[[str], Command]:
    def command(address: str) -> Command:
        text = (_H2 / "nginx.conf.template").read_text()
        values = {"folder": str(folder), "listen": address, "next": following}
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        config = folder / "nginx.conf"
        config.write_text(text)
        return [tool("nginx"), "-e", "stderr", "-p", folder, "-c", config]

    return command


def _envoy(folder: Path, following: str) -> Callable[[str], Command]:
    def command(address: str) -> Command:
        config = folder / "envoy.json"
        text = (_H2 / "envoy.json.template").read_text()
        for name, where in (("listen", address), ("next", following)):
            host, _, port = where.rpartition(":")
            text = text.replace(f"@{name}-host@", host).replace(f"@{name}-port@", port)
        config.write_text(text)
        return [
            *(ENVOY, "--config-path", config, "--concurrency", "1", "--disable-hot-restart"),
            *("--log-level", "warning"),
        ]

    return command


# Which program passes calls on, and how it is started with a folder and where to.
PROXIES: dict[str, Callable[[Path, str], Callable[[str], Command]]] = {
    "nginx": _nginx,
    "envoy": _envoy,
}
SLOW_PROXIES = ("envoy",)


def _passed_on(proxy: str, concurrency: int) -> None:
    """Calls through a proxy: four spans of each number, nothing lost; the trace goes from the
    client to the proxy and from the proxy to the server, and no parent is wrong."""
    count = 24
    with ExitStack() as stack:
        server = stack.enter_context(start_grpc_server("grpc-go"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="waggle-proxy-")))
        how = PROXIES[proxy](folder, server.address)
        between, address = stack.enter_context(started(proxy, how))
        kinds = ["one", "down", "fail"]
        client = stack.enter_context(
            start_grpc_client("grpc-go", address, count, concurrency, calls=kinds, gate=0)
        )
        client.wait_for_gate()
        pids = [server.program.pid, between.pid, client.pid]
        agent = stack.enter_context(started_agent(pids=pids))
        client.open_gate()
        numbers = client.finish().numbers
        agent.settle(4 * count)
        ended = agent.stop()
    assert ended.lost == []
    for n in numbers:
        spans = [span for span in ended.spans if span.number == n]
        found = {(span.pid, span.kind): span for span in spans}
        order = [(client.pid, "client"), (between.pid, "server")]
        order += [(between.pid, "client"), (server.program.pid, "server")]
        assert sorted(found) == sorted(order), n
        chain = [found[one] for one in order]
        codes = {span.attributes["rpc.response.status_code"] for span in chain}
        assert len(codes) == 1, n
        for above, below in pairwise(chain):
            if below.kind == "server" or below.parent_id:
                assert (below.trace_id, below.parent_id) == (above.trace_id, above.span_id), n


def test_nginx_between() -> None:
    """Calls through nginx's grpc_pass."""
    ensure_grpc_built()
    _passed_on("nginx", 4)


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("proxy", SLOW_PROXIES)
def test_others_between(proxy: str, concurrency: int) -> None:
    """Calls through Envoy, HTTP/2 on both of its sides."""
    ensure_grpc_built()
    ensure_envoy()
    _passed_on(proxy, concurrency)
