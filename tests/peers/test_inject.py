"""Headers for strangers, with real clients: each sends what it sends without an agent, and our
line more where it belongs. WAGGLE_TEST_SOAK is how many times as long this goes on."""

import http.client
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from .agent import Agent, SeenSpan, started_agent
from .harness import (
    SERVERS,
    RunningClient,
    ensure_built,
    run_client,
    start_client,
    start_server,
    tool,
)
from .ports import lease_port
from .processes import BUILD, Program, answers
from .servers import HAPROXY
from .stranger import Stranger, Written, started_stranger, without_line
from .toolchain import ensure_venv

LENGTH = int(os.environ.get("WAGGLE_TEST_SOAK", "1"))
COUNT = 30 * LENGTH
KINDS = (
    *("curl", "requests", "httpx", "httpx-async", "aiohttp", "go"),
    *("node-http", "node-fetch", "java", "raw"),
)
CAN_CLOSE = tuple(kind for kind in KINDS if kind not in ("node-fetch", "java"))
SDK_VENV = BUILD / "bench-sdk-venv"
SDK_REQUIREMENTS = Path(__file__).resolve().parents[1] / "bench" / "requirements-sdk.txt"
SDK_SERVER = Path(__file__).resolve().parent / "programs" / "python" / "sdk_stranger.py"


PROXIES = {**SERVERS, "haproxy-proxy": HAPROXY}

Requests = dict[int, list[bytes]]


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_built()


@contextmanager
def injecting_agent(mode: str, *pids: int) -> Iterator[Agent]:
    """mode: of --inject; empty where nothing is said of headers."""
    flags = ["--inject", mode, "--inject-to", "loopback"] if mode else []
    with started_agent(*flags, pids=pids) as agent:
        if "is written into none" in agent.stderr():
            pytest.skip(agent.stderr())
        yield agent


def expect_only_lines(before: Requests, after: Requests) -> list[Written]:
    """Every request came once, and is what it was without the agent, but for a line of ours."""
    assert sorted(before) == sorted(after)
    written = []
    for number, (plain,) in before.items():
        (one,) = after[number]
        written.append(without_line(one))
        assert written[-1].without == plain, f"request {number}"
    return [one for one in written if one.has_line]


def expect_spans_of(lines: list[Written], spans: list[SeenSpan]) -> None:
    """Every line names a client span that was exported, each another one."""
    exported = {(span.trace_id, span.span_id) for span in spans if span.kind == "client"}
    named = {(one.trace_id, one.span_id) for one in lines}
    assert len(named) == len(lines)
    assert named <= exported
    assert {one.flags & 1 for one in lines} <= {1}


def run_twice(
    stranger: Stranger, kind: str, mode: str, *, close: bool, traceparent: bool = False
) -> tuple[Requests, Requests, list[SeenSpan]]:
    """What one client sent without the agent, and then with it, and the spans."""
    run_client(kind, stranger.base_url, COUNT, 2, close=close, traceparent=traceparent)
    before = stranger.take()
    with (
        start_client(
            kind, stranger.base_url, COUNT, 2, close=close, traceparent=traceparent, gate=0
        ) as client,
        waiting_client(client),
        injecting_agent(mode, client.pid) as agent,
    ):
        client.open_gate()
        client.finish()
        agent.wait_for(lambda spans: len([s for s in spans if s.kind == "client"]) >= COUNT)
        return before, stranger.take(), agent.stop().spans


def run_both(
    stranger: Stranger, kind: str, mode: str, *, close: bool
) -> tuple[list[Written], list[SeenSpan]]:
    """The lines that were written with the agent, everything else being as without, and the
    spans."""
    before, after, spans = run_twice(stranger, kind, mode, close=close)
    return expect_only_lines(before, after), spans


@contextmanager
def waiting_client(client: RunningClient) -> Iterator[None]:
    client.wait_for_gate()
    yield


@pytest.mark.parametrize("kind", KINDS)
def test_old_connections(kind: str) -> None:
    """Every request on connections that live on gets a line where sockets stay enrolled."""
    with started_stranger() as stranger:
        lines, spans = run_both(stranger, kind, "always", close=False)
    expect_spans_of(lines, spans)
    assert len(lines) == COUNT


@pytest.mark.parametrize("kind", CAN_CLOSE)
def test_new_connections(kind: str) -> None:
    """The first request of every connection gets a line, once it is known what is spoken there."""
    with started_stranger() as stranger:
        lines, spans = run_both(stranger, kind, "first", close=True)
    expect_spans_of(lines, spans)
    assert len(lines) >= COUNT - 2


@pytest.mark.parametrize("close", [True, False])
@pytest.mark.parametrize("kind", ["curl", "requests", "go", "node-http"])
def test_by_default(kind: str, close: bool) -> None:
    """An agent that is told nothing of headers writes them where its trials allow, and changes
    nothing else of what a client sends."""
    with started_stranger() as stranger:
        lines, spans = run_both(stranger, kind, "", close=close)
    expect_spans_of(lines, spans)
    assert len(lines) >= (COUNT - 2 if close else 0)


@pytest.mark.parametrize("kind", ["requests", "go", "node-http"])
def test_headers_of_their_own(kind: str) -> None:
    """What an application sends under a `traceparent` of its own is as it was, to the byte."""
    with started_stranger() as stranger:
        before, after, _ = run_twice(stranger, kind, "always", close=False, traceparent=True)
    assert after == before


@pytest.mark.parametrize("keepalive", [True, False])
@pytest.mark.parametrize("kind", ["nginx-proxy", "haproxy-proxy"])
def test_proxies(kind: str, keepalive: bool) -> None:
    """A proxy in front of a stranger: the stranger is told of the proxy's call of that very
    request."""
    with (
        started_stranger() as stranger,
        start_server(
            kind, upstream=stranger.base_url, upstream_keepalive=keepalive, kinds=PROXIES
        ) as proxy,
    ):
        run_client("curl", proxy.base_url, COUNT, 1)
        before = stranger.take()
        with injecting_agent("first", proxy.pid) as agent:
            run_client("curl", proxy.base_url, COUNT, 1)
            after = stranger.take()
            agent.wait_for(lambda spans: len(spans) >= 2 * COUNT)
            spans = agent.stop().spans
    lines = expect_only_lines(before, after)
    expect_spans_of(lines, spans)
    if not keepalive:
        assert len(lines) >= COUNT - 2


def test_wrk() -> None:
    """Under load every request is the same to the byte, and has one line with ids of its own."""
    wrk = [tool("wrk"), "-t1", "-c4", f"-d{min(LENGTH, 10)}s", "--timeout", "20s"]
    with ExitStack() as stack:
        stranger = stack.enter_context(started_stranger())
        # A process that is there before the agent: what is begun later may connect unseen.
        words = ["sh", "-c", 'echo gate; read line; exec "$@"', "wrk", *wrk]
        program = Program("wrk", [*words, stranger.base_url + "/n/1"], with_pipes=True)
        stack.callback(program.stop)
        assert program.read_line(60) == "gate"
        stack.enter_context(injecting_agent("always", program.pid))
        program.write_line()
        assert program.wait(120) == 0
        requests = [without_line(one) for one in stranger.take()[1]]
    assert len({one.without for one in requests}) == 1
    lines = [one for one in requests if one.has_line]
    assert len(lines) == len(requests) > 100
    assert len({one.span_id for one in lines}) == len(lines)
    print(f"{len(requests)} requests compared, {len(lines)} lines in them")


def sdk_spans(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def wait_until(is_so: Callable[[], bool], what: str, patience_s: float = 30) -> None:
    deadline = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextmanager
def started_sdk(folder: Path) -> Iterator[tuple[str, Path]]:
    """A Flask service with OpenTelemetry's SDK: its URL, and the file of its spans."""
    ensure_venv(SDK_VENV, SDK_REQUIREMENTS)
    spans = folder / "spans.jsonl"
    spans.touch()
    lease = lease_port()
    command: list[str | Path] = [SDK_VENV / "bin" / "python", SDK_SERVER, str(lease.port), spans]
    program = Program("sdk-stranger", command)
    try:
        program.wait_until(
            lambda: answers(http.client.HTTPConnection("127.0.0.1", lease.port)), 120
        )
        yield f"http://127.0.0.1:{lease.port}", spans
    finally:
        program.stop()
        lease.release()


def test_sdk(tmp_path: Path) -> None:
    """A Flask service with OpenTelemetry's own SDK, which no agent traces, goes on with our trace:
    each of its spans is the child of the client span that we export for that call."""
    with (
        started_sdk(tmp_path) as (url, log),
        start_client("requests", url, COUNT, 1, close=True, gate=0) as client,
        waiting_client(client),
        injecting_agent("first", client.pid) as agent,
    ):
        client.open_gate()
        client.finish()
        wait_until(lambda: len(sdk_spans(log)) >= COUNT, "spans of the SDK")
        agent.wait_for(lambda spans: len([s for s in spans if s.kind == "client"]) >= COUNT)
        ours = {
            span.number: span
            for span in agent.stop().spans
            if span.kind == "client" and span.number
        }
    joined = 0
    for span in sdk_spans(log):
        number = int(str(span["path"]).rpartition("/")[2])
        if span["parent_id"]:
            assert span["trace_id"] == ours[number].trace_id
            assert span["parent_id"] == ours[number].span_id
            joined += 1
    assert joined >= COUNT - 1


def attached() -> str:
    """What the kernel has of ours in its control groups and maps."""
    bpftool = tool("bpftool")
    found = [
        subprocess.run([bpftool, *what], capture_output=True, text=True, check=True).stdout
        for what in (("prog", "show"), ("map", "show"))
    ]
    lines = "".join(found).splitlines()
    return "\n".join(line for line in lines if "inject_" in line or "enrolled" in line)


@pytest.mark.parametrize("mode", ["first", "always"])
def test_killed(mode: str) -> None:
    """An agent that is killed in the middle of a load breaks no request; nothing of it stays
    attached, and no socket enrolled."""
    before = attached()
    with started_stranger() as stranger:
        with (
            start_client(
                "go", stranger.base_url, 1_000_000, 4, close=mode == "first", gate=0
            ) as client,
            waiting_client(client),
            injecting_agent(mode, client.pid) as agent,
        ):
            assert attached() != before
            client.open_gate()
            wait_until(lambda: sum(map(len, stranger.requests.values())) > 300, "requests")
            agent.kill()
            wait_until(lambda: attached() == before, "still attached: " + attached())
            at_kill = sum(map(len, stranger.requests.values()))
            wait_until(
                lambda: sum(map(len, stranger.requests.values())) > at_kill + 300, "after it"
            )
            client.end_early()
        requests = stranger.take()
        shapes = {
            without_line(one).without.replace(b"/n/%d " % n, b"/n/N ")
            for n, (one,) in requests.items()
        }
        assert len(shapes) == 1
        last = [requests[n][0] for n in sorted(requests)[-100:]]
        assert not any(without_line(one).has_line for one in last)
