"""Logs at their bounds: what is written stays as it is, what is lost is counted, and the real
Collector gets exactly the records."""

import hashlib
import json
import os
import re
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from .agent import Agent, parse_logs, started_agent
from .collector import started_collector
from .harness import lease_port
from .processes import Program, answers
from .servers import Place, Server
from .toolchain import PROGRAMS

_PROGRAMS = PROGRAMS / "logs"
_WITHIN_S = 60.0


class Writer:
    """A process that writes what it is told to."""

    def __init__(self, stdout: Path) -> None:
        self._read, write = os.pipe()
        with stdout.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, _PROGRAMS / "writer.py", str(write)],
                stdin=subprocess.PIPE,
                stdout=out,
                pass_fds=[write],
            )
        os.close(write)

    @property
    def pid(self) -> int:
        return self.process.pid

    def do(self, action: str, where: str | Path, what: int | str) -> int:
        """Bytes written."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([action, str(where), what]).encode() + b"\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self._read], [], [], _WITHIN_S)
        assert ready, "the writer does not answer"
        return int(os.read(self._read, 64))

    def write(self, where: str | Path, text: bytes) -> None:
        assert self.do("write", where, text.hex()) == len(text)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(_WITHIN_S)
        os.close(self._read)


@contextmanager
def watched_writer(
    tmp_path: Path, *flags: str, json_lines: bool = True
) -> Iterator[tuple[Writer, Agent]]:
    with (
        closing(Writer(tmp_path / "stdout.txt")) as writer,
        started_agent("--logs", *flags, pids=[writer.pid], json_lines=json_lines) as agent,
    ):
        yield writer, agent


def bodies(agent: Agent) -> list[str]:
    return [log.body for log in agent.logs()]


def test_lines_of_all_kinds(tmp_path: Path) -> None:
    """Long lines are whole up to the bound and cut beyond, parts are joined, a write of several
    lines is several records, what is no text is none: and the files have each byte as written."""
    log = tmp_path / "app.log"
    other = tmp_path / "data.txt"
    long, longest = b"l" * 9_000, b"m" * 60_000
    writes = [
        b"plain\n",
        b"in two ",
        b"parts\n",
        b"a\nb\nc\n",
        long + b"\n",
        longest + b"\n",
        b"\x00\x01\x02\xff\n",
        "größe\n".encode(),
        b"latin \xe9\n",
        b"end\n",
    ]
    with watched_writer(tmp_path) as (writer, agent):
        for text in writes:
            writer.write(log, text)
            writer.write("stdout", text)
            writer.write(other, text)
        agent.wait_for_logs(lambda logs: sum(log.body == "end" for log in logs) == 2)
        ended = agent.stop()
    wanted = ["plain", "in two parts", "a", "b", "c", long.decode(), "m" * 16_384]
    wanted += ["größe", "latin �", "end"]
    found = agent.logs()
    assert Counter(one.body for one in found) == Counter(wanted * 2)
    in_file = [one for one in found if "log.file.path" in one.attributes]
    assert Counter(one.body for one in in_file) == Counter(wanted)
    assert {one.attributes["log.file.path"] for one in in_file} == {str(log)}
    assert {one.attributes["log.file.name"] for one in in_file} == {"app.log"}
    on_stdout = [one for one in found if one.attributes.get("log.iostream") == "stdout"]
    assert len(on_stdout) == len(wanted)
    assert all(one.attributes["waggle.log.cut"] for one in found if len(one.body) == 16_384)
    assert any("2 log_binary" in loss for loss in ended.losses), ended.losses
    for file in (log, other, tmp_path / "stdout.txt"):
        assert file.read_bytes() == b"".join(writes)


def test_a_flood_is_bounded(tmp_path: Path) -> None:
    """Of a program that writes as fast as it can, so many records go out as one may write in a
    second; each write that was left out is counted, and not a byte of the file is missing."""
    log = tmp_path / "flood.log"
    size = 200_000_000
    with watched_writer(tmp_path, "--logs-rate", "500") as (writer, agent):
        written = writer.do("flood", log, size)
        writer.write(log, b"behind the flood\n")
        agent.wait_for_stderr("tracing")
        counted = agent.stop()
    assert log.stat().st_size == written + len(b"behind the flood\n")
    block = b"".join(b"%06d %s\n" % (n, b"x" * 992) for n in range(60))
    digest = hashlib.sha256(block * (written // len(block)) + b"behind the flood\n").digest()
    assert hashlib.sha256(log.read_bytes()).digest() == digest
    exported = len(agent.logs())
    lost = counted.count_lost("log_rate")
    writes = written // len(block)
    assert lost > 0
    # Every write is either in the records, 60 of them each, or counted.
    recorded = sum(body.startswith("000000 ") for body in bodies(agent))
    assert recorded + lost + counted.count_lost("log_ring_full") in (writes, writes + 1)
    assert exported <= 60 * recorded + 1


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf", "http/json"])
def test_the_collector_has_exactly_the_records(tmp_path: Path, protocol: str) -> None:
    """What a program logs is in the Collector's file: each record once, and no other, in the
    order of time, with its severity and the resource of its process."""
    log = tmp_path / "app.log"
    wanted = [f"2026-05-01T12:00:00.{n:06d}Z INFO shop line {n}" for n in range(500)]
    with started_collector(tmp_path) as collector:
        endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.http_endpoint
        flags = ["--otlp", endpoint, "--otlp-protocol", protocol]
        with watched_writer(tmp_path, *flags, json_lines=False) as (writer, agent):
            for line in wanted:
                writer.write(log, line.encode() + b"\n")
            agent.stop()
        assert agent.process.returncode == 0, agent.stderr()
        program = collector._program
        assert program is not None
        file = collector.logs_file
        program.wait_until(
            lambda: file.exists() and len(parse_logs(file.read_bytes())) >= len(wanted), _WITHIN_S
        )
        found = parse_logs(file.read_bytes())
    assert sorted(one.body for one in found) == wanted
    for one in found:
        assert (one.severity, one.severity_text) == (9, "INFO")
        assert one.time_ns == 1_777_636_800_000_000_000 + int(one.body[20:26]) * 1_000
        assert one.resource["process.pid"] == writer.pid
        assert one.attributes["log.file.path"] == str(log)
    times = [one.observed_ns for one in sorted(found, key=lambda one: one.body)]
    assert times == sorted(times)


def test_the_environment_asks_for_logs(tmp_path: Path) -> None:
    """OTEL_LOGS_EXPORTER and OTEL_EXPORTER_OTLP_LOGS_* do what they say, without a flag."""
    with started_collector(tmp_path) as collector, closing(Writer(tmp_path / "o.txt")) as writer:
        env = {
            "OTEL_LOGS_EXPORTER": "otlp",
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": collector.http_endpoint + "/v1/logs",
            "OTEL_BLRP_SCHEDULE_DELAY": "10",
        }
        with started_agent(pids=[writer.pid], env=env, json_lines=False) as agent:
            writer.write("stdout", b"hello\n")
            program = collector._program
            assert program is not None
            file = collector.logs_file
            program.wait_until(
                lambda: file.exists() and bool(parse_logs(file.read_bytes())), _WITHIN_S
            )
            agent.stop()
        assert [one.body for one in parse_logs(collector.logs_file.read_bytes())] == ["hello"]


@contextmanager
def _journal_server(folder: Path) -> Iterator[Server]:
    """The program with a journald and a syslog of its own, in a mount namespace of its own."""
    lease = lease_port()
    script = """set -e
        mount -t tmpfs none /run
        mkdir -p /run/systemd/journal /run/dev
        mount --rbind /dev /run/dev
        mount -t tmpfs none /dev
        for name in null urandom; do touch /dev/$name; mount --bind /run/dev/$name /dev/$name; done
        exec "$@"
        """
    place = Place("ipv4", lease.port, folder)
    command: list[str | Path] = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable]
    command += [_PROGRAMS / "journal_logs.py", str(lease.port), folder / "received"]
    program = Program("journal", command)
    try:
        server = Server("journal", program, place.port, place.base_url, None)
        program.wait_until(lambda: answers(server.connection()), _WITHIN_S)
        yield server
    finally:
        program.stop()
        lease.release()


def test_journald_and_syslog(tmp_path: Path) -> None:
    """Entries for journald, of several lines, and for syslog are records with the severity of
    their priority and the ids of their request; journald gets what it would have got."""
    with (
        _journal_server(tmp_path) as server,
        started_agent("--logs", pids=[server.pid]) as agent,
    ):
        for n in range(1, 51):
            assert server.get(f"/journal/{n}")[0] == 200
            assert server.get(f"/syslog/{n + 1000}")[0] == 200
        agent.wait_for_logs(lambda logs: len(logs) >= 100)
        agent.settle(100)
        spans = {span.span_id: span for span in agent.stop().spans}
    found = agent.logs()
    assert len(found) == 100
    for one in found:
        number = int(re.search(r"request=(\d+)", one.body)[1])  # type: ignore[index]
        assert spans[one.span_id].number == number
        if number > 1000:
            assert (one.body, one.severity) == (f"request={number}", 17)
        else:
            assert (one.body, one.severity) == (f"request={number}\nof two lines", 13)
            assert one.attributes["code.line.number"] == 31
    received = [bytes.fromhex(line) for line in (tmp_path / "received").read_text().split()]
    assert len(received) == 100
    assert sum(b"of two lines" in datagram for datagram in received) == 50
