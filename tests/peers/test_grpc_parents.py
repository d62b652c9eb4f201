"""Whose request a gRPC call is part of, by runtime: programs that serve request n and call the
numbered service with the same number meanwhile. Not one parent may be another request's."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from .agent import Ended, started_agent
from .clients import start_client
from .grpc_programs import FIRST, IMPLEMENTATIONS, start_grpc_client, start_grpc_server
from .servers import Options, Place, ServerKind, start_server
from .toolchain import PROGRAMS, VENV, ensure_grpc_built, ensure_python_peers
from .truth import Truth, judge

COUNT = 60
_PYTHON = PROGRAMS / "grpc" / "python"
_Command = Callable[[Place, Options], list[str | Path]]


def _flask(place: Place, options: Options) -> list[str | Path]:
    return [
        *(VENV / "bin" / "gunicorn", "front_flask:app", "--chdir", _PYTHON),
        *("--bind", place.address, "--worker-class", "gthread", "--threads", str(options.threads)),
        *("--worker-tmp-dir", place.folder, "--no-control-socket"),
    ]


def _fastapi(place: Place, _: Options) -> list[str | Path]:
    where = ["--host", place.host, "--port", str(place.port), "--no-access-log"]
    return [VENV / "bin" / "uvicorn", "front_fastapi:app", "--app-dir", _PYTHON, *where]


FRONTS: dict[str, tuple[_Command, str]] = {
    "Flask, gthread": (_flask, "call"),
    "FastAPI, aio": (_fastapi, "call"),
    "FastAPI, threads": (_fastapi, "call-sync"),
}


@dataclass(frozen=True)
class Case:
    """A program that calls while it serves, and how many of its requests are open at once."""

    name: str
    width: int
    is_slow: bool = False

    def __str__(self) -> str:
        return f"{self.name}-{self.width}"


@contextmanager
def _caller(name: str, called: str, width: int) -> Iterator[tuple[list[int], Callable[[], None]]]:
    """The program under test with its load, which waits: its processes, and what begins it."""
    with ExitStack() as stack:
        if name in IMPLEMENTATIONS:
            server = stack.enter_context(start_grpc_server(name, called))
            client = stack.enter_context(
                start_grpc_client("grpc-go", server.address, COUNT, width, calls=["relay"], gate=0)
            )
            pids = server.program.pids()
        else:
            command, route = FRONTS[name]
            kinds = {name: ServerKind(command)}
            front = stack.enter_context(start_server(name, kinds=kinds))
            path = f"/{route}/{{}}?url={called}"
            client = stack.enter_context(
                start_client("raw", front.base_url, COUNT, width, first=FIRST, path=path, gate=0)
            )
            pids = front.pids()
        client.wait_for_gate()

        def run() -> None:
            client.open_gate()
            client.finish()

        yield pids, run


def _play(case: Case) -> tuple[Truth, Ended]:
    with ExitStack() as stack:
        called = stack.enter_context(start_grpc_server("grpc-go"))
        pids, run = stack.enter_context(_caller(case.name, called.address, case.width))
        agent = stack.enter_context(started_agent(pids=[*pids, called.program.pid]))
        run()
        agent.settle(3 * COUNT)
        ended = agent.stop()
        return judge(ended.spans, pids, [called.program.pid]), ended


CASES = [
    *(Case(name, 8, how.is_slow) for name, how in IMPLEMENTATIONS.items()),
    *(Case(name, width, width == 1) for name in FRONTS for width in (8, 1)),
    *(Case(name, 1, True) for name in IMPLEMENTATIONS),
]


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
    ensure_grpc_built(everything=case.is_slow)
    if case.name in FRONTS:
        ensure_python_peers()
    truth, ended = _play(case)
    verdicts = truth.verdicts
    assert verdicts["wrong"] == 0, truth.examples("wrong")
    assert len(truth.requests) == COUNT
    assert sum(verdicts.values()) == COUNT
    assert truth.split == 0
    assert ended.losses == ["nothing"]
