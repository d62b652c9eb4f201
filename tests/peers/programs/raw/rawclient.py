"""A target program: an HTTP client of ours on plain sockets, with a switch for every way to send
and receive, and a scenario for every way to frame an exchange.

    rawclient.py URL_BASE COUNT CONCURRENCY [--first N] [--mode keepalive|close] [--unix PATH]
                 [--scenario get,head,...] [--pipeline D [--join]] [--send ...] [--receive ...]

Number n uses the scenarios in turns. It exits 0 only if every exchange went as its scenario says.
--truth FILE gets a JSON line for each exchange. Only the raw server knows all the scenarios' paths.
"""

import argparse
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import rawio
from rawio import Head, Style, Wire

_BODY = b"GET /fake/0 HTTP/1.1\r\nHost: nobody\r\n\r\n" + b"b" * 777

_ANSWER_TIMEOUT_S = 30.0
_PATIENCE_S = 0.2  # of the scenario `timeout`


@dataclass(frozen=True)
class Message:
    """A request: `fields` come after Host; `body` is appended as it stands (framed already)."""

    method: str = "GET"
    target: str = "/"
    version: str = "HTTP/1.1"
    fields: tuple[str, ...] = ()
    body: bytes = b""
    before: bytes = b""
    """Goes before the request line (some clients leave an empty line from the last body)."""


@dataclass(frozen=True)
class Scenario:
    """One way to make an exchange. `ends`: the connection cannot be used after it."""

    make: Callable[[int], Message]
    status: int = 200
    ends: bool = False
    has_body: bool = True
    """Whether an answer's body comes that begins with the number."""
    run: "Callable[[Wire, bytes], int | None] | None" = None
    """What to do instead of sending the request and reading the answer; gives the status."""


def _get(path: str, *fields: str, **settings: str) -> Callable[[int], Message]:
    def make(n: int) -> Message:
        target = path.replace("{}", str(n))
        return Message(target=target, fields=fields, **settings)  # type: ignore[arg-type]

    return make


def _post(n: int) -> Message:
    fields = (f"Content-Length: {len(_BODY)}", "Content-Type: text/plain")
    return Message("POST", f"/echo/{n}", fields=fields, body=_BODY)


def _post_chunked(n: int, *, extras: bool = False) -> Message:
    body = rawio.chunked(_BODY, (1, 2, 3, 500, 17), extras=extras)
    return Message("POST", f"/echo/{n}", fields=("Transfer-Encoding: chunked",), body=body)


def _post_empty(n: int) -> Message:
    return Message("POST", f"/echo/{n}", fields=("Content-Length: 0",))


def _expect(n: int) -> Message:
    fields = (f"Content-Length: {len(_BODY)}", "Expect: 100-continue")
    return Message("POST", f"/echo/{n}", fields=fields, body=_BODY)


def _run_expect(wire: Wire, message: bytes) -> int | None:
    """Sends the head, waits for 100, sends the body."""
    end_of_head = message.index(b"\r\n\r\n") + 4
    wire.send(message[:end_of_head])
    go_on = rawio.read_head(wire)
    if go_on is None or go_on.second != "100":
        raise ValueError(f"no 100 Continue but {go_on}")
    wire.send(message[end_of_head:])
    head = rawio.read_head(wire)
    if head is None:
        return None
    rawio.read_announced_body(wire, head.fields)
    return int(head.second)


def _run_tunnel(wire: Wire, message: bytes) -> int | None:
    """Reads the answer that opens the tunnel, then says things that look like HTTP in it."""
    wire.send(message)
    head = rawio.read_head(wire)
    if head is None:
        return None
    for line in (b"GET /fake/1 HTTP/1.1\n", b"HTTP/1.1 200 OK\n", b"\x00\x01binary\n"):
        wire.send(line)
        if wire.take_until(b"\n") != line:
            raise ValueError("the tunnel did not give back what went in")
    return int(head.second)


def _run_unanswered(wire: Wire, message: bytes) -> int | None:
    """Sends the request and sees the server go away without an answer."""
    wire.send(message)
    try:
        return None if rawio.read_head(wire) is None else 0
    except (ConnectionResetError, EOFError):
        return None


def _run_half(wire: Wire, message: bytes) -> int | None:
    """Sees the server go away in the middle of the body."""
    wire.send(message)
    head = rawio.read_head(wire)
    try:
        rawio.read_announced_body(wire, head.fields if head else {})
    except EOFError:
        return int(head.second) if head else None
    raise ValueError("the body came whole")


def _run_abandon(wire: Wire, message: bytes) -> int | None:
    """Sends the request and leaves without waiting for the answer."""
    wire.send(message)
    wire.sock.shutdown(socket.SHUT_RDWR)
    return None


def _run_reset(wire: Wire, message: bytes) -> int | None:
    """Sends the request and resets the connection."""
    wire.send(message)
    rawio.reset(wire.sock)
    return None


def _run_timeout(wire: Wire, message: bytes) -> int | None:
    """Sends the request, waits a while for the answer, and gives up."""
    wire.send(message)
    rawio.limit_waiting(wire.sock, _PATIENCE_S)
    try:
        rawio.read_head(wire)
    except BlockingIOError:
        return None
    raise ValueError("an answer came where none should")


def _run_babble(wire: Wire, _message: bytes) -> int | None:
    """Says something that looks like HTTP for a moment only, and leaves."""
    wire.send(b"GET well soon\nHTTP/1.1 is nice\n\x16\x03\x01\x00\x05 binary \xff\xfe\n" * 20)
    wire.sock.shutdown(socket.SHUT_WR)
    return None


NO_STATUS = -1

SCENARIOS: dict[str, Scenario] = {
    "get": Scenario(_get("/n/{}")),
    "head": Scenario(lambda n: Message("HEAD", f"/n/{n}"), has_body=False),
    "status-204": Scenario(_get("/status/204/{}"), status=204, has_body=False),
    "status-304": Scenario(_get("/status/304/{}"), status=304, has_body=False),
    "status-404": Scenario(_get("/status/404/{}"), status=404),
    "status-500": Scenario(_get("/status/500/{}"), status=500),
    "query": Scenario(_get("/n/{}?a=1&api_key=secret%20word&b=%2F")),
    "long-target": Scenario(lambda n: Message(target=f"/n/{n}?{'q' * 3000}")),
    "long-head": Scenario(lambda n: Message(target=f"/n/{n}", fields=("X-Long: " + "h" * 6000,))),
    "long-answer-head": Scenario(_get("/long-head/{}?bytes=6000")),
    "many-fields": Scenario(
        lambda n: Message(target=f"/n/{n}", fields=tuple(f"X-{i}: {i}" for i in range(90)))
    ),
    "empty-line-first": Scenario(lambda n: Message(target=f"/n/{n}", before=b"\r\n")),
    "other-method": Scenario(lambda n: Message("BREW", f"/n/{n}")),
    "put": Scenario(
        lambda n: Message("PUT", f"/echo/{n}", fields=("Content-Length: 3",), body=b"put")
    ),
    "delete": Scenario(lambda n: Message("DELETE", f"/n/{n}")),
    "options-star": Scenario(lambda n: Message("OPTIONS", "*"), has_body=False),
    "post": Scenario(_post),
    "post-empty": Scenario(_post_empty),
    "post-chunked": Scenario(_post_chunked),
    "post-chunked-extras": Scenario(lambda n: _post_chunked(n, extras=True)),
    "chunked": Scenario(_get("/chunked/{}")),
    "chunked-extras": Scenario(_get("/chunked/{}?extras=1")),
    "big": Scenario(_get("/big/{}")),
    "early": Scenario(_get("/early/{}")),
    "http10": Scenario(_get("/n/{}", version="HTTP/1.0"), ends=True),
    "http10-keepalive": Scenario(_get("/n/{}", "Connection: keep-alive", version="HTTP/1.0")),
    "answer-http10": Scenario(_get("/http10/{}"), ends=True),
    "until-close": Scenario(_get("/until-close/{}"), ends=True),
    "expect": Scenario(_expect, run=_run_expect),
    "upgrade": Scenario(
        _get("/upgrade/{}", "Connection: Upgrade", "Upgrade: waggle-test"),
        status=101,
        ends=True,
        run=_run_tunnel,
    ),
    "connect": Scenario(
        lambda n: Message("CONNECT", f"tunnel-{n}.test:443"), ends=True, run=_run_tunnel
    ),
    "unanswered-close": Scenario(_get("/close/{}"), NO_STATUS, ends=True, run=_run_unanswered),
    "unanswered-reset": Scenario(_get("/reset/{}"), NO_STATUS, ends=True, run=_run_unanswered),
    "half": Scenario(_get("/half/{}"), ends=True, run=_run_half),
    "abandon": Scenario(_get("/hang/{}"), NO_STATUS, ends=True, run=_run_abandon),
    "reset": Scenario(_get("/hang/{}"), NO_STATUS, ends=True, run=_run_reset),
    "timeout": Scenario(_get("/hang/{}"), NO_STATUS, ends=True, run=_run_timeout),
    "babble": Scenario(_get("/none/{}"), NO_STATUS, ends=True, run=_run_babble),
}
ABSOLUTE = "absolute"  # as `get`, with the whole URL as target


@dataclass(frozen=True)
class Job:
    """What the command line asks for."""

    base: str
    unix: str | None
    close: bool
    path: str
    traceparent: bool
    scenarios: Sequence[str]
    pipeline: int
    join: bool
    style: Style

    def scenario(self, n: int) -> Scenario:
        name = self.name(n)
        return Scenario(_get(self.path)) if name in ("get", ABSOLUTE) else SCENARIOS[name]

    def name(self, n: int) -> str:
        return self.scenarios[n % len(self.scenarios)]

    def message(self, n: int) -> Message:
        return self.scenario(n).make(n)

    def render(self, n: int) -> bytes:
        message = self.message(n)
        host = self.base.removeprefix("http://")
        target = self.base + message.target if self.name(n) == ABSOLUTE else message.target
        lines = [f"{message.method} {target} {message.version}", f"Host: {host}"]
        lines += ["User-Agent: waggle-raw/1", *message.fields]
        lines += ["Connection: close"] if self.close else []
        if self.traceparent:
            lines.append(f"traceparent: 00-7ace{n:028x}-5fa0{n:012x}-01")
        return message.before + "\r\n".join([*lines, "", ""]).encode() + message.body


class Worker:
    """One thread's connection and the exchanges on it."""

    def __init__(self, job: Job, truth: Callable[..., None]) -> None:
        self._job = job
        self._truth = truth
        self._wire: Wire | None = None

    def exchange(self, numbers: Sequence[int]) -> None:
        """Makes the exchanges of `numbers`, one, or several at once when pipelining."""
        wire = self._connected()
        messages = [self._job.render(n) for n in numbers]
        started_ns = time.monotonic_ns()
        special = self._job.scenario(numbers[0]).run
        if special:
            status = special(wire, messages[0])
            self._conclude(numbers[0], NO_STATUS if status is None else status, started_ns)
            return
        if self._job.join:
            wire.send(b"".join(messages))
        else:
            for message in messages:
                wire.send(message)
        for n in numbers:
            self._conclude(n, self._read(wire, n), started_ns)

    def _connected(self) -> Wire:
        if self._wire is None:
            host, port, _ = rawio.split_url(self._job.base)
            sock = rawio.connect(host, port, self._job.unix)
            rawio.limit_waiting(sock, _ANSWER_TIMEOUT_S)
            self._wire = Wire(sock, self._job.style)
        return self._wire

    def _read(self, wire: Wire, n: int) -> int:
        """Reads one answer and checks its body. Gives the status."""
        head = rawio.read_head(wire)
        while head is not None and head.second[0] == "1":
            head = rawio.read_head(wire)
        if head is None:
            raise EOFError(f"request {n} was not answered")
        scenario = self._job.scenario(n)
        body = _read_body(wire, self._job.message(n).method, head)
        if scenario.has_body and body.split(maxsplit=1)[:1] != [b"n=%d" % n]:
            raise ValueError(f"request {n}: the answer is not its own: {body[:80]!r}")
        if head.fields.get("connection", "").lower() == "close":
            self.close()
        return int(head.second)

    def _conclude(self, n: int, status: int, started_ns: int) -> None:
        job = self._job
        scenario = job.scenario(n)
        if status != scenario.status:
            raise ValueError(f"request {n}: status {status} instead of {scenario.status}")
        message = job.message(n)
        self._truth(
            n=n,
            scenario=job.name(n),
            method=message.method,
            target=message.target,
            status=None if status == NO_STATUS else status,
            started_ns=started_ns,
            ended_ns=time.monotonic_ns(),
            thread=threading.get_native_id(),
        )
        if scenario.ends or job.close:
            self.close()

    def close(self) -> None:
        if self._wire:
            self._wire.sock.close()
            self._wire = None


def _read_body(wire: Wire, method: str, head: Head) -> bytes:
    """The body of an answer: none, as announced, or all that comes."""
    if method == "HEAD" or head.second in ("204", "304"):
        return b""
    body = rawio.read_announced_body(wire, head.fields)
    return wire.take_all() if body is None else body


def _batches(numbers: range, job: Job) -> Iterator[list[int]]:
    """The numbers in groups that may be pipelined: what ends its connection closes a group."""
    group: list[int] = []
    for n in numbers:
        scenario = job.scenario(n)
        if scenario.run and group:
            yield group
            group = []
        group.append(n)
        if scenario.run or scenario.ends or len(group) == job.pipeline:
            yield group
            group = []
    if group:
        yield group


def run(job: Job, numbers: range, workers: list[Worker]) -> None:
    batches = _batches(numbers, job)
    lock = threading.Lock()
    failures: list[BaseException] = []

    def work(worker: Worker) -> None:
        while not failures:
            with lock:
                batch = next(batches, None)
            if batch is None:
                return
            try:
                worker.exchange(batch)
            except Exception as failure:
                failures.append(failure)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _parse() -> tuple[argparse.Namespace, Job]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("base", metavar="URL_BASE")
    parser.add_argument("count", type=int)
    parser.add_argument("concurrency", type=int)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--gate", type=int)
    parser.add_argument("--mode", choices=["keepalive", "close"], default="keepalive")
    parser.add_argument("--unix")
    parser.add_argument("--path", default="/n/{}")
    parser.add_argument("--traceparent", action="store_true")
    parser.add_argument("--scenario", default="get", help=f"of {', '.join(SCENARIOS)}, absolute")
    parser.add_argument("--pipeline", type=int, default=1, help="requests before their answers")
    parser.add_argument("--join", action="store_true", help="pipelined requests in one message")
    parser.add_argument("--truth", type=Path)
    Style.add_arguments(parser)
    given = parser.parse_args()
    scenarios = given.scenario.split(",") if given.scenario != "all" else [*SCENARIOS, ABSOLUTE]
    unknown = set(scenarios) - set(SCENARIOS) - {ABSOLUTE}
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    return given, Job(
        base=given.base,
        unix=given.unix,
        close=given.mode == "close",
        path=given.path,
        traceparent=given.traceparent,
        scenarios=scenarios,
        pipeline=1 if given.mode == "close" else given.pipeline,
        join=given.join,
        style=Style.from_arguments(given),
    )


def _truth_writer(path: Path | None) -> Callable[..., None]:
    if path is None:
        return lambda **_fields: None
    file = path.open("w", buffering=1)
    lock = threading.Lock()

    def tell(**fields: object) -> None:
        with lock:
            file.write(json.dumps(fields) + "\n")

    return tell


def _phases(given: argparse.Namespace) -> Iterator[range]:
    numbers = range(given.first, given.first + given.count)
    if given.gate is None:
        yield numbers
        return
    yield numbers[: given.gate]
    print("gate", flush=True)
    if not sys.stdin.readline():
        raise SystemExit("the gate was never opened: stdin ended")
    yield numbers[given.gate :]


def main() -> None:
    given, job = _parse()
    tell = _truth_writer(given.truth)
    workers = [Worker(job, tell) for _ in range(given.concurrency)]
    for numbers in _phases(given):
        run(job, numbers, workers)
    for worker in workers:
        worker.close()


if __name__ == "__main__":
    main()
