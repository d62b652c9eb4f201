"""Arguments of the grpcio clients: HOST:PORT COUNT CONCURRENCY and switches."""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """Which calls to make: COUNT numbers from `first` on, each once, kinds in turns."""

    target: str
    count: int
    concurrency: int
    first: int
    gate: int | None
    calls: list[str]
    timeout: float | None
    traceparent: bool

    def phases(self) -> Iterator[range]:
        """The numbers, in one range, or in two with the gate between them."""
        end = self.first + self.count
        if self.gate is None:
            yield range(self.first, end)
            return
        yield range(self.first, self.first + self.gate)
        print("gate", flush=True)
        if not sys.stdin.readline():
            raise SystemExit("the gate was never opened: stdin ended")
        yield range(self.first + self.gate, end)


def parse() -> Job:
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("count", type=int)
    parser.add_argument("concurrency", type=int)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--gate", type=int)
    parser.add_argument("--calls", default="one")
    parser.add_argument("--timeout", type=float, help="seconds")
    parser.add_argument("--traceparent", action="store_true")
    given = vars(parser.parse_args())
    given["calls"] = given["calls"].split(",")
    return Job(**given)
