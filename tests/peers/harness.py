"""Starting real servers and clients for tests.

    from peers.harness import ensure_built, run_client, start_server

    ensure_built()
    with start_server("go-nethttp") as server:
        result = run_client("curl", server.base_url, count=50, concurrency=4)

Errors: ProgramError (a program did not start or end well, with its last output), ToolMissingError
(a compiler or runtime is not installed; install.sh has it).
"""

import json
from pathlib import Path
from typing import Any

from .clients import (
    CLIENTS,
    ClientKind,
    ClientResult,
    RunningClient,
    run_client,
    start_client,
    traceparent_of,
    trust_in,
)
from .ports import PortLease, lease_port
from .processes import LOGS, Program, ProgramError
from .servers import SERVERS, Family, Server, ServerKind, has_ipv6, start_server
from .toolchain import ToolMissingError, ensure_built, tool

__all__ = [
    "CLIENTS",
    "LOGS",
    "SERVERS",
    "ClientKind",
    "ClientResult",
    "Family",
    "PortLease",
    "Program",
    "ProgramError",
    "RunningClient",
    "Server",
    "ServerKind",
    "ToolMissingError",
    "ensure_built",
    "has_ipv6",
    "lease_port",
    "read_truth",
    "run_client",
    "start_client",
    "start_server",
    "tool",
    "traceparent_of",
    "trust_in",
]


def read_truth(path: Path) -> list[dict[str, Any]]:
    """What a raw program wrote to the file given to it with --truth: one object an exchange.

    The client tells n, scenario, method, target, status (None: no answer), started_ns, ended_ns
    (CLOCK_MONOTONIC) and thread; the server method, target, traceparent, connection (its number),
    read_ns and thread.
    """
    return [json.loads(line) for line in path.read_text().splitlines()]
