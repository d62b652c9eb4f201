"""Whose request is an outgoing call part of: rule by rule, on real servers that call others.

Request n makes the server call /n/<n> elsewhere, so the numbers tell the true parent of each call.
A wrong parent is worse than none, so `wrong` is 0 everywhere.
"""

from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from .agent import Ended, SeenSpan, started_agent
from .harness import (
    Family,
    Server,
    ensure_built,
    run_client,
    start_client,
    start_server,
    traceparent_of,
)

# Callers for which no rule is demanded to hold: wrong parents are not allowed.
UNRULED = (
    "go-nethttp",
    "go-gin",
    "fastapi-uvicorn-asyncio",
    "fastapi-uvicorn-uvloop",
    "aiohttp",
    "node-http",
    "java-httpserver",
)
Spans = dict[int | None, SeenSpan]


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_built()


@dataclass(frozen=True)
class Load:
    """What is asked of the caller. `query` is what follows in the target after the number."""

    count: int
    concurrency: int
    path: str = "/call/{}?url=@called@/n/{}"
    traceparent: bool = False


@dataclass(frozen=True)
class Calls:
    """A run: number -> span of each place a request passes."""

    served: Spans
    calling: Spans
    called: Spans
    asking: Spans
    ended: Ended

    def verdicts(self) -> Counter[str]:
        """How many calls have the right parent, a wrong one, or none."""
        return Counter(_verdict(call, self.served[number]) for number, call in self.calling.items())

    def links(self) -> Counter[str | None]:
        return Counter(call.link for call in self.calling.values())


def _verdict(call: SeenSpan, request: SeenSpan) -> str:
    if not call.parent_id:
        return "none"
    same = (call.parent_id, call.trace_id) == (request.span_id, request.trace_id)
    return "right" if same else "wrong"


def watch(caller: str, load: Load, *, workers: int = 1, keepalive: bool = True) -> Calls:
    """Runs the load against a caller beside the agent; fails where a span is missing, doubled, or
    where the called server's span is not the child of the call."""
    with ExitStack() as stack:
        called = stack.enter_context(start_server("go-nethttp"))
        server = stack.enter_context(
            start_server(
                caller,
                workers=workers,
                upstream=called.base_url,
                upstream_keepalive=keepalive,
            )
        )
        client = stack.enter_context(
            start_client(
                "go",
                server.base_url,
                load.count,
                load.concurrency,
                path=load.path.replace("@called@", called.base_url),
                traceparent=load.traceparent,
                gate=0,
            )
        )
        client.wait_for_gate()
        pids = [called.pid, server.pid, client.pid]
        agent = stack.enter_context(started_agent(pids=pids))
        client.open_gate()
        client.finish()
        agent.settle(4 * load.count, timeout_s=60)
        calls = _sorted_out(agent.stop(), server, called, client.pid)
    _check_complete(calls, load.count)
    return calls


def _sorted_out(ended: Ended, server: Server, called: Server, client_pid: int) -> Calls:
    own, other = set(server.pids()), {called.pid}

    def of(pids: Iterable[int], kind: str) -> Spans:
        found = [s for s in ended.spans if s.pid in pids and s.kind == kind]
        by_number: Spans = {span.number: span for span in found}
        assert len(by_number) == len(found), "a number has two spans in one place"
        return by_number

    return Calls(
        of(own, "server"), of(own, "client"), of(other, "server"), of({client_pid}, "client"), ended
    )


def _check_complete(calls: Calls, count: int) -> None:
    numbers = set(range(1, count + 1))
    for spans in (calls.asking, calls.served, calls.calling, calls.called):
        assert spans.keys() == numbers
    assert calls.ended.lost == []
    for number in numbers:
        assert calls.served[number].parent_id == calls.asking[number].span_id
        assert calls.called[number].parent_id == calls.calling[number].span_id
        assert calls.called[number].link == "socket"


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize(
    ("caller", "workers"), [("flask-gunicorn-sync", 3), ("flask-gunicorn-gthread", 1)]
)
def test_threads_that_serve_one_request_at_a_time(
    caller: str, workers: int, concurrency: int
) -> None:
    """Every call is the child of the request that its thread serves: 1,000 of 1,000."""
    calls = watch(caller, Load(1000, concurrency), workers=workers)
    assert calls.verdicts() == {"right": 1000}
    assert calls.links() == {"thread": 1000}


@pytest.mark.parametrize("keepalive", [True, False], ids=["keepalive", "new-connections"])
def test_an_event_loop_proves_the_turn(keepalive: bool) -> None:
    """nginx as a proxy: until its responses have proven the rule, some calls have no parent; at
    least 98 % have the right one, none a wrong one. A header that the client was given, and nginx
    passes on, may tell first."""
    calls = watch("nginx-proxy", Load(5000, 32, "/n/{}"), keepalive=keepalive)
    verdicts = calls.verdicts()
    assert verdicts["wrong"] == 0
    assert verdicts["right"] >= 4900, verdicts
    assert calls.links().keys() <= {"turn", "forwarded", None}


def test_an_event_loop_with_one_request_needs_no_proof() -> None:
    """nginx with one request at a time: from the first on, every call has the right parent."""
    calls = watch("nginx-proxy", Load(200, 1, "/n/{}"))
    assert calls.verdicts() == {"right": 200}


@pytest.mark.parametrize("caller", UNRULED)
def test_no_wrong_parent_where_no_rule_holds(caller: str) -> None:
    """Goroutines, coroutines, callbacks and pools: a parent is the right one or there is none."""
    calls = watch(caller, Load(200, 8))
    verdicts = calls.verdicts()
    print(f"{caller}: {dict(verdicts)}")
    assert verdicts["wrong"] == 0, (verdicts, calls.links())


def test_no_wrong_parent_in_a_thread_pool_under_a_loop() -> None:
    """A FastAPI endpoint that is no coroutine calls from a thread that read no request."""
    load = Load(300, 8, "/call-sync/{}?url=@called@/n/{}")
    verdicts = watch("fastapi-uvicorn-asyncio", load).verdicts()
    assert verdicts["wrong"] == 0, verdicts


@pytest.mark.slow
@pytest.mark.parametrize("caller", [*UNRULED, "flask-gunicorn-gthread"])
@pytest.mark.parametrize("concurrency", [1, 32])
def test_no_wrong_parent_under_load(caller: str, concurrency: int) -> None:
    """The same with thousands of requests, and with more at once than there are threads."""
    # Alone, Java's server takes 40 ms for each answer on a kept connection.
    calls = watch(caller, Load(3000 if concurrency > 1 else 500, concurrency))
    assert calls.verdicts()["wrong"] == 0, (calls.verdicts(), calls.links())


@pytest.mark.parametrize(
    "caller", ["flask-gunicorn-sync", "flask-gunicorn-gthread", "go-nethttp", "node-http"]
)
def test_a_copied_traceparent_is_no_span_of_its_own(caller: str) -> None:
    """An application that sends on the traceparent it got: all spans are in that trace; the call
    is the child of our request, and the called server of our call, not of the header's span."""
    path = "/call/{}?url=@called@/n/{}&forward=1"
    calls = watch(caller, Load(100, 4, path, traceparent=True))
    for number, call in calls.calling.items():
        assert number is not None
        trace_id, span_id = (one.hex() for one in traceparent_of(number))
        places = (calls.asking, calls.served, calls.calling, calls.called)
        assert {spans[number].trace_id for spans in places} == {trace_id}
        assert calls.asking[number].parent_id == span_id
        ruled = call.link in ("thread", "goroutine", "turn", "forwarded")
        expected = calls.served[number].span_id if ruled else span_id
        assert (call.parent_id, call.link) == (expected, call.link or "traceparent")
    # Where a rule has to prove itself first, the header is what tells until then.
    rules = {"flask": {"thread"}, "go": {"goroutine"}, "node": {"turn", "forwarded"}}
    assert calls.links().keys() <= rules[caller.split("-")[0]]


def test_a_proxy_that_passes_the_header_on_is_not_skipped() -> None:
    """nginx hands the incoming traceparent to the upstream unchanged: the call is still the child
    of the request at nginx, in the trace that the header names."""
    calls = watch("nginx-proxy", Load(50, 1, "/n/{}", traceparent=True))
    assert calls.verdicts() == {"right": 50}
    assert calls.links() == {"turn": 50}
    for number, call in calls.calling.items():
        assert number is not None
        assert call.trace_id == traceparent_of(number)[0].hex()


@pytest.mark.parametrize("flavour", ["socket", "syscall"])
@pytest.mark.parametrize("family", ["ipv4", "unix"])
def test_a_hand_off_that_nobody_took_is_nobodys(family: Family, flavour: str) -> None:
    """A traced client calls a server that is not traced; then a client that is not traced calls a
    traced server, over sockets that may lie where the first ones did: no span of that server has
    a parent."""
    with (
        start_server("go-nethttp", family=family) as unknown,
        start_server("go-nethttp", family=family) as known,
        start_client(
            "go", unknown.base_url, 200, gate=0, unix_path=unknown.unix_path, close=True
        ) as client,
    ):
        client.wait_for_gate()
        with started_agent("--capture", flavour, pids=[known.pid, client.pid]) as agent:
            client.open_gate()
            client.finish()
            run_client("go", known.base_url, 200, unix_path=known.unix_path, close=True)
            agent.settle(400)
            spans = agent.stop().spans
    served = [span for span in spans if span.kind == "server"]
    assert len(served) == 200
    assert not [(span.number, span.link) for span in served if span.parent_id]


def test_a_reader_may_be_quicker_than_its_senders_hook() -> None:
    """On UNIX sockets a reader on another CPU sometimes has a request before the sender's program
    ran: of 8,000 requests by eight connections each is the child of its own. One that
    was answered before, since the sender's CPU was taken away meanwhile, is nobody's child, and
    counted; and so is an answer that was read before."""
    count = 8000
    with (
        start_server("go-gin", family="unix") as server,
        start_client("go", server.base_url, count, 8, unix_path=server.unix_path, gate=0) as client,
        started_agent("--capture", "socket", pids=[server.pid, client.pid]) as agent,
    ):
        client.open_gate()
        client.finish()
        agent.settle(2 * count)
        ended = agent.stop()
    asked = {span.number: span for span in ended.spans if span.kind == "client"}
    served = {span.number: span for span in ended.spans if span.kind == "server"}
    too_late = ended.count_lost("handoff_too_late")
    assert too_late <= count / 50
    # Where even the answer was read before the sender's program ran: two losses each, counted.
    unmatched = sum(map(ended.count_lost, ("response_unmatched", "bad_framing", "framing_budget")))
    missing = 2 * count - len(asked) - len(served)
    assert missing <= unmatched <= 8, ended.losses
    both = asked.keys() & served.keys()
    alone = {number for number in both if not served[number].parent_id}
    # An answer in the very moment in which the sender looks is in neither's sight.
    assert len(alone) <= too_late + 2 + missing, f"{len(alone)} of {count}: {ended.losses}"
    for number in both - alone:
        own, child = asked[number], served[number]
        assert (child.trace_id, child.parent_id) == (own.trace_id, own.span_id), number
        # Two CPUs look at their clocks first, and at each other then.
        assert child.start_ns > own.start_ns - 5_000_000, number
