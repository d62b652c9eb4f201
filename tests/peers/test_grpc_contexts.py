"""Trace contexts of every format in the headers of real gRPC programs: whoever a call names is its
parent, and what the server calls meanwhile is of that trace."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from .agent import SeenSpan, started_agent
from .grpc_programs import FIRST, IMPLEMENTATIONS, start_grpc_client, start_grpc_server
from .toolchain import ensure_grpc_by

COUNT = 48  # more than any client makes to make code quick, with the same numbers


@dataclass(frozen=True)
class Format:
    """What a client sends, {trace} and {span} made from the number of its call."""

    name: str
    link: str
    fields: Sequence[str]

    def __str__(self) -> str:
        return self.name


FORMATS = (
    Format("b3", "b3", ["b3={trace}-{span}-1"]),
    Format(
        "b3-multi",
        "b3",
        ["x-b3-traceid={trace}", "x-b3-spanid={span}", "x-b3-sampled=1"],
    ),
    Format("jaeger", "jaeger", ["uber-trace-id={trace}:{span}:0:1"]),
    Format("xray", "xray", ["x-amzn-trace-id=Root=1-7ace0000-{trace24};Parent={span};Sampled=1"]),
    Format("binary", "trace_bin", ["grpc-trace-bin=0000{trace}01{span}0201"]),
)
_OTHERS = ("traceparent=00-{trace}-{span}-01", "tracestate=a=1", "baggage=tenant=acme,secret=x")
_CLIENTS = [name for name, how in IMPLEMENTATIONS.items() if how.can_send_metadata]


def ids(number: int | None) -> tuple[str, str]:
    """What call n names."""
    assert number is not None
    return f"7ace{number:028x}", f"5fa0{number:012x}"


def _calls(client: str) -> int:
    """How many it makes: some as often as they make code quick."""
    return COUNT + IMPLEMENTATIONS[client].warm


def _play(
    client: str,
    fields: Sequence[str],
    *options: str,
    environment: dict[str, str] | None = None,
    server: str = "grpc-go",
) -> tuple[list[SeenSpan], list[SeenSpan]]:
    """The spans of the server that the client calls, and of the one that this calls."""
    ensure_grpc_by(client)
    with ExitStack() as stack:
        last = stack.enter_context(start_grpc_server("grpc-go"))
        first = stack.enter_context(start_grpc_server(server, last.address))
        pids = [first.program.pid, last.program.pid]
        agent = stack.enter_context(started_agent(*options, pids=pids, env=environment))
        switches = [part for field in fields for part in ("--metadata", field)]
        with start_grpc_client(
            client, first.address, COUNT, 4, first=FIRST, calls=["relay"], args=switches
        ) as calls:
            calls.finish()
        agent.settle(3 * _calls(client))
        ended = agent.stop()
    assert ended.lost == []
    found = [span for span in ended.spans if span.kind == "server"]
    return tuple([one for one in found if one.pid == pid] for pid in pids)  # type: ignore[return-value]


@pytest.mark.parametrize("wanted", FORMATS, ids=str)
@pytest.mark.parametrize(
    "client",
    [
        pytest.param(name, marks=[pytest.mark.slow] if IMPLEMENTATIONS[name].is_slow else [])
        for name in _CLIENTS
    ],
)
def test_who_is_named_is_the_parent(client: str, wanted: Format) -> None:
    """Every call is a child of the span that it names, at once: what the server calls for it is of
    the same trace, down to the next server."""
    served, below = _play(client, wanted.fields)
    assert {one.number for one in served} == set(range(FIRST, FIRST + COUNT))
    assert len(served) == len(below) == _calls(client)
    for span in served:
        assert (span.trace_id, span.parent_id) == ids(span.number)
        assert span.link == wanted.link
    assert {(one.number, one.trace_id) for one in below} == {
        (one.number, one.trace_id) for one in served
    }


def test_traceparent_before_all_others_but_where_it_is_told() -> None:
    """The order of OTEL_PROPAGATORS holds; a tracestate goes with traceparent alone; of baggage the
    keys that are asked for are shown."""
    fields = ["b3={span}{span}-{span}-1", *_OTHERS]
    asked = "--baggage=tenant"
    served, _ = _play("grpc-go", fields, asked)
    assert {span.link for span in served} == {"traceparent"}
    assert {span.attributes.get("baggage.tenant") for span in served} == {"acme"}
    assert not any("baggage.secret" in span.attributes for span in served)
    served, _ = _play("grpcio", fields, asked, environment={"OTEL_PROPAGATORS": "tracecontext,b3"})
    assert {span.link for span in served} == {"b3"}
    assert all(span.trace_id == 2 * ids(span.number)[1] for span in served)
    served, _ = _play("grpc-go", fields, environment={"OTEL_PROPAGATORS": "jaeger"})
    assert {span.link for span in served} == {None}
    assert not any("baggage.tenant" in span.attributes for span in served)
