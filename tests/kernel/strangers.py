"""A stranger: whoever is called and is no part of Waggle. It keeps every byte that came, and what
came must be what was sent, with our lines more at given places, and nothing else."""

import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from kernel.capturing import PATIENCE_S, Actor, Recording, request, response
from waggle.layout import Counter

LINE = re.compile(rb"traceparent: 00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\r\n")
RECEIVED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Line:
    """The ids of one line that was written."""

    trace_id: bytes
    span_id: bytes
    flags: int


def head_starts(*requests: bytes) -> list[int]:
    """Behind which byte of requests, one after the other, their first lines end."""
    starts, at = [], 0
    for one in requests:
        starts.append(at + one.index(b"\r\n") + 2)
        at += len(one)
    return starts


def lines_at(sent: bytes, got: bytes, places: Sequence[int]) -> list[Line]:
    """The lines that were written at these places of what was sent; anything else that differs
    fails."""
    lines, at, taken = [], 0, 0
    for place in places:
        piece = sent[at:place]
        assert got[taken : taken + len(piece)] == piece, f"changed before byte {place}"
        taken += len(piece)
        found = LINE.match(got, taken)
        assert found, f"no line at {place}: {got[taken - 40 : taken + 80]!r}"
        trace_id, span_id, flags = (bytes.fromhex(text.decode()) for text in found.groups())
        lines.append(Line(trace_id, span_id, flags[0]))
        at, taken = place, found.end()
    assert len(got) - taken == len(sent) - at, f"{len(got) - taken} bytes, not {len(sent) - at}"
    assert got[taken:] == sent[at:], "changed behind the last line"
    return lines


class Stranger:
    """Listens in this process, which no agent traces."""

    def __init__(self, address: str = "127.0.0.1", buffer: int = 0) -> None:
        self._listener = socket.create_server(
            (address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET
        )
        if buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._listener.settimeout(PATIENCE_S)
        self.address = [address, self._listener.getsockname()[1]]
        self.family = "AF_INET6" if ":" in address else "AF_INET"

    @contextmanager
    def connected(self, client: Actor, name: str = "c") -> Iterator[socket.socket]:
        """The stranger's end of a connection of `client`'s, who calls it by `name`."""
        client.do("connect", name=name, family=self.family, address=self.address)
        sock, _ = self._listener.accept()
        with sock:
            sock.settimeout(PATIENCE_S)
            yield sock

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Whoever connects meanwhile has to wait until this is over, and then a second."""
        self._listener.listen(0)
        with socket.create_connection(tuple(self.address), PATIENCE_S):
            yield
            self.accept().close()
            self._listener.listen()

    def accept(self) -> socket.socket:
        sock, _ = self._listener.accept()
        sock.settimeout(PATIENCE_S)
        return sock

    def teach(self, recorded: Recording, client: Actor) -> None:
        """An exchange on a connection of its own: from now on it is known that HTTP/1 is spoken
        here."""
        with self.connected(client, "teach") as sock:
            client.send("teach", request(0))
            receive_to(sock, b"\r\n\r\n")
            sock.sendall(response())
            client.receive_to("teach", b"ok")
            client.close("teach")
        keys = recorded.capture.bpf.map("http1_peers").items()[0]
        ports = [int.from_bytes(key[16:20].tobytes(), "little") for key in keys]
        assert self.address[1] in ports

    def close(self) -> None:
        self._listener.close()


def forget_peers(recorded: Recording) -> None:
    """A port that is free again may have been another stranger's."""
    known = recorded.capture.bpf.map("http1_peers")
    for key in known.items()[0]:
        known.delete(key.tobytes())


def receive_to(sock: socket.socket, mark: bytes) -> bytes:
    """All that comes up to this mark."""
    got = b""
    while not got.endswith(mark):
        piece = sock.recv(RECEIVED_AT_ONCE)
        assert piece, f"the stream ended after {got[-80:]!r}"
        got += piece
    return got


def receive_all(sock: socket.socket) -> bytes:
    """All that comes up to the end."""
    got = bytearray()
    while piece := sock.recv(RECEIVED_AT_ONCE):
        got += piece
    return bytes(got)


def written(recorded: Recording) -> int:
    """How many lines were written since the recording began."""
    return recorded.counted(Counter.INJECT_WRITTEN)


def left_alone(recorded: Recording) -> dict[str, int]:
    """How many requests and connections were left alone since then, by why."""
    return {
        counter.name.removeprefix("INJECT_"): count
        for counter in Counter
        if counter >= Counter.INJECT_HAS_ONE
        and counter.name.startswith("INJECT_")
        and (count := recorded.counted(counter))
    }
