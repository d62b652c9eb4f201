"""Encrypted exchanges that nobody can read, record by record: what belongs to which."""

import os
import ssl
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kernel.capturing import PATIENCE_S, Connection, Seen, connected, open_flavour
from waggle import capture_options
from waggle.capture import Capture
from waggle.capture_options import CaptureOptions
from waggle.flavours import FLAVOURS
from waggle.layout import Counter, End, Kept, Protocol, Role
from waggle.libbpf import Object

HANDSHAKE, CHANGE, ALERT, DATA = 22, 20, 21, 23
TAG = 17  # bytes that TLS 1.3 adds to what is said
FLAVOUR_NAMES = tuple(dict.fromkeys(one.name for one in FLAVOURS))


@pytest.fixture(scope="module", params=FLAVOUR_NAMES)
def capture(request: pytest.FixtureRequest) -> Iterator[Capture]:
    loaded = open_flavour(request.param, tls=True)
    if not loaded.tls:
        pytest.skip(f"no TLS with flavour {request.param}: {loaded.not_tls[-200:]}")
    yield loaded
    loaded.close()


def record(kind: int, said: int) -> bytes:
    """A record in which a client or a server says so many bytes."""
    body = os.urandom(said + TAG)
    return bytes([kind, 3, 3]) + len(body).to_bytes(2, "big") + body


def hello() -> bytes:
    """What a real client says first."""
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(
        ssl.MemoryBIO(), outgoing, server_hostname="shop.test"
    )
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def server_hello() -> bytes:
    """RFC 8446, 4.1.3, with nothing but the version, TLS 1.3."""
    body = b"\x03\x03" + os.urandom(32) + b"\0\x13\x01\0" + b"\0\x06\0\x2b\0\x02\x03\x04"
    message = b"\x02" + len(body).to_bytes(3, "big") + body
    return bytes([HANDSHAKE, 3, 3]) + len(message).to_bytes(2, "big") + message


CHANGE_CIPHER = bytes([CHANGE, 3, 3, 0, 1, 1])


def shake(pair: Connection) -> None:
    pair.ask(hello())
    pair.answer(server_hello() + CHANGE_CIPHER + record(DATA, 900))
    pair.ask(CHANGE_CIPHER + record(DATA, 36))


def calls(pair: Connection, count: int) -> list[Seen]:
    """What was seen, in order, once nothing more can come."""
    pair.close()
    seen = sorted(pair.recorded.finish(count), key=lambda one: one.facts.start_ns)
    assert len(seen) == count, str(pair.recorded)
    for one in seen:
        assert (one.facts.protocol, one.role) == (Protocol.OPAQUE, Role.CLIENT)
        assert one.kept[Kept.HOST] == b"shop.test"
    return seen


def passed(one: Seen) -> tuple[int, int]:
    return one.facts.request_body - TAG, one.facts.response_body - TAG


def test_questions_and_answers(capture: Capture) -> None:
    """Each question with its answer is one, from its first byte to the answer's last, and both ends
    of a connection are one call."""
    with connected(capture) as pair:
        shake(pair)
        windows = []
        for n in range(1, 4):
            asked = pair.ask(record(DATA, 100 + n))
            windows.append((asked, pair.answer(record(DATA, 200 + n))))
        seen = calls(pair, 3)
        assert pair.recorded.losses() == {}
        assert pair.recorded.left_behind() == {}
    assert [passed(one) for one in seen] == [(101, 201), (102, 202), (103, 203)]
    for one, (asked, answered) in zip(seen, windows, strict=True):
        assert asked.has(one.facts.start_ns)
        assert one.facts.start_ns <= one.facts.response_ns <= one.facts.end_ns
        assert answered.began_ns <= one.facts.response_ns
        assert one.end == End.DONE


def test_the_handshake_is_none(capture: Capture) -> None:
    """A connection that says nothing after its handshake, and one that is only closed in order."""
    with connected(capture) as pair:
        shake(pair)
        pair.ask(record(DATA, 2))
        pair.answer(record(DATA, 2))
        assert calls(pair, 0) == []


def test_without_a_change_of_ciphers(capture: Capture) -> None:
    """The end of the client's handshake is no exchange where nothing marks it as such."""
    with connected(capture) as pair:
        pair.ask(hello())
        pair.answer(server_hello() + record(DATA, 900))
        pair.ask(record(DATA, 36))
        pair.exchange(record(DATA, 100), record(DATA, 200))
        [one] = calls(pair, 1)
    assert passed(one) == (100, 200)


def test_pieces(capture: Capture) -> None:
    """A question in several records, an answer in several; what asks for nothing belongs to no
    exchange."""
    with connected(capture) as pair:
        shake(pair)
        for said in (100, 5000, 13):
            pair.ask(record(DATA, said))
        pair.answer(record(DATA, 300))
        for said in (9, 13, 17):  # of HTTP/2: settings, a window, a ping
            pair.ask(record(DATA, said))
        pair.answer(record(DATA, 16384))
        [one] = calls(pair, 1)
    assert one.facts.request_body == 5100 + 2 * TAG
    assert one.facts.response_body == 16684 + 2 * TAG


@pytest.mark.parametrize("cut", [1, 4, 5, 30])
def test_records_in_pieces(capture: Capture, cut: int) -> None:
    """However a record is cut over calls, it counts once and belongs to the same exchange."""
    with connected(capture) as pair:
        shake(pair)
        for n in range(1, 3):
            whole, answer = record(DATA, 100 + n), record(DATA, 200 + n)
            pair.client.send("c", whole[:cut])
            pair.client.send("c", whole[cut:])
            pair.server.receive_to("c", whole[-40:])
            pair.server.send("c", answer[:cut])
            pair.client.receive_to("c", answer[:cut])
            pair.server.send("c", answer[cut:])
            pair.client.receive_to("c", answer[-40:])
        seen = calls(pair, 2)
    assert [passed(one) for one in seen] == [(101, 201), (102, 202)]


def test_no_answer(capture: Capture) -> None:
    """A server that closes instead of answering."""
    with connected(capture) as pair:
        shake(pair)
        pair.ask(record(DATA, 100))
        pair.server.close("c")
        assert pair.client.receive("c") == b""
        pair.client.close("c")
        [one] = pair.recorded.finish(1)
    assert (one.end, one.facts.request_body - TAG, one.facts.response_body) == (
        End.PEER_CLOSED,
        100,
        0,
    )
    assert one.span.error


def test_quiet_connections(capture: Capture) -> None:
    """On a connection that is kept an exchange is told once it is quiet, with the end it had."""
    with connected(capture) as pair:
        shake(pair)
        pair.exchange(record(DATA, 101), record(DATA, 201))
        pair.ask(record(DATA, 102))
        answered = pair.answer(record(DATA, 202))
        received = pair.client.window
        deadline = time.monotonic() + PATIENCE_S
        while len(seen := pair.recorded.wait(0)) < 2 and time.monotonic() < deadline:
            capture.sweep()
        assert [passed(one) for one in seen] == [(101, 201), (102, 202)]
        assert answered.began_ns <= seen[1].facts.end_ns <= received.ended_ns
        pair.exchange(record(DATA, 103), record(DATA, 203))
        assert [passed(one) for one in calls(pair, 3)][2] == (103, 203)


def test_the_end_of_the_agent(capture: Capture) -> None:
    """What was answered when the agent ends is told, though its connection lives on."""
    with connected(capture) as pair:
        shake(pair)
        pair.exchange(record(DATA, 100), record(DATA, 200))
        capture.end_answered()
        capture.bpf.map("sweep_last").update(bytes(4), bytes(4))
        [one] = pair.recorded.wait(1)
        assert passed(one) == (100, 200)
        assert calls(pair, 1) == [one]


def test_a_connection_found_in_its_middle(capture: Capture) -> None:
    """Whose client it is was not seen: nothing is told of it."""
    with connected(capture) as pair:
        pair.exchange(record(DATA, 100), record(DATA, 200))
        pair.close()
        assert pair.recorded.finish(0) == []


def test_so_many_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are told in a second are counted, and the others stay whole."""
    extras = capture_options._of_extras

    def few(bpf: Object, options: CaptureOptions) -> dict[str, Any]:
        return {**extras(bpf, options), "opaque_rate": 1}

    monkeypatch.setattr(capture_options, "_of_extras", few)
    loaded = open_flavour("syscall", tls=True)
    try:
        with connected(loaded) as pair:
            shake(pair)
            for n in range(40):
                pair.exchange(record(DATA, 100 + n), record(DATA, 200 + n))
            pair.close()
            lost = pair.recorded.counted(Counter.LOST_OPAQUE_RATE)
            seen = pair.recorded.finish(40 - lost)
    finally:
        loaded.close()
    assert lost > 0
    assert len(seen) == 40 - lost
    sizes = np.array([passed(one) for one in seen])
    assert (sizes[:, 1] - sizes[:, 0] == 100).all()
