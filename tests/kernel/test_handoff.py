"""The same-machine hand-off: server spans find the client span they belong to, wherever the two
ends are and however old their connection is."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from kernel.capturing import (
    FAMILIES,
    Connection,
    Recording,
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
from kernel.support import unavailable
from waggle.capture import Capture
from waggle.layout import Counter, End, Flag, Role

capture = capture_fixture()

FAKE = b"GET /fake/1 HTTP/1.1\r\nHost: fake\r\n\r\n"


@contextmanager
def before_the_agent(capture: Capture, family: str) -> Iterator[tuple[Recording, Connection]]:
    """A connection between two processes that are not traced yet."""
    with recording(capture) as recorded:
        server, client = recorded.actor(traced=False), recorded.actor(traced=False)
        yield recorded, open_connection(server, client, recorded, family)


def begin_to_trace(recorded: Recording, pair: Connection) -> None:
    recorded.trace(pair.client.pid)
    recorded.trace(pair.server.pid)


@pytest.mark.parametrize("family", FAMILIES)
def test_connections_older_than_the_agent(capture: Capture, family: str) -> None:
    """A connection that has moved bytes before tracing began is joined at its next request."""
    with before_the_agent(capture, family) as (recorded, pair):
        for number in range(101, 104):
            pair.exchange(request(number, body=b"b" * 321), response(b"r" * 654))
        begin_to_trace(recorded, pair)
        for number in range(1, 6):
            pair.exchange(request(number), response())
        pair.close()
        recorded.finish(10)
        expect_pairs(recorded, range(1, 6))
        if family not in ("unix", "abstract"):
            for one in recorded.pair(1):
                assert one.facts.flags & Flag.RESYNCED
                assert one.span.attributes["waggle.resynced"] is True
        for one in recorded.pair(2):
            assert not one.facts.flags & Flag.RESYNCED


def test_idle_connections_older_than_the_agent(capture: Capture) -> None:
    """A connection on which nothing was said before tracing began is as good as new."""
    with before_the_agent(capture, "ipv4") as (recorded, pair):
        begin_to_trace(recorded, pair)
        pair.exchange(request(1), response())
        pair.close()
        recorded.finish(2)
        expect_pairs(recorded, [1])
        assert not any(one.facts.flags & Flag.RESYNCED for one in recorded.seen)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_requests_that_are_read_with_the_end(capture: Capture, family: str) -> None:
    """A request is joined, on a connection known from its first byte, when its reader gets the
    end of the client's direction in the same read: the FIN has a place of its own."""
    with connected(capture, family) as pair:
        pair.client.send("c", request(1))
        pair.client.do("end_sending", name="c")
        pair.server.receive_to("c", request(1)[-40:])
        pair.answer(response())
        pair.server.close("c")
        assert pair.client.receive("c") == b""
        pair.recorded.finish(2)
        expect_pairs(pair.recorded, [1])
        assert not any(one.facts.flags & Flag.RESYNCED for one in pair.recorded.seen)


@pytest.mark.parametrize("flavour", ["socket", "probe", "syscall"])
def test_connections_older_than_the_load(flavour: str) -> None:
    """The same when the programs themselves were loaded later, with a request under way."""
    first = open_flavour(flavour)
    with recording(first) as recorded:
        server, client = recorded.actor(), recorded.actor()
        pair = open_connection(server, client, recorded)
        pair.exchange(request(101), response())
        pair.ask(request(102))
        first.close()
        second = open_flavour(flavour)
        with recording(second) as later:
            begin_to_trace(later, pair)
            pair.answer(response())
            for number in (1, 2):
                pair.exchange(request(number), response())
            later.wait(4)
            expect_pairs(later, [1, 2])
        recorded.capture = second
    second.close()


def test_one_side_older_than_the_other(capture: Capture) -> None:
    """The two ends may be found at different times."""
    with before_the_agent(capture, "ipv4") as (recorded, pair):
        pair.exchange(request(101), response())
        recorded.trace(pair.server.pid)
        pair.exchange(request(102), response())
        recorded.trace(pair.client.pid)
        pair.exchange(request(1), response())
        recorded.finish(3)
        expect_pair(recorded, 1)
        assert [one.number for one in recorded.of(Role.SERVER)] == [102, 1]


def test_found_within_a_body(capture: Capture) -> None:
    """Found in the middle of a request's body, a connection is joined after it."""
    with before_the_agent(capture, "ipv4") as (recorded, pair):
        pair.ask(request(101, "Content-Length: 3000", method="POST") + b"b" * 1000)
        begin_to_trace(recorded, pair)
        pair.ask(b"b" * 2000)
        pair.answer(response())
        for number in (1, 2):
            pair.exchange(request(number), response())
        recorded.finish(4)
        expect_pairs(recorded, [1, 2])


def test_found_within_a_response(capture: Capture) -> None:
    """Found while a response streams, a connection is joined at the next request."""
    with before_the_agent(capture, "ipv4") as (recorded, pair):
        pair.ask(request(101))
        pair.answer(response(b"", "Transfer-Encoding: chunked") + b"5\r\nabcde\r\n")
        begin_to_trace(recorded, pair)
        pair.answer(b"5\r\nGET /\r\n")
        pair.answer(b"0\r\n\r\n")
        for number in (1, 2):
            pair.exchange(request(number), response())
        recorded.finish(4)
        expect_pairs(recorded, [1, 2])


def test_found_within_a_body_that_looks_like_http(capture: Capture) -> None:
    """Found in a body that looks like requests, a connection may be misread for a moment, but not
    for good: each request after it has its own response, and at most one false span was told."""
    with before_the_agent(capture, "ipv4") as (recorded, pair):
        body = FAKE * 20
        pair.ask(request(101, f"Content-Length: {len(body)}", method="POST") + body[: len(FAKE)])
        begin_to_trace(recorded, pair)
        for start in range(len(FAKE), len(body), len(FAKE)):
            pair.ask(body[start : start + len(FAKE)])
        pair.answer(response())
        windows = {}
        for number in range(2, 12):
            pair.ask(request(number))
            pair.answer(response())
            windows[number] = pair.client.window
        pair.close()
        recorded.finish(20)
        false = [one for one in recorded.seen if "fake" in one.target]
        assert len(false) <= 2, str(recorded)
        told = {one.number: one for one in recorded.of(Role.CLIENT) if "fake" not in one.target}
        assert set(told) >= set(range(4, 12)), str(recorded)
        for number, one in told.items():
            assert windows[number].has(one.facts.end_ns), str(one)


def test_traced_client_only(capture: Capture) -> None:
    """A client whose peer is not traced has its span all the same."""
    with recording(capture) as recorded:
        server, client = recorded.actor(traced=False), recorded.actor()
        pair = open_connection(server, client, recorded)
        pair.exchange(request(1), response())
        recorded.finish(1)
        assert [(one.role, one.number) for one in recorded.seen] == [(Role.CLIENT, 1)]


def test_many_connections_at_once(capture: Capture) -> None:
    """200 connections between two processes, in any order: each request finds its own."""
    with recording(capture) as recorded:
        server, client = recorded.actor(), recorded.actor()
        pairs = [open_connection(server, client, recorded, "ipv4", f"c{i}") for i in range(200)]
        for number, pair in enumerate(pairs, 1):
            client.send(pair.name, request(number))
        for pair in reversed(pairs):
            server.receive(pair.name)
        for pair in pairs[::3] + pairs[1::3] + pairs[2::3]:
            pair.answer(response())
        recorded.finish(400)
        expect_pairs(recorded, range(1, 201))
        assert recorded.counted(Counter.HANDOFF_MISSED) == 0


def untaken(capture: Capture) -> int:
    """Hand-offs that wait in the kernel: struct handoff of bpf/maps.h, those with a time."""
    _, sets = capture.bpf.map("handoffs").items()
    places = np.ascontiguousarray(sets).view(np.uint64).reshape(-1, 8)
    return int((places[:, 6] != 0).sum())


def test_hand_offs_are_taken(capture: Capture) -> None:
    """A hand-off that was taken is gone: the map does not fill with used ones."""
    with connected(capture) as pair:
        before = untaken(capture)
        for number in range(1, 51):
            pair.exchange(request(number), response())
        assert untaken(capture) == before


def test_a_hand_off_that_nobody_takes(capture: Capture) -> None:
    """A hand-off to a process that is not traced stays where it is, and can be seen there."""
    with recording(capture) as recorded:
        server, client = recorded.actor(traced=False), recorded.actor()
        pair = open_connection(server, client, recorded, "ipv4", "c")
        before = untaken(capture)
        pair.exchange(request(1), response())
        assert untaken(capture) == before + 1


def test_after_a_body_nobody_saw(capture: Capture) -> None:
    """The position counts bytes that no hook saw (a spliced body), so the next request finds its
    hand-off."""
    with connected(capture) as pair:
        pair.client.do(
            "send_file",
            name="c",
            how="splice",
            size=3000,
            pattern="GET / ",
            head=request(1, "Content-Length: 3000", method="POST").decode(),
        )
        pair.server.do(
            "receive_count",
            name="c",
            size=99,
            count=3000 + len(request(1, "Content-Length: 3000", method="POST")),
        )
        pair.answer(response())
        pair.exchange(request(2), response())
        pair.recorded.finish(4)
        expect_pairs(pair.recorded, [1, 2])


def test_two_servers_on_one_port(capture: Capture) -> None:
    """Servers that share a port by SO_REUSEPORT each have their own requests."""
    with recording(capture) as recorded:
        client, first, second = (recorded.actor() for _ in range(3))
        address = first.listen(reuse_port=True)
        second.listen(address=address, reuse_port=True)
        for actor in (first, second):
            actor.do("set_blocking", name="listener", on=False)
        owners = {}
        for number in range(1, 41):
            name = f"c{number}"
            client.do("connect", name=name, family="AF_INET", address=address)
            server = first if first.do("try_accept", listener="listener", name=name) else second
            if server is second:
                second.do("accept", listener="listener", name=name)
            owners[number] = server.pid
            Connection(recorded, client, server, name).exchange(request(number), response())
        recorded.finish(80)
        expect_pairs(recorded, range(1, 41))
        for one in recorded.of(Role.SERVER):
            assert one.facts.tgid == owners[one.number]
        assert len(set(owners.values())) == 2


def run(*command: str) -> None:
    """A command that must work for the scenario to exist."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        unavailable(f"{' '.join(command)}: {done.stderr.strip()}")


@contextmanager
def two_namespaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces joined by a veth pair: 10.77.0.1 and 10.77.0.2."""
    names = (f"waggle-{os.getpid()}-a", f"waggle-{os.getpid()}-b")
    try:
        for name in names:
            run("ip", "netns", "add", name)
        run(
            "ip",
            "link",
            "add",
            "wa",
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "name",
            "wb",
            "netns",
            names[1],
        )
        for name, device, address in zip(names, ("wa", "wb"), ("1", "2"), strict=True):
            run("ip", "-n", name, "addr", "add", f"10.77.0.{address}/24", "dev", device)
            run("ip", "-n", name, "link", "set", device, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def inside(namespace: str) -> tuple[str, ...]:
    return ("ip", "netns", "exec", namespace)


def test_across_network_namespaces(capture: Capture) -> None:
    """Two ends in two network namespaces find each other."""
    with two_namespaces() as (here, there), recording(capture) as recorded:
        client, server = recorded.actor(prefix=inside(here)), recorded.actor(prefix=inside(there))
        server.listening = ("AF_INET", server.listen("AF_INET", ["10.77.0.2", 0]))
        pair = open_connection(server, client, recorded)
        for number in range(1, 11):
            pair.exchange(request(number), response(b"r" * 20_000))
        recorded.finish(20)
        expect_pairs(recorded, range(1, 11))


REDIRECT = (
    "add table ip waggle",
    "add chain ip waggle out { type nat hook output priority -100 ; }",
)


def test_through_nat(capture: Capture) -> None:
    """A connection whose addresses a NAT rewrites is handed over all the same: the client thinks
    it speaks to another port."""
    with two_namespaces() as (here, _), recording(capture) as recorded:
        client, server = recorded.actor(prefix=inside(here)), recorded.actor(prefix=inside(here))
        _, port = server.listen("AF_INET", ["0.0.0.0", 0])  # noqa: S104
        rules = (*REDIRECT, f"add rule ip waggle out tcp dport 81 redirect to :{port}")
        redirect(here, rules, port)
        server.listening = ("AF_INET", ["10.77.0.1", 81])
        pair = open_connection(server, client, recorded)
        pair.exchange(request(1), response())
        recorded.finish(2)
        expect_pairs(recorded, [1])
        first, second = recorded.pair(1)
        assert (first.facts.peer_port, second.facts.local_port) == (81, port)


def redirect(namespace: str, rules: tuple[str, ...], port: int) -> None:
    """By nft, or by iptables where that is what there is."""
    try:
        done = subprocess.run(
            [*inside(namespace), "nft", "; ".join(rules)], capture_output=True, check=False
        )
        if done.returncode == 0:
            return
    except OSError as error:
        unavailable(str(error))
    run(
        *inside(namespace),
        "iptables",
        "-t",
        "nat",
        "-A",
        "OUTPUT",
        "-p",
        "tcp",
        "--dport",
        "81",
        "-j",
        "REDIRECT",
        "--to-ports",
        str(port),
    )


def test_peer_that_falls_silent(capture: Capture) -> None:
    """A peer that is gone from the network is a time-out."""
    with two_namespaces() as (here, there), recording(capture) as recorded:
        client, server = recorded.actor(prefix=inside(here)), recorded.actor(prefix=inside(there))
        server.listening = ("AF_INET", server.listen("AF_INET", ["10.77.0.2", 0]))
        pair = open_connection(server, client, recorded)
        pair.exchange(request(1), response())
        client.do("user_timeout", name="c", ms=300)
        run("ip", "-n", there, "link", "set", "wb", "address", "02:00:00:00:00:99")
        client.send("c", request(2))
        assert client.do("receive_failing", name="c") in ("TimeoutError", "OSError")
        recorded.finish(3)
        failed = [one for one in recorded.of(Role.CLIENT) if one.number == 2]
        assert [one.end for one in failed] == [End.TIMED_OUT], str(recorded)
        assert failed[0].span.attributes["error.type"] == "ETIMEDOUT"
