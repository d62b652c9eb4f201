"""Records what real programs send as header blocks, for tests/unit/golden/http2.

    .venv/bin/python -m peers.record_http2        (from tests/, once install.sh grpc has run)

A client talks to its server through a proxy here that takes the frames apart. Each file has one
header block a line, in the order of the wire: side, stream, bytes in hex.
"""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from .grpc_programs import IMPLEMENTATIONS, start_grpc_client, start_grpc_server
from .ports import is_open, lease_port
from .processes import ROOT, Program
from .toolchain import GRPC_VENV, PROGRAMS, ensure_grpc_built, tool

GOLDEN = ROOT / "tests" / "unit" / "golden" / "http2"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _CONTINUATION = 1, 9
_END_HEADERS, _PADDED, _PRIORITY = 4, 8, 0x20
_READY_S = 20.0
_CALLS = ("one", "down", "up", "both", "fail", "deadline")
_H2C = PROGRAMS / "http2"


class Blocks:
    """Takes one direction apart: frames may come cut anywhere."""

    def __init__(self, side: str, tell: Callable[[str], None]) -> None:
        self._side, self._tell = side, tell
        self._left = b""
        self._begun = False
        self._block = b""

    def feed(self, data: bytes) -> None:
        self._left += data
        if not self._begun and not self._begin():
            return
        while len(self._left) >= 9:
            length = int.from_bytes(self._left[:3], "big")
            if len(self._left) < 9 + length:
                return
            self._frame(self._left[3], self._left[4], self._left[5:9], self._left[9 : 9 + length])
            self._left = self._left[9 + length :]

    def _begin(self) -> bool:
        """Skip what is HTTP/1 of an upgrade, and the preface."""
        if self._side == "client":
            at = self._left.find(PREFACE)
            self._left = self._left[at + len(PREFACE) :] if at >= 0 else self._left
        else:
            at = 0
            if self._left.startswith(b"HTTP/1.1 101"):
                at = self._left.find(b"\r\n\r\n")
                self._left = self._left[at + 4 :] if at >= 0 else self._left
        self._begun = at >= 0
        return self._begun

    def _frame(self, kind: int, flags: int, stream: bytes, data: bytes) -> None:
        if kind == _HEADERS:
            pad = data[0] if flags & _PADDED else 0
            start = (1 if flags & _PADDED else 0) + (5 if flags & _PRIORITY else 0)
            self._block = data[start : len(data) - pad]
        elif kind == _CONTINUATION:
            self._block += data
        else:
            return
        if flags & _END_HEADERS:
            number = int.from_bytes(stream, "big")
            self._tell(f"{self._side} {number} {self._block.hex()}")


class Recorder:
    """A proxy before `port`; `lines` are the header blocks that passed."""

    def __init__(self, port: int) -> None:
        self.lines: list[str] = []
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._recorded = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            # One table a side: only the first connection is recorded.
            tell = self.lines.append if not self._recorded else lambda line: None
            self._recorded = True
            for side, source, sink in (("client", client, server), ("server", server, client)):
                blocks = Blocks(side, tell)
                threading.Thread(target=_pump, args=(source, sink, blocks), daemon=True).start()

    def close(self) -> None:
        self._listener.close()


def _pump(source: socket.socket, sink: socket.socket, blocks: Blocks) -> None:
    try:
        while data := source.recv(65536):
            blocks.feed(data)
            sink.sendall(data)
    except OSError:
        pass
    sink.close()


def record_grpc(name: str) -> list[str]:
    """One implementation as client of itself."""
    with start_grpc_server(name) as server:
        recorder = Recorder(int(server.address.rpartition(":")[2]))
        with start_grpc_client(name, f"127.0.0.1:{recorder.port}", 24, calls=_CALLS) as client:
            client.finish()
        recorder.close()
        return recorder.lines


def record_plain(
    server: Callable[[int], Sequence[str | Path]], client: Callable[[int], Sequence[str | Path]]
) -> list[str]:
    """A client that ends by itself and a server."""
    with ExitStack() as stack:
        lease = lease_port()
        stack.callback(lease.release)
        program = Program("http2-server", server(lease.port))
        stack.callback(program.stop)
        program.wait_until(lambda: is_open(lease.port), _READY_S)
        recorder = Recorder(lease.port)
        stack.callback(recorder.close)
        command = [str(part) for part in client(recorder.port)]
        subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)
        return recorder.lines


def _nghttpd(port: int) -> Sequence[str | Path]:
    return [tool("nghttpd"), "--no-tls", "-a", "127.0.0.1", "-d", str(ROOT / "docs"), str(port)]


def _hypercorn(port: int) -> Sequence[str | Path]:
    return [GRPC_VENV / "bin" / "python", _H2C / "app.py", f"127.0.0.1:{port}"]


def _urls(port: int) -> list[str]:
    return [f"http://127.0.0.1:{port}/{name}.md" for name in ("parents", "limitations", "none")]


Command = Callable[[int], Sequence[str | Path]]
PLAIN: dict[str, tuple[Command, Command]] = {
    "nghttp2": (_nghttpd, lambda port: [tool("nghttp"), "-nv", *_urls(port), *_urls(port)]),
    "node-http2": (_nghttpd, lambda port: [tool("node"), _H2C / "client.js", *_urls(port)]),
    "java-httpclient": (
        _hypercorn,
        lambda port: [tool("java"), _H2C / "Upgrade.java", *_urls(port), *_urls(port)],
    ),
}


def main() -> None:
    ensure_grpc_built(everything=True)
    GOLDEN.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[1:] or [*IMPLEMENTATIONS, *PLAIN]
    for name in wanted:
        lines = record_grpc(name) if name in IMPLEMENTATIONS else record_plain(*PLAIN[name])
        text = f"# {name}: side, stream, header block\n" + "\n".join(lines) + "\n"
        (GOLDEN / f"{name}.txt").write_text(text)
        print(f"{name}: {len(lines)} blocks")


if __name__ == "__main__":
    main()
