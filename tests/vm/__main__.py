"""python -m tests.vm: prepare, run a command under a kernel, or print what kernels offer."""

import argparse
import signal
import sys
from collections.abc import Sequence

from . import feature_table, kernels, machine, tools
from .errors import VmError


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    # Unwind instead of dying at once: the machine is a process that must end with us.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        code: int = chosen.work(chosen)
    except VmError as error:
        print(f"tests.vm: {error}", file=sys.stderr)
        return 125
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parts = parser.add_subparsers(required=True)

    prepare = parts.add_parser("prepare", help="install the tools and fetch the kernels")
    prepare.add_argument("--kernel", action="append", choices=kernels.SUITES)
    prepare.add_argument("--refresh", action="store_true", help="ask for newer ones")
    prepare.set_defaults(work=_prepare)

    run = parts.add_parser("run", help="run a command as root under one kernel")
    run.add_argument("--kernel", required=True, choices=kernels.SUITES)
    run.add_argument("--limit", type=float, default=600, help="seconds for the command")
    run.add_argument("--memory", default="2G")
    run.add_argument("command", nargs="+", metavar="-- COMMAND")
    run.set_defaults(work=_run)

    features = parts.add_parser("features", help="what each kernel offers, as a table")
    features.add_argument("--kernel", action="append", choices=kernels.SUITES)
    features.add_argument("--write", action="store_true", help="into docs/kernels.md")
    features.set_defaults(work=_features)
    return parser


def _prepare(chosen: argparse.Namespace) -> int:
    tools.prepare()
    for suite in chosen.kernel or kernels.SUITES:
        kernel = kernels.fetch(suite, refresh=chosen.refresh)
        print(f"{suite}: {kernel.package}", file=sys.stderr)
    return 0


def _run(chosen: argparse.Namespace) -> int:
    tools.prepare()
    kernel = kernels.fetch(chosen.kernel)
    outcome = machine.run(
        kernel,
        chosen.command,
        limit_s=chosen.limit,
        memory=chosen.memory,
        echo=lambda line: print(line, end="", flush=True),
    )
    timing = f"booted in {outcome.boot_s:.0f} s, {outcome.total_s:.0f} s in all"
    print(f"{kernel.release}: exit {outcome.exit_code}, {timing}", file=sys.stderr)
    return outcome.exit_code


def _features(chosen: argparse.Namespace) -> int:
    tools.prepare()
    seen = [feature_table.see(kernels.fetch(suite)) for suite in chosen.kernel or kernels.SUITES]
    table = feature_table.markdown(seen)
    print(table)
    if chosen.write:
        feature_table.write(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
