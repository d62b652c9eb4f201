"""The parts of the harness that need no machine: apt's sources, and judging spans."""

from dataclasses import replace
from pathlib import Path

import pytest

from waggle import features

from .errors import KernelMissingError
from .guest_check import (
    CLIENT,
    SERVER,
    Seen,
    expected_parent,
    expected_spans,
    less_preempted,
    problems_of,
    read_spans,
)
from .kernels import machine_mirror

ARCHIVE = "http://mirror.invalid/debian"


def _perfect() -> list[Seen]:
    """One span for everything that happened, with the parents that are true."""
    truth = expected_spans()
    ids = {key: f"{number:016x}" for number, key in enumerate(truth, 1)}
    spans = []
    for (kind, path), status in truth.items():
        parent, evidence = expected_parent((kind, path))
        number = path.split("/", 2)[2]
        parent_id = ids[parent] if parent else ""
        spans.append(Seen(number, ids[kind, path], parent_id, kind, path, status, evidence, 1000))
    return spans


def _altered(kind: int, path: str, **changes: object) -> list[Seen]:
    return [
        replace(span, **changes) if span.key == (kind, path) else span  # type: ignore[arg-type]
        for span in _perfect()
    ]


def test_the_truth_has_no_problem() -> None:
    """Spans that say exactly what happened are accepted."""
    assert problems_of(_perfect(), warm_allowed=False) == []


def test_missing_span_is_found() -> None:
    """A request without its span is a problem that names it."""
    problems = problems_of(_perfect()[1:], warm_allowed=False)
    assert [problem for problem in problems if problem.startswith("missing: ")]


def test_span_given_twice_is_found() -> None:
    """The same request told twice is a problem."""
    spans = _perfect()
    assert problems_of([*spans, spans[0]], warm_allowed=False) == ["2 times: server /front/ipv4/1"]


@pytest.mark.parametrize("allowed", [True, False])
def test_warm_up_counts_only_where_nothing_was_older(allowed: bool) -> None:
    """A span of a request made before the agent came is a problem, unless it may be there."""
    warm = replace(_perfect()[0], path="/warm/unix/0")
    problems = problems_of([*_perfect(), warm], warm_allowed=allowed)
    assert problems == ([] if allowed else ["never happened: server /warm/unix/0"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parent_id": ""}, "no parent: "),
        ({"parent_id": "f" * 16}, "wrong parent by socket: "),
        ({"trace_id": "another"}, "wrong parent by socket: "),
        ({"link": "thread"}, "parent by 'thread' instead of socket: "),
        ({"status": 500}, "status 500 instead of 200: "),
        ({"duration_ns": 0}, "duration of 0 ns: "),
    ],
)
def test_wrong_span_is_found(changes: dict[str, object], said: str) -> None:
    """Each thing that a span can say wrongly is a problem of its own."""
    problems = problems_of(_altered(SERVER, "/back/unix/1", **changes), warm_allowed=False)
    assert problems == [f"{said}server /back/unix/1"]


def test_invented_parent_is_found() -> None:
    """The first span of a trace must not have a parent."""
    spans = _altered(CLIENT, "/front/ipv6/3", parent_id="f" * 16, link="socket")
    assert problems_of(spans, warm_allowed=False) == ["a parent by socket: client /front/ipv6/3"]


def test_spans_are_read_from_otlp_json() -> None:
    """A client span's path comes from its full URL, numbers from JSON's strings."""
    line = (
        '{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"t","spanId":"s","kind":3,'
        '"startTimeUnixNano":"5","endTimeUnixNano":"12","attributes":['
        '{"key":"url.full","value":{"stringValue":"http://localhost/a/1?x=y"}},'
        '{"key":"http.response.status_code","value":{"intValue":"200"}}]}]}]}]}'
    )
    assert read_spans([line]) == [Seen("t", "s", "", CLIENT, "/a/1", 200, "", 7)]


def test_mirror_from_a_deb822_source(tmp_path: Path) -> None:
    """Debian's own archive is found among security updates and strangers, with its key."""
    sources = tmp_path / "sources.list.d"
    sources.mkdir()
    (sources / "all.sources").write_text(
        "URIs: http://mirror.invalid/debian-security\nComponents: main\n\n"
        "URIs: http://packages.invalid/node\nComponents: main\n\n"
        f"Types: deb\nURIs: {ARCHIVE}\nComponents: main contrib\nSigned-By: /keys/a.gpg\n"
    )
    assert machine_mirror(tmp_path) == (ARCHIVE, "[signed-by=/keys/a.gpg] ")


def test_mirror_from_a_line(tmp_path: Path) -> None:
    """The older format is understood, options kept."""
    (tmp_path / "sources.list").write_text(
        "# deb http://old.invalid/debian sid main\n"
        f"deb [signed-by=/keys/a.gpg] {ARCHIVE} bookworm main\n"
    )
    assert machine_mirror(tmp_path) == (ARCHIVE, "[signed-by=/keys/a.gpg] ")


def test_no_mirror_is_said(tmp_path: Path) -> None:
    """Where apt names no Debian archive, the error says that these tests need one."""
    with pytest.raises(KernelMissingError, match="need Debian"):
        machine_mirror(tmp_path)


@pytest.mark.parametrize(
    ("capture", "hooks", "busy", "problems", "left"),
    [
        ("syscall", True, 1, ["missing: a", "missing: b"], 0),
        ("syscall", True, 1, ["missing: a", "missing: b", "missing: c"], 3),
        ("syscall", True, 0, ["missing: a"], 1),
        ("syscall", True, 1, ["missing: a", "no parent: b"], 2),
        ("syscall", False, 1, ["missing: a"], 1),
        ("socket", True, 1, ["missing: a"], 1),
    ],
)
def test_what_is_preempted_must_be_counted(
    capture: str,
    hooks: bool,
    busy: int,
    problems: list[str],
    left: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Spans may be missing only of system calls, where `socket` works, and no more than counted."""
    monkeypatch.setattr(features, "typed_tracepoint", lambda *_given: hooks)
    said = f"  lost       {busy} programs_busy: why" if busy else "  lost       nothing"
    assert len(less_preempted(capture, problems, said)) == left
