"""The target programs that speak gRPC: the numbered service in every language, at both ends.

The service is described in programs/grpc/go/internal/numbers: messages of call n have n bytes, so
the sizes in a span tell which call it is of.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .clients import RunningClient
from .ports import is_open, lease_port
from .processes import Program
from .toolchain import (
    GRPC_BIN,
    GRPC_CLASSES,
    GRPC_JARS,
    GRPC_NODE,
    GRPC_RUST,
    GRPC_VENV,
    PROGRAMS,
    tool,
)

FIRST = 100  # smaller numbers do not fit their own messages
PARTS = 3
START_TIMEOUT_S = 40.0

Command = Sequence[str | Path]
_PYTHON = PROGRAMS / "grpc" / "python"
_JAVA: Command = [
    *("java", "-Xmx96m", "-XX:TieredStopAtLevel=1"),
    *("-cp", f"{GRPC_CLASSES}:{GRPC_JARS}/*"),
]


@dataclass(frozen=True)
class Implementation:
    """How server and client of one implementation are started.

    name: of the service that the agent makes of each program's command line.
    can_send_traceparent, can_send_metadata: whether the client has the switch.
    is_slow: not for the short selection.
    warm: calls that the client makes before it stands at its gate, on another connection.
    """

    server: Command
    client: Command
    server_name: str
    client_name: str
    server_option: str = ""
    can_send_traceparent: bool = True
    can_send_metadata: bool = True
    is_slow: bool = False
    warm: int = 0
    next_option: str = ""


def _python(suffix: str) -> Implementation:
    python = GRPC_VENV / "bin" / "python"
    return Implementation(
        [python, _PYTHON / f"server{suffix}.py"],
        [python, _PYTHON / f"client{suffix}.py"],
        f"server{suffix}",
        f"client{suffix}",
    )


IMPLEMENTATIONS: Mapping[str, Implementation] = {
    "grpc-go": Implementation(
        [GRPC_BIN / "server"],
        [GRPC_BIN / "client"],
        "server",
        "client",
        server_option="--listen",
        next_option="--next",
    ),
    "grpcio": _python(""),
    "grpcio-aio": _python("_aio"),
    "grpc-js": Implementation(
        ["node", GRPC_NODE / "server.js"],
        ["node", GRPC_NODE / "client.js"],
        "waggle-grpc-peers",
        "waggle-grpc-peers",
        is_slow=True,
        warm=42,
    ),
    "grpc-java": Implementation(
        [*_JAVA, "GrpcServer"],
        [*_JAVA, "GrpcClient"],
        "GrpcServer",
        "GrpcClient",
        can_send_traceparent=False,
        can_send_metadata=False,
        is_slow=True,
        warm=42,
    ),
    "tonic": Implementation(
        [GRPC_RUST / "release" / "server"],
        [GRPC_RUST / "release" / "client"],
        "server",
        "client",
        is_slow=True,
        can_send_metadata=False,
    ),
}


def _command(parts: Command) -> list[str | Path]:
    return [tool(part) if part in ("node", "java") else part for part in parts]


@dataclass(frozen=True)
class GrpcServer:
    """A running server."""

    program: Program
    address: str


@contextmanager
def start_grpc_server(
    name: str, next_address: str = "", env: Mapping[str, str] | None = None
) -> Iterator[GrpcServer]:
    """Starts a server of one of IMPLEMENTATIONS and waits until its port is open.

    next_address: of the server that the method Relay calls; before that it asks one of HTTP/1
    where the environment's PEERS_NEXT_HTTP is a HOST:PORT.
    """
    how = IMPLEMENTATIONS[name]
    lease = lease_port()
    address = f"127.0.0.1:{lease.port}"
    option = [how.server_option] if how.server_option else []
    onward: Command = []
    if next_address:
        onward = [how.next_option, next_address] if how.next_option else [next_address]
    program = Program(f"server-{name}", [*_command(how.server), *option, address, *onward], env=env)
    try:
        program.wait_until(lambda: is_open(lease.port), START_TIMEOUT_S)
        yield GrpcServer(program, address)
    finally:
        program.stop()
        lease.release()


@contextmanager
def start_grpc_client(
    name: str,
    address: str,
    count: int,
    concurrency: int = 1,
    *,
    first: int = FIRST,
    calls: Sequence[str] = ("one",),
    gate: int | None = None,
    args: Sequence[str] = (),
) -> Iterator[RunningClient]:
    """Starts a client that makes the calls `first` .. `first + count - 1`, kinds in turns: call n
    is of kind calls[n % len(calls)]."""
    switches = ["--first", str(first), "--calls", ",".join(calls), *args]
    switches += ["--gate", str(gate)] if gate is not None else []
    how = IMPLEMENTATIONS[name]
    switches += ["--warm", str(how.warm)] if how.warm and not gate else []
    command = [*_command(how.client), address, str(count), str(concurrency)]
    program = Program(f"client-{name}", [*command, *switches], with_pipes=True)
    try:
        yield RunningClient(name, program, first, count)
    finally:
        program.stop()
