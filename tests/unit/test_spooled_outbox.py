"""An exporter with a spool: nothing is lost over outages and restarts, and all is accounted for."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from unit.otlp_receivers import HttpAnswer, ReadyRequests, http_receiver, request_of
from waggle.exporter.base import ExporterStats
from waggle.exporter.otlp import OtlpExporter
from waggle.exporter.otlp_settings import Backoff, OtlpSettings, QueueSettings
from waggle.exporter.spool import Spool
from waggle.exporter.spooled_outbox import SpooledOutbox

QUICK = Backoff(first_s=0.02, longest_s=0.1)
MEBI = 1 << 20


def settings_for(port: int, **queue: float) -> OtlpSettings:
    settings = OtlpSettings.from_environment({}, f"http://127.0.0.1:{port}")
    bounds = QueueSettings(**{"delay_s": 0.0, **queue})  # type: ignore[arg-type]
    return replace(settings, queue=bounds, backoff=QUICK)


def exporter_to(
    port: int, folder: Path, events: list[str] | None = None, **queue: float
) -> OtlpExporter:
    say = events.append if events is not None else (lambda _: None)
    spool = Spool(folder, 64 * MEBI, say)
    return OtlpExporter(settings_for(port, **queue), ReadyRequests(), say, spool)


def export(exporter: OtlpExporter, *ids: int) -> None:
    exporter.export([request_of(*ids)])  # type: ignore[arg-type]


def wait_until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def unused_port() -> int:
    with http_receiver() as receiver:
        return receiver.port


def test_what_a_run_could_not_send_the_next_one_does(tmp_path: Path) -> None:
    """A receiver that is away for the whole of a run costs nothing, and close() does not wait."""
    port = unused_port()
    first = exporter_to(port, tmp_path)
    for number in range(50):
        export(first, number)
    began = time.monotonic()
    first.close(30)
    assert time.monotonic() - began < 10
    assert first.stats() == ExporterStats(0, 0, {}, kept=50)
    with http_receiver(port=port) as receiver:
        second = exporter_to(port, tmp_path)
        second.begin()
        second.flush(10)
        second.close(10)
        assert sorted(receiver.ids()) == list(range(50))
    assert second.stats() == ExporterStats(50, 0, {}, kept=0)


def test_a_running_receiver_gets_all_at_once(tmp_path: Path) -> None:
    """With a receiver there, everything is exported by the time close() returns."""
    with http_receiver() as receiver:
        exporter = exporter_to(receiver.port, tmp_path)
        for number in range(50):
            export(exporter, number)
        exporter.close(10)
        assert sorted(receiver.ids()) == list(range(50))
    assert exporter.stats() == ExporterStats(50, 0, {}, kept=0)
    assert not list(tmp_path.glob("*.spool"))


def test_far_more_than_memory_holds_survives_an_outage(tmp_path: Path) -> None:
    """Spans far beyond the queue's bound wait on disk and arrive when the receiver is back."""
    port = unused_port()
    exporter = exporter_to(port, tmp_path, max_spans=10)
    for number in range(200):
        export(exporter, number)
        wait_until(lambda: exporter._outbox._memory.stats().queued < 10)  # type: ignore[attr-defined]
    with http_receiver(port=port) as receiver:
        exporter.flush(10)
        exporter.close(10)
        assert sorted(set(receiver.ids())) == list(range(200))
    assert exporter.stats() == ExporterStats(200, 0, {}, kept=0)


def test_a_request_nobody_takes_does_not_hold_up_the_others(tmp_path: Path) -> None:
    """What was tried for too long goes behind what waits, and is not lost."""
    events: list[str] = []
    busy = [HttpAnswer(503)] * 6
    with http_receiver(*busy) as receiver:
        exporter = exporter_to(receiver.port, tmp_path, events, keep_trying_s=0.05)
        export(exporter, 1)
        receiver.wait_for_requests(1)
        export(exporter, 2)
        exporter.flush(10)
        wait_until(lambda: exporter.stats().exported == 2)
        assert sorted(set(receiver.ids())) == [1, 2]
        exporter.close(10)
    assert exporter.stats().lost == {}


def test_refusals_and_rejections_are_counted(tmp_path: Path) -> None:
    """What a receiver will never take is lost by its reason and leaves the disk."""
    with http_receiver(HttpAnswer(400)) as receiver:
        exporter = exporter_to(receiver.port, tmp_path)
        export(exporter, 1, 2)
        receiver.wait_for_requests(1)
        export(exporter, 3)
        exporter.close(10)
    assert exporter.stats() == ExporterStats(1, 0, {"refused_400": 2}, kept=0)


def full_spool(folder: Path) -> tuple[Spool, int]:
    """A spool without room for a single byte more, and how many spans are in it."""
    spool = Spool(folder, 16 * MEBI)
    for size in (MEBI, 4096, 1):
        while spool.append(bytes(size), 1):
            pass
    return spool, spool.waiting_spans()


def test_a_disk_that_takes_nothing_is_no_outage(tmp_path: Path) -> None:
    """With the spool full from the start, spans go from memory to the receiver."""
    spool, held = full_spool(tmp_path)
    box = SpooledOutbox(QueueSettings(delay_s=0.0), spool)
    for number in range(5):
        box.put(request_of(number))
    box.close()
    taken = []
    while (parcel := box.take()) is not None:
        taken.append(parcel.payload)
        box.finish(parcel, {})
    ours = b"".join(payload for payload in taken if any(payload))
    assert ours == b"".join(request_of(number).payload for number in range(5))
    assert box.stats() == ExporterStats(held + 5, 0, {}, kept=0)


def test_memory_that_the_disk_does_not_take_is_lost_by_shutdown(tmp_path: Path) -> None:
    """With disk and receiver both away, the end of the agent counts what was in memory."""
    spool, held = full_spool(tmp_path)
    exporter = OtlpExporter(settings_for(unused_port()), ReadyRequests(), spool=spool)
    export(exporter, 1, 2, 3)
    exporter.close(0.2)
    assert exporter.stats() == ExporterStats(0, 0, {"shutdown": 3}, kept=held)


@pytest.mark.parametrize("seed", range(3))
def test_every_span_is_in_one_place(tmp_path: Path, seed: int) -> None:
    """Seen at any moment, spans put in are waiting, exported or lost: none twice, none missing."""
    box = SpooledOutbox(QueueSettings(delay_s=0.0), Spool(tmp_path, 64 * MEBI))
    put = 0
    wrong: list[ExporterStats] = []

    def send() -> None:
        number = seed
        while (parcel := box.take()) is not None:
            number += 1
            box.finish(parcel, {"rejected": 1} if number % 3 == 0 else {})

    def account(stats: ExporterStats) -> int:
        return stats.exported + stats.queued + sum(stats.lost.values())

    sender = threading.Thread(target=send)
    sender.start()
    for _ in range(300):
        box.put(request_of(1, 2))
        put += 2
        stats = box.stats()
        if account(stats) != put:
            wrong.append(stats)
    box.close()
    sender.join()
    assert wrong == []
    assert account(box.stats()) == put
    assert box.stats().queued == 0


def test_an_outage_says_where_spans_are_kept(tmp_path: Path) -> None:
    """The message about the outage names the folder and the bound."""
    events: list[str] = []
    exporter = exporter_to(unused_port(), tmp_path, events)
    export(exporter, 1)
    wait_until(lambda: bool(events))
    exporter.close(0)
    assert str(tmp_path) in events[0]
    assert "64 MiB" in events[0]
