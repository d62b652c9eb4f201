"""OTLP JSON lines in files that rotate."""

import errno
import os
import time
from collections import Counter
from pathlib import Path

import pytest
from peers.collector import parse_traces_line

from unit.otlp_receivers import ReadyRequests, ids_in, request_of
from waggle.errors import UsageError
from waggle.exporter.json_file import FileTransport, JsonFileExporter
from waggle.exporter.otlp_answer import Accepted, TryAgain
from waggle.exporter.otlp_settings import QueueSettings


def ids_of(path: Path) -> list[int]:
    lines = path.read_bytes().splitlines()
    return [
        number for line in lines for number in ids_in(parse_traces_line(line).SerializeToString())
    ]


def send(transport: FileTransport, *ids: int, size: int = 0) -> None:
    assert transport.send(request_of(*ids, size=size).payload) == Accepted()


def test_a_request_is_a_line(tmp_path: Path) -> None:
    """Each request is one line that reads as the same spans."""
    path = tmp_path / "spans.jsonl"
    transport = FileTransport(path, 1 << 20, 1)
    send(transport, 1, 2)
    send(transport, 3)
    assert len(path.read_bytes().splitlines()) == 2
    assert ids_of(path) == [1, 2, 3]
    assert path.stat().st_mode & 0o077 == 0
    transport.close()


def test_files_rotate_within_their_bounds(tmp_path: Path) -> None:
    """No file outgrows the bound, the newest are kept in order, and no line is in two files."""
    path = tmp_path / "spans.jsonl"
    transport = FileTransport(path, 20_000, 3)
    for number in range(100):
        send(transport, number, size=900)
    transport.close()
    names = ["spans.3.jsonl", "spans.2.jsonl", "spans.1.jsonl", "spans.jsonl"]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)
    assert all(file.stat().st_size <= 20_000 for file in tmp_path.iterdir())
    found = [number for name in names for number in ids_of(tmp_path / name)]
    assert found == list(range(found[0], 100))
    assert len(found) > 50


def test_none_kept(tmp_path: Path) -> None:
    """Keeping none leaves the current file alone."""
    path = tmp_path / "spans.jsonl"
    transport = FileTransport(path, 5_000, 0)
    for number in range(30):
        send(transport, number, size=900)
    assert [file.name for file in tmp_path.iterdir()] == ["spans.jsonl"]
    assert ids_of(path)[-1] == 29
    transport.close()


def test_a_later_run_goes_on(tmp_path: Path) -> None:
    """Lines are added to the file that is there; half a line of a killed run stands alone."""
    path = tmp_path / "spans.jsonl"
    path.write_bytes(b'{"resourceSpans":[{"sco')
    transport = FileTransport(path, 1 << 20, 1)
    send(transport, 1)
    transport.close()
    broken, whole = path.read_bytes().splitlines()
    assert broken == b'{"resourceSpans":[{"sco'
    assert ids_in(parse_traces_line(whole).SerializeToString()) == [1]


def test_a_file_that_was_taken_away_is_made_anew(tmp_path: Path) -> None:
    """logrotate may move it: the next line begins a new file at the old name."""
    path = tmp_path / "spans.jsonl"
    transport = FileTransport(path, 1 << 20, 1)
    send(transport, 1)
    path.rename(tmp_path / "moved")
    send(transport, 2)
    transport.close()
    assert (ids_of(tmp_path / "moved"), ids_of(path)) == ([1], [2])


def test_files_differ_from_their_first_bytes(tmp_path: Path) -> None:
    """Readers that know files by their first 1,000 bytes take no two for the same."""
    path = tmp_path / "spans.jsonl"
    transport = FileTransport(path, 3_000, 20)
    for number in range(1, 20):
        send(transport, number, size=900)
    transport.close()
    heads = Counter(file.read_bytes()[:1000] for file in tmp_path.iterdir())
    assert len(heads) > 5
    assert set(heads.values()) == {1}


def test_a_full_disk_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing can be written, spans wait; the file has no half line; then all is there."""
    path = tmp_path / "spans.jsonl"
    events: list[str] = []
    exporter = JsonFileExporter(
        path, 1 << 20, 1, QueueSettings(delay_s=0.0), ReadyRequests(), events.append
    )
    write, is_full = os.write, True

    def full(descriptor: int, data: bytes) -> int:
        if is_full and Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(tmp_path):
            write(descriptor, bytes(data[:10]))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    exporter.export([request_of(1, 2)])  # type: ignore[arg-type]
    deadline = time.monotonic() + 10
    while not events:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert path.read_bytes() == b""
    is_full = False
    exporter.close(10)
    assert ids_of(path) == [1, 2]
    assert exporter.stats().exported == 2
    assert "no space left on device" in events[0]


def test_an_unusable_path_is_found_at_the_start(tmp_path: Path) -> None:
    """A folder that is missing, a folder, or a pipe is a usage error that names the path."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path / "none" / "spans.jsonl", tmp_path, pipe):
        with pytest.raises(UsageError, match="--json-file"):
            FileTransport(path, 1 << 20, 1)


def test_failures_are_tried_again(tmp_path: Path) -> None:
    """A folder that goes away is an outage, not the end."""
    folder = tmp_path / "gone"
    folder.mkdir()
    transport = FileTransport(folder / "spans.jsonl", 1 << 20, 1)
    (folder / "spans.jsonl").unlink()
    folder.rmdir()
    assert isinstance(transport.send(request_of(1).payload), TryAgain)
    folder.mkdir()
    send(transport, 1)
    assert ids_of(folder / "spans.jsonl") == [1]
    transport.close()
