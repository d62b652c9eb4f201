"""Trace three programs with the agent under the kernel that runs this, and judge its spans.

    .venv/bin/python -m tests.vm.guest_check [--may-refuse] [--capture HOW ...]

Every request says in its path which it is (services.py), so the truth is known: each span
once, of the right kind, its parent right and the evidence named. Every flavour that the
kernel offers is tried on processes and connections older than the agent (--pid), and
`auto` on a command that the agent starts itself.

Exit code 0: no problem found. A flavour may refuse only when the kernel lacks what it
needs, or with --may-refuse; and then with exit code 4 and its reason.
"""

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from . import services
from .services import REQUESTS, TRANSPORTS

WAGGLE = str(Path(sys.executable).with_name("waggle"))
UNSUPPORTED = 4
# Emulated, the agent's imports alone take half a minute.
READY_LIMIT_S = 420.0
DRIVE_LIMIT_S = 240.0
STOP_LIMIT_S = 60.0

SERVER, CLIENT = 2, 3  # enum SpanKind of OTLP


@dataclass(frozen=True, slots=True)
class Seen:
    """One span as the agent exported it."""

    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    path: str
    status: int
    link: str
    duration_ns: int

    @property
    def key(self) -> tuple[int, str]:
        return self.kind, self.path


@dataclass(slots=True)
class Verdict:
    """What one flavour did. problems: empty when all is as it must be.

    said: the end of the agent's stderr, its summary with what was lost.
    """

    capture: str
    ready_s: float | None = None
    spans: int = 0
    edges: dict[str, int] = field(default_factory=dict)
    refused: str = ""
    said: str = ""
    problems: list[str] = field(default_factory=list)


# -- What the agent wrote ------------------------------------------------------------------


def read_spans(lines: Sequence[str]) -> list[Seen]:
    """The HTTP spans in OTLP JSON lines. Raises ValueError on what is not such a line."""
    found = []
    for line in lines:
        for resource in json.loads(line)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                found += [_seen(span) for span in scope["spans"]]
    return found


def _seen(span: dict[str, Any]) -> Seen:
    attributes = {item["key"]: next(iter(item["value"].values())) for item in span["attributes"]}
    target = attributes.get("url.path") or urlsplit(attributes.get("url.full", "")).path
    return Seen(
        trace_id=span["traceId"],
        span_id=span["spanId"],
        parent_id=span.get("parentSpanId", ""),
        kind=int(span["kind"]),
        path=str(target),
        status=int(attributes.get("http.response.status_code", 0)),
        link=str(attributes.get("waggle.link.method", "")),
        duration_ns=int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"]),
    )


# -- What is true --------------------------------------------------------------------------


def expected_spans() -> dict[tuple[int, str], int]:
    """(kind, path) -> status, of every request after the warm-up."""
    truth = {}
    for transport in TRANSPORTS:
        for number in range(1, REQUESTS + 1):
            fails = number == services.FAILING
            for role, failure in (("front", 502), ("back", 503)):
                for kind in (SERVER, CLIENT):
                    truth[kind, f"/{role}/{transport}/{number}"] = failure if fails else 200
    return truth


def expected_parent(key: tuple[int, str]) -> tuple[tuple[int, str] | None, str]:
    """The parent's key and the evidence of the edge; (None, "") at the root."""
    kind, path = key
    if kind == SERVER:
        return (CLIENT, path), "socket"
    if path.startswith("/back/"):
        return (SERVER, path.replace("/back/", "/front/")), "thread"
    return None, ""


def problems_of(spans: Sequence[Seen], *, warm_allowed: bool) -> list[str]:
    """Everything that is wrong, a line each."""
    ours = [span for span in spans if not (warm_allowed and span.path.startswith("/warm/"))]
    truth = expected_spans()
    times = Counter(span.key for span in ours)
    problems = [f"missing: {_name(key)}" for key in truth if not times[key]]
    problems += [f"{times[key]} times: {_name(key)}" for key in times if times[key] > 1]
    problems += [f"never happened: {_name(key)}" for key in times if key not in truth]
    by_key = {span.key: span for span in ours if span.key in truth}
    for key, span in by_key.items():
        if span.status != truth[key]:
            problems.append(f"status {span.status} instead of {truth[key]}: {_name(key)}")
        if not 0 < span.duration_ns < DRIVE_LIMIT_S * 1e9:
            problems.append(f"duration of {span.duration_ns} ns: {_name(key)}")
        problems += _edge_problems(span, by_key)
    return problems


def _edge_problems(span: Seen, by_key: dict[tuple[int, str], Seen]) -> list[str]:
    parent_key, evidence = expected_parent(span.key)
    if parent_key is None:
        return [f"a parent by {span.link}: {_name(span.key)}"] if span.parent_id else []
    parent = by_key.get(parent_key)
    if parent is None:
        return []  # said already
    if not span.parent_id:
        return [f"no parent: {_name(span.key)}"]
    if span.parent_id != parent.span_id or span.trace_id != parent.trace_id:
        return [f"wrong parent by {span.link}: {_name(span.key)}"]
    if span.link != evidence:
        return [f"parent by {span.link!r} instead of {evidence}: {_name(span.key)}"]
    return []


def _name(key: tuple[int, str]) -> str:
    kind, path = key
    return f"{'server' if kind == SERVER else 'client'} {path}"


# -- Running the agent ---------------------------------------------------------------------


@dataclass(slots=True)
class Agent:
    """The agent as a process, its stdout and stderr in files."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path
    ready: int

    def wait_ready(self) -> float | None:
        """Seconds until it said so, or None when it ended instead. Raises TimeoutError."""
        began = time.monotonic()
        with _alarm(READY_LIMIT_S, "the agent is not ready"):
            # The agent's end of the pipe closes when it ends: then nothing is read.
            byte = os.read(self.ready, 1)
        return time.monotonic() - began if byte else None

    def wait(self, limit_s: float) -> int:
        return self.process.wait(timeout=limit_s)

    def said(self) -> str:
        return self.err.read_text(errors="replace").strip()


@contextmanager
def agent(folder: Path, *arguments: str) -> Iterator[Agent]:
    """`waggle run --json` with arguments; killed at the end if it has not ended."""
    ready, write_end = os.pipe()
    out, err = folder / "spans.jsonl", folder / "agent.err"
    command = [WAGGLE, "run", "--json", "--ready-fd", str(write_end), *arguments]
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, pass_fds=[write_end])
    os.close(write_end)
    try:
        yield Agent(process, out, err, ready)
    finally:
        process.kill()
        process.wait()
        os.close(ready)


@contextmanager
def _alarm(limit_s: float, what: str) -> Iterator[None]:
    """Raises TimeoutError in the block when it takes longer than limit_s."""

    def on_alarm(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"{what} after {limit_s:.0f} s")

    previous = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def trace_running(capture: str, folder: Path) -> Verdict:
    """By --pid, processes and connections being older than the agent."""
    verdict = Verdict(capture)
    with ExitStack() as stack:
        started = [
            stack.enter_context(services.started(role, folder))
            for role in ("back", "front", "driver")
        ]
        pids = [word for process in started for word in ("--pid", str(process.pid))]
        running = stack.enter_context(agent(folder, "--capture", capture, *pids))
        verdict.ready_s = running.wait_ready()
        if verdict.ready_s is None:
            return _judge_refusal(verdict, running)
        _drive(started[-1])
        running.process.send_signal(signal.SIGINT)
        return _judge(verdict, running, warm_allowed=False)


def _drive(driver: "subprocess.Popen[str]") -> None:
    assert driver.stdin is not None
    assert driver.stdout is not None
    with _alarm(DRIVE_LIMIT_S, "the requests are not done"):
        driver.stdin.write("go\n")
        driver.stdin.flush()
        line = driver.stdout.readline()
    if line != "done\n":
        raise RuntimeError(f"the driver failed: it said {line!r}")


def trace_command(capture: str, folder: Path) -> Verdict:
    """A command that the agent starts, whose children and new connections are traced."""
    verdict = Verdict(f"{capture} -- command")
    command = [sys.executable, services.__file__, "all", str(folder)]
    with agent(folder, "--capture", capture, "--", *command) as running:
        verdict.ready_s = running.wait_ready()
        if verdict.ready_s is None:
            return _judge_refusal(verdict, running)
        return _judge(verdict, running, warm_allowed=True)


def _judge(verdict: Verdict, running: Agent, *, warm_allowed: bool) -> Verdict:
    code = running.wait(DRIVE_LIMIT_S + STOP_LIMIT_S)
    if code != 0:
        verdict.problems.append(f"exit code {code}: {running.said()[-2000:]}")
    spans = read_spans(running.out.read_text().splitlines())
    verdict.spans = len(spans)
    verdict.edges = dict(Counter(span.link for span in spans if span.parent_id))
    verdict.problems += problems_of(spans, warm_allowed=warm_allowed)
    verdict.said = running.said()[-2000:]
    return verdict


def _judge_refusal(verdict: Verdict, running: Agent) -> Verdict:
    """A refusal is in order with its exit code and one error that says why."""
    code = running.wait(STOP_LIMIT_S)
    verdict.refused = running.said()
    if code != UNSUPPORTED:
        verdict.problems.append(f"exit code {code} instead of 4 or ready: {verdict.refused}")
    errors = [line for line in verdict.refused.splitlines() if "error:" in line]
    if not errors or "Traceback" in verdict.refused:
        verdict.problems.append(f"refused without saying why: {verdict.refused!r}")
    return verdict


# -- What must work here -------------------------------------------------------------------


def required_flavours() -> set[str]:
    """The flavours whose every hook attaches here, found without the agent's own programs."""
    from waggle import features
    from waggle.libbpf import KernelTypes

    from .features import FUNCTIONS

    required = {"syscall"} if features.raw_tracepoint() else set()
    with KernelTypes() as types:
        if all(features.typed_tracepoint(name, types) for name in features.SOCKET_HOOKS):
            required.add("socket")
        if all(features.function_entry(name, types) for name in FUNCTIONS):
            required.add("probe")
    if required:
        required.add("auto")
    return required


def unseen_at_first(capture: str) -> set[str]:
    """What cannot be seen by this flavour here: a thread that already waited in a read when
    fexit was attached returns from it unseen. Where there are tracepoints, those see it."""
    from waggle import features

    if capture != "probe" or features.typed_tracepoint("sock_recv_length"):
        return set()
    return {
        f"missing: {_name((SERVER, f'/{role}/{transport}/1'))}"
        for role in ("front", "back")
        for transport in TRANSPORTS
    }


def less_preempted(capture: str, problems: list[str], said: str) -> list[str]:
    """The problems, without spans that are missing and were counted where the kernel lets
    programs of system calls be preempted before they can forbid it (docs/limitations.md). There
    the flavour `socket` is chosen, which does not have this."""
    from waggle import features

    if capture != "syscall" or not all(map(features.typed_tracepoint, features.SOCKET_HOOKS)):
        return problems
    busy = re.search(r"(\d+) programs_busy", said)
    missing = [problem for problem in problems if problem.startswith("missing: ")]
    # A run that was missed is a call's: it may have cost the span of a connection's each end.
    counted = 2 * int(busy[1]) if busy else 0
    return [] if len(missing) == len(problems) <= counted else problems


def check(capture: str, required: set[str], *, may_refuse: bool) -> list[Verdict]:
    """The verdicts on one flavour; `auto` is given a command to start instead of --pid."""
    trace = trace_command if capture == "auto" else trace_running
    with tempfile.TemporaryDirectory(prefix="waggle-check-") as folder:
        try:
            verdict = trace(capture, Path(folder))
        except (TimeoutError, subprocess.TimeoutExpired, RuntimeError, ValueError) as error:
            said = (
                Path(folder, "agent.err").read_text() if Path(folder, "agent.err").exists() else ""
            )
            verdict = Verdict(capture, problems=[f"{error}; the agent said: {said[-2000:]}"])
    excused = unseen_at_first(capture)
    verdict.problems = [problem for problem in verdict.problems if problem not in excused]
    verdict.problems = less_preempted(capture, verdict.problems, verdict.said)
    if verdict.refused and capture in required and not may_refuse:
        verdict.problems.append("refused, though the kernel has every hook it needs")
    if not verdict.refused and capture not in required and not verdict.problems:
        verdict.problems.append("works, though a hook it needs does not attach here")
    return [verdict]


def waggle_check() -> str:
    """What `waggle check` says of this kernel."""
    done = subprocess.run([WAGGLE, "check"], capture_output=True, text=True, check=False)
    return f"{done.stdout}{done.stderr}(exit code {done.returncode})"


def mount_missing() -> None:
    """bpffs and tracefs, which not every init mounts; harmless when they are there."""
    mounts = {line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()}
    for kind, target in (("bpf", "/sys/fs/bpf"), ("tracefs", "/sys/kernel/tracing")):
        if target not in mounts:
            subprocess.run(["mount", "-t", kind, kind, target], check=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--capture", action="append", help="only this flavour; repeatable")
    parser.add_argument("--may-refuse", action="store_true")
    chosen = parser.parse_args()
    mount_missing()
    print(f"kernel {platform.release()}\n{waggle_check()}", flush=True)
    required = required_flavours()
    print(f"required here: {', '.join(sorted(required)) or 'nothing'}", flush=True)
    verdicts: list[Verdict] = []
    for capture in chosen.capture or ("auto", "socket", "probe", "syscall"):
        for verdict in check(capture, required, may_refuse=chosen.may_refuse):
            print(json.dumps(asdict(verdict), indent=1), flush=True)
            verdicts.append(verdict)
    report = {
        "release": platform.release(),
        "required": sorted(required),
        "verdicts": [asdict(verdict) for verdict in verdicts],
    }
    folder = os.environ.get("VM_OUT")
    if folder:
        (Path(folder) / "check.json").write_text(json.dumps(report, indent=1))
    return 1 if any(verdict.problems for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
