"""OTLP over HTTP against a receiver on a real socket that answers as scripted."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from unit.otlp_exporting import (
    export,
    exporting,
    make_certificates,
    settings_for,
    settled,
    wait_until,
)
from unit.otlp_receivers import (
    HttpAnswer,
    ReadyRequests,
    Receiver,
    http_receiver,
)
from waggle.errors import UsageError
from waggle.exporter.otlp import OtlpExporter
from waggle.exporter.otlp_settings import (
    Backoff,
    Compression,
    Protocol,
    QueueSettings,
    TlsFiles,
)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with http_receiver() as started:
        yield started


@pytest.mark.parametrize("compression", list(Compression))
def test_a_request_as_the_protocol_wants_it(receiver: Receiver, compression: Compression) -> None:
    """POST to the path, protobuf content type, the user's headers, packed as asked."""
    settings = settings_for(
        receiver.port, compression=compression, headers=(("authorization", "Bearer x"),)
    )
    with exporting(settings) as exporter:
        export(exporter, 1, 2)
        assert settled(exporter).exported == 2
    (request,) = receiver.requests
    assert (request.path, request.ids) == ("/v1/traces", [1, 2])
    assert request.headers["content-type"] == "application/x-protobuf"
    assert request.headers["authorization"] == "Bearer x"
    assert request.headers["user-agent"].startswith("waggle")
    assert request.headers.get("content-encoding", "none") == compression.value


def test_one_connection_serves_all_requests(receiver: Receiver) -> None:
    """The connection is kept from request to request."""
    with exporting(settings_for(receiver.port)) as exporter:
        for number in range(5):
            export(exporter, number)
            settled(exporter)
    assert len(receiver.requests) == 5
    assert len({request.connection for request in receiver.requests}) == 1


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_retryable_statuses_are_tried_again(status: int) -> None:
    """The statuses the protocol calls retryable cost no span, and the same bytes come again."""
    with http_receiver(HttpAnswer(status), HttpAnswer(status)) as receiver:
        with exporting(settings_for(receiver.port)) as exporter:
            export(exporter, 1)
            stats = settled(exporter)
        assert (stats.exported, stats.lost) == (1, {})
        assert len(receiver.requests) == 3
        assert len({request.body for request in receiver.requests}) == 1


@pytest.mark.parametrize("status", [301, 400, 401, 404, 408, 413, 500, 501])
def test_other_statuses_are_final(status: int) -> None:
    """Anything else is counted by its code after one attempt, and said once, with a remedy."""
    events: list[str] = []
    with http_receiver(HttpAnswer(status), HttpAnswer(status)) as receiver:
        with exporting(settings_for(receiver.port), events) as exporter:
            for number in (1, 2, 3):
                export(exporter, number)
                stats = settled(exporter)
        assert (stats.exported, stats.lost) == (1, {f"refused_{status}": 2})
        assert len(receiver.requests) == 3
    assert len(events) == 1
    assert str(status) in events[0]


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed(form: str) -> None:
    """Nothing is sent before the moment the receiver named, though our own pause is shorter."""
    # A date has whole seconds: this one is between 1 and 2 s away.
    now, now_s = datetime.now(UTC), time.monotonic()
    date = (now + timedelta(seconds=2)).replace(microsecond=0)
    value = "1" if form == "seconds" else format_datetime(date, usegmt=True)
    with http_receiver(HttpAnswer(503, headers={"Retry-After": value})) as receiver:
        with exporting(settings_for(receiver.port)) as exporter:
            export(exporter, 1)
            assert settled(exporter).exported == 1
        first, second = receiver.requests
    named_s = first.at + 1 if form == "seconds" else now_s + (date - now).total_seconds()
    assert second.at >= named_s


def test_garbage_with_200_is_said() -> None:
    """An answer that is not OTLP's is reported once; its spans were taken, by the status."""
    events: list[str] = []
    page = HttpAnswer(body=b"<html>hello", headers={"Content-Type": "text/html"})
    with (
        http_receiver(page, page) as receiver,
        exporting(settings_for(receiver.port), events) as exporter,
    ):
        for number in (1, 2):
            export(exporter, number)
            stats = settled(exporter)
    assert stats.exported == 2
    assert len(events) == 1
    assert "text/html" in events[0]


@pytest.mark.parametrize(
    "answer",
    [
        HttpAnswer(drop=True),
        HttpAnswer(raw=b"not http at all\r\n\r\n"),
        HttpAnswer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"),
        HttpAnswer(raw=b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"),
    ],
    ids=["no answer", "not HTTP", "cut short", "too many headers"],
)
def test_broken_answers_are_tried_again(answer: HttpAnswer) -> None:
    """A connection that breaks or talks nonsense costs no span."""
    with (
        http_receiver(answer) as receiver,
        exporting(settings_for(receiver.port)) as exporter,
    ):
        export(exporter, 1)
        stats = settled(exporter)
    assert (stats.exported, stats.lost) == (1, {})
    assert receiver.ids() == [1, 1]


def test_a_huge_answer_is_not_read_to_its_end() -> None:
    """A body beyond the limit is cut off, and the next request finds a working connection."""
    with http_receiver(HttpAnswer(body=b"\0" * 10_000_000)) as receiver:
        with exporting(settings_for(receiver.port)) as exporter:
            export(exporter, 1)
            settled(exporter)
            export(exporter, 2)
            assert settled(exporter).exported == 2
        assert receiver.ids() == [1, 2]


def test_a_slow_receiver_is_given_up_in_time() -> None:
    """One byte now and then does not extend the timeout of an attempt."""
    with trickling_server() as (port, connections):
        events: list[str] = []
        with exporting(settings_for(port, timeout_s=0.3), events) as exporter:
            began = time.monotonic()
            export(exporter, 1)
            assert connections.acquire(timeout=60)
            assert connections.acquire(timeout=60)  # the second attempt: the first was given up
            took = time.monotonic() - began
        assert 0.3 <= took < 30
        assert "no answer within 0.3 s" in events[0]


@contextmanager
def trickling_server() -> Iterator[tuple[int, threading.Semaphore]]:
    """Accepts everything and answers with one byte of a header each 50 ms, for ever."""
    connections = threading.Semaphore(0)
    ended = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def trickle(connection: socket.socket) -> None:
        with connection:
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while not ended.wait(0.05):
                    connection.sendall(b"y")
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.release()
            threads.append(threading.Thread(target=trickle, args=(connection,)))
            threads[-1].start()

    threads = [threading.Thread(target=accept)]
    threads[0].start()
    try:
        yield listener.getsockname()[1], connections
    finally:
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    "script",
    [
        [HttpAnswer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")] * 2,
        [HttpAnswer(), HttpAnswer(drop=True)],
    ],
    ids=["closed while idle", "closed as we write"],
)
def test_a_kept_connection_that_was_closed_costs_no_pause(script: list[HttpAnswer]) -> None:
    """When the receiver closed the kept connection, the next request goes on a new one at once."""
    events: list[str] = []
    slow = Backoff(first_s=3600, longest_s=3600)
    queue = QueueSettings(delay_s=0.0, keep_trying_s=float("inf"))
    with (
        http_receiver(*script) as receiver,
        exporting(settings_for(receiver.port, backoff=slow, queue=queue), events) as exporter,
    ):
        for number in (1, 2, 3):
            export(exporter, number)
            assert settled(exporter).exported == number
    assert (sorted(set(receiver.ids())), events) == ([1, 2, 3], [])


def test_tls_and_mutual_tls(tmp_path: Path) -> None:
    """A receiver with a certificate of the trusted authority gets the spans, and sees ours."""
    files = make_certificates(tmp_path)
    with http_receiver(context=server_context(files)) as receiver:
        settings = settings_for(receiver.port, scheme="https", host="localhost", tls=files)
        with exporting(settings) as exporter:
            export(exporter, 1)
            assert settled(exporter).exported == 1
        assert receiver.ids() == [1]


def test_an_untrusted_certificate_is_named(tmp_path: Path) -> None:
    """Without the authority nothing is sent, and the event names the variable that helps."""
    files = make_certificates(tmp_path)
    events: list[str] = []
    with http_receiver(context=server_context(files)) as receiver:
        settings = settings_for(receiver.port, scheme="https", host="localhost")
        with exporting(settings, events) as exporter:
            export(exporter, 1)
            wait_until(lambda: bool(events))
        assert receiver.requests == []
    assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in events[0]


@pytest.mark.parametrize("protocol", list(Protocol))
@pytest.mark.parametrize("bad", ["trusted", "key"])
def test_bad_tls_files_are_found_at_the_start(tmp_path: Path, protocol: Protocol, bad: str) -> None:
    """A PEM file without what it should hold is a usage error before anything is sent."""
    files = make_certificates(tmp_path)
    broken = tmp_path / "broken.pem"
    broken.write_text("no PEM")
    tls = TlsFiles(
        trusted=broken if bad == "trusted" else files.trusted,
        certificate=files.certificate,
        key=broken if bad == "key" else files.key,
    )
    settings = settings_for(1, scheme="https", protocol=protocol, tls=tls)
    with pytest.raises(UsageError, match=r"broken\.pem"):
        OtlpExporter(settings, ReadyRequests())


def server_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.trusted)
    context.verify_mode = ssl.CERT_REQUIRED
    assert files.certificate is not None
    context.load_cert_chain(files.certificate, files.key)
    return context
