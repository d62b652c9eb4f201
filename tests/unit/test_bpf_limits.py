"""What kernels allow the BPF programs, and this one may not notice."""

import pytest

from unit.bpf_calls import CallGraph, shown, stack_of
from waggle.capture import OBJECT_PATH

STACK = 512  # MAX_BPF_STACK
FRAMES = 8  # MAX_CALL_FRAMES
MAPS = 64  # MAX_USED_MAPS


@pytest.fixture(scope="module")
def graph() -> CallGraph:
    return CallGraph(OBJECT_PATH)


def test_the_calls_are_found(graph: CallGraph) -> None:
    """Calls within a section, to another, and of a loop's steps are seen, and stacks measured."""
    chains = {function.name for function in graph.longest("syscall_enter")}
    assert {"syscall_enter", "message_step", "on_call"} <= chains
    assert "finish_exchange" in graph.functions["call_step"].calls
    assert graph.functions["on_call"].depth >= 8 * 8  # a struct walk, at least


def test_stacks(graph: CallGraph) -> None:
    """No chain of calls takes more stack than Linux 6.1 gives all of it."""
    chains = {name: graph.deepest(name) for name in graph.programs}
    assert {n: shown(chain) for n, chain in chains.items() if stack_of(chain) > STACK} == {}


def test_frames(graph: CallGraph) -> None:
    """No chain of calls is longer than the verifier allows."""
    chains = {name: graph.longest(name) for name in graph.programs}
    assert {n: shown(chain) for n, chain in chains.items() if len(chain) > FRAMES} == {}


def test_maps(graph: CallGraph) -> None:
    """No program uses more maps, with all that it calls, than a kernel allows."""
    counts = {name: len(graph.maps_of(name)) for name in graph.programs}
    assert {name: count for name, count in counts.items() if count > MAPS} == {}
    assert max(counts.values()) > MAPS // 2  # they are found
