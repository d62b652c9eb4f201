"""A server that no agent traces, and that keeps every byte of every request.

It answers /n/NUMBER as the target programs' servers do: a text that begins with the number. What
clients send is told apart by number, so that two runs of one client can be compared.
"""

import re
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

LINE = re.compile(rb"traceparent: 00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\r\n")
_NUMBER = re.compile(rb"^[A-Z]+ \S*/(\d+)\S* HTTP/1\.[01]\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)


@dataclass(frozen=True)
class Written:
    """A request as it came, without the line of ours."""

    without: bytes
    trace_id: str = ""
    span_id: str = ""
    flags: int = 0

    @property
    def has_line(self) -> bool:
        return bool(self.trace_id)


def without_line(request: bytes) -> Written:
    """Takes our line out of a request, if it is where it must be: behind the first line. One
    that is elsewhere stays, so that a comparison fails."""
    start = request.index(b"\r\n") + 2
    found = LINE.match(request, start)
    if not found:
        return Written(request)
    trace_id, span_id, flags = (text.decode() for text in found.groups())
    return Written(request[:start] + request[found.end() :], trace_id, span_id, int(flags, 16))


@dataclass
class Stranger:
    """What came so far, by number; several requests of one number in their order."""

    listener: socket.socket
    requests: dict[int, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    unread: list[bytes] = field(default_factory=list)
    """What came on a connection and was no request."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def take(self) -> dict[int, list[bytes]]:
        """All that came since it was last asked. Nothing is left that is no request."""
        with self._lock:
            assert not self.unread, self.unread
            taken, self.requests = self.requests, defaultdict(list)
            return dict(taken)

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                threading.Thread(target=self._serve_one, args=(sock,), daemon=True).start()

    def _serve_one(self, sock: socket.socket) -> None:
        kept = b""
        with sock, suppress(ConnectionError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                request, kept = _next_request(sock, kept)
                if not request:
                    break
                if not self._answer(sock, request):
                    return
        if kept:
            with self._lock:
                self.unread.append(kept)

    def _answer(self, sock: socket.socket, request: bytes) -> bool:
        found = _NUMBER.match(request)
        with self._lock:
            if request.startswith(b"GET /ready "):
                pass  # whoever waits for what is in front of us
            elif found:
                self.requests[int(found[1])].append(request)
            else:
                self.unread.append(request)
        body = b"n=%s\n" % found[1] if found else b"0"
        closes = bool(_CLOSE.search(request)) or b" HTTP/1.0\r\n" in request
        ending = b"Connection: close\r\n" if closes else b""
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n" % (len(body), ending)
        sock.sendall(head + body)
        return not closes


def _next_request(sock: socket.socket, kept: bytes) -> tuple[bytes, bytes]:
    """One whole request, and what came behind it; empty at the end."""
    while b"\r\n\r\n" not in kept:
        piece = sock.recv(1 << 16)
        if not piece:
            return b"", kept
        kept += piece
    size = kept.index(b"\r\n\r\n") + 4
    if length := _LENGTH.search(kept[:size]):
        size += int(length[1])
    while len(kept) < size:
        piece = sock.recv(1 << 16)
        if not piece:
            return b"", kept
        kept += piece
    return kept[:size], kept[size:]


@contextmanager
def started_stranger() -> Iterator[Stranger]:
    """Listens on a port of its own until the block ends."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        stranger = Stranger(listener)
        threading.Thread(target=stranger.serve, daemon=True).start()
        yield stranger
        listener.shutdown(socket.SHUT_RDWR)
