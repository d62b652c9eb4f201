"""What is true of both protocols: outages, bounds, refusals, and the end. Real sockets."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peers.ports import lease_port

from unit.otlp_exporting import (
    GRPC,
    HTTP,
    Wire,
    export,
    exporting,
    sender_threads,
    settled,
    wait_until,
)
from unit.otlp_receivers import ReadyRequests, partial_success
from waggle.exporter import otlp
from waggle.exporter.otlp import OtlpExporter
from waggle.exporter.otlp_settings import Backoff, OtlpSettings, QueueSettings

PATIENT = QueueSettings(delay_s=0.0, keep_trying_s=float("inf"))


@pytest.fixture(params=[HTTP, GRPC], ids=["http", "grpc"])
def wire(request: pytest.FixtureRequest) -> Wire:
    chosen: Wire = request.param
    return chosen


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which nobody listens, unless the test does."""
    lease = lease_port()
    yield lease.port
    lease.release()


def test_partial_success_is_counted_and_never_sent_again(wire: Wire) -> None:
    """Rejected spans are lost as rejected, the others exported; the reason is said."""
    events: list[str] = []
    with wire.receiver(wire.answer(body=partial_success(2, "too old"))) as receiver:
        with exporting(wire.settings(receiver.port), events) as exporter:
            export(exporter, 1, 2, 3)
            stats = settled(exporter)
        assert (stats.exported, stats.lost) == (1, {"rejected": 2})
        assert len(receiver.requests) == 1
    assert len(events) == 1
    assert "too old" in events[0]


def test_a_receiver_that_rejects_more_than_it_got_cannot_spoil_the_account(wire: Wire) -> None:
    """No more spans are counted as rejected than were sent."""
    with (
        wire.receiver(wire.answer(body=partial_success(1000))) as receiver,
        exporting(wire.settings(receiver.port)) as exporter,
    ):
        export(exporter, 1)
        stats = settled(exporter)
    assert (stats.exported, stats.lost) == (0, {"rejected": 1})


def test_an_outage_costs_nothing_within_the_bound(wire: Wire, port: int) -> None:
    """Spans of an outage arrive when the receiver is back; going and coming is said once each."""
    events: list[str] = []
    with exporting(wire.settings(port), events) as exporter:
        for number in range(50):
            export(exporter, number)
        wait_until(lambda: bool(events))
        with wire.receiver(port=port) as receiver:
            stats = settled(exporter)
            assert sorted(receiver.ids()) == list(range(50))
    assert (stats.exported, stats.lost) == (50, {})
    assert [("cannot send" in text, "again after" in text) for text in events] == [
        (True, False),
        (False, True),
    ]
    assert "connection refused" in events[0]
    assert "none were lost" in events[1]


def test_what_an_outage_loses_is_said_when_it_ends(wire: Wire, port: int) -> None:
    """The recovery names how many spans did not fit."""
    events: list[str] = []
    queue = QueueSettings(delay_s=0.0, max_spans=10)
    with exporting(wire.settings(port, queue=queue), events) as exporter:
        export(exporter, 0)
        wait_until(lambda: bool(events))
        for number in range(1, 20):
            export(exporter, number)
        with wire.receiver(port=port) as receiver:
            stats = settled(exporter)
            assert sorted(receiver.ids()) == list(range(10))
    assert (stats.exported, stats.lost) == (10, {"queue_full": 10})
    assert "10 spans were lost" in events[1]


def test_trying_ends_some_day(wire: Wire, port: int) -> None:
    """A request that is never taken is lost as expired after the time set for it."""
    events: list[str] = []
    queue = QueueSettings(delay_s=0.0, keep_trying_s=0.2)
    with exporting(wire.settings(port, queue=queue), events) as exporter:
        export(exporter, 1)
        stats = settled(exporter)
    assert (stats.exported, stats.lost) == (0, {"expired": 1})
    assert any("OTEL_BSP_EXPORT_TIMEOUT" in text for text in events)


def test_close_sends_what_is_left(wire: Wire) -> None:
    """close() sends what waits without its delay, and all of it is exported."""
    with wire.receiver() as receiver:
        settings = wire.settings(receiver.port, queue=QueueSettings(delay_s=3600))
        exporter = OtlpExporter(settings, ReadyRequests())
        export(exporter, 1)
        exporter.close(60)
        export(exporter, 2)
        assert receiver.ids() == [1]
    stats = exporter.stats()
    assert (stats.exported, stats.queued, stats.lost) == (1, 0, {"shutdown": 1})


def test_close_is_bounded_and_counts_what_it_leaves(wire: Wire) -> None:
    """With a receiver that never answers, close() returns in time and all spans are shutdown."""
    held = threading.Event()
    try:
        with wire.receiver(wire.answer(), wire.answer(before=held.wait)) as receiver:
            exporter = OtlpExporter(wire.settings(receiver.port), ReadyRequests())
            export(exporter, 0)
            settled(exporter)
            export(exporter, 1)
            receiver.wait_for_requests(2)
            export(exporter, 2, 3)
            began = time.monotonic()
            exporter.close(0.2)
            took = time.monotonic() - began
            assert not sender_threads()  # though the answer is still held
            held.set()
        assert receiver.ids() == [0, 1]
    finally:
        held.set()
    stats = exporter.stats()
    assert 0.2 <= took < 30
    assert (stats.exported, stats.queued, stats.lost) == (1, 0, {"shutdown": 3})


def test_close_during_a_pause_tries_once_more(wire: Wire, port: int) -> None:
    """close() does not wait for a pause of our own to end: it may be the last chance."""
    events: list[str] = []
    slow = Backoff(first_s=3600, longest_s=3600)
    queue = QueueSettings(delay_s=0.0, keep_trying_s=float("inf"))
    exporter = OtlpExporter(
        wire.settings(port, backoff=slow, queue=queue), ReadyRequests(), events.append
    )
    export(exporter, 1)
    wait_until(lambda: bool(events))
    with wire.receiver(port=port) as receiver:
        exporter.close(60)
        assert receiver.ids() == [1]
    assert exporter.stats().exported == 1


def test_nothing_runs_before_the_first_export(wire: Wire, port: int) -> None:
    """No thread is started by the constructor: it would keep privileges dropped later."""
    exporter = OtlpExporter(wire.settings(port), ReadyRequests())
    assert not sender_threads()
    exporter.close(1)


def test_export_does_not_wait_for_the_receiver(wire: Wire) -> None:
    """While the receiver holds a request, a thousand exports return at once."""
    held = threading.Event()
    try:
        with (
            wire.receiver(wire.answer(before=held.wait)) as receiver,
            exporting(wire.settings(receiver.port)) as exporter,
        ):
            export(exporter, 0)
            receiver.wait_for_requests(1)
            began = time.monotonic()
            for number in range(1, 1001):
                export(exporter, number)
            assert time.monotonic() - began < 30
            assert exporter.stats().queued == 1001
            held.set()
            assert settled(exporter).exported == 1001
    finally:
        held.set()


def test_a_fault_of_ours_costs_one_request_and_is_said(wire: Wire) -> None:
    """An exception in the sender is counted as internal_error; what follows is still sent."""
    events: list[str] = []
    with wire.receiver() as receiver, exporting(wire.settings(receiver.port), events) as exporter:
        transport = exporter._sender.transport
        send, transport.send = transport.send, _raise  # type: ignore[assignment, method-assign]
        export(exporter, 1)
        settled(exporter)
        transport.send = send  # type: ignore[method-assign]
        export(exporter, 2)
        stats = settled(exporter)
    assert (stats.exported, stats.lost) == (1, {"internal_error": 1})
    assert "RuntimeError: broken" in events[0]


def _raise(_payload: bytes) -> Any:
    raise RuntimeError("broken")


def test_close_gives_up_where_nobody_listens(
    wire: Wire, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint that refused every connection for long enough costs close() one more attempt;
    what it did not take is lost as shutdown, and that is said with the number."""
    monkeypatch.setattr(otlp, "NOBODY_FOR_S", 0.2)
    events: list[str] = []
    settings = wire.settings(port, queue=PATIENT)
    exporter = OtlpExporter(settings, ReadyRequests(), events.append)
    export(exporter, 1, 2)
    wait_until(lambda: exporter._sender._absence.proven())
    export(exporter, 3)
    closed_within(exporter, 60)
    assert "cannot send" in events[0]
    assert events[1:] == [
        f"gave up on http://127.0.0.1:{port}: connection refused; 3 spans are lost"
    ]
    stats = exporter.stats()
    assert (stats.exported, stats.queued, stats.lost) == (0, 0, {"shutdown": 3})


def test_close_waits_for_whoever_restarts(wire: Wire, port: int) -> None:
    """An endpoint that refuses only since just now is waited for, and then gets everything."""
    exporter = OtlpExporter(wire.settings(port, queue=PATIENT), ReadyRequests())
    export(exporter, 1)
    closing = threading.Thread(target=exporter.close, args=(60,))
    closing.start()
    wait_until(lambda: exporter._sender._absence._since is not None)
    with wire.receiver(port=port) as receiver:
        closing.join(30)
        assert receiver.ids() == [1]
    assert exporter.stats().exported == 1


def test_close_keeps_trying_where_somebody_is(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that takes connections but answers too late is tried until it takes the spans."""
    monkeypatch.setattr(otlp, "NOBODY_FOR_S", 0.0)
    held = threading.Event()
    slow = [wire.answer(before=held.wait)] * 3
    try:
        with wire.receiver(*slow) as receiver:
            exporter = OtlpExporter(wire.settings(receiver.port, timeout_s=0.3), ReadyRequests())
            export(exporter, 1)
            exporter.close(60)
            assert exporter.stats().exported == 1
            assert receiver.ids() == [1, 1, 1, 1]
            held.set()
    finally:
        held.set()


@pytest.mark.parametrize(
    ("protocol", "endpoint"),
    [
        ("http/protobuf", "http://no-such-host.invalid:4318"),
        ("grpc", "http://no-such-host.invalid:4317"),
        ("grpc", "unix:{folder}/no-such.sock"),
    ],
)
def test_a_name_that_means_nothing_is_nobody_too(
    protocol: str, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an unknown host nor a missing socket file holds close() up."""
    monkeypatch.setattr(otlp, "NOBODY_FOR_S", 0.0)
    settings = OtlpSettings.from_environment(
        {
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.format(folder=tmp_path),
            "OTEL_BSP_SCHEDULE_DELAY": "0",
        }
    )
    exporter = OtlpExporter(settings, ReadyRequests())
    export(exporter, 1)
    closed_within(exporter, 60)
    assert exporter.stats().lost == {"shutdown": 1}


def closed_within(exporter: OtlpExporter, limit_s: float) -> None:
    """close() ends before the time it is given, which a machine under load takes nothing from."""
    began = time.monotonic()
    exporter.close(limit_s)
    assert time.monotonic() - began < limit_s / 2
    assert not sender_threads()
