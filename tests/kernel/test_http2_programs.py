"""Programs as they are installed: nghttpd, h2load, nghttp and curl from Debian."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kernel.capturing import TRACED, capture_fixture
from kernel.streams import Stream, StreamRecording
from kernel.support import unavailable
from waggle.capture import Capture
from waggle.layout import Block, End, Role

capture = capture_fixture()

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])


def _program(name: str) -> str:
    found = shutil.which(name, path=PATH)
    if not found:
        unavailable(f"{name} is not installed: apt-get install nghttp2-client nghttp2-server curl")
    return found


@contextmanager
def _server(recorded: StreamRecording, root: Path) -> Iterator[int]:
    """nghttpd, traced from its start; gives its port."""
    (root / "index.html").write_bytes(b"x" * 40_000)
    (root / "small").write_bytes(b"small")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    server = subprocess.Popen(
        [_program("nghttpd"), "--no-tls", "-d", str(root), str(port)], stdout=subprocess.DEVNULL
    )
    try:
        recorded.trace(server.pid)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as client:
                if not client.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.01)
        yield port
    finally:
        server.terminate()
        server.wait()


def _run(recorded: StreamRecording, *command: str) -> str:
    """What a program prints that is traced from its first instruction on."""
    waiting = subprocess.Popen(
        ["/bin/sh", "-c", 'read -r go; exec "$@"', "sh", _program(command[0]), *command[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    recorded.trace(waiting.pid, TRACED)
    output, _ = waiting.communicate("go\n", timeout=60)
    assert waiting.returncode == 0, output
    return output


def _expect_pairs(streams: list[Stream], count: int) -> None:
    """So many streams, each whole on both sides, and each server's a child of its client's."""
    clients = {one.ids("span_id"): one for one in streams if one.role == Role.CLIENT}
    servers = {one.ids("parent_id"): one for one in streams if one.role == Role.SERVER}
    assert len(streams) == 2 * count
    assert clients.keys() == servers.keys()
    for span, client in clients.items():
        server = servers[span]
        assert (client.end, server.end) == (End.DONE, End.DONE), f"{client}\n{server}"
        assert client.blocks == server.blocks
        assert client.row["response_body"] == server.row["response_body"]


@pytest.mark.parametrize("client", [("curl", "-s", "--http2-prior-knowledge"), ("nghttp", "-n")])
def test_clients(capture: Capture, client: tuple[str, ...], tmp_path: Path) -> None:
    """A request of each client: both sides, one trace."""
    recorded = StreamRecording(capture)
    with _server(recorded, tmp_path) as port:
        _run(recorded, *client, f"http://127.0.0.1:{port}/small?n=1")
        streams = recorded.streams(2)
        _expect_pairs(streams, 1)
        assert not recorded.losses()
        for one in streams:
            assert one.row["response_body"] == 5
            assert one.row["status"] == 200
            assert dict(one.blocks[Block.REQUEST])[":path"] == "/small?n=1"


def test_load(capture: Capture, tmp_path: Path) -> None:
    """h2load with many streams a connection: every request is there on both sides, whole."""
    recorded = StreamRecording(capture)
    with _server(recorded, tmp_path) as port:
        url = f"http://127.0.0.1:{port}/index.html"
        _run(recorded, "h2load", "-n", "2000", "-c", "4", "-m", "50", url)
        streams = recorded.streams(4000)
        _expect_pairs(streams, 2000)
        assert not recorded.losses()
        assert {int(one.row["response_body"]) for one in streams} == {40_000}
        assert {dict(one.blocks[Block.REQUEST])[":path"] for one in streams} == {"/index.html"}
