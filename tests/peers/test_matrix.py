"""Every server with every client: the numbers in the URLs are the truth about what happened.

A round is one agent beside one server and a list of clients, which wait at their gates until the
agent is ready and then run one after the other. Each test looks at one property of what was seen.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from _pytest.mark import ParameterSet

from .agent import Ended, SeenSpan, started_agent, unix_ns
from .harness import (
    CLIENTS,
    SERVERS,
    ClientResult,
    Family,
    RunningClient,
    Server,
    ensure_built,
    has_ipv6,
    read_truth,
    start_client,
    start_server,
    traceparent_of,
    trust_in,
)
from .tls_programs import make_certificate

# What a program of this kind is called, by its command line.
SERVER_NAMES = {
    "go-nethttp": "nethttp",
    "go-nethttp-stripped": "nethttp",
    "go-gin": "gin",
    "go-gin-stripped": "gin",
    "flask-gunicorn-sync": "flask_app",
    "flask-gunicorn-gthread": "flask_app",
    "fastapi-uvicorn-asyncio": "fastapi_app",
    "fastapi-uvicorn-uvloop": "fastapi_app",
    "aiohttp": "aiohttp_app",
    "node-http": "node",
    "java-httpserver": "Server",
    "nginx": "nginx",
    "nginx-proxy": "nginx",
    "raw": "rawserver",
}
CLIENT_NAMES = {
    "curl": "curl",
    "requests": "client_requests",
    "httpx": "client_httpx",
    "httpx-async": "client_httpx_async",
    "aiohttp": "client_aiohttp",
    "go": "client",
    "node-http": "client",
    "node-fetch": "client",
    "java": "Client",
    "raw": "rawclient",
}
# Servers that answer one request a connection.
CLOSING = {"flask-gunicorn-sync"}
# Connections must stay open while the agent starts.
PATIENT = {"GUNICORN_CMD_ARGS": "--keep-alive 600", "UVICORN_TIMEOUT_KEEP_ALIVE": "600"}
# Undici gives up an idle connection after a few seconds, whatever the server says.
IMPATIENT_CLIENTS = {"node-fetch"}
CLOCKS_MAY_DIFFER_NS = 2_000_000


@dataclass(frozen=True)
class Job:
    """One client's part: it requests `count` numbers, `old` of them before the agent starts."""

    client: str
    concurrency: int
    count: int = 24
    traceparent: bool = False
    old: int = 0


@dataclass(frozen=True)
class Plan:
    """One round."""

    server: str
    jobs: tuple[Job, ...]
    family: Family = "ipv4"
    flavour: str = "socket"
    is_slow: bool = False
    is_tls: bool = False

    def __str__(self) -> str:
        words = [self.server, self.family, self.flavour]
        words += ["tls"] if self.is_tls else []
        return "-".join([*words, *(["full"] if self.is_slow else [])])


@dataclass(frozen=True)
class Played:
    """A job that was done. Its numbers begin at `first`."""

    job: Job
    result: ClientResult
    ports_before: frozenset[int]
    truth: Path | None

    @property
    def numbers(self) -> range:
        """Those of the requests made under the agent."""
        return self.result.numbers[self.job.old :]


@dataclass(frozen=True)
class Round:
    """What happened, and what the agent made of it."""

    plan: Plan
    base_url: str
    server_pids: frozenset[int]
    played: tuple[Played, ...]
    ended: Ended

    def servers(self) -> dict[int | None, SeenSpan]:
        return {span.number: span for span in self.server_spans()}

    def clients(self) -> dict[int | None, SeenSpan]:
        return {span.number: span for span in self.client_spans()}

    def server_spans(self) -> list[SeenSpan]:
        return [span for span in self.ended.spans if span.kind == "server"]

    def client_spans(self) -> list[SeenSpan]:
        """Not those of a server that is a client itself."""
        found = [span for span in self.ended.spans if span.kind == "client"]
        return [span for span in found if span.pid not in self.server_pids]

    def each(self) -> Iterator[tuple[Played, int, SeenSpan, SeenSpan]]:
        """Every number that both sides saw, with the client's span and the server's."""
        servers, clients = self.servers(), self.clients()
        for played in self.played:
            for n in played.numbers:
                if n in servers and n in clients:
                    yield played, n, clients[n], servers[n]


def play(plan: Plan, folder: Path) -> Round:
    """Plays one round."""
    with ExitStack() as stack:
        certificate = make_certificate(folder) if plan.is_tls else None
        server = _start_server(plan, stack, certificate)
        clients = [
            stack.enter_context(_start_client(job, server, 1000 * i + 1, folder))
            for i, job in enumerate(plan.jobs)
        ]
        for client in clients:
            client.wait_for_gate()
        ports = [_ports_of(client.pid) for client in clients]
        pids = [server.pid, *(client.pid for client in clients)]
        options = ("--capture", plan.flavour, *(["--tls", "auto"] if plan.is_tls else []))
        agent = stack.enter_context(started_agent(*options, pids=pids))
        results = _run(clients, at_once=any(job.old for job in plan.jobs))
        requests = sum(job.count - job.old for job in plan.jobs)
        agent.settle(requests * (3 if SERVERS[plan.server].needs_upstream else 2))
        played = tuple(
            Played(job, result, before, _truth(job, result.first, folder))
            for job, result, before in zip(plan.jobs, results, ports, strict=True)
        )
        server_pids = frozenset(server.pids())
        return Round(plan, server.base_url, server_pids, played, agent.stop())


def _start_server(plan: Plan, stack: ExitStack, certificate: Path | None) -> Server:
    upstream = None
    if SERVERS[plan.server].needs_upstream:
        behind = start_server("go-nethttp", certificate=certificate)
        upstream = stack.enter_context(behind).base_url
    how = start_server(
        plan.server,
        family=plan.family,
        env=PATIENT,
        upstream=upstream,
        certificate=certificate,
    )
    return stack.enter_context(how)


def _start_client(
    job: Job, server: Server, first: int, folder: Path
) -> AbstractContextManager[RunningClient]:
    truth = _truth(job, first, folder)
    return start_client(
        job.client,
        server.base_url,
        job.count,
        job.concurrency,
        first=first,
        unix_path=server.unix_path,
        traceparent=job.traceparent,
        gate=job.old,
        env=trust_in(server.certificate) if server.certificate else None,
        args=["--truth", str(truth)] if truth else [],
    )


def _truth(job: Job, first: int, folder: Path) -> Path | None:
    """Where the client writes down each exchange, if it can."""
    return folder / f"truth-{first}" if job.client == "raw" else None


def _run(clients: Sequence[RunningClient], *, at_once: bool) -> list[ClientResult]:
    """Old connections do not live for ever: those all go on at once."""
    if at_once:
        for client in clients:
            client.open_gate()
        return [client.finish() for client in clients]
    results = []
    for client in clients:
        client.open_gate()
        results.append(client.finish())
    return results


def _ports_of(pid: int) -> frozenset[int]:
    """The local ports of a process's TCP connections."""
    connections = psutil.Process(pid).net_connections("tcp")
    return frozenset(c.laddr.port for c in connections if c.status == psutil.CONN_ESTABLISHED)


def _jobs(
    server: str,
    concurrency: Sequence[int] = (),
    *,
    unix: bool = False,
    traceparent: bool = False,
    only: Sequence[str] = tuple(CLIENTS),
) -> tuple[Job, ...]:
    """Each client, with each concurrency; without one given, 1 and 8 in turns, begun so that
    every client meets both among all the servers."""
    turn = list(SERVERS).index(server)
    # Java's server does not set TCP_NODELAY: an answer on a kept connection takes 40 ms.
    count = 12 if server == "java-httpserver" else 24
    jobs = []
    for i, client in enumerate(only):
        if unix and not CLIENTS[client].can_unix:
            continue
        for width in concurrency or ((1, 8)[(i + turn) % 2],):
            jobs.append(Job(client, width, count * (1 if width == 1 else 3)))
        if traceparent and CLIENTS[client].can_send_traceparent:
            jobs.append(Job(client, 4, count, traceparent=True))
    return tuple(jobs)


def _old_jobs(server: str, *, unix: bool = False) -> tuple[Job, ...]:
    turn = list(SERVERS).index(server)
    return tuple(
        Job(name, (1, 4)[(i + turn) % 2], 40, old=8)
        for i, (name, client) in enumerate(CLIENTS.items())
        if client.can_pass_gate and (client.can_unix or not unix)
    )


TRACED = ("go-nethttp", "node-http")
FEW = ("curl", "requests", "go", "node-fetch", "java", "raw")
# Too like another server for the short selection.
ALIKE = ("go-nethttp-stripped", "go-gin-stripped", "fastapi-uvicorn-asyncio", "raw")


def _tls_jobs(server: str) -> tuple[Job, ...]:
    return _jobs(server, only=[name for name, client in CLIENTS.items() if client.can_tls])


def _plans() -> list[Plan]:
    """The short selection, which has every kind of server and every client, then all."""
    short = [
        Plan(server, _jobs(server, traceparent=server in TRACED))
        for server in SERVERS
        if server not in ALIKE
    ]
    short.append(Plan("node-http", _jobs("node-http"), "ipv6"))
    short += [
        Plan(server, _jobs(server, unix=True), "unix")
        for server in ("flask-gunicorn-gthread", "fastapi-uvicorn-uvloop", "go-gin")
    ]
    short += [
        Plan("flask-gunicorn-sync", _jobs("flask-gunicorn-sync", only=FEW), flavour="syscall"),
        Plan("go-nethttp", _jobs("go-nethttp", only=FEW), flavour="syscall"),
        Plan("nginx", _jobs("nginx", only=FEW, unix=True), "unix", flavour="syscall"),
    ]
    short += [
        Plan("nginx", _tls_jobs("nginx"), is_tls=True),
    ]
    full = [
        Plan(server, _tls_jobs(server), flavour=flavour, is_slow=True, is_tls=True)
        for flavour in ("socket", "syscall")
        for server, kind in SERVERS.items()
        if kind.can_tls
    ]
    full += [
        Plan(
            server,
            _jobs(server, (1, 8), unix=family == "unix", traceparent=True),
            family,
            flavour,
            is_slow=True,
        )
        for flavour in ("socket", "syscall")
        for server, kind in SERVERS.items()
        for family in sorted(kind.families)
    ]
    return short + full


def _old_plans() -> list[Plan]:
    """Of each language one server, in the flavour `socket`, then the rest."""
    quick = {
        ("go-nethttp", "ipv4", "socket"),
        ("flask-gunicorn-gthread", "ipv4", "socket"),
        ("node-http", "ipv6", "socket"),
        ("nginx", "ipv4", "socket"),
        ("fastapi-uvicorn-uvloop", "unix", "socket"),
        ("go-nethttp", "ipv4", "syscall"),
    }
    return [
        Plan(
            server,
            _old_jobs(server, unix=family == "unix"),
            family,
            flavour,
            is_slow=(server, family, flavour) not in quick,
        )
        for flavour in ("socket", "syscall")
        for server, kind in SERVERS.items()
        for family in sorted(kind.families)
    ]


def _params(plans: Sequence[Plan]) -> list[ParameterSet]:
    return [
        pytest.param(plan, id=str(plan), marks=[pytest.mark.slow] if plan.is_slow else [])
        for plan in plans
    ]


def _play_where_possible(plan: Plan, factory: pytest.TempPathFactory) -> Round:
    if plan.family == "ipv6" and not has_ipv6():
        pytest.skip("this machine has no ::1 (IPv6 is switched off)")
    ensure_built()
    return play(plan, factory.mktemp("round"))


@pytest.fixture(scope="module", params=_params(_plans()))
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Round:
    """A round with new connections."""
    return _play_where_possible(request.param, tmp_path_factory)


@pytest.fixture(scope="module", params=_params(_old_plans()))
def seen_late(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Round:
    """A round with connections that are older than the agent."""
    return _play_where_possible(request.param, tmp_path_factory)


def _check_once(seen: Round) -> None:
    """Each number has one span of each side, and nothing else has any."""
    wanted = {n: played.job for played in seen.played for n in played.numbers}
    for spans in (seen.server_spans(), seen.client_spans()):
        counts = Counter(span.number for span in spans)
        wrong = {n: counts[n] for n in wanted.keys() | counts.keys() if counts[n] != (n in wanted)}
        told = [(n, count, wanted.get(n or 0)) for n, count in sorted(wrong.items(), key=str)]
        assert not wrong, f"{len(wrong)} numbers with other than one span: {told[:5]}"


def _overtaken(seen: Round) -> set[int]:
    """Requests that were answered before their sender's hook ran, on UNIX sockets: they are put
    into the receiver's queue first, and then the sender's CPU may be taken away. As many as the
    agent tells of, and one that neither end could see."""
    if seen.plan.family != "unix":
        return set()
    told = seen.ended.count_lost("handoff_too_late")
    numbers = {n for _, n, _, server in seen.each() if not server.parent_id}
    return numbers if len(numbers) <= told + 1 else set()


def _check_parents(seen: Round) -> None:
    """The server's span is the child of the client's, handed over by position."""
    overtaken = _overtaken(seen)
    wrong = [
        (n, server.link, server.parent_id, client.span_id)
        for _, n, client, server in seen.each()
        if (server.parent_id, server.trace_id, server.link)
        != (client.span_id, client.trace_id, "socket")
        and n not in overtaken
    ]
    assert not wrong, f"{len(wrong)} wrong parents: {wrong[:5]}"


def test_each_exchange_is_one_span_a_side(seen: Round) -> None:
    """Each number has exactly one span of the client and one of the server; no span has another
    number; the agent says that it lost nothing."""
    _check_once(seen)
    assert seen.ended.lost == []
    assert seen.ended.code == 0


def test_attributes_tell_the_exchange(seen: Round) -> None:
    """Name, status and URL are those of the request, on both sides, and it is no error."""
    scheme, _, host = seen.base_url.partition("://")
    for _, n, client, server in seen.each():
        # What routed the request says so, where it can be asked.
        route = server.attributes.get("http.route")
        assert server.name == (f"GET {route}" if route else "GET")
        assert client.name == "GET"
        for span in (client, server):
            assert not span.is_error
            assert span.attributes["http.request.method"] == "GET"
            assert span.attributes["http.response.status_code"] == 200
            assert span.attributes["network.protocol.version"] in ("1.0", "1.1")
            version = span.attributes.get("tls.protocol.version")
            assert version in (("1.2", "1.3") if seen.plan.is_tls else (None,))
        assert server.attributes["url.path"] == f"/n/{n}"
        # As each router writes it: net/http, Gin.
        assert route in (None, "/n/:n" if "gin" in seen.plan.server else "/n/{n}")
        assert server.attributes["url.scheme"] == scheme
        assert "url.query" not in server.attributes
        assert client.attributes["url.full"] == f"{scheme}://{host}/n/{n}"
        assert server.attributes["server.address"] == client.attributes["server.address"]


def test_addresses_tell_the_connection(seen: Round) -> None:
    """The peer of each side is the other side; a UNIX socket is named as such."""
    port = int(seen.base_url.rpartition(":")[2]) if seen.plan.family != "unix" else None
    address = {"ipv4": "127.0.0.1", "ipv6": "::1", "unix": None}[seen.plan.family]
    transport = "unix" if seen.plan.family == "unix" else None
    for _, _, client, server in seen.each():
        assert client.attributes.get("network.peer.port") == port
        for span in (client, server):
            assert span.attributes.get("network.peer.address") == address
            assert span.attributes.get("network.transport") == transport


def test_spans_have_their_process(seen: Round) -> None:
    """Each span has the service name and the process id of the program that made it."""
    name = SERVER_NAMES[seen.plan.server]
    for played, _, client, server in seen.each():
        assert (server.service, server.pid in seen.server_pids) == (name, True)
        assert client.service == CLIENT_NAMES[played.job.client]
        # Each curl is a child of the client.
        is_child = played.job.client == "curl"
        own = client.resource["process.parent_pid"] if is_child else client.pid
        assert own == played.result.pid


def test_times_lie_where_the_requests_were_made(seen: Round) -> None:
    """A span of the client lies in the client's life, or in the very exchange where the client
    wrote that down; the server's span begins after the client's has begun and before it ends."""
    bounds = {n: bound for played in seen.played for n, bound in _bounds(played).items()}
    overtaken = _overtaken(seen)
    for _, n, client, server in seen.each():
        begin, end = bounds[n]
        assert begin - CLOCKS_MAY_DIFFER_NS <= client.start_ns
        assert client.end_ns <= end + CLOCKS_MAY_DIFFER_NS
        assert client.start_ns <= server.start_ns <= server.end_ns or n in overtaken
        assert server.start_ns <= client.end_ns


def _bounds(played: Played) -> dict[int, tuple[int, int]]:
    """Between which two Unix times each number was requested and answered."""
    if played.truth is None:
        life = unix_ns(played.result.started_ns), unix_ns(played.result.ended_ns)
        return dict.fromkeys(played.numbers, life)
    return {
        told["n"]: (unix_ns(told["started_ns"]), unix_ns(told["ended_ns"]))
        for told in read_truth(played.truth)
    }


def test_the_server_is_the_child_of_the_client(seen: Round) -> None:
    """The parent of each server's span is the client's span of the same number, by hand-off."""
    _check_parents(seen)


def test_a_client_on_its_own_is_a_root_or_what_it_says(seen: Round) -> None:
    """Where no request is being served, the client's span has no parent and a trace of its own;
    where the application sent a traceparent, it has the application's."""
    roots = []
    for played, n, client, _ in seen.each():
        if played.job.traceparent:
            trace_id, span_id = traceparent_of(n)
            assert (client.trace_id, client.parent_id) == (trace_id.hex(), span_id.hex())
            assert client.link == "traceparent"
        else:
            assert (client.parent_id, client.link) == ("", None)
            roots.append(client.trace_id)
    assert len(set(roots)) == len(roots)


def test_old_connections_are_captured_from_now_on(seen_late: Round) -> None:
    """On connections older than the agent every later request has one span a side, and no
    earlier one has any; the agent says that it lost nothing."""
    _check_once(seen_late)
    assert seen_late.ended.lost == []


def test_old_connections_hand_over(seen_late: Round) -> None:
    """The first request after the agent's start has its hand-off as well as the last."""
    _check_parents(seen_late)


def test_old_connections_were_really_used(seen_late: Round) -> None:
    """Spans came over connections that each client had before the agent started."""
    if seen_late.plan.family == "unix" or seen_late.plan.server in CLOSING:
        pytest.skip("no port tells one connection from another")
    servers = seen_late.servers()
    for played in seen_late.played:
        if played.job.client in IMPATIENT_CLIENTS:
            continue
        used = {servers[n].attributes["network.peer.port"] for n in played.numbers}
        assert used & played.ports_before, played.job
