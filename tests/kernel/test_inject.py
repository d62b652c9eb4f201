"""Headers for strangers: exactly our line more, at the right place, once, and nothing else, whoever
sends whatever in whichever way. Each test runs in both modes: into the first request of each
connection, and into every one."""

import hashlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from peers.http2_fields import FIELD_LENGTH, PREFACE, fields_in

from kernel.capturing import (
    PATIENCE_S,
    THREADED,
    TRACED,
    Actor,
    Recording,
    entries,
    open_connection,
    recording,
    request,
    response,
)
from kernel.strangers import (
    Line,
    Stranger,
    forget_peers,
    head_starts,
    left_alone,
    lines_at,
    receive_all,
    receive_to,
    written,
)
from kernel.support import unavailable
from waggle import injecting
from waggle.capture import Capture
from waggle.capture_options import CaptureOptions
from waggle.layout import Counter, Flag, Link, ProcessMode, Role

LENGTH = int(os.environ.get("WAGGLE_TEST_SOAK", "1"))
SENDERS = ("write", "writev", "send", "sendto", "sendmsg", "sendmmsg")
FAKE = b"GET /fake/1 HTTP/1.1\r\nHost: fake\r\n\r\n"
MEGABYTE = 1 << 20


@pytest.fixture(scope="module", params=["first", "always"])
def capture(request: pytest.FixtureRequest) -> Iterator[Capture]:
    loaded = Capture.open(CaptureOptions(inject=True))
    try:
        begin(loaded, request.param == "first")
        yield loaded
    finally:
        loaded.close()


def begin(capture: Capture, first_only: bool) -> None:
    """Skips the test where this kernel does not allow it."""
    mode = "first" if first_only else "always"
    decision = injecting.begin(capture, mode, ["loopback", "never=127.0.0.9"])
    if decision.mode != mode:
        unavailable(decision.reason)


def test_verified_quickly(capture: Capture) -> None:
    """A start waits no longer for what writes headers to be verified than for what sees all calls:
    both lead to the same parsers, and what is written adds little."""
    writes, sees = (
        capture.bpf.program(name).info().verified_insns for name in ("inject_header", "socket_call")
    )
    assert 0 < writes < 1.5 * sees


@pytest.fixture
def first_only(capture: Capture, request: pytest.FixtureRequest) -> bool:
    """Whether only the first request of a connection gets a line."""
    return str(request.node.callspec.params["capture"]) == "first"


@contextmanager
def scene(
    capture: Capture, address: str = "127.0.0.1"
) -> Iterator[tuple[Recording, Actor, Stranger]]:
    """A traced client, and a stranger where it is known that HTTP/1 is spoken."""
    stranger = Stranger(address)
    try:
        with recording(capture, TRACED) as recorded:
            client = recorded.actor()
            stranger.teach(recorded, client)
            recorded.wait(1)
            recorded.begin_again()
            yield recorded, client, stranger
    finally:
        stranger.close()


def answer(sock: socket.socket, client: Actor, name: str = "c") -> None:
    sock.sendall(response())
    client.receive_to(name, b"ok")


def end(sock: socket.socket, client: Actor, name: str = "c") -> bytes:
    """The client closes; what came until then and was not received yet."""
    client.close(name)
    return receive_all(sock)


def expect_line_of(recorded: Recording, number: int, line: Line) -> None:
    """The line names the exported client span of that number, as it was sampled."""
    recorded.wait(1)
    (one,) = (seen for seen in recorded.of(Role.CLIENT) if seen.number == number)
    assert line.trace_id == one.span.trace_id
    assert line.span_id == one.span.span_id
    assert line.flags == one.facts.trace_flags


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("sender", SENDERS)
def test_the_line_names_the_exported_span(
    capture: Capture, first_only: bool, sender: str, address: str
) -> None:
    """By every way to send: one line behind the request line, with the ids and the flags that the
    client's span is exported with; and all other bytes as they were."""
    with scene(capture, address) as (recorded, client, stranger):
        sent = [request(1, body=FAKE), request(2, body=FAKE)]
        with stranger.connected(client) as sock:
            got = b""
            for one in sent:
                client.send("c", one, how=sender)
                got += receive_to(sock, FAKE)
                answer(sock, client)
            got += end(sock, client)
        places = head_starts(*sent)[: 1 if first_only else 2]
        lines = lines_at(b"".join(sent), got, places)
        recorded.wait(2)
        for number, line in enumerate(lines, 1):
            expect_line_of(recorded, number, line)
        assert not recorded.losses()


def test_behind_every_cut(capture: Capture) -> None:
    """A head that comes in two pieces is left alone, wherever it is cut, and its span is there."""
    sent = request(1, "Content-Type: text/plain", body=b"body")
    head = len(sent) - 4
    with scene(capture) as (recorded, client, stranger):
        for cut in range(1, head):
            with stranger.connected(client) as sock:
                client.do(
                    "send_each",
                    name="c",
                    pieces=[sent[:cut].decode(), sent[cut:].decode()],
                )
                got = receive_to(sock, b"body")
                answer(sock, client)
                lines_at(sent, got + end(sock, client), [])
        recorded.wait(head - 1)
        assert [seen.number for seen in recorded.seen] == [1] * (head - 1)
        assert not written(recorded)
        assert not recorded.losses()


def test_behind_the_head(capture: Capture, first_only: bool) -> None:
    """A body that comes after its head, in one piece or byte by byte, is as it was."""
    body = FAKE * 3
    sent = request(1, body=body)
    head = len(sent) - len(body)
    for pieces in ([sent[:head], body], [sent[:head], *(bytes([byte]) for byte in body)]):
        with scene(capture) as (recorded, client, stranger):
            with stranger.connected(client) as sock:
                client.do("send_each", name="c", pieces=[p.decode() for p in pieces])
                got = receive_to(sock, body)
                answer(sock, client)
                client.send("c", request(2))
                got += receive_to(sock, b"\r\n\r\n")
                answer(sock, client)
                got += end(sock, client)
            places = head_starts(sent, request(2))[: 1 if first_only else 2]
            lines_at(sent + request(2), got, places)
            recorded.wait(2)
            assert sorted(seen.number for seen in recorded.seen) == [1, 2]


CHUNKED = b"24\r\n" + FAKE + b"\r\n0\r\n\r\n"

# What is sent at once -> why no line is written into it; empty: one is.
SHAPES: dict[str, tuple[bytes, str]] = {
    "body": (request(1, method="POST", body=FAKE * 20), ""),
    "chunked": (request(1, "Transfer-Encoding: chunked", method="POST") + CHUNKED, ""),
    "http10": (request(1, version="HTTP/1.0"), ""),
    "query": (request(1, target="/n/1?next=/n/2 HTTP/1.1".replace(" ", "+")), ""),
    "upgrade": (request(1, "Connection: Upgrade", "Upgrade: websocket"), ""),
    "own": (request(1, "traceparent: 00-" + "1" * 32 + "-" + "2" * 16 + "-01"), "HAS_ONE"),
    "own, upper case": (request(1, "TraceParent: x"), "HAS_ONE"),
    "own tracestate": (request(1, "Tracestate: a=b"), "HAS_ONE"),
    "connect": (request(1, method="CONNECT", target="localhost:80"), "FORM"),
    "proxy": (request(1, target="http://elsewhere.example/n/1"), "FORM"),
    "asterisk": (request(1, method="OPTIONS", target="*"), "FORM"),
    "8 KB": (request(1, "X-Long: " + "x" * 7700), "TOO_LARGE"),
    "fields": (request(1, *(f"X-{i}: {i}" for i in range(95))), "TOO_LARGE"),
    "line feeds": (request(1).replace(b"\r\n", b"\n"), "UNSURE"),
    "folded": (request(1, "X-Long: 1\r\n 2"), "UNSURE"),
    "blank before colon": (request(1, "Content-Length : 0"), "UNSURE"),
    "two framings": (
        request(1, "Content-Length: 5", "Transfer-Encoding: chunked", method="POST") + CHUNKED,
        "UNSURE",
    ),
    "empty line first": (b"\r\n" + request(1), "NOT_A_HEAD"),
    "redis": (b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", "NOT_A_HEAD"),
    "tls": (bytes.fromhex("160301006a010000660303") + b"GET / HTTP/1.1\r\n\r\n", "NOT_A_HEAD"),
    "http2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), "NOT_A_HEAD"),
    "smtp": (b"EHLO example.com\r\nGET / HTTP/1.1\r\n\r\n", "NOT_A_HEAD"),
    "rtsp": (b"OPTIONS rtsp://a/b RTSP/1.0\r\nCSeq: 1\r\n\r\n", "NOT_A_HEAD"),
    "yamux": (bytes(12) + FAKE, "NOT_A_HEAD"),
    "short": (b"GET", "NOT_A_HEAD"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(capture: Capture, shape: str) -> None:
    """What is a request by its framing, and has no header of its own, gets a line; all else is as
    it was, and the reason is counted."""
    sent, reason = SHAPES[shape]
    with scene(capture) as (recorded, client, stranger):
        with stranger.connected(client) as sock:
            client.send("c", sent)
            got = end(sock, client)
        lines_at(sent, got, [] if reason else head_starts(sent))
        assert left_alone(recorded) == ({reason: 1} if reason else {})
        assert written(recorded) == (not reason)


def _http2_request(stream: int) -> bytes:
    """A HEADERS frame by static entries alone: POST, http, and a path."""
    block = b"\x83\x86\x04\x04/n/%d" % (stream % 10)
    return len(block).to_bytes(3, "big") + b"\x01\x05" + stream.to_bytes(4, "big") + block


@pytest.mark.parametrize("together", [True, False])
def test_http2(capture: Capture, first_only: bool, together: bool) -> None:
    """Sockets that leave with their first message take a stream along only if that has one; the
    others go on to be given fields. None is enrolled longer for it."""
    preface = PREFACE + bytes(3) + b"\4" + bytes(5)
    sent = [preface + _http2_request(1)] if together else [preface, _http2_request(1)]
    sent += [_http2_request(3), _http2_request(5)]
    with scene(capture) as (recorded, client, stranger):
        with stranger.connected(client) as sock:
            got = b""
            for number, message in enumerate(sent):
                client.send("c", message)
                expected = sum(map(len, sent[: number + 1])) + FIELD_LENGTH * written(recorded)
                got += receive_to_count(sock, expected - len(got))
                assert entries(capture, "enrolled") == (not first_only)
            got += end(sock, client)
        streams = [1] * together if first_only else [1, 3, 5]
        assert [one.stream for one in fields_in(b"".join(sent), got)] == streams
        assert not recorded.losses()


def test_pipelined(capture: Capture) -> None:
    """Of requests that are sent before the first is answered, only the first gets a line."""
    sent = [request(number) for number in range(1, 6)]
    with scene(capture) as (recorded, client, stranger):
        with stranger.connected(client) as sock:
            client.send("c", b"".join(sent[:3]))
            client.send("c", sent[3])
            client.send("c", sent[4])
            got = receive_to(sock, sent[4][-40:])
            sock.sendall(response() * 5)
            client.do("receive_count", name="c", count=len(response()) * 5)
            got += end(sock, client)
        (line,) = lines_at(b"".join(sent), got, head_starts(sent[0]))
        recorded.wait(5)
        assert sorted(seen.number for seen in recorded.seen) == [1, 2, 3, 4, 5]
        expect_line_of(recorded, 1, line)
        assert not recorded.losses()


def test_expect_continue(capture: Capture) -> None:
    """A body that waits for 100 is as it was, and the next request is found behind it."""
    sent = request(1, f"Content-Length: {len(FAKE)}", "Expect: 100-continue", method="PUT")
    with scene(capture) as (_recorded, client, stranger):
        with stranger.connected(client) as sock:
            client.send("c", sent)
            got = receive_to(sock, b"\r\n\r\n")
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            client.receive_to("c", b"\r\n\r\n")
            client.send("c", FAKE)
            got += receive_to(sock, FAKE)
            answer(sock, client)
            got += end(sock, client)
        lines_at(sent + FAKE, got, head_starts(sent))


def test_answered_before_its_end(capture: Capture) -> None:
    """Where a request was answered before all of it was sent, nobody knows whether the rest comes:
    no later request of the connection gets a line."""
    sent = request(1, f"Content-Length: {len(FAKE)}", "Expect: 100-continue", method="PUT")
    with scene(capture) as (_recorded, client, stranger):
        with stranger.connected(client) as sock:
            client.send("c", sent)
            got = receive_to(sock, b"\r\n\r\n")
            sock.sendall(response(status="417 Expectation Failed"))
            client.receive_to("c", b"ok")
            client.send("c", FAKE)
            client.send("c", request(2))
            got += receive_to(sock, request(2)[-30:])
            answer(sock, client)
            got += end(sock, client)
        lines_at(sent + FAKE + request(2), got, head_starts(sent))


def test_upgraded(capture: Capture) -> None:
    """What is sent after 101 or a CONNECT's 200 is nobody's request, whatever it looks like."""
    for sent, answered, lines in (
        (
            request(1, "Connection: Upgrade", "Upgrade: websocket"),
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
            1,
        ),
        (
            request(1, method="CONNECT", target="elsewhere:80"),
            b"HTTP/1.1 200 OK\r\n\r\n",
            0,
        ),
    ):
        with scene(capture) as (recorded, client, stranger):
            with stranger.connected(client) as sock:
                client.send("c", sent)
                got = receive_to(sock, b"\r\n\r\n")
                sock.sendall(answered)
                client.receive_to("c", b"\r\n\r\n")
                for _ in range(3):
                    client.send("c", FAKE)
                got += end(sock, client)
            lines_at(sent + FAKE * 3, got, head_starts(sent)[:lines])
            assert written(recorded) == lines


# In a soak, as large as uploads are.
LARGE = 8 * MEGABYTE if LENGTH == 1 else 100 * MEGABYTE


@pytest.mark.parametrize("size", [1000, 6000, 40_000, 300_000, LARGE])
def test_uploads(capture: Capture, size: int) -> None:
    """A body of any size, sent with its head in one call, arrives as it was sent."""
    pattern = "".join(chr(33 + i % 90) for i in range(997))
    body = (pattern.encode() * (size // 997 + 1))[:size]
    head = request(1, f"Content-Length: {size}", method="POST")
    with scene(capture) as (recorded, client, stranger):
        with stranger.connected(client) as sock:
            sending = client.start(
                "send_pattern",
                name="c",
                head=head.decode(),
                pattern=pattern,
                size=size,
                call_size=MEGABYTE,
            )
            got = receive_to_count(sock, len(head) + 70 + size)
            sending.get()
            answer(sock, client)
            got += end(sock, client)
        place = head_starts(head)[0]
        lines_at(head, got[: len(head) + 70], [place])
        assert hashlib.sha256(got[len(head) + 70 :]).digest() == hashlib.sha256(body).digest()
        recorded.wait(1)
        (one,) = recorded.seen
        assert one.facts.request_body == size
        assert not recorded.losses()


def receive_to_count(sock: socket.socket, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        piece = sock.recv(MEGABYTE)
        assert piece, f"the stream ended after {len(got)} of {count} bytes"
        got += piece
    return bytes(got)


@pytest.mark.parametrize("size", [10, 100, 5000, 30_000, 100_000])
def test_many_sizes_on_many_connections(capture: Capture, size: int) -> None:
    """Wherever the pieces of the kernel's memory begin and end, requests stay whole."""
    with scene(capture) as (recorded, client, stranger):
        for number in range(1, 25 * LENGTH + 1):
            sent = request(number, method="POST", body=bytes([64 + number % 60]) * size)
            with stranger.connected(client) as sock:
                client.send("c", sent)
                got = receive_to_count(sock, len(sent) + 70)
                answer(sock, client)
                lines_at(sent, got + end(sock, client), head_starts(sent))
        recorded.wait(25 * LENGTH)
        assert {seen.facts.request_body for seen in recorded.seen} == {size}
        assert not recorded.losses()


@pytest.mark.parametrize("how", ["sendfile", "splice"])
def test_files(capture: Capture, how: str) -> None:
    """A body that comes from a file by sendfile or splice is as it was."""
    size, pattern = 200_000, "0123456789abcdef"
    head = request(1, f"Content-Length: {size}", method="PUT")
    with scene(capture) as (_recorded, client, stranger):
        with stranger.connected(client) as sock:
            sending = client.start(
                "send_file", name="c", head=head.decode(), pattern=pattern, size=size, how=how
            )
            got = receive_to_count(sock, len(head) + 70 + size)
            sending.get()
            answer(sock, client)
            got += end(sock, client)
        body = (pattern * (size // 16 + 1)).encode()[:size]
        lines_at(head + body, got, head_starts(head))


UNCOPIED = request(2, method="POST", body=b"z" * 200_000)


def expect_own_completions(client: Actor, sock: socket.socket, before: int = 0) -> bytes:
    """What is sent without a copy now is complete as often as it was sent; what arrived of it."""
    sending = client.start("send_uncopied", name="c", data=UNCOPIED.decode())
    got = receive_to_count(sock, len(UNCOPIED))
    (calls,), *completions = sending.get()
    told = [number for first, last in completions for number in range(first, last + 1)]
    assert sorted(told) == list(range(before, before + calls))
    return got


@pytest.mark.parametrize("sends_before", [0, 1])
def test_zerocopy_after_the_connection(
    capture: Capture, first_only: bool, sends_before: int
) -> None:
    """A socket that is given SO_ZEROCOPY once it has connected, or sent, has left when that call
    returns: each send without a copy is told complete once, and nothing is written into it."""
    with scene(capture) as (recorded, client, stranger):
        for _ in range(20 * LENGTH):
            with stranger.connected(client) as sock:
                for _ in range(sends_before):
                    client.send("c", request(1))
                    lines_at(request(1), receive_to(sock, b"\r\n\r\n"), head_starts(request(1)))
                    answer(sock, client)
                stayed = not (first_only and sends_before)
                assert entries(capture, "enrolled") == stayed
                client.do("may_send_uncopied", name="c")
                assert entries(capture, "enrolled") == 0
                got = expect_own_completions(client, sock)
                answer(sock, client)
                lines_at(UNCOPIED, got + end(sock, client), [])
        assert left_alone(recorded) == ({"BUSY": 20 * LENGTH} if stayed else {})


def test_zerocopy_before_the_connection(capture: Capture) -> None:
    """A socket with SO_ZEROCOPY when it connects is never enrolled."""
    with scene(capture) as (recorded, client, stranger):
        client.do("connect_zerocopy", name="c", address=stranger.address)
        with stranger.accept() as sock:
            assert entries(capture, "enrolled") == 0
            got = expect_own_completions(client, sock)
            answer(sock, client)
            lines_at(UNCOPIED, got + end(sock, client), [])
        assert left_alone(recorded) == {"BUSY": 1}


def test_zerocopy_while_connecting(capture: Capture) -> None:
    """Nor is one that is given it while the connection is coming to be, taken back or not."""
    with scene(capture) as (recorded, client, stranger):
        with stranger.busy():
            client.do("begin_connect", name="c", address=stranger.address)
            client.do("may_send_uncopied", name="c")
            client.do("may_send_uncopied", name="c", on=False)
        with stranger.accept() as sock:
            client.do("end_connect", name="c")
            assert entries(capture, "enrolled") == 0
            client.do("may_send_uncopied", name="c")
            got = expect_own_completions(client, sock)
            answer(sock, client)
            lines_at(UNCOPIED, got + end(sock, client), [])
        assert left_alone(recorded) == {"BUSY": 1}


def test_zerocopy_in_the_middle_of_an_upload(capture: Capture) -> None:
    """Whoever is sending when the option is set sends on, and every byte arrives."""
    size = 4 * MEGABYTE
    head = request(1, f"Content-Length: {size}", method="POST")
    with scene(capture) as (_recorded, client, stranger):
        with stranger.connected(client) as sock:
            client.do("set_option", name="c", option="SO_SNDBUF", value=20_000)
            sending = client.start(
                "send_pattern",
                name="c",
                head=head.decode(),
                pattern="slow",
                size=size,
                call_size=MEGABYTE,
                thread="sender",
            )
            got = receive_to_count(sock, len(head) + 70)
            client.do("may_send_uncopied", name="c")
            assert entries(capture, "enrolled") == 0
            got += receive_to_count(sock, size - (len(got) - len(head) - 70))
            sending.get()
            got += expect_own_completions(client, sock)
            got += end(sock, client)
        lines_at(head + b"slow" * (size // 4) + UNCOPIED, got, head_starts(head))


@contextmanager
def on_cpu(process: int, number: int) -> Iterator[None]:
    before = os.sched_getaffinity(process)
    os.sched_setaffinity(process, {number})
    try:
        yield
    finally:
        os.sched_setaffinity(process, before)


def test_zerocopy_that_cannot_leave() -> None:
    """Where a socket cannot be taken out at once, though the trial said so, that is counted, and no
    socket is enrolled from then on."""
    here, there, *_ = [*sorted(os.sched_getaffinity(0)), None]
    if there is None:
        pytest.skip("needs two CPUs: one without a timer of its own")
    one_timer = CaptureOptions(inject=True, max_entries={"leavers": here + 1})
    capture = Capture.open(one_timer)
    try:
        with on_cpu(0, here):
            begin(capture, first_only=True)
        with scene(capture) as (recorded, client, stranger), on_cpu(client.pid, there):
            for enrolled in (1, 0):
                with stranger.connected(client) as sock:
                    assert entries(capture, "enrolled") == enrolled
                    client.do("may_send_uncopied", name="c")
                    lines_at(b"", end(sock, client), [])
            assert left_alone(recorded) == {"BUSY": 1, "STAYED": 1}
    finally:
        capture.close()


def _told(option: list[int], error: int) -> int:
    *_, null = option
    return bool(error) if null else error


def test_other_options(capture: Capture, first_only: bool) -> None:
    """What setsockopt() accepts of anybody is what it accepts while nothing is watched: values of
    any length, none at all, options that are not there. Only which error is told of a pointer to
    nowhere may differ."""
    options = [
        [level, option, length, null]
        for level, option in ((1, 8), (1, 60), (1, 27), (6, 1), (6, 31), (0, 1), (0, 48), (1, 999))
        for length in (0, 2, 4, 8, 4096, 5000, 70_000)
        for null in (False, True)
    ]
    client = Actor()
    capture.stop_injecting()
    try:
        client.listen()
        plain = client.do("try_options", name="listener", options=options)
        begin(capture, first_only)
        watched = client.do("try_options", name="listener", options=options)
        assert list(map(_told, options, watched)) == list(map(_told, options, plain))
        assert 0 in plain and len(set(plain)) > 2
    finally:
        client.end()


@pytest.mark.parametrize("old", [True, False])
def test_rings(capture: Capture, first_only: bool, old: bool) -> None:
    """A process with a ring of io_uring, older than the agent or not, can send without a copy: its
    sockets are never enrolled."""
    with scene(capture) as (recorded, client, stranger):
        client.do("make_ring")
        if old:
            capture.stop_injecting()
            begin(capture, first_only)
        with stranger.connected(client) as sock:
            sent = request(1).decode()
            assert entries(capture, "enrolled") == 0
            assert client.do("send_by_ring", name="c", data=sent, uncopied=True) == len(sent)
            lines_at(request(1), end(sock, client), [])
        assert left_alone(recorded) == {"BUSY": 1}


def test_half_close_and_reset(capture: Capture) -> None:
    """A client that ends its sending gets its answer; one whose peer resets gets the error."""
    with scene(capture) as (_recorded, client, stranger):
        with stranger.connected(client) as sock:
            client.send("c", request(1))
            client.do("end_sending", name="c")
            lines_at(request(1), receive_all(sock), head_starts(request(1)))
            answer(sock, client)
            client.close("c")
        with stranger.connected(client) as sock:
            client.send("c", request(2))
            lines_at(request(2), receive_to(sock, b"\r\n\r\n"), head_starts(request(2)))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            assert client.do("receive_failing", name="c") == "ConnectionResetError"
            client.close("c")


def test_slow_reader(capture: Capture) -> None:
    """A client that does not block, with a full socket, sends every byte once."""
    size = 4 * MEGABYTE
    head = request(1, f"Content-Length: {size}", method="POST")
    with scene(capture) as (_recorded, client, stranger):
        with stranger.connected(client) as sock:
            client.do("set_option", name="c", option="SO_SNDBUF", value=20_000)
            client.do("set_blocking", name="c", on=False)
            sending = client.start(
                "send_pattern",
                name="c",
                head=head.decode(),
                pattern="slow",
                size=size,
                call_size=100_000,
            )
            time.sleep(0.05)  # it fills up
            got = receive_to_count(sock, len(head) + 70 + size)
            assert sending.get() > 0, "no call was cut short"
            client.do("set_blocking", name="c", on=True)
            answer(sock, client)
            got += end(sock, client)
        lines_at(head + b"slow" * (size // 4), got, head_starts(head))


def test_nobody_stays(capture: Capture, first_only: bool) -> None:
    """With its first bytes a connection leaves, request or not; closed ones are all gone."""
    with scene(capture) as (recorded, client, stranger):
        for sent in (request(1), b"*1\r\n$4\r\nPING\r\n", request(1)[:20]):
            with stranger.connected(client) as sock:
                before = entries(capture, "enrolled")
                client.send("c", sent)
                receive_to(sock, sent[-10:])
                stays = not first_only and sent != b"*1\r\n$4\r\nPING\r\n"
                assert before == 1
                assert entries(capture, "enrolled") == stays
                end(sock, client)
        assert entries(capture, "enrolled") == 0
        assert recorded.counted(Counter.INJECT_ENROLLED) == 3


def test_unknown_peer(capture: Capture, first_only: bool) -> None:
    """Where nobody has answered by HTTP/1, sockets that would be sick are not enrolled."""
    stranger = Stranger()
    with recording(capture, TRACED) as recorded:
        client = recorded.actor()
        forget_peers(recorded)
        with stranger.connected(client) as sock:
            assert entries(capture, "enrolled") == (not first_only)
            client.send("c", request(1))
            got = end(sock, client)
        lines_at(request(1), got, [] if first_only else head_starts(request(1)))
        assert left_alone(recorded) == ({"UNKNOWN_PEER": 1} if first_only else {})
    stranger.close()


def test_destinations(capture: Capture) -> None:
    """Where a rule says never, or none says yes, sockets are left alone."""
    stranger = Stranger("127.0.0.9")
    with recording(capture, TRACED) as recorded:
        client = recorded.actor()
        stranger.teach(recorded, client)
        with stranger.connected(client) as sock:
            client.send("c", request(1))
            lines_at(request(1), end(sock, client), [])
        assert left_alone(recorded) == {"ELSEWHERE": 2}
    stranger.close()


def test_untraced(capture: Capture) -> None:
    """Processes that are not traced are not touched."""
    stranger = Stranger()
    with recording(capture, TRACED) as recorded:
        stranger.teach(recorded, recorded.actor())
        client = recorded.actor(traced=False)
        with stranger.connected(client) as sock:
            client.send("c", request(1))
            lines_at(request(1), end(sock, client), [])
        client.end()
    stranger.close()


# Both lines are written by the powers of two that their length is made of, the rest in one word.
_BOTH_LINES = (*range(114, 119), 127, 128, 129, 255, 256, 257, 511, 512, 513)
_AROUND = len("traceparent: \r\ntracestate: \r\n") + 55
STATES = {
    **{f"{n} bytes": (("tracestate: a=" + "x" * (n - _AROUND - 2),), True) for n in _BOTH_LINES},
    "plain": (("tracestate: rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",), True),
    "longest": (("tracestate: a=" + "x" * 510,), True),
    "blanks around": (("tracestate:   a=b  ",), True),
    "none": ((), False),
    "too long": (("tracestate: a=" + "x" * 511,), False),
    "two fields": (("tracestate: a=b", "tracestate: c=d"), False),
    "a carriage return in it": (("tracestate: a=b\rX-Evil: 1",), False),
    "more than ASCII": (("tracestate: a=\u00e9",), False),
}


@pytest.mark.parametrize("name", STATES)
def test_tracestate(capture: Capture, name: str) -> None:
    """What a request brought as its tracestate goes on with the call that is part of it, as it
    came; what should be in no header, or came in several fields, does not."""
    fields, goes_on = STATES[name]
    trace_id, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    asked = request(1, f"traceparent: 00-{trace_id}-{caller}-01", *fields)
    sent = request(2, body=FAKE)
    stranger = Stranger()
    with recording(capture, THREADED) as recorded:
        stranger.teach(recorded, recorded.actor())
        service = recorded.actor()
        place = service.listen()
        with socket.create_connection(tuple(place)) as outside:
            service.do("accept", listener="listener", name="s")
            outside.sendall(asked)
            service.receive_to("s", b"\r\n\r\n")
            with stranger.connected(service) as sock:
                service.send("c", sent)
                got = receive_to(sock, FAKE)
                answer(sock, service)
                got += end(sock, service)
            service.send("s", response())
            receive_to(outside, b"ok")
        if goes_on:
            state = fields[0].partition(":")[2].strip()
            line = f"\r\ntracestate: {state}\r\n".encode()
            assert got.count(line) == 1
            got = got.replace(line, b"\r\n")
        (written_line,) = lines_at(sent, got, head_starts(sent))
        recorded.wait(3)
        (call,) = (one for one in recorded.of(Role.CLIENT) if one.number == 2)
        assert call.link == Link.THREAD, str(recorded)
        assert written_line.trace_id.hex() == trace_id
        assert written_line.span_id == call.span.span_id
    stranger.close()


@pytest.mark.parametrize("headers_first", [False, True])
def test_calls_that_wait_for_a_proof(headers_first: bool) -> None:
    """A call whose parent is proven later has no header, and what it waits with is told as without
    headers; only where headers were asked for by name do they go first."""
    capture = Capture.open(CaptureOptions(inject=True, headers_first=headers_first))
    stranger = Stranger()
    try:
        begin(capture, first_only=True)
        with recording(capture, TRACED | ProcessMode.RULE_ALONE) as recorded:
            service = recorded.actor()
            stranger.teach(recorded, service)
            place = service.listen()
            with socket.create_connection(tuple(place)) as outside:
                service.do("accept", listener="listener", name="s")
                outside.sendall(request(1))
                service.receive_to("s", b"\r\n\r\n")
                with stranger.connected(service) as sock:
                    service.send("c", request(2))
                    got = receive_to(sock, b"\r\n\r\n")
                    answer(sock, service)
                    got += end(sock, service)
                service.send("s", response())
                receive_to(outside, b"ok")
            lines_at(request(2), got, head_starts(request(2)) if headers_first else [])
            recorded.wait(3)
            (call,) = (one for one in recorded.of(Role.CLIENT) if one.number == 2)
            assert bool(call.facts.flags & Flag.TRACE_PENDING) == (not headers_first)
            assert left_alone(recorded).get("UNDECIDED", 0) == (not headers_first)
            assert recorded.counted(Counter.TURN_CALLS) == (not headers_first)
    finally:
        stranger.close()
        capture.close()


def test_both_ends_traced(capture: Capture, first_only: bool) -> None:
    """With the server traced as well, hand-off and header say the same, request by request."""
    with recording(capture, TRACED) as recorded:
        server, client = recorded.actor(), recorded.actor()
        for connection in range(3):
            pair = open_connection(server, client, recorded, name=f"c{connection}")
            for number in range(3):
                pair.ask(request(10 * connection + number, body=b"some body"))
                pair.answer(response(b"ok" * 30))
            pair.close()
        recorded.finish(18)
        for number in (0, 1, 2, 10, 11, 12, 20, 21, 22):
            asked, served = recorded.pair(number)
            assert served.span.parent_id == asked.span.span_id, str(recorded)
            assert served.span.trace_id == asked.span.trace_id
            assert served.link == Link.SOCKET
            assert asked.facts.request_body == served.facts.request_body == 9
        assert written(recorded) >= (2 if first_only else 9)
        assert not recorded.losses()
        assert not recorded.left_behind()


@pytest.mark.parametrize("size", [100, 7000, 40_000, 70_000])
@pytest.mark.parametrize("own", [False, True])
def test_nobody_waits_for_an_acknowledgement(capture: Capture, own: bool, size: int) -> None:
    """A client that has not set TCP_NODELAY, on a connection where both sides take turns, sends a
    request as quickly as without us: no part of it waits for the other end's delayed
    acknowledgement (40 ms), whether or not it is given a line."""
    fields = [f"traceparent: 00-{'ab' * 16}-{'12' * 8}-01"] if own else []
    with scene(capture) as (_recorded, client, stranger), stranger.connected(client) as sock:
        client.do("no_delay", name="c", on=False)
        took = []
        for number in range(30):
            sent = request(number, *fields, body=b"b" * size)
            begun = time.monotonic()
            promise = client.start("send", name="c", pieces=[sent.decode()], how="send")
            got = b""
            while len(got) < len(sent) or not got.endswith(b"b" * size):
                got += sock.recv(1 << 20)
            took.append(time.monotonic() - begun)
            promise.get()
            answer(sock, client)
        assert min(took[15:]) < 0.03, took


def test_blocked_reader(capture: Capture, first_only: bool) -> None:
    """Once its request is out a socket is as any other: what is unread is counted, and who waits
    for more gets the end or the reset."""
    if not first_only:
        pytest.skip("the kernel decides, and the trial at the start has told")
    with scene(capture) as (_recorded, client, stranger):
        for reset in (False, True):
            with stranger.connected(client) as sock:
                client.send("c", request(1))
                receive_to(sock, b"\r\n\r\n")
                verb = "receive_failing" if reset else "receive"
                waiting = client.start(verb, name="c")
                time.sleep(0.05)  # until it waits; if it does not yet, the test proves less
                if reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
                assert waiting.get() == ("ConnectionResetError" if reset else "")
                client.close("c")
        with stranger.connected(client) as sock:
            client.send("c", request(1))
            receive_to(sock, b"\r\n\r\n")
            sock.sendall(b"x" * 100)
            deadline = time.monotonic() + PATIENCE_S
            while client.do("unread", name="c") != 100:
                assert time.monotonic() < deadline, "FIONREAD"
            client.close("c")
