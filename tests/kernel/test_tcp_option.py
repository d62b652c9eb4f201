"""The TCP option: two machines, which are two network namespaces, with an agent's capture on each.

The captures share no map, so what one knows of the other's requests came over the wire.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from kernel.capturing import (
    Actor,
    Connection,
    Recording,
    Seen,
    open_connection,
    recording,
    request,
    response,
)
from kernel.streams import StreamRecording, Talk
from kernel.support import HERE, unavailable
from kernel.test_handoff import inside, run
from waggle import cgroups
from waggle.capture import OBJECT_PATH, Capture
from waggle.capture_options import CaptureOptions
from waggle.cgroups import NoRootError
from waggle.layout import Counter, Flag, Link, Role

CLIENT, SERVER, HOP = "waggle-client", "waggle-server", "waggle-hop"
HERE_4, THERE_4 = "10.78.0.1", "10.78.0.2"
HERE_6, THERE_6 = "fd78::1", "fd78::2"


class Captures(NamedTuple):
    """Of the two machines."""

    client: Capture
    server: Capture


def _open() -> Capture:
    opened = Capture.open(CaptureOptions(tcp_option=True))
    if opened.tcp_option is None:
        reason = opened.tcp_option_refused
        opened.close()
        unavailable(f"no TCP option here: {reason}")
    return opened


@pytest.fixture(scope="module")
def captures() -> Iterator[Captures]:
    if not OBJECT_PATH.exists():
        unavailable("needs the BPF object: run make build")
    with ExitStack() as stack:
        client = _open()
        stack.callback(client.close)
        server = _open()
        stack.callback(server.close)
        yield Captures(client, server)


@pytest.fixture(autouse=True)
def forget_peers(captures: Captures) -> None:
    """Every scenario begins with a peer that has proven nothing."""
    for capture in captures:
        peers = capture.bpf.map("option_peers")
        for key in peers.items()[0]:
            peers.delete(key.tobytes())


@contextmanager
def _namespaces(*names: str) -> Iterator[None]:
    try:
        for name in names:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _cable(name: str, device: str, other_name: str, other: str) -> None:
    ends = ("link", "add", device, "netns", name, "type", "veth", "peer", "name", other)
    run("ip", *ends, "netns", other_name)
    run("ip", "-n", name, "link", "set", device, "up")
    run("ip", "-n", other_name, "link", "set", other, "up")


def _address(name: str, device: str, *addresses: str) -> None:
    for one in addresses:
        size = "/64" if ":" in one else "/24"
        run("ip", "-n", name, "addr", "add", one + size, "dev", device, *_NO_DAD[":" in one])


_NO_DAD: dict[bool, tuple[str, ...]] = {False: (), True: ("nodad",)}


@contextmanager
def link() -> Iterator[None]:
    """Client and server with a cable between them."""
    with _namespaces(CLIENT, SERVER):
        _cable(CLIENT, "wc", SERVER, "ws")
        _address(CLIENT, "wc", HERE_4, HERE_6)
        _address(SERVER, "ws", THERE_4, THERE_6)
        yield


@contextmanager
def hop(action: str) -> Iterator[None]:
    """The same with a hop in the middle (middle_hop.py)."""
    program = [sys.executable, str(HERE / "middle_hop.py")]
    with _namespaces(CLIENT, SERVER, HOP):
        _cable(CLIENT, "wc", HOP, "h1")
        _cable(SERVER, "ws", HOP, "h2")
        _address(CLIENT, "wc", HERE_4)
        _address(SERVER, "ws", THERE_4)
        for name, device in ((CLIENT, "wc"), (SERVER, "ws")):
            run(*inside(name), *program, "plain", device)
        running = subprocess.Popen(
            [*inside(HOP), *program, "h1", "h2", action],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert running.stdin and running.stdout
        try:
            assert running.stdout.readline() == b"ready\n"
            yield
        finally:
            running.stdin.close()
            running.wait()
            running.stdout.close()


@dataclass
class Two:
    """A client and a server on two machines, each traced by its own capture only."""

    sent: Recording
    served: Recording
    client: Actor
    server: Actor

    def connect(self, family: str = "AF_INET", name: str = "c") -> Connection:
        if not self.server.listening or self.server.listening[0] != family:
            where = THERE_6 if family == "AF_INET6" else THERE_4
            self.server.listening = (family, self.server.listen(family, [where, 0]))
        return open_connection(self.server, self.client, self.sent, name=name)

    def finish(self, count: int) -> dict[int, tuple[Seen, Seen]]:
        """By number: the client's record and the server's, of which there are `count` each."""
        self.served.finish(0)
        clients, servers = self.sent.finish(count), self.served.wait(count)
        assert {one.role for one in clients} == {Role.CLIENT}, str(self.sent)
        assert {one.role for one in servers} == {Role.SERVER}, str(self.served)
        by_number = {one.number: one for one in servers}
        assert (len(clients), len(by_number)) == (count, count), f"{self.sent}\n{self.served}"
        return {one.number: (one, by_number[one.number]) for one in clients}


@contextmanager
def two_machines(captures: Captures, *, traced: bool = True) -> Iterator[Two]:
    with recording(captures.client) as sent, recording(captures.server) as served:
        client = sent.actor(prefix=inside(CLIENT), traced=traced)
        yield Two(sent, served, client, served.actor(prefix=inside(SERVER), traced=traced))


def expect_joined(pairs: dict[int, tuple[Seen, Seen]]) -> None:
    """Every server's span is the child of its client's, and says how that is known."""
    for number, (client, server) in pairs.items():
        assert server.link == Link.OPTION, f"{number}: {server}"
        assert server.span.parent_id == client.span.span_id, number
        assert server.span.trace_id == client.span.trace_id, number
        assert server.facts.flags & Flag.REMOTE_PARENT
        assert server.span.attributes["waggle.link.method"] == "option"


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
def test_new_connections(captures: Captures, family: str) -> None:
    """Each request of a connection is joined, the first one too, and each bore one option."""
    with link(), two_machines(captures) as two:
        pair = two.connect(family)
        for number in range(1, 51):
            pair.exchange(request(number), response())
        expect_joined(two.finish(50))
        assert two.sent.counted(Counter.OPTION_SENT) == 50
        assert two.served.counted(Counter.OPTION_RECEIVED) == 50
        assert two.sent.counted(Counter.OPTION_NOT_SENT) == 0


def test_every_size(captures: Captures) -> None:
    """A request that fills its segment, or nearly, leaves and arrives whole: room was made."""
    with link(), two_machines(captures) as two:
        pair = two.connect()
        sizes = [*range(1300, 1460, 3), *range(2790, 2910, 7), 65_000, 300_000]
        for number, size in enumerate(sizes, 1):
            head = request(number, method="POST", body=b"b" * 9000)
            rest = size - (len(head) - 9000)
            pair.ask(request(number, method="POST", body=b"b" * max(999, rest - 1) + b"e"))
            pair.answer(response())
        expect_joined(two.finish(len(sizes)))


def test_old_connections(captures: Captures) -> None:
    """A connection that both agents found there is joined, in a namespace that is not theirs."""
    with link(), two_machines(captures, traced=False) as two:
        pair = two.connect()
        pair.exchange(request(101), response())
        for recorded, capture, actor in (
            (two.sent, captures.client, two.client),
            (two.served, captures.server, two.server),
        ):
            recorded.trace(actor.pid)
            assert capture.tcp_option
            capture.tcp_option.adopt([actor.pid])
            assert capture.tcp_option.skipped == []
        for number in range(1, 11):
            pair.exchange(request(number), response())
        expect_joined(two.finish(10))


def test_not_sampled(captures: Captures) -> None:
    """Whether a trace is recorded travels along."""
    header = f"traceparent: 00-{'ab' * 16}-{'cd' * 8}-0"
    with link(), two_machines(captures) as two:
        pair = two.connect()
        for number in (0, 1):
            pair.exchange(request(number, header + str(number)), response())
        pairs = two.finish(2)
        expect_joined(pairs)
        for number, (_, server) in pairs.items():
            assert bool(server.facts.flags & Flag.UNSAMPLED) == (number == 0)


def test_streams(captures: Captures) -> None:
    """Streams of HTTP/2 are joined where their HEADERS begin a segment; of those that were written
    together the first is, and the others begin traces of their own."""
    with link():
        sent, served = StreamRecording(captures.client), StreamRecording(captures.server)
        client = sent.actor(prefix=inside(CLIENT))
        server = served.actor(prefix=inside(SERVER))
        try:
            server.listening = ("AF_INET", server.listen("AF_INET", [THERE_4, 0]))
            talk = Talk(open_connection(server, client, sent), sent)
            talk.begin()
            for group in ([1], [3], [5, 7, 9]):
                for stream in group:
                    talk.request(stream, f"/n/{stream}")
                talk.flush()
                for stream in group:
                    talk.answer(stream)
                talk.flush()
            asked = {one.stream: one for one in sent.streams(5)}
            answered = {one.stream: one for one in served.streams(5)}
        finally:
            sent.dismiss()
            served.dismiss()
    assert sorted(asked) == sorted(answered) == [1, 3, 5, 7, 9]
    for stream in (1, 3, 5):
        assert answered[stream].link == Link.OPTION
        assert answered[stream].ids("parent_id") == asked[stream].ids("span_id")
    for stream in (7, 9):
        assert answered[stream].link == Link.NONE
        assert answered[stream].ids("parent_id") == "0" * 16


def test_hand_off_comes_first(captures: Captures) -> None:
    """Where one agent sees both ends, its hand-off is the evidence, option or not."""
    with link(), recording(captures.client) as recorded:
        client = recorded.actor(prefix=inside(CLIENT))
        server = recorded.actor(prefix=inside(SERVER))
        server.listening = ("AF_INET", server.listen("AF_INET", [THERE_4, 0]))
        pair = open_connection(server, client, recorded)
        for number in range(1, 6):
            pair.exchange(request(number), response())
        recorded.finish(10)
        for number in range(1, 6):
            assert recorded.pair(number)[1].link == Link.SOCKET


def test_loopback_bears_none(captures: Captures) -> None:
    """Segments that stay on the machine have no option."""
    with recording(captures.client) as recorded:
        server, client = recorded.actor(), recorded.actor()
        pair = open_connection(server, client, recorded)
        pair.exchange(request(1), response())
        recorded.finish(2)
        assert recorded.pair(1)[1].link == Link.SOCKET
        assert recorded.counted(Counter.OPTION_SENT) == 0


@contextmanager
def own_address(address: str) -> Iterator[None]:
    """One more of this machine."""
    change = ["ip", "address", "replace", f"{address}/32", "dev", "lo"]
    subprocess.run(change, check=True)
    try:
        yield
    finally:
        change[2] = "del"
        subprocess.run(change, check=True)


@pytest.mark.parametrize(
    ("address", "takes_part"), [("127.0.0.1", False), ("203.0.113.1", False), ("10.78.1.1", True)]
)
def test_old_connections_to_where_no_option_goes(
    captures: Captures, address: str, takes_part: bool
) -> None:
    """What stays on the machine, or goes to who is no neighbour, pays nothing for the option, if it
    was there before as well."""
    option = captures.client.tcp_option
    assert option
    with ExitStack() as stack:
        if address != "127.0.0.1":
            stack.enter_context(own_address(address))
        listener = stack.enter_context(socket.create_server((address, 0)))
        sender = stack.enter_context(socket.create_connection(listener.getsockname()))
        stack.enter_context(listener.accept()[0])
        option.adopt([os.getpid()])
        key = sender.fileno().to_bytes(4, "little")
        assert bool(captures.client.bpf.map("option_sockets").lookup(key)) == takes_part


@pytest.mark.parametrize("action", ["pass", "lose", "reorder"])
def test_on_bad_ways(captures: Captures, action: str) -> None:
    """Segments that are lost, sent again or overtaken: every request is joined, each body whole."""
    with hop(action), two_machines(captures) as two:
        pair = two.connect()
        for number in range(1, 31):
            body = b"b" * 4999 + b"e" if number % 3 == 0 else b""
            pair.exchange(request(number, method="POST" if body else "GET", body=body), response())
        pairs = two.finish(30)
        expect_joined(pairs)
        for number, (_, server) in pairs.items():
            assert server.facts.request_body == (5000 if number % 3 == 0 else 0)


def test_a_hop_that_strips_options(captures: Captures) -> None:
    """Where a hop takes the option out everything arrives but the parent, which is missing."""
    with hop("strip"), two_machines(captures) as two:
        pair = two.connect()
        for number in range(1, 11):
            pair.exchange(request(number), response())
        pairs = two.finish(10)
        assert two.sent.counted(Counter.OPTION_SENT) == 10
        assert two.served.counted(Counter.OPTION_RECEIVED) == 0
        for client, server in pairs.values():
            assert server.link == Link.NONE
            assert not server.has_parent
            assert server.span.trace_id != client.span.trace_id


def test_a_peer_that_falls_silent(captures: Captures) -> None:
    """Segments that nobody answers while they bear the option are sent without it, and the peer
    is left alone from then on, on new connections too; every request is answered."""
    with hop("silence"), two_machines(captures) as two:
        two.connect().exchange(request(1), response())
        assert two.sent.counted(Counter.OPTION_PEERS_STOPPED) == 1
        assert two.sent.counted(Counter.OPTION_GIVEN_UP) == 1
        pair = two.connect(name="d")
        for number in range(2, 6):
            pair.exchange(request(number), response())
        assert two.sent.counted(Counter.OPTION_SENT) == 1
        for _, server in two.finish(5).values():
            assert server.link == Link.NONE


def test_a_peer_that_resets(captures: Captures) -> None:
    """After two connections that were reset by it no segment to the peer bears an option."""
    with hop("reset"), two_machines(captures) as two:
        for name in ("a", "b"):
            two.connect(name=name)
            two.client.send(name, request(1))
            assert two.client.do("receive_failing", name=name) == "ConnectionResetError"
        assert two.sent.counted(Counter.OPTION_PEERS_STOPPED) == 1
        pair = two.connect(name="c")
        pair.exchange(request(2), response())
        assert two.sent.counted(Counter.OPTION_SENT) == 2


def test_without_it_the_rest_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the option cannot be had the capture opens all the same, and says why."""

    def refuse() -> Path:
        raise NoRootError("no cgroup v2 here")

    monkeypatch.setattr(cgroups, "root", refuse)
    opened = Capture.open(CaptureOptions(tcp_option=True))
    try:
        assert opened.tcp_option is None
        assert opened.tcp_option_refused == "no cgroup v2 here"
    finally:
        opened.close()
