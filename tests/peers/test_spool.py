"""--spool with the real agent, the real Collector and a real full disk."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from waggle.exporter.encoding import OtlpEncoder
from waggle.exporter.json_file import JsonFileExporter
from waggle.exporter.otlp import OtlpExporter
from waggle.exporter.otlp_settings import Backoff, OtlpSettings, queue_settings
from waggle.exporter.spool import Spool

from .agent import Agent, started_agent
from .collector import Collector, parse_traces_line, started_collector
from .harness import Server, ensure_built, run_client, start_client, start_server
from .test_collector import batch_of_new_spans, ids_of, wait_for_event

BOUND = 64 << 20
FULL = "no space left on device"


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_built()


@contextmanager
def spooling_agent(server: Server, collector: Collector, spool: Path) -> Iterator[Agent]:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    flags = [f"--spool={spool}", f"--pid={server.pid}"]
    with started_agent(*flags, env=environment, json_lines=False) as agent:
        yield agent


def held_by(folder: Path, copy: Path) -> tuple[int, dict[str, int]]:
    """Spans in a spool that another process has open, and those that are damaged, by a copy."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder / "otlp", copy)
    spool = Spool(copy, BOUND)
    try:
        return spool.recovered, spool.lost()
    finally:
        spool.close()


def wait_until_held(agent: Agent, folder: Path, copy: Path, spans: int) -> None:
    deadline = time.monotonic() + 20
    while held_by(folder, copy)[0] < spans:
        if time.monotonic() > deadline:
            raise agent.error(f"had not brought {spans} spans to disk in 20 s")
        time.sleep(0.05)


def test_an_agent_that_ends_without_a_collector_leaves_all_to_the_next(tmp_path: Path) -> None:
    """Spans of a run that never saw the Collector arrive when the next run sees it, each once;
    both runs say so."""
    spool = tmp_path / "spool"
    with (
        started_collector(tmp_path) as collector,
        start_server("go-nethttp") as server,
    ):
        collector.stop()
        with spooling_agent(server, collector, spool) as agent:
            run_client("go", server.base_url, 200)
            ended = agent.stop()
        assert (ended.code, ended.lost) == (0, [])
        assert "200 kept on disk for the next run" in ended.stderr
        collector.start()
        with spooling_agent(server, collector, spool) as agent:
            agent.wait_for_stderr("200 spans of an earlier run")
            spans = collector.wait_for_spans(200)
            ended = agent.stop()
    assert set(ids_of(spans).values()) == {1}
    assert len(ids_of(spans)) == 200
    assert ended.lost == []
    assert not list(spool.rglob("*.spool"))


def test_an_agent_killed_under_load_loses_nothing_that_is_on_disk(tmp_path: Path) -> None:
    """SIGKILL in the middle of an outage and of the load: every span that had reached the disk
    arrives with the next run, each once."""
    spool, copy = tmp_path / "spool", tmp_path / "copy"
    with (
        started_collector(tmp_path) as collector,
        start_server("go-nethttp") as server,
    ):
        collector.stop()
        with (
            spooling_agent(server, collector, spool) as agent,
            start_client("go", server.base_url, 3000, 4, path="/slow/{}?ms=2") as client,
        ):
            wait_until_held(agent, spool, copy, 300)
            agent.kill()
            assert client.program.process.poll() is None, "the load had ended before the agent"
        held, damaged = held_by(spool, copy)
        collector.start()
        with spooling_agent(server, collector, spool) as agent:
            spans = collector.wait_for_spans(held)
            ended = agent.stop()
        spans = collector.spans()
    assert held >= 300
    assert len(spans) == len(ids_of(spans)) == held
    assert "spool_truncated" in ended.losses[0] if damaged else ended.lost == []


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own; skips where it cannot be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "waggle-test", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_under_the_files_is_waited_out(tmp_path: Path) -> None:
    """--json-file on a full disk: that is said, no line is cut, and when there is room again all
    that waited is written."""
    events: list[str] = []
    with small_disk(tmp_path / "disk", "1m") as disk:
        blocker = disk / "blocker"
        blocker.write_bytes(bytes(900_000))
        path = disk / "spans.jsonl"
        queue = queue_settings({"OTEL_BSP_SCHEDULE_DELAY": "0"})
        exporter = JsonFileExporter(
            path, 100 << 20, 5, queue, OtlpEncoder(max_spans=50), events.append
        )
        expected = set()
        for _ in range(5):
            batch, ids = batch_of_new_spans(100)
            expected |= ids
            exporter.export(batch)
        wait_for_event(events, FULL)
        blocker.unlink()
        exporter.close(20)
        lines = path.read_bytes().splitlines()
    found = [
        span
        for line in lines
        for group in parse_traces_line(line).resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]
    assert ids_of(found).keys() == expected
    assert set(ids_of(found).values()) == {1}
    assert exporter.stats().lost == {}


def is_full(events: list[str]) -> bool:
    return any(FULL in text for text in events)


def test_a_full_disk_costs_only_what_memory_cannot_hold(tmp_path: Path) -> None:
    """The spool's disk is full during an outage: that is said, memory takes over within its
    bounds, everything else is counted as lost, and all that is not lost arrives, each once."""
    events: list[str] = []
    expected = 0
    with started_collector(tmp_path) as collector, small_disk(tmp_path / "disk", "1m") as disk:
        collector.stop()
        settings = OtlpSettings.from_environment(
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint,
                "OTEL_BSP_SCHEDULE_DELAY": "10",
                "OTEL_BSP_MAX_QUEUE_SIZE": "2000",
                "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "500",
            }
        )
        settings = replace(settings, backoff=Backoff(first_s=0.05, longest_s=0.2))
        spool = Spool(disk / "spool", BOUND, events.append)
        exporter = OtlpExporter(settings, OtlpEncoder(max_spans=500), events.append, spool)
        while not exporter.stats().lost:
            exporter.export(batch_of_new_spans(100)[0])
            expected += 100
            assert expected < 50_000
            # While there is room on the disk, no faster than it is written.
            while not is_full(events) and exporter.stats().queued - spool.waiting_spans() > 1000:
                time.sleep(0.001)
        wait_for_event(events, FULL)
        lost = exporter.stats().lost
        collector.start()
        collector.wait_for_spans(expected - sum(lost.values()))
        exporter.close(20)
        stats, found = exporter.stats(), ids_of(collector.spans())
    assert set(lost) == {"queue_full"}
    assert (stats.exported, stats.queued, stats.kept) == (expected - lost["queue_full"], 0, 0)
    assert stats.lost == lost
    assert len(found) == stats.exported
    assert set(found.values()) == {1}
    assert stats.exported > 3000  # a megabyte on disk and the queue
