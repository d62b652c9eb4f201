"""A client that uses its TLS library in unusual ways: `odd.py PORT VERSION`.

Every request is GET /n/N or POST /body/N with another N; what each way is meant to be is in its
function. Waits for a line before, writes `done` behind, and waits for a line again.
"""

import os
import select
import socket
import ssl
import sys

PORT = int(sys.argv[1])
ROUNDS = 5


def context() -> ssl.SSLContext:
    made = ssl.create_default_context()
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    if sys.argv[2] == "1.2":
        made.maximum_version = ssl.TLSVersion.TLSv1_2
    return made


CONTEXT = context()


def connected(session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", PORT))
    return CONTEXT.wrap_socket(plain, server_hostname="localhost", session=session)


def request(n: int) -> bytes:
    return f"GET /n/{n} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()


def receive(one: ssl.SSLSocket, answers: int, size: int = 65536) -> None:
    """Reads until so many answers have come."""
    found = b""
    while found.count(b"\r\n\r\nfine") < answers:
        if not (more := one.recv(size)):
            raise SystemExit(f"the server closed after {found!r}")
        found += more


def resumed(first: int) -> None:
    """Each connection resumes the session of the one before."""
    session = None
    for n in range(first, first + ROUNDS):
        with connected(session) as one:
            one.sendall(request(n))
            receive(one, 1)
            if n > first and not one.session_reused:
                raise SystemExit("the server resumed no session")
            session = one.session


def dribbled(first: int) -> None:
    """A request in many small writes, its answer in many small reads."""
    with connected() as one:
        for n in range(first, first + ROUNDS):
            for byte in range(0, len(request(n)), 7):
                one.sendall(request(n)[byte : byte + 7])
            receive(one, 1, size=5)


def pipelined(first: int) -> None:
    """Several requests in one write."""
    with connected() as one:
        one.sendall(b"".join(request(n) for n in range(first, first + ROUNDS)))
        receive(one, ROUNDS)


def retried(first: int) -> None:
    """A body that does not fit the socket: each write is tried again until it has gone."""
    with connected() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        one.setblocking(False)
        for n in range(first, first + ROUNDS):
            body = bytes(200_000)
            head = f"POST /body/{n} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}"
            left = head.encode() + b"\r\n\r\n" + body
            while left:
                try:
                    left = left[one.send(left) :]
                except ssl.SSLWantWriteError:
                    select.select([], [one], [])
            found = b""
            while not found.endswith(b"200000"):
                try:
                    found += one.recv(65536)
                except ssl.SSLWantReadError:
                    select.select([one], [], [])


def half_closed(first: int) -> None:
    """The client closes its direction and still reads the answer."""
    for n in range(first, first + ROUNDS):
        with connected() as one:
            one.sendall(request(n))
            with socket.socket(fileno=os.dup(one.fileno())) as same:
                same.shutdown(socket.SHUT_WR)
            receive(one, 1)


def main() -> None:
    input()
    for way, first in ((resumed, 100), (dribbled, 200), (pipelined, 300), (half_closed, 400)):
        way(first)
    retried(500)
    print("done", flush=True)
    input()


main()
