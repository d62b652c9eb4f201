"""The mapped ring against a kernel producer at full speed."""

import os
import select
from collections.abc import Callable

import numpy as np
import pytest

from waggle.libbpf import Object
from waggle.ring import Records, Ring

Opener = Callable[[str], Object]

RECORD = np.dtype(
    {
        "names": ["ring_length", "sequence", "words", "check"],
        "formats": ["<u4", "<u8", "(61,)u8", "<u8"],
        "offsets": [0, 8, 16, 504],
        "itemsize": 512,
    }
)
MADE, LOST, DISCARDED = range(3)


BURST = 1000  # calls of a producer between two looks whether that is enough


class Producers:
    """Two processes that call getppid(), once they are let go, until they are told to stop: as
    long as the reader needs, however fast either is."""

    def __init__(self) -> None:
        self._start = os.pipe()
        self._stop = os.pipe()
        self._told = os.pipe()
        self.pids = [self._fork() for _ in range(2)]

    @property
    def calls(self) -> int:
        """How many calls there were, once they have ended."""
        said = os.read(self._told[0], 4096)
        return sum(map(int, said.split()))

    def _fork(self) -> int:
        child = os.fork()
        if child == 0:
            os.read(self._start[0], 1)
            bursts = 0
            while not select.select([self._stop[0]], [], [], 0)[0]:
                for _ in range(BURST):
                    os.getppid()
                bursts += 1
            os.write(self._told[1], b"%d\n" % (bursts * BURST))
            os._exit(0)
        return child

    def start(self) -> None:
        os.write(self._start[1], b"go")

    def stop(self) -> None:
        os.write(self._stop[1], b"!")

    def running(self) -> bool:
        self.pids = [pid for pid in self.pids if os.waitpid(pid, os.WNOHANG)[0] == 0]
        return bool(self.pids)

    def close(self) -> None:
        for descriptor in (*self._start, *self._stop, *self._told):
            os.close(descriptor)


def run(
    open_object: Opener,
    *,
    enough: int,
    size: int,
    discard_every: int = 0,
    max_records: int = 8192,
) -> tuple[list[Records], list[int], Ring, int]:
    """Let the producers run against a reader until it has read `enough` records; all batches, the
    kernel's own counts, the ring, and how often the producers called."""
    producers = Producers()
    bpf = open_object("ring")
    bpf.rodata["targets"] = np.array(producers.pids, np.uint32)
    bpf.rodata["discard_every"] = discard_every
    bpf.map("records").max_entries = size
    bpf.load()
    bpf.attach("produce")
    batches: list[Records] = []
    with Ring(bpf.map("records").fd, size, RECORD) as ring:
        producers.start()
        read = 0
        while True:
            running = producers.running()  # before the read: nothing comes after the last one
            batches.append(ring.read(max_records))
            before, read = read, read + len(batches[-1])
            if before < enough <= read:
                producers.stop()
            if not running and len(batches[-1]) == 0:
                break
            ring.wait(0.01)
        assert ring.pending() == 0
    calls = producers.calls
    producers.close()
    keys, values = bpf.map("counters").items()
    counters = values.view(np.uint64)[np.argsort(keys[:, 0]), 0].tolist()
    return batches, counters, ring, calls


def verify_whole(records: Records) -> None:
    """Each record holds one number everywhere: a torn one would hold two."""
    np.testing.assert_array_equal(records["check"], records["sequence"])
    assert (records["words"] == records["sequence"][:, None]).all()


@pytest.mark.parametrize("size", [1 << 16, 1 << 22])
def test_every_record_is_read_once_or_counted(open_object: Opener, size: int) -> None:
    """At full speed nothing is torn, nothing comes twice, what is missing was counted lost."""
    rounds = 4 * size // RECORD.itemsize
    batches, counters, _, calls = run(open_object, enough=max(rounds, 20_000), size=size)
    records = np.concatenate(batches)
    verify_whole(records)
    np.testing.assert_array_equal(np.sort(records["sequence"]), np.arange(counters[MADE]))
    assert counters[MADE] + counters[LOST] == calls


def test_discarded_records_are_skipped_and_counted(open_object: Opener) -> None:
    """What the producer throws away never shows up, and everything else does."""
    batches, counters, ring, calls = run(open_object, enough=20_000, size=1 << 22, discard_every=3)
    records = np.concatenate(batches)
    verify_whole(records)
    assert counters[DISCARDED] == ring.discarded > 0
    assert (records["sequence"] % 3 != 0).all()
    assert len(records) == counters[MADE] - counters[DISCARDED]
    assert counters[MADE] + counters[LOST] == calls


def test_a_read_is_bounded(open_object: Opener) -> None:
    """No batch is larger than asked for, and the rest comes with the next ones."""
    batches, counters, _, _ = run(open_object, enough=5_000, size=1 << 22, max_records=100)
    assert max(len(batch) for batch in batches) == 100
    assert sum(len(batch) for batch in batches) == counters[MADE]


def test_wait_tells_an_empty_ring_from_one_with_records(open_object: Opener) -> None:
    """wait() is False when time is up and True, at once, when a record was left without wake-up."""
    bpf = open_object("ring")
    bpf.rodata["targets"] = np.array([os.getpid(), 0], np.uint32)
    bpf.load()
    bpf.attach("produce")
    with Ring(bpf.map("records").fd, bpf.map("records").max_entries, RECORD) as ring:
        assert not ring.wait(0.01)
        os.getppid()
        assert ring.wait(60)
        assert ring.read()["sequence"].tolist() == [0]
        assert not ring.wait(0)
