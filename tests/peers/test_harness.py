"""The target programs themselves, without the agent: what a test of the agent takes for granted."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from .harness import (
    CLIENTS,
    SERVERS,
    Family,
    ProgramError,
    Server,
    ensure_built,
    has_ipv6,
    lease_port,
    read_truth,
    run_client,
    start_client,
    start_server,
    traceparent_of,
)

ROOT = Path(__file__).resolve().parents[2]
RAW = Path(__file__).resolve().parent / "programs" / "raw"
FAMILIES: tuple[Family, ...] = ("ipv4", "ipv6", "unix")
SENDERS = ("write", "send", "sendto", "sendfile", "splice", "writev", "sendmsg", "sendmmsg")
RECEIVERS = ("read", "recv", "recvfrom", "recvmsg", "recvmmsg", "readv", "peek", "splice")
CALLERS = [kind for kind in SERVERS if not kind.startswith("nginx")]
UNTIL_CLOSE = [kind for kind, server in SERVERS.items() if "until-close" in server.routes]
PLACES = [
    (kind, family)
    for kind, server in SERVERS.items()
    for family in sorted(server.families - {"ipv4"})
]
CLOSERS = [kind for kind, client in CLIENTS.items() if client.can_close]
GATED = [kind for kind, client in CLIENTS.items() if client.can_pass_gate]
TRACED = [kind for kind, client in CLIENTS.items() if client.can_send_traceparent]


@pytest.fixture(scope="session", autouse=True)
def built() -> None:
    ensure_built()


@pytest.fixture(scope="session")
def upstream() -> Iterator[Server]:
    """A server for others to call."""
    with start_server("go-nethttp") as server:
        yield server


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, upstream: Server) -> Iterator[Server]:
    """Each kind of server in turn."""
    with start_server(request.param, upstream=upstream.base_url) as running:
        yield running


def skip_without(family: Family) -> None:
    if family == "ipv6" and not has_ipv6():
        pytest.skip("this machine has no ::1 (IPv6 is switched off)")


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS)
def test_each_client_is_understood_by_each_server(server: Server, client: str) -> None:
    """Fifty numbers over four connections: each answer is the one to its own request."""
    run_client(client, server.base_url, count=50, concurrency=4)


@pytest.mark.parametrize("kind", ["go-nethttp", "java-httpserver"])
@pytest.mark.parametrize("client", CLOSERS)
def test_a_client_can_take_a_connection_for_each_request(client: str, kind: str) -> None:
    """With `close` the requests are answered too, also by a server that closes unannounced."""
    with start_server(kind) as server:
        run_client(client, server.base_url, count=20, concurrency=4, close=True)


def test_a_server_answers_each_of_its_paths(server: Server, upstream: Server) -> None:
    """What SERVERS says of routes is so."""
    routes = SERVERS[server.kind].routes
    assert server.get("/n/41") == (200, "n=41\n")
    status, text = server.get("/big/42")
    assert (status, len(text)) == (200, 1 << 20)
    assert server.request("POST", "/echo/43", b"x" * 70_000) == (200, "n=43 bytes=70000\n")
    if "slow" in routes:
        assert server.get("/slow/44?ms=3") == (200, "n=44\n")
    status, text = server.get(f"/call/45?url={upstream.base_url}/n/45")
    assert status == 200
    assert "n=45\n" in text
    if "call-sync" in routes:
        called = server.get(f"/call-sync/46?url={upstream.base_url}/n/46")
        assert called == (200, "n=46 status=200 body=n=46\n")


@pytest.mark.parametrize("code", [200, 204, 304, 404, 500, 503])
def test_a_server_answers_with_the_status_asked_for(server: Server, code: int) -> None:
    """/status/<code>/<n> gives that status, with a body where the status may have one."""
    body = "" if code in (204, 304) else "n=7\n"
    assert server.get(f"/status/{code}/7") == (code, body)


def test_a_chunked_answer_is_chunked(server: Server) -> None:
    """/chunked/<n> announces no length and begins with the number."""
    connection = server.connection()
    connection.request("GET", "/chunked/8")
    answer = connection.getresponse()
    assert answer.getheader("Transfer-Encoding") == "chunked"
    assert answer.read().startswith(b"n=8\n")
    connection.close()


@pytest.mark.parametrize("kind", UNTIL_CLOSE)
def test_an_answer_until_close_ends_with_its_connection(kind: str) -> None:
    """/until-close/<n> announces neither length nor chunks."""
    with start_server(kind) as server:
        connection = server.connection()
        connection.request("GET", "/until-close/9")
        answer = connection.getresponse()
        assert answer.getheader("Transfer-Encoding") is None
        assert answer.getheader("Content-Length") is None
        assert answer.read() == b"n=9\n"
        connection.close()


@pytest.mark.parametrize(("kind", "family"), PLACES)
def test_a_server_listens_where_it_is_told(kind: str, family: Family, upstream: Server) -> None:
    """Each kind answers curl on ::1 and on a UNIX socket, where SERVERS says it can."""
    skip_without(family)
    with start_server(kind, family=family, upstream=upstream.base_url) as server:
        run_client("curl", server.base_url, count=5, unix_path=server.unix_path)


@pytest.mark.parametrize("client", [kind for kind, can in CLIENTS.items() if can.can_unix])
def test_a_client_connects_to_a_unix_socket(client: str) -> None:
    """Clients that say they can use a UNIX socket do."""
    with start_server("go-nethttp", family="unix") as server:
        run_client(client, server.base_url, 10, 2, unix_path=server.unix_path)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_refuses_the_answer_to_another_request(client: str, upstream: Server) -> None:
    """A client fails when the number in the answer is not that of the request."""
    with pytest.raises(ProgramError, match="exited with"):
        run_client(client, upstream.base_url, count=3, path="/n/1{}")


@pytest.mark.parametrize("client", GATED)
def test_connections_outlive_the_gate(client: str, tmp_path: Path) -> None:
    """Before the gate only the first numbers are requested; those after it come on the same
    connections."""
    truth = tmp_path / "truth"
    with (
        start_server("raw", args=["--truth", str(truth)]) as server,
        start_client(client, server.base_url, 9, 1, gate=4) as running,
    ):
        running.wait_for_gate()
        targets = [told["target"] for told in read_truth(truth)[1:]]  # after /ready
        assert sorted(targets) == ["/n/1", "/n/2", "/n/3", "/n/4"]
        running.open_gate()
        running.finish()
        told = read_truth(truth)[1:]
    assert sorted(one["target"] for one in told) == [f"/n/{n}" for n in range(1, 10)]
    connections = [one["connection"] for one in told]
    assert set(connections[4:]) <= set(connections[:4])


@pytest.mark.parametrize("client", TRACED)
def test_a_client_sends_the_traceparent_made_from_the_number(client: str, tmp_path: Path) -> None:
    """The ids that `traceparent_of` tells are those on the wire."""
    truth = tmp_path / "truth"
    with start_server("raw", args=["--truth", str(truth)]) as server:
        run_client(client, server.base_url, 3, first=4711, traceparent=True)
    sent = {told["target"]: told["traceparent"] for told in read_truth(truth)[1:]}
    for n in range(4711, 4714):
        trace_id, span_id = traceparent_of(n)
        assert sent[f"/n/{n}"] == f"00-{trace_id.hex()}-{span_id.hex()}-01"


@pytest.mark.parametrize("kind", CALLERS)
def test_a_server_forwards_a_traceparent_only_when_asked(kind: str, tmp_path: Path) -> None:
    """/call/<n> sends on the incoming traceparent with forward=1, and none of its own without."""
    truth = tmp_path / "truth"
    with (
        start_server("raw", args=["--truth", str(truth)]) as called,
        start_server(kind) as server,
    ):
        for first, query in ((1, "&forward=1"), (2, "")):
            path = f"/call/{{}}?url={called.base_url}/n/{{}}{query}"
            run_client("raw", server.base_url, 1, first=first, path=path, traceparent=True)
    trace_id, span_id = traceparent_of(1)
    received = {told["target"]: told["traceparent"] for told in read_truth(truth)[1:]}
    expected = f"00-{trace_id.hex()}-{span_id.hex()}-01"
    assert received == {"/n/1": expected, "/n/2": None}


@pytest.mark.parametrize("keepalive", [True, False])
def test_nginx_keeps_upstream_connections_or_not(keepalive: bool, tmp_path: Path) -> None:
    """Ten requests reach the upstream over one connection, or over ten."""
    truth = tmp_path / "truth"
    with (
        start_server("raw", args=["--truth", str(truth)]) as behind,
        start_server(
            "nginx-proxy", upstream=behind.base_url, upstream_keepalive=keepalive
        ) as server,
    ):
        run_client("curl", server.base_url, count=10)
    told = [one for one in read_truth(truth) if one["target"].startswith("/n/")]
    assert len(told) == 10
    assert len({one["connection"] for one in told}) == (1 if keepalive else 10)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_raw_programs_know_every_scenario(family: Family, tmp_path: Path) -> None:
    """Each framing of HTTP/1, and each way for an exchange to fail, goes as it should, alone and
    pipelined, and the client's truth has each number once."""
    skip_without(family)
    truth = tmp_path / "truth"
    args = ["--scenario", "all", "--pipeline", "4", "--join", "--truth", str(truth)]
    with start_server("raw", family=family) as server:
        unix_path = server.unix_path
        run_client("raw", server.base_url, 90, 2, unix_path=unix_path, args=["--scenario", "all"])
        run_client("raw", server.base_url, 90, 2, unix_path=unix_path, args=args)
    told = read_truth(truth)
    assert sorted(one["n"] for one in told) == list(range(1, 91))
    assert all(one["started_ns"] < one["ended_ns"] for one in told)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", SENDERS)
def test_the_raw_programs_send_in_every_way(how: str, family: Family) -> None:
    """Requests and answers cut into pieces arrive whole, whatever call sends them."""
    skip_without(family)
    args = ["--send", how, "--cut", "1,5,-2"]
    with start_server("raw", family=family, args=[*args, "--batch"]) as server:
        args += ["--scenario", "all", "--pipeline", "3"]
        run_client("raw", server.base_url, 45, 2, unix_path=server.unix_path, args=args)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", RECEIVERS)
def test_the_raw_programs_receive_in_every_way(how: str, family: Family) -> None:
    """Requests and answers are read whole, in calls that bring only some bytes."""
    skip_without(family)
    args = ["--receive", how, "--recv-size", "1,5,900"]
    with start_server("raw", family=family, args=args) as server:
        args += ["--scenario", "all", "--pipeline", "3"]
        run_client("raw", server.base_url, 45, 2, unix_path=server.unix_path, args=args)


@pytest.mark.parametrize("name", ["SENDERS", "RECEIVERS"])
def test_this_list_of_calls_is_complete(name: str) -> None:
    """The calls tested here are all that the raw programs have."""
    code = f"import json, rawio; print(json.dumps(sorted(rawio.{name})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=RAW, capture_output=True, check=True)
    assert json.loads(done.stdout) == sorted(globals()[name])


def test_a_server_that_fails_to_start_says_why() -> None:
    """The error carries what the program wrote."""
    with (
        pytest.raises(ProgramError, match="invalid choice: 'pigeon'"),
        start_server("raw", args=["--send", "pigeon"]),
    ):
        pytest.fail("it started")


@pytest.mark.parametrize("kind", ["flask-gunicorn-gthread", "nginx"])
def test_nothing_of_a_server_outlives_it(kind: str) -> None:
    """Master and workers are gone when the context has been left, and the port can be bound."""
    with start_server(kind) as server:
        pids = server.pids()
        assert len(pids) == 2
        assert all(psutil.pid_exists(pid) for pid in pids)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_leased_port_is_given_to_nobody_else() -> None:
    """A hundred leases at a time are a hundred ports."""
    leases = [lease_port() for _ in range(100)]
    try:
        assert len({lease.port for lease in leases}) == 100
    finally:
        for lease in leases:
            lease.release()


@pytest.mark.slow
def test_the_demo_runs_without_the_agent() -> None:
    """Its four programs start, answer the six requests as they should, and end."""
    command = [sys.executable, str(ROOT / "deploy/demo/demo.py"), "--without-agent"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("GET /checkout") == 6
    processes = [line for line in done.stderr.splitlines() if "processes [" in line]
    pids = json.loads("[" + processes[0].partition("processes [")[2])
    assert not any(psutil.pid_exists(pid) for pid in pids)
