"""python -m tests.bench [NAME...]: what Waggle costs, side by side with going without it."""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence

from tests.peers.processes import ProgramError
from tests.peers.toolchain import ensure_python_peers

from . import (
    agent_cost,
    exporter_cost,
    go_cost,
    go_growth,
    grpc_cost,
    inject_cost,
    measure,
    metrics_cost,
    option_cost,
    programs_cost,
    python_cost,
    report,
    sampling_cost,
    servers,
    startup,
    targets,
    tls_cost,
    untraced,
)
from .load import LoadError
from .report import Table

Bench = Callable[[argparse.Namespace], Sequence[Table]]


def _go(chosen: argparse.Namespace) -> Sequence[Table]:
    title = "Go net/http, wrk with 64 connections at full load"
    size = {"connections": 64, "seconds": chosen.seconds or 3, "rounds": chosen.rounds or 3}
    return [servers.bench("go", title, targets.go_server(), **size)]


def _flask(chosen: argparse.Namespace) -> Sequence[Table]:
    ensure_python_peers()
    title = "Flask under gunicorn (gthread, 4 threads), wrk with 8 connections at full load"
    size = {"connections": 8, "seconds": chosen.seconds or 3, "rounds": chosen.rounds or 3}
    return [servers.bench("flask", title, targets.flask_server(), **size)]


def _python(chosen: argparse.Namespace) -> Sequence[Table]:
    return python_cost.bench(chosen.seconds or 3, chosen.rounds or 3)


def _gosdk(chosen: argparse.Namespace) -> Sequence[Table]:
    return [go_cost.bench(chosen.seconds or 3, chosen.rounds or 3)]


def _gogrowth(chosen: argparse.Namespace) -> Sequence[Table]:
    return [go_growth.bench(chosen.seconds or 4, chosen.rounds or 3)]


def _grpc(chosen: argparse.Namespace) -> Sequence[Table]:
    return [grpc_cost.bench(chosen.seconds or 3, chosen.rounds or 3)]


def _untraced(chosen: argparse.Namespace) -> Sequence[Table]:
    return [untraced.bench(chosen.rounds or 5)]


def _agent(chosen: argparse.Namespace) -> Sequence[Table]:
    seconds = 600 if chosen.long else chosen.seconds or 20
    return agent_cost.bench(seconds, 1 if chosen.long else chosen.rounds or 2)


def _metrics(chosen: argparse.Namespace) -> Sequence[Table]:
    return metrics_cost.bench(chosen.seconds or 24, chosen.rounds or 4)


def _start(chosen: argparse.Namespace) -> Sequence[Table]:
    return [startup.bench(chosen.rounds or 5)]


def _bpf(chosen: argparse.Namespace) -> Sequence[Table]:
    return [programs_cost.bench(chosen.seconds or 4)]


def _exporter(chosen: argparse.Namespace) -> Sequence[Table]:
    return [exporter_cost.bench(chosen.rounds or 3)]


def _sampling(chosen: argparse.Namespace) -> Sequence[Table]:
    return [sampling_cost.bench(chosen.seconds or 3, chosen.rounds or 3)]


def _inject(chosen: argparse.Namespace) -> Sequence[Table]:
    return [inject_cost.bench(chosen.seconds or 3, chosen.rounds or 5)]


def _option(chosen: argparse.Namespace) -> Sequence[Table]:
    return [option_cost.bench(chosen.rounds or 5)]


def _tls(chosen: argparse.Namespace) -> Sequence[Table]:
    return [tls_cost.bench(chosen.seconds or 3, chosen.rounds or 5)]


BENCHES: dict[str, Bench] = {
    "go": _go,
    "flask": _flask,
    "python": _python,
    "grpc": _grpc,
    "gosdk": _gosdk,
    "gogrowth": _gogrowth,
    "untraced": _untraced,
    "agent": _agent,
    "metrics": _metrics,
    "start": _start,
    "bpf": _bpf,
    "exporter": _exporter,
    "sampling": _sampling,
    "inject": _inject,
    "option": _option,
    "tls": _tls,
}


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    names = chosen.names or list(BENCHES)
    if unknown := set(names) - BENCHES.keys():
        print(
            f"tests.bench: no {', '.join(unknown)}; there is {', '.join(BENCHES)}", file=sys.stderr
        )
        return 2
    # Unwind instead of dying at once: servers and agents are processes that must end with us.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    print(f"Machine: {measure.machine()}.\n", flush=True)
    try:
        for name in names:
            tables = BENCHES[name](chosen)
            print("\n".join(table.markdown() for table in tables), flush=True)
            if chosen.write:
                report.write(tables)
    except (ProgramError, LoadError) as error:
        print(f"tests.bench: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--seconds", type=float, help="of load in each run")
    parser.add_argument("--rounds", type=int, help="how often each arm is run")
    parser.add_argument("--long", action="store_true", help="agent: ten minutes, for its memory")
    parser.add_argument("--write", action="store_true", help="put the tables into the docs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
