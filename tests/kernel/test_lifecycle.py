"""Lives of processes, sockets and the agent itself: nothing is confused, nothing leaks, nothing
stays, and every loss is counted."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel.capturing import (
    PATIENCE_S,
    capture_fixture,
    connected,
    expect_pair,
    expect_pairs,
    open_connection,
    open_small,
    recording,
    request,
    response,
)
from kernel.support import unavailable
from waggle.capture import Capture
from waggle.layout import Counter, End, Flag, Role

capture = capture_fixture()

FLAVOURS = ("socket", "probe", "syscall")


def test_fork(capture: Capture) -> None:
    """A server that forks: the child's exchanges are the child's, on connections of the parent
    and on its own."""
    with connected(capture) as pair:
        pair.exchange(request(1), response())
        before = pair.server.pid
        child = pair.server.fork()
        pair.exchange(request(2), response())
        other = open_connection(pair.server, pair.client, pair.recorded, "ipv4", "d")
        other.exchange(request(3), response())
        pair.recorded.finish(6)
        expect_pairs(pair.recorded, [1, 2, 3])
        assert [one.facts.tgid for one in pair.recorded.of(Role.SERVER)] == [before, child, child]
        assert child != before


def test_fork_between_request_and_response(capture: Capture) -> None:
    """A request that the parent read and the child answers is one exchange."""
    with connected(capture) as pair:
        pair.ask(request(1))
        pair.server.fork()
        pair.answer(response())
        pair.recorded.finish(2)
        expect_pairs(pair.recorded, [1])


def test_fork_keeps_a_connection_open(capture: Capture) -> None:
    """A descriptor that a forked child still holds keeps the connection: the parent's close ends
    nothing, the child's death does."""
    with connected(capture) as pair:
        pair.ask(request(1))
        child = int(pair.server.do("fork_aside", name="c"))
        pair.recorded.wait(0)
        assert not pair.recorded.seen
        os.kill(child, signal.SIGKILL)
        assert pair.client.receive("c") == b""
        pair.recorded.finish(2)
        client, server = pair.recorded.pair(1)
        assert client.end == End.PEER_CLOSED
        assert server.end in (End.PROCESS_EXIT, End.LOCAL_CLOSED)


def test_exec(capture: Capture) -> None:
    """A process that becomes another program stays traced, connections included."""
    with connected(capture) as pair:
        pair.exchange(request(1), response())
        pair.server.execute()
        pair.exchange(request(2), response())
        pair.recorded.finish(4)
        expect_pairs(pair.recorded, [1, 2])


def test_threads_share_a_connection(capture: Capture) -> None:
    """Reading and writing on different threads makes no difference."""
    with connected(capture) as pair:
        for number in range(1, 7):
            pair.client.send("c", request(number), thread=f"w{number % 3}")
            pair.server.receive("c", thread=f"r{number % 2}")
            pair.server.send("c", response(), thread=f"w{number % 3}")
            pair.client.receive("c", thread="reader")
        pair.recorded.finish(12)
        expect_pairs(pair.recorded, range(1, 7))


def test_many_short_connections(capture: Capture) -> None:
    """5,000 connections, one after the other, that use the same addresses again: every exchange
    is told once, and all of the kernel's tables are empty afterwards."""
    count = 5000
    with recording(capture) as recorded:
        server, client = recorded.actor(), recorded.actor()
        address = server.listen()
        serving = server.start("answer_many", listener="listener", count=count)
        asking = client.start("many", family="AF_INET", address=address, first=1, count=count)
        serving.get()
        asking.get()
        recorded.finish(2 * count)
        for role in (Role.SERVER, Role.CLIENT):
            assert sorted(one.number for one in recorded.of(role)) == list(range(1, count + 1))
        clients = {one.number: one.span.span_id for one in recorded.of(Role.CLIENT)}
        for one in recorded.of(Role.SERVER):
            assert one.span.parent_id == clients[one.number]
        assert all(one.end == End.DONE for one in recorded.seen)
        assert not recorded.losses()
        assert not recorded.left_behind()


@pytest.mark.parametrize("family", ["unix", "abstract"])
def test_unix_sockets_whose_addresses_come_again(capture: Capture, family: str) -> None:
    """UNIX connections that follow each other, and whose sockets the kernel puts where others
    were, are never taken for those, however they ended."""
    ways = 4
    with recording(capture) as recorded:
        server, client = recorded.actor(), recorded.actor()
        for number in range(1, 121):
            pair = open_connection(server, client, recorded, family)
            pair.ask(request(number, body=b"b" * number))
            if number % ways:
                pair.answer(response())
            if number % ways == 1:
                pair.client.close("c")
                pair.server.close("c")
            elif number % ways == 2:
                pair.server.close("c")
                pair.client.close("c")
            else:
                pair.close()
        recorded.finish(240)
        for number in range(1, 121):
            if number % ways:
                expect_pair(recorded, number)
            else:
                assert recorded.pair(number)[0].end == End.LOCAL_CLOSED


def test_unix_sockets_are_forgotten(capture: Capture) -> None:
    """UNIX connections that are closed are gone from all tables after a sweep."""
    with recording(capture) as recorded:
        server, client = recorded.actor(), recorded.actor()
        for number in range(1, 51):
            pair = open_connection(server, client, recorded, "abstract")
            pair.exchange(request(number), response())
            pair.close()
        recorded.finish(100)
        assert not recorded.left_behind()


NOT_HTTP = {
    "redis-inline": (b"PING\r\n", b"+PONG\r\n"),
    "redis": (b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n", b"$-1\r\n"),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)), b"\x16\x03\x03"),
    "binary": (bytes(range(256)) * 4, bytes(range(255, -1, -1))),
    "memcached": (b"get some_key\r\n", b"END\r\n"),
    "get-like": (b"GET well soon\r\n\r\n", b"THANK you\r\n\r\n"),
    "http9": (b"GET /\r\n", b"<html></html>"),
    "rtsp": (b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n", b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n"),
    "sip": (b"REGISTER sip:a SIP/2.0\r\n\r\n", b"SIP/2.0 200 OK\r\n\r\n"),
    "empty-lines": (b"\r\n\r\n\r\n", b"\r\n\r\n"),
}


@pytest.mark.parametrize("protocol", NOT_HTTP)
@pytest.mark.parametrize("family", ["ipv4", "unix"])
def test_other_protocols(capture: Capture, protocol: str, family: str) -> None:
    """What is not HTTP makes no span, not even where it says something that looks like it later;
    over TCP it is given up at once."""
    asked, answered = NOT_HTTP[protocol]
    with connected(capture, family) as pair:
        for _ in range(3):
            pair.ask(asked)
            pair.answer(answered)
        if family == "ipv4" and protocol != "empty-lines":
            pair.exchange(request(1), response())
            assert pair.recorded.counted(Counter.CONNECTIONS_GIVEN_UP) == 2
        pair.close()
        pair.recorded.finish(0)
        assert not pair.recorded.seen, str(pair.recorded)
        if family == "ipv4":
            assert not pair.recorded.left_behind()


def test_another_connection_at_an_address(capture: Capture) -> None:
    """What was once known of a socket's address, of a connection that was no HTTP and whose end no
    hook saw, spoils no other connection there."""
    with connected(capture) as pair:
        known = capture.bpf.map("connections")
        other = open_connection(pair.server, pair.client, pair.recorded, name="other")
        other.ask(NOT_HTTP["memcached"][0])
        given_up = set(known.keys())
        pair.exchange(request(1), response())
        stale = known.lookup(next(iter(given_up)))
        assert stale and len(given_up) == 2
        ours = set(known.keys()) - given_up
        assert len(ours) == 2
        for key in ours:
            known.update(key, stale)
        pair.exchange(request(2), response())
        assert not pair.recorded.losses()
        pair.recorded.finish(4)
        expect_pairs(pair.recorded, [1, 2])


def test_an_answer_to_nobody(capture: Capture) -> None:
    """A server that sends an answer first, as to a request nobody saw: that is counted as lost,
    and what follows on the connection is recorded."""
    with connected(capture) as pair:
        pair.answer(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        assert pair.recorded.losses() == {"LOST_RESPONSE_UNMATCHED": 2}
        pair.exchange(request(1), response())
        pair.close()
        pair.recorded.finish(2)
        expect_pairs(pair.recorded, [1])


def test_a_beginning_in_memory_that_is_not_there(capture: Capture) -> None:
    """A connection's first request that lies on a page which was never touched is missed by its
    sender: that is counted, twice where the answer tells, and the next one is seen."""
    with connected(capture) as pair:
        pair.client.do("send_untouched", name="c", data=request(1).decode())
        pair.server.receive_to("c", request(1)[-40:])
        assert pair.recorded.losses() == {"LOST_BYTES_UNREADABLE": 1}
        pair.answer(response())
        assert pair.recorded.losses()["LOST_RESPONSE_UNMATCHED"] == 1
        pair.exchange(request(2), response())
        pair.close()
        pair.recorded.finish(3)
        seen = sorted((one.number, one.role) for one in pair.recorded.seen)
        assert seen == [(1, Role.SERVER), (2, Role.SERVER), (2, Role.CLIENT)]
        expect_pair(pair.recorded, 2)


def test_server_speaks_first(capture: Capture) -> None:
    """A protocol whose server greets (SMTP) is none of ours, even with a request in a mail."""
    with connected(capture) as pair:
        pair.answer(b"220 mail.test ESMTP\r\n")
        for said in (b"EHLO test\r\n", b"MAIL FROM:<a@test>\r\n", b"DATA\r\n"):
            pair.ask(said)
            pair.answer(b"250 fine\r\n")
        pair.ask(request(1))
        pair.answer(response())
        pair.recorded.finish(0)
        assert not pair.recorded.seen


def test_untraced_and_excluded_processes(capture: Capture) -> None:
    """Nobody's exchanges are told who is not traced, or is no more."""
    with recording(capture) as recorded:
        server, client = recorded.actor(), recorded.actor(traced=False)
        pair = open_connection(server, client, recorded)
        pair.exchange(request(1), response())
        recorded.trace(server.pid, 0)
        pair.exchange(request(2), response())
        other = open_connection(server, client, recorded, "ipv4", "d")
        other.exchange(request(3), response())
        recorded.finish(1)
        assert [(one.role, one.number) for one in recorded.seen] == [(Role.SERVER, 1)]
        server.plain = False


# Bounds: each test loads programs of its own, with small maps.


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_full_ring(flavour: str) -> None:
    """While nobody reads the ring, each record that finds no room is counted, and the requests
    do not notice."""
    count = 3000
    small = open_small(flavour, {"exchange_ring": 64 << 10})
    try:
        with connected(small) as pair:
            serving = pair.server.start("answer", name="c", count=count)
            pair.client.do("ask", name="c", first=1, count=count)
            serving.get()
            pair.recorded.wait(0)
            seen = len(pair.recorded.seen)
            assert 100 < seen <= 128
            assert pair.recorded.counted(Counter.LOST_RING_FULL) == 2 * count - seen
            assert pair.recorded.counted(Counter.EXCHANGES) == seen
            first = [one.number for one in pair.recorded.of(Role.SERVER)]
            assert first == list(range(1, len(first) + 1)), "what fitted is the oldest"
            pair.exchange(request(count + 1), response())
            pair.recorded.wait(seen + 2)
            expect_pair(pair.recorded, count + 1)
    finally:
        small.close()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_full_large_ring(flavour: str) -> None:
    """The same for the ring of large records, which has a counter of its own."""
    small = open_small(flavour, {"large_ring": 32 << 10})
    try:
        with connected(small) as pair:
            for number in range(1, 31):
                target = f"/n/{number}?" + "t" * 1000
                pair.exchange(request(number, target=target), response())
            pair.exchange(request(31), response())
            pair.recorded.finish(0)
            large = [one for one in pair.recorded.seen if one.large]
            assert pair.recorded.losses() == {"LOST_LARGE_RING_FULL": 60 - len(large)}
            assert large
            expect_pair(pair.recorded, 31)
    finally:
        small.close()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_full_connection_map(flavour: str) -> None:
    """Connections beyond the bound are not followed, and counted; those within it are, and room
    that becomes free is used."""
    small = open_small(flavour, {"connections": 16})
    try:
        with recording(small) as recorded:
            server, client = recorded.actor(), recorded.actor()
            pairs = [open_connection(server, client, recorded, "ipv4", f"c{i}") for i in range(20)]
            for number, pair in enumerate(pairs, 1):
                pair.exchange(request(number), response())
            assert recorded.counted(Counter.LOST_CONNECTION_MAP_FULL) > 0
            for pair in pairs:
                pair.close()
            late = open_connection(server, client, recorded, "ipv4", "late")
            late.exchange(request(50), response())
            recorded.finish(18)
            assert [expect_pair(recorded, number) for number in (*range(1, 9), 50)]
            assert len(recorded.seen) == 18, str(recorded)
            assert not recorded.left_behind()
    finally:
        small.close()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_full_exchange_map(flavour: str) -> None:
    """Pipelined requests beyond the bound are given up with their connection, and counted."""
    small = open_small(flavour, {"exchanges": 8})
    try:
        with connected(small) as pair:
            other = open_connection(pair.server, pair.client, pair.recorded, "ipv4", "d")
            pair.ask(b"".join(request(number) for number in range(1, 31)))
            pair.answer(response() * 30)
            assert pair.recorded.counted(Counter.LOST_EXCHANGE_MAP_FULL) > 0
            pair.close()
            other.exchange(request(50), response())
            pair.recorded.finish(2)
            expect_pair(pair.recorded, 50)
            assert not pair.recorded.left_behind()
    finally:
        small.close()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_full_partial_map(flavour: str) -> None:
    """Heads that wait for their end beyond the bound are lost and counted; the connection is
    found again at its next request."""
    small = open_small(flavour, {"partial_heads": 4})
    try:
        with recording(small) as recorded:
            server, client = recorded.actor(), recorded.actor()
            pairs = [open_connection(server, client, recorded, "ipv4", f"c{i}") for i in range(8)]
            for number, pair in enumerate(pairs, 1):
                pair.ask(request(number)[:20])
            for number, pair in enumerate(pairs, 1):
                pair.ask(request(number)[20:])
                pair.answer(response())
            assert recorded.counted(Counter.LOST_PARTIAL_MAP_FULL) == 12
            for number, pair in enumerate(pairs, 11):
                pair.exchange(request(number), response())
            recorded.finish(20)
            for number in (1, 2, *range(11, 19)):
                expect_pair(recorded, number)
            assert not recorded.left_behind()
    finally:
        small.close()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_full_process_map(flavour: str) -> None:
    """A child there is no room for is not followed, and counted."""
    small = open_small(flavour, {"processes": 2})
    try:
        with connected(small) as pair:
            pair.server.fork()
            pair.exchange(request(1), response())
            assert pair.recorded.counted(Counter.LOST_PROCESS_MAP_FULL) == 1
            pair.recorded.finish(1)
            assert [one.role for one in pair.recorded.seen] == [Role.CLIENT]
    finally:
        small.close()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_full_hand_off_map(flavour: str) -> None:
    """Hand-offs that are pushed out by others are missed and counted, and make no wrong parent."""
    small = open_small(flavour, {"handoffs": 4})  # sets of four
    try:
        with recording(small) as recorded:
            server, client = recorded.actor(), recorded.actor()
            pairs = [open_connection(server, client, recorded, "ipv4", f"c{i}") for i in range(100)]
            for number, pair in enumerate(pairs, 1):
                client.send(pair.name, request(number))
            for pair in pairs:
                server.receive(pair.name)
                pair.answer(response())
            recorded.finish(200)
            assert len(recorded.seen) == 200
            parents = 0
            for number in range(1, 101):
                first, second = recorded.pair(number)
                if second.has_parent:
                    parents += 1
                    assert second.span.parent_id == first.span.span_id
            assert recorded.counted(Counter.HANDOFF_MISSED) == 100 - parents > 0
    finally:
        small.close()


def test_too_deep_a_pipeline(capture: Capture) -> None:
    """More requests without an answer than are followed on one connection: given up, counted."""
    with connected(capture) as pair:
        pair.ask(b"".join(request(number) for number in range(1, 101)))
        pair.answer(response() * 100)
        assert pair.recorded.counted(Counter.LOST_PIPELINE_TOO_DEEP) == 2
        pair.close()
        pair.recorded.finish(0)
        assert not pair.recorded.left_behind()


# The agent as a whole.


def ids(kind: str) -> set[int]:
    """Ids of the BPF programs or links in the kernel, whoever's."""
    tool = shutil.which("bpftool", path=f"{os.environ['PATH']}:/usr/sbin")
    if not tool:
        unavailable("needs bpftool")
    found = subprocess.run([tool, "-j", kind, "list"], capture_output=True, check=True).stdout
    return {one["id"] for one in json.loads(found)}


def own_ids(pid: int, kind: str) -> set[int]:
    """Ids of the BPF programs or links that a process holds."""
    found = set()
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            lines = entry.read_text().splitlines()
        except FileNotFoundError:  # closed meanwhile
            continue
        for line in lines:
            name, _, value = line.partition(":")
            if name == f"{kind}_id":
                found.add(int(value))
    return found


def wait_until(is_so: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_killed_agent(capture: Capture, flavour: str) -> None:
    """SIGKILL of the agent under load: no request fails, and soon nothing of it is left in the
    kernel."""
    if flavour != capture.flavour:
        pytest.skip("once for each flavour")
    with recording(capture) as recorded:
        server, client = recorded.actor(traced=False), recorded.actor(traced=False)
        open_connection(server, client, recorded)
        reading, writing = os.pipe()
        agent = subprocess.Popen(
            [
                str(Path(sys.executable).parent / "waggle"),
                "run",
                "--pid",
                str(server.pid),
                "--pid",
                str(client.pid),
                "--json",
                "--capture",
                flavour,
                "--ready-fd",
                str(writing),
            ],
            pass_fds=(writing,),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        os.close(writing)
        try:
            assert os.read(reading, 1), agent.stderr.read() if agent.stderr else ""
            mine = {kind: own_ids(agent.pid, kind) for kind in ("prog", "link")}
            for kind, held in mine.items():
                assert held, f"the agent holds a {kind}"
                assert held <= ids(kind)
            serving = server.start("answer_on", name="c")
            asking = client.start("ask_on", thread="load", name="c")
            wait_until(lambda: client.do("asked") > 100, "the load does not get on")
            agent.send_signal(signal.SIGKILL)
            agent.wait(PATIENCE_S)
            wait_until(
                lambda: not any(held & ids(kind) for kind, held in mine.items()),
                "something of the agent is left",
            )
            before = client.do("asked")
            wait_until(lambda: client.do("asked") > before + 100, "the load does not get on")
            client.do("enough")
            asking.get()
            serving.get()
        finally:
            agent.kill()
            agent.wait()
            os.close(reading)
            if agent.stderr:
                agent.stderr.close()


def test_flags_are_known(capture: Capture) -> None:
    """Records of a decided process are not provisional."""
    with connected(capture) as pair:
        pair.exchange(request(1), response())
        pair.recorded.finish(2)
        for one in expect_pair(pair.recorded, 1):
            assert not one.facts.flags & Flag.PROVISIONAL


def test_calls_that_nobody_sends_leave_warm_memory() -> None:
    """What a goroutine has asked for and nobody sends is out of the small map after two sweeps, and
    is still to be found."""
    capture = open_small("socket", {})
    try:
        near, far = capture.bpf.map("near_calls"), capture.bpf.map("go_calls")
        key, call = os.urandom(near.key_size), bytearray(near.value_size)
        call[:8] = key[:8]
        near.update(key, bytes(call))
        capture.sweep()
        assert near.lookup(key) is not None
        capture.sweep()
        assert near.lookup(key) is None
        kept = far.lookup(key)
        assert kept is not None
        assert kept[:8] == key[:8]
    finally:
        capture.close()
