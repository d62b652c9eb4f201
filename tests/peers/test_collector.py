"""Waggle's exporter and encoder against the real OpenTelemetry Collector."""

import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from unit.otlp_exporting import make_certificates
from unit.records import record, resource_table
from unit.test_exporter_endpoints import send_one, settings_in

from waggle.exporter.encoding import OtlpEncoder
from waggle.exporter.json_file import JsonFileExporter
from waggle.exporter.otlp import OtlpExporter
from waggle.exporter.otlp_settings import Backoff, OtlpSettings, QueueSettings
from waggle.spans import SpanBatch

from .collector import Collector, started_collector

BATCH = 500
BATCHES = 4
Id = tuple[bytes, bytes]


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with started_collector(tmp_path_factory.mktemp("otelcol")) as started:
        yield started


def exporter_to(
    collector: Collector, protocol: str, compression: str = "none", **events: list[str]
) -> OtlpExporter:
    """As the agent makes it, from the environment; only the pauses between attempts are short."""
    is_grpc = protocol == "grpc"
    settings = OtlpSettings.from_environment(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": (
                collector.grpc_endpoint if is_grpc else collector.http_endpoint
            ),
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
            "OTEL_BSP_SCHEDULE_DELAY": "10",
        }
    )
    settings = replace(settings, backoff=Backoff(first_s=0.05, longest_s=0.2))
    heard = events.get("events", [])
    encoder = OtlpEncoder(
        max_bytes=settings.queue.max_request_bytes, max_spans=settings.queue.max_request_spans
    )
    return OtlpExporter(settings, encoder, heard.append)


def batch_of_new_spans(count: int = BATCH) -> tuple[SpanBatch, set[Id]]:
    """Exchanges with random ids, spread over three resources, and their ids."""
    records = np.repeat(record(b"/checkout?id=7"), count)
    ids = np.frombuffer(secrets.token_bytes(24 * count), np.uint8).reshape(count, 24)
    records["trace_id"], records["span_id"] = ids[:, :16], ids[:, 16:]
    table = resource_table("shop", "stock", "pay")
    batch = SpanBatch(records, np.arange(count, dtype=np.intp) % 3, table, time.time_ns())
    return batch, {(row[:16].tobytes(), row[16:].tobytes()) for row in ids}


def ids_of(spans: list[Span]) -> Counter[Id]:
    return Counter((span.trace_id, span.span_id) for span in spans)


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json", "grpc"])
def test_every_span_arrives_once(collector: Collector, protocol: str, compression: str) -> None:
    """All spans are in the Collector's file exactly once, with their ids and their service."""
    exporter = exporter_to(collector, protocol, compression)
    expected: set[Id] = set()
    for _ in range(BATCHES):
        batch, ids = batch_of_new_spans()
        expected |= ids
        exporter.export(batch)
    exporter.close(60)
    stats = exporter.stats()
    assert (stats.exported, stats.queued, stats.lost) == (BATCHES * BATCH, 0, {})
    spans = collector.wait_for(lambda spans: expected <= ids_of(spans).keys())
    found = ids_of(spans)
    assert {found[one] for one in expected} == {1}
    assert services(collector, expected) == {"shop", "stock", "pay"}


@pytest.mark.parametrize(
    "section", ["Grafana Tempo", "VictoriaTraces", "Grafana Loki", "VictoriaLogs"]
)
def test_settings_for_those_who_could_not_be_had(section: str, tmp_path: Path) -> None:
    """What the docs say of receivers that no test can start, on a Collector that has OTLP at the
    path which their documentation names: it takes what is sent."""
    variables = settings_in(section)
    (endpoint,) = (value for name, value in variables.items() if name.endswith("ENDPOINT"))
    path = re.sub(r"http://[^/]+|/v1/(traces|logs)$", "", endpoint)
    with started_collector(tmp_path, path=path) as collector:
        environ = {
            name: re.sub(r"http://[^/]+", collector.http_endpoint, value)
            for name, value in variables.items()
        }
        send_one(environ, logs=endpoint.endswith("logs"))
        if endpoint.endswith("logs"):
            program = collector._program
            assert program is not None
            program.wait_until(
                lambda: (
                    collector.logs_file.exists() and b"hello" in collector.logs_file.read_bytes()
                ),
                30,
            )
        else:
            assert len(collector.wait_for_spans(1)) == 1


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_mutual_tls(tmp_path: Path, protocol: str) -> None:
    """By the standard variables alone: with the certificates every span arrives; without ours
    the Collector refuses, which is said and costs no span, since it may be mended."""
    files = make_certificates(tmp_path)
    assert files.certificate is not None
    assert files.key is not None
    with started_collector(tmp_path, tls=(files.certificate, files.key)) as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": (
                collector.grpc_endpoint if protocol == "grpc" else collector.http_endpoint
            ),
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(files.certificate),
        }
        ours = {
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(files.certificate),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(files.key),
        }
        batch, ids = batch_of_new_spans(100)
        exporter = OtlpExporter(OtlpSettings.from_environment(environment | ours), OtlpEncoder())
        exporter.export(batch)
        exporter.close(20)
        assert exporter.stats().exported == 100
        assert ids_of(collector.wait_for_spans(100)).keys() == ids
        events: list[str] = []
        stranger = OtlpExporter(
            OtlpSettings.from_environment(environment), OtlpEncoder(), events.append
        )
        stranger.export(batch)
        wait_for_event(events, "cannot send")
        stranger.close(0.1)
    assert stranger.stats().exported == 0
    assert stranger.stats().lost == {"shutdown": 100}


def test_rotating_files_are_read_whole(tmp_path: Path) -> None:
    """The Collector's receiver for files reads every span of files that rotate while it looks,
    exactly once."""
    files = tmp_path / "spans"
    files.mkdir()
    with started_collector(tmp_path, reading=f"{files}/spans*.jsonl") as collector:
        queue = QueueSettings(delay_s=0.0)
        exporter = JsonFileExporter(
            files / "spans.jsonl", 600_000, 20, queue, OtlpEncoder(), lambda _: None
        )
        expected: set[Id] = set()
        for _ in range(8):
            batch, ids = batch_of_new_spans()
            expected |= ids
            exporter.export(batch)
            exporter.flush(10)
            collector.wait_for_spans(len(expected))
        exporter.close(10)
        found = ids_of(collector.wait_for(lambda spans: expected <= ids_of(spans).keys()))
    assert {found[one] for one in expected} == {1}
    assert len(list(files.iterdir())) > 4


def services(collector: Collector, ids: set[Id]) -> set[str]:
    """The service names of the resources under which these spans arrived."""
    return {
        attribute.value.string_value
        for group in collector.resource_spans()
        if any(ids_of(list(scope.spans)).keys() & ids for scope in group.scope_spans)
        for attribute in group.resource.attributes
        if attribute.key == "service.name"
    }


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_killed_collector_costs_nothing(tmp_path: Path, protocol: str) -> None:
    """The Collector is killed under load and comes back on its ports: no span is missing, none
    is counted as lost, none came from elsewhere, and both changes were said once."""
    events: list[str] = []
    with started_collector(tmp_path, durable=True) as collector:
        exporter = exporter_to(collector, protocol, events=events)
        with loaded(exporter) as load:
            collector.wait_for_spans(2 * BATCH)
            collector.kill()
            load.wait_for_more(5 * BATCH)
            wait_for_event(events, "cannot send")
            collector.start()
            load.wait_for_more(2 * BATCH)
        expected = load.sent
        exporter.close(60)
        stats = exporter.stats()
        found = ids_of(collector.wait_for(lambda spans: expected <= ids_of(spans).keys()))
    assert (stats.exported, stats.queued, stats.lost) == (len(expected), 0, {})
    assert found.keys() == expected
    assert [text for text in events if "cannot send" in text] == events[:1]
    assert [text for text in events if "again after" in text] == events[1:]


class Load:
    """Exports a batch every few milliseconds and remembers the ids."""

    def __init__(self, exporter: OtlpExporter) -> None:
        self.sent: set[Id] = set()
        self._exporter = exporter
        self._changed = threading.Condition()

    def run(self, ending: threading.Event) -> None:
        while not ending.wait(0.02):
            batch, ids = batch_of_new_spans(100)
            self._exporter.export(batch)
            with self._changed:
                self.sent |= ids
                self._changed.notify_all()

    def wait_for_more(self, spans: int, timeout_s: float = 120) -> None:
        """Returns when so many more spans were handed to the exporter."""
        with self._changed:
            goal = len(self.sent) + spans
            assert self._changed.wait_for(lambda: len(self.sent) >= goal, timeout_s)


@contextmanager
def loaded(exporter: OtlpExporter) -> Iterator[Load]:
    """Load from a thread of its own, for as long as the block lasts."""
    load, ending = Load(exporter), threading.Event()
    thread = threading.Thread(target=load.run, args=(ending,))
    thread.start()
    try:
        yield load
    finally:
        ending.set()
        thread.join()


def wait_for_event(events: list[str], words: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not any(words in text for text in events):
        assert time.monotonic() < deadline, f"no event with {words!r} in {events}"
        time.sleep(0.01)


def test_a_collector_that_refuses_is_named(collector: Collector) -> None:
    """OTLP sent to a wrong path of the real Collector is lost as refused_404, with the remedy."""
    events: list[str] = []
    settings = OtlpSettings.from_environment(
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector.http_endpoint + "/wrong"}
    )
    exporter = OtlpExporter(settings, OtlpEncoder(), events.append)
    batch, _ = batch_of_new_spans(10)
    exporter.export(batch)
    exporter.close(60)
    assert exporter.stats().lost == {"refused_404": 10}
    assert "/v1/traces" in events[0]
