"""What processes use, from the real /proc."""

import os
import subprocess
import sys
from collections.abc import Mapping

from waggle.layout import Method
from waggle.metrics.points import Collected, NumberFamily
from waggle.metrics.processes import FORGET_AFTER_S, ProcessSource, use_of
from waggle.processes import Known
from waggle.spans import Resource, ResourceTable

SPIN = """
import time
while time.process_time() < 0.4:
    pass
print(flush=True)
input()
"""


def values(collected: Collected) -> dict[tuple[str, object], int | float]:
    found: dict[tuple[str, object], int | float] = {}
    for family in collected:
        assert isinstance(family, NumberFamily)
        for point in family.points:
            which = next((value for _, value in point.attributes), "")
            found[(family.instrument.name, which)] = point.value
    return found


def test_a_process_is_measured_until_it_ends_and_then_forgotten() -> None:
    """CPU time it burned, memory and threads it has; once it ended nothing more, and after a
    while its row is given up."""
    child = subprocess.Popen(
        [sys.executable, "-c", SPIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    use = use_of(child.pid)
    assert use is not None
    table = ResourceTable()
    row = table.add(Resource({"service.name": "spin", "process.pid": child.pid}))
    shared = table.add(Resource({"service.name": "spin"}))
    now = [0.0]
    known = [Known(child.pid, use.start_ns, row), Known(os.getpid(), use.start_ns, shared)]
    source = ProcessSource(table, lambda: known, dict, now=lambda: now[0])
    try:
        assert child.stdout is not None
        child.stdout.readline()
        found = values(source.collect())
        spent = sum(found[("process.cpu.time", mode)] for mode in ("user", "system"))
        assert 0.35 <= spent < 5
        assert 1 << 20 < found[("process.memory.usage", "")] < 1 << 30
        assert found[("process.memory.virtual", "")] >= found[("process.memory.usage", "")]
        assert found[("process.thread.count", "")] == 1
        assert source.gone([row, shared]) == set()
    finally:
        child.kill()
        child.communicate()
    assert source.collect() == []
    assert source.gone([row, shared]) == set()
    now[0] = FORGET_AFTER_S
    assert source.gone([row, shared]) == {row}


def test_an_id_that_was_used_again_is_another_process() -> None:
    """A process that began at another time is not measured under this one's name."""
    use = use_of(os.getpid())
    assert use is not None
    table = ResourceTable()
    row = table.add(Resource({"service.name": "me", "process.pid": os.getpid()}))
    other = Known(os.getpid(), use.start_ns - 10**9, row)
    assert ProcessSource(table, lambda: [other], dict).collect() == []


def test_requests_being_served_go_back_to_zero() -> None:
    """What was told once is told as 0 when there is none, and only of known processes."""
    use = use_of(os.getpid())
    assert use is not None
    table = ResourceTable()
    row = table.add(Resource({"service.name": "me", "process.pid": os.getpid()}))
    known = [Known(os.getpid(), use.start_ns, row)]
    told: dict[tuple[int, int], int] = {(os.getpid(), Method.GET): 3, (1, Method.PUT): 1}

    def requests() -> Mapping[tuple[int, int], int]:
        return told

    source = ProcessSource(table, lambda: known, requests)
    assert values(source.collect())[("http.server.active_requests", "GET")] == 3
    told.clear()
    assert values(source.collect())[("http.server.active_requests", "GET")] == 0
