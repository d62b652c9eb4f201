"""What the Python client programs share: arguments, workers, the gate, the check of an answer."""

import argparse
import itertools
import os
import ssl
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

# Connections stay open while a test waits for something else.
IDLE_S = 600
# The one certificate to trust, where servers speak TLS.
CERTIFICATE = os.environ.get("PEER_CERTIFICATE")


def trusted() -> ssl.SSLContext:
    """Takes that certificate, or those that everybody takes."""
    return ssl.create_default_context(cafile=CERTIFICATE)


@dataclass(frozen=True)
class Job:
    """What to request: COUNT numbers from `first` on, each once."""

    base: str
    count: int
    concurrency: int
    first: int
    gate: int | None
    close: bool
    unix: str | None
    path: str
    traceparent: bool

    def url(self, n: int) -> str:
        return self.base + self.path.replace("{}", str(n))

    def headers(self, n: int) -> dict[str, str]:
        """Headers of request n. The ids of a traceparent are made from the number."""
        headers = {"Connection": "close"} if self.close else {}
        if self.traceparent:
            headers["traceparent"] = f"00-7ace{n:028x}-5fa0{n:012x}-01"
        return headers

    def phases(self) -> Iterator[range]:
        """The numbers, in one range, or in two with the gate between them."""
        end = self.first + self.count
        if self.gate is None:
            yield range(self.first, end)
            return
        yield range(self.first, self.first + self.gate)
        _pass_gate()
        yield range(self.first + self.gate, end)


def parse(description: str | None) -> Job:
    """URL_BASE COUNT CONCURRENCY and the switches every client has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("base", metavar="URL_BASE")
    parser.add_argument("count", type=int)
    parser.add_argument("concurrency", type=int)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--mode", choices=["keepalive", "close"], default="keepalive")
    parser.add_argument("--unix", help="path of a UNIX socket to connect to")
    parser.add_argument("--path", default="/n/{}", help="path and query; {} is the number")
    parser.add_argument("--traceparent", action="store_true", help="send one made from the number")
    parser.add_argument(
        "--gate", type=int, help="after so many requests print `gate` and wait for a line on stdin"
    )
    given = parser.parse_args()
    return Job(
        base=given.base,
        count=given.count,
        concurrency=given.concurrency,
        first=given.first,
        gate=given.gate,
        close=given.mode == "close",
        unix=given.unix,
        path=given.path,
        traceparent=given.traceparent,
    )


def _pass_gate() -> None:
    print("gate", flush=True)
    if not sys.stdin.readline():
        raise SystemExit("the gate was never opened: stdin ended")


def check(n: int, status: int, text: str) -> None:
    """Raises ValueError unless the first word of the answer names the number."""
    if text.split(maxsplit=1)[:1] != [f"n={n}"]:
        raise ValueError(f"request {n}: answer {status} is not its own: {text[:80]!r}")


Fetch = Callable[[int], None]


def run_threads(job: Job, make_fetch: Callable[[], Fetch]) -> None:
    """Runs the job on `concurrency` threads. Each makes its own `fetch` once, hence keeps its
    own connections, also across the gate."""
    fetches = [make_fetch() for _ in range(job.concurrency)]
    for numbers in job.phases():
        _run_phase(numbers, fetches)


def _run_phase(numbers: Iterable[int], fetches: list[Fetch]) -> None:
    source = itertools.chain(numbers)
    lock = threading.Lock()
    failures: list[BaseException] = []

    def work(fetch: Fetch) -> None:
        while not failures:
            with lock:
                n = next(source, None)
            if n is None:
                return
            try:
                fetch(n)
            except Exception as failure:
                failures.append(failure)

    threads = [threading.Thread(target=work, args=(fetch,)) for fetch in fetches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
