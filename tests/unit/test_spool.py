"""Requests on disk: bounded, in order, whole or counted as damaged."""

import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waggle.errors import UsageError
from waggle.exporter import spool as module
from waggle.exporter.spool import HEADER_BYTES, Spool

MEBI = 1 << 20


def opened(folder: Path, said: list[str] | None = None, max_bytes: int = 64 * MEBI) -> Spool:
    return Spool(folder, max_bytes, said.append if said is not None else None)


def drained(spool: Spool) -> list[bytes]:
    found = []
    while (stored := spool.next()) is not None:
        found.append(stored.payload)
        spool.done(stored)
    return found


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.spool"))


def test_first_in_first_out(tmp_path: Path) -> None:
    """Requests come back in order and whole, and their spans are counted until they are done."""
    spool = opened(tmp_path)
    payloads = [bytes([number]) * (number * 1000 + 1) for number in range(5)]
    assert all(spool.append(payload, 3) for payload in payloads)
    assert spool.waiting_spans() == 15
    assert drained(spool) == payloads
    assert spool.waiting_spans() == 0
    spool.close()


def test_the_next_run_finds_what_was_not_done(tmp_path: Path) -> None:
    """After a restart exactly the requests that were not done come again, in their order."""
    spool = opened(tmp_path)
    for number in range(4):
        spool.append(bytes([number]), 10)
    first, second = spool.next(), spool.next()
    assert first is not None
    assert second is not None
    spool.done(first)
    spool.close()
    again = opened(tmp_path)
    assert again.recovered == 30
    assert drained(again) == [b"\1", b"\2", b"\3"]
    again.close()
    assert files(tmp_path) == []


def test_segments_are_deleted_when_they_are_done(tmp_path: Path) -> None:
    """What was sent takes no room for long, though there is always more."""
    spool = opened(tmp_path, max_bytes=16 * MEBI)
    for _ in range(100):
        assert spool.append(bytes(MEBI), 1)
        drained(spool)
        assert spool.size() <= 2 * MEBI
    assert len(files(tmp_path)) <= 1
    spool.close()


def test_the_bound_is_never_passed(tmp_path: Path) -> None:
    """What does not fit is turned away; when something was sent, there is room again."""
    spool = opened(tmp_path, max_bytes=16 * MEBI)
    taken = 0
    while spool.append(bytes(MEBI), 1):
        taken += 1
    assert taken == 15
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 16 * MEBI
    for _ in range(7):
        stored = spool.next()
        assert stored is not None
        spool.done(stored)
    assert spool.append(bytes(MEBI), 1)
    spool.close()


@pytest.mark.parametrize("cut", [1, HEADER_BYTES, HEADER_BYTES + 500])
def test_a_record_cut_short_is_counted(tmp_path: Path, cut: int) -> None:
    """A run that was killed while it wrote: what was whole is there, the rest is said."""
    spool = opened(tmp_path)
    spool.append(b"whole", 5)
    spool.append(bytes(1000), 7)
    spool.close()
    (path,) = files(tmp_path)
    os.truncate(path, path.stat().st_size - 1000 - HEADER_BYTES + cut)
    said: list[str] = []
    again = opened(tmp_path, said)
    assert again.recovered == 5
    assert again.lost() == ({} if cut < HEADER_BYTES else {"spool_truncated": 7})
    assert drained(again) == [b"whole"]
    assert len(said) == 1
    assert str(path) in said[0]
    again.close()


def test_a_damaged_payload_is_counted_and_skipped(tmp_path: Path) -> None:
    """A bit that turned over costs its request and nothing else."""
    spool = opened(tmp_path)
    for number in range(3):
        spool.append(bytes([number]) * 100, number + 1)
    spool.close()
    (path,) = files(tmp_path)
    _turn_over(path, HEADER_BYTES + 100 + HEADER_BYTES + 50)
    said: list[str] = []
    again = opened(tmp_path, said)
    assert drained(again) == [b"\0" * 100, b"\2" * 100]
    assert again.lost() == {"spool_corrupt": 2}
    assert again.waiting_spans() == 0
    assert "damaged" in said[0]
    again.close()


def test_a_damaged_header_hides_only_its_record(tmp_path: Path) -> None:
    """What follows a broken header is found again, and the damage is said in bytes."""
    spool = opened(tmp_path)
    for number in range(3):
        spool.append(bytes([number]) * 100, 1)
    spool.close()
    (path,) = files(tmp_path)
    _turn_over(path, HEADER_BYTES + 100 + 5)
    said: list[str] = []
    again = opened(tmp_path, said)
    assert drained(again) == [b"\0" * 100, b"\2" * 100]
    assert f"{HEADER_BYTES + 100} bytes" in said[0]
    again.close()


def test_damage_while_it_runs_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    """A header that breaks between being counted and being read is counted as lost."""
    spool = opened(tmp_path)
    spool.append(b"a" * 100, 4)
    spool.close()
    again = opened(tmp_path)
    _turn_over(files(tmp_path)[0], 5)
    again.append(b"b", 1)
    assert drained(again) == [b"b"]
    assert again.lost() == {"spool_corrupt": 4}
    assert again.waiting_spans() == 0
    again.close()


def _turn_over(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_is_survived(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever bytes are changed or cut off, each request comes back whole or not at all."""
    folder = tmp_path_factory.mktemp("spool")
    spool = opened(folder)
    payloads = data.draw(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=6))
    for payload in payloads:
        spool.append(payload, 1)
    spool.close()
    (path,) = files(folder)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    again = opened(folder)
    left = iter(payloads)
    assert all(payload in left for payload in drained(again))  # a subsequence
    assert again.waiting_spans() == 0
    again.close()


def test_a_full_disk_is_said_once_and_its_end_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be written is turned away, the file stays whole, and both changes are said."""
    said: list[str] = []
    spool = opened(tmp_path, said)
    spool.append(b"before", 1)
    write = module._write_all

    def full(descriptor: int, offset: int, *parts: bytes) -> None:
        write(descriptor, offset, parts[0])  # the header still fits
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "_write_all", full)
    assert not spool.append(b"during", 1)
    assert not spool.append(b"during", 1)
    monkeypatch.setattr(module, "_write_all", write)
    assert spool.append(b"after", 1)
    assert drained(spool) == [b"before", b"after"]
    assert ["no space" in text for text in said] == [True, False]
    assert "again" in said[1]
    spool.close()


def test_one_agent_a_folder(tmp_path: Path) -> None:
    """A second agent is refused; when the first has ended, the folder is free."""
    first = opened(tmp_path)
    with pytest.raises(UsageError, match="another agent"):
        opened(tmp_path)
    first.close()
    opened(tmp_path).close()


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """A path that is no folder is a usage error that names it."""
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(UsageError, match=r"--spool .*file"):
        opened(file / "spool")


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    """Spans may hold secrets: folder and files are for their owner."""
    spool = opened(tmp_path / "new")
    spool.append(b"x", 1)
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
    assert files(tmp_path / "new")[0].stat().st_mode & 0o077 == 0
    spool.close()


def test_descriptors_are_bounded(tmp_path: Path) -> None:
    """However many segments wait, few files are open."""
    spool = opened(tmp_path, max_bytes=1 << 30)
    module_segment, module.SEGMENT_BYTES = module.SEGMENT_BYTES, 100
    try:
        for _ in range(50):
            spool.append(bytes(100), 1)
    finally:
        module.SEGMENT_BYTES = module_segment
    spool.close()
    again = opened(tmp_path)
    links = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert len([link for link in links if link.endswith(".spool")]) <= 2
    assert len(drained(again)) == 50
    again.close()


def test_a_writer_and_a_reader_at_once(tmp_path: Path) -> None:
    """Every request that was taken in is read once, while more is added."""
    spool = opened(tmp_path)
    ended = threading.Event()

    def write() -> None:
        for number in range(2000):
            spool.append(number.to_bytes(4, "big") * 500, 1)
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    found: list[bytes] = []
    while not ended.is_set() or spool.waiting_spans():
        found += drained(spool)
    writer.join()
    assert [int.from_bytes(payload[:4], "big") for payload in found] == list(range(2000))
    spool.close()
