"""The kernel's ring buffer as numpy batches, without a callback per record.

All records of one ring have one size, so whatever is in the ring is a matrix of
bytes. The kernel offers the data area twice in a row, for readers that look at
records where they are; we copy them, so once is enough, and half the memory that
is shown as ours. A batch that reaches beyond the end is put together of two parts.

Memory order. The kernel publishes a record with a release store of its header
(busy bit cleared) and of the producer position; we load the position, then the
headers, then the bytes, and store the consumer position last. That needs loads
to stay in order among themselves and before the store: x86-64 guarantees both.
Elsewhere a full barrier is put between the steps (membarrier, which begins and
ends in one for the calling thread). Every position and header is loaded by one
aligned load of 8 or 4 bytes, which numpy's copy loops do; each decision is made
from such a snapshot, never from a second look.
"""

import ctypes
import mmap
import os
import platform
import select
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from waggle.closing import Closing
from waggle.errors import WaggleError

Records = npt.NDArray[np.void]

HEADER_SIZE = 8
BUSY = np.uint32(1 << 31)
DISCARD = np.uint32(1 << 30)
_LENGTH = np.uint32((1 << 30) - 1)

# Most records of one read(): bounds the copy to 4 MiB of exchange records.
MAX_RECORDS = 8192
# Records are copied without the end of their last field when none of a batch uses it: in
# steps of this, so that there are few kinds of records, with this many bytes left over.
_WIDTH_STEP = 32
_WIDTH_SPARE = 16

_SYS_MEMBARRIER = {"aarch64": 283, "riscv64": 283, "ppc64le": 365, "s390x": 356}
_MEMBARRIER_GLOBAL_EXPEDITED = 2


class RingError(WaggleError):
    """The ring does not hold what it must: agent and BPF object do not fit together."""


def _no_barrier() -> None:
    """x86-64 orders loads among themselves and before later stores."""


def _barrier_for(machine: str) -> Callable[[], None]:
    if machine == "x86_64":
        return _no_barrier
    if machine not in _SYS_MEMBARRIER:
        raise RingError(f"memory order of {machine} is not known: Waggle does not run there")
    number = _SYS_MEMBARRIER[machine]
    libc = ctypes.CDLL(None, use_errno=True)

    def barrier() -> None:
        if libc.syscall(number, _MEMBARRIER_GLOBAL_EXPEDITED, 0, 0) != 0:
            raise RingError(f"membarrier: {os.strerror(ctypes.get_errno())}: needs Linux 4.16")

    return barrier


class RingMemory:
    """The reader's logic over the three mapped areas, wherever they come from.

    consumer, producer: one uint64 each, the positions, which only ever grow.
    data: the ring's bytes, a multiple of 8.
    record: the dtype of one record with its 8-byte header; `ring_length` first.
    used: columns that together say how many bytes of the last field are in use. With
    them, read() leaves out what no record of a batch uses: its records have the same
    fields, but the last one is shorter.
    """

    def __init__(
        self,
        consumer: npt.NDArray[np.uint64],
        producer: npt.NDArray[np.uint64],
        data: npt.NDArray[np.uint8],
        record: "np.dtype[np.void]",
        used: Sequence[str] = (),
    ) -> None:
        self.record = record
        self._used = tuple(used)
        self.size = len(data)
        self.capacity = self.size // record.itemsize
        self.discarded = 0
        self._consumer = consumer
        self._producer = producer
        self._mapped = data
        self._expected = np.uint32(record.itemsize - HEADER_SIZE)
        self._barrier = _barrier_for(platform.machine())

    def pending(self) -> int:
        """Records in the ring, finished or still being written."""
        return (int(self._producer[0]) - int(self._consumer[0])) // self.record.itemsize

    def read(self, max_records: int = MAX_RECORDS) -> Records:
        """Take the finished records, oldest first, as a copy of our own.

        Stops before the first record that is still being written. Discarded
        records are skipped and counted in `discarded`. Raises RingError when a
        record has another size than `record`; nothing is taken then.
        """
        position = int(self._consumer[0])
        reserved = (int(self._producer[0]) - position) // self.record.itemsize
        if reserved == 0:
            return np.empty(0, self.record)
        self._barrier()
        headers = _until_busy(self._headers(position, min(reserved, max_records)))
        self._barrier()
        count = len(headers)
        if count == 0:
            return np.empty(0, self.record)
        self._verify(headers, position)
        copied = self._copy(self._slots(position, count), (headers & DISCARD) != 0)
        self._barrier()
        self._consumer[0] = position + count * self.record.itemsize
        return copied

    @property
    def _data(self) -> npt.NDArray[np.uint8]:
        return self._mapped

    def _headers(self, position: int, count: int) -> npt.NDArray[np.uint32]:
        """A snapshot of the next `count` headers. They are aligned: none lies across the end."""
        starts = (position % self.size + np.arange(count) * self.record.itemsize) % self.size
        return self._data.view(np.uint32)[starts // 4]

    def _slots(self, position: int, count: int) -> npt.NDArray[np.uint8]:
        """The next `count` records as rows of bytes: in place, or a copy where the ring ends."""
        start = position % self.size
        end = start + count * self.record.itemsize
        data = self._data[start:end]
        if end > self.size:
            data = np.concatenate((data, self._data[: end - self.size]))
        return data.reshape(count, self.record.itemsize)

    def _verify(self, headers: npt.NDArray[np.uint32], position: int) -> None:
        wrong = (headers & _LENGTH) != self._expected
        if wrong.any():
            first = int(wrong.argmax())
            raise RingError(
                f"internal error: a record of {int(headers[first] & _LENGTH)} bytes at position "
                f"{position + first * self.record.itemsize} of a ring whose records have "
                f"{int(self._expected)}: agent and BPF object are of different builds; "
                "run make build"
            )

    def _copy(self, slots: npt.NDArray[np.uint8], discarded: npt.NDArray[np.bool_]) -> Records:
        """The records that were not discarded, in memory of our own."""
        if discarded.any():
            self.discarded += int(discarded.sum())
            slots = slots[~discarded]
        kind = self._narrowed(slots)
        parts = np.ndarray((len(slots),), f"V{kind.itemsize}", slots, 0, (slots.strides[0],))
        copied = np.empty(len(slots), kind)
        copied.view(parts.dtype)[:] = parts
        return copied

    def _narrowed(self, slots: npt.NDArray[np.uint8]) -> "np.dtype[np.void]":
        """The record's layout, as wide as these slots need it."""
        if not self._used or not len(slots):
            return self.record
        used = np.zeros(len(slots), np.uint32)
        for name in self._used:
            kind, offset = self.record.fields[name][:2]  # type: ignore[index]
            used += np.ndarray((len(slots),), kind, slots, offset, (slots.strides[0],))
        return narrowed(self.record, int(used.max()))


def narrowed(record: "np.dtype[np.void]", used: int) -> "np.dtype[np.void]":
    """A record's layout, whose last field has room for so many bytes, and a few that may be
    looked at beyond them, where it had them before."""
    return _shortened(record, used // _WIDTH_STEP)


@cache
def _shortened(record: "np.dtype[np.void]", steps: int) -> "np.dtype[np.void]":
    """`record` with room for so many steps, and one more, in its last field."""
    *names, last = record.names  # type: ignore[misc]  # only None where there are no fields
    fields = dict(record.fields or {})
    kind, offset = fields[last][:2]
    size = min((steps + 1) * _WIDTH_STEP + _WIDTH_SPARE, kind.itemsize)
    formats = [*(fields[name][0] for name in names), np.dtype((np.uint8, size))]
    return np.dtype(
        {
            "names": [*names, last],
            "formats": formats,
            "offsets": [*(fields[name][1] for name in names), offset],
            "itemsize": offset + size,
        }
    )


def _until_busy(headers: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    busy = (headers & BUSY) != 0
    return headers[: int(busy.argmax())] if busy.any() else headers


class Ring(RingMemory, Closing):
    """A BPF_MAP_TYPE_RINGBUF mapped into this process, the only reader of it.

    map_fd: the map's descriptor, which stays the caller's. size: its
    max_entries in bytes. record_dtype, used: see RingMemory. Mapping takes no memory
    of its own, but the pages count in this process's resident size: what lies between the
    positions is mapped when there is something in it, which in many rings never comes.
    """

    def __init__(
        self,
        map_fd: int,
        size: int,
        record_dtype: "np.dtype[np.void]",
        used: Sequence[str] = (),
    ) -> None:
        page = mmap.PAGESIZE
        self._fd = map_fd
        self._maps: list[mmap.mmap] = []
        try:
            consumer = self._map(page, mmap.PROT_READ | mmap.PROT_WRITE, 0)
            producer = self._map(page, mmap.PROT_READ, page)
        except (OSError, ValueError) as error:
            self._unmap()
            raise RingError(f"cannot map a ring of {size} bytes: {error}") from error
        super().__init__(
            np.frombuffer(consumer, np.uint64, 1),
            np.frombuffer(producer, np.uint64, 1),
            np.empty(0, np.uint8),
            record_dtype,
            used,
        )
        self.size = size
        self.capacity = size // record_dtype.itemsize
        self._poller = RingPoller([self])

    @property
    def _data(self) -> npt.NDArray[np.uint8]:
        if not len(self._mapped):
            try:
                data = self._map(self.size, mmap.PROT_READ, 2 * mmap.PAGESIZE)
            except (OSError, ValueError) as error:
                raise RingError(f"cannot map a ring of {self.size} bytes: {error}") from error
            self._mapped = np.frombuffer(data, np.uint8, self.size)
        return self._mapped

    def _map(self, length: int, protection: int, offset: int) -> mmap.mmap:
        mapped = mmap.mmap(self._fd, length, mmap.MAP_SHARED, protection, offset=offset)
        self._maps.append(mapped)
        return mapped

    def fileno(self) -> int:
        """The map's descriptor: readable for epoll when the ring is not empty."""
        return self._fd

    def wait(self, timeout_s: float) -> bool:
        """See RingPoller.wait(); only this ring counts."""
        return self._poller.wait(timeout_s)

    def close(self) -> None:
        """Unmap. Batches that were read stay valid."""
        self._poller.close()
        empty: Any = np.empty(0, np.uint64)
        self._consumer = self._producer = self._mapped = empty
        self._unmap()

    def _unmap(self) -> None:
        while self._maps:
            self._maps.pop().close()


class Pollable(Protocol):
    """A ring that can be waited for."""

    def fileno(self) -> int: ...

    def pending(self) -> int: ...


class Call(IntEnum):
    """Who ended a wait."""

    NOBODY = 0
    PRODUCER = 1
    WAKE = 2


class RingPoller:
    """Waits on several rings at once; wake() ends a wait from a signal handler or thread."""

    def __init__(self, rings: Sequence[Pollable]) -> None:
        self._rings = rings
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._all = select.epoll()
        self._wake_only = select.epoll()
        self._wake_only.register(self._wake, select.EPOLLIN)
        self._calls = select.epoll()  # tells of a ring when its producer wakes us, not before
        for source in (self._wake, *(ring.fileno() for ring in rings)):
            edge = select.EPOLLET if source != self._wake else 0
            self._all.register(source, select.EPOLLIN)
            self._calls.register(source, select.EPOLLIN | edge)

    def wait(self, timeout_s: float) -> bool:
        """True when a ring is not empty or wake() was called; False after timeout_s.

        A record submitted without a wake-up is seen when the wait begins, by its
        position: epoll would not look for it. It ends no wait that has begun. It
        may still be busy, so a caller that read nothing must pause by itself.
        """
        if any(ring.pending() for ring in self._rings):
            timeout_s = 0
        ready = self._ready(self._all, timeout_s)
        return bool(ready) or any(ring.pending() for ring in self._rings)

    def wait_for_call(self, timeout_s: float, *, by_producers: bool = True) -> Call:
        """Wait until somebody calls, whatever the rings hold; who that was.

        by_producers: also a producer that wakes us because much is waiting.
        """
        ready = self._ready(self._calls if by_producers else self._wake_only, timeout_s)
        if self._wake in ready:
            return Call.WAKE
        return Call.PRODUCER if ready else Call.NOBODY

    def wake(self) -> None:
        """End the wait that is going on, or the next one. After close(): nothing to end."""
        if not self._all.closed:
            os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Give the descriptors up. Further calls do nothing."""
        if not self._all.closed:
            self._all.close()
            self._calls.close()
            self._wake_only.close()
            os.close(self._wake)

    def _ready(self, epoll: select.epoll, timeout_s: float) -> list[int]:
        ready = [fd for fd, _ in epoll.poll(max(0.0, timeout_s))]
        if self._wake in ready:
            os.eventfd_read(self._wake)
        return ready
