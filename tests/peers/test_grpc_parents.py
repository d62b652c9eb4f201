"""Whose request a call is part of, by runtime: programs that serve request n and call others with
the same number meanwhile. Not one parent may be another request's."""

import pytest

from .grpc_parents import CASES, COUNT, Case, ensure_case, play
from .grpc_programs import IMPLEMENTATIONS
from .toolchain import has_cargo

# How many calls have their parent at least: all of Go's; of whoever serves one request at a time
# all that need not wait for the end of the load for longer than rule `alone` waits.
_LEAST = {f"{name}-1": COUNT // 2 for name in IMPLEMENTATIONS}
_LEAST |= {f"grpc-go-{width}": COUNT for width in (1, 8, 32)}
_LEAST |= {str(case): COUNT for case in CASES if case.traceparent}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=str(case), marks=[pytest.mark.slow] if case.is_slow else [])
        for case in CASES
    ],
)
def test_no_call_is_another_requests(case: Case) -> None:
    """Each request and each call has its span; each call is a child of the request with its
    number or has no parent, and what was called is below it."""
    if case.name == "tonic" and not has_cargo():
        pytest.skip("no cargo that builds tonic")
    ensure_case(case)
    found = play(case)
    assert found.ended.lost == []
    assert len(found.truths) == 1 + (case.name in IMPLEMENTATIONS)
    for protocol, truth in found.truths.items():
        verdicts = truth.verdicts
        assert verdicts["wrong"] == 0, (protocol, truth.examples("wrong"))
        assert len(truth.requests) == COUNT
        assert sum(verdicts.values()) == COUNT, protocol
        assert truth.split == 0, protocol
        assert truth.astray == 0, protocol
        assert verdicts["right"] >= _LEAST.get(str(case), 0), (protocol, truth.examples("none"))


def test_who_calls_by_itself_as_well() -> None:
    """Of a server that serves one call at a time and calls by a timer too, no call of the timer has
    a parent, and no other call a wrong one."""
    case = Case("grpcio", 1)
    ensure_case(case)
    found = play(case, {"PEERS_BACKGROUND": "1"})
    background = [one for one in found.http1.calls if one.call.number == 1]
    assert len(background) > 1
    for truth in found.truths.values():
        assert truth.verdicts["wrong"] == 0, truth.examples("wrong")
    assert not any(one.call.parent_id for one in background)
