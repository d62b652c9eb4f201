"""Every way in which a Linux program can move bytes through a stream socket, by name.

A sender takes the pieces of a message in order. `writev` and `sendmsg` hand all pieces to one
call as its vector, `sendmmsg` as its messages; every other sender makes one call for each piece.
A receiver takes a size in bytes and gives what one call brought, b"" at the end of the stream.
"""

import argparse
import ctypes
import itertools
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Sender = Callable[[socket.socket, Sequence[bytes]], None]
Receiver = Callable[[socket.socket, int], bytes]

_LIBC = ctypes.CDLL(None, use_errno=True)
_VECTOR_LIMIT = 512
_MSG_WAITFORONE = 0x10000


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("header", _Msghdr), ("length", ctypes.c_uint32))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class _Messages:
    """An array of struct mmsghdr, each with one buffer, and what keeps its memory alive."""

    def __init__(self, buffers: Sequence["ctypes.Array[ctypes.c_char]"], sizes: Sequence[int]):
        self._buffers = buffers
        self._vectors = (_Iovec * len(buffers))()
        self.array = (_Mmsghdr * len(buffers))()
        for i, (buffer, size) in enumerate(zip(buffers, sizes, strict=True)):
            self._vectors[i].base = ctypes.addressof(buffer)
            self._vectors[i].length = size
            self.array[i].header.iov = ctypes.pointer(self._vectors[i])
            self.array[i].header.iov_length = 1


def _each(send_some: Callable[[socket.socket, memoryview], int]) -> Sender:
    """A sender from a call that may send only part of a piece."""

    def send(sock: socket.socket, pieces: Sequence[bytes]) -> None:
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[send_some(sock, rest) :]

    return send


def _vectored(send_some: Callable[[socket.socket, list[memoryview]], int]) -> Sender:
    """A sender from a call that takes several pieces and may send only part of them."""

    def send(sock: socket.socket, pieces: Sequence[bytes]) -> None:
        rest = [memoryview(piece) for piece in pieces if piece]
        while rest:
            sent = send_some(sock, rest[:_VECTOR_LIMIT])
            while rest and sent >= len(rest[0]):
                sent -= len(rest.pop(0))
            if sent:
                rest[0] = rest[0][sent:]

    return send


def _send_by_sendto(sock: socket.socket, data: memoryview) -> int:
    # To a connected TCP socket an address is allowed and ignored; a UNIX socket refuses one.
    if sock.family == socket.AF_UNIX:
        return sock.send(data)
    return sock.sendto(data, sock.getpeername())


def _send_by_sendmmsg(sock: socket.socket, pieces: list[memoryview]) -> int:
    buffers = [ctypes.create_string_buffer(bytes(piece), len(piece)) for piece in pieces]
    messages = _Messages(buffers, [len(piece) for piece in pieces])
    count = _checked(_LIBC.sendmmsg(sock.fileno(), messages.array, len(pieces), 0))
    return sum(messages.array[i].length for i in range(count))


def _in_memory_file(data: memoryview) -> int:
    file = os.memfd_create("waggle-piece")
    while data:
        data = data[os.write(file, data) :]
    return file


def _send_by_sendfile(sock: socket.socket, data: memoryview) -> int:
    file = _in_memory_file(data)
    try:
        return os.sendfile(sock.fileno(), file, 0, len(data))
    finally:
        os.close(file)


def _send_by_splice(sock: socket.socket, data: memoryview) -> int:
    reading, writing = os.pipe()
    try:
        in_pipe = os.write(writing, data[:4096])
        sent = 0
        while sent < in_pipe:
            sent += os.splice(reading, sock.fileno(), in_pipe - sent)
        return sent
    finally:
        os.close(reading)
        os.close(writing)


SENDERS: dict[str, Sender] = {
    "write": _each(lambda sock, data: os.write(sock.fileno(), data)),
    "send": _each(lambda sock, data: sock.send(data)),
    "sendto": _each(_send_by_sendto),
    "sendfile": _each(_send_by_sendfile),
    "splice": _each(_send_by_splice),
    "writev": _vectored(lambda sock, pieces: os.writev(sock.fileno(), pieces)),
    "sendmsg": _vectored(lambda sock, pieces: sock.sendmsg(pieces)),
    "sendmmsg": _vectored(_send_by_sendmmsg),
}


def _receive_by_recvfrom(sock: socket.socket, size: int) -> bytes:
    return sock.recvfrom(size)[0]


def _split_buffers(size: int) -> list[bytearray]:
    """Buffers of `size` bytes in all, the first one small."""
    small = min(3, size)
    return [bytearray(part) for part in (small, size - small) if part]


def _receive_by_readv(sock: socket.socket, size: int) -> bytes:
    buffers = _split_buffers(size)
    count = os.readv(sock.fileno(), buffers)
    return b"".join(buffers)[:count]


def _receive_by_recvmsg(sock: socket.socket, size: int) -> bytes:
    buffers = _split_buffers(size)
    count = sock.recvmsg_into(buffers)[0]
    return b"".join(buffers)[:count]


def _receive_by_recvmmsg(sock: socket.socket, size: int) -> bytes:
    sizes = [len(buffer) for buffer in _split_buffers(size)]
    buffers = [ctypes.create_string_buffer(length) for length in sizes]
    messages = _Messages(buffers, sizes)
    count = _LIBC.recvmmsg(sock.fileno(), messages.array, len(sizes), _MSG_WAITFORONE, None)
    got = [messages.array[i].length for i in range(_checked(count))]
    return b"".join(buffer.raw[:length] for buffer, length in zip(buffers, got, strict=False))


def _receive_by_peek(sock: socket.socket, size: int) -> bytes:
    seen = sock.recv(size, socket.MSG_PEEK)
    return sock.recv(len(seen)) if seen else b""


def _receive_by_splice(sock: socket.socket, size: int) -> bytes:
    reading, writing = os.pipe()
    try:
        count = os.splice(sock.fileno(), writing, min(size, 4096))
        return os.read(reading, count) if count else b""
    finally:
        os.close(reading)
        os.close(writing)


RECEIVERS: dict[str, Receiver] = {
    "read": lambda sock, size: os.read(sock.fileno(), size),
    "recv": lambda sock, size: sock.recv(size),
    "recvfrom": _receive_by_recvfrom,
    "recvmsg": _receive_by_recvmsg,
    "recvmmsg": _receive_by_recvmmsg,
    "readv": _receive_by_readv,
    "peek": _receive_by_peek,
    "splice": _receive_by_splice,
}


@dataclass(frozen=True)
class Style:
    """How one program sends and receives."""

    send: str = "send"
    receive: str = "recv"
    receive_sizes: Sequence[int] = (65536,)
    cut: str = ""
    pause_s: float = 0

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--send", choices=sorted(SENDERS), default="send")
        parser.add_argument("--receive", choices=sorted(RECEIVERS), default="recv")
        parser.add_argument(
            "--recv-size", default="65536", help="bytes a call may bring; 1,5,300 takes turns"
        )
        parser.add_argument(
            "--cut",
            default="",
            help="where to cut a message: 1,5,-2 (negative: from the end of "
            "the head), or every:K for the whole head",
        )
        parser.add_argument("--pause-ms", type=float, default=0, help="between the pieces")

    @classmethod
    def from_arguments(cls, given: argparse.Namespace) -> "Style":
        sizes = [int(size) for size in given.recv_size.split(",")]
        return cls(given.send, given.receive, sizes, given.cut, given.pause_ms / 1000)

    def pieces(self, message: bytes) -> list[bytes]:
        """The message, cut where the style says."""
        if not self.cut:
            return [message]
        places = sorted(self._places(message))
        edges = [0, *places, len(message)]
        return [message[a:b] for a, b in itertools.pairwise(edges)]

    def _places(self, message: bytes) -> set[int]:
        end_of_head = message.find(b"\r\n\r\n") + 4
        if self.cut.startswith("every:"):
            wanted = [*range(0, end_of_head, int(self.cut.removeprefix("every:")))]
        else:
            given = [int(place) for place in self.cut.split(",")]
            wanted = [end_of_head + place if place < 0 else place for place in given]
        return {place for place in wanted if 0 < place < len(message)}


class Wire:
    """A connection used in one style, with a buffer for what came too early."""

    def __init__(self, sock: socket.socket, style: Style) -> None:
        self.sock = sock
        self.style = style
        self._sizes = itertools.cycle(style.receive_sizes)
        self._buffer = b""

    def send(self, message: bytes) -> None:
        pieces = self.style.pieces(message)
        send = SENDERS[self.style.send]
        if not self.style.pause_s:
            send(self.sock, pieces)
            return
        for piece in pieces:
            send(self.sock, [piece])
            time.sleep(self.style.pause_s)

    def has_more(self) -> bool:
        """Whether bytes have been received that nobody has taken."""
        return bool(self._buffer)

    def fill(self) -> bool:
        """Receives once. False at the end of the stream."""
        received = RECEIVERS[self.style.receive](self.sock, next(self._sizes))
        self._buffer += received
        return bool(received)

    def take_until(self, mark: bytes) -> bytes | None:
        """The bytes up to and with `mark`; None when the stream ends before any byte. Raises
        EOFError when it ends in the middle."""
        while mark not in self._buffer:
            if not self.fill():
                if self._buffer:
                    raise EOFError(f"the stream ended in the middle: {self._buffer[:80]!r}")
                return None
        return self._take(self._buffer.index(mark) + len(mark))

    def take(self, count: int) -> bytes:
        """Exactly `count` bytes. Raises EOFError when the stream ends before."""
        while len(self._buffer) < count:
            if not self.fill():
                raise EOFError(f"the stream ended {count - len(self._buffer)} bytes early")
        return self._take(count)

    def take_all(self) -> bytes:
        """Everything up to the end of the stream."""
        while self.fill():
            pass
        return self._take(len(self._buffer))

    def _take(self, count: int) -> bytes:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken


@dataclass(frozen=True)
class Head:
    """The head of a request or response: the three words of its first line, and its fields."""

    first: str
    second: str
    third: str
    fields: dict[str, str]

    @classmethod
    def parse(cls, data: bytes) -> "Head":
        lines = data.decode("latin-1").lstrip("\r\n").split("\r\n")
        words = [*lines[0].split(" ", 2), "", ""]
        pairs = (line.partition(":") for line in lines[1:] if line)
        fields = {name.lower(): value.strip() for name, _, value in pairs}
        return cls(words[0], words[1], words[2], fields)


def read_head(wire: Wire) -> Head | None:
    """The next head; None at the end of the stream."""
    data = wire.take_until(b"\r\n\r\n")
    return None if data is None else Head.parse(data)


def read_announced_body(wire: Wire, fields: dict[str, str]) -> bytes | None:
    """The body as Content-Length or chunks announce it; None when nothing is announced."""
    if fields.get("transfer-encoding", "").lower() == "chunked":
        return b"".join(_chunks(wire))
    if "content-length" in fields:
        return wire.take(int(fields["content-length"]))
    return None


def _chunks(wire: Wire) -> Iterator[bytes]:
    while True:
        line = _line(wire)
        size = int(line.partition(b";")[0], 16)
        if size == 0:
            break
        yield wire.take(size)
        wire.take(2)
    while _line(wire):  # trailers, then the empty line
        pass


def _line(wire: Wire) -> bytes:
    line = wire.take_until(b"\r\n")
    if line is None:
        raise EOFError("the stream ended in a chunked body")
    return line[:-2]


def chunked(body: bytes, sizes: Sequence[int], *, extras: bool = False) -> bytes:
    """`body` in chunks of the given sizes, taken in turns. `extras` adds an extension to every
    chunk, leading zeros to its size, and trailers at the end."""
    out = []
    start = 0
    for size in itertools.cycle(sizes):
        piece = body[start : start + size]
        if not piece:
            break
        extension = b';note="a;b"' if extras else b""
        out.append((b"%06x" if extras else b"%x") % len(piece) + extension + b"\r\n")
        out.append(piece + b"\r\n")
        start += size
    trailers = b"X-Trailer: GET /trailer HTTP/1.1\r\n" if extras else b""
    return b"".join(out) + b"0\r\n" + trailers + b"\r\n"


def connect(host: str, port: int, unix_path: str | None) -> socket.socket:
    if unix_path:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(unix_path)
        return sock
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.connect((host, port))
    return sock


def limit_waiting(sock: socket.socket, seconds: float) -> None:
    """Makes a receive that brings nothing for so long fail with BlockingIOError. Unlike Python's
    own timeouts this leaves the socket blocking, so that every plain call (read, splice, recvmmsg)
    waits in the kernel as it does in most programs."""
    whole, rest = divmod(seconds, 1)
    limit = struct.pack("ll", int(whole), int(rest * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


def split_url(url: str) -> tuple[str, int, str]:
    """Host, port and target of an http URL. The host comes without brackets."""
    authority, _, path = url.removeprefix("http://").partition("/")
    host, colon, port = authority.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = authority, "80"
    return host.strip("[]"), int(port), f"/{path}"


def reset(sock: socket.socket) -> None:
    """Closes a TCP connection with a reset instead of an end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
