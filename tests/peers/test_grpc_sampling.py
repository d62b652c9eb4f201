"""Sampling rules by path on gRPC: real programs, decided in the kernel by headers in HPACK."""

import re
from collections import Counter

import pytest

from .agent import started_agent
from .grpc_programs import (
    FIRST,
    IMPLEMENTATIONS,
    start_grpc_client,
    start_grpc_server,
)
from .toolchain import ensure_grpc_built

_RULES = ("--sample=path=/peers.Numbers/One:0", "--sample=path=/peers.Numbers/Do*:0")
_EACH = 20
_KINDS = {"one": "One", "down": "Down", "up": "Up", "both": "Both"}


@pytest.mark.parametrize("begins", ["client", "server"])
@pytest.mark.parametrize("name", [name for name, how in IMPLEMENTATIONS.items() if not how.is_slow])
def test_rules_by_path(name: str, begins: str) -> None:
    """No span of the methods that a rule says no to, every span of the others: by the client's
    side where it is traced, else by the server's; however the client compresses its headers."""
    ensure_grpc_built()
    with start_grpc_server(name) as server:
        client = start_grpc_client(
            name,
            server.address,
            _EACH * len(_KINDS),
            4,
            first=FIRST,
            calls=list(_KINDS),
            gate=0,
        )
        with client as calls:
            calls.wait_for_gate()
            pids = [server.program.pid, *([calls.pid] if begins == "client" else [])]
            with started_agent(*_RULES, pids=pids) as agent:
                calls.open_gate()
                calls.finish()
                agent.settle(2 * _EACH * len(pids))
                ended = agent.stop()
    methods = Counter(span.attributes["rpc.method"] for span in ended.spans)
    assert methods == {f"peers.Numbers/{kind}": _EACH * len(pids) for kind in ("Up", "Both")}
    assert ended.lost == []
    left_out = 2 * _EACH * len(pids)
    assert re.search(rf"^  unsampled  {left_out} spans \(rule {left_out}\)", ended.stderr, re.M)
