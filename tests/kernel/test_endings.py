"""Exchanges that do not end well: one error span on each side, with the right reason."""

import pytest

from kernel.capturing import (
    Connection,
    Seen,
    capture_fixture,
    connected,
    expect_pair,
    expect_pairs,
    open_connection,
    open_flavour,
    recording,
    request,
    response,
)
from waggle.capture import Capture
from waggle.flavours import FLAVOURS
from waggle.layout import End, Role

capture = capture_fixture()

FAMILIES = ("ipv4", "ipv6", "unix")
ERROR_TYPES = {
    End.RESET: "ECONNRESET",
    End.TIMED_OUT: "ETIMEDOUT",
    End.PEER_CLOSED: "connection_closed",
    End.LOCAL_CLOSED: "cancelled",
    End.PROCESS_EXIT: "process_exit",
}


def expect_ends(pair: Connection, client: End, server: End, status: int = 0) -> tuple[Seen, Seen]:
    """Number 1 failed, on each side once and for this reason, and nothing else was seen."""
    pair.recorded.finish(2)
    sides = pair.recorded.pair(1)
    assert len(pair.recorded.seen) == 2, str(pair.recorded)
    for one, end in zip(sides, (client, server), strict=True):
        assert (one.end, one.facts.status) == (end, status), str(pair.recorded)
        assert one.facts.start_ns <= one.facts.end_ns
        assert one.span.error
        assert one.span.attributes["error.type"] == ERROR_TYPES[end]
    assert sides[1].span.parent_id == sides[0].span.span_id
    return sides


@pytest.mark.parametrize("family", FAMILIES)
def test_server_closes(capture: Capture, family: str) -> None:
    """A server that closes instead of answering: the client says the peer closed, the server that
    it did so itself."""
    with connected(capture, family) as pair:
        pair.ask(request(1))
        pair.server.close("c")
        closed = pair.server.window
        assert pair.client.receive("c") == b""
        noticed = pair.client.window
        client, server = expect_ends(pair, End.PEER_CLOSED, End.LOCAL_CLOSED)
        assert noticed.has(client.facts.end_ns)
        if family != "unix":
            assert closed.began_ns <= server.facts.end_ns <= noticed.ended_ns


def test_server_resets(capture: Capture) -> None:
    """A server that resets the connection: the client says so."""
    with connected(capture) as pair:
        pair.ask(request(1))
        pair.server.do("reset", name="c")
        assert pair.client.do("receive_failing", name="c") == "ConnectionResetError"
        expect_ends(pair, End.RESET, End.LOCAL_CLOSED)


def test_server_resets_and_nobody_reads(capture: Capture) -> None:
    """A reset that the client only learns of by closing is one still."""
    with connected(capture) as pair:
        pair.ask(request(1))
        pair.server.do("reset", name="c")
        pair.client.close("c")
        expect_ends(pair, End.RESET, End.LOCAL_CLOSED)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_server_closes_within_the_body(capture: Capture, family: str, framing: str) -> None:
    """A response whose body breaks off is an error that has a status."""
    field = {"length": "Content-Length: 100", "chunked": "Transfer-Encoding: chunked"}[framing]
    with connected(capture, family) as pair:
        pair.ask(request(1))
        pair.answer(response(b"5\r\nabcde\r\n", field, status="203 Fine"))
        pair.server.close("c")
        assert pair.client.receive("c") == b""
        expect_ends(pair, End.PEER_CLOSED, End.LOCAL_CLOSED, status=203)


def test_server_resets_within_an_endless_body(capture: Capture) -> None:
    """A body that lasts until the connection closes is not whole when that is by a reset."""
    with connected(capture) as pair:
        pair.ask(request(1))
        pair.answer(b"HTTP/1.1 200 OK\r\n\r\nbeginning")
        pair.server.do("reset", name="c")
        assert pair.client.do("receive_failing", name="c") == "ConnectionResetError"
        pair.recorded.finish(2)
        assert pair.recorded.pair(1)[0].end == End.RESET, str(pair.recorded)


@pytest.mark.parametrize("family", FAMILIES)
def test_client_gives_up(capture: Capture, family: str) -> None:
    """A client that closes before the answer has cancelled; the server sees that it went."""
    with connected(capture, family) as pair:
        pair.ask(request(1))
        pair.client.close("c")
        closed = pair.client.window
        assert pair.server.receive("c") == b""
        pair.server.close("c")
        client, _ = expect_ends(pair, End.LOCAL_CLOSED, End.PEER_CLOSED)
        if family != "unix":
            assert closed.has(client.facts.end_ns)


def test_client_gives_up_and_the_server_answers(capture: Capture) -> None:
    """A server that answers a client which has gone did its part; the client cancelled."""
    with connected(capture) as pair:
        pair.ask(request(1))
        pair.client.close("c")
        pair.server.send("c", response())
        pair.server.close("c")
        pair.recorded.finish(2)
        client, server = pair.recorded.pair(1)
        assert (client.end, server.end) == (End.LOCAL_CLOSED, End.DONE)


def test_client_resets(capture: Capture) -> None:
    """A client that resets the connection: the server says so."""
    with connected(capture) as pair:
        pair.ask(request(1))
        pair.client.do("reset", name="c")
        assert pair.server.do("receive_failing", name="c") == "ConnectionResetError"
        expect_ends(pair, End.LOCAL_CLOSED, End.RESET)


def test_client_gives_up_within_its_body(capture: Capture) -> None:
    """A request whose body breaks off is an error on both sides, with what passed of it."""
    with connected(capture) as pair:
        pair.ask(request(1, "Content-Length: 100", method="POST") + b"b" * 30)
        pair.client.close("c")
        assert pair.server.receive("c") == b""
        pair.server.close("c")
        for one in expect_ends(pair, End.LOCAL_CLOSED, End.PEER_CLOSED):
            assert one.facts.request_body == 30


@pytest.mark.parametrize("family", FAMILIES)
def test_client_killed(capture: Capture, family: str) -> None:
    """A client that is killed with a request open has ended with its process."""
    with connected(capture, family) as pair:
        pair.ask(request(1))
        pair.client.kill()
        assert pair.server.receive("c") == b""
        pair.server.close("c")
        expect_ends(pair, End.PROCESS_EXIT, End.PEER_CLOSED)


@pytest.mark.parametrize("family", FAMILIES)
def test_server_killed(capture: Capture, family: str) -> None:
    """A server that is killed before it answers has ended with its process."""
    with connected(capture, family) as pair:
        pair.ask(request(1))
        pair.server.kill()
        assert pair.client.receive("c") == b""
        expect_ends(pair, End.PEER_CLOSED, End.PROCESS_EXIT)


@pytest.mark.parametrize("family", FAMILIES)
def test_pipelined_and_unanswered(capture: Capture, family: str) -> None:
    """Every request that waits when the server closes fails, each in a span of its own."""
    with connected(capture, family) as pair:
        pair.ask(request(1) + request(2) + request(3))
        pair.answer(response())
        pair.server.close("c")
        assert pair.client.receive("c") == b""
        pair.recorded.finish(6)
        expect_pair(pair.recorded, 1)
        for number in (2, 3):
            client, server = pair.recorded.pair(number)
            assert (client.end, server.end) == (End.PEER_CLOSED, End.LOCAL_CLOSED)


@pytest.mark.parametrize("family", FAMILIES)
def test_idle_connections_end_silently(capture: Capture, family: str) -> None:
    """A connection that ends with nothing open says nothing."""
    with connected(capture, family) as pair:
        pair.exchange(request(1), response())
        pair.server.close("c")
        assert pair.client.receive("c") == b""
        pair.recorded.finish(2)
        expect_pairs(pair.recorded, [1])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_request_before_its_connection_is_accepted(capture: Capture, family: str) -> None:
    """A request that waits for a server which has not accepted its connection yet is open, however
    often ends that no hook sees are looked for meanwhile."""
    with recording(capture) as recorded:
        server, client = recorded.actor(), recorded.actor()
        pair = open_connection(server, client, recorded, family)
        pair.close()
        _, address = server.listening or ("", None)
        kind = {"unix": "AF_UNIX", "ipv6": "AF_INET6"}.get(family, "AF_INET")
        client.do("connect", name="late", family=kind, address=address)
        client.send("late", request(1))
        capture.sweep()
        server.do("accept", listener="listener", name="late")
        server.receive_to("late", request(1)[-40:])
        server.send("late", response())
        client.receive_to("late", response()[-40:])
        recorded.finish(2)
        expect_pairs(recorded, [1])


def test_half_a_head_is_nothing(capture: Capture) -> None:
    """A client that leaves in the middle of a head has not asked; nothing stays behind."""
    with connected(capture) as pair:
        pair.ask(request(1)[:25])
        pair.close()
        pair.recorded.finish(0)
        assert not pair.recorded.seen
        assert not pair.recorded.left_behind()


def test_half_a_response_head(capture: Capture) -> None:
    """A server that leaves in the middle of its head has not answered."""
    with connected(capture) as pair:
        pair.ask(request(1))
        pair.answer(b"HTTP/1.1 200 O")
        pair.server.close("c")
        assert pair.client.receive("c") == b""
        expect_ends(pair, End.PEER_CLOSED, End.LOCAL_CLOSED)
        assert not pair.recorded.left_behind()


def ask_and_end_sending(pair: Connection) -> None:
    """The client has asked for request 1, and said that it will ask no more."""
    pair.ask(request(1))
    pair.client.do("end_sending", name="c")
    assert pair.server.receive("c") == b""


def test_shutdown_of_the_clients_half(capture: Capture) -> None:
    """A client may end its direction and still get its answer."""
    with connected(capture) as pair:
        ask_and_end_sending(pair)
        pair.answer(response())
        pair.server.close("c")
        assert pair.client.receive("c") == b""
        pair.recorded.finish(2)
        expect_pairs(pair.recorded, [1])


def test_an_answer_is_read_when_both_halves_are_closed(capture: Capture) -> None:
    """A client that ended its direction may read the answer when the server has closed too."""
    with connected(capture) as pair:
        ask_and_end_sending(pair)
        pair.server.send("c", response())
        pair.server.close("c")
        pair.client.receive_to("c", response()[-40:])
        assert pair.client.receive("c") == b""
        pair.recorded.finish(2)
        expect_pairs(pair.recorded, [1])


def test_an_answer_that_nobody_reads(capture: Capture) -> None:
    """A client that closes instead of reading what waits has not waited for its answer."""
    with connected(capture) as pair:
        ask_and_end_sending(pair)
        pair.server.send("c", response())
        pair.server.close("c")
        pair.client.close("c")
        pair.recorded.finish(2)
        (client,) = pair.recorded.of(Role.CLIENT)
        assert client.end == End.LOCAL_CLOSED
        assert not pair.recorded.left_behind()


def test_server_crashes_among_many(capture: Capture) -> None:
    """A process with many open connections that is killed leaves no request untold."""
    with connected(capture) as pair:
        names = [f"c{i}" for i in range(30)]
        for number, name in enumerate(names, 1):
            other = open_connection(pair.server, pair.client, pair.recorded, "ipv4", name)
            other.ask(request(number))
        pair.server.kill()
        for name in names:
            assert pair.client.receive(name) == b""
        pair.recorded.finish(60)
        servers = pair.recorded.of(Role.SERVER)
        clients = pair.recorded.of(Role.CLIENT)
        assert {(one.number, one.end) for one in clients} == {
            (number, End.PEER_CLOSED) for number in range(1, 31)
        }
        assert {(one.number, one.end) for one in servers} == {
            (number, End.PROCESS_EXIT) for number in range(1, 31)
        }
        assert (len(servers), len(clients)) == (30, 30)


SEES_ENDS = ("tcp_destroy", "tcp_state_change")


@pytest.mark.parametrize("flavour", [one.name for one in FLAVOURS])
def test_ends_that_no_hook_sees(flavour: str) -> None:
    """Where the ends of connections pass unseen, those that have the addresses of their sockets
    afterwards are new ones all the same: each exchange is there, once."""
    blind = open_flavour(flavour)
    try:
        for link in blind._links:
            if link.name in SEES_ENDS:
                link.close()
        with recording(blind) as recorded:
            server, client = recorded.actor(), recorded.actor()
            numbers = range(1, 41)
            for number in numbers:
                pair = open_connection(server, client, recorded)
                pair.exchange(request(number), response())
                pair.close()
            recorded.finish(2 * len(numbers))
            expect_pairs(recorded, numbers)
            assert len(blind.bpf.map("connections").items()[0]) < len(numbers), "no address again"
    finally:
        blind.close()
