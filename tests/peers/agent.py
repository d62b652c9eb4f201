"""The real agent, started beside real programs: its spans as simple objects.

with started_agent(pids=[server.pid, client.pid]) as agent:
    ...                                  # drive requests
    agent.wait_for(lambda spans: len(spans) >= 2 * count)
    spans = agent.stop().spans           # SIGINT, then everything that it wrote
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .processes import LOGS, ROOT, ProgramError

WAGGLE = ROOT / ".venv" / "bin" / "waggle"
# Bounds, for a machine under load; nothing waits longer than it must.
READY_WITHIN_S = 120.0
STOPPED_WITHIN_S = 60.0
SEEN_WITHIN_S = 60.0
_POLL_S = 0.05
_KINDS = {1: "internal", 2: "server", 3: "client"}
_NUMBER = re.compile(r"/(\d+)$")


@dataclass(frozen=True, slots=True)
class SeenSpan:
    """One span as the agent wrote it. Ids are in hex, "" is no parent; times are Unix ns."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any]
    is_error: bool
    flags: int
    resource: Mapping[str, Any]
    events: tuple[tuple[str, Mapping[str, Any]], ...] = ()  # names and attributes
    event_ns: tuple[int, ...] = ()  # and when they were

    @property
    def service(self) -> str:
        return str(self.resource["service.name"])

    @property
    def pid(self) -> int:
        return int(self.resource["process.pid"])

    @property
    def link(self) -> str | None:
        """The evidence for the parent."""
        value = self.attributes.get("waggle.link.method")
        return None if value is None else str(value)

    @property
    def path(self) -> str:
        """Path of the URL, whichever side this is."""
        if self.kind == "client":
            return urlsplit(str(self.attributes["url.full"])).path
        return str(self.attributes["url.path"])

    @property
    def number(self) -> int | None:
        """The truth that is in the URL: the number at the end of its path. Of a gRPC call that is
        in the size of its messages: call n sends n bytes in each."""
        if messages := self.attributes.get("waggle.grpc.request.messages"):
            size, rest = divmod(self.attributes["waggle.grpc.request.bytes"], messages)
            return None if rest else int(size)
        if not {"url.path", "url.full"} & self.attributes.keys():
            return None
        found = _NUMBER.search(self.path)
        return int(found.group(1)) if found else None


@dataclass(frozen=True, slots=True)
class SeenLog:
    """One log record as the agent wrote it. Ids are in hex, "" where there are none."""

    body: str
    trace_id: str
    span_id: str
    severity: int
    severity_text: str
    time_ns: int
    observed_ns: int
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """What a run came to."""

    code: int
    spans: list[SeenSpan]
    stderr: str

    @property
    def losses(self) -> list[str]:
        """The lines of the summary's field `lost`; ["nothing"] when there are none."""
        found = re.search(r"^  lost +(.*(?:\n {13}.*)*)", self.stderr, re.MULTILINE)
        assert found, f"no summary in {self.stderr!r}"
        return [line.strip() for line in found.group(1).splitlines()]

    def count_lost(self, reason: str) -> int:
        """How many the summary says were lost for this reason."""
        for loss in self.losses:
            if found := re.match(rf"([\d,]+) {reason}\b", loss):
                return int(found[1].replace(",", ""))
        return 0

    @property
    def lost(self) -> list[str]:
        """The same without what costs no span: a program that a CPU had not finished when it came
        again may have missed nothing that counts, and on a busy machine that happens; of
        encrypted connections that many at once begin, not each is told how; and on a UNIX socket
        a request may be answered before its sender's program ran."""
        harmless = re.compile(r"nothing$|.* (programs_busy|handshake_rate|handoff_too_late)\b")
        return [loss for loss in self.losses if not harmless.match(loss)]


class Agent:
    """A running `waggle run`. Its files are kept with the logs of the programs."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        stdout: Path,
        stderr: Path,
    ) -> None:
        self.process = process
        self.pid = process.pid
        self.stdout = stdout
        self._stderr = stderr
        self._reader = _SpanReader(stdout)

    def error(self, what: str) -> ProgramError:
        return ProgramError(f"waggle (pid {self.pid}) {what}; it wrote:\n{self.stderr()}")

    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")

    def spans(self) -> list[SeenSpan]:
        """The spans that are on its stdout so far."""
        return self._reader.read()

    def forget(self, is_over: Callable[[SeenSpan], bool]) -> None:
        """Drops spans that nobody will ask for again: neither spans() nor stop() gives them."""
        self._reader.forget(is_over)

    def wait_for(
        self, is_enough: Callable[[list[SeenSpan]], bool], timeout_s: float = SEEN_WITHIN_S
    ) -> list[SeenSpan]:
        """The spans, once they satisfy `is_enough`. Raises ProgramError when the time is up."""
        deadline = time.monotonic() + timeout_s
        while not is_enough(self.spans()):
            if time.monotonic() > deadline:
                raise self.error(f"wrote only {len(self.spans())} spans in {timeout_s:g} s")
            if self.process.poll() is not None:
                self._reader.read()
                if is_enough(self.spans()):
                    break
                raise self.error(f"ended with {self.process.returncode}")
            time.sleep(_POLL_S)
        return self.spans()

    def logs(self) -> list[SeenLog]:
        """The log records that are on its stdout so far."""
        return parse_logs(self.stdout.read_bytes())

    def wait_for_logs(
        self, is_enough: Callable[[list[SeenLog]], bool], timeout_s: float = SEEN_WITHIN_S
    ) -> list[SeenLog]:
        """The log records, once they satisfy `is_enough`. Raises ProgramError in time."""
        deadline = time.monotonic() + timeout_s
        while not is_enough(found := self.logs()):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise self.error(f"wrote only {len(found)} log records in {timeout_s:g} s")
            time.sleep(_POLL_S)
        return found

    def wait_for_stderr(self, words: str, timeout_s: float = SEEN_WITHIN_S) -> str:
        """What it said, once that contains `words`."""
        deadline = time.monotonic() + timeout_s
        while words not in (said := self.stderr()):
            if time.monotonic() > deadline:
                raise self.error(f"did not say {words!r} in {timeout_s:g} s")
            time.sleep(_POLL_S)
        return said

    def wait_for_stdout(self, words: str, timeout_s: float = SEEN_WITHIN_S) -> None:
        """Returns when `words` is on its stdout."""
        deadline = time.monotonic() + timeout_s
        while words.encode() not in self.stdout.read_bytes():
            if time.monotonic() > deadline:
                raise self.error(f"did not print {words!r} in {timeout_s:g} s")
            time.sleep(_POLL_S)

    def settle(self, count: int, timeout_s: float = 20, pids: Collection[int] = ()) -> None:
        """Gives `count` spans the time to arrive, of these processes if any are given. Fewer are
        no error here: the test that follows tells which are missing."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if sum(not pids or span.pid in pids for span in self.spans()) >= count:
                return
            time.sleep(_POLL_S)

    def stop(self) -> Ended:
        """Ends it as Ctrl-C does, and gives all that it wrote."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self, timeout_s: float = STOPPED_WITHIN_S) -> Ended:
        """What it wrote, once it has ended by itself. Raises ProgramError when it does not."""
        return Ended(self.wait_for_end(timeout_s), self.spans(), self.stderr())

    def wait_for_end(self, timeout_s: float = STOPPED_WITHIN_S) -> int:
        """The exit code, for a run whose stdout is no JSON."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise self.error(f"had not ended after {timeout_s:g} s") from None

    def kill(self) -> None:
        """SIGKILL: no chance to clean up."""
        self.process.kill()
        self.process.wait()


@dataclass(slots=True)
class _SpanReader:
    """Reads the complete lines of a file that grows."""

    path: Path
    _at: int = 0
    _spans: list[SeenSpan] = field(default_factory=list)

    def read(self) -> list[SeenSpan]:
        with self.path.open("rb") as file:
            file.seek(self._at)
            some = file.read()
        whole = some[: some.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.splitlines():
            self._spans += parse_line(line)
        return list(self._spans)

    def forget(self, is_over: Callable[[SeenSpan], bool]) -> None:
        self._spans = [span for span in self._spans if not is_over(span)]


def parse_line(line: bytes | str) -> list[SeenSpan]:
    """The spans of one TracesData in OTLP's JSON; none of what is no TracesData."""
    return [
        _parse_span(span, resource)
        for group in json.loads(line).get("resourceSpans", [])
        for resource in [_parse_attributes(group["resource"].get("attributes", []))]
        for scope in group["scopeSpans"]
        for span in scope["spans"]
    ]


def _parse_span(span: dict[str, Any], resource: dict[str, Any]) -> SeenSpan:
    return SeenSpan(
        trace_id=span["traceId"],
        span_id=span["spanId"],
        parent_id=span.get("parentSpanId", ""),
        name=span["name"],
        kind=_KINDS[span["kind"]],
        start_ns=int(span["startTimeUnixNano"]),
        end_ns=int(span["endTimeUnixNano"]),
        attributes=_parse_attributes(span.get("attributes", [])),
        is_error=span.get("status", {}).get("code", 0) == 2,
        flags=span.get("flags", 0),
        resource=resource,
        events=tuple(
            (event["name"], _parse_attributes(event.get("attributes", [])))
            for event in span.get("events", [])
        ),
        event_ns=tuple(int(event["timeUnixNano"]) for event in span.get("events", [])),
    )


def parse_logs(text: bytes) -> list[SeenLog]:
    """The log records among whole lines of OTLP's JSON."""
    return [
        SeenLog(
            body=record["body"]["stringValue"],
            trace_id=record.get("traceId", ""),
            span_id=record.get("spanId", ""),
            severity=record.get("severityNumber", 0),
            severity_text=record.get("severityText", ""),
            time_ns=int(record["timeUnixNano"]),
            observed_ns=int(record["observedTimeUnixNano"]),
            attributes=_parse_attributes(record.get("attributes", [])),
            resource=resource,
        )
        for line in text[: text.rfind(b"\n") + 1].splitlines()
        if line.startswith(b'{"resourceLogs"')
        for group in json.loads(line)["resourceLogs"]
        for resource in [_parse_attributes(group["resource"].get("attributes", []))]
        for scope in group["scopeLogs"]
        for record in scope["logRecords"]
    ]


def _parse_attributes(pairs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {pair["key"]: _parse_value(pair["value"]) for pair in pairs}


def _parse_value(value: dict[str, Any]) -> Any:
    ((kind, content),) = value.items()
    if kind == "intValue":
        return int(content)
    if kind == "arrayValue":
        return [_parse_value(one) for one in content.get("values", [])]
    return content


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours without what would direct the agent elsewhere, and with `changes`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "WAGGLE_"))
    }
    return {**kept, **(changes or {})}


@contextmanager
def started_agent(
    *flags: str | Path,
    pids: Sequence[int] = (),
    command: Sequence[str | Path] = (),
    env: Mapping[str, str] | None = None,
    json_lines: bool = True,
    before: Sequence[str | Path] = (),
    program: Sequence[str | Path] = (WAGGLE,),
) -> Iterator[Agent]:
    """`waggle run` with these flags, once it says that it is ready; ended on leaving.

    command: what it is to start and trace. before: a program that becomes the agent (setpriv).
    Raises ProgramError when it does not get ready.
    """
    arguments = [*before, *program, "run", *(["--json"] if json_lines else []), *flags]
    arguments += [f"--pid={pid}" for pid in pids]
    after = ["--", *command] if command else []
    with started_as(lambda ready: [*arguments, f"--ready-fd={ready}", *after], env) as agent:
        yield agent


@contextmanager
def started_as(
    command: Callable[[int], Sequence[str | Path]],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[Agent]:
    """The agent by a command of the caller's, which is given the descriptor for --ready-fd."""
    ready, write = os.pipe()
    LOGS.mkdir(parents=True, exist_ok=True)
    name = f"waggle-{os.getpid()}-{time.monotonic_ns()}"
    stdout, stderr = LOGS / f"{name}.jsonl", LOGS / f"{name}.log"
    try:
        with stdout.open("wb") as out, stderr.open("wb") as err:
            process = subprocess.Popen(
                [str(part) for part in command(write)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment(env),
                cwd=cwd,
                pass_fds=[write],
            )
    finally:
        os.close(write)
    agent = Agent(process, stdout, stderr)
    try:
        _wait_until_ready(agent, ready)
        yield agent
    finally:
        os.close(ready)
        _end(process)


def _wait_until_ready(agent: Agent, ready: int) -> None:
    """Reads the byte, or the end of the pipe when the agent ends without it."""
    os.set_blocking(ready, False)
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        try:
            said = os.read(ready, 1)
        except BlockingIOError:
            time.sleep(_POLL_S / 5)
            continue
        if said:
            return
        raise agent.error(f"ended with {agent.process.wait()} before it was ready")
    raise agent.error(f"was not ready after {READY_WITHIN_S:g} s")


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def unix_ns(monotonic_ns: int) -> int:
    """A moment of CLOCK_MONOTONIC as Unix time, by the clocks' distance now."""
    distances = []
    for _ in range(20):
        before, unix, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        distances.append((after - before, unix - (before + after) // 2))
    # Where nobody came between, the two readings around are nearest to each other.
    return monotonic_ns + min(distances)[1]
