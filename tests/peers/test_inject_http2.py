"""Fields for strangers that speak HTTP/2 and gRPC, with real clients: what each asks for is what it
asks for without an agent, and one field more where it belongs. The clients are traced themselves,
and sockets stay enrolled. WAGGLE_TEST_SOAK is how many times as long this goes on."""

import json
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from . import http2_fields
from .agent import Agent, SeenSpan, started_agent
from .clients import RunningClient
from .grpc_programs import FIRST, IMPLEMENTATIONS, start_grpc_client, start_grpc_server
from .http2_fields import Added, Head
from .ports import is_open, lease_port
from .processes import Program
from .tap import Kept, Tap, tapping
from .toolchain import (
    GRPC_BIN,
    GRPC_VENV,
    PROGRAMS,
    ensure_grpc_built,
    ensure_node_grpc,
    tool,
)

LENGTH = int(os.environ.get("WAGGLE_TEST_SOAK", "1"))
COUNT = 30 * min(LENGTH, 30)
PATIENCE_S = 60.0
_H2 = PROGRAMS / "http2"
# Say how much time is left of a call, and so another thing each time.
VARYING = ("grpc-timeout",)

Command = Sequence[str | Path]
Fields = tuple[tuple[str, str], ...]
Blocks = tuple[tuple[Fields, ...], int]
"""The header blocks of one stream, and how many bytes of data there were."""


def _grpc(kind: str, calls: str = "one,down,up,both,fail,cancel") -> Callable[[str], Command]:
    def command(address: str) -> Command:
        before = [tool(part) if part == "node" else part for part in IMPLEMENTATIONS[kind].client]
        return [*before, address, str(COUNT), "2", "--first", str(FIRST), "--calls", calls]

    return command


def _h2load(*flags: str) -> Callable[[str], Command]:
    return lambda address: [
        *(tool("h2load"), "-n", str(COUNT * 10), "-c", "2", *flags, f"http://{address}/n/1")
    ]


def _urls(address: str) -> list[str]:
    return [f"http://{address}/n/{number}" for number in range(COUNT)]


def _curl(address: str) -> Command:
    each = "for url; do curl -sS --noproxy '*' --http2-prior-knowledge \"$url\" || exit 1; done"
    return ["sh", "-c", each, "curl", *_urls(address)]


@dataclass(frozen=True)
class Kind:
    """A client, and the server that it is for."""

    server: str
    command: Callable[[str], Command]


KINDS = {
    "grpc-go": Kind("grpc-go", _grpc("grpc-go")),
    "grpcio": Kind("grpc-go", _grpc("grpcio")),
    "grpcio-aio": Kind("grpc-go", _grpc("grpcio-aio")),
    "grpc-js": Kind("grpc-go", _grpc("grpc-js")),
    "h2load": Kind("node", _h2load("-m", "1")),
    "h2load, 8 at once": Kind("node", _h2load("-m", "8")),
    "nghttp": Kind("node", lambda address: [tool("nghttp"), "--null-out", *_urls(address)]),
    "curl": Kind("node", _curl),
    "node": Kind("node", lambda address: [tool("node"), _H2 / "client.js", *_urls(address)]),
    "go": Kind("node", lambda address: [GRPC_BIN / "h2c", f"http://{address}", str(COUNT), "2"]),
}
SLOW = ("grpcio-aio", "grpc-js", "h2load", "nghttp", "curl")


def _choice(names: Sequence[str]) -> list[ParameterSet]:
    return [pytest.param(one, marks=[pytest.mark.slow] if one in SLOW else []) for one in names]


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_grpc_built()


@contextmanager
def _node() -> Iterator[str]:
    lease = lease_port()
    address = f"127.0.0.1:{lease.port}"
    program = Program("server-node", [tool("node"), _H2 / "server.js", address])
    try:
        program.wait_until(lambda: is_open(lease.port), PATIENCE_S)
        yield address
    finally:
        program.stop()
        lease.release()


@pytest.fixture(scope="module")
def servers(built: None) -> Iterator[dict[str, str]]:
    with start_grpc_server("grpc-go") as grpc, _node() as node:
        yield {"grpc-go": grpc.address, "node": node}


@contextmanager
def _at_the_gate(name: str, command: Command) -> Iterator[RunningClient]:
    words = ["sh", "-c", 'echo gate; read line; exec "$@"', name]
    program = Program(f"client-{name.split(',')[0]}", [*words, *command], with_pipes=True)
    try:
        client = RunningClient(name, program, 0, 0)
        client.wait_for_gate()
        yield client
    finally:
        program.stop()


@contextmanager
def _injecting(*pids: int) -> Iterator[Agent]:
    with started_agent("--inject", "always", "--inject-to", "loopback", pids=pids) as agent:
        if "is written into none" in agent.stderr():
            pytest.skip(agent.stderr())
        yield agent


def _headers_told(stderr: str) -> str:
    told = re.search(r"^  headers +(.*(?:\n {13}.*)*)", stderr, re.MULTILINE)
    assert told, stderr
    return " ".join(told[1].split())


# -- What is compared ----------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """What clients asked for on some connections: each stream's header blocks, without our fields,
    and the bytes of its data; in no order."""

    streams: Counter[Blocks]
    added: list[Added]
    requests: int


def _plain(head: Head) -> Fields:
    return tuple((name, "" if name in VARYING else value) for name, value in head.fields)


def said(kept: list[Kept]) -> Said:
    streams: Counter[Blocks] = Counter()
    added: list[Added] = []
    requests = 0
    for one in kept:
        up = bytes(one.up)
        heads, sizes = http2_fields.heads_in(up), http2_fields.data_in(up)
        of: dict[int, list[Head]] = {}
        for head in heads:
            of.setdefault(head.stream, []).append(head)
            requests += head.begins
            if head.added:
                assert head.begins, "a field in trailers"
                added.append(head.added)
        for stream, blocks in of.items():
            streams[tuple(map(_plain, blocks)), sizes.get(stream, 0)] += 1
    return Said(streams, added, requests)


def expect_spans_of(added: list[Added], spans: list[SeenSpan]) -> None:
    """Every field names a client span that was exported, each another one."""
    exported = {(span.trace_id, span.span_id) for span in spans if span.kind == "client"}
    named = {(one.trace_id, one.span_id) for one in added}
    assert len(named) == len(added)
    assert named <= exported
    assert {one.flags & 1 for one in added} <= {1}


def _twice(tap: Tap, kind: Kind, address: str, name: str) -> tuple[Said, Said, list[SeenSpan], str]:
    """What a client says without the agent and with it, the spans, and what the agent says."""
    host, _, port = address.rpartition(":")
    command = kind.command(f"127.0.0.1:{tap.route(host, int(port))}")
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    before = said(tap.take())
    with _at_the_gate(name, command) as client, _injecting(client.pid) as agent:
        client.open_gate()
        client.finish()
        after = said(tap.take())
        agent.settle(after.requests)
        ended = agent.stop()
    return before, after, ended.spans, _headers_told(ended.stderr)


@pytest.mark.parametrize("name", _choice(list(KINDS)))
def test_clients(name: str, servers: dict[str, str]) -> None:
    """Each call succeeds, and is the call that it is without the agent: the same header blocks with
    the same fields in their order, the same data; but for one field of ours, which names the
    client span that is exported."""
    if name == "grpc-js":
        ensure_node_grpc()
    kind = KINDS[name]
    with tapping() as tap:
        before, after, spans, told = _twice(tap, kind, servers[kind.server], name)
    print(f"{name}: {after.requests} requests, {len(after.added)} fields; {told}")
    assert after.streams == before.streams
    assert not before.added
    expect_spans_of(after.added, spans)
    assert after.added


@pytest.mark.parametrize("name", ["grpc-go", "grpcio"])
def test_headers_of_their_own(name: str, servers: dict[str, str]) -> None:
    """A client that sends a `traceparent` of its own with each call is given none: not where it is
    told as a literal, nor where it is an entry of the table."""
    with tapping() as tap:
        host, _, port = servers["grpc-go"].rpartition(":")
        address = f"127.0.0.1:{tap.route(host, int(port))}"
        with (
            start_grpc_client(name, address, COUNT, gate=0, args=["--traceparent"]) as client,
            ExitStack() as stack,
        ):
            client.wait_for_gate()
            agent = stack.enter_context(_injecting(client.pid))
            client.open_gate()
            client.finish()
            asked = said(tap.take())
            told = _headers_told(agent.stop().stderr)
    # A client may tell its own as we tell ours, at the end of its block: then it is taken for one.
    assert all(one.trace_id.startswith("7ace") for one in asked.added)
    own = sum(
        count * str(blocks).count("'traceparent'") for (blocks, _), count in asked.streams.items()
    )
    assert own + len(asked.added) == asked.requests == COUNT
    assert re.search(r"has_one [1-9]", told), told


@contextmanager
def _telling_server() -> Iterator[tuple[Program, str]]:
    """A gRPC server that prints what it is told of each call, and its address."""
    lease = lease_port()
    address = f"127.0.0.1:{lease.port}"
    script = PROGRAMS / "grpc" / "python" / "server_told.py"
    server = Program("server-told", [GRPC_VENV / "bin" / "python", script, address])
    try:
        server.wait_until(lambda: is_open(lease.port), PATIENCE_S)
        yield server, address
    finally:
        server.stop()
        lease.release()


def _told_to(server: Program) -> list[tuple[int, dict[str, str]]]:
    """Number and metadata of each call that came so far."""
    lines = server.log.read_text().split("\n")[:-1]
    told = [json.loads(line) for line in lines if line.startswith("{")]
    return [(one["number"], dict(one["metadata"])) for one in told]


@pytest.mark.parametrize("name", _choice(["grpc-go", "grpcio-aio"]))
def test_a_server_is_told(name: str) -> None:
    """A gRPC server that no agent traces finds the field among a call's metadata: the ids are those
    of the client span that is exported for that very call."""
    with ExitStack() as stack:
        server, address = stack.enter_context(_telling_server())
        client = stack.enter_context(start_grpc_client(name, address, COUNT, gate=0))
        client.wait_for_gate()
        agent = stack.enter_context(_injecting(client.pid))
        client.open_gate()
        client.finish()
        agent.wait_for(lambda spans: len([s for s in spans if s.kind == "client"]) >= COUNT)
        spans = {span.number: span for span in agent.stop().spans if span.kind == "client"}
        told = dict(_told_to(server))
    assert sorted(told) == list(range(FIRST, FIRST + COUNT))
    joined = 0
    for number, metadata in told.items():
        if "traceparent" not in metadata:
            continue
        _, trace_id, span_id, _ = metadata["traceparent"].split("-")
        assert (trace_id, span_id) == (spans[number].trace_id, spans[number].span_id)
        joined += 1
    print(f"{name}: {joined} of {COUNT} calls told the server")
    assert joined


@contextmanager
def _front(next_address: str) -> Iterator[tuple[Program, str]]:
    """A Go program that is asked by HTTP/1 and calls by gRPC, and where it is asked."""
    lease = lease_port()
    address = f"127.0.0.1:{lease.port}"
    command: Command = [GRPC_BIN / "front", "--listen", address, "--next", next_address]
    front = Program("front-grpc", command)
    try:
        front.wait_until(lambda: is_open(lease.port), PATIENCE_S)
        yield front, address
    finally:
        front.stop()
        lease.release()


def _ask(front: str, number: int, state: str) -> None:
    """Call `number`, as part of the trace of that number, with this tracestate."""
    headers = {"traceparent": f"00-{number:032x}-{number:016x}-01", "tracestate": state}
    with closing(HTTPConnection(front, timeout=PATIENCE_S)) as connection:
        connection.request("GET", f"/call/{number}", headers=headers)
        assert connection.getresponse().read() == f"n={number}\n".encode()


def test_a_tracestate_goes_on() -> None:
    """Behind a front that was asked by HTTP/1, a gRPC server that no agent traces finds with the
    ids of each call the tracestate of the very request that the call is part of, as it came."""
    with ExitStack() as stack:
        server, address = stack.enter_context(_telling_server())
        front, place = stack.enter_context(_front(address))
        agent = stack.enter_context(_injecting(front.pid))
        states = {number: f"rojo={number},ot=th:0" for number in range(FIRST, FIRST + COUNT)}
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: _ask(place, number, states[number]), states))
        agent.wait_for(lambda spans: len([s for s in spans if s.kind == "client"]) >= COUNT)
        spans = {span.number: span for span in agent.stop().spans if span.kind == "client"}
        told = dict(_told_to(server))
    assert sorted(told) == sorted(states)
    went_on = 0
    for number, metadata in told.items():
        if "traceparent" not in metadata:
            assert "tracestate" not in metadata
            continue
        _, trace_id, span_id, _ = metadata["traceparent"].split("-")
        assert (trace_id, span_id) == (spans[number].trace_id, spans[number].span_id)
        assert (int(trace_id, 16), metadata["tracestate"]) == (number, states[number])
        went_on += 1
    print(f"{went_on} of {COUNT} calls")
    assert went_on > COUNT // 2


def test_killed() -> None:
    """An agent that is killed in the middle of calls breaks none; after it no call has a field."""
    with ExitStack() as stack:
        server, address = stack.enter_context(_telling_server())
        client = stack.enter_context(
            start_grpc_client("grpc-go", address, 1_000_000, 4, gate=0, args=["--same-size"])
        )
        client.wait_for_gate()
        agent = stack.enter_context(_injecting(client.pid))
        client.open_gate()
        server.wait_until(lambda: len(_told_to(server)) > 200, PATIENCE_S)
        agent.kill()
        at_kill = len(_told_to(server))
        server.wait_until(lambda: len(_told_to(server)) > at_kill + 300, PATIENCE_S)
        client.program.send_signal(signal.SIGINT)  # no further call
        client.finish()
        told = _told_to(server)
    assert any("traceparent" in metadata for _, metadata in told[:at_kill])
    assert not any("traceparent" in metadata for _, metadata in told[-100:])
