"""A target program: an HTTP server of ours on plain sockets, one thread a connection, with a switch
for every way to send and receive.

    rawserver.py HOST:PORT | [::1]:PORT | unix:PATH [--send ...] [--receive ...] [--cut ...]

Besides the paths every target server has it answers /early/<n> (103 first), /upgrade/<n> (101, then
bytes that are not HTTP), CONNECT, OPTIONS *, /http10/<n>, /long-head/<n>?bytes=, and it breaks off:
/close/<n> (no answer), /reset/<n> (no answer, a reset), /half/<n> (half of the body), /hang/<n> (no
answer for as long as the client stays).
"""

import argparse
import dataclasses
import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote

import rawio
from rawio import Head, Style, Wire

BIG_BODY = 1 << 20


class HangUpError(Exception):
    """The connection is to end without (the rest of) an answer."""


@dataclass(frozen=True)
class Request:
    """A request that has been read as a whole."""

    head: Head
    body: bytes
    n: str
    words: list[str]
    query: dict[str, str]
    style: Style

    @property
    def version(self) -> str:
        return self.head.third

    @property
    def keeps_alive(self) -> bool:
        connection = self.head.fields.get("connection", "").lower()
        return connection == "keep-alive" if self.version == "HTTP/1.0" else connection != "close"


@dataclass(frozen=True)
class Answer:
    """What to send, and what becomes of the connection."""

    data: bytes
    ends: bool = False
    tunnel: bool = False
    """What follows in either direction is not HTTP."""


def respond(
    request: Request,
    body: bytes,
    status: str = "200 OK",
    *,
    fields: tuple[str, ...] = (),
    framing: str = "length",
    version: str = "HTTP/1.1",
) -> Answer:
    """A response. `framing` is how the body's end is told: length, chunked, close or none."""
    lines = [f"{version} {status}", "Content-Type: text/plain", *fields]
    ends = framing == "close" or not request.keeps_alive
    if framing == "length":
        lines.append(f"Content-Length: {len(body)}")
    elif framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
        body = rawio.chunked(body, (1, 2, 300, 7), extras="extras" in request.query)
    if ends:
        lines.append("Connection: close")
    elif request.version == "HTTP/1.0":
        lines.append("Connection: keep-alive")
    head = "\r\n".join([*lines, "", ""]).encode()
    return Answer(head if request.head.first == "HEAD" else head + body, ends)


def _number(request: Request) -> Answer:
    return respond(request, _body(request))


def _body(request: Request) -> bytes:
    return f"n={request.n}\n".encode()


def _slow(request: Request) -> Answer:
    time.sleep(float(request.query.get("ms", "0")) / 1000)
    return respond(request, _body(request))


def _status(request: Request) -> Answer:
    code = request.words[1]
    if code in ("204", "304"):
        return respond(request, b"", f"{code} Nothing", framing="none")
    return respond(request, _body(request), f"{code} As Asked")


def _chunked(request: Request) -> Answer:
    lines = b"".join(b"piece %d\n" % i for i in range(40))
    return respond(request, _body(request) + lines, framing="chunked")


def _big(request: Request) -> Answer:
    start = f"n={request.n} ".encode()
    return respond(request, start + b"." * (BIG_BODY - len(start) - 1) + b"\n")


def _until_close(request: Request) -> Answer:
    return respond(request, _body(request), framing="close")


def _echo(request: Request) -> Answer:
    return respond(request, f"n={request.n} bytes={len(request.body)}\n".encode())


def _early(request: Request) -> Answer:
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
    final = respond(request, _body(request))
    return Answer(hint + final.data, final.ends)


def _http10(request: Request) -> Answer:
    return respond(request, _body(request), framing="close", version="HTTP/1.0")


def _long_head(request: Request) -> Answer:
    filler = "x" * int(request.query.get("bytes", "4000"))
    return respond(request, _body(request), fields=(f"X-Filler: {filler}",))


def _upgrade(_request: Request) -> Answer:
    fields = "Connection: Upgrade\r\nUpgrade: waggle-test\r\n"
    return Answer(f"HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n".encode(), tunnel=True)


def _half(request: Request) -> Answer:
    whole = respond(request, _body(request) + b"." * 1000)
    return Answer(whole.data[:-500], ends=True)


def _close(_request: Request) -> Answer:
    raise HangUpError("close")


def _reset(_request: Request) -> Answer:
    raise HangUpError("reset")


def _hang(_request: Request) -> Answer:
    raise HangUpError("hang")


def _call(request: Request) -> Answer:
    """Calls `url` on a connection of its own, in the style this server has."""
    host, port, target = rawio.split_url(request.query["url"])
    fields = f"Host: {host}:{port}\r\nConnection: close\r\n"
    parent = request.head.fields.get("traceparent")
    if request.query.get("forward") == "1" and parent:
        fields += f"traceparent: {parent}\r\n"
    with rawio.connect(host, port, None) as sock:
        wire = Wire(sock, request.style)
        wire.send(f"GET {target} HTTP/1.1\r\n{fields}\r\n".encode())
        head = rawio.read_head(wire)
        if head is None:
            return respond(request, b"no answer\n", "502 Bad Gateway")
        body = rawio.read_announced_body(wire, head.fields)
        text = (wire.take_all() if body is None else body).decode()
    return respond(request, f"n={request.n} status={head.second} body={text}".encode())


def _ready(request: Request) -> Answer:
    return respond(request, b"ready\n")


ROUTES: dict[str, Callable[[Request], Answer]] = {
    "ready": _ready,
    "n": _number,
    "slow": _slow,
    "status": _status,
    "chunked": _chunked,
    "big": _big,
    "until-close": _until_close,
    "echo": _echo,
    "call": _call,
    "early": _early,
    "http10": _http10,
    "long-head": _long_head,
    "upgrade": _upgrade,
    "half": _half,
    "close": _close,
    "reset": _reset,
    "hang": _hang,
}


def answer(request: Request) -> Answer:
    if request.head.first == "CONNECT":
        return Answer(b"HTTP/1.1 200 Connection established\r\n\r\n", tunnel=True)
    if request.head.second == "*":
        return respond(request, b"", framing="length")
    route = ROUTES.get(request.words[0])
    if route is None:
        return respond(request, b"no such path\n", "404 Not Found")
    return route(request)


class Truth:
    """What really happened, a JSON object a line, to hold spans against."""

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("w", buffering=1) if path else None

    def tell(self, **fields: object) -> None:
        if self._file:
            self._file.write(json.dumps(fields) + "\n")


@dataclass(frozen=True)
class Settings:
    """How a connection is served; `connection` is its number, as the truth has it."""

    style: Style
    batch: bool
    truth: Truth
    connection: int = 0


def serve_connection(sock: socket.socket, settings: Settings) -> None:
    wire = Wire(sock, settings.style)
    try:
        while _serve_batch(wire, settings):
            pass
    except HangUpError as how:
        if str(how) == "reset":
            rawio.reset(sock)
        elif str(how) == "hang":
            wire.take_all()
    except (OSError, EOFError) as error:
        settings.truth.tell(error=str(error))
    finally:
        sock.close()


def _serve_batch(wire: Wire, settings: Settings) -> bool:
    """Answers one request, or with --batch all that have arrived whole or in part, in one send.
    False when the connection is at its end."""
    answers: list[Answer] = []
    while not answers or (settings.batch and wire.has_more()):
        request = _read(wire)
        if request is None:
            break
        started_ns = time.monotonic_ns()
        answers.append(answer(request))
        settings.truth.tell(
            method=request.head.first,
            target=request.head.second,
            traceparent=request.head.fields.get("traceparent"),
            connection=settings.connection,
            read_ns=started_ns,
            thread=threading.get_native_id(),
        )
        if answers[-1].ends or answers[-1].tunnel:
            break
    if not answers:
        return False
    wire.send(b"".join(one.data for one in answers))
    if answers[-1].tunnel:
        _echo_tunnel(wire)
    return not (answers[-1].ends or answers[-1].tunnel)


def _echo_tunnel(wire: Wire) -> None:
    """Sends whatever comes back, line by line, until the client ends."""
    while (line := wire.take_until(b"\n")) is not None:
        wire.send(line)


def _read(wire: Wire) -> Request | None:
    head = rawio.read_head(wire)
    if head is None:
        return None
    path, _, query_text = _origin_form(head.second).partition("?")
    words = [unquote(word) for word in path.split("/")[1:]] or [""]
    query = {name: values[0] for name, values in parse_qs(query_text).items()}
    if head.fields.get("expect", "").lower() == "100-continue":
        wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = rawio.read_announced_body(wire, head.fields) or b""
    return Request(head, body, words[-1], words, query, wire.style)


def _origin_form(target: str) -> str:
    return rawio.split_url(target)[2] if target.startswith("http://") else target


def _listen(address: str) -> socket.socket:
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, int(port)))
    sock.listen(128)
    return sock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("address")
    Style.add_arguments(parser)
    parser.add_argument(
        "--batch", action="store_true", help="answer pipelined requests together, in one send"
    )
    parser.add_argument("--truth", type=Path, help="file for a JSON line for each request")
    given = parser.parse_args()
    settings = Settings(Style.from_arguments(given), given.batch, Truth(given.truth))
    listener = _listen(given.address)
    print(f"listening on {given.address}, pid {os.getpid()}", flush=True)
    for connection in itertools.count(1):
        sock, _ = listener.accept()
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        arguments = (sock, dataclasses.replace(settings, connection=connection))
        threading.Thread(target=serve_connection, args=arguments, daemon=True).start()


if __name__ == "__main__":
    main()
