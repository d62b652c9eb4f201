"""A target program that sends whatever is hard to tell from a request, cut wherever it likes.

    python -m peers.scrambler

`http HOST:PORT SEED COUNT FILE` on its standard input makes so many connections to a raw server,
each with some requests: framed every way, with bodies that hold requests, sent whole, in pieces,
byte by byte, pipelined, by every way to send. `other HOST:PORT SEED COUNT FILE` does so with
protocols that are not HTTP, to somebody who reads to the end. What was sent and received goes to
the file (tap.py), and the number of requests or connections is printed. The same seed sends the
same. Requests that are none, since they lie in a body or a frame, are to /fake/.
"""

import os
import random
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from .tap import PATIENCE_S, Kept, receive, write_kept

_FAKE = b"GET /fake/%d HTTP/1.1\r\nHost: fake\r\nContent-Length: 0\r\n\r\n"
_OWN = b"traceparent: 00-%032x-%016x-01\r\n"
_SIZES = (0, 1, 30, 500, 4000, 20_000)


class _End:
    """One connection: what is sent by any way, and what comes back."""

    def __init__(self, place: tuple[str, int], rng: random.Random) -> None:
        self.sock = socket.create_connection(place, PATIENCE_S)
        self.sock.settimeout(PATIENCE_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.kept = Kept(self.sock.getsockname()[1])
        self.rng = rng
        self._unread = b""

    def send(self, data: bytes) -> None:
        ways: list[Callable[[bytes], None]] = [
            self.sock.sendall,
            self._write,
            self._vector,
            self._more,
            self._file,
        ]
        self.kept.up += data
        self.rng.choice(ways)(data)

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.sock.fileno(), data) :]

    def _vector(self, data: bytes) -> None:
        third = len(data) // 3
        done = self.sock.sendmsg([data[:third], data[third : 2 * third], data[2 * third :]])
        self.sock.sendall(data[done:])

    def _more(self, data: bytes) -> None:
        half = self.rng.randrange(len(data)) if data else 0
        self.sock.sendall(data[:half], socket.MSG_MORE)
        self.sock.sendall(data[half:])

    def _file(self, data: bytes) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            self.sock.sendfile(file)

    def read_answer(self) -> None:
        head = self._read_to(b"\r\n\r\n")
        if b" 100 " in head.partition(b"\r\n")[0]:
            return
        fields = head.lower()
        length = int(fields.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        self._read(length)

    def _read_to(self, mark: bytes) -> bytes:
        while mark not in self._unread:
            self._receive()
        head, _, self._unread = self._unread.partition(mark)
        return head + mark

    def _read(self, count: int) -> None:
        while len(self._unread) < count:
            self._receive()
        self._unread = self._unread[count:]

    def _receive(self) -> None:
        piece = receive(self.sock)
        if not piece:
            raise SystemExit(f"the answer ended after {bytes(self.kept.down[-200:])!r}")
        self.kept.down += piece
        self._unread += piece

    def end(self) -> None:
        """Ends the sending, and reads what comes until the other end does the same."""
        self.sock.shutdown(socket.SHUT_WR)
        while piece := receive(self.sock):
            self.kept.down += piece
        self.sock.close()


def _filling(rng: random.Random, size: int) -> bytes:
    """Bytes of a body: noise, requests that are none, headers that are none."""
    pieces: list[bytes] = []
    while sum(map(len, pieces)) < size:
        kind = rng.randrange(4)
        if kind == 0:
            pieces.append(rng.randbytes(rng.randrange(1, 200)))
        elif kind == 1:
            pieces.append(_FAKE % rng.randrange(1000))
        elif kind == 2:
            pieces.append(_OWN % (rng.getrandbits(127), rng.getrandbits(63)))
        else:
            pieces.append(b"\r\n" * rng.randrange(1, 4))
    return b"".join(pieces)[:size]


def _chunks(rng: random.Random, body: bytes) -> bytes:
    pieces: list[bytes] = []
    while body:
        size = rng.randrange(1, len(body) + 1)
        pieces.append(b"%x\r\n%s\r\n" % (size, body[:size]))
        body = body[size:]
    return b"".join(pieces) + b"0\r\n\r\n"


def _request(rng: random.Random, number: int) -> tuple[bytes, bytes]:
    """Head and body of one request."""
    body = _filling(rng, rng.choice(_SIZES))
    fields = [b"Host: scrambled"]
    fields += [b"X-%d: %s" % (i, b"x" * rng.randrange(60)) for i in range(rng.randrange(6))]
    if rng.randrange(10) == 0:
        fields.append(_OWN[:-2] % (rng.getrandbits(127), rng.getrandbits(63)))
    if not body and rng.randrange(2):
        line = b"GET /n/%d HTTP/1.1" % number
    else:
        line = b"POST /echo/%d HTTP/1.1" % number
        if rng.randrange(2):
            fields.append(b"Content-Length: %d" % len(body))
        else:
            fields.append(b"Transfer-Encoding: chunked")
            body = _chunks(rng, body)
    rng.shuffle(fields)
    return b"\r\n".join([line, *fields]) + b"\r\n\r\n", body


def _cuts(rng: random.Random, head: bytes, body: bytes) -> Iterator[bytes]:
    """One request, in the pieces in which it is sent."""
    kind = rng.randrange(6)
    whole = head + body
    if kind < 2:
        yield whole
    elif kind == 2:
        yield head
        if body:
            yield body
    elif kind == 3:
        yield from (bytes([byte]) for byte in head)
        if body:
            yield body
    else:
        places = sorted(rng.randrange(1, len(whole)) for _ in range(rng.randrange(1, 5)))
        for begin, end in zip([0, *places], [*places, len(whole)], strict=True):
            if begin != end:
                yield whole[begin:end]


def _speak_http(end: _End, number: int) -> int:
    """Some requests, and their answers. Returns how many."""
    made = 0
    for _ in range(end.rng.randrange(1, 6)):
        at_once = 1 if end.rng.randrange(4) else end.rng.randrange(2, 4)
        for head, body in [_request(end.rng, number + made + i) for i in range(at_once)]:
            for piece in _cuts(end.rng, head, body):
                end.send(piece)
        for _ in range(at_once):
            end.read_answer()
        made += at_once
    return made


def _frames(rng: random.Random) -> Iterator[bytes]:
    """What is sent by something that is not HTTP."""
    kind = rng.randrange(5)
    for number in range(rng.randrange(1, 8)):
        fake = _FAKE % number * rng.randrange(1, 4)
        if kind == 0:  # yamux: version, type, flags, stream, length
            yield bytes(4) + (2 * number + 1).to_bytes(4) + len(fake).to_bytes(4) + fake
        elif kind == 1:  # Redis
            yield b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$%d\r\n%s\r\n" % (len(fake), fake)
        elif kind == 2:  # TLS: application data
            yield b"\x17\x03\x03" + len(fake).to_bytes(2) + fake
        elif kind == 3:  # HTTP/2 by prior knowledge: DATA that holds a request
            yield (
                b"" if number else b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4" + bytes(5)
            )
            yield len(fake).to_bytes(3) + b"\0\0" + (1).to_bytes(4) + fake
        else:
            yield b"EHLO there\r\n" if not number else fake


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def _head(rng: random.Random, stream: int, number: int) -> tuple[bytes, bool]:
    """Frames that begin a stream, and whether data of it may follow."""
    path = b"/n/%d" % number
    # `:method`, `:scheme` and the path's name are in the static table; the last becomes an entry.
    block = b"\x83\x86\x04" + bytes((len(path),)) + path + b"\x40\x03x-a"
    value = b"%d" % number + b"x" * rng.randrange(60)
    block += bytes((len(value),)) + value
    flags, ends = 4, rng.randrange(2)
    kind = rng.randrange(5)
    if kind == 0:  # padded
        pad = rng.randrange(20)
        block, flags = bytes((pad,)) + block + bytes(pad), flags | 8
    elif kind == 1:  # with a priority
        block, flags = bytes(4) + b"\x07" + block, flags | 32
    elif kind == 2:  # continued
        at = rng.randrange(1, len(block))
        first = _frame(1, ends, stream, block[:at])
        return first + _frame(9, 4, stream, block[at:]), not ends
    return _frame(1, flags | ends, stream, block), not ends


def _speak_http2(end: _End, number: int) -> int:
    """Streams with data that looks like streams, cut anywhere."""
    rng, stream, waiting = end.rng, 1, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"")
    decoy, _ = _head(rng, 99, 0)
    for _ in range(rng.randrange(1, 12)):
        head, goes_on = _head(rng, stream, number)
        waiting += head
        if goes_on:
            waiting += _frame(0, 0, stream, decoy * rng.randrange(1, 4))
            trailers = b"\x00\x03end\x01" + b"1"
            waiting += (
                _frame(1, 5, stream, trailers) if rng.randrange(2) else _frame(0, 1, stream, b"")
            )
        waiting += _frame(8, 0, 0, bytes(3) + b"\x09") if rng.randrange(3) else b""
        stream += 2
        number += 1
        if rng.randrange(3):
            at = rng.randrange(len(waiting)) if rng.randrange(3) == 0 else 0
            for piece in (waiting[:at], waiting[at:]):
                if piece:
                    end.send(piece)
            waiting = b""
    if waiting:
        end.send(waiting)
    return stream // 2


def _speak_other(end: _End) -> int:
    for frame in _frames(end.rng):
        if not frame:
            continue
        at = end.rng.randrange(len(frame)) if end.rng.randrange(2) else 0
        for piece in (frame[:at], frame[at:]):
            if piece:
                end.send(piece)
    return 1


def _run(what: str, place: tuple[str, int], seed: str, count: int) -> tuple[list[Kept], int]:
    kept, done = [], 0
    for number in range(count):
        end = _End(place, random.Random(f"{seed}-{number}"))  # noqa: S311 (for no secret)
        if what == "http":
            done += _speak_http(end, done)
        else:
            done += _speak_http2(end, done) if what == "http2" else _speak_other(end)
        end.end()
        kept.append(end.kept)
    return kept, done


def main() -> None:
    print("gate", flush=True)
    for line in sys.stdin:
        what, address, seed, count, file = line.split()
        host, _, port = address.rpartition(":")
        kept, done = _run(what, (host, int(port)), seed, int(count))
        write_kept(Path(file), kept)
        print(done, flush=True)


if __name__ == "__main__":
    main()
