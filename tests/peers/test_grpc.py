"""gRPC programs in several languages: sizes on the wire are the truth about which call is which.

A round is one agent beside one server and a list of clients, which wait at their gates until the
agent is ready. Each test looks at one property of what was seen.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from _pytest.mark import ParameterSet

from .agent import Ended, SeenSpan, started_agent
from .grpc_programs import (
    FIRST,
    IMPLEMENTATIONS,
    PARTS,
    start_grpc_client,
    start_grpc_server,
)
from .harness import traceparent_of
from .toolchain import ensure_grpc_built

# Method, messages each way, and statuses that each side may tell, by kind of call.
KINDS: dict[str, tuple[str, int, int]] = {
    "one": ("One", 1, 1),
    "down": ("Down", 1, PARTS),
    "up": ("Up", PARTS, 1),
    "both": ("Both", PARTS, PARTS),
    "fail": ("Fail", 1, 0),
    "cancel": ("Wait", 1, 0),
    "deadline": ("Wait", 1, 0),
}
CALL_NAMES = {
    "one": "unary",
    "down": "server_streaming",
    "up": "client_streaming",
    "both": "bidi_streaming",
}
CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND"),
    *("ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION"),
    *("ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"),
    "UNAUTHENTICATED",
)
SERVER_ERRORS = {
    *("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
}
COUNT = 70  # ten of each kind of call


@dataclass(frozen=True)
class Plan:
    """One round: clients with their concurrency."""

    server: str
    clients: tuple[tuple[str, int], ...]
    old: int = 0  # calls of each client before the agent starts
    traceparent: bool = False
    is_slow: bool = False

    def __str__(self) -> str:
        words = [self.server, *(["old"] if self.old else []), *(["full"] if self.is_slow else [])]
        return "-".join([*words, *(["traceparent"] if self.traceparent else [])])


@dataclass(frozen=True)
class Round:
    """What happened, and what the agent made of it. numbers: of all calls made under it."""

    plan: Plan
    address: str
    server_pid: int
    numbers: tuple[range, ...]
    client_pids: tuple[int, ...]
    ended: Ended

    def wanted(self) -> dict[int, str]:
        """The kind of each call by its number."""
        kinds = list(KINDS)
        return {n: kinds[n % len(kinds)] for part in self.numbers for n in part}

    def of_side(self, kind: str) -> list[SeenSpan]:
        return [span for span in self.ended.spans if span.kind == kind]

    def each(self) -> Iterator[tuple[int, str, SeenSpan, SeenSpan]]:
        """Every number that both sides saw: its kind, the client's span and the server's."""
        clients = {span.number: span for span in self.of_side("client")}
        servers = {span.number: span for span in self.of_side("server")}
        for n, kind in self.wanted().items():
            if n in clients and n in servers:
                yield n, kind, clients[n], servers[n]


def play(plan: Plan) -> Round:
    with ExitStack() as stack:
        server = stack.enter_context(start_grpc_server(plan.server))
        clients = [
            stack.enter_context(
                start_grpc_client(
                    name,
                    server.address,
                    COUNT + plan.old,
                    concurrency,
                    first=FIRST + 100 * i,  # small: a message is one frame, there whole or not
                    calls=list(KINDS),
                    gate=plan.old,
                    args=["--traceparent"] if plan.traceparent else [],
                )
            )
            for i, (name, concurrency) in enumerate(plan.clients)
        ]
        for client in clients:
            client.wait_for_gate()
        pids = [server.program.pid, *(client.pid for client in clients)]
        agent = stack.enter_context(started_agent(pids=pids))
        numbers = []
        for client in clients:
            client.open_gate()
            numbers.append(client.finish().numbers[plan.old :])
        agent.settle(2 * COUNT * len(clients))
        return Round(
            plan,
            server.address,
            server.program.pid,
            tuple(numbers),
            tuple(client.pid for client in clients),
            agent.stop(),
        )


QUICK = [name for name, how in IMPLEMENTATIONS.items() if not how.is_slow]


def _plans() -> list[Plan]:
    short = [
        Plan(server, tuple((client, (1, 8)[(i + turn) % 2]) for i, client in enumerate(QUICK)))
        for turn, server in enumerate(QUICK)
    ]
    short.append(Plan("grpc-go", (("grpc-go", 4), ("grpcio", 1)), traceparent=True))
    full = [
        Plan(
            server,
            tuple((client, width) for client in IMPLEMENTATIONS for width in (1, 8)),
            is_slow=True,
        )
        for server in IMPLEMENTATIONS
    ]
    return short + full


def _old_plans() -> list[Plan]:
    short = [Plan("grpc-go", (("grpc-go", 4),), old=14)]
    full = [
        Plan(server, tuple((client, 4) for client in IMPLEMENTATIONS), old=14, is_slow=True)
        for server in IMPLEMENTATIONS
    ]
    return short + full


def _params(plans: list[Plan]) -> list[ParameterSet]:
    return [
        pytest.param(plan, id=str(plan), marks=[pytest.mark.slow] if plan.is_slow else [])
        for plan in plans
    ]


@pytest.fixture(scope="module", params=_params(_plans()))
def seen(request: pytest.FixtureRequest) -> Round:
    """A round with new connections."""
    plan: Plan = request.param
    ensure_grpc_built(everything=plan.is_slow)
    return play(plan)


@pytest.fixture(scope="module", params=_params(_old_plans()))
def seen_late(request: pytest.FixtureRequest) -> Round:
    """A round with connections that are older than the agent."""
    plan: Plan = request.param
    ensure_grpc_built(everything=plan.is_slow)
    return play(plan)


def test_each_call_is_one_span_a_side(seen: Round) -> None:
    """Each number has exactly one span of the client and one of the server; no span has another
    number; the agent says that it lost nothing."""
    wanted: Counter[int | None] = Counter(list(seen.wanted()))
    for kind in ("client", "server"):
        counts = Counter(span.number for span in seen.of_side(kind))
        assert counts == wanted, (kind, counts - wanted, wanted - counts)
    assert seen.ended.lost == []
    assert seen.ended.code == 0


def test_the_method_names_the_span(seen: Round) -> None:
    """Name, rpc.method and server address are the call's own, by the RPC conventions."""
    host, _, port = seen.address.partition(":")
    for n, kind, client, server in seen.each():
        method = f"peers.Numbers/{KINDS[kind][0]}"
        for span in (client, server):
            assert span.attributes["rpc.system.name"] == "grpc"
            assert span.attributes["server.address"] == host
            assert span.attributes["server.port"] == int(port)
        assert (client.name, client.attributes["rpc.method"]) == (method, method)
        if _code(n, kind) == "UNIMPLEMENTED":
            assert server.name == "grpc"
            assert server.attributes["rpc.method"] == "_OTHER"
            assert server.attributes["rpc.method_original"] == method
        else:
            assert (server.name, server.attributes["rpc.method"]) == (method, method)


def _code(n: int, kind: str) -> str:
    """What the client was told, or made up itself."""
    if kind == "fail":
        return CODES[1 + n % 16]
    return {"cancel": "CANCELLED", "deadline": "DEADLINE_EXCEEDED"}.get(kind, "OK")


def test_the_status_is_what_the_client_got(seen: Round) -> None:
    """rpc.response.status_code, error.type and the status are those of the call; a server that is
    told to give up may know the deadline or not."""
    for n, kind, client, server in seen.each():
        code = client.attributes["rpc.response.status_code"]
        # A server that knows the deadline may cancel the call before the client does.
        assert code == _code(n, kind) or (kind, code) == ("deadline", "CANCELLED"), (n, kind)
        assert client.is_error == (code != "OK")
        assert client.attributes.get("error.type") == (None if code == "OK" else code)
        told = server.attributes["rpc.response.status_code"]
        assert told == _code(n, kind) or (kind, told) == ("deadline", "CANCELLED"), (n, kind)
        assert server.is_error == (told in SERVER_ERRORS)


def test_messages_are_counted(seen: Round) -> None:
    """How many messages went each way, how many bytes, and which kind of call that is."""
    for n, kind, *spans in seen.each():
        _, requests, responses = KINDS[kind]
        for span in spans:
            assert span.attributes["waggle.grpc.request.messages"] == requests
            assert span.attributes["waggle.grpc.response.messages"] == responses
            assert span.attributes["waggle.grpc.request.bytes"] == requests * n
            assert span.attributes.get("waggle.grpc.response.bytes", 0) == responses * n
            assert span.attributes.get("waggle.grpc.call") == CALL_NAMES.get(kind)


def test_the_server_is_the_child_of_the_client(seen: Round) -> None:
    """The parent of each server's span is the client's span of the same number."""
    wrong = [
        (n, server.link, server.parent_id, client.span_id)
        for n, _, client, server in seen.each()
        if (server.parent_id, server.trace_id) != (client.span_id, client.trace_id)
    ]
    assert not wrong, f"{len(wrong)} wrong parents: {wrong[:5]}"


def test_a_client_on_its_own_is_a_root_or_what_it_says(seen: Round) -> None:
    """Without a request being served the client's span has no parent; where the application sent
    a traceparent, it has the application's."""
    for n, _, client, _ in seen.each():
        if seen.plan.traceparent:
            trace_id, span_id = traceparent_of(n)
            assert (client.trace_id, client.parent_id) == (trace_id.hex(), span_id.hex())
        else:
            assert (client.parent_id, client.link) == ("", None)


def test_times_hold_each_other(seen: Round) -> None:
    """The server's span begins after the client's, and before its end where the client waits."""
    for _, kind, client, server in seen.each():
        assert client.start_ns <= server.start_ns <= server.end_ns
        assert server.start_ns <= client.end_ns or kind in ("cancel", "deadline")


def test_old_connections_never_get_a_wrong_name(seen_late: Round) -> None:
    """On connections older than the agent every call has a span a side, but for those under way
    until the first block that says whose connection it is; a method that is told is the right one,
    and what is not known is said to be."""
    wanted = len(seen_late.wanted())
    under_way = sum(2 * width for name, width in seen_late.plan.clients if name != "grpc-go")
    for kind in ("client", "server"):
        spans = seen_late.of_side(kind)
        assert wanted - under_way <= len(spans) <= wanted
        for span in spans:
            method = span.attributes.get("rpc.method")
            if method is None:
                assert span.attributes["waggle.http2.unknown_fields"] > 0
                assert "waggle.http2.name_by" not in span.attributes
                continue
            if method == "_OTHER":
                method = span.attributes["rpc.method_original"]
            number = span.number
            assert number is not None
            assert method == f"peers.Numbers/{KINDS[seen_late.wanted()[number]][0]}"


def test_old_connections_of_go_have_all_names(seen_late: Round) -> None:
    """A call that grpc-go makes or serves has its name by its own memory, and the other end of it
    by that of its peer."""
    clients = {span.span_id: span for span in seen_late.of_side("client")}
    plans = dict(zip(seen_late.client_pids, seen_late.plan.clients, strict=True))
    told = Counter(map(_told_by, (*clients.values(), *seen_late.of_side("server"))))
    assert told["memory"] > 0 or "grpc-go" not in (seen_late.plan.server, *dict(plans.values()))
    for server in seen_late.of_side("server"):
        client = clients.get(server.parent_id)
        made_by_go = client is not None and plans[client.pid][0] == "grpc-go"
        served_by_go = seen_late.plan.server == "grpc-go"
        if served_by_go:
            assert _told_by(server) in ("the wire", "memory")
        elif made_by_go:
            assert _told_by(server) in ("the wire", "peer")
        if client is not None and made_by_go:
            assert _told_by(client) in ("the wire", "memory")
        elif client is not None and served_by_go:
            assert _told_by(client) in ("the wire", "peer")


def _told_by(span: SeenSpan) -> str:
    """Who knows the name."""
    if "rpc.method" not in span.attributes:
        return "nobody"
    return str(span.attributes.get("waggle.http2.name_by", "the wire"))
