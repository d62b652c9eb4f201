"""Go programs under stress, while agents come and are killed: no byte of an answer is altered, and
nothing ends. WAGGLE_TEST_SOAK is how many times as long this goes on."""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from waggle.libbpf import RunTimeStats

from .agent import Agent, started_agent
from .clients import FINISH_TIMEOUT_S, run_client
from .go_matrix import GOMATRIX, kind_of
from .loaded import descriptors, programs
from .processes import Program
from .servers import Server, start_server
from .toolchain import GO_MATRIX_BIN, ensure_go_matrix
from .truth import judge

LENGTH = int(os.environ.get("WAGGLE_TEST_SOAK", "1"))
CONNECTIONS = 8
# Stacks that grow under probes, many goroutines that end, contexts handed on, pieces of answers.
PATHS = [
    f"/m/{shape}/{client}/{{}}"
    for shape, client in (
        *(("deep", "std"), ("crowd", "std"), ("nested", "std"), ("deep", "raw")),
        *(("parallel", "grpc"), ("stream", "std"), ("pool-ctx", "std"), ("deep", "h2c")),
    )
]
STRESS: dict[str, Mapping[str, str]] = {
    "gc": {"GOGC": "1"},
    "plain": {},
    "stopping": {"GOGC": "5", "GODEBUG": "gcstoptheworld=1"},
    "clobbering": {"GOGC": "5", "GODEBUG": "clobberfree=1"},
    "cooperative": {"GODEBUG": "asyncpreemptoff=1"},
    "stacks": {"GOGC": "5", "GODEBUG": "gcshrinkstackoff=1"},
    "alone": {"GOMAXPROCS": "1", "GOGC": "5"},
    "small": {"GOMEMLIMIT": "24MiB"},
}
# The first goes on for as long as all others together.
KILLS = {name: max(1, LENGTH // 2) if name == "gc" else 1 + LENGTH // 14 for name in STRESS}


@contextmanager
def _servers(env: Mapping[str, str]) -> Iterator[tuple[Server, Server]]:
    """One that is asked, and one that it calls."""
    ensure_go_matrix()
    kinds = {"called": kind_of(GOMATRIX, "nethttp"), "go": kind_of(GOMATRIX, "gin")}
    with start_server("called", kinds=kinds) as called:
        settings = {**env, "CALLED": called.base_url}
        with start_server("go", env=settings, kinds=kinds) as server:
            yield called, server


@contextmanager
def _load(server: Server, count: int = 0) -> Iterator[Program]:
    address = f"127.0.0.1:{server.port}"
    words = [str(GO_MATRIX_BIN / "soak"), address, str(CONNECTIONS), str(count), *PATHS]
    program = Program("soak", words, with_pipes=True)
    try:
        yield program
    finally:
        program.stop()


def _more(agent: Agent, spans: int) -> None:
    """Waits until the agent has seen so many more."""
    enough = len(agent.spans()) + spans
    agent.wait_for(lambda seen: len(seen) > enough)


def _said(load: Program) -> tuple[int, str]:
    """How many numbers were asked for, and what stands for all answers."""
    count, digest = load.read_line(FINISH_TIMEOUT_S).split()
    assert load.wait(FINISH_TIMEOUT_S) == 0
    return int(count), digest


@pytest.mark.parametrize(
    "stress", [one if one == "gc" else pytest.param(one, marks=pytest.mark.slow) for one in STRESS]
)
def test_no_byte_is_altered(stress: str) -> None:
    """Agents look into a program under load and are killed with -9: it lives, every answer is byte
    for byte that of a run without any, and the next agent finds the right parents."""
    with _servers(STRESS[stress]) as (called, server):
        pids = [called.pid, server.pid]
        with _load(server) as load:
            for _ in range(KILLS[stress]):
                with started_agent("--go-handover=auto", pids=pids) as agent:  # every probe
                    agent.wait_for(lambda spans: len(spans) > 300)
                    agent.kill()
            load.send_signal(signal.SIGINT)
            count, with_agents = _said(load)
        with started_agent(pids=pids) as agent:
            run_client("go", server.base_url, 100, 4, first=10**7, path="/m/one/std/{}")
            agent.settle(300)
            spans = agent.stop().spans
        assert all(one.program.process.poll() is None for one in (called, server))
        assert judge(spans, server.pids(), [called.pid]).verdicts == {"right": 100}
    assert count > KILLS[stress] * 100
    with _servers(STRESS[stress]) as (_, server), _load(server, count) as load:
        assert _said(load) == (count, with_agents)


@pytest.mark.slow
def test_a_program_that_crashes_and_is_started_again() -> None:
    """Killed under load while it is looked into: the next one is looked into as well, and nothing
    of the first is taken for the second's."""
    ensure_go_matrix()
    kinds = {"called": kind_of(GOMATRIX, "nethttp"), "go": kind_of(GOMATRIX, "gin")}
    with (
        start_server("called", kinds=kinds) as called,
        started_agent(f"--exe={GOMATRIX}") as agent,
    ):
        for life in range(2 + LENGTH // 20):
            with start_server("go", env={"CALLED": called.base_url}, kinds=kinds) as server:
                _wait_until_looked_into(agent, server, 100_000 * (life + 1))
                first = 100_000 * (life + 1) + 50_000
                seen = len(agent.spans())
                run_client("go", server.base_url, 100, 8, first=first, path="/m/one/std/{}")
                agent.settle(seen + 300)
                truth = judge(agent.spans(), [server.pid], [called.pid])
                assert truth.within(range(first, first + 100)).verdicts == {"right": 100}
                assert truth.verdicts["wrong"] == 0
                with _load(server):  # which ends with it
                    _more(agent, 300)
                    server.program.process.kill()
        agent.stop()


SWARM = 1000  # goroutines of a request of this shape
WARM = 200
NEARLY_ALL = 0.95  # as in go_demands
MAY_GROW = 256 * 1024  # bytes: connections and functions that were met later


@pytest.mark.slow
def test_millions_of_goroutines() -> None:
    """All looked at when they are born, many more than anything has room for, by a program whose
    runtime uses their memory again and again: no call has a wrong parent, every request and call
    has its span, what is forgotten is old, and nothing grows."""
    ensure_go_matrix()
    count = 25 * LENGTH  # make soak: 10 million goroutines
    kinds = {"called": kind_of(GOMATRIX, "nethttp"), "go": kind_of(GOMATRIX, "gin")}
    with (
        start_server("called", kinds=kinds) as called,
        start_server("go", env={"CALLED": called.base_url}, kinds=kinds) as server,
        started_agent(pids=[called.pid, server.pid]) as agent,
        RunTimeStats(),
    ):
        path = "/m/swarm/std/{}"
        run_client("go", server.base_url, WARM, CONNECTIONS, path=path)
        agent.settle(5 * WARM)
        births, memory = programs(agent.pid)["go_birth"][1], _memory_of_maps(agent.pid)
        numbers = range(WARM + 1, WARM + 1 + count)
        run_client(
            *("go", server.base_url, count, CONNECTIONS),
            timeout_s=FINISH_TIMEOUT_S + count,
            first=numbers.start,
            path=path,
        )
        agent.settle(5 * (WARM + count))
        born = programs(agent.pid)["go_birth"][1] - births
        grown = _memory_of_maps(agent.pid) - memory
        ended = agent.stop()
    truth = judge(ended.spans, server.pids(), [called.pid])
    print(f"{born} goroutines, maps have {grown} bytes more, {truth.within(numbers).verdicts}")
    assert truth.verdicts["wrong"] == 0, truth.examples("wrong")
    assert len(ended.spans) == 5 * (WARM + count)
    assert truth.split == truth.astray == 0
    assert truth.within(numbers).verdicts["right"] >= NEARLY_ALL * 2 * count
    assert born >= SWARM * count
    assert grown <= MAY_GROW
    assert ended.lost == []


def _memory_of_maps(pid: int) -> int:
    return sum(int(fields["memlock"]) for fields in descriptors(pid, "map_id"))


def _wait_until_looked_into(agent: Agent, server: Server, first: int) -> None:
    """A program that nobody knew is read first, which takes as long as the machine lets it."""
    for number in range(first, first + 1000):
        seen = len(agent.spans())
        run_client("go", server.base_url, 1, first=number, path="/m/one/std/{}")
        agent.settle(seen + 3)
        mine = [span for span in agent.spans() if span.number == number]
        if judge(mine, [server.pid]).verdicts == {"right": 1}:
            return
        time.sleep(0.05)
    raise AssertionError("its calls have no parents")
