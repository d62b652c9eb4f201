"""Makes the golden heads anew: what real programs send, byte for byte.

From the folder tests/:

    python -m unit.golden.http1.capture [FOLDER_WITH_BROWSERS]

A client talks to a socket that keeps what it reads; a server is asked through a bare socket. The
browsers are used where they are installed, or lie unpacked in the folder named.
"""

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from peers.harness import CLIENTS, ensure_built, start_client, start_server

GOLDEN = Path(__file__).resolve().parent
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n1\n"
_TIMEOUT_S = 60.0
_ASKED = {
    "plain": b"GET /n/1 HTTP/1.1\r\nHost: golden.example\r\n\r\n",
    "chunked": b"GET /chunked/1 HTTP/1.1\r\nHost: golden.example\r\n\r\n",
    "missing": b"GET /nowhere HTTP/1.1\r\nHost: golden.example\r\n\r\n",
    "head": b"HEAD /n/1 HTTP/1.1\r\nHost: golden.example\r\n\r\n",
    "http10": b"GET /n/1 HTTP/1.0\r\n\r\n",
    "nonsense": b"GET / HTTP/9.9 nonsense\r\n\r\n",
}
_SERVERS = (
    "go-nethttp",
    "go-gin",
    "flask-gunicorn-sync",
    "fastapi-uvicorn-asyncio",
    "fastapi-uvicorn-uvloop",
    "aiohttp",
    "node-http",
    "nginx",
    "java-httpserver",
)


def head_of(data: bytes) -> bytes:
    """`data` up to the empty line, that included."""
    head, end, _ = data.partition(b"\r\n\r\n")
    return head + end


def read_head(connection: socket.socket) -> bytes:
    """Reads a head and whatever came with it. Raises ValueError when there is none."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise ValueError(f"no head, only {data!r}")
        data += piece
    return head_of(data)


class Listener:
    """A server that keeps the first head it reads and answers all alike."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._heads: list[bytes] = []
        self._got_one = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection, contextlib.suppress(ValueError, OSError):
                self._heads.append(read_head(connection))
                connection.sendall(_ANSWER)
                self._got_one.set()

    def first_head(self) -> bytes:
        if not self._got_one.wait(_TIMEOUT_S):
            raise TimeoutError("the client sent no head")
        return self._heads[0]


def by_command(*command: str) -> bytes:
    """The head that a command sends; URL stands for where it shall send it."""
    listener = Listener()
    words = [word.replace("URL", f"{listener.base_url}/n/1?q=a%20b") for word in command]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(words, stdin=quiet, stdout=quiet, stderr=quiet) as program:
        try:
            return listener.first_head()
        finally:
            program.terminate()


def by_client(kind: str, args: Sequence[str] = ()) -> bytes:
    """The head that one of the test's clients sends."""
    listener = Listener()
    has_context = CLIENTS[kind].can_send_traceparent
    with start_client(kind, listener.base_url, 1, traceparent=has_context, args=args):
        return listener.first_head()


def through_nginx() -> bytes:
    """The head that nginx sends on for a client's."""
    listener = Listener()
    with start_server("nginx-proxy", upstream=listener.base_url) as server:
        server.get("/n/1")
        return listener.first_head()


def curl_heads() -> Iterator[tuple[str, bytes]]:
    yield "curl-post", by_command("curl", "-s", "--data", "a=b&c=d", "URL")
    yield (
        "curl-expect",
        by_command("curl", "-s", "-H", "Expect: 100-continue", "--upload-file", __file__, "URL"),
    )
    yield (
        "curl-chunked",
        by_command("curl", "-s", "-H", "Transfer-Encoding: chunked", "-F", f"a=@{__file__}", "URL"),
    )
    yield "curl-propfind", by_command("curl", "-s", "-X", "PROPFIND", "-H", "Depth: 1", "URL")
    yield "curl-upgrade", by_command("curl", "-s", "--http2", "URL")
    yield "curl-http10", by_command("curl", "-s", "-0", "URL")
    yield "curl-options", by_command("curl", "-s", "-X", "OPTIONS", "--request-target", "*", "URL")
    yield "curl-proxy", by_command("curl", "-s", "-x", "URL", "http://golden.example/a?b")
    yield "curl-connect", by_command("curl", "-s", "-p", "-x", "URL", "http://golden.example/a")


def client_heads() -> Iterator[tuple[str, bytes]]:
    yield from curl_heads()
    yield "wget", by_command("wget", "-q", "-O", "-", "URL")
    for kind in CLIENTS:
        if kind != "raw":
            yield kind, by_client(kind)
    yield "nginx-proxy", through_nginx()


def browser_heads(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Chromium and Firefox without a window, each with a profile of its own."""
    for name, place in (("chromium", "usr/lib/chromium"), ("firefox-esr", "usr/lib/firefox-esr")):
        program = shutil.which(name, path=f"{folder / place}:/usr/bin")
        if not program:
            print(f"{name} is not installed: left out", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            own = ["--headless", "--no-sandbox", f"--user-data-dir={profile}", "URL"]
            if name == "firefox-esr":
                own = ["--headless", "--no-remote", "--profile", profile, "URL"]
            yield name.removesuffix("-esr"), by_command(program, *own)


def server_heads(kind: str) -> Iterator[tuple[str, bytes]]:
    """A server's answers to what is in _ASKED; to some of it a server may just hang up."""
    with start_server(kind) as server:
        for name, question in _ASKED.items():
            with socket.create_connection(("127.0.0.1", server.port), _TIMEOUT_S) as connection:
                connection.sendall(question)
                with contextlib.suppress(ValueError, ConnectionError):
                    yield f"{kind}-{name}", read_head(connection)


def main() -> None:
    ensure_built()
    for name, head in client_heads():
        (GOLDEN / f"{name}.request").write_bytes(head)
    for name, head in browser_heads(Path(sys.argv[1] if len(sys.argv) > 1 else "/")):
        (GOLDEN / f"{name}.request").write_bytes(head)
    for kind in _SERVERS:
        for name, head in server_heads(kind):
            (GOLDEN / f"{name}.response").write_bytes(head)


if __name__ == "__main__":
    main()
