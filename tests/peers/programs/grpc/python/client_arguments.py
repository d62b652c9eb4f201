"""Arguments of the grpcio clients: HOST:PORT COUNT CONCURRENCY and switches."""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from numbers_service import traceparent


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
    metadata: list[str]

    def metadata_of(self, n: int) -> list[tuple[str, str | bytes]]:
        """What call n sends: {trace} and {span} are made from its number, -bin is in hex."""
        found: list[tuple[str, str | bytes]] = [traceparent(n)] if self.traceparent else []
        for one in self.metadata:
            name, _, value = one.partition("=")
            made = {"trace": f"7ace{n:028x}", "trace24": f"{n:024x}", "span": f"5fa0{n:012x}"}
            value = value.format_map(made)
            found.append((name, bytes.fromhex(value) if name.endswith("-bin") else value))
        return found

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
    parser.add_argument("--metadata", action="append", default=[], help="NAME=VALUE")
    given = vars(parser.parse_args())
    given["calls"] = given["calls"].split(",")
    return Job(**given)
