"""Passes connections on as they are, and keeps every byte of them in both directions.

In a test's process it is the end where bytes arrive; as a program that an agent traces,

    python -m peers.tap

it is the end that sends them, whatever protocol they are of: what it read is what it sends on, in
the pieces it came in. `route HOST:PORT` on its standard input makes it listen for those who want to
get there, and print the port; `keep FILE` writes what has passed since it was last asked, and
prints how many connections that was. Nothing but the standard library is needed.
"""

import select
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_AT_ONCE = 1 << 16
_FRAME = struct.Struct("=HBQQ")
_RESET = struct.pack("ii", 1, 0)
PATIENCE_S = 60.0


@dataclass
class Kept:
    """One connection. port: of the end that connected, of the hop between two taps, which tells
    which connection of the one is which of the other."""

    port: int
    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)
    broken: bool = False
    """Whether it was reset: then the last bytes may not have arrived."""


class Tap:
    """Listens once for each target and keeps what passes. `towards`: whether the port that names a
    connection is of the hop towards the target, or of the one it came by."""

    def __init__(self, *, towards: bool) -> None:
        self._towards = towards
        self._listeners: list[socket.socket] = []
        self._kept: list[Kept] = []
        self._open = 0
        self._changed = threading.Condition()

    def route(self, host: str, port: int) -> int:
        """The port at which connections to there are accepted from now on."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listeners.append(listener)
        threading.Thread(target=self._serve, args=(listener, (host, port)), daemon=True).start()
        return int(listener.getsockname()[1])

    def take(self) -> list[Kept]:
        """What has passed since it was last asked, once no connection is open any more."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._open, PATIENCE_S):
                raise TimeoutError(f"{self._open} connections are still open")
            taken, self._kept = self._kept, []
            return taken

    def close(self) -> None:
        for listener in self._listeners:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _serve(self, listener: socket.socket, target: tuple[str, int]) -> None:
        with suppress(OSError):
            while True:
                near, (_, port) = listener.accept()
                threading.Thread(target=self._pass, args=(near, port, target), daemon=True).start()

    def _pass(self, near: socket.socket, port: int, target: tuple[str, int]) -> None:
        with self._changed:
            self._open += 1
        try:
            with near, socket.create_connection(target) as far:
                kept = Kept(far.getsockname()[1] if self._towards else port)
                with self._changed:
                    self._kept.append(kept)
                for sock in (near, far):
                    sock.settimeout(None)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                back = threading.Thread(target=_pump, args=(far, near, kept, kept.down))
                back.start()
                _pump(near, far, kept, kept.up)
                back.join()
        except OSError:
            pass  # nobody listens there: whoever connected sees its connection end
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()


def _pump(source: socket.socket, sink: socket.socket, kept: Kept, seen: bytearray) -> None:
    """One direction, up to its end, which is passed on as what it was: an end or a reset."""
    try:
        while piece := receive(source):
            seen += piece
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        kept.broken = True
        for sock in (source, sink):
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                sock.shutdown(socket.SHUT_RDWR)


def receive(sock: socket.socket) -> bytes:
    """What comes next. Enrolled sockets of some kernels say EAGAIN although they block, at the
    peer's end and before it (docs/propagation.md): then it is asked again."""
    while True:
        try:
            return sock.recv(_AT_ONCE)
        except BlockingIOError:
            select.select([sock], [], [], PATIENCE_S)


def write_kept(path: Path, kept: list[Kept]) -> None:
    with path.open("wb") as file:
        for one in kept:
            file.write(_FRAME.pack(one.port, one.broken, len(one.up), len(one.down)))
            file.write(one.up)
            file.write(one.down)


def read_kept(path: Path) -> list[Kept]:
    with path.open("rb") as file:
        return list(_frames(file.read()))


def _frames(data: bytes) -> Iterator[Kept]:
    at = 0
    while at < len(data):
        port, broken, up, down = _FRAME.unpack_from(data, at)
        at += _FRAME.size
        yield Kept(
            port,
            bytearray(data[at : at + up]),
            bytearray(data[at + up : at + up + down]),
            bool(broken),
        )
        at += up + down


@contextmanager
def tapping() -> Iterator[Tap]:
    """A tap in this process, where bytes arrive."""
    tap = Tap(towards=False)
    try:
        yield tap
    finally:
        tap.close()


def main() -> None:
    tap = Tap(towards=True)
    for line in sys.stdin:
        what, argument = line.split()
        if what == "route":
            host, _, port = argument.rpartition(":")
            print(tap.route(host, int(port)), flush=True)
        else:
            kept = tap.take()
            write_kept(Path(argument), kept)
            print(len(kept), flush=True)


if __name__ == "__main__":
    main()
