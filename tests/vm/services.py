"""Three small programs of the standard library, whose every request says who it is.

A driver asks a front service, which asks a back service, over IPv4, IPv6 and a UNIX socket:
GET /front/TRANSPORT/N makes GET /back/TRANSPORT/N. Each connection has carried a /warm/..
request before the driver is told to go, so the connections are older than the agent.

    python services.py back|front|driver FOLDER     one of the three
    python services.py all FOLDER                   a driver that starts the others

Each says "ready" when it is; the driver then waits for a line on stdin and ends with "done".
"""

import http.client
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TRANSPORTS = ("ipv4", "ipv6", "unix")
REQUESTS = 3
FAILING = 2  # this one is answered 503 by back and 502 by front
TIMEOUT_S = 60.0

# Over loopback: [family, address] as JSON, an address being what bind() takes.
Addresses = dict[str, list[object]]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, family: socket.AddressFamily, address: object, role: str, peers: Path):
        self.address_family = family
        self.role = role
        self.peers = peers
        self.per_thread = threading.local()
        super().__init__(address, _Handler)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        # Not HTTPServer's: that asks for the host's name, which a UNIX socket has not.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "localhost", 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        kind, transport, number = self.path.strip("/").split("/")
        status = 200
        if self.server.role == "front":
            status = self._ask_back(kind, transport, number)
        elif kind == "back" and int(number) == FAILING:
            status = 503
        body = f"{self.server.role} {number}\n".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _ask_back(self, kind: str, transport: str, number: str) -> int:
        """In this thread, over this thread's own connection."""
        kept = self.server.per_thread
        if not hasattr(kept, "connection"):
            kept.connection = connect(self.server.peers, "back", transport)
        path = f"/back/{transport}/{number}" if kind == "front" else self.path
        return 200 if ask(kept.connection, path) == 200 else 502

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Silent."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


def connect(folder: Path, role: str, transport: str) -> http.client.HTTPConnection:
    """A connection that is made at the first request."""
    address = json.loads((folder / f"{role}.json").read_text())[transport]
    if transport == "unix":
        return _UnixConnection(address)
    return http.client.HTTPConnection(address[0], address[1], timeout=TIMEOUT_S)


def ask(connection: http.client.HTTPConnection, path: str) -> int:
    """The status of one request, its body read."""
    connection.request("GET", path)
    with connection.getresponse() as response:
        response.read()
        return response.status


def serve(role: str, folder: Path) -> None:
    """One listening socket a transport, until stdin ends."""
    unix = str(folder / f"{role}.sock")
    servers = {
        "ipv4": _Server(socket.AF_INET, ("127.0.0.1", 0), role, folder),
        "ipv6": _Server(socket.AF_INET6, ("::1", 0), role, folder),
        "unix": _Server(socket.AF_UNIX, unix, role, folder),
    }
    addresses = {transport: server.server_address for transport, server in servers.items()}
    (folder / f"{role}.json").write_text(json.dumps(addresses))
    for server in servers.values():
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()


def drive(folder: Path, *, wait: bool) -> None:
    """Every request of every transport, one after the other."""
    connections = {transport: connect(folder, "front", transport) for transport in TRANSPORTS}
    for transport, connection in connections.items():
        ask(connection, f"/warm/{transport}/0")
    if wait:
        print("ready", flush=True)
        sys.stdin.readline()
    for transport, connection in connections.items():
        for number in range(1, REQUESTS + 1):
            status = ask(connection, f"/front/{transport}/{number}")
            expected = 502 if number == FAILING else 200
            if status != expected:
                sys.exit(f"/front/{transport}/{number}: {status} instead of {expected}")
    print("done", file=sys.stdout if wait else sys.stderr, flush=True)


@contextmanager
def started(role: str, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """One of the three as a process of its own, ready; it ends with the block."""
    command = [sys.executable, str(Path(__file__).resolve()), role, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if line != "ready\n":
            raise RuntimeError(f"{role} did not start: it said {line!r}")
        yield process
    finally:
        process.kill()
        process.communicate()


def main(role: str, folder: Path) -> None:
    if role == "driver":
        drive(folder, wait=True)
    elif role == "all":
        with started("back", folder), started("front", folder):
            drive(folder, wait=False)
    else:
        serve(role, folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
