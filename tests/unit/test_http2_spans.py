"""Streams as spans: the conventions, and both ways of encoding."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.semconv._incubating.attributes import rpc_attributes

from unit.http2_wire import Fields, Wire, stream
from unit.otlp_messages import expected, received
from unit.records import SECOND, batch
from waggle import layout
from waggle.baggage import BAGGAGE
from waggle.exporter.encoding import OtlpEncoder
from waggle.layout import Block, End, Flag, Http2Flag, Link, Role, Side, ToldAs
from waggle.probes.go.handlers import HANDLERS
from waggle.probes.http2 import grpc
from waggle.probes.http2.quick import want_baggage
from waggle.probes.http2.resolve import Resolver
from waggle.probes.http2.tables import EntryLog, Tables
from waggle.spans import (
    KIND_CLIENT,
    KIND_SERVER,
    Records,
    Span,
    SpanBatch,
    decode_batch,
    decode_span,
)

CALL: Fields = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/shop.v1.Orders/Place"),
    (b":authority", b"shop.test:50051"),
    (b"content-type", b"application/grpc"),
    (b"user-agent", b"grpc-go/1.85.0"),
    (b"te", b"trailers"),
]
ANSWER: Fields = [(b":status", b"200"), (b"content-type", b"application/grpc")]
OK: Fields = [(b"grpc-status", b"0"), (b"grpc-message", b"")]
BODIES = {"request_body": 105, "response_body": 205}
BOTH_BODIES = Flag.REQUEST_BODY | Flag.RESPONSE_BODY


class Events:
    """The ring of table events of some connections."""

    def __init__(self, *wires: Wire) -> None:
        self._wires = wires

    def pending(self) -> int:
        return sum(len(wire.events) for wire in self._wires)

    def read(self, max_records: int = 0) -> Records:
        return np.concatenate([wire.take_events() for wire in self._wires])


def sent(wire: Wire, *blocks: Fields | None) -> dict[Block, Any]:
    """Request, response and trailers, encoded; None is none."""
    sides = (Side.CLIENT, Side.SERVER, Side.SERVER)
    return {
        block: wire.block(side, fields)
        for block, side, fields in zip(Block, sides, blocks, strict=False)
        if fields is not None
    }


def spans_of(records: Records, *wires: Wire, resolver: Resolver | None = None) -> list[Span]:
    made = (resolver or Resolver(Events(*wires))).process(records)
    return [decode_span(batch([part]), i) for part in made for i in range(len(part))]


def span(
    *blocks: Fields | None,
    messages: Sequence[int] = (1, 1),
    columns: dict[str, Any] | None = None,
    **facts: Any,
) -> Span:
    """The span of one stream on a connection of its own."""
    wire = Wire()
    values = {"flags": BOTH_BODIES, "link": Link.NONE, "status": 0, **BODIES, **facts}
    columns = {"messages": messages, **(columns or {})}
    (made,) = spans_of(stream(wire, sent(wire, *blocks), columns=columns, **values), wire)
    return made


def test_a_call_has_what_the_conventions_want() -> None:
    """A unary call at the server: exactly these attributes, and no error."""
    made = span(CALL, ANSWER, OK)
    assert (made.name, made.kind, made.error) == ("shop.v1.Orders/Place", KIND_SERVER, False)
    assert made.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": "shop.v1.Orders/Place",
        "rpc.response.status_code": "OK",
        "server.address": "shop.test",
        "server.port": 50051,
        "client.address": "10.0.0.2",
        "network.peer.address": "10.0.0.2",
        "network.peer.port": 41234,
        "waggle.grpc.call": "unary",
        "waggle.grpc.request.messages": 1,
        "waggle.grpc.response.messages": 1,
        "waggle.grpc.request.bytes": 100,
        "waggle.grpc.response.bytes": 200,
    }


@pytest.fixture
def asked_for_baggage() -> Iterator[None]:
    """Settings that name all keys of it."""
    BAGGAGE.patterns = ("*",)
    want_baggage(True)
    yield
    want_baggage(False)
    BAGGAGE.patterns = ()


@pytest.mark.usefixtures("asked_for_baggage")
def test_baggage_that_is_asked_for() -> None:
    """Each member is an attribute, of all fields of that name; of too many those that fit whole."""
    request = [*CALL, (b"baggage", b"tenant=acme,tier=a%20b"), (b"baggage", b"user=7")]
    found = span(request, ANSWER, OK).attributes
    baggage = {name: value for name, value in found.items() if name.startswith("baggage.")}
    assert baggage == {"baggage.tenant": "acme", "baggage.tier": "a b", "baggage.user": "7"}
    for size in (1008, 1009, 1010, 1011, 1500):
        wire, long = Wire(), [*CALL, (b"baggage", b"tenant=acme," + b"x=" + b"y" * size)]
        (made,) = spans_of(stream(wire, sent(wire, long, ANSWER, OK), large=True), wire)
        assert made.attributes["baggage.tenant"] == "acme"
        assert ("baggage.x" in made.attributes) == (14 + size <= 1023)


def test_baggage_is_nobodys_unless_asked_for() -> None:
    """Without the setting not even the bytes are kept."""
    wire = Wire()
    request = [*CALL, (b"baggage", b"tenant=acme")]
    (made,) = Resolver(Events(wire)).process(stream(wire, sent(wire, request, ANSWER, OK)))
    assert b"acme" not in made["head"].tobytes()


def test_a_tracestate_needs_its_traceparent() -> None:
    """Where the kernel says that there is none, also no tracestate is told."""
    request = [*CALL, (b"tracestate", b"a=1")]
    columns = {"flags": Http2Flag.NO_TRACESTATE}
    assert span(request, ANSWER, OK, columns=columns).trace_state == ""
    assert span(request, ANSWER, OK).trace_state == "a=1"


def test_the_names_are_current_ones() -> None:
    """Every rpc name is in the published package, and none of them is deprecated there."""
    made = span([*CALL, (b"grpc-timeout", b"5S")], ANSWER, OK)
    names = {name for name in made.attributes if name.startswith("rpc.")}
    prefix = rpc_attributes.RPC_REQUEST_METADATA_TEMPLATE
    assert names == {
        rpc_attributes.RPC_SYSTEM_NAME,
        rpc_attributes.RPC_METHOD,
        rpc_attributes.RPC_RESPONSE_STATUS_CODE,
        f"{prefix}.grpc-timeout",
    }
    values = rpc_attributes.RpcSystemNameValues
    assert made.attributes["rpc.system.name"] == values.GRPC.value
    assert made.attributes[f"{prefix}.grpc-timeout"] == ["5S"]


@pytest.mark.parametrize("role", [Role.SERVER, Role.CLIENT])
@pytest.mark.parametrize("code", range(18))
def test_which_codes_are_errors(role: Role, code: int) -> None:
    """Every code but OK at a client; at a server those that are its own fault."""
    trailers = [(b"grpc-status", b"%d" % code), (b"grpc-message", b"100%25 caf%C3%A9")]
    made = span(CALL, ANSWER, trailers, role=role)
    name = grpc.STATUS_NAMES[code] if code < 17 else "17"
    assert made.attributes["rpc.response.status_code"] == name
    assert made.error == (code != 0 if role == Role.CLIENT else code in (2, 4, 12, 13, 14, 15))
    assert made.attributes.get("error.type") == (name if made.error else None)
    assert made.status_message == ("100% café" if made.error else "")
    assert made.kind == (KIND_CLIENT if role == Role.CLIENT else KIND_SERVER)


def test_trailers_only() -> None:
    """An answer that is one block with END_STREAM has its status there."""
    made = span(CALL, [*ANSWER, (b"grpc-status", b"5"), (b"grpc-message", b"no")], role=Role.CLIENT)
    assert made.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert (made.error, made.status_message) == (True, "no")


def test_an_unknown_method_does_not_name_spans() -> None:
    """What a server does not implement is _OTHER there, and the client's own at the client."""
    trailers = [(b"grpc-status", b"12")]
    server, client = (
        span(CALL, ANSWER, trailers, role=role) for role in (Role.SERVER, Role.CLIENT)
    )
    assert (server.name, server.attributes["rpc.method"]) == ("grpc", "_OTHER")
    assert server.attributes["rpc.method_original"] == "shop.v1.Orders/Place"
    assert client.name == client.attributes["rpc.method"] == "shop.v1.Orders/Place"


@pytest.mark.parametrize(
    ("end", "error", "timeout", "code", "by"),
    [
        (End.STREAM_CANCELLED, 8, None, "CANCELLED", "reset"),
        (End.STREAM_CANCELLED, 8, b"1S", "DEADLINE_EXCEEDED", "deadline"),
        (End.STREAM_CANCELLED, 8, b"3S", "CANCELLED", "reset"),
        (End.STREAM_RESET, 7, None, "UNAVAILABLE", "reset"),
        (End.STREAM_RESET, 11, None, "RESOURCE_EXHAUSTED", "reset"),
        (End.STREAM_RESET, 2, None, "INTERNAL", "reset"),
        (End.STREAM_RESET, 99, None, "INTERNAL", "reset"),
        (End.GOAWAY, 0, None, "UNAVAILABLE", "connection"),
        (End.RESET, 0, None, "UNAVAILABLE", "connection"),
        (End.LOCAL_CLOSED, 0, b"3S", "CANCELLED", "connection"),
        (End.PEER_CLOSED, 0, b"3S", "UNAVAILABLE", "connection"),
        (End.LOCAL_CLOSED, 0, b"1S", "DEADLINE_EXCEEDED", "deadline"),
        (End.PEER_CLOSED, 0, b"1S", "DEADLINE_EXCEEDED", "deadline"),
    ],
)
def test_calls_that_got_no_status(
    end: End, error: int, timeout: bytes | None, code: str, by: str
) -> None:
    """What a client's library makes of a call that was broken off, and how we know."""
    request = [*CALL, (b"grpc-timeout", timeout)] if timeout else CALL
    made = span(
        request,
        role=Role.CLIENT,
        messages=(1, 0),
        end=end,
        columns={"error": error},
        start_ns=5 * SECOND,
        end_ns=7 * SECOND,
    )
    assert made.attributes["rpc.response.status_code"] == code
    assert made.attributes["waggle.grpc.status_by"] == by
    assert made.error
    assert made.attributes["error.type"] == code
    assert made.status_message


def test_a_proxy_that_answers_in_http() -> None:
    """No grpc-status but a status of HTTP: the code that gRPC's clients make of it."""
    made = span(CALL, [(b":status", b"503")], role=Role.CLIENT, messages=(1, 0))
    assert made.attributes["rpc.response.status_code"] == "UNAVAILABLE"
    assert made.attributes["waggle.grpc.status_by"] == "http status"


@pytest.mark.parametrize(
    ("messages", "kind"),
    [((1, 3), "server_streaming"), ((3, 1), "client_streaming"), ((2, 2), "bidi_streaming")],
)
def test_streams_tell_their_messages(messages: tuple[int, int], kind: str) -> None:
    """Kind of call, counts, bytes without prefixes, and first and last messages as events."""
    times = {"first_message_ns": (6 * SECOND, 7 * SECOND), "last_message_ns": (8 * SECOND,) * 2}
    made = span(CALL, ANSWER, OK, messages=messages, columns=times)
    assert made.attributes["waggle.grpc.call"] == kind
    assert made.attributes["waggle.grpc.request.bytes"] == 105 - 5 * messages[0]
    names = [event.name.removeprefix("waggle.grpc.") for event in made.events]
    wanted = ["request.first_message", "response.first_message"]
    wanted += ["request.last_message"] if messages[0] > 1 else []
    wanted += ["response.last_message"] if messages[1] > 1 else []
    assert names == wanted
    assert made.events[0].unix_ns == made.start_unix_ns + SECOND


def test_plain_http_is_http() -> None:
    """A stream that is no call has the attributes of HTTP/1, with version 2."""
    request = [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/items/7?page=2&token=x"),
        (b":authority", b"shop.test"),
        (b"user-agent", b"curl/8"),
    ]
    server = span(request, [(b":status", b"503")], messages=(0, 0), flags=0)
    assert (server.name, server.error) == ("GET", True)
    assert server.attributes["network.protocol.version"] == "2"
    assert server.attributes["url.scheme"] == "https"
    assert server.attributes["url.query"] == "page=2&token=REDACTED"
    assert server.attributes["server.port"] == 443
    assert server.attributes["http.response.status_code"] == 503
    client = span(request, [(b":status", b"200")], messages=(0, 0), role=Role.CLIENT)
    assert client.attributes["url.full"] == "https://shop.test/items/7?page=2&token=REDACTED"


def test_a_route_names_a_stream() -> None:
    """Whatever its blocks say, each stream has its own; a gRPC call's name is its method."""
    request = [(b":method", b"GET"), (b":path", b"/items/7"), (b":authority", b"shop.test")]
    wire = Wire()
    blocks = sent(wire, request, [(b":status", b"200")])
    routes = (b"GET /items/{id}", b"", b"/items/:id")
    rows = [stream(wire, blocks, number=1 + 2 * i, route=one) for i, one in enumerate(routes)]
    call = stream(wire, sent(wire, CALL, [(b":status", b"200")]), number=9, route=b"/shop/")
    (part,) = Resolver(Events(wire)).process(np.concatenate([*rows, call]))
    made = [decode_span(batch([part]), i) for i in range(4)]
    assert [one.attributes.get("http.route") for one in made] == [
        *("/items/{id}", None, "/items/:id", None)
    ]
    names = [one.name for one in made]
    assert names == ["GET /items/{id}", "GET", "GET /items/:id", "shop.v1.Orders/Place"]


def test_a_stream_tells_who_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number behind the route stands for the handler, and is no part of the route."""
    monkeypatch.setattr(HANDLERS, "name", {7 << 48 | 0x1000: "main.items"}.__getitem__)
    request = [(b":method", b"GET"), (b":path", b"/items/7"), (b":authority", b"shop.test")]
    wire = Wire()
    number = (7 << 48 | 0x1000).to_bytes(8, "little")
    row = stream(
        wire,
        sent(wire, request, [(b":status", b"200")]),
        route=b"/items/:id" + number,
        columns={"flags": Http2Flag.HANDLER},
    )
    (part,) = Resolver(Events(wire)).process(row)
    made = decode_span(batch([part]), 0)
    assert made.attributes["http.route"] == "/items/:id"
    assert made.attributes["code.function.name"] == "main.items"


@pytest.mark.parametrize(
    ("content_type", "system"),
    [(b"application/grpc-web+proto", "grpc"), (b"application/connect+json", "connectrpc")],
)
def test_calls_that_are_plain_http(content_type: bytes, system: str) -> None:
    """gRPC-Web and Connect: HTTP's attributes, and the method."""
    request = [field for field in CALL if field[0] != b"content-type"]
    made = span([*request, (b"content-type", content_type)], [(b":status", b"200")])
    assert made.name == made.attributes["rpc.method"] == "shop.v1.Orders/Place"
    assert made.attributes["rpc.system.name"] == system
    assert made.attributes["http.response.status_code"] == 200


def test_interim_responses_are_not_the_answer() -> None:
    """A block kept as the response that was 1xx: the trailers are the response."""
    made = span(CALL, [(b":status", b"103")], [(b":status", b"200"), (b"grpc-status", b"0")])
    assert made.attributes["rpc.response.status_code"] == "OK"


def test_a_connection_older_than_the_agent_has_no_wrong_names() -> None:
    """Entries that nobody saw are said to be unknown: no path, no method, and no guess."""
    wire = Wire()
    sent(wire, CALL, ANSWER, OK)
    wire.take_events()
    wire.inserted = dict.fromkeys(Side, 0)
    record = stream(
        wire, sent(wire, CALL, ANSWER, OK), columns={"flags": Http2Flag.RESYNCED}, flags=0
    )
    (made,) = spans_of(record, wire)
    assert made.name == "POST"  # in the static table
    assert "url.path" not in made.attributes
    assert "rpc.method" not in made.attributes
    assert made.attributes["waggle.http2.unknown_fields"] == 5 + 1 + 2


def told(path: bytes, how: int = ToldAs.CALL, method: bytes = b"", path_length: int = 0) -> bytes:
    """A name as the kernel leaves it."""
    row = np.zeros(1, layout.TOLD)
    row["as"], row["method_length"], row["length"] = how, len(method), len(path)
    row["path_length"] = path_length
    row["method"][0, : len(method)] = np.frombuffer(method, np.uint8)
    return row.tobytes() + path


def old_stream(name: bytes, *, fields: Fields = CALL, number: int = 1, **facts: Any) -> Any:
    """A stream on a connection that had sent the same before the agent came."""
    wire = Wire(connection=number)
    sent(wire, fields, ANSWER, OK)
    wire.take_events()
    wire.inserted = dict.fromkeys(Side, 0)
    blocks = sent(wire, fields, ANSWER, OK)
    columns = {"flags": Http2Flag.RESYNCED, "messages": (1, 1)}
    return wire, stream(wire, blocks, columns=columns, told=name, **facts)


def test_a_name_out_of_memory_is_told_as_such() -> None:
    """What the wire does not say the program's memory may: the method of a call, which makes it
    one, or the path of a request; and the span says so."""
    wire, record = old_stream(told(b"/shop.v1.Orders/Place"))
    (made,) = spans_of(record, wire)
    assert made.name == made.attributes["rpc.method"] == "shop.v1.Orders/Place"
    assert made.attributes["waggle.http2.name_by"] == "memory"
    wire, record = old_stream(told(b"/a%20b?c=1", ToldAs.REQUEST, b"PATCH"))
    (made,) = spans_of(record, wire)
    assert (made.attributes["url.path"], made.attributes["url.query"]) == ("/a%20b", "c=1")
    assert made.attributes["http.request.method"] == "POST"  # as the wire has it
    assert made.attributes["waggle.http2.name_by"] == "memory"
    wire, record = old_stream(told(b"/shop/7?c=1", ToldAs.URL, b"", 7), role=Role.CLIENT)
    (made,) = spans_of(record, wire)
    assert str(made.attributes["url.full"]).endswith("/shop/7?c=1")
    wire, record = old_stream(told(b"/shop.v1.Orders/Place", ToldAs.CALL | ToldAs.PEERS))
    (made,) = spans_of(record, wire)
    assert made.name == "shop.v1.Orders/Place"
    assert made.attributes["waggle.http2.name_by"] == "peer"


@pytest.mark.parametrize(
    "name",
    [
        told(b"no path"),
        told(b"/a b"),
        told(b"/caf\xc3\xa9"),
        told(b"/a b", ToldAs.URL, path_length=4),  # would be sent as /a%20b
        told(b"/a?b", ToldAs.URL, path_length=4),  # and this as /a%3Fb
        told(b"/a#b=1", ToldAs.URL, path_length=2),
        told(b"", ToldAs.URL),
        b"\1",
    ],
)
def test_what_may_not_be_what_was_sent_is_no_name(name: bytes) -> None:
    """Texts that are no path, and those that net/http would send in another form."""
    wire, record = old_stream(name)
    (made,) = spans_of(record, wire)
    assert "url.path" not in made.attributes
    assert "waggle.http2.name_by" not in made.attributes


def test_a_memory_that_was_wrong_is_believed_no_more() -> None:
    """The wire's path counts; a process whose memory says another has no names from then on,
    while others still have."""
    resolver = Resolver(Events())
    name = told(b"/shop.v1.Orders/Place")

    def named(tgid: int, number: int) -> str:
        _, record = old_stream(name, number=number, tgid=tgid)
        return spans_of(record, resolver=resolver)[0].name

    assert named(1, 1) == "shop.v1.Orders/Place"
    wire = Wire(connection=2)
    request = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/else/Where")]
    record = stream(wire, sent(wire, request, ANSWER), told=name, tgid=1)
    (made,) = spans_of(record, wire, resolver=resolver)
    assert made.attributes["rpc.method"] == "else/Where"
    assert "waggle.http2.name_by" not in made.attributes
    assert resolver.stats.untrue_names == 1
    assert [named(1, 1), named(1, 3), named(2, 4)] == ["POST", "POST", "shop.v1.Orders/Place"]


def test_an_upgraded_request() -> None:
    """Stream 1 of an Upgrade: h2c has the target of its HTTP/1 request."""
    wire = Wire()
    record = stream(
        wire,
        {Block.RESPONSE: wire.block(Side.SERVER, [(b":status", b"200")])},
        columns={"flags": Http2Flag.UPGRADED},
        method=layout.Method.GET,
    )
    head = b"/upgraded"
    start = layout.HTTP2.itemsize
    blocks = record["head"][0, start:].copy()
    record["head"][0, start : start + len(head)] = np.frombuffer(head, np.uint8)
    record["head"][0, start + len(head) :] = blocks[: -len(head)]
    offsets = np.ndarray((1,), layout.HTTP2, record.view(np.uint8), 160)
    offsets["block_offset"][0, Block.RESPONSE] += len(head)
    record["target_len"] = len(head)
    (made,) = spans_of(record, wire)
    assert made.attributes["url.path"] == "/upgraded"
    assert made.attributes["http.response.status_code"] == 200


def test_a_warm_connection_costs_no_decoding() -> None:
    """Calls that repeat each other's bytes are decoded once, however many there are."""
    wire = Wire()
    resolver = Resolver(Events(wire))
    records = np.concatenate([stream(wire, sent(wire, CALL, ANSWER, OK)) for _ in range(50)])
    resolver.process(records[:10])
    before = resolver.stats.decoded
    resolver.process(records[10:])
    assert before <= 3  # before, with and after insertions of either side
    assert resolver.stats.decoded == before


def test_other_records_pass_unchanged() -> None:
    """A batch with HTTP/1 in it keeps those records as they are."""
    from unit.records import record

    wire = Wire()
    mixed = np.concatenate([record(b"/a"), stream(wire, sent(wire, CALL, ANSWER, OK)), record()])
    first, *others = Resolver(Events(wire)).process(mixed)
    assert first.tobytes() == mixed[[0, 2]].tobytes()
    assert [len(part) for part in others] == [1]


def test_long_heads_leave_in_large_records() -> None:
    """What does not fit an ordinary record's head goes into a large one, whole."""
    path = b"/" + b"x" * 1500
    fields = [(b":method", b"GET"), (b":path", path), (b":authority", b"a.test")]
    wire = Wire()
    records = stream(wire, sent(wire, fields, [(b":status", b"200")]), large=True)
    (part,) = Resolver(Events(wire)).process(records)
    assert part["ring_length"].tolist() == [layout.LARGE_EXCHANGE.itemsize - 8]
    assert decode_span(batch([part]), 0).attributes["url.path"] == path.decode()


VALUES = st.sampled_from([b"0", b"5", b"12", b"14", b"x", b""])
TIMEOUTS = st.sampled_from([b"1S", b"20m", b"99999999n", b"999us", b"oops", b"1H"])
PATHS = st.sampled_from([b"/a.B/C", b"/a.B/Longer", b"/n/1", b"/n/2?q=1", b"*", b"", b"\xff/\x80"])
TYPES = st.sampled_from([b"application/grpc", b"application/grpc+proto", b"text/html", b""])


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Fields | None], dict[str, Any], dict[str, Any]]:
    """Blocks, columns of the stream, facts of the record."""
    request: Fields = [
        (b":method", draw(st.sampled_from([b"POST", b"GET", b"BREW", b"CONNECT"]))),
        (b":path", draw(PATHS)),
        (b":scheme", draw(st.sampled_from([b"http", b"https"]))),
        (b":authority", draw(st.sampled_from([b"a.test:1", b"[::1]:2", b"", b"u:p@x"]))),
        (b"content-type", draw(TYPES)),
    ]
    if draw(st.booleans()):
        request = [*request, (b"grpc-timeout", draw(TIMEOUTS))]
    if draw(st.booleans()):
        request = [*request, (b"x-forwarded-for", draw(st.sampled_from([b"192.0.2.1", b"?"])))]
        request = [*request, (b"tracestate", draw(st.sampled_from([b"a=1", b"b=22", b"\xe9"])))]
    response: Fields | None = [(b":status", draw(st.sampled_from([b"200", b"404", b"x"])))]
    trailers: Fields | None = [(b"grpc-status", draw(VALUES)), (b"grpc-message", draw(VALUES))]
    if draw(st.booleans()):
        trailers = None
    if draw(st.integers(0, 4)) == 0:
        response = None
    columns = {
        "messages": draw(st.sampled_from([(1, 1), (0, 0), (1, 3), (2, 0)])),
        "error": draw(st.sampled_from([0, 7, 8, 200])),
        "first_message_ns": (draw(st.integers(0, SECOND)), 5),
        "last_message_ns": (draw(st.integers(0, SECOND)), 6),
        "flags": draw(st.sampled_from([0, Http2Flag.NOT_GRPC])),
        "stream": draw(st.integers(1, 99)),
    }
    facts = {
        "role": draw(st.sampled_from([Role.SERVER, Role.CLIENT])),
        "end": draw(st.sampled_from(list(End))),
        "flags": draw(st.sampled_from([0, BOTH_BODIES])),
        "start_ns": draw(st.integers(1, SECOND)),
        "end_ns": draw(st.integers(1, 3 * SECOND)),
        "request_body": draw(st.integers(0, 50)),
        "response_body": draw(st.integers(0, 50)),
        "peer_port": draw(st.integers(1, 65535)),
    }
    return [request, response, trailers], columns, facts


@settings(max_examples=60, deadline=None)
@given(st.lists(streams(), min_size=1, max_size=12), st.integers(1, 4))
def test_both_ways_of_encoding_are_equal(made: list[Any], times: int) -> None:
    """Whatever streams come, columns and the slow path give the same spans."""
    wire = Wire()
    resolver = Resolver(Events(wire))
    encoder = OtlpEncoder(min_rows=1)
    for _ in range(times):  # templates come with repetition
        records = np.concatenate(
            [
                stream(wire, sent(wire, *blocks), columns=columns, **facts)
                for blocks, columns, facts in made
                for _ in range(3)
            ]
        )
        for part in resolver.process(records):
            whole: SpanBatch = batch([part])
            messages = [
                trace_pb2.TracesData.FromString(request.payload)
                for request in encoder.encode(whole)
            ]
            assert received(messages) == expected(whole)


def test_calls_with_deadlines_share_a_template() -> None:
    """Timeouts that differ from call to call do not keep spans from the columns."""
    wire = Wire()
    resolver = Resolver(Events(wire))
    encoder = OtlpEncoder()
    records = np.concatenate(
        [
            stream(wire, sent(wire, [*CALL, (b"grpc-timeout", b"%du" % n)], ANSWER, OK))
            for n in range(900_000, 900_100)
        ]
    )
    (part,) = resolver.process(records)
    encoder.encode(batch([part]))
    encoder.encode(batch([part]))
    assert encoder.stats().built == 1
    assert encoder.stats().hits >= 100


@settings(max_examples=100, deadline=None)
@given(st.lists(streams(), min_size=1, max_size=12), st.randoms())
def test_the_quick_way_reads_what_the_other_does(made: list[Any], random: Any) -> None:
    """Blocks of a connection give the same heads, whatever was read before and whether they are
    of the ordinary kind or not."""
    wire = Wire()
    records = [
        stream(wire, sent(wire, *blocks), columns=columns, **facts)
        for blocks, columns, facts in made
    ]
    tables = Tables()
    tables.add(wire.take_events())
    slow = Resolver(tables=tables)
    random.shuffle(records)
    quick = Resolver(tables=tables)
    for record in records:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(EntryLog, "known", lambda *_: None)
            wanted = [part.tobytes() for part in slow.process(record)]
        assert [part.tobytes() for part in quick.process(record)] == wanted
    assert quick.stats.decoded <= slow.stats.decoded


def test_deadlines_and_trace_ids_cost_no_decoding() -> None:
    """Calls that insert another deadline and another traceparent each say nothing new, however
    the indexes of everything else move and whenever it is inserted again."""
    wire = Wire()
    resolver = Resolver(Events(wire))
    records = []
    for n in range(400):
        varied = [(b"grpc-timeout", b"%du" % (900_000 + n)), (b"traceparent", b"00-%055d" % n)]
        records.append(stream(wire, sent(wire, [*CALL, *varied], ANSWER, OK)))
    (part,) = resolver.process(np.concatenate(records))
    assert resolver.stats.decoded == 1
    timeouts = [
        span.attributes["rpc.request.metadata.grpc-timeout"] for span in decode_batch(batch([part]))
    ]
    assert timeouts == [[f"{900_000 + n}u"] for n in range(400)]
