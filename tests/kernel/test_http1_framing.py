"""HTTP/1 messages in every framing, as two processes really exchange them."""

import pytest

from kernel.capturing import (
    Connection,
    capture_fixture,
    connected,
    expect_pair,
    expect_pairs,
    open_connection,
    recording,
    request,
    response,
)
from waggle.capture import Capture
from waggle.layout import Counter, End, Flag, Method, Role

capture = capture_fixture()

FAKE = b"GET /fake/1 HTTP/1.1\r\nHost: fake\r\n\r\n"
FAKE_ANSWER = b"HTTP/1.1 500 Fake\r\nContent-Length: 0\r\n\r\n"


def chunks(*pieces: bytes, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    """A chunked body of these pieces."""
    lines = [b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces]
    return b"".join(lines) + b"0\r\n" + trailers + b"\r\n"


CHUNKED = "Transfer-Encoding: chunked"


def test_keep_alive(capture: Capture) -> None:
    """Exchanges that share a connection are told apart, whole and in order."""
    with connected(capture) as pair:
        for number in range(1, 101):
            pair.exchange(request(number), response(b"x" * number))
        pair.close()
        seen = pair.recorded.finish(200)
        expect_pairs(pair.recorded, range(1, 101))
        for one in seen:
            assert one.facts.response_body == one.number
            assert one.facts.method == Method.GET
            assert one.facts.status == 200
        assert not pair.recorded.losses()


def test_times(capture: Capture) -> None:
    """Start, first byte of the response and end lie in the calls that moved those bytes."""
    with connected(capture) as pair:
        asked = pair.client.send("c", request(1))
        pair.server.receive("c")
        server_read = pair.server.window
        answered = pair.server.send("c", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        pair.client.receive("c")
        client_began_reading = pair.client.window
        completed = pair.server.send("c", b"cd")
        pair.client.receive("c")
        client_read_all = pair.client.window
        pair.recorded.finish(2)
        client, server = expect_pair(pair.recorded, 1)
        assert asked.has(client.facts.start_ns)
        assert client_began_reading.has(client.facts.response_ns)
        assert client_read_all.has(client.facts.end_ns)
        assert server_read.has(server.facts.start_ns)
        assert answered.has(server.facts.response_ns)
        assert completed.has(server.facts.end_ns)


@pytest.mark.parametrize("depth", [2, 3, 8, 32])
@pytest.mark.parametrize("joined", [False, True], ids=["apart", "one-call"])
def test_pipelining(capture: Capture, depth: int, joined: bool) -> None:
    """Pipelined requests pair up with their own responses, whether they share calls or not."""
    with connected(capture) as pair:
        numbers = range(1, depth + 1)
        asked = [request(number, body=b"b" * (number % 3)) for number in numbers]
        answers = [response(b"r" * number) for number in numbers]
        if joined:
            pair.ask(b"".join(asked))
            pair.answer(b"".join(answers))
        else:
            for message in asked:
                pair.ask(message)
            for message in answers:
                pair.answer(message)
        pair.close()
        pair.recorded.finish(2 * depth)
        expect_pairs(pair.recorded, numbers)
        for one in pair.recorded.seen:
            assert one.facts.response_body == one.number
            assert one.facts.request_body == one.number % 3


def test_pipelining_overlapped(capture: Capture) -> None:
    """A response that comes while the next request is half sent belongs to the first."""
    with connected(capture) as pair:
        second = request(2, body=b"0123456789")
        pair.ask(request(1) + second[:20])
        pair.answer(response(b"one"))
        pair.ask(second[20:-5])
        pair.ask(second[-5:])
        pair.answer(response(b"second"))
        pair.close()
        pair.recorded.finish(4)
        expect_pairs(pair.recorded, [1, 2])
        sizes = {
            one.number: (one.facts.request_body, one.facts.response_body)
            for one in pair.recorded.seen
        }
        assert sizes == {1: (0, 3), 2: (10, 6)}


HEAD = request(0, "User-Agent: cut/1", "X-Long: " + "v" * 30).replace(b"/n/0", b"/n/%d")


@pytest.mark.parametrize("family", ["ipv4", "unix"])
def test_request_head_cut_anywhere(capture: Capture, family: str) -> None:
    """A request head in two calls is the same head, wherever the cut is."""
    with connected(capture, family) as pair:
        cuts = range(1, len(HEAD % 100))
        for cut in cuts:
            head = HEAD % (100 + cut)
            pair.ask(head[:cut])
            pair.ask(head[cut:])
            pair.answer(response())
        pair.close()
        pair.recorded.finish(2 * len(cuts))
        expect_pairs(pair.recorded, [100 + cut for cut in cuts])
        for one in pair.recorded.of(Role.SERVER):
            assert one.span.attributes["user_agent.original"] == "cut/1"
        assert not pair.recorded.losses()


def test_response_head_cut_anywhere(capture: Capture) -> None:
    """A response head in two calls is the same head, wherever the cut is."""
    with connected(capture) as pair:
        answer = response(b"abc", "X-Server: cut", status="201 Made")
        cuts = range(1, len(answer))
        for cut in cuts:
            pair.ask(request(cut))
            pair.answer(answer[:cut])
            pair.answer(answer[cut:])
        pair.close()
        pair.recorded.finish(2 * len(cuts))
        expect_pairs(pair.recorded, cuts)
        for one in pair.recorded.seen:
            assert (one.facts.status, one.facts.response_body) == (201, 3)


def test_first_head_cut_anywhere(capture: Capture) -> None:
    """A connection whose very first call brings only a part of a head is still judged right."""
    with recording(capture) as recorded:
        server, client = recorded.actor(), recorded.actor()
        cuts = range(1, 36)
        for cut in cuts:
            pair = open_connection(server, client, recorded)
            pair.ask(request(cut)[:cut])
            pair.ask(request(cut)[cut:])
            pair.answer(response())
            pair.close()
        recorded.finish(2 * len(cuts))
        expect_pairs(recorded, cuts)


def test_head_byte_by_byte(capture: Capture) -> None:
    """Heads that come in one byte a call, on either side, are read."""
    with connected(capture) as pair:
        for number in (1, 2):
            asked, answer = request(number), response()
            text = [asked[i : i + 1].decode() for i in range(len(asked))]
            pair.client.do("send_each", name="c", pieces=text)
            pair.server.receive_to("c", b"\r\n\r\n", size=1)
            text = [answer[i : i + 1].decode() for i in range(len(answer))]
            pair.server.do("send_each", name="c", pieces=text)
            pair.client.receive_to("c", b"ok", size=1)
        pair.close()
        pair.recorded.finish(4)
        expect_pairs(pair.recorded, [1, 2])


def test_empty_lines_before_a_request(capture: Capture) -> None:
    """Empty lines before a request line are ignored (RFC 9112, 2.2)."""
    with connected(capture) as pair:
        pair.exchange(request(1, body=b"x"), response())
        pair.exchange(b"\r\n" + request(2), response())
        pair.exchange(b"\r\n\r\n" + request(3), response())
        pair.ask(b"\r\n")
        pair.exchange(request(4), response())
        pair.close()
        pair.recorded.finish(8)
        expect_pairs(pair.recorded, [1, 2, 3, 4])


CHUNKED_BODIES = {
    "one": chunks(b"whole"),
    "odd": chunks(b"a", b"bc", b"d" * 333, b"e" * 7),
    "empty": chunks(),
    "extension": chunks(b"abc", b"d" * 20, extension=b';note="a;b"'),
    "trailers": chunks(b"abc", trailers=b"X-Sum: 1\r\nX-Line: GET / HTTP/1.1\r\n"),
    "upper-case": b"A\r\n0123456789\r\n0\r\n\r\n",
    "leading-zeros": b"0005\r\nabcde\r\n000\r\n\r\n",
    "looks-like-http": chunks(FAKE, FAKE_ANSWER, FAKE),
    "many": chunks(*[b"%d" % i for i in range(400)]),
}
CHUNKED_SIZES = {
    "one": 5,
    "odd": 343,
    "empty": 0,
    "extension": 23,
    "trailers": 3,
    "upper-case": 10,
    "leading-zeros": 5,
    "looks-like-http": 2 * len(FAKE) + len(FAKE_ANSWER),
    "many": len("".join(str(i) for i in range(400))),
}


@pytest.mark.parametrize("body", CHUNKED_BODIES)
def test_chunked(capture: Capture, body: str) -> None:
    """Chunked bodies end where they end, in requests and responses, and their sizes count data
    only."""
    with connected(capture) as pair:
        data = CHUNKED_BODIES[body]
        pair.exchange(request(1, CHUNKED, method="POST", body=data), response(data, CHUNKED))
        pair.exchange(request(2), response())
        pair.close()
        pair.recorded.finish(4)
        expect_pairs(pair.recorded, [1, 2])
        for one in pair.recorded.pair(1):
            size = CHUNKED_SIZES[body]
            assert (one.facts.request_body, one.facts.response_body) == (size, size)


def test_chunked_body_cut_anywhere(capture: Capture) -> None:
    """A chunked body in two calls is the same body, wherever the cut is."""
    data = chunks(b"abc", b"d" * 17, FAKE, extension=b";x=1", trailers=b"X-T: v\r\n")
    size = 3 + 17 + len(FAKE)
    with connected(capture) as pair:
        cuts = range(1, len(data))
        for cut in cuts:
            pair.ask(request(cut, CHUNKED, method="POST") + data[:cut])
            pair.ask(data[cut:])
            pair.answer(response(b"", CHUNKED) + data[:cut])
            pair.answer(data[cut:])
        pair.close()
        pair.recorded.finish(2 * len(cuts))
        expect_pairs(pair.recorded, cuts)
        for one in pair.recorded.seen:
            assert (one.facts.request_body, one.facts.response_body) == (size, size)


def test_bodies_that_look_like_http(capture: Capture) -> None:
    """What a body says is never taken for a message, even at the beginning of a call."""
    with connected(capture) as pair:
        body = FAKE * 3 + FAKE_ANSWER * 3
        for number in (1, 2):
            pair.ask(request(number, f"Content-Length: {len(body)}", method="POST"))
            for start in range(0, len(body), len(FAKE)):
                pair.ask(body[start : start + len(FAKE)])
            pair.answer(response(b"", f"Content-Length: {len(body)}"))
            for start in range(0, len(body), len(FAKE)):
                pair.answer(body[start : start + len(FAKE)])
        pair.close()
        pair.recorded.finish(4)
        expect_pairs(pair.recorded, [1, 2])
        for one in pair.recorded.seen:
            assert one.facts.request_body == one.facts.response_body == len(body)


@pytest.mark.parametrize("family", ["ipv4", "unix"])
@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_until_close(capture: Capture, version: str, family: str) -> None:
    """A body that lasts until the connection closes is whole then, on both sides."""
    with connected(capture, family) as pair:
        pair.ask(request(1, version=version))
        head = f"{version} 200 OK\r\nConnection: close\r\n\r\n".encode()
        pair.answer(head + FAKE)
        pair.answer(FAKE_ANSWER)
        pair.server.close("c")
        closed = pair.server.window
        assert pair.client.receive("c") == b""
        ended = pair.client.window
        pair.client.close("c")
        pair.recorded.finish(2)
        expect_pairs(pair.recorded, [1])
        client, server = pair.recorded.pair(1)
        for one in (client, server):
            assert one.facts.response_body == len(FAKE + FAKE_ANSWER)
        assert client.facts.end_ns <= ended.ended_ns
        if family == "ipv4":
            assert closed.has(server.facts.end_ns)


def test_until_close_by_shutdown(capture: Capture) -> None:
    """A server that ends its direction and reads on has ended the body there."""
    with connected(capture) as pair:
        pair.ask(request(1))
        pair.answer(b"HTTP/1.1 200 OK\r\n\r\nall there is")
        pair.server.do("end_sending", name="c")
        assert pair.client.receive("c") == b""
        pair.recorded.wait(2)
        expect_pairs(pair.recorded, [1])
        for one in pair.recorded.seen:
            assert one.facts.response_body == len("all there is")


@pytest.mark.parametrize(
    ("method", "status", "answer"),
    [
        ("HEAD", 200, b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"),
        ("HEAD", 200, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", 204, b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", 304, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n"),
        ("GET", 200, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("GET", 200, b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"),
        ("DELETE", 204, b"HTTP/1.1 204 \r\n\r\n"),
    ],
)
def test_no_body(capture: Capture, method: str, status: int, answer: bytes) -> None:
    """Responses that have no body, whatever their fields say, end with their head."""
    with connected(capture) as pair:
        pair.exchange(request(1, method=method), answer)
        pair.exchange(request(2), response())
        pair.close()
        pair.recorded.finish(4)
        expect_pairs(pair.recorded, [1, 2])
        for one in pair.recorded.pair(1):
            assert (one.facts.status, one.facts.response_body) == (status, 0)
            assert one.facts.method == Method[method]


def test_interim_responses(capture: Capture) -> None:
    """100, 102 and 103 answer nothing; the final response does, in the same call or another."""
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
    with connected(capture) as pair:
        pair.ask(request(1))
        pair.answer(early)
        pair.answer(b"HTTP/1.1 102 Processing\r\n\r\n" + early)
        final = pair.answer(response(status="404 Not Found"))
        pair.exchange(request(2), early + response())
        pair.close()
        pair.recorded.finish(4)
        expect_pairs(pair.recorded, [1, 2])
        assert [one.facts.status for one in pair.recorded.pair(1)] == [404, 404]
        assert final.has(pair.recorded.pair(1)[1].facts.response_ns)


def test_expect_continue(capture: Capture) -> None:
    """A body that waits for 100 Continue belongs to the request before it."""
    with connected(capture) as pair:
        body = FAKE + b"b" * 100
        fields = (f"Content-Length: {len(body)}", "Expect: 100-continue")
        pair.ask(request(1, *fields, method="POST"))
        pair.answer(b"HTTP/1.1 100 Continue\r\n\r\n")
        pair.ask(body)
        pair.answer(response())
        pair.exchange(request(2), response())
        pair.close()
        pair.recorded.finish(4)
        expect_pairs(pair.recorded, [1, 2])
        for one in pair.recorded.pair(1):
            assert (one.facts.status, one.facts.request_body) == (200, len(body))


def test_expectation_refused(capture: Capture) -> None:
    """A request that is refused before its body leaves a connection that is closed: no span but
    its own."""
    with connected(capture) as pair:
        fields = ("Content-Length: 100", "Expect: 100-continue")
        pair.ask(request(1, *fields, method="POST"))
        pair.answer(response(b"", status="417 Expectation Failed"))
        pair.close()
        pair.recorded.finish(2)
        for one in pair.recorded.pair(1):
            assert (one.facts.status, one.end) == (417, End.DONE)


def test_body_after_an_early_response(capture: Capture) -> None:
    """A response may come before the request's body has ended; what follows is in step still."""
    with connected(capture) as pair:
        body = FAKE * 10
        pair.ask(request(1, f"Content-Length: {len(body)}", method="POST") + body[:50])
        pair.answer(response(status="413 Too Large"))
        pair.ask(body[50:])
        pair.exchange(request(2, body=b"xy", method="POST"), response())
        pair.close()
        pair.recorded.finish(4)
        expect_pairs(pair.recorded, [1, 2])
        assert [one.facts.status for one in pair.recorded.pair(1)] == [413, 413]
        assert [one.facts.request_body for one in pair.recorded.pair(2)] == [2, 2]


def tunnel(pair: Connection) -> None:
    """Says things in both directions that look like HTTP and are not."""
    for said in (FAKE, b"\x00\x01 binary", FAKE):
        pair.ask(said)
        pair.answer(FAKE_ANSWER + FAKE)


def test_upgrade(capture: Capture) -> None:
    """101 ends the exchange, and what follows is not HTTP, whatever it looks like."""
    with connected(capture) as pair:
        pair.exchange(request(1), response())
        pair.ask(request(2, "Connection: Upgrade", "Upgrade: websocket"))
        pair.answer(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
        tunnel(pair)
        pair.close()
        pair.recorded.finish(4)
        expect_pairs(pair.recorded, [1, 2])
        for one in pair.recorded.pair(2):
            assert one.facts.status == 101
            assert one.facts.flags & Flag.UPGRADED


def test_upgrade_with_tunnel_bytes_in_the_same_call(capture: Capture) -> None:
    """Bytes behind the 101 in its own call are not HTTP either."""
    with connected(capture) as pair:
        pair.ask(request(1, "Connection: Upgrade", "Upgrade: x"))
        pair.answer(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n" + FAKE_ANSWER)
        tunnel(pair)
        pair.close()
        pair.recorded.finish(2)
        expect_pairs(pair.recorded, [1])


def test_refused_upgrade(capture: Capture) -> None:
    """An upgrade that the server ignores is an exchange like others."""
    with connected(capture) as pair:
        pair.exchange(request(1, "Connection: Upgrade", "Upgrade: h2c"), response())
        pair.exchange(request(2), response())
        pair.close()
        pair.recorded.finish(4)
        expect_pairs(pair.recorded, [1, 2])


def test_connect_tunnel(capture: Capture) -> None:
    """CONNECT ends with its 2xx, and what follows is not HTTP."""
    with connected(capture) as pair:
        pair.ask(request(1, method="CONNECT", target="somewhere.test:443"))
        pair.answer(b"HTTP/1.1 200 Connection established\r\n\r\n")
        tunnel(pair)
        pair.close()
        pair.recorded.finish(2)
        assert sorted(one.role for one in pair.recorded.seen) == [Role.SERVER, Role.CLIENT]
        for one in pair.recorded.seen:
            assert one.target == "somewhere.test:443"
            assert one.facts.method == Method.CONNECT
            assert (one.facts.status, one.end) == (200, End.DONE)


def test_refused_connect(capture: Capture) -> None:
    """A CONNECT that is refused has a body, and the connection stays HTTP."""
    with connected(capture) as pair:
        pair.ask(request(1, method="CONNECT", target="somewhere.test:443"))
        pair.answer(response(FAKE_ANSWER, status="403 Forbidden"))
        pair.exchange(request(2), response())
        pair.close()
        pair.recorded.finish(4)
        assert len(pair.recorded.seen) == 4, str(pair.recorded)
        expect_pair(pair.recorded, 2)


def test_targets(capture: Capture) -> None:
    """Absolute-form, asterisk, query and odd bytes of a target come out as they were sent."""
    targets = [
        "http://far.test:81/n/1",
        "*",
        "/n/3?a=1&b=%2F",
        "/n/4?q=" + "ü€".encode().decode("latin-1"),
        "//n/5",
    ]
    with connected(capture) as pair:
        for target in targets:
            pair.exchange(request(0, method="OPTIONS", target=target), response())
        pair.close()
        pair.recorded.finish(2 * len(targets))
        for role in (Role.SERVER, Role.CLIENT):
            assert [one.target for one in pair.recorded.of(role)] == targets


def test_http10(capture: Capture) -> None:
    """HTTP/1.0 with keep-alive is followed, and its version told."""
    with connected(capture) as pair:
        for number in (1, 2):
            pair.exchange(
                request(number, "Connection: keep-alive", version="HTTP/1.0"),
                response(b"old", "Connection: keep-alive", version="HTTP/1.0"),
            )
        pair.close()
        pair.recorded.finish(4)
        expect_pairs(pair.recorded, [1, 2])
        assert {one.facts.version for one in pair.recorded.seen} == {10}
        assert {one.span.attributes["network.protocol.version"] for one in pair.recorded.seen} == {
            "1.0"
        }


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "POST"])
def test_methods(capture: Capture, method: str) -> None:
    """Every known method has its number."""
    with connected(capture) as pair:
        pair.exchange(request(1, method=method), response())
        pair.close()
        pair.recorded.finish(2)
        assert {one.facts.method for one in expect_pair(pair.recorded, 1)} == {Method[method]}


@pytest.mark.parametrize("method", ["BREW", "PROPFIND", "VERSION-CONTROL", "M-SEARCH", "GETS"])
def test_other_methods(capture: Capture, method: str) -> None:
    """A method without a number keeps its name."""
    with connected(capture) as pair:
        pair.exchange(request(1, method=method), response())
        pair.close()
        pair.recorded.finish(2)
        for one in expect_pair(pair.recorded, 1):
            assert one.facts.method == Method.OTHER
            assert one.span.attributes["http.request.method_original"] == method


def test_bare_line_feeds(capture: Capture) -> None:
    """Lines that end in a line feed alone are lines (RFC 9112, 2.2)."""
    with connected(capture) as pair:
        pair.ask(b"GET /n/1 HTTP/1.1\nHost: bare\nContent-Length: 3\n\nabc")
        pair.answer(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok")
        pair.exchange(request(2), response())
        pair.close()
        pair.recorded.finish(4)
        expect_pairs(pair.recorded, [1, 2])


def test_contradicting_framing_is_given_up(capture: Capture) -> None:
    """Two different lengths leave nobody who could know where the body ends: given up for good,
    and counted."""
    with connected(capture) as pair:
        pair.exchange(request(1), response())
        pair.ask(request(2, "Content-Length: 3", "Content-Length: 4", method="POST"))
        pair.answer(response())
        pair.exchange(request(3), response())
        pair.close()
        pair.recorded.finish(2)
        expect_pairs(pair.recorded, [1])
        assert pair.recorded.counted(Counter.LOST_BAD_FRAMING) == 2


def test_nonsense_after_http_is_given_up(capture: Capture) -> None:
    """A connection that stops speaking HTTP is given up for good, even if it comes back."""
    with connected(capture) as pair:
        pair.exchange(request(1), response())
        pair.exchange(b"\x16\x03\x01 nonsense\r\n\r\n", response())
        pair.exchange(request(2), response())
        pair.close()
        pair.recorded.finish(2)
        expect_pairs(pair.recorded, [1])
        assert pair.recorded.counted(Counter.LOST_BAD_FRAMING) == 2
