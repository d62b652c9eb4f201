"""Fields for strangers that speak HTTP/2: a HEADERS frame that begins a stream is longer by exactly
our field, and every other byte is as it was sent, whoever sends whatever in whichever way."""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import hpack
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from hyperframe.frame import ContinuationFrame, DataFrame, HeadersFrame, SettingsFrame
from peers.http2_fields import FIELD_LENGTH, Added, fields_in

from kernel.capturing import TRACED, Actor, entries, request, response
from kernel.strangers import Stranger, left_alone, receive_all, written
from kernel.streams import Stream, StreamRecording, both, talking
from kernel.support import unavailable
from waggle import injecting
from waggle.capture import Capture
from waggle.capture_options import CaptureOptions
from waggle.layout import Block, Link, ProcessMode, Protocol, Role

SENDERS = ("write", "writev", "send", "sendto", "sendmsg", "sendmmsg")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize()
Pair = tuple[str, str] | tuple[str, str, bool]
"""A field, and whether it must not become an entry."""
REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "a"),
    (":path", "/n/1"),
]
OWN = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


@pytest.fixture(scope="module")
def capture() -> Iterator[Capture]:
    loaded = Capture.open(CaptureOptions(inject=True))
    decision = injecting.begin(loaded, "always", ["loopback"])
    if decision.mode != "always":
        loaded.close()
        unavailable(decision.reason)
    yield loaded
    loaded.close()


@dataclass
class Scene:
    """A traced client that speaks HTTP/2 to a stranger."""

    recorded: StreamRecording
    client: Actor
    stranger: Stranger
    sock: socket.socket
    encoder: hpack.Encoder = field(default_factory=hpack.Encoder)
    sent: bytes = b""
    got: bytes = b""

    def head(self, stream: int, *more: Pair, end: bool = True, huffman: bool = True) -> bytes:
        fields: list[Pair] = [*REQUEST, *more]
        block = self.encoder.encode(fields, huffman=huffman)
        return HeadersFrame(
            stream, block, flags=["END_HEADERS", *(["END_STREAM"] if end else [])]
        ).serialize()

    def send(self, *messages: bytes, how: str = "send") -> None:
        """Messages one by one, each when the one before has come."""
        for message in messages:
            self.client.send("c", message, how=how)
            self.sent += message
            self.receive()

    def receive(self) -> None:
        """All that is on its way: what was sent, and the fields that were written."""
        expected = len(self.sent) + FIELD_LENGTH * written(self.recorded)
        while len(self.got) < expected:
            piece = self.sock.recv(1 << 20)
            assert piece, f"the stream ended after {len(self.got)} of {expected} bytes"
            self.got += piece

    def upload(self, head: bytes, body: bytes, call_size: int) -> int:
        """A head and a body, so many bytes offered a call: how many calls were cut short."""
        sending = self.client.start(
            "send_pattern",
            name="c",
            head=head.decode("latin-1"),
            pattern=body.decode("latin-1") or "-",
            size=len(body),
            call_size=call_size,
        )
        self.sent += head + body
        while len(self.got) < len(self.sent):
            self.got += self.sock.recv(1 << 20)
        short = int(sending.get())
        self.receive()
        return short

    def turn(self, *messages: bytes) -> None:
        """A service reads a request and sends these in the same turn."""
        pieces = [message.decode("latin-1") for message in messages]
        self.client.do("turn", name="s", mark="\r\n\r\n", to="c", pieces=pieces)
        self.sent += b"".join(messages)

    def end(self) -> list[Added]:
        """The fields in all that came, once the client has closed."""
        self.client.close("c")
        self.got += receive_all(self.sock)
        return fields_in(self.sent, self.got)

    def expect_spans(self, added: Sequence[Added], count: int) -> list[Stream]:
        """Each field names the exported span of its stream. count: streams there must be."""
        streams = {one.stream: one for one in self.recorded.streams(count, patience_s=30)}
        assert len(streams) == count
        for one in added:
            span = streams[one.stream]
            assert span.role == Role.CLIENT
            assert (one.trace_id, one.span_id) == (span.ids("trace_id"), span.ids("span_id"))
            assert one.flags == span.row["trace_flags"]
            assert "traceparent" not in dict(span.blocks[Block.REQUEST])
        assert not self.recorded.losses()
        return list(streams.values())


@contextmanager
def scene(capture: Capture, address: str = "127.0.0.1") -> Iterator[Scene]:
    stranger = Stranger(address)
    recorded = StreamRecording(capture, TRACED)
    try:
        client = recorded.actor()
        with stranger.connected(client) as sock:
            client.do("no_delay", name="c")
            yield Scene(recorded, client, stranger, sock)
    finally:
        recorded.dismiss()
        stranger.close()


@contextmanager
def serving(capture: Capture) -> Iterator[tuple[Scene, Actor, socket.socket]]:
    """A traced service that speaks HTTP/2 to a stranger, and on its connection `s` HTTP/1 with
    whoever asks it: the other end of that."""
    stranger = Stranger()
    recorded = StreamRecording(capture, TRACED | ProcessMode.RULE_TURN)
    try:
        service = recorded.actor()
        with socket.create_connection(tuple(service.listen())) as outside:
            service.do("accept", listener="listener", name="s")
            with stranger.connected(service) as sock:
                service.do("no_delay", name="c")
                yield Scene(recorded, service, stranger, sock), service, outside
    finally:
        recorded.dismiss()
        stranger.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("sender", SENDERS)
def test_the_field_names_the_exported_span(capture: Capture, sender: str, address: str) -> None:
    """By every way to send: a stream that begins with the preface and those that begin later have
    one field more, with the ids and the flags that their spans are exported with."""
    with scene(capture, address) as one:
        one.send(PREFACE + one.head(1), one.head(3), one.head(5, ("x", "y")), how=sender)
        added = one.end()
        assert [each.stream for each in added] == [1, 3, 5]
        one.expect_spans(added, 3)
        assert (written(one.recorded), left_alone(one.recorded)) == (3, {})


def test_whoever_receives_it(capture: Capture) -> None:
    """h2 as the server takes what arrives, and sees one header more in each request; its table and
    that of the client go on being the same."""
    server = H2Connection(H2Configuration(client_side=False, header_encoding="ascii"))
    with scene(capture) as one:
        client = H2Connection(H2Configuration(client_side=True, header_encoding="ascii"))
        client.initiate_connection()
        for number in range(40):
            stream = client.get_next_available_stream_id()
            client.send_headers(stream, [*REQUEST, ("x-number", str(number))])
            client.send_data(stream, b"body" * number)
            client.send_headers(stream, [("x-trailer", str(number))], end_stream=True)
            one.send(client.data_to_send())
        added = one.end()
        requests = [each for each in server.receive_data(one.got) if hasattr(each, "headers")]
        assert len(requests) == 80  # each with its trailers
        for number, (request, trailers) in enumerate(
            zip(requests[::2], requests[1::2], strict=True)
        ):
            one_of = added[number]
            value = f"00-{one_of.trace_id}-{one_of.span_id}-{one_of.flags:02x}"
            assert request.headers[4:] == [("x-number", str(number)), ("traceparent", value)]
            assert trailers.headers == [("x-trailer", str(number))]
        one.expect_spans(added, 40)


def test_behind_every_cut(capture: Capture) -> None:
    """A head that comes in two messages is left alone, wherever it is cut. What follows in the
    second message is looked at, but where the frame's own header was cut."""
    with scene(capture) as one:
        secret = ("x-cut", "abcdef", True)
        one.send(PREFACE + one.head(1), one.head(3, secret, end=False))
        length, expected, stream = len(one.head(5, secret)), [1, 3], 5
        for cut in range(1, length):
            whole = one.head(stream, secret, end=False)
            assert len(whole) == length
            body = DataFrame(stream, whole * 2, flags=["END_STREAM"]).serialize()
            one.send(whole[:cut], whole[cut:] + body + one.head(stream + 2))
            expected += [stream + 2] if cut >= 9 else []
            stream += 4
        added = one.end()
        assert [each.stream for each in added] == expected
        one.expect_spans(added, 2 * length)
        counted = left_alone(one.recorded)
        assert counted == {"NOT_A_HEAD": 2 * 8, "CUT": length - 9}


def _padded(scene: Scene, stream: int = 1) -> bytes:
    frame = HeadersFrame(stream, scene.encoder.encode(REQUEST), flags=["END_HEADERS", "PADDED"])
    frame.pad_length = 20
    return frame.serialize()


def _priority(scene: Scene) -> bytes:
    frame = HeadersFrame(1, scene.encoder.encode(REQUEST), flags=["END_HEADERS", "PRIORITY"])
    frame.depends_on, frame.stream_weight = 0, 9
    return frame.serialize()


def _continued(scene: Scene) -> bytes:
    block = scene.encoder.encode(REQUEST)
    first = HeadersFrame(1, block[:5]).serialize()
    return first + ContinuationFrame(1, block[5:], flags=["END_HEADERS"]).serialize()


SHAPES: dict[str, tuple[Callable[[Scene], bytes], list[int], dict[str, int]]] = {
    "plain": (lambda scene: scene.head(1), [1], {}),
    "priority": (_priority, [1], {}),
    "own": (lambda scene: scene.head(1, OWN), [], {"HAS_ONE": 1}),
    "own, not coded": (lambda scene: scene.head(1, OWN, huffman=False), [], {"HAS_ONE": 1}),
    "own tracestate": (lambda scene: scene.head(1, ("tracestate", "a=b")), [], {"HAS_ONE": 1}),
    "padded": (_padded, [], {"FORM": 1}),
    "continued": (_continued, [], {"CUT": 1}),
    "too long": (lambda scene: scene.head(1, ("x", "\x7f" * 2500)), [], {"TOO_LARGE": 1}),
    "too large decoded": (
        lambda scene: scene.head(1, ("x-large", "0" * 6000)),
        [],
        {"TOO_LARGE": 1},
    ),
    "several": (
        lambda scene: scene.head(1) + scene.head(3) + scene.head(5),
        [1, 3, 5],
        {},
    ),
    "several, one with its own": (
        lambda scene: scene.head(1) + scene.head(3, OWN) + scene.head(5),
        [1, 5],
        {"HAS_ONE": 1},
    ),
    "padded between": (
        lambda scene: scene.head(3) + _padded(scene, 5) + scene.head(7) + scene.head(9),
        [3],
        {"FORM": 1, "PIPELINED": 2},
    ),
    "many": (
        lambda scene: b"".join(scene.head(2 * number + 1) for number in range(20)),
        [2 * number + 1 for number in range(16)],
        {"PIPELINED": 4},
    ),
    "data": (lambda scene: DataFrame(1, scene.head(1)).serialize(), [], {"NOT_A_HEAD": 1}),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(capture: Capture, shape: str) -> None:
    """What begins a stream and may grow has a field more; all else is as it was, and the reason is
    counted."""
    make, streams, reasons = SHAPES[shape]
    with scene(capture) as one:
        one.send(PREFACE)
        one.send(make(one))
        assert [each.stream for each in one.end()] == streams
        counted = left_alone(one.recorded)
        counted["NOT_A_HEAD"] -= 1  # the preface
        assert {why: count for why, count in counted.items() if count} == reasons


def test_own_entries(capture: Capture) -> None:
    """A traceparent that a client repeats from its table is its own: no field is added; nor is the
    connection spoiled for streams without one."""
    with scene(capture) as one:
        one.send(PREFACE)
        one.send(one.head(1, OWN), one.head(3, OWN), one.head(5), one.head(7, OWN))
        added = one.end()
        assert [each.stream for each in added] == [5]
        assert left_alone(one.recorded)["HAS_ONE"] == 3


STATES = {
    "short": ("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", True),
    "of one byte's length": ("a=" + "x" * 124, True),
    "of two": ("a=" + "x" * 125, True),
    "of two, longest": ("a=" + "x" * 252, True),
    "of three": ("a=" + "x" * 253, True),
    "longest": ("a=" + "x" * 510, True),
    "too long": ("a=" + "x" * 511, False),
    "more than ASCII": ("a=\u00e9", False),
}


@pytest.mark.parametrize("name", STATES)
def test_tracestate(capture: Capture, name: str) -> None:
    """What a request of HTTP/1 brought as its tracestate goes on as a field with the streams that
    are part of it, as it came, one after the other; where it may not, traceparent goes alone."""
    state, goes_on = STATES[name]
    trace_id, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    asked = request(1, f"traceparent: 00-{trace_id}-{caller}-01", f"tracestate: {state}")
    with serving(capture) as (one, service, outside):
        outside.sendall(asked)
        one.turn(PREFACE + one.head(1, end=False) + one.head(3))
        added = one.end()
        service.send("s", response())
        one.recorded.wait_rows(3, 30)
    calls = [row for row, _ in one.recorded.rows if row["protocol"] == Protocol.HTTP2]
    told = {row["span_id"].tobytes().hex() for row in calls}
    assert [each.stream for each in added] == [1, 3]
    assert {each.span_id for each in added} == told
    assert {each.trace_id for each in added} == {trace_id}
    assert {row["link"] for row in calls} == {Link.TURN}
    assert {each.state for each in added} == {state if goes_on else ""}


def test_a_tracestate_without_room(capture: Capture) -> None:
    """Where a tracestate would make the fields more than servers take, it is left out and
    traceparent goes alone; with the next stream it goes on."""
    state = "a=" + "x" * 510
    with serving(capture) as (one, service, outside):
        outside.sendall(
            request(1, f"traceparent: 00-{'ab' * 16}-{'12' * 8}-01", f"tracestate: {state}")
        )
        large = ("x-large", "0" * 7500, True)
        one.turn(PREFACE + one.head(1), one.head(3, large, huffman=False), one.head(5))
        added = one.end()
        service.send("s", response())
    assert [(each.stream, each.state) for each in added] == [(1, state), (3, ""), (5, state)]


@pytest.mark.parametrize("size", [100, 5000, 16_000, 60_000, 500_000])
def test_uploads(capture: Capture, size: int) -> None:
    """Bodies of any size, whose data looks like streams that begin, arrive as they were behind
    their heads; the streams between them are found."""
    decoy = HeadersFrame(99, b"\x82\x84\x86", flags=["END_HEADERS"]).serialize()
    body = (decoy * (size // len(decoy) + 1))[:size]
    with scene(capture) as one:
        one.send(PREFACE)
        for stream in (1, 3, 5):
            data = [DataFrame(stream, body[at : at + 16_384]) for at in range(0, size, 16_384)]
            message = one.head(stream, end=False) + b"".join(each.serialize() for each in data)
            one.upload(message, b"", 1 << 20)
        added = one.end()
        assert [each.stream for each in added] == [1, 3, 5]
        for span in one.expect_spans(added, 3):
            assert span.row["request_body"] == size


def test_slow_reader(capture: Capture) -> None:
    """A client that does not block, with a full socket, sends every byte once; streams that begin
    while bytes wait, or after calls were cut short, are left alone or have their field."""
    with scene(capture) as one:
        one.client.do("set_option", name="c", option="SO_SNDBUF", value=20_000)
        one.send(PREFACE)
        one.client.do("set_blocking", name="c", on=False)
        short = 0
        for stream in (1, 3, 5, 7):
            frame = DataFrame(stream, b"\0\0\3\1\5\0\0\0\x63\x82\x84\x86" * 1000).serialize()
            short += one.upload(one.head(stream, end=False), frame * 100, 100_000)
        assert short, "no call was cut short"
        one.client.do("set_blocking", name="c", on=True)
        added = one.end()
        for span in one.expect_spans(added, 4):
            assert span.row["request_body"] == 100 * 12_000
        assert {each.stream for each in added} <= {1, 3, 5, 7}
        assert set(left_alone(one.recorded)) <= {"NOT_A_HEAD", "NO_ROOM", "UNSURE"}


@pytest.mark.parametrize("mode", ["always", "first"])
def test_a_trial_that_fails(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what arrives of the trial's frames is not what should, HTTP/2 is left alone and the
    decision says so; HTTP/1 has its lines, and a socket that turns out to speak HTTP/2 leaves."""
    monkeypatch.setattr(injecting, "_FIELD", injecting._FIELD[:-1] + b"1")
    capture = Capture.open(CaptureOptions(inject=True))
    try:
        decision = injecting.begin(capture, mode, ["loopback"])
        if decision.mode != mode:
            unavailable(decision.reason)
        assert "into none of HTTP/2: what arrived of a trial of" in str(decision)
        with scene(capture) as one:
            one.stranger.teach(one.recorded, one.client)
            lines = written(one.recorded)
            assert lines == (mode == "always")  # `first` knows nobody there yet
            with one.stranger.connected(one.client, "d") as sock:
                one.client.send("d", PREFACE + one.head(1) + one.head(3))
                one.client.send("d", one.head(5))
                assert entries(capture, "enrolled") == (mode == "always")  # `c`
                one.client.close("d")
                got = receive_all(sock)
            assert b"traceparent" not in got
            assert (written(one.recorded), left_alone(one.recorded).get("FORM")) == (lines, 1)
    finally:
        capture.close()


def test_both_ends_traced(capture: Capture) -> None:
    """With the server traced as well, hand-off and field say the same, stream by stream, two of
    them in each message, and what the exported head says is what the client sent."""
    with talking(capture) as talk:
        for number in range(0, 10, 2):
            both_streams = (2 * number + 1, 2 * number + 3)
            for stream in both_streams:
                talk.request(stream, f"/n/{stream}", end=False)
                talk.client.send_data(stream, b"body", end_stream=True)
            data = talk.client.data_to_send()
            talk.pair.client.send(talk.pair.name, data)
            size = len(data) + len(both_streams) * FIELD_LENGTH
            talk.pair.server.do("receive_count", name=talk.pair.name, count=size)
            talk.heard["server"] += talk.server.receive_data(data)
            for stream in both_streams:
                talk.answer(stream)
            talk.flush()
        streams = talk.recorded.streams(20, patience_s=30)
        for number in range(10):
            client, server = both(streams, 2 * number + 1)
            assert server.link == Link.SOCKET
            assert server.ids("parent_id") == client.ids("span_id")
            assert server.ids("trace_id") == client.ids("trace_id")
            assert client.row["request_body"] == server.row["request_body"] == 4
            flags = int(client.row["trace_flags"])
            ours = f"00-{client.ids('trace_id')}-{client.ids('span_id')}-{flags:02x}"
            assert ("traceparent", ours) in server.blocks[Block.REQUEST]
            assert "traceparent" not in dict(client.blocks[Block.REQUEST])
        assert not talk.recorded.losses()
        assert written(talk.recorded) == 10
