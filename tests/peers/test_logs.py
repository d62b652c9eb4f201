"""Logs that know their trace: whose request each record is part of, on real programs.

Each record has the number of its request in it, and each span in its URL: so the numbers tell
the truth. Wrong ids are worse than none, so `wrong` is 0 everywhere.
"""

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pytest

from .agent import SEEN_WITHIN_S, Agent, Ended, SeenLog, SeenSpan, started_agent
from .harness import Server, start_server
from .log_servers import LOG_SERVERS, ask, ensure_log_servers

_TRUTH = re.compile(r"request=(\d+)|GET /n/(\d+) ")


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_log_servers()


@dataclass(frozen=True)
class Run:
    """What a run came to. logs: those that name a request."""

    logs: list[SeenLog]
    ended: Ended
    written: str  # what the program itself wrote, as it is in its log

    def spans(self) -> dict[str, SeenSpan]:
        return {span.span_id: span for span in self.ended.spans if span.kind == "server"}

    def verdicts(self) -> Counter[str]:
        """How many records have the ids of their request, of another, or none."""
        spans = self.spans()
        return Counter(_verdict(log, spans) for log in self.logs)


def number_of(log: SeenLog) -> int:
    found = _TRUTH.search(log.body)
    assert found, log.body
    return int(found[1] or found[2])


def _verdict(log: SeenLog, spans: dict[str, SeenSpan]) -> str:
    if not log.span_id:
        return "none"
    span = spans[log.span_id]
    same = span.number == number_of(log) and span.trace_id == log.trace_id
    return "right" if same else "wrong"


def watch(
    kind: str,
    paths: Sequence[str],
    records: int,
    *flags: str,
    answers: bool = True,
    looked_into: bool = False,
) -> Run:
    """Request the paths of a server that the agent watches, until it has so many records.
    looked_into: not before the agent knows the program so well that records have ids."""
    with (
        start_server(kind, kinds=LOG_SERVERS) as server,
        started_agent("--logs", *flags, pids=[server.pid]) as agent,
    ):
        if looked_into:
            _be_known(server, agent)
        begin = len(server.log.read_bytes())
        ask(server, paths, answers=answers)
        agent.wait_for_logs(lambda logs: len(_named(logs)) >= records)
        agent.settle(len(paths))
        ended = agent.stop()
        logs = agent.logs()
    return Run(_named(logs), ended, _text(server, begin))


def _be_known(server: Server, agent: Agent) -> None:
    """Requests without a number until a record of one has ids."""
    deadline = time.monotonic() + SEEN_WITHIN_S
    while not any(log.span_id for log in agent.logs()):
        assert time.monotonic() < deadline, agent.stderr()
        seen = len(agent.logs()) + 1
        ask(server, ["/n/none"], concurrency=1)
        agent.wait_for_logs(partial(_are_many, seen))


def _are_many(count: int, logs: Sequence[SeenLog]) -> bool:
    return len(logs) >= count


def _named(logs: list[SeenLog]) -> list[SeenLog]:
    return [log for log in logs if _TRUTH.search(log.body)]


def _text(server: Server, begin: int) -> str:
    return server.log.read_bytes()[begin:].decode()


def paths(route: str, count: int = 200) -> list[str]:
    return [f"/{route}/{n}" for n in range(1, count + 1)]


def test_flask_on_threads() -> None:
    """What a thread of gunicorn logs while it serves a request has that request's ids, all of it;
    severities are read; each line is one record, and nothing else is."""
    run = watch("flask", paths("n"), 400)
    assert run.verdicts() == {"right": 400}
    assert Counter(log.severity_text for log in run.logs) == {"INFO": 200, "WARNING": 200}
    assert {log.attributes["waggle.link.method"] for log in run.logs} == {"thread"}
    assert {log.attributes["log.iostream"] for log in run.logs} == {"stdout"}
    assert sorted(log.body for log in run.logs) == sorted(run.written.splitlines())
    assert run.ended.lost == []


def test_a_line_in_two_writes() -> None:
    """A line that several threads write in parts at once is put together for each."""
    run = watch("flask", paths("two"), 200)
    assert run.verdicts() == {"right": 200}
    assert {log.body for log in run.logs} == {f"request={n} one and two" for n in range(1, 201)}


def test_several_lines_in_a_write() -> None:
    """Of several records in one write nobody knows when each was made: they have no ids."""
    run = watch("flask", paths("lines", 50), 150)
    assert run.verdicts() == {"none": 150}


def test_exceptions_of_flask() -> None:
    """A traceback is one record, and an event on the span of its request."""
    run = watch("flask", paths("fail", 100), 100)
    assert run.verdicts() == {"right": 100}
    check_failures(run, "ValueError", {f"request={n} fails" for n in range(1, 101)})


def test_exceptions_of_traces_that_the_tail_keeps() -> None:
    """A failed trace that is kept after all has its exception, and its records have its ids."""
    run = watch("flask", paths("fail", 100), 100, "--sample", "0", "--tail", "error")
    assert run.verdicts() == {"right": 100}
    check_failures(run, "ValueError", {f"request={n} fails" for n in range(1, 101)})


def test_traces_that_are_not_sampled() -> None:
    """Their records have ids all the same, though no span will come, and nothing is lost."""
    run = watch("flask", paths("fail", 100), 100, "--sample", "0")
    assert run.ended.spans == []
    assert len({log.trace_id for log in run.logs if log.trace_id}) == 100
    assert run.ended.lost == []


def check_failures(run: Run, kind: str, messages: set[str]) -> None:
    """Each server span has one exception, with its own request's message."""
    events = [(span, event) for span in run.spans().values() for event in span.events]
    assert {name for _, (name, _) in events} == {"exception"}
    assert {attributes["exception.message"] for _, (_, attributes) in events} == messages
    assert len(events) == len(messages)
    for span, (_, attributes) in events:
        assert attributes["exception.type"] == kind
        assert f"request={span.number} fails" in attributes["exception.stacktrace"]


def test_fastapi() -> None:
    """On an event loop the context tells whose record it is, proven by the answer."""
    run = watch("fastapi", paths("n"), 600)
    assert run.verdicts() == {"right": 600}
    assert {log.attributes["waggle.link.method"] for log in run.logs} == {"task"}
    assert Counter(log.severity for log in run.logs) == {9: 400, 13: 200}


def test_exceptions_of_fastapi() -> None:
    """uvicorn logs an exception behind the answer: the context still tells whose it was."""
    run = watch("fastapi", paths("fail", 100), 100)
    assert run.verdicts() == {"right": 100}
    failed = [span for span in run.spans().values() if span.events]
    print(f"{len(failed)} of {len(run.spans())} spans have their exception")
    assert len(failed) > 50
    for span in failed:
        ((name, attributes),) = span.events
        assert (name, attributes["exception.message"]) == (
            "exception",
            f"request={span.number} fails",
        )


def test_no_rule_no_ids() -> None:
    """Where no rule holds yet, records have no ids; they are there, each once."""
    run = watch("node", paths("n"), 200)
    assert run.verdicts()["wrong"] == 0
    lines = Counter(log.body for log in run.logs)
    assert lines == Counter(run.written.splitlines())


def test_go() -> None:
    """What a handler's goroutine logs has its request's ids, all of it; each line is one record."""
    run = watch("go", paths("n"), 200, looked_into=True)
    assert run.verdicts() == {"right": 200}
    assert {log.attributes["waggle.link.method"] for log in run.logs} == {"goroutine"}
    assert Counter(log.body for log in run.logs) == Counter(run.written.splitlines())


def test_panics_of_go() -> None:
    """What net/http logs of a handler's panic is one record, with what it says of it, and an
    event on the span of its request."""
    run = watch("go", paths("fail", 20), 40, answers=False, looked_into=True)
    assert run.verdicts() == {"right": 40}
    panics = [log for log in run.logs if "panic serving" in log.body]
    assert len(panics) == 20
    for log in panics:
        assert log.attributes["exception.type"] == "panic"
        assert log.attributes["exception.message"] == f"request={number_of(log)} fails"
        assert "goroutine" in log.body
        assert "main.number" in log.body
    numbered = [span for span in run.spans().values() if span.number]
    assert [name for span in numbered for name, _ in span.events] == ["exception"] * 20


def test_java() -> None:
    """println makes a write of its own of the line's end; records are whole."""
    run = watch("java", paths("n"), 200)
    assert run.verdicts()["wrong"] == 0
    assert {log.body for log in run.logs} == {f"INFO: request={n} begins" for n in range(1, 201)}
    assert {log.severity_text for log in run.logs} == {"INFO"}


def test_stack_traces_of_java() -> None:
    """printStackTrace writes line by line; a trace is one record."""
    run = watch("java", paths("fail", 50), 50)
    assert run.verdicts()["wrong"] == 0
    assert len(run.logs) == 50
    for log in run.logs:
        assert log.attributes["exception.type"] == "java.lang.IllegalStateException"
        assert log.attributes["exception.message"] == f"request={number_of(log)} fails"
        assert log.body.count("\n\tat ") > 3


def test_nginx() -> None:
    """nginx logs for many requests in one turn: no ids; its levels are read."""
    run = watch("nginx", paths("n"), 200)
    assert run.verdicts() == {"none": 200}
    assert {log.severity_text for log in run.logs} == {"error"}
    assert {log.attributes["log.iostream"] for log in run.logs} == {"stderr"}
    lines = [line for line in run.written.splitlines() if "GET /n/" in line]
    assert Counter(log.body for log in run.logs) == Counter(lines)
