"""The ring's reader over a fake image of its memory."""

import os
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.records import record
from waggle.layout import LARGE_EXCHANGE
from waggle.ring import BUSY, DISCARD, Call, RingError, RingMemory, RingPoller

RECORD = np.dtype(
    {
        "names": ["ring_length", "ring_page", "number"],
        "formats": ["<u4", "<u4", "<u8"],
        "offsets": [0, 4, 8],
        "itemsize": 72,  # some lie across the end of the ring
    }
)
PAYLOAD = RECORD.itemsize - 8
SIZE = 4096
CAPACITY = SIZE // RECORD.itemsize


class Image:
    """Ring memory as the kernel keeps it: two positions, and the data."""

    def __init__(self, start: int = 0) -> None:
        self.consumer = np.array([start], np.uint64)
        self.producer = np.array([start], np.uint64)
        self.data = np.zeros(SIZE, np.uint8)
        self.ring = RingMemory(self.consumer, self.producer, self.data, RECORD)

    def put(self, number: int, flags: int = 0, length: int = PAYLOAD) -> int:
        """Reserve a record and fill it in; the offset of its header."""
        at = int(self.producer[0]) % SIZE
        record = np.zeros(1, RECORD)
        record["ring_length"] = length | flags
        record["number"] = number
        raw = record.view(np.uint8)
        self.data[(at + np.arange(len(raw))) % SIZE] = raw
        self.producer[0] += RECORD.itemsize
        return at

    def submit(self, at: int) -> None:
        """Clear the busy bit of the record at an offset."""
        header = self.data[at : at + 4].view(np.uint32)
        header &= ~BUSY

    def numbers(self, max_records: int = 1000) -> list[int]:
        found: list[int] = self.ring.read(max_records)["number"].tolist()
        return found


def test_an_empty_ring_gives_an_empty_batch() -> None:
    """Nothing in the ring: a batch of the right type and no records."""
    batch = Image().ring.read()
    assert batch.shape == (0,)
    assert batch.dtype == RECORD


def test_reading_stops_at_the_first_busy_record() -> None:
    """A finished record behind one that is being written waits for it, and none is lost."""
    image = Image()
    image.put(1)
    busy = image.put(2, int(BUSY))
    image.put(3)
    assert image.numbers() == [1]
    assert image.numbers() == []
    assert image.ring.pending() == 2
    image.submit(busy)
    assert image.numbers() == [2, 3]


def test_discarded_records_are_skipped_and_counted() -> None:
    """A discarded record takes room in the ring, but never shows up in a batch."""
    image = Image()
    for number in range(6):
        image.put(number, int(DISCARD) if number % 2 else 0)
    assert image.numbers() == [0, 2, 4]
    assert image.ring.discarded == 3
    assert image.ring.pending() == 0


def test_a_ring_of_discarded_records_is_emptied() -> None:
    """Only discarded records: an empty batch, and the room is given back."""
    image = Image()
    for number in range(CAPACITY):
        image.put(number, int(DISCARD))
    assert image.numbers() == []
    assert image.ring.pending() == 0


@pytest.mark.parametrize("start", [SIZE - RECORD.itemsize, 10 * SIZE - 3 * RECORD.itemsize])
def test_a_batch_over_the_end_is_in_order(start: int) -> None:
    """A batch that wraps around comes out in the order it was written."""
    image = Image(start)
    for number in range(CAPACITY):
        image.put(number)
    assert image.numbers() == list(range(CAPACITY))


def test_a_read_takes_at_most_what_was_asked_for() -> None:
    """The bound holds, and the next read goes on where this one ended."""
    image = Image()
    for number in range(10):
        image.put(number)
    assert [image.numbers(4) for _ in range(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], []]


def test_a_batch_is_a_copy() -> None:
    """What the kernel writes later changes no batch, nor does a batch change the ring."""
    image = Image()
    image.put(7)
    batch = image.ring.read()
    image.data[:] = 0xFF
    assert batch["number"].tolist() == [7]
    batch["number"] = 9
    assert (image.data == 0xFF).all()


def test_the_room_is_given_back_after_the_read() -> None:
    """The consumer position equals the producer's once all is read, in bytes."""
    image = Image(5 * SIZE)
    image.put(1)
    image.put(2)
    image.ring.read()
    assert int(image.consumer[0]) == int(image.producer[0]) == 5 * SIZE + 2 * RECORD.itemsize


def test_a_record_of_another_size_is_an_internal_error() -> None:
    """A foreign record is refused by name, and nothing is taken, not even what was fine."""
    image = Image()
    image.put(1)
    image.put(2, length=PAYLOAD + 8)
    message = rf"{PAYLOAD + 8} bytes at position {RECORD.itemsize} .* have {PAYLOAD}: .*make build"
    with pytest.raises(RingError, match=message):
        image.ring.read()
    assert int(image.consumer[0]) == 0


def test_a_foreign_size_is_found_in_a_discarded_record_too() -> None:
    """The flag bits are no part of the length, and do not hide a wrong one."""
    image = Image()
    image.put(1, int(DISCARD), length=PAYLOAD - 8)
    with pytest.raises(RingError, match=f"record of {PAYLOAD - 8} bytes"):
        image.ring.read()


KIND = st.sampled_from(["submit", "discard", "busy"])


@given(st.lists(st.one_of(KIND, st.integers(0, 9)), max_size=300), st.integers(0, 1 << 40))
def test_any_interleaving_gives_every_record_once_in_order(
    acts: list[str | int], start: int
) -> None:
    """Whatever is submitted, discarded, held back and read in between: all once, in order."""
    image = Image(start * RECORD.itemsize)
    expected: list[int] = []
    seen: list[int] = []
    held: list[int] = []
    for number, act in enumerate(acts):
        if isinstance(act, int):
            seen += image.numbers(act)
        elif image.ring.pending() < CAPACITY:
            flags = {"submit": 0, "discard": int(DISCARD), "busy": int(BUSY)}[act]
            at = image.put(number, flags)
            held += [at] if act == "busy" else []
            expected += [number] if act != "discard" else []
    for at in held:
        image.submit(at)
    seen += image.numbers()
    assert seen == expected


@given(st.lists(st.integers(0, 1500), min_size=1, max_size=8))
def test_what_no_record_uses_is_left_out_and_nothing_else(lengths: list[int]) -> None:
    """Records come out with all their bytes in use, but no longer than the longest needs."""
    rows = np.concatenate([record(bytes([65 + n % 26]) * n, large=True) for n in lengths])
    rows["ring_length"] = LARGE_EXCHANGE.itemsize - 8
    consumer, producer = np.zeros(1, np.uint64), np.array([rows.nbytes], np.uint64)
    data = np.concatenate([rows.view(np.uint8), np.zeros(8 * rows.nbytes, np.uint8)])
    used = ("target_len", "kept_len")
    got = RingMemory(consumer, producer, data, LARGE_EXCHANGE, used).read()
    for name in LARGE_EXCHANGE.names or ():
        if name != "head":
            assert (got[name] == rows[name]).all()
    in_use = rows["target_len"] + rows["kept_len"]
    for row, size in enumerate(in_use.tolist()):
        assert (got["head"][row, :size] == rows["head"][row, :size]).all()
    assert 16 <= got["head"].shape[1] - in_use.max() <= 48


def test_a_record_that_claims_to_use_more_than_there_is_comes_whole() -> None:
    """Lengths beyond the end of a record make it no longer than it is."""
    row = record(large=True)
    row["ring_length"], row["target_len"], row["kept_len"] = row.nbytes - 8, 0xFFFF, 0xFFFF
    positions = np.zeros(1, np.uint64), np.array([row.nbytes], np.uint64)
    data = np.concatenate([row.view(np.uint8)] * 2)
    memory = RingMemory(*positions, data, LARGE_EXCHANGE, ("target_len", "kept_len"))
    assert (memory.read() == row).all()


class FakeRing:
    """A descriptor that never gets ready, and a position that says what is there."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0)
        self.count = 0

    def fileno(self) -> int:
        return self.fd

    def pending(self) -> int:
        return self.count


def test_a_poller_sees_records_that_woke_nobody() -> None:
    """wait() returns at once for a record that was submitted without a wake-up."""
    ring = FakeRing()
    poller = RingPoller([ring])
    assert not poller.wait(0.001)
    ring.count = 1
    assert poller.wait(60)
    poller.close()
    os.close(ring.fd)


def test_wake_ends_one_wait() -> None:
    """wake() ends the next wait of either kind, even one that begins later, and no other."""
    poller = RingPoller([])
    for wait in (poller.wait, poller.wait_for_call):
        poller.wake()
        assert wait(60)
        assert not wait(0.001)
    poller.close()
    poller.close()
    poller.wake()


def test_waiting_for_a_call_ignores_what_is_in_the_rings() -> None:
    """While records gather, a full ring ends no wait; its producer's call does, once."""
    ring = FakeRing()
    ring.count = 1
    poller = RingPoller([ring])
    caller = threading.Thread(target=os.eventfd_write, args=(ring.fd, 1))
    caller.start()
    began = time.monotonic()
    assert poller.wait_for_call(60) is Call.PRODUCER
    assert time.monotonic() - began < 30
    began = time.monotonic()
    assert poller.wait_for_call(0.02) is Call.NOBODY
    assert time.monotonic() - began > 0.015
    assert poller.wait(60)
    caller.join()
    poller.close()
    os.close(ring.fd)
