"""Which exporters flags and OTEL_TRACES_EXPORTER ask for."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.otlp_receivers import HttpAnswer, http_receiver
from unit.records import batch, record
from waggle.config import load_settings
from waggle.errors import UsageError
from waggle.exporter.base import Exporter
from waggle.exporter.otlp_settings import queue_settings
from waggle.exporter.setup import encoder_for, load_exporters, make_exporters

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


@pytest.fixture
def made() -> Iterator[list[Exporter]]:
    """Exporters to be closed when the test ends."""
    exporters: list[Exporter] = []
    yield exporters
    for exporter in exporters:
        exporter.close(0.0)


def names(
    made: list[Exporter], flags: dict[str, object], environ: dict[str, str]
) -> tuple[str, ...]:
    made += make_exporters(load_settings(flags, {}), environ, lambda _: None)
    return tuple(exporter.name for exporter in made)


@pytest.mark.parametrize(
    ("flags", "environ", "expected"),
    [
        ({}, {}, ("console",)),
        ({"quiet": True}, {}, ()),
        ({}, ENDPOINT, ("otlp",)),
        ({"otlp": "http://c:1"}, {}, ("otlp",)),
        ({"zipkin": "http://c:1"}, {}, ("zipkin",)),
        ({"json_lines": True}, ENDPOINT, ("otlp", "jsonlines")),
        ({}, {"OTEL_TRACES_EXPORTER": ""}, ("console",)),
        ({}, {"OTEL_TRACES_EXPORTER": "otlp"}, ("otlp",)),
        ({}, {"OTEL_TRACES_EXPORTER": "zipkin"} | ENDPOINT, ("zipkin",)),
        ({}, {"OTEL_TRACES_EXPORTER": "console"} | ENDPOINT, ("console",)),
        ({}, {"OTEL_TRACES_EXPORTER": "Zipkin , otlp,console"}, ("otlp", "zipkin", "console")),
        ({}, {"OTEL_TRACES_EXPORTER": "none"} | ENDPOINT, ()),
        ({"otlp": "http://c:1"}, {"OTEL_TRACES_EXPORTER": "none"}, ("otlp",)),
        ({"otlp": "http://c:1"}, {"OTEL_TRACES_EXPORTER": "zipkin"}, ("otlp", "zipkin")),
        ({"json_lines": True}, {"OTEL_TRACES_EXPORTER": "console"}, ("jsonlines",)),
        ({"quiet": True}, {"OTEL_TRACES_EXPORTER": "console"}, ()),
        ({"otlp": "http://c:1"}, {"OTEL_SDK_DISABLED": "TRUE"}, ()),
        ({}, {"OTEL_SDK_DISABLED": "yes"}, ("console",)),
    ],
)
def test_who_is_asked(
    made: list[Exporter],
    flags: dict[str, object],
    environ: dict[str, str],
    expected: tuple[str, ...],
) -> None:
    """A flag always counts; the variable replaces what would be chosen without it."""
    assert names(made, flags, environ) == expected


def test_all_at_once(made: list[Exporter], tmp_path: Path) -> None:
    """A file, OTLP and Zipkin may be asked for together."""
    flags: dict[str, object] = {"json_file": str(tmp_path / "spans.jsonl"), "zipkin": "http://c:1"}
    assert names(made, flags, ENDPOINT) == ("otlp", "zipkin", "file")


@pytest.mark.parametrize(
    ("value", "words"),
    [("jaeger", "otlp"), ("zipkn", "did you mean 'zipkin'?"), ("none,otlp", "contradicts")],
)
def test_mistakes_are_named(value: str, words: str) -> None:
    """An unknown exporter, or none beside another, is refused with the variable's name."""
    with pytest.raises(UsageError, match=f"OTEL_TRACES_EXPORTER={value}") as caught:
        make_exporters(load_settings({}, {}), {"OTEL_TRACES_EXPORTER": value}, lambda _: None)
    assert words in str(caught.value)


def test_a_spool_needs_somebody_to_keep_for(tmp_path: Path) -> None:
    """--spool beside the live view alone is refused: nothing would ever be in it."""
    settings = load_settings({"spool": str(tmp_path)}, {})
    with pytest.raises(UsageError, match="--otlp or --zipkin"):
        make_exporters(settings, {}, lambda _: None)


def test_each_exporter_has_a_spool_of_its_own(made: list[Exporter], tmp_path: Path) -> None:
    """With two receivers away, each has its spans kept in a folder of its own, which is said."""
    said: list[str] = []
    flags: dict[str, object] = {
        "otlp": "http://127.0.0.1:1",
        "zipkin": "http://127.0.0.1:1",
        "spool": str(tmp_path),
    }
    made += make_exporters(load_settings(flags, {}), {}, said.append)
    for exporter in made:
        exporter.export(batch([record()] * 20))
        exporter.close(10)
    assert [exporter.stats().kept for exporter in made] == [20, 20]
    assert {path.name for path in tmp_path.iterdir()} == {"otlp", "zipkin"}
    kept = [text for text in said if "for the next run" in text]
    assert len(kept) == 2
    assert all("20 spans" in text for text in kept)


def test_disabled_is_said() -> None:
    """OTEL_SDK_DISABLED is not obeyed silently."""
    said: list[str] = []
    assert make_exporters(load_settings({}, {}), {"OTEL_SDK_DISABLED": "true"}, said.append) == []
    assert "OTEL_SDK_DISABLED" in said[0]


def test_the_batch_bound_reaches_the_encoder() -> None:
    """No request has more spans than OTEL_BSP_MAX_EXPORT_BATCH_SIZE."""
    queue = queue_settings({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "7"})
    requests = encoder_for(queue).encode(batch([record() for _ in range(50)]))
    assert sum(request.spans for request in requests) == 50
    assert max(request.spans for request in requests) == 7


def test_every_exporter_gets_every_span(made: list[Exporter], tmp_path: Path) -> None:
    """One batch, three exporters: each exports each span, in the form it speaks."""
    path = tmp_path / "spans.jsonl"
    with http_receiver() as otlp, http_receiver(HttpAnswer(202)) as zipkin:
        flags: dict[str, object] = {
            "otlp": f"http://127.0.0.1:{otlp.port}",
            "otlp_protocol": "http/json",
            "zipkin": f"http://127.0.0.1:{zipkin.port}",
            "json_file": str(path),
        }
        names(made, flags, {})
        exchanges = batch([record() for _ in range(30)])
        for exporter in made:
            exporter.export(exchanges)
        for exporter in made:
            exporter.flush(10)
        assert [exporter.stats().exported for exporter in made] == [30, 30, 30]
        assert otlp.requests[0].headers["content-type"] == "application/json"
        assert zipkin.requests[0].path == "/api/v2/spans"
    bodies = [otlp.requests[0].body, zipkin.requests[0].body, path.read_bytes()]
    ids = [body.count(b'"traceId"') for body in bodies]
    assert ids == [30, 30, 30]


_AHEAD = """
import json, sys
from waggle.config import load_settings
from waggle.exporter.setup import load_exporters, make_exporters

flags, environ = json.loads(sys.argv[1])
settings = load_settings(flags, {})
load_exporters(settings, environ)
before = set(sys.modules)
made = make_exporters(settings, environ, lambda _: None)
print(len(made), *(name for name in set(sys.modules) - before if name.startswith("waggle")))
"""
# Which of them is used only the settings of the sender say.
_TRANSPORTS = {f"waggle.exporter.otlp_{name}" for name in ("http", "grpc", "tls")}


@pytest.mark.parametrize(
    ("flags", "environ"),
    [
        ({}, {}),
        ({"json_lines": True}, ENDPOINT),
        ({"otlp": "http://c:1"}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}),
        ({"zipkin": "http://c:1"}, {}),
        ({"json_file": "spans.jsonl"}, {}),
    ],
)
def test_little_is_left_to_import(
    flags: dict[str, object], environ: dict[str, str], tmp_path: Path
) -> None:
    """What exporters are made of is imported ahead, while the kernel is at work."""
    words = [sys.executable, "-c", _AHEAD, json.dumps([flags, environ])]
    done = subprocess.run(
        words, capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path
    )
    count, *modules = done.stdout.split()
    assert int(count) >= 1
    assert set(modules) <= _TRANSPORTS


def test_mistakes_are_not_said_ahead() -> None:
    """Settings that cannot be used are told of by who makes the exporters, once."""
    load_exporters(load_settings({}, {}), {"OTEL_TRACES_EXPORTER": "jaeger"})
