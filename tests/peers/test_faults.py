"""Networks and receivers that fail in ways a socket on the loopback does not show."""

import ctypes
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from unit.otlp_receivers import ReadyRequests, ids_in, request_of

from waggle.exporter.encoding import OtlpEncoder
from waggle.exporter.otlp import OtlpExporter
from waggle.exporter.otlp_settings import Backoff, OtlpSettings

from .agent import started_agent
from .clients import run_client
from .collector import started_collector
from .harness import ensure_built
from .servers import start_server
from .test_collector import batch_of_new_spans, exporter_to, ids_of, wait_for_event
from .toolchain import PROGRAMS, tool

_CLONE_NEWNET = 0x40000000
_NEAR, _FAR = "10.231.77.1", "10.231.77.2"


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_name_that_cannot_be_resolved_is_an_outage(protocol: str) -> None:
    """A failing DNS costs the application nothing: export returns at once, the failure is said
    once with its reason, spans wait, and close() is bounded and counts them."""
    events: list[str] = []
    settings = OtlpSettings.from_environment(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://no-such-host.invalid:4318",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "2000",
            "OTEL_BSP_SCHEDULE_DELAY": "0",
        }
    )
    exporter = OtlpExporter(settings, ReadyRequests(), events.append)
    began = time.monotonic()
    exporter.export([request_of(1, 2)])  # type: ignore[arg-type]
    assert time.monotonic() - began < 0.5
    wait_for_event(events, "cannot send")
    assert exporter.stats().queued == 2
    exporter.close(0.2)
    assert time.monotonic() - began < 30
    assert exporter.stats().lost == {"shutdown": 2}
    assert "no-such-host.invalid" in events[0]


@dataclass
class Far:
    """A receiver at the other end of a cable that can be cut."""

    listener: socket.socket
    interface: str

    def cut(self) -> None:
        _ip("link", "set", self.interface, "down")

    def mend(self) -> None:
        _ip("link", "set", self.interface, "up")

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def far_listener() -> Iterator[Far]:
    """A listening socket in a network namespace of its own, behind a pair of devices."""
    name = f"waggle{os.getpid() % 100_000}"
    near, far = f"{name}a", f"{name}b"
    try:
        _ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no network namespace can be made here")
    try:
        _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        _ip("addr", "add", f"{_NEAR}/30", "dev", near)
        _ip("link", "set", near, "up")
        _ip("-n", name, "addr", "add", f"{_FAR}/30", "dev", far)
        _ip("-n", name, "link", "set", far, "up")
        listener = _listen_in(Path("/run/netns") / name)
        try:
            yield Far(listener, near)
        finally:
            listener.close()
    finally:
        _ip("netns", "del", name)


def _listen_in(namespace: Path) -> socket.socket:
    """A socket stays in the namespace it was made in; so one thread goes there to make it."""
    made: list[socket.socket] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(namespace, os.O_RDONLY)
        try:
            if libc.setns(descriptor, _CLONE_NEWNET) == 0:
                made.append(socket.create_server((_FAR, 0)))
        finally:
            os.close(descriptor)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


@contextmanager
def answering(listener: socket.socket) -> Iterator[list[int]]:
    """Answers each request on any number of connections with 200; gives the spans' numbers."""
    found: list[int] = []
    connections: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            try:
                while head := _read_head(stream):
                    found.extend(ids_in(stream.read(head)))
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in connections:
            connection.close()


def _read_head(stream: BinaryIO) -> int:
    """The length of the body that follows; 0 at the connection's end."""
    length = 0
    while (line := stream.readline()) not in (b"", b"\r\n"):
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    return length


def test_a_connection_that_is_dead_without_a_word_is_given_up() -> None:
    """The cable is cut while a connection is kept: no FIN, no RST. Attempts end with their
    timeout, spans wait, and when the cable is mended every one of them arrives."""
    events: list[str] = []
    with far_listener() as far, answering(far.listener) as found:
        settings = OtlpSettings.from_environment(
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{_FAR}:{far.port}",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "300",
                "OTEL_BSP_SCHEDULE_DELAY": "0",
            }
        )
        settings = replace(settings, backoff=Backoff(first_s=0.05, longest_s=0.1))
        exporter = OtlpExporter(settings, ReadyRequests(), events.append)
        exporter.export([request_of(1)])  # type: ignore[arg-type]
        exporter.flush(10)
        assert found == [1]
        far.cut()
        for number in (2, 3, 4):
            exporter.export([request_of(number)])  # type: ignore[arg-type]
        wait_for_event(events, "cannot send")
        assert exporter.stats().queued == 3
        far.mend()
        exporter.flush(20)
        exporter.close(5)
    assert exporter.stats().lost == {}
    assert exporter.stats().exported == 4
    assert set(found) == {1, 2, 3, 4}
    assert "no answer within 0.3 s" in events[0]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_collector_that_is_stopped_in_mid_air_costs_nothing(
    protocol: str, tmp_path: Path
) -> None:
    """SIGSTOP: the Collector's kernel accepts, nobody answers. Nothing is lost, and when it goes
    on all spans are in its file."""
    with started_collector(tmp_path, durable=True) as collector:
        exporter = exporter_to(collector, protocol)
        expected = set()
        assert collector._program is not None
        for round_trip in range(3):
            if round_trip == 1:
                collector._program.send_signal(signal.SIGSTOP)
            if round_trip == 2:
                collector._program.send_signal(signal.SIGCONT)
            batch, ids = batch_of_new_spans(100)
            expected |= ids
            exporter.export(batch)
            exporter.flush(0.5)
        exporter.close(20)
        found = ids_of(collector.wait_for(lambda spans: expected <= ids_of(spans).keys()))
    assert exporter.stats().lost == {}
    assert exporter.stats().exported == len(expected) == 300
    assert found.keys() == expected


class NarrowLine:
    """Carries bytes to a port, so many a second each way, until it is widened."""

    def __init__(self, port: int, bytes_a_second: float) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        # Nothing in between may hide how slow it is.
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.port = int(self.listener.getsockname()[1])
        self.carried = 0
        self._to = port
        self._pause_s = 1 / bytes_a_second
        self._wide = threading.Event()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def widen(self) -> None:
        self._wide.set()

    def close(self) -> None:
        self._wide.set()
        for one in (self.listener, *self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._sockets += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while some := source.recv(65536 if self._wide.is_set() else 1):
                self._wide.wait(self._pause_s)
                sink.sendall(some)
                self.carried += len(some)
            sink.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_collector_at_the_end_of_a_line_of_one_byte_a_second(
    protocol: str, tmp_path: Path
) -> None:
    """Attempts end with their timeout, though bytes move; export never waits; nothing is lost, and
    when the line is as wide as it should be every span is in the Collector's file."""
    events: list[str] = []
    with started_collector(tmp_path, durable=True) as collector:
        there = collector.grpc_endpoint if protocol == "grpc" else collector.http_endpoint
        line = NarrowLine(int(there.rpartition(":")[2]), 1.0)
        settings = OtlpSettings.from_environment(
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{line.port}",
                "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
                "OTEL_EXPORTER_OTLP_TIMEOUT": "1500",
                "OTEL_BSP_SCHEDULE_DELAY": "10",
            }
        )
        settings = replace(settings, backoff=Backoff(first_s=0.05, longest_s=0.2))
        exporter = OtlpExporter(settings, OtlpEncoder(), events.append)
        try:
            expected = set()
            for _ in range(5):
                batch, ids = batch_of_new_spans(200)
                expected |= ids
                began = time.thread_time()
                exporter.export(batch)
                assert time.thread_time() - began < 0.5
            wait_for_event(events, "cannot send")
            assert line.carried > 0
            assert exporter.stats().queued == 1000
            line.widen()
            exporter.close(60)
            collector.wait_for(lambda spans: expected <= ids_of(spans).keys())
        finally:
            line.close()
    assert exporter.stats().lost == {}
    assert exporter.stats().exported == 1000


def _stepped_clock(folder: Path) -> Path:
    """A library that gives a program a wall clock of its own."""
    library = folder / "stepped_clock.so"
    source = PROGRAMS / "stepped_clock.c"
    command = [tool("cc"), "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", str(library), str(source)], check=True)
    return library


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_a_clock_that_is_set_while_it_runs(tmp_path: Path, step_s: int) -> None:
    """Somebody sets the clock by an hour in the middle of the traffic: no span is lost, lasts
    longer than it did or ends before it begins; those before it have the old time, and soon all
    have the new one, at which they are sent as before."""
    ensure_built()
    step = tmp_path / "step"
    step.write_text("0")
    preload = {"LD_PRELOAD": str(_stepped_clock(tmp_path)), "STEPPED_CLOCK": str(step)}
    with (
        start_server("go-nethttp") as server,
        started_collector(tmp_path) as collector,
        started_agent(
            "--otlp", collector.http_endpoint, pids=[server.pid], json_lines=False, env=preload
        ) as agent,
    ):
        began = time.time()
        count = 0

        def wave() -> list[float]:
            """Twenty more requests; seconds since `began` at which all so far began."""
            nonlocal count
            run_client("go", server.base_url, 20, first=count + 1, path="/slow/{}?ms=2")
            count += 20
            spans = sorted(collector.wait_for_spans(count), key=_number_of)
            return [span.start_time_unix_nano / 1e9 - began for span in spans]

        before = wave()
        step.write_text(str(step_s))
        while abs(wave()[-1]) < 1800:
            assert time.time() - began < 60, "the step was never seen"
        after = wave()[-20:]
        took = time.time() - began
        ended = agent.stop()
    assert (ended.code, ended.lost) == (0, [])
    spans = collector.spans()
    assert len(spans) == len({span.span_id for span in spans}) == count
    for span in spans:
        assert 0.002 <= (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9 < took
    assert all(0 <= at < took for at in before)
    assert all(0 <= at - step_s < took for at in after)


def _number_of(span: Span) -> int:
    (path,) = (one.value.string_value for one in span.attributes if one.key == "url.path")
    return int(path.rpartition("/")[2])
