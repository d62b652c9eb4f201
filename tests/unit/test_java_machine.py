"""probes/java: where a machine keeps its virtual threads, from what it says of itself."""

from collections.abc import Sequence

import numpy as np
import pytest

from waggle.attach import NotYetError, RefusedError, Target
from waggle.probes.java.attach import JavaProbe, _Field, _verified
from waggle.runtimes import Runtime

KEY, THREAD_AT, VIRTUAL_AT = 3, 888, 896
FIELDS = {
    ("ThreadsSMRSupport", "_java_thread_list"): _Field(0, 0x1000),
    ("ThreadsList", "_length"): _Field(8, 0),
    ("ThreadsList", "_threads"): _Field(16, 0),
    ("JavaThread", "_osthread"): _Field(784, 0),
    ("JavaThread", "_threadObj"): _Field(THREAD_AT, 0),
    ("JavaThread", "_vthread"): _Field(VIRTUAL_AT, 0),
    ("OSThread", "_pthread_id"): _Field(8, 0),
}


class FakeMemory:
    """Words by address; what is not there is 0."""

    def __init__(self) -> None:
        self.content: dict[int, int] = {}

    def word(self, address: int) -> int | None:
        return self.content.get(address, 0)

    def words(self, address: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        found = [self.content.get(address + 8 * i, 0) for i in range(count)]
        return np.array(found, np.uint64)


def machine(numbers: Sequence[int], number_at: int = 24) -> FakeMemory:
    """A machine with a thread for each number, which java.lang.Thread has at `number_at`."""
    memory = FakeMemory()
    memory.content |= {0x1000: 0x2000, 0x2008: len(numbers), 0x2010: 0x3000}
    for at, number in enumerate(numbers):
        thread, system, pthread = 0x10000 * (at + 1), 0x5000 + 64 * at, 0x900000 + 0x1000 * at
        handle, instance = 0x6000 + 8 * at, 0x700000 + 256 * at
        memory.content |= {0x3000 + 8 * at: thread, thread + 784: system, system + 8: pthread}
        memory.content |= {pthread + 0x310 + 16 * KEY + 8: thread, thread + THREAD_AT: handle}
        memory.content |= {handle: instance, instance + number_at - 8: thread}
        memory.content |= {instance + number_at: number}
    return memory


def test_found() -> None:
    """All threads point to their JavaThread, from there to java.lang.Thread, and back."""
    row = _verified(machine([1, 9, 31]), FIELDS)  # type: ignore[arg-type]
    assert row["slot"] == 0x310 + 16 * KEY + 8
    found = tuple(int(row[f"{name}_at"]) for name in ("carrier", "mounted", "number"))
    assert found == (THREAD_AT, VIRTUAL_AT, 24)


def test_unlike() -> None:
    """Where threads disagree, one does not point back, or the number is none, nothing is told."""
    unlike, other = machine([1, 9, 4]), machine([1, 9, 4], 40)
    last = range(0x700200, 0x700300)
    unlike.content = {at: word for at, word in unlike.content.items() if at not in last}
    unlike.content |= {at: word for at, word in other.content.items() if at in last}
    with pytest.raises(RefusedError, match="do not show"):
        _verified(unlike, FIELDS)  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match="no numbers"):
        _verified(machine([1, 1 << 60]), FIELDS)  # type: ignore[arg-type]
    begins = machine([1, 9])
    begins.content[0x900000 + 0x310 + 16 * KEY + 8] = 0
    with pytest.raises(NotYetError, match="point back"):
        _verified(begins, FIELDS)  # type: ignore[arg-type]
    coloured = machine([1, 9])
    coloured.content[0x6000] |= 1 << 44
    with pytest.raises(RefusedError, match="ZGC"):
        _verified(coloured, FIELDS)  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match="_vthread"):
        _verified(
            machine([1, 9]),  # type: ignore[arg-type]
            {key: field for key, field in FIELDS.items() if key[1] != "_vthread"},
        )


@pytest.mark.parametrize(
    ("runtime", "wanted"),
    [
        (Runtime("jvm", "21.0.8"), True),
        (Runtime("jvm", "25"), True),
        (Runtime("jvm", "17.0.21"), False),
        (Runtime("jvm"), False),
        (Runtime("cpython", "21.0"), False),
    ],
)
def test_wanted(runtime: Runtime, wanted: bool) -> None:
    """Java from 21 on, when virtual threads came."""
    target = Target(7, 1, runtime, None)  # type: ignore[arg-type]
    assert JavaProbe(None).wants(target) is wanted  # type: ignore[arg-type]
