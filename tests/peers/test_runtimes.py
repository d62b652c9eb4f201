"""Programs of other runtimes: a call has the right parent or none, and the right one where
runtime_matrix.py says so. The numbers in the requests are the truth.
"""

import subprocess

import pytest

from waggle.runtimes import node_version

from . import node_matrix
from .harness import ensure_built
from .runtime_matrix import RUNTIMES, available, least, play_all
from .toolchain import ensure_node_frameworks, ensure_runtimes
from .turn_matrix import CONCURRENCIES, TRACEPARENT, play

COUNT = 200
QUICK = (
    *(("haproxy", "proxy", way) for way in ("kept", TRACEPARENT)),
    *(("java", "two", "url"), ("java", "background", "http")),
)


def test_quick() -> None:
    """One by one and then many at once: HAProxy, where a task tells whose work a thread does, or
    the header that it passes on; Java, where threads block, and where it calls by itself as well:
    what those calls are is nobody's."""
    ensure_built()
    played, _ = play(QUICK, 32, COUNT, alone=COUNT // 2, programs=RUNTIMES)
    for one in played:
        print(one)
    assert not [str(one) for one in played if one.wrong]
    assert not [str(one) for one in played if one.result.unserved or one.result.missing]
    assert not [str(one) for one in played if one.result.share < least(one.result.cell)]
    assert [one.nobodys for one in played] == [0, 0, 0, 400]


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


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", CONCURRENCIES)
def test_greenlets_in_uwsgis_own_loop(concurrency: int) -> None:
    """Where a program brings gevent into uWSGI's own loop, what a request leaves behind goes on
    while the next one is served: nothing has a parent."""
    ensure_built()
    ensure_runtimes()
    [one], ended = play([("uwsgi-patched", "fire", "url")], concurrency, COUNT, programs=RUNTIMES)
    print(one)
    assert not one.wrong, ended.stderr
    assert not one.result.right and not one.result.unserved
    assert "it has loaded gevent" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", CONCURRENCIES)
def test_frameworks_of_node(concurrency: int) -> None:
    """Frameworks, clients, pools and versions of Node.js: no wrong parent, and the right one where
    one turn leads to the next."""
    ensure_built()
    ensure_node_frameworks()
    for played, ended in node_matrix.play_all(node_matrix.CELLS, concurrency, COUNT):
        for one in played:
            print(one)
        assert not [str(one) for one in played if one.wrong], ended.stderr
        assert not [str(one) for one in played if one.result.unserved or one.result.missing]
        found = [one.result for one in played]
        assert not [str(one) for one in found if one.share < node_matrix.least(one.cell)]


@pytest.mark.slow
def test_more_turns_than_are_told_apart() -> None:
    """So many requests at once that a round of the loop has more turns than are kept: what the
    others leave for an immediate is nobody's, and never another's."""
    ensure_built()
    ensure_node_frameworks()
    cells = [(f"http-{node_matrix.NEWEST}", "mixed", "fetch")]
    [one], ended = play(cells, 400, 2000, programs=node_matrix.PROGRAMS)
    print(one)
    assert not one.wrong, ended.stderr
    assert one.result.right
    assert not one.result.unserved and not one.result.missing


@pytest.mark.slow
@pytest.mark.parametrize("version", node_matrix.VERSIONS)
def test_versions_of_node(version: int) -> None:
    """What an executable of Node.js is said to be is what it says of itself."""
    ensure_node_frameworks()
    node = node_matrix.node(version)
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True)
    assert f"v{node_version(str(node))}" == said.stdout.strip()
