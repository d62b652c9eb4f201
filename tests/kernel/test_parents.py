"""Rule `thread`: a request belongs to the one that its thread is serving, or to none."""

import subprocess
import sys
from collections.abc import Sequence

import pytest

from kernel.capturing import (
    PATIENCE_S,
    THREADED,
    TRACED,
    Connection,
    Recording,
    capture_fixture,
    open_connection,
    recording,
    request,
    response,
)
from kernel.support import HERE
from waggle.capture import Capture
from waggle.layout import Link, ProcessMode, Role

capture = capture_fixture()


class System:
    """A client, a front server that calls, and a back server. Requests to the back have the number
    of the request they belong to plus 1000."""

    def __init__(self, recorded: Recording) -> None:
        self.recorded = recorded
        self.client, self.front, self.back = (recorded.actor() for _ in range(3))

    def arrive(self, name: str) -> Connection:
        """A new connection from the client to the front."""
        return open_connection(self.front, self.client, self.recorded, "ipv4", name)

    def call(self, number: int, name: str, thread: str = "", fields: Sequence[str] = ()) -> None:
        """The front, on one of its threads, calls the back on a new connection."""
        if not self.back.listening:
            self.back.listening = ("AF_INET", self.back.listen("AF_INET", ["127.0.0.1", 0]))
        kind, address = self.back.listening
        self.front.do("connect", name=name, family=kind, address=address, thread=thread)
        self.back.do("accept", listener="listener", name=name)
        self.again(number, name, thread, fields)

    def again(self, number: int, name: str, thread: str = "", fields: Sequence[str] = ()) -> None:
        """The same on a connection that is there."""
        self.front.send(name, request(number + 1000, *fields), thread=thread)
        self.back.receive(name)
        self.back.send(name, response())
        self.front.receive(name, thread=thread)

    def parents(self) -> dict[int, int]:
        """Number of each call of the front -> number of the request that is its parent, 0: none."""
        self.recorded.finish(0)
        served = {one.span.span_id: one.number for one in self.recorded.of(Role.SERVER)}
        calls = [one for one in self.recorded.of(Role.CLIENT) if one.number > 1000]
        for one in calls:
            assert one.has_parent == (one.link in (Link.THREAD, Link.FORWARDED)), str(self.recorded)
        return {one.number: served[one.span.parent_id] if one.has_parent else 0 for one in calls}


def read(
    system: System, number: int, name: str, thread: str = "", fields: Sequence[str] = ()
) -> None:
    """The client asks the front, which reads that on one of its threads."""
    system.client.send(name, request(number, *fields))
    system.front.receive(name, thread=thread)


def respond(system: System, name: str, thread: str = "") -> None:
    system.front.send(name, response(), thread=thread)
    system.client.receive(name)


def test_one_thread_one_request(capture: Capture) -> None:
    """A blocking server that calls while it serves: the call belongs to what it serves."""
    with recording(capture, THREADED) as recorded:
        system = System(recorded)
        system.arrive("a")
        for number in (1, 2, 3):
            read(system, number, "a")
            system.call(number, f"up{number}")
            system.again(number + 100, f"up{number}")
            respond(system, "a")
        wanted = {number + 1000: number for number in (1, 2, 3)}
        wanted |= {number + 1100: number for number in (1, 2, 3)}
        assert system.parents() == wanted
        for number in (1, 2, 3):
            client, server = recorded.pair(number + 1000)
            assert server.link == Link.SOCKET
            traces = {one.span.trace_id for one in (*recorded.pair(number), client, server)}
            assert len(traces) == 1, "the whole way is one trace"


def test_thread_per_connection(capture: Capture) -> None:
    """Threads that each block on a connection of their own never mix their calls up."""
    with recording(capture, THREADED) as recorded:
        system = System(recorded)
        threads = [f"t{i}" for i in range(8)]
        for thread in threads:
            system.arrive(thread)
        for turn in range(3):
            numbers = {thread: 10 * turn + i + 1 for i, thread in enumerate(threads)}
            for thread, number in numbers.items():
                read(system, number, thread, thread)
            for thread, number in reversed(numbers.items()):
                system.call(number, f"up{number}", thread)
            for thread in threads:
                respond(system, thread, thread)
        calls = system.parents()
        assert len(calls) == 24
        assert all(parent == call - 1000 for call, parent in calls.items()), calls


def test_calls_outside_of_any_request(capture: Capture) -> None:
    """A call before the first request or after the response belongs to no request."""
    with recording(capture, THREADED) as recorded:
        system = System(recorded)
        system.arrive("a")
        system.call(1, "before")
        read(system, 1, "a")
        respond(system, "a")
        system.call(2, "after")
        assert system.parents() == {1001: 0, 1002: 0}


def test_another_thread(capture: Capture) -> None:
    """A call on a thread that serves nothing has no parent, whatever other threads serve."""
    with recording(capture, THREADED) as recorded:
        system = System(recorded)
        system.arrive("a")
        read(system, 1, "a", "serving")
        system.call(1, "up", "background")
        respond(system, "a", "serving")
        assert system.parents() == {1001: 0}


def test_rule_off(capture: Capture) -> None:
    """Where the rule is not allowed it is not used."""
    with recording(capture, TRACED | ProcessMode.UNCONFIRMED) as recorded:
        system = System(recorded)
        system.arrive("a")
        read(system, 1, "a")
        system.call(1, "up")
        respond(system, "a")
        assert system.parents() == {1001: 0}


def test_select_loop(capture: Capture) -> None:
    """A loop with blocking sockets that serves two connections at once never gives a wrong
    parent: it may find none, and after the first overlap it finds none for good."""
    with recording(capture, THREADED) as recorded:
        system = System(recorded)
        system.arrive("a")
        system.arrive("b")
        for number in (1, 3, 5):
            read(system, number, "a")
            read(system, number + 1, "b")
            system.call(number, f"up{number}")
            system.call(number + 1, f"up{number + 1}")
            respond(system, "b")
            respond(system, "a")
        read(system, 7, "a")
        system.call(7, "up7")
        respond(system, "a")
        calls = system.parents()
        assert len(calls) == 7
        assert set(calls.values()) == {0}, calls


def test_select_loop_whose_requests_overlap_later(capture: Capture) -> None:
    """A loop that begins a call for one request, reads another, and then goes on with the first:
    no call gets the other's request as its parent."""
    with recording(capture, THREADED) as recorded:
        system = System(recorded)
        system.arrive("a")
        system.arrive("b")
        read(system, 1, "a")
        system.call(1, "up1")
        read(system, 2, "b")
        system.again(101, "up1")
        respond(system, "a")
        system.call(2, "up2")
        respond(system, "b")
        calls = system.parents()
        assert calls[1001] in (0, 1)
        assert calls[1101] in (0, 1)
        assert calls[1002] in (0, 2), calls


def test_request_handed_to_another_thread(capture: Capture) -> None:
    """A thread that reads and hands over (an acceptor with workers) proves that it does so by the
    first response; from then on there are no parents by thread."""
    with recording(capture, THREADED) as recorded:
        system = System(recorded)
        system.arrive("a")
        for number in (1, 2):
            read(system, number, "a", "reader")
            system.call(number, f"up{number}", "worker")
            respond(system, "a", "worker")
        read(system, 3, "a", "reader")
        system.call(3, "poll", "reader")
        respond(system, "a", "worker")
        assert set(system.parents().values()) == {0}


def test_non_blocking_sockets(capture: Capture) -> None:
    """A server whose sockets do not block is an event loop: rule `thread` is never used there."""
    with recording(capture, THREADED) as recorded:
        system = System(recorded)
        system.arrive("a")
        system.front.do("set_blocking", name="a", on=False)
        for number in (1, 2, 3):
            system.client.send("a", request(number))
            system.front.do("receive_count", name="a", count=len(request(number)))
            system.call(number, f"up{number}")
            respond(system, "a")
        assert set(system.parents().values()) == {0}


def test_pipelined_requests_of_one_thread(capture: Capture) -> None:
    """Calls of a thread that answers pipelined requests one by one belong to the oldest that has
    no answer."""
    with recording(capture, THREADED) as recorded:
        system = System(recorded)
        system.arrive("a")
        system.client.send("a", request(1) + request(2))
        system.front.receive("a")
        for number in (1, 2):
            system.call(number, f"up{number}")
            respond(system, "a")
        assert system.parents() == {1001: 1, 1002: 2}


def test_request_that_fails_frees_its_thread(capture: Capture) -> None:
    """A thread whose client went away serves its next request with right parents again."""
    with recording(capture, THREADED) as recorded:
        system = System(recorded)
        for number in range(1, 6):
            name = f"a{number}"
            system.arrive(name)
            read(system, number, name)
            system.call(number, f"up{number}")
            system.client.close(name)
            assert system.front.receive(name) == b""
            system.front.close(name)
        assert system.parents() == {number + 1000: number for number in range(1, 6)}


def test_traceparent_of_the_application(capture: Capture) -> None:
    """A call that carries the request's own trace stays the child of that request; one that
    carries another trace is that one's."""
    incoming = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    other = "00-" + "12" * 16 + "-" + "34" * 8 + "-00"
    with recording(capture, THREADED) as recorded:
        system = System(recorded)
        system.arrive("a")
        system.client.send("a", request(1, f"traceparent: {incoming}"))
        system.front.receive("a")
        system.call(1, "up")
        for number, header in ((2, incoming), (3, other)):
            system.front.send("up", request(number + 1000, f"traceparent: {header}"))
            system.back.receive("up")
            system.back.send("up", response())
            system.front.receive("up")
        respond(system, "a")
        recorded.finish(8)
        first, front = recorded.pair(1)
        assert first.link == Link.TRACEPARENT
        assert first.span.trace_id == bytes.fromhex("ab" * 16)
        assert first.span.parent_id == bytes.fromhex("cd" * 8)
        assert (front.link, front.span.parent_id) == (Link.SOCKET, first.span.span_id)
        for number in (1001, 1002):
            call, back = recorded.pair(number)
            assert (call.link, call.span.parent_id) == (Link.THREAD, front.span.span_id)
            assert (back.link, back.span.parent_id) == (Link.SOCKET, call.span.span_id)
        call, back = recorded.pair(1003)
        assert (call.link, call.span.parent_id) == (Link.TRACEPARENT, bytes.fromhex("34" * 8))
        assert call.span.trace_id == bytes.fromhex("12" * 16)
        assert (back.link, back.span.parent_id) == (Link.SOCKET, call.span.span_id)
        assert back.span.flags & 0xFF == 0, "not sampled, and handed on so"


BAD_HEADERS = [
    "00-" + "0" * 32 + "-" + "cd" * 8 + "-01",
    "00-" + "ab" * 16 + "-" + "0" * 16 + "-01",
    "00-" + "AB" * 16 + "-" + "cd" * 8 + "-01",
    "ff-" + "ab" * 16 + "-" + "cd" * 8 + "-01",
    "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01-more",
    "00-" + "ab" * 16 + "-" + "cd" * 8,
    "",
]


def test_bad_traceparents(capture: Capture) -> None:
    """A traceparent that breaks a rule is as good as none."""
    with recording(capture) as recorded:
        server, client = recorded.actor(), recorded.actor()
        pair = open_connection(server, client, recorded)
        for number, header in enumerate(BAD_HEADERS, 1):
            pair.exchange(request(number, f"traceparent: {header}"), response())
        recorded.finish(2 * len(BAD_HEADERS))
        for number in range(1, len(BAD_HEADERS) + 1):
            first, second = recorded.pair(number)
            assert not first.has_parent, BAD_HEADERS[number - 1]
            assert second.link == Link.SOCKET


def test_header_of_an_untraced_client(capture: Capture) -> None:
    """Where no hand-off is, the header of the request is the parent, and a remote one."""
    with recording(capture) as recorded:
        server, client = recorded.actor(), recorded.actor(traced=False)
        pair = open_connection(server, client, recorded)
        header = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
        pair.exchange(request(1, f"traceparent: {header}", "tracestate: a=1,b=2"), response())
        pair.exchange(request(2), response())
        recorded.finish(2)
        first, second = recorded.of(Role.SERVER)
        assert len(recorded.seen) == 2
        assert (first.link, first.span.parent_id) == (Link.TRACEPARENT, bytes.fromhex("cd" * 8))
        assert first.span.trace_state == "a=1,b=2"
        assert first.span.flags & 0x300 == 0x300
        assert not second.has_parent


@pytest.mark.parametrize("program", ["asyncio", "select"])
def test_real_loops(capture: Capture, program: str) -> None:
    """Real event loops that serve 20 clients at once and call for each: no wrong parent."""
    with recording(capture, THREADED) as recorded:
        back = recorded.actor()
        back.listening = ("AF_INET", back.listen("AF_INET", ["127.0.0.1", 0]))
        client = recorded.actor()
        front = subprocess.Popen(
            [sys.executable, str(HERE / "loops.py"), program, str(back.port), "20"],
            stdout=subprocess.PIPE,
        )
        try:
            recorded.trace(front.pid)
            assert front.stdout
            port = int(front.stdout.readline())
            answering = back.start("answer_loop", listener="listener", count=20)
            client.do("ask_at_once", port=port, first=1, count=20)
            answering.get()
            assert front.wait(PATIENCE_S) == 0
        finally:
            front.kill()
            front.wait()
            front.stdout.close()  # type: ignore[union-attr]
        recorded.finish(80)
        served = {
            one.span.span_id: one.number for one in recorded.of(Role.SERVER) if one.number < 1000
        }
        calls = [one for one in recorded.of(Role.CLIENT) if one.number > 1000]
        assert (len(served), len(calls)) == (20, 20), str(recorded)
        for one in calls:
            assert not one.has_parent or served[one.span.parent_id] == one.number - 1000


def header(span: int) -> str:
    return f"traceparent: 00-{7:032x}-{span:016x}-01"


def test_a_header_passed_on_names_its_request(capture: Capture) -> None:
    """Of several open requests on one thread a call belongs to the one that brought its header, in
    whatever order they came, and to none once that is answered."""
    with recording(capture, TRACED) as recorded:
        system = System(recorded)
        for number in (1, 2, 3):
            system.arrive(f"c{number}")
            read(system, number, f"c{number}", fields=[header(number)])
        for number in (2, 1, 3):
            system.call(number, f"up{number}", fields=[header(number)])
        for number in (1, 2, 3):
            respond(system, f"c{number}")
        system.call(4, "up4", fields=[header(1)])
        recorded.finish(0)
        called = {one.number: one for one in recorded.of(Role.CLIENT) if one.number > 1000}
        served = {one.number: one.span for one in recorded.of(Role.SERVER) if one.number < 1000}
        for number in (1, 2, 3):
            assert called[number + 1000].link == Link.FORWARDED, str(recorded)
            assert called[number + 1000].span.parent_id == served[number].span_id
        assert called[1004].link == Link.TRACEPARENT
        assert called[1004].span.parent_id == (1).to_bytes(8, "big")


def test_a_header_that_two_requests_brought_names_neither(capture: Capture) -> None:
    """Nor does one that names another trace: the header's own parent stands."""
    with recording(capture, TRACED) as recorded:
        system = System(recorded)
        for number in (1, 2):
            system.arrive(f"c{number}")
            read(system, number, f"c{number}", fields=[header(9)])
        system.call(1, "up1", fields=[header(9)])
        system.arrive("c3")
        read(system, 3, "c3", fields=[header(3)])
        system.call(3, "up3", fields=[header(3).replace("07-", "08-")])
        for number in (1, 2, 3):
            respond(system, f"c{number}")
        recorded.finish(0)
        called = {one.number: one for one in recorded.of(Role.CLIENT) if one.number > 1000}
        parents = {number: one.span.parent_id for number, one in called.items()}
        assert parents == {1001: (9).to_bytes(8, "big"), 1003: (3).to_bytes(8, "big")}
        assert {one.link for one in called.values()} == {Link.TRACEPARENT}


@pytest.mark.parametrize("datagram", [False, True])
def test_a_datagram_ends_a_turn(capture: Capture, datagram: bool) -> None:
    """What is sent right after a request was read is part of it, but not where a datagram was read
    in between, an answer of DNS, say: that may have been asked for by another."""
    with recording(capture, TRACED | ProcessMode.RULE_TURN) as recorded:
        system = System(recorded)
        system.arrive("a")
        system.call(1, "up")
        system.client.send("a", request(2))
        system.front.do(
            "turn",
            name="a",
            mark="\r\n\r\n",
            to="up",
            pieces=[request(1002).decode()],
            datagram=datagram,
        )
        system.back.receive("up")
        system.back.send("up", response())
        system.front.receive("up")
        respond(system, "a")
        recorded.finish(0)
        (call,) = (one for one in recorded.of(Role.CLIENT) if one.number == 1002)
        assert call.link == (Link.NONE if datagram else Link.TURN), str(recorded)
