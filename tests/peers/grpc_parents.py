"""python -m tests.peers.grpc_parents [--write] [CASE ...]: whose request a call is part of, where
requests come or calls go by HTTP/2; the table of docs/http2.md.

A program serves request n, and meanwhile calls the numbered service by gRPC with that number, and a
server of HTTP/1 where it is a gRPC server itself. So of each call it is known whose child it is.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from . import test_http2
from .agent import Ended, started_agent
from .clients import start_client
from .grpc_programs import FIRST, IMPLEMENTATIONS, start_grpc_client, start_grpc_server
from .matrix_page import replaced, table
from .processes import ROOT
from .servers import Options, Place, ServerKind, start_server
from .toolchain import (
    PROGRAMS,
    VENV,
    ensure_called_server,
    ensure_envoy,
    ensure_grpc_by,
    ensure_python_peers,
)
from .truth import Truth, judge

PAGE = ROOT / "docs" / "http2.md"
KEPT = ROOT / "build" / "grpc-parents.json"
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
PROXIES = tuple(test_http2.PROXIES)
QUICK = {"grpc-go", "grpcio", "Flask, gthread", "FastAPI, aio"}


@dataclass(frozen=True)
class Case:
    """A program that calls while it serves, and how many of its requests are open at once.
    traceparent: they bear that header, which a proxy passes on."""

    name: str
    width: int
    traceparent: bool = False

    def __str__(self) -> str:
        return f"{self.title}-{self.width}"

    @property
    def title(self) -> str:
        return f"{self.name}, traceparent" if self.traceparent else self.name

    @property
    def is_slow(self) -> bool:
        return self.name not in QUICK or (self.width == 1 and self.name in FRONTS)


CASES = [
    Case(name, width)
    for name in (*FRONTS, *IMPLEMENTATIONS, *PROXIES)
    for width in ((1, 8) if name not in QUICK else (1, 8, 32))
] + [Case(name, 8, traceparent=True) for name in PROXIES]


@dataclass(frozen=True)
class Found:
    """What came of a case. calls: which are right, wrong or none, by protocol."""

    case: Case
    grpc: Truth
    http1: Truth
    ended: Ended

    @property
    def truths(self) -> dict[str, Truth]:
        found = {"gRPC": self.grpc, "HTTP/1": self.http1}
        return {name: truth for name, truth in found.items() if truth.calls}

    def rows(self) -> Iterable[list[str]]:
        for protocol, truth in self.truths.items():
            verdicts = truth.verdicts
            links = Counter(one.call.link for one in truth.calls if one.verdict == "right")
            rules = ", ".join(f"`{link}`" for link, _ in links.most_common())
            counts = [str(verdicts[name]) for name in ("right", "wrong", "none")]
            yield [self.case.title, str(self.case.width), protocol, *counts, rules]


@contextmanager
def _caller(
    case: Case, called: str, http1: str, env: Mapping[str, str]
) -> Iterator[tuple[list[int], Callable[[], None]]]:
    """The program under test with its load, which waits: its processes, and what begins it."""
    with ExitStack() as stack:
        if case.name in FRONTS:
            command, route = FRONTS[case.name]
            kinds = {case.name: ServerKind(command)}
            front = stack.enter_context(start_server(case.name, kinds=kinds, threads=case.width))
            path = f"/{route}/{{}}?url={called}"
            load = start_client(
                "raw", front.base_url, COUNT, case.width, first=FIRST, path=path, gate=0
            )
            pids = front.pids()
        else:
            if case.name in PROXIES:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="waggle-")))
                how = test_http2.PROXIES[case.name](folder, called)
                program, address = stack.enter_context(test_http2.started(case.name, how))
            else:
                env = {"PEERS_NEXT_HTTP": http1, **env}
                server = stack.enter_context(start_grpc_server(case.name, called, env=env))
                program, address = server.program, server.address
            calls = ["one" if case.name in PROXIES else "relay"]
            args = ["--traceparent"] if case.traceparent else []
            load = start_grpc_client(
                "grpc-go", address, COUNT, case.width, calls=calls, gate=0, args=args
            )
            pids = program.pids()
        client = stack.enter_context(load)
        client.wait_for_gate()

        def run() -> None:
            client.open_gate()
            client.finish()

        yield pids, run


def play(case: Case, env: Mapping[str, str] = MappingProxyType({})) -> Found:
    """env: of the program under test. Raises ProgramError where a program fails."""
    with ExitStack() as stack:
        called = stack.enter_context(start_grpc_server("grpc-go"))
        http1 = stack.enter_context(start_server("go-nethttp"))
        below = [called.program.pid, http1.pid]
        address = http1.base_url.removeprefix("http://")
        pids, run = stack.enter_context(_caller(case, called.address, address, env))
        agent = stack.enter_context(started_agent(pids=[*pids, *below]))
        run()
        agent.settle((5 if case.name in IMPLEMENTATIONS else 3) * COUNT)
        ended = agent.stop()
    truth = judge(ended.spans, pids, below)
    by_http1 = tuple(one for one in truth.calls if "url.full" in one.call.attributes)
    by_grpc = tuple(one for one in truth.calls if one not in by_http1)
    return Found(case, replace(truth, calls=by_grpc), replace(truth, calls=by_http1), ended)


def ensure_case(case: Case) -> None:
    """Builds what it needs. Quick when done."""
    ensure_grpc_by(case.name)
    ensure_called_server()
    if case.name in FRONTS:
        ensure_python_peers()
    if case.name == "envoy":
        ensure_envoy()


def kept() -> dict[str, list[list[str]]]:
    """The rows of every case that was played, by the case."""
    found: dict[str, list[list[str]]] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    return found


def keep(found: Found) -> None:
    """Beside what was found before."""
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(json.dumps({**kept(), str(found.case): list(found.rows())}, indent=1))


def rows() -> list[list[str]]:
    """Of all that was kept, in the order of CASES."""
    found = kept()
    return [row for case in CASES for row in found.get(str(case), [])]


COLUMNS = ["who calls", "at once", "by", "right", "wrong", "none", "by which rule"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"all that was kept, into {PAGE.name}")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="such as grpc-js-8")
    arguments = parser.parse_args()
    for case in CASES:
        if arguments.cases and str(case) not in arguments.cases:
            continue
        ensure_case(case)
        found = play(case)
        keep(found)
        print(table(COLUMNS, found.rows()), found.ended.losses, flush=True)
    if arguments.write:
        PAGE.write_text(replaced(PAGE.read_text(), "parents", table(COLUMNS, rows())))


if __name__ == "__main__":
    main()
