"""Connections of one thread, done as crosswise as a program can: whose plaintext is whose?

One thread holds COUNT client connections, half on sockets, half on BIOs in memory. All
handshakes are interleaved; then each round encrypts all requests before it sends any, sends
the ciphertexts in another order, receives all answers before it decrypts any, and decrypts
in a third order. Requests are of the same length. Request n of connection c is /n/C * 1000 + N,
and goes to the port of c: that is the truth.
"""

import argparse
import random
import socket
import ssl


def trusting() -> ssl.SSLContext:
    """Takes any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class InMemory:
    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)
        self.waiting = b""

    def shake(self) -> bool:
        try:
            self.tls.do_handshake()
            return True
        except ssl.SSLWantReadError:
            return False

    def send(self) -> None:
        self.socket.sendall(self.outgoing.read())

    def receive(self) -> None:
        self.waiting += self.socket.recv(65536)

    def decrypt(self) -> bytes:
        self.incoming.write(self.waiting)
        self.waiting = b""
        found = b""
        while True:
            try:
                found += self.tls.read(65536)
            except ssl.SSLWantReadError:
                return found


def in_memory(ports: list[int], rounds: int, seed: int) -> None:  # noqa: C901 - one story
    order = random.Random(seed)  # noqa: S311 - no secret
    context = trusting()
    connections = [InMemory(port, context) for port in ports]
    open_ = list(connections)
    while open_:
        waiting = [one for one in open_ if not one.shake()]
        order.shuffle(connections)
        for one in connections:
            if data := one.outgoing.read():
                one.socket.sendall(data)
        order.shuffle(waiting)
        for one in waiting:
            one.receive()
        order.shuffle(waiting)
        for one in waiting:
            one.incoming.write(one.waiting)
            one.waiting = b""
        open_ = waiting
    for number in range(rounds):
        for step in range(3):
            order.shuffle(connections)
            if step == 0:
                for one in connections:
                    path = f"/{one.port}/{number:06d}"
                    one.tls.write(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
                order.shuffle(connections)
                for one in connections:
                    one.send()
            elif step == 1:
                for one in connections:
                    one.receive()
            else:
                for one in connections:
                    found = one.decrypt()
                    while not found.endswith(b"fine"):
                        one.receive()
                        found += one.decrypt()
    for one in connections:
        one.socket.close()


def on_sockets(ports: list[int], rounds: int, seed: int) -> None:
    order = random.Random(seed)  # noqa: S311 - no secret
    context = trusting()
    connections = []
    for port in ports:
        plain = socket.create_connection(("127.0.0.1", port))
        connections.append((port, context.wrap_socket(plain)))
    for number in range(rounds):
        order.shuffle(connections)
        for port, one in connections:
            one.sendall(f"GET /{port}/{number:06d} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        order.shuffle(connections)
        for _, one in connections:
            found = b""
            while not found.endswith(b"fine"):
                found += one.recv(7)
    # A socket under the same number, behind the library's back.
    (_, first), (port, second) = connections[:2]
    plain = socket.socket(fileno=first.detach())
    plain.close()
    second.sendall(f"GET /{port}/999999 HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    second.recv(65536)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ports", type=int, nargs="+", required=True)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--kind", choices=("memory", "sockets"), required=True)
    options = parser.parse_args()
    input()
    kind = in_memory if options.kind == "memory" else on_sockets
    kind(options.ports, options.rounds, 7)
    print("done", flush=True)
    input()


main()
