"""Programs of other runtimes: a call has the right parent or none, and the right one where
runtime_matrix.py says so. The numbers in the requests are the truth.
"""

import pytest

from .harness import ensure_built
from .runtime_matrix import RUNTIMES, available, least, play_all
from .toolchain import ensure_runtimes
from .turn_matrix import CONCURRENCIES, play

COUNT = 200
QUICK = (("haproxy", "proxy", "kept"), ("java", "two", "url"), ("java", "background", "http"))


def test_quick() -> None:
    """One by one and then many at once: HAProxy, where a task tells whose work a thread does; Java,
    where threads block, and where it calls by itself as well: what those calls are is nobody's."""
    ensure_built()
    played, _ = play(QUICK, 32, COUNT, alone=COUNT // 2, programs=RUNTIMES)
    for one in played:
        print(one)
    assert not [str(one) for one in played if one.wrong]
    assert not [str(one) for one in played if one.result.unserved or one.result.missing]
    assert not [str(one) for one in played if one.result.share < least(one.result.cell)]
    assert [one.nobodys for one in played] == [0, 0, 400]


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", CONCURRENCIES)
def test_all(concurrency: int) -> None:
    """Every program of the matrix."""
    ensure_built()
    ensure_runtimes()
    for played, ended in play_all(available(), concurrency, COUNT):
        for one in played:
            print(one)
        assert not [str(one) for one in played if one.wrong], ended.stderr
        assert not [str(one) for one in played if one.result.unserved or one.result.missing]
        assert not [str(one) for one in played if one.result.share < least(one.result.cell)]
