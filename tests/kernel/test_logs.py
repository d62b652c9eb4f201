"""What the kernel's side takes for a log, and what it tells of a write."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel.capturing import TRACED
from kernel.support import HERE
from waggle import procfs
from waggle.capture import Capture
from waggle.capture_options import CaptureOptions
from waggle.discovery import Decision
from waggle.layout import Counter, LogSource, ProcessMode
from waggle.spans import Records

RATE = 200


@pytest.fixture(scope="module")
def capture() -> Iterator[Capture]:
    loaded = Capture.open(CaptureOptions(log_rate=RATE))
    yield loaded
    loaded.close()


class Scribe:
    """A process that evaluates expressions, with pipes as stdout and stderr."""

    def __init__(self, capture: Capture, mode: int = TRACED) -> None:
        self._capture = capture
        self.process = subprocess.Popen(
            [sys.executable, "-u", HERE / "scribe.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.pid = self.process.pid
        facts = procfs.ProcFs().facts(self.pid)
        assert facts is not None
        if mode:
            capture.decide(Decision(self.pid, facts.start_ns, mode, "the test's"))

    def do(self, expression: str) -> Any:
        """The value of an expression there; strings of OSError where that is raised."""
        assert self.process.stdin is not None
        assert self.process.stderr is not None
        self.process.stdin.write(expression.encode() + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stderr.readline())

    def wrote(self) -> list[tuple[int, bytes]]:
        """Source and text of each of its writes that were recorded, but for its answers."""
        return [
            (int(one["source"]), one["bytes"][: one["length"]].tobytes())
            for one in self.records()
            if one["descriptor"] != 2
        ]

    def records(self) -> Records:
        assert self._capture.logs is not None
        found = self._capture.logs.read()
        mine: Records = found[found["tgid"] == self.pid]
        return mine

    def close(self) -> None:
        self.process.communicate()


@pytest.fixture
def scribe(capture: Capture) -> Iterator[Scribe]:
    one = Scribe(capture)
    yield one
    one.close()


def test_ways_to_write(scribe: Scribe, tmp_path: Path) -> None:
    """Every call that writes to a log is recorded, with the bytes that it wrote."""
    log = repr(str(tmp_path / "a.log"))
    scribe.do(f"hold('f', os.open({log}, os.O_CREAT | os.O_WRONLY))")
    scribe.do("os.write(1, b'write')")
    scribe.do("os.writev(f, [b'wri', b'', b'tev'])")
    scribe.do("os.pwrite(f, b'pwrite', 100)")
    scribe.do("os.pwritev(f, [b'pwr', b'itev'], 200)")
    assert scribe.wrote() == [
        (LogSource.STDOUT, b"write"),
        (LogSource.FILE, b"writev"),
        (LogSource.FILE, b"pwrite"),
        (LogSource.FILE, b"pwritev"),
    ]


def test_what_is_no_log(scribe: Scribe, tmp_path: Path) -> None:
    """Other files, the null device, sockets and pipes of its own are none."""
    for path in (tmp_path / "log", tmp_path / "a.log.txt", Path("/dev/null")):
        scribe.do(f"os.write(os.open({str(path)!r}, os.O_CREAT | os.O_WRONLY), b'no')")
    scribe.do("os.write(os.pipe()[1], b'no')")
    scribe.do("hold('pair', socket.socketpair()) and pair[0].send(b'no')")
    scribe.do("hold('datagrams', socket.socketpair(type=socket.SOCK_DGRAM))[0].send(b'no')")
    assert scribe.wrote() == []


def test_stdout_by_another_name(scribe: Scribe) -> None:
    """What leads to where stdout does is stdout."""
    scribe.do("os.write(os.dup(1), b'a duplicate')")
    scribe.do("os.write(os.open('/dev/stdout', os.O_WRONLY), b'opened')")
    assert scribe.wrote() == [
        (LogSource.STDOUT, b"a duplicate"),
        (LogSource.STDOUT, b"opened"),
    ]


def test_what_was_not_written_is_not_told(scribe: Scribe) -> None:
    """A call that fails tells nothing; of one that wrote less than it was given, so much."""
    assert "EBADF" in scribe.do("os.write(99, b'nowhere')")
    scribe.do("os.set_blocking(1, False)")
    written = scribe.do("os.write(1, b'x' * 200_000)")
    assert 0 < written < 200_000
    assert "EAGAIN" in scribe.do("os.write(1, b'more')")
    found = [one for one in scribe.records() if one["descriptor"] == 1]
    assert {int(one["written"]) for one in found} == {written}
    assert sum(int(one["length"]) for one in found) == min(written, 65_536)


def test_pieces(scribe: Scribe, tmp_path: Path) -> None:
    """The pieces of a long write follow each other, and have no byte but its own in them."""
    log = repr(str(tmp_path / "a.log"))
    scribe.do(f"hold('f', os.open({log}, os.O_CREAT | os.O_WRONLY))")
    scribe.do("os.write(f, bytes(range(32, 127)) * 30)")
    scribe.do("os.write(f, b'short')")
    *pieces, short = [one for one in scribe.records() if one["source"] == LogSource.FILE]
    assert (
        b"".join(p["bytes"][: p["length"]].tobytes() for p in pieces) == bytes(range(32, 127)) * 30
    )
    assert [int(piece["offset"]) for piece in pieces] == [904 * n for n in range(len(pieces))]
    assert {(int(piece["kept"]), int(piece["written"])) for piece in pieces} == {(2850, 2850)}
    assert not short["bytes"][5:].any()
    assert {int(p["inode"]) for p in pieces} == {(tmp_path / "a.log").stat().st_ino}


@pytest.mark.parametrize("mode", [0, ProcessMode.EXCLUDED])
def test_others_are_left_alone(capture: Capture, mode: int) -> None:
    """Nothing is recorded of a process that is not traced."""
    other = Scribe(capture, mode)
    other.do("os.write(1, b'private')")
    assert len(other.records()) == 0
    other.close()


def test_the_rate_is_bounded(capture: Capture, scribe: Scribe) -> None:
    """A process gets so many records a second through; the others are counted, and the next
    record says how many there were."""
    before = capture.counters()[Counter.LOST_LOG_RATE]
    scribe.do(f"[os.write(os.dup(1), b'line') for _ in range({3 * RATE})] and 0")
    found = scribe.wrote()
    lost = capture.counters()[Counter.LOST_LOG_RATE] - before
    assert 0 < len(found) < 3 * RATE
    assert len(found) + lost >= 3 * RATE
    scribe.do("time.sleep(1.1)")
    scribe.do("os.write(1, b'later')")
    later = [one for one in scribe.records() if one["descriptor"] == 1]
    assert int(later[-1]["lost"]) == lost


def test_where_everything_is_traced() -> None:
    """Programs that nobody has decided about are not read, though they are traced."""
    capture = Capture.open(CaptureOptions(log_rate=RATE, trace_all=True))
    try:
        undecided, decided = Scribe(capture, 0), Scribe(capture)
        for one in (undecided, decided):
            one.do("os.write(1, b'hello')")
        assert capture.logs is not None
        found = capture.logs.read()
        writers = set(found["tgid"].tolist())
        assert decided.pid in writers
        assert undecided.pid not in writers
        undecided.close()
        decided.close()
    finally:
        capture.close()
