"""Streams of HTTP/2, spoken by `h2` over real sockets: each one record on each side, that says
what happened."""

from collections.abc import Sequence

import hpack
import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import GoAwayFrame, HeadersFrame

from kernel.capturing import capture_fixture, entries, open_connection
from kernel.streams import StreamRecording, Talk, both, talking
from waggle.capture import Capture
from waggle.layout import (
    Block,
    Counter,
    End,
    Flag,
    Http2Flag,
    Link,
    ProcessMode,
    Role,
    TableEventKind,
)

capture = capture_fixture()

Field = tuple[str, str]
FAMILIES = ("ipv4", "ipv6", "unix")
NEAR_STREAMS = 1024  # bpf/http2_maps.h


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cut", [0, 1, 7])
def test_streams(capture: Capture, family: str, cut: int) -> None:
    """Requests one after the other, however their bytes are cut over calls: whole records whose
    blocks decode to what was sent, and the hand-off holds."""
    with talking(capture, family, cut=cut) as talk:
        for n in range(3):
            stream = 2 * n + 1
            talk.request(stream, f"/n/{n}", ("x-much", "y" * 30), end=False)
            talk.flush()
            talk.client.send_data(stream, b"q" * (10 * n), end_stream=True, pad_length=3)
            talk.flush()
            talk.answer(stream, "200", ("x-answer", str(n)), end=False)
            talk.server.send_data(stream, b"a" * 100)
            talk.server.send_headers(stream, [("x-trailer", "t")], end_stream=True)
            talk.flush()
        streams = talk.recorded.streams(6)
        assert len(streams) == 6
        assert not talk.recorded.losses()
        for n in range(3):
            client, server = both(streams, 2 * n + 1)
            for one in (client, server):
                assert one.end == End.DONE
                assert one.row["status"] == 200
                assert dict(one.blocks[Block.REQUEST])[":path"] == f"/n/{n}"
                assert dict(one.blocks[Block.RESPONSE])["x-answer"] == str(n)
                assert one.blocks[Block.TRAILERS] == [("x-trailer", "t")]
                assert one.row["request_body"] == 10 * n
                assert one.row["response_body"] == 100
                assert one.http2["flags"] & Http2Flag.REQUEST_ENDED
                times = [one.row[name] for name in ("start_ns", "response_ns", "end_ns")]
                assert 0 < times[0] <= one.http2["request_end_ns"] <= times[1] <= times[2]
            assert server.link == Link.SOCKET
            assert server.ids("parent_id") == client.ids("span_id")
            assert server.ids("trace_id") == client.ids("trace_id")


def test_reset(capture: Capture) -> None:
    """RST_STREAM by either end: who sent it cancelled, the other was reset; the code is kept."""
    with talking(capture) as talk:
        talk.request(1, "/by/client", end=False)
        talk.request(3, "/by/server")
        talk.flush()
        talk.client.reset_stream(1, ErrorCodes.CANCEL)
        talk.server.reset_stream(3, ErrorCodes.REFUSED_STREAM)
        talk.flush()
        streams = talk.recorded.streams(4)
        client, server = both(streams, 1)
        assert (client.end, server.end) == (End.STREAM_CANCELLED, End.STREAM_RESET)
        assert client.http2["error"] == server.http2["error"] == ErrorCodes.CANCEL
        client, server = both(streams, 3)
        assert (client.end, server.end) == (End.STREAM_RESET, End.STREAM_CANCELLED)
        assert client.http2["error"] == server.http2["error"] == ErrorCodes.REFUSED_STREAM
        assert len(streams) == 4


def test_reset_after_the_answer(capture: Capture) -> None:
    """A server that has answered and wants no more of the request (RST_STREAM, NO_ERROR) has
    answered: the stream is done, once."""
    with talking(capture) as talk:
        talk.request(1, "/early", end=False)
        talk.flush()
        talk.answer(1, "413")
        talk.server.reset_stream(1, ErrorCodes.NO_ERROR)
        talk.flush()
        streams = talk.recorded.streams(3, patience_s=0.3)
        assert [one.end for one in streams] == [End.DONE, End.DONE]
        assert not streams[0].http2["flags"] & Http2Flag.REQUEST_ENDED
        assert [one.row["status"] for one in streams] == [413, 413]


def test_goaway(capture: Capture) -> None:
    """Streams above the last one that a GOAWAY names were not processed; those up to it go on."""
    with talking(capture) as talk:
        for stream in (1, 3, 5):
            talk.request(stream, f"/n/{stream}")
        talk.flush()
        frame = GoAwayFrame(0, last_stream_id=1, error_code=ErrorCodes.ENHANCE_YOUR_CALM)
        talk.raw("server", frame.serialize())
        talk.answer(1)
        talk.flush()
        streams = talk.recorded.streams(6)
        assert [one.end for one in both(streams, 1)] == [End.DONE, End.DONE]
        for stream in (3, 5):
            for one in both(streams, stream):
                assert one.end == End.GOAWAY
                assert one.http2["error"] == ErrorCodes.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("family", FAMILIES)
def test_connection_closes(capture: Capture, family: str) -> None:
    """What is open when the server closes ends so on both sides, each stream in one record; the
    tables are told to be over, and nothing is left behind."""
    with talking(capture, family) as talk:
        for stream in (1, 3, 5):
            talk.request(stream, f"/n/{stream}")
        talk.flush()
        talk.pair.server.close("c")
        assert talk.pair.client.receive("c") == b""
        talk.pair.client.close("c")
        capture.sweep()
        streams = talk.recorded.streams(6)
        for stream in (1, 3, 5):
            client, server = both(streams, stream)
            assert (client.end, server.end) == (End.PEER_CLOSED, End.LOCAL_CLOSED)
        assert len(streams) == 6
        talk.recorded.finish(0)
        kinds = [event["kind"] for event in talk.recorded.tables.events]
        assert kinds.count(TableEventKind.CLOSED) == 2
        assert not talk.recorded.left_behind()


@pytest.mark.parametrize("status", ["103", "100"])
def test_interim_responses(capture: Capture, status: str) -> None:
    """1xx are counted and not taken for the response, whether their status is literal or, sent
    again, indexed in the dynamic table, where the kernel cannot read it."""
    with talking(capture) as talk:
        for stream in (1, 3):
            talk.request(stream, f"/n/{stream}")
            talk.flush()
            for _ in range(2):
                talk.server.send_headers(stream, [(":status", status)])
            talk.answer(stream, "204", end=False)
            talk.server.end_stream(stream)
            talk.flush()
        for one in talk.recorded.streams(4):
            assert one.end == End.DONE
            assert one.blocks[Block.RESPONSE] == [(":status", "204")]
            assert Block.TRAILERS not in one.blocks
            assert one.http2["interims"] == 2
            assert one.row["status"] == 204


@pytest.mark.parametrize("cut", [0, 1000])
@pytest.mark.parametrize("size", [150, 300, 3000, 12000])
def test_long_blocks(capture: Capture, size: int, cut: int) -> None:
    """Long heads, over CONTINUATION and over calls: whole in a small or a large record, or marked
    as cut; the table events have every block whole, so what follows decodes."""
    with talking(capture, cut=cut) as talk:
        talk.client.max_outbound_frame_size = 1000
        talk.server.max_outbound_frame_size = 1000
        filling = "".join(chr(33 + (n * n) % 90) for n in range(size))
        talk.request(1, "/long", ("x-long", filling))
        talk.flush()
        talk.answer(1, "200", ("x-long", filling))
        talk.request(3, "/after", ("x-long", filling))
        talk.flush()
        talk.answer(3, "200", ("x-long", filling))
        talk.flush()
        streams = talk.recorded.streams(4)
        assert not talk.recorded.losses()
        for one in both(streams, 1):
            assert one.large == (size > 100)
            if size < 1500:
                assert dict(one.blocks[Block.REQUEST])["x-long"] == filling
                assert dict(one.blocks[Block.RESPONSE])["x-long"] == filling
            else:
                assert Block.RESPONSE not in one.blocks
                assert one.http2["block_full"][Block.RESPONSE] > size / 2
        for one in both(streams, 3):
            if size < 4000:
                assert not one.large
                assert dict(one.blocks[Block.REQUEST])["x-long"] == filling


@pytest.mark.parametrize("coded", [True, False])
@pytest.mark.parametrize("index", [True, False])
def test_traceparent(capture: Capture, coded: bool, index: bool) -> None:
    """The context of a request's own header is known at once: literal or Huffman-coded, its name
    literal or in the table."""
    with talking(capture) as talk:
        talk.recorded.trace(talk.pair.client.pid, ProcessMode.EXCLUDED)
        encoder = hpack.Encoder()
        for n in range(4):
            value = f"00-{n:016x}feedbeef89abcdef-{n + 1:016x}-0{n % 2}"
            fields = [(":method", "GET"), (":scheme", "http"), (":path", f"/{n}")]
            fields.append((":authority", "t"))
            block = encoder.encode(fields, huffman=coded)
            block += encoder.add((b"traceparent", value.encode()), not index, coded)
            frame = HeadersFrame(2 * n + 1, block, flags=["END_HEADERS", "END_STREAM"])
            talk.raw("client", frame.serialize())
            talk.server.receive_data(frame.serialize())
            talk.answer(2 * n + 1)
            talk.raw("server", talk.server.data_to_send())
        streams = talk.recorded.streams(4)
        assert len(streams) == 4
        for n, one in enumerate(streams):
            assert one.link == Link.TRACEPARENT
            assert one.ids("trace_id") == f"{n:016x}feedbeef89abcdef"
            assert one.ids("parent_id") == f"{n + 1:016x}"
            assert bool(one.row["flags"] & Flag.UNSAMPLED) == (n % 2 == 0)
            assert one.row["flags"] & Flag.HAD_TRACEPARENT


def ask_by_table(talk: Talk, asked: Sequence[Sequence[Field]], *, coded: bool = True) -> bytes:
    """A request with each of these fields, by a client whose table is one all the time, and its
    answer. Gives the last block."""
    encoder = hpack.Encoder()
    for n, more in enumerate(asked):
        fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "t")]
        block: bytes = encoder.encode([*fields, *more], huffman=coded)
        frame = HeadersFrame(2 * n + 1, block, flags=["END_HEADERS", "END_STREAM"])
        talk.raw("client", frame.serialize())
        talk.server.receive_data(frame.serialize())
        talk.answer(2 * n + 1)
        talk.raw("server", talk.server.data_to_send())
    return block


@pytest.mark.parametrize("coded", [True, False])
def test_a_traceparent_repeated_from_the_table(capture: Capture, coded: bool) -> None:
    """A client that sends a context again, as an index of its table alone, has it taken as if it
    had spelled it: of several that are in the table each its own."""
    ids = [(f"{n + 1:016x}feedbeef89abcdef", f"{n + 1:016x}") for n in range(3)]
    order = [0, 1, 0, 2, 1, 1, 0, 2]
    with talking(capture) as talk:
        talk.recorded.trace(talk.pair.client.pid, ProcessMode.EXCLUDED)
        contexts = [[("traceparent", f"00-{trace}-{span}-01")] for trace, span in ids]
        asked = [[("x-count", str(n)), *contexts[which]] for n, which in enumerate(order)]
        block = ask_by_table(talk, asked, coded=coded)
        streams = talk.recorded.streams(len(order))
        assert len(block) < 50  # no context is spelled in it
        found = [(one.link, one.ids("trace_id"), one.ids("parent_id")) for one in streams]
        assert found == [(Link.TRACEPARENT, *ids[which]) for which in order]
        assert all(one.row["flags"] & Flag.HAD_TRACEPARENT for one in streams)
        assert talk.recorded.counted(Counter.TRACEPARENT_READ) == len(order)


@pytest.mark.parametrize("coded", [True, False])
def test_other_formats_repeated_from_the_table(capture: Capture, coded: bool) -> None:
    """What is only referred to in the client's table, a name or all of a field, is known of every
    format and of each connection for itself."""
    ids = [(f"{n + 1:016x}feedbeef89abcdef", f"{n + 1:016x}") for n in range(3)]
    order = [0, 1, 0, 2, 1, 1, 0, 2]
    for several in (True, False):
        with talking(capture) as talk:
            talk.recorded.trace(talk.pair.client.pid, ProcessMode.EXCLUDED)
            contexts = [
                [("x-b3-traceid", trace), ("x-b3-spanid", span), ("x-b3-sampled", "1")]
                if several
                else [("uber-trace-id", f"{trace}:{span}:0:1")]
                for trace, span in ids
            ]
            asked = [[("x-count", str(n)), *contexts[which]] for n, which in enumerate(order)]
            block = ask_by_table(talk, asked, coded=coded)
            streams = talk.recorded.streams(len(order))
            assert len(block) < 20  # nothing of a context is spelled in it
            link = Link.B3 if several else Link.JAEGER
            found = [(one.link, one.ids("trace_id"), one.ids("parent_id")) for one in streams]
            assert found == [(link, *ids[which]) for which in order]
            assert all(one.http2["flags"] & Http2Flag.NO_TRACESTATE for one in streams)


def test_a_context_that_is_no_context_is_not_repeated(capture: Capture) -> None:
    """An entry named traceparent whose value breaks a rule is none, the second time as well; and
    neither is one of two that a block repeats."""
    with talking(capture) as talk:
        talk.recorded.trace(talk.pair.client.pid, ProcessMode.EXCLUDED)
        bad = ("traceparent", "00-00000000000000000000000000000000-00000000000000ab-01")
        good = ("traceparent", f"00-{1:032x}-{2:016x}-01")
        ask_by_table(talk, [[bad], [bad], [good], [good, bad], [bad, good]])
        links = [one.link for one in talk.recorded.streams(5)]
        none = Link.NONE
        assert links == [none, none, Link.TRACEPARENT, none, none]


def test_other_fields_are_no_traceparent(capture: Capture) -> None:
    """A value that looks like one under another name is not taken."""
    with talking(capture) as talk:
        value = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        for n in range(3):
            talk.request(2 * n + 1, "/", ("x-traceparent", value[:-1] + str(n)))
        talk.flush()
        for n in range(3):
            talk.answer(2 * n + 1)
        talk.flush()
        streams = talk.recorded.streams(6)
        assert len(streams) == 6
        assert not any(one.row["flags"] & Flag.HAD_TRACEPARENT for one in streams)


@pytest.mark.parametrize("cut", [0, 3])
def test_grpc_messages(capture: Capture, cut: int) -> None:
    """gRPC's messages are counted each way by their prefixes, however frames cut them, with the
    times of the first and the last."""
    with talking(capture, cut=cut) as talk:
        talk.request(1, "/s/m", ("content-type", "application/grpc"), end=False)
        talk.flush()
        sizes = [0, 1, 5, 300, 0, 7]
        data = b"".join(b"\0" + size.to_bytes(4, "big") + b"m" * size for size in sizes)
        for at in range(0, len(data), 11):
            talk.client.send_data(1, data[at : at + 11])
        talk.client.end_stream(1)
        talk.flush()
        talk.answer(1, "200", end=False)
        talk.server.send_data(1, b"\1\0\0\0\2ab" * 3)
        talk.server.send_headers(1, [("grpc-status", "0")], end_stream=True)
        talk.flush()
        for one in both(talk.recorded.streams(2), 1):
            assert list(one.http2["messages"]) == [6, 3]
            assert one.row["request_body"] == len(data)
            assert one.row["response_body"] == 21
            assert not one.http2["flags"] & Http2Flag.NOT_GRPC
            for first, last in zip(
                one.http2["first_message_ns"], one.http2["last_message_ns"], strict=True
            ):
                assert one.row["start_ns"] <= first <= last <= one.row["end_ns"]
            assert one.blocks[Block.TRAILERS] == [("grpc-status", "0")]


def test_data_that_is_no_grpc(capture: Capture) -> None:
    """A body that is not framed as messages says so, and is counted all the same."""
    with talking(capture) as talk:
        talk.request(1, "/")
        talk.flush()
        talk.answer(1, end=False)
        talk.server.send_data(1, b"<html>" * 1000, end_stream=True)
        talk.flush()
        for one in both(talk.recorded.streams(2), 1):
            assert one.http2["flags"] & Http2Flag.NOT_GRPC
            assert one.row["response_body"] == 6000


def test_push_is_refused(capture: Capture) -> None:
    """A promised stream that the client refuses ends as reset on both sides; its block decodes by
    the server's table, and so does what comes after."""
    with talking(capture) as talk:
        talk.request(1, "/page")
        talk.flush()
        promised = [(":method", "GET"), (":scheme", "http"), (":authority", "t"), (":path", "/css")]
        talk.server.push_stream(1, 2, promised)
        talk.flush()
        talk.client.reset_stream(2, ErrorCodes.REFUSED_STREAM)
        talk.answer(1, "200", ("x-after", "1"))
        talk.flush()
        streams = talk.recorded.streams(4)
        client, server = both(streams, 2)
        assert (client.end, server.end) == (End.STREAM_CANCELLED, End.STREAM_RESET)
        assert client.http2["flags"] & Http2Flag.PUSHED
        assert client.blocks[Block.REQUEST] == server.blocks[Block.REQUEST] == promised
        for one in both(streams, 1):
            assert dict(one.blocks[Block.RESPONSE])["x-after"] == "1"


def _headers(stream: int, block: bytes) -> bytes:
    """A HEADERS frame that begins and ends what its side says."""
    return bytes(HeadersFrame(stream, block, flags=["END_HEADERS", "END_STREAM"]).serialize())


def test_many_streams(capture: Capture) -> None:
    """10,000 streams open at once on one connection: 20,000 records, each once, nothing lost."""
    count = 10_000
    with talking(capture) as talk:
        numbers = range(1, 2 * count, 2)
        asked = [_headers(n, b"\x82\x86\x84\x01\x01t") for n in numbers]
        answered = [_headers(n, b"\x88") for n in numbers[: count // 2]]
        # A hand-off waits for its reader among few others.
        talk.cut = 500 * len(asked[0])
        talk.raw("client", b"".join(asked))
        assert entries(capture, "near_streams") == NEAR_STREAMS
        assert entries(capture, "http2_streams") == 2 * count - NEAR_STREAMS
        talk.raw("server", b"".join(answered))
        talk.recorded.wait_rows(count, 5)
        assert len(talk.recorded.rows) == count
        # The newest were not answered; the kernel finds most at once, a sweep the rest.
        talk.pair.close()
        capture.sweep()
        talk.recorded.wait_rows(2 * count, 5)
        assert not talk.recorded.losses()
        rows = [row for row, _ in talk.recorded.rows]
        assert len(rows) == 2 * count
        found = {(row["role"], int(row["head"][56:60].view("<u4")[0])) for row in rows}
        assert len(found) == 2 * count
        assert sum(row["end"] == End.DONE for row in rows) == count
        clients = {row["span_id"].tobytes() for row in rows if row["role"] == Role.CLIENT}
        servers = {row["parent_id"].tobytes() for row in rows if row["role"] == Role.SERVER}
        assert clients == servers
        assert not entries(capture, "near_streams")
        assert not entries(capture, "http2_streams")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cut", [0, 5])
def test_upgrade(capture: Capture, family: str, cut: int) -> None:
    """`Upgrade: h2c`: the HTTP/1 request and the answer on stream 1 are one exchange, which keeps
    the target; streams after it are like any."""
    recorded = StreamRecording(capture)
    try:
        server, client = recorded.actor(), recorded.actor()
        talk = Talk(open_connection(server, client, recorded, family), recorded, cut=cut)
        offered = talk.client.initiate_upgrade_connection()
        talk.server.initiate_upgrade_connection(offered)
        talk.raw(
            "client",
            b"GET /up HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: " + (offered or b"") + b"\r\n\r\n",
        )
        talk.answer(1, "200", ("x-answer", "1"), end=False)
        talk.server.send_data(1, b"hello", end_stream=True)
        switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        data = talk.server.data_to_send()
        talk.raw("server", switch + data)
        talk.client.receive_data(data)
        talk.flush()
        talk.request(3, "/after")
        talk.flush()
        talk.answer(3)
        talk.flush()
        streams = recorded.streams(4)
        for one in both(streams, 1):
            assert one.end == End.DONE
            assert one.http2["flags"] & Http2Flag.UPGRADED
            assert Block.REQUEST not in one.blocks
            assert (one.row["status"], one.row["response_body"]) == (200, 5)
            at = one.row["head"][120:]
            assert bytes(at[: one.row["target_len"]]) == b"/up"
            assert b"test" in bytes(at[3 : 3 + one.row["kept_len"]])
        client_record, server_record = both(streams, 1)
        assert server_record.ids("parent_id") == client_record.ids("span_id")
        for one in both(streams, 3):
            assert dict(one.blocks[Block.REQUEST])[":path"] == "/after"
        assert len(streams) == 4
        assert not recorded.losses()
    finally:
        recorded.dismiss()


def test_older_than_the_agent(capture: Capture) -> None:
    """A connection in use before anybody traced it is found again by its frames; what its tables
    held before is called unknown, and nothing is given to the wrong side."""
    recorded = StreamRecording(capture)
    try:
        server, client = recorded.actor(traced=False), recorded.actor(traced=False)
        talk = Talk(open_connection(server, client, recorded), recorded)
        talk.begin()
        talk.request(1, "/before", ("x-old", "1"))
        talk.request(3, "/open")
        talk.flush()
        talk.answer(1, "200", ("x-old", "2"))
        talk.flush()
        recorded.trace(server.pid)
        recorded.trace(client.pid)
        for stream in (5, 7, 9):
            talk.request(stream, f"/n/{stream}", ("x-old", "1"), end=False)
            talk.client.send_data(stream, b"abc", end_stream=True)
            talk.flush()
            talk.answer(stream, "200", ("x-old", "2"), end=False)
            talk.server.send_data(stream, b"defgh", end_stream=True)
            talk.flush()
        talk.answer(3)
        talk.flush()
        recorded.wait_rows(6, 3)
        rows = [row for row, _ in recorded.rows]
        assert len(rows) == 6
        assert {(row["role"], row["end"]) for row in rows} == {(1, End.DONE), (2, End.DONE)}
        assert all(row["flags"] & Flag.RESYNCED for row in rows)
        assert all((row["request_body"], row["response_body"]) == (3, 5) for row in rows)
        clients = {row["span_id"].tobytes() for row in rows if row["role"] == Role.CLIENT}
        servers = {row["parent_id"].tobytes() for row in rows if row["role"] == Role.SERVER}
        assert clients == servers
        assert recorded.counted(Counter.HTTP2_RESYNCED) == 2
        # The entry of an old connection that "200, x-old: 2" refers to is older than we.
        assert all(row["status"] == 200 for row in rows)
        assert {event["flags"] & Http2Flag.RESYNCED for event in recorded.tables.events} == {1}
    finally:
        recorded.dismiss()


def test_an_old_connection_whose_frames_are_read_in_halves(capture: Capture) -> None:
    """A server that reads the header of each frame and its payload by calls of their own, as Go's
    does, is found by its answer, and its requests from the next one on."""
    recorded = StreamRecording(capture)
    try:
        server, client = recorded.actor(traced=False), recorded.actor(traced=False)
        talk = Talk(open_connection(server, client, recorded), recorded)
        talk.begin()
        talk.request(1, "/before")
        talk.flush()
        talk.answer(1)
        talk.flush()
        recorded.trace(server.pid)
        for stream in (3, 5, 7):
            talk.request(stream, f"/n/{stream}")
            data = talk.client.data_to_send()
            client.send(talk.pair.name, data)
            for size in (9, len(data) - 9):
                server.do("receive_count", name=talk.pair.name, count=size)
            talk.server.receive_data(data)
            talk.answer(stream)
            talk.flush()
        recorded.wait_rows(2, 3)
        assert [row["end"] for row, _ in recorded.rows] == [End.DONE, End.DONE]
        numbers = [int(row["head"][56:60].view("<u4")[0]) for row, _ in recorded.rows]
        assert numbers == [5, 7]
        assert not recorded.counted(Counter.LOST_BAD_FRAMING)
    finally:
        recorded.dismiss()


def test_bytes_that_cannot_be_read(capture: Capture) -> None:
    """Frames that only the kernel has seen (sendfile): what is open ends as unseen, a new count of
    the table begins, and streams after it are followed."""
    with talking(capture) as talk:
        talk.recorded.trace(talk.pair.server.pid, ProcessMode.EXCLUDED)
        talk.request(1, "/lost")
        talk.flush()
        ping = b"\0\0\x08\6\0\0\0\0\0waggling"
        talk.pair.client.do(
            "send_file",
            name="c",
            head=ping.decode("latin-1"),
            pattern=ping.decode("latin-1"),
            size=len(ping) * 3,
            how="sendfile",
        )
        talk.pair.server.do("receive_count", name="c", count=len(ping) * 4)
        for stream in (3, 5):
            talk.request(stream, f"/n/{stream}", end=False)
            talk.client.send_data(stream, b"abc", end_stream=True)
            talk.flush()
            talk.answer(stream)
            talk.flush()
        talk.recorded.wait_rows(3, 3)
        rows = [row for row, _ in talk.recorded.rows]
        assert [row["end"] for row in rows] == [End.UNSEEN, End.DONE, End.DONE]
        assert talk.recorded.losses()["LOST_TABLE_COUNT"] == 1
        epochs = [event for event in talk.recorded.tables.events if event["epoch"] == 1]
        assert epochs[0]["kind"] == TableEventKind.EPOCH
        assert epochs[1]["kind"] == TableEventKind.BLOCK
        assert epochs[1]["inserted"] == 0


def test_other_protocols_are_left_alone(capture: Capture) -> None:
    """Bytes that only resemble frames are no streams, on new connections and on old ones."""
    recorded = StreamRecording(capture)
    try:
        server, client = recorded.actor(), recorded.actor()
        talk = Talk(open_connection(server, client, recorded), recorded)
        talk.raw("client", b"\0\0\x06\x04\0\0\0\0\0abcdef")
        talk.raw("server", b"\0\0\x01\x01\x04\0\0\0\x01\x88")
        talk.raw("client", b"\0\0\x01\x01\x04\0\0\0\x01\x82" * 2)
        recorded.trace(server.pid, ProcessMode.EXCLUDED)
        recorded.trace(client.pid, ProcessMode.EXCLUDED)
        other = Talk(open_connection(server, client, recorded, name="d"), recorded)
        other.raw("client", b"\0\0\0\1hello")
        recorded.trace(server.pid)
        recorded.trace(client.pid)
        for n in range(100):
            other.raw("client", bytes([0, 0, 5, n % 9, 0, 0, 0, 0, 1]) + b"hello\0\0\0\7abcde")
        assert recorded.streams(1, patience_s=0.2) == []
    finally:
        recorded.dismiss()
