"""Trace contexts of other formats: whoever a request names is its parent, and so the ancestor of
every call that is made for it."""

import pytest

from kernel.capturing import (
    THREADED,
    Recording,
    Seen,
    capture_fixture,
    open_connection,
    recording,
    request,
    response,
)
from kernel.test_parents import System, read, respond
from waggle.capture import Capture
from waggle.capture_options import CaptureOptions
from waggle.layout import Flag, Kept, Link
from waggle.propagators import Propagators

capture = capture_fixture()

TRACE, SPAN = "80f198ee56343ba864fe8b2a57d3eff7", "e457b5a2e4d86bd1"
OTHER_TRACE, OTHER_SPAN = "ab" * 16, "cd" * 8
TRACEPARENT = f"traceparent: 00-{OTHER_TRACE}-{OTHER_SPAN}-01"
FORMATS = {
    "b3 in one": (Link.B3, [f"b3: {TRACE}-{SPAN}-1"]),
    "b3 in several": (
        Link.B3,
        [f"X-B3-TraceId: {TRACE}", f"X-B3-SpanId: {SPAN}", "X-B3-Sampled: 1"],
    ),
    "jaeger": (Link.JAEGER, [f"uber-trace-id: {TRACE}:{SPAN}:0:1"]),
    "xray": (
        Link.XRAY,
        [f"X-Amzn-Trace-Id: Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={SPAN};Sampled=1"],
    ),
}


def stranger(recorded: Recording, *fields: str) -> Seen:
    """The server's record of a request whose client nobody traces."""
    server, client = recorded.actor(), recorded.actor(traced=False)
    open_connection(server, client, recorded).exchange(request(1, *fields), response())
    (seen,) = recorded.finish(1)
    return seen


@pytest.mark.parametrize("name", FORMATS)
def test_children_inherit_the_trace(capture: Capture, name: str) -> None:
    """A request with a header of this format is that span's child, and what the server calls
    meanwhile is of the same trace, down to the next server."""
    link, fields = FORMATS[name]
    with recording(capture, THREADED) as recorded:
        system = System(recorded)
        system.client = recorded.actor(traced=False)
        system.arrive("a")
        read(system, 1, "a", fields=fields)
        system.call(1, "up")
        respond(system, "a")
        system.back.close("up")
        assert system.parents() == {1001: 1}
        served = next(one for one in recorded.seen if one.number == 1)
        assert (served.link, served.span.parent_id.hex()) == (link, SPAN)
        assert served.facts.flags & Flag.REMOTE_PARENT
        assert served.facts.trace_flags & 1
        assert {one.span.trace_id.hex() for one in recorded.seen} == {TRACE}
        assert served.span.attributes["waggle.link.method"] == link.name.lower()


@pytest.mark.parametrize("name", FORMATS)
def test_traceparent_is_the_strongest(capture: Capture, name: str) -> None:
    """Where nothing else is asked for, W3C's header wins over every other, and one that is
    broken over none."""
    _, fields = FORMATS[name]
    with recording(capture) as recorded:
        seen = stranger(recorded, *fields, TRACEPARENT)
        assert (seen.link, seen.span.trace_id.hex()) == (Link.TRACEPARENT, OTHER_TRACE)
    with recording(capture) as recorded:
        seen = stranger(recorded, *fields, TRACEPARENT.replace("00-", "ff-", 1))
        assert (seen.link, seen.span.trace_id.hex()) == (FORMATS[name][0], TRACE)


def test_not_sampled(capture: Capture) -> None:
    """Who says no in B3 is believed; who leaves it open is recorded."""
    with recording(capture) as recorded:
        assert stranger(recorded, f"b3: {TRACE}-{SPAN}-0").facts.flags & Flag.UNSAMPLED
    with recording(capture) as recorded:
        assert not stranger(recorded, f"b3: {TRACE}-{SPAN}").facts.flags & Flag.UNSAMPLED


def test_only_what_is_listed_is_read() -> None:
    """With OTEL_PROPAGATORS=b3 a traceparent names nobody, with none nothing does, and the last
    listed wins; baggage is kept only when asked for."""
    baggage = "baggage: tenant=acme"
    for formats, fields, link in (
        (("b3",), [TRACEPARENT], Link.NONE),
        (("b3",), [TRACEPARENT, *FORMATS["b3 in one"][1]], Link.B3),
        (("jaeger", "tracecontext"), [TRACEPARENT, *FORMATS["jaeger"][1]], Link.JAEGER),
        ((), [TRACEPARENT, *FORMATS["xray"][1]], Link.NONE),
    ):
        wants_baggage = "b3" in formats
        options = CaptureOptions(propagators=Propagators(formats), baggage=wants_baggage)
        loaded = Capture.open(options)
        try:
            with recording(loaded) as recorded:
                seen = stranger(recorded, *fields, baggage)
                assert seen.link == link
                assert seen.kept.get(Kept.BAGGAGE) == (b"tenant=acme" if wants_baggage else None)
        finally:
            loaded.close()


def test_a_tracestate_needs_its_traceparent(capture: Capture) -> None:
    """A tracestate is kept beside a valid traceparent, and means nothing without one."""
    for traceparent, state in (
        (TRACEPARENT, "a=1, b=2"),
        (TRACEPARENT.replace("00-", "ff-", 1), ""),
        (FORMATS["jaeger"][1][0], ""),
    ):
        with recording(capture) as recorded:
            seen = stranger(recorded, "tracestate: a=1", traceparent, "tracestate: b=2")
            assert seen.span.trace_state == state
            assert seen.span.attributes["server.address"] == "test"
