"""A client on libssl's own functions, which Python's module does not offer: `native.py PORT WAY
[LIBSSL]`.

Every request is GET /n/N with another N. Waits for a line before, writes `done` behind, and waits
for a line again.
"""

import ctypes
import socket
import sys
from pathlib import Path

PORT, WAY = int(sys.argv[1]), sys.argv[2]
ROUNDS = 5
TLS_1_2, TLS_1_3 = 0x0303, 0x0304
SET_MIN_VERSION, SET_MAX_VERSION = 123, 124  # ssl.h: SSL_CTRL_SET_MIN_PROTO_VERSION, _MAX_

LIBRARY = Path(sys.argv[3] if len(sys.argv) > 3 else "libssl.so.3")
for half in LIBRARY.parent.glob("libcrypto*.so*"):  # a wheel's own, which nothing else finds
    ctypes.CDLL(str(half))
library = ctypes.CDLL(str(LIBRARY))
for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new", "SSL_get1_session"):
    getattr(library, name).restype = ctypes.c_void_p
pointer, size = ctypes.c_void_p, ctypes.c_size_t
for name, arguments in {
    "SSL_CTX_new": [pointer],
    "SSL_CTX_ctrl": [pointer, ctypes.c_int, ctypes.c_long, pointer],
    "SSL_new": [pointer],
    "SSL_free": [pointer],
    "SSL_set_fd": [pointer, ctypes.c_int],
    "SSL_connect": [pointer],
    "SSL_do_handshake": [pointer],
    "SSL_renegotiate": [pointer],
    "SSL_shutdown": [pointer],
    "SSL_read": [pointer, pointer, ctypes.c_int],
    "SSL_peek": [pointer, pointer, ctypes.c_int],
    "SSL_read_ex": [pointer, pointer, size, pointer],
    "SSL_write": [pointer, pointer, ctypes.c_int],
    "SSL_write_ex": [pointer, pointer, size, pointer],
    "SSL_write_early_data": [pointer, pointer, size, pointer],
    "SSL_get1_session": [pointer],
    "SSL_set_session": [pointer, pointer],
    "SSL_get_early_data_status": [pointer],
    "SSL_set_bio": [pointer, pointer, pointer],
    "SSL_clear": [pointer],
}.items():
    getattr(library, name).argtypes = arguments


class Connection:
    """One connection; what fails ends the program."""

    def __init__(self, context: int, session: int | None = None, early: bytes = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", PORT))
        self.ssl = library.SSL_new(context)
        library.SSL_set_fd(self.ssl, self.socket.fileno())
        if session is not None:
            expect(library.SSL_set_session(self.ssl, session), "SSL_set_session")
        if early:
            sent = ctypes.c_size_t()
            done = library.SSL_write_early_data(self.ssl, early, len(early), ctypes.byref(sent))
            expect(done, "SSL_write_early_data")
        expect(library.SSL_connect(self.ssl), "SSL_connect")

    def write(self, text: bytes) -> None:
        sent = ctypes.c_size_t()
        done = library.SSL_write_ex(self.ssl, text, len(text), ctypes.byref(sent))
        expect(done and sent.value == len(text), "SSL_write_ex")

    def answer(self, *, peeks: bool = False) -> None:
        """Reads until an answer has come; with `peeks` looks at everything before."""
        found, room = b"", ctypes.create_string_buffer(4096)
        while b"\r\n\r\nfine" not in found:
            if peeks:
                for length in (3, 4096):
                    expect(library.SSL_peek(self.ssl, room, length) > 0, "SSL_peek")
            read = ctypes.c_size_t()
            expect(library.SSL_read_ex(self.ssl, room, len(room), ctypes.byref(read)), "SSL_read")
            found += room.raw[: read.value]

    def close(self) -> None:
        library.SSL_shutdown(self.ssl)
        library.SSL_free(self.ssl)
        self.socket.close()


def expect(good: int, what: str) -> None:
    if not good:
        raise SystemExit(f"{what} failed")


def context(version: int) -> int:
    made: int = library.SSL_CTX_new(library.TLS_client_method())
    for which in (SET_MIN_VERSION, SET_MAX_VERSION):
        library.SSL_CTX_ctrl(made, which, version, None)
    return made


def request(n: int) -> bytes:
    return f"GET /n/{n} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()


def peeked() -> None:
    """What is read is looked at before, in pieces and whole."""
    one = Connection(context(TLS_1_3))
    for n in range(1, ROUNDS + 1):
        one.write(request(n))
        one.answer(peeks=True)
    one.close()


def renegotiated() -> None:
    """A new handshake between one request and the next."""
    one = Connection(context(TLS_1_2))
    for n in range(1, ROUNDS + 1):
        one.write(request(n))
        one.answer()
        expect(library.SSL_renegotiate(one.ssl), "SSL_renegotiate")
        expect(library.SSL_do_handshake(one.ssl) == 1, "SSL_do_handshake")
    one.close()


def early() -> None:
    """Connections whose first request is in the client's first flight, and a second behind it."""
    made = context(TLS_1_3)
    before = Connection(made)
    before.write(request(1))
    before.answer()
    session = library.SSL_get1_session(before.ssl)
    before.close()
    for n in range(2, 2 * ROUNDS, 2):
        one = Connection(made, session, request(n))
        one.answer()
        expect(library.SSL_get_early_data_status(one.ssl) == 2, "early data")
        one.write(request(n + 1))
        one.answer()
        session = library.SSL_get1_session(one.ssl)
        one.close()


class InMemory(Connection):
    """One whose ciphertext the program itself carries between its socket and the library."""

    def __init__(self, context: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", PORT))
        self.ssl = library.SSL_new(context)
        half = ctypes.CDLL("libcrypto.so.3")
        half.BIO_s_mem.restype = half.BIO_new.restype = pointer
        half.BIO_new.argtypes = [pointer]
        half.BIO_read.argtypes = half.BIO_write.argtypes = [pointer, pointer, ctypes.c_int]
        self.half = half
        self.incoming, self.outgoing = (half.BIO_new(half.BIO_s_mem()) for _ in range(2))
        library.SSL_set_bio(self.ssl, self.incoming, self.outgoing)
        while library.SSL_connect(self.ssl) != 1:
            self.carry()

    def carry(self, *, back: bool = True) -> None:
        room = ctypes.create_string_buffer(65536)
        while (length := self.half.BIO_read(self.outgoing, room, len(room))) > 0:
            self.socket.sendall(room.raw[:length])
        if back:
            received = self.socket.recv(65536)
            self.half.BIO_write(self.incoming, received, len(received))

    def write(self, text: bytes) -> None:
        super().write(text)
        self.carry(back=False)

    def answer(self, *, peeks: bool = False) -> None:
        found, room = b"", ctypes.create_string_buffer(4096)
        while b"\r\n\r\nfine" not in found:
            length = library.SSL_read(self.ssl, room, len(room))
            if length > 0:
                found += room.raw[:length]
            else:
                self.carry()


def moved() -> None:
    """An object that reads from memory, and then, for another connection while the first is still
    there, from a socket."""
    one = InMemory(context(TLS_1_3))
    for n in (1, 2):
        one.write(request(n))
        one.answer()
    first = one.socket
    expect(library.SSL_clear(one.ssl), "SSL_clear")
    other = Connection.__new__(Connection)
    other.ssl, other.socket = one.ssl, socket.create_connection(("127.0.0.1", PORT))
    expect(library.SSL_set_fd(other.ssl, other.socket.fileno()), "SSL_set_fd")
    expect(library.SSL_connect(other.ssl) == 1, "SSL_connect")
    for n in range(3, ROUNDS + 1):
        other.write(request(n))
        other.answer()
    other.close()
    first.close()


input()
{"peeked": peeked, "renegotiated": renegotiated, "early": early, "moved": moved}[WAY]()
print("done", flush=True)
input()
