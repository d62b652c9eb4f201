"""What /proc says of real processes, and the rows of the process table."""

import http.client
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.semconv import attributes as stable
from opentelemetry.semconv._incubating import attributes as incubating

from unit.fake_processes import FakeSource
from waggle.exporter.messages import resource_message
from waggle.host import Host, architecture, this_host
from waggle.layout import PROCESS_EVENT, ProcessEventKind
from waggle.processes import Events, ProcessTable, instance_id
from waggle.procfs import TICK_NS, ProcessFacts, ProcFs, same_start, start_to_unix_ns
from waggle.spans import ResourceTable

HOST = Host({"host.name": "h", "host.id": "i"}, "i/b")
SLEEP = "import sys, time; print('ready', flush=True); time.sleep(600)"
FORK = "import os, sys, time\npid = os.fork()\nif pid: print(pid, flush=True)\ntime.sleep(600)\n"


@contextmanager
def running(
    code: str | Path,
    *arguments: str,
    env: dict[str, str] | None = None,
    cwd: str | None = None,
) -> Iterator[tuple[int, str]]:
    """A Python program (its text, or its file) that has printed its first line: (process id,
    line). Ends it, and the process whose id it printed."""
    program = [str(code)] if isinstance(code, Path) else ["-c", code]
    process = subprocess.Popen(
        [sys.executable, *program, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=env,
        cwd=cwd,
    )
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    try:
        yield process.pid, line
    finally:
        if line.isdigit():
            os.kill(int(line), signal.SIGKILL)
        process.kill()
        process.wait()
        process.stdout.close()


def facts(tgid: int, ticks: int, exe: str = "/srv/stock", **more: object) -> ProcessFacts:
    values = {"cmdline": (exe,), **more}
    return ProcessFacts(tgid, ticks * TICK_NS, exe=exe, **values)  # type: ignore[arg-type]


def table(
    source: FakeSource | ProcFs, *, capacity: int = 4096, max_resources: int = 8192
) -> ProcessTable:
    return ProcessTable(
        ResourceTable(), source, HOST, {}, capacity=capacity, max_resources=max_resources
    )


def events(*rows: tuple[ProcessEventKind, int, int, int, str]) -> Events:
    """(kind, tgid, start ns, parent, comm) as the kernel's ring would give them."""
    array = np.zeros(len(rows), PROCESS_EVENT)
    for record, (kind, tgid, start_ns, parent, comm) in zip(array, rows, strict=True):
        record["kind"], record["tgid"], record["process_start_ns"] = kind, tgid, start_ns
        record["parent_tgid"] = parent
        record["comm"][: len(comm)] = np.frombuffer(comm.encode(), np.uint8)
    return array


def columns(*pairs: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.array([tgid for tgid, _ in pairs], np.uint32),
        np.array([start for _, start in pairs], np.uint64),
    )


# --- /proc ------------------------------------------------------------------


def test_facts_of_a_real_process(tmp_path: os.PathLike[str]) -> None:
    """What is read of a process is what it was started with, and no secret of its environment."""
    env = {"OTEL_SERVICE_NAME": "shop", "PASSWORD": "hunter2"}
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with running(SLEEP, "--flag", env=env, cwd=str(tmp_path)) as (pid, _):
        found = ProcFs().facts(pid)
        after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        assert found is not None
        assert found.tgid == pid
        assert found.parent == os.getpid()
        assert found.exe == os.path.realpath(sys.executable)
        assert found.cmdline == (sys.executable, "-c", SLEEP, "--flag")
        assert found.environ == {"OTEL_SERVICE_NAME": "shop"}
        assert found.cwd == str(tmp_path)
        assert found.uid == os.geteuid()
        assert before - TICK_NS <= found.start_ns <= after
        assert not found.kernel_thread
        assert ProcFs().leader(pid) == pid
        assert pid in ProcFs().process_ids()
    assert ProcFs().facts(pid) is None


def test_ended_process_that_nobody_waited_for() -> None:
    """A zombie is known to have ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    found = ProcFs().facts(process.pid)
    process.wait()
    assert found is not None
    assert found.ended


def test_name_that_looks_like_numbers() -> None:
    """A process may call itself anything; the numbers of /proc are still read right."""
    code = "open('/proc/self/comm', 'w').write(') R 1 (1 2'); " + SLEEP
    with running(code) as (pid, _):
        found = ProcFs().facts(pid)
        assert found is not None
        assert found.comm == ") R 1 (1 2"
        assert found.parent == os.getpid()


def test_fork_and_exec_are_told_apart() -> None:
    """A forked child shares the program image of its parent; one that executed again does not."""
    with running(FORK) as (pid, child), running(FORK) as (other, _):
        source = ProcFs()
        parent, forked, stranger = source.facts(pid), source.facts(int(child)), source.facts(other)
        assert parent is not None
        assert forked is not None
        assert stranger is not None
        assert forked.forked_from(parent)
        assert not stranger.forked_from(parent)


@pytest.mark.parametrize(("family", "address"), [("AF_INET", "127.0.0.1"), ("AF_INET6", "::1")])
def test_listeners(family: str, address: str) -> None:
    """Whoever holds a listening socket is found by its port, in either family; a connected client
    is not."""
    code = (
        "import socket, sys, time\n"
        f"s = socket.create_server(({address!r}, 0), family=socket.{family})\n"
        "print(s.getsockname()[1], 'port', flush=True)\n"
        "time.sleep(600)\n"
    )
    with running(code) as (pid, line):
        port = int(line.split()[0])
        with socket.create_connection((address, port)):
            assert ProcFs().listeners([port]) == {pid: {port}}
        assert ProcFs().listeners([]) == {}


def test_http_server_by_its_port() -> None:
    """A real server that answers is the one its port leads to, and has a name and a runtime."""
    code = (
        "from http.server import *\n"
        "s = ThreadingHTTPServer(('127.0.0.1', 0), SimpleHTTPRequestHandler)\n"
        "print(s.server_port, 'port', flush=True)\n"
        "s.serve_forever()\n"
    )
    with running(code) as (pid, line):
        port = int(line.split()[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("HEAD", "/")
        assert connection.getresponse().status == 200
        connection.close()
        assert set(ProcFs().listeners([port])) == {pid}
        found = ProcFs().facts(pid)
        assert found is not None
        assert ProcFs().runtime(found).name == "cpython"


def test_starts_are_compared_by_ticks() -> None:
    """/proc rounds a start down to a tick, and may be off by the rest of one."""
    assert same_start(5 * TICK_NS, 5 * TICK_NS + TICK_NS - 1)
    assert same_start(5 * TICK_NS, 4 * TICK_NS)
    assert not same_start(5 * TICK_NS, 7 * TICK_NS)


# --- the table --------------------------------------------------------------


def test_resource_of_a_real_process() -> None:
    """A real process has the resource its environment and /proc describe."""
    env = {
        "OTEL_RESOURCE_ATTRIBUTES": "service.name=shop,service.version=1%2E2,"
        "deployment.environment.name=test,process.pid=1,telemetry.sdk.name=x"
    }
    with running(SLEEP, env=env) as (pid, _):
        now = time.time()
        rows = table(ProcFs())
        found = ProcFs().facts(pid)
        assert found is not None
        row = rows.row(pid, found.start_ns + 1234)  # events know the rest of the tick
        got = rows.table.rows[row].attributes
        assert rows.row(pid, found.start_ns) == row
        assert rows.service(row) == "shop"
        created = start_to_unix_ns(found.start_ns) / 1e9
    assert got["service.version"] == "1.2"
    assert got["deployment.environment.name"] == "test"
    assert got["process.pid"] == pid
    assert got["process.parent_pid"] == os.getpid()
    assert got["process.executable.path"] == os.path.realpath(sys.executable)
    assert got["process.runtime.name"] == "cpython"
    assert got["process.runtime.version"] == platform.python_version()
    assert got["process.runtime.description"] == f"CPython {platform.python_version()}"
    assert got["telemetry.sdk.name"] == "waggle"
    assert got["telemetry.sdk.language"] == "python"
    assert got["host.name"] == "h"
    assert "process.command_args" not in got
    assert abs(created - now) < 60
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(got["process.creation.time"])
    )


def conventions() -> set[str]:
    """Every attribute name of the published conventions package."""
    files = [
        file
        for package in (stable, incubating)
        for folder in package.__path__
        for file in Path(folder).glob("*.py")
    ]
    return {
        name
        for file in files
        for name in re.findall(r': Final = "([^"]+)"', file.read_text("utf-8"))
    }


def test_names_are_conventional() -> None:
    """Every resource attribute has a name of the published conventions."""
    where = {"container_id": "c" * 64, "unit": "shop"}
    source = FakeSource({7: facts(7, 1, "/usr/bin/python3.11", **where, uid=0, parent=1)})
    rows = ProcessTable(ResourceTable(), source, this_host(), {}, command_args=True)
    names = set(rows.table.rows[rows.row(7, TICK_NS)].attributes)
    assert {name for name in names if not name.startswith("waggle.")} <= conventions()
    assert {"service.name", "process.owner", "host.id", "os.type", "container.id"} <= names


def test_where_a_process_runs() -> None:
    """Its container and its systemd unit are told, each only where there is one."""
    where = {"container_id": "c" * 64, "unit": "shop"}
    source = FakeSource({7: facts(7, 1, **where), 8: facts(8, 2)})
    rows = table(source)
    told, bare = (rows.table.rows[rows.row(n, (n - 6) * TICK_NS)].attributes for n in (7, 8))
    assert (told["container.id"], told["waggle.systemd.unit"]) == ("c" * 64, "shop")
    assert not {"container.id", "waggle.systemd.unit"} & bare.keys()


def test_the_process_speaks_before_the_agent() -> None:
    """What a process says of itself wins over what the agent's environment says of all; what is
    measured wins over both."""
    said = "service.version=2,deployment.environment.name=blue,host.name=mine,process.pid=1"
    source = FakeSource({7: facts(7, 1, environ={"OTEL_RESOURCE_ATTRIBUTES": said})})
    agent = "service.version=1,team=shop,service.name=all,service.instance.id=x,host.name=theirs"
    rows = ProcessTable(ResourceTable(), source, HOST, {"OTEL_RESOURCE_ATTRIBUTES": agent})
    got = rows.table.rows[rows.row(7, TICK_NS)].attributes
    assert (got["service.version"], got["host.name"]) == ("2", "mine")
    assert (got["deployment.environment.name"], got["team"]) == ("blue", "shop")
    assert (got["service.name"], got["process.pid"]) == ("stock", 7)
    assert got["service.instance.id"] != "x"


def test_attributes_that_are_too_many_are_counted() -> None:
    """A process that says more than is kept has a resource that says how much was dropped."""
    said = ",".join(f"key{number}=x" for number in range(150))
    source = FakeSource({7: facts(7, 1, environ={"OTEL_RESOURCE_ATTRIBUTES": said})})
    rows = table(source)
    resource = rows.table.rows[rows.row(7, TICK_NS)]
    assert resource.dropped == 22
    assert resource_message(resource).dropped_attributes_count == 22
    assert sum(key.startswith("key") for key in resource.attributes) == 128


def test_a_worker_runs_the_program_of_its_master() -> None:
    """A row says what people call the program, a forked worker the same as its master."""
    command = ("/usr/bin/python3", "/usr/bin/gunicorn", "shop:app")
    master = facts(7, 10, "/usr/bin/python3.11", cmdline=command, parent=1)
    worker = facts(8, 20, "/usr/bin/python3.11", cmdline=command, parent=7)
    rows = table(FakeSource({7: master, 8: worker, 9: facts(9, 30)}))
    starts = {8: 20, 7: 10, 9: 30}
    found = [rows.table.rows[rows.row(tgid, tick * TICK_NS)] for tgid, tick in starts.items()]
    assert [one.program for one in found] == ["gunicorn", "gunicorn", ""]
    assert {one.attributes["service.name"] for one in found[:2]} == {"shop"}


def test_batch_lookup() -> None:
    """A batch gives each record its process's row, and asks about each process once."""
    source = FakeSource({n: facts(n, n, f"/srv/s{n}") for n in (1, 2, 3)})
    rows = table(source)
    pairs = [(n, n * TICK_NS + 5) for n in (3, 1, 2, 1, 1, 3)]
    found = rows.lookup(*columns(*pairs))
    assert [rows.service(row) for row in found] == ["s3", "s1", "s2", "s1", "s1", "s3"]
    assert found.dtype == np.intp
    assert sorted(source.asked) == [1, 2, 3]
    assert (rows.lookup(*columns(*pairs)) == found).all()
    assert sorted(source.asked) == [1, 2, 3]
    assert len(rows.lookup(*columns())) == 0


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), max_size=30))
def test_batch_is_its_records(pairs: list[tuple[int, int]]) -> None:
    """Looking up a batch is looking up each record, even if different processes share a start."""
    rows = table(FakeSource())
    starts = [(tgid, ticks * 10 * TICK_NS) for tgid, ticks in pairs]
    found = rows.lookup(*columns(*starts))
    assert [rows.row(*pair) for pair in starts] == list(found)
    assert len(set(found)) == len(set(pairs))


def test_id_used_again() -> None:
    """A process id with another start is another process, though the old one's spans still come."""
    source = FakeSource({7: facts(7, 10, "/srv/old")})
    rows = table(source)
    old = rows.row(7, 10 * TICK_NS)
    source.known[7] = facts(7, 500, "/srv/new")
    new = rows.row(7, 500 * TICK_NS)
    assert (rows.service(old), rows.service(new)) == ("old", "new")
    assert rows.row(7, 10 * TICK_NS) == old


def test_exec_makes_a_new_row() -> None:
    """After an exec the same process is another service; its earlier row stays as it was."""
    source = FakeSource({7: facts(7, 10, "/bin/sh")})
    rows = table(source)
    before = rows.row(7, 10 * TICK_NS)
    source.known[7] = facts(7, 10, "/srv/stock")
    assert rows.row(7, 10 * TICK_NS) == before
    rows.on_events(events((ProcessEventKind.EXEC, 7, 10 * TICK_NS + 3, 1, "stock")))
    after = rows.row(7, 10 * TICK_NS + 3)
    assert rows.service(before) == "sh"
    assert rows.service(after) == "stock"


def test_forked_worker_is_its_parents_service() -> None:
    """A worker that only forked, and overwrote its title and environment, keeps the name."""
    image = b"auxv of this exec"
    parent = facts(7, 10, "/usr/bin/python3.11", image=image, environ={"OTEL_SERVICE_NAME": "shop"})
    worker = facts(8, 20, "/usr/bin/python3.11", image=image, parent=7, cmdline=("worker one",))
    rows = table(FakeSource({7: parent, 8: worker}))
    row = rows.row(8, 20 * TICK_NS)
    assert rows.service(row) == "shop"
    attributes = rows.table.rows[row].attributes
    assert (attributes["process.pid"], attributes["process.parent_pid"]) == (8, 7)
    other = replace(worker, tgid=9, image=b"another exec")
    rows.source.known[9] = other  # type: ignore[attr-defined]
    assert rows.service(rows.row(9, 20 * TICK_NS)) == "worker"


def test_real_forked_worker() -> None:
    """The same with real processes: a forked child has its parent's name and its own id."""
    env = {"OTEL_SERVICE_NAME": "shop"}
    with running(FORK, env=env) as (_, child):
        rows = table(ProcFs())
        found = ProcFs().facts(int(child))
        assert found is not None
        row = rows.row(int(child), found.start_ns)
        assert rows.service(row) == "shop"
        assert rows.table.rows[row].attributes["process.pid"] == int(child)


SPAWN = """
import multiprocessing, os, time
def work():
    print(os.getpid(), flush=True)  # by the worker: its parent does not wait for its exec
    time.sleep(60)
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    worker = multiprocessing.Process(target=work, daemon=True)
    worker.start()
    time.sleep(60)
"""


def test_spawned_worker_is_its_parents_service(tmp_path: Path) -> None:
    """What multiprocessing starts anew, as `uvicorn --workers` does, has its parent's name."""
    script = tmp_path / "checkout.py"
    script.write_text(SPAWN)
    with running(script) as (parent, child):
        rows = table(ProcFs())
        found = ProcFs().facts(int(child))
        assert found is not None
        assert found.parent == parent
        assert rows.service(rows.row(int(child), found.start_ns)) == "checkout"


def test_process_gone_before_it_was_asked_about() -> None:
    """A vanished process is what events told: its parent's service, or its kernel name."""
    source = FakeSource({7: facts(7, 10, "/srv/shop")})
    rows = table(source)
    rows.row(7, 10 * TICK_NS)
    rows.on_events(
        events(
            (ProcessEventKind.FORK, 8, 20 * TICK_NS, 7, "shop"),
            (ProcessEventKind.FORK, 9, 30 * TICK_NS, 7, "shop"),
            (ProcessEventKind.EXEC, 9, 30 * TICK_NS, 7, "curl"),
        )
    )
    forked = rows.table.rows[rows.row(8, 20 * TICK_NS)].attributes
    executed = rows.table.rows[rows.row(9, 30 * TICK_NS)].attributes
    unknown = rows.table.rows[rows.row(5, 40 * TICK_NS)].attributes
    assert (forked["service.name"], forked["process.pid"]) == ("shop", 8)
    assert (executed["service.name"], executed["process.parent_pid"]) == ("curl", 7)
    assert (unknown["service.name"], unknown["process.pid"]) == ("unknown_service", 5)
    assert rows.stats.vanished == 3


def test_bounds_are_held_and_counted() -> None:
    """Processes, rows and services are bounded; what is over is counted, and no row is lost."""
    source = FakeSource({n: facts(n, n, f"/srv/s{n % 2}") for n in range(1, 60)})
    rows = table(source, capacity=8, max_resources=16)
    for n in range(1, 60):
        assert rows.service(rows.row(n, n * TICK_NS)) == f"s{n % 2}"
    assert len(rows) == 8
    assert rows.stats.evicted == 59 - 8
    assert len(rows.table.rows) == 16 + 2
    assert rows.stats.shared == 59 - 16
    assert not any(key.startswith("process.p") for key in rows.table.rows[-1].attributes)


def test_agents_own_attributes() -> None:
    """What the agent's operator says of all comes below what a process says of itself."""
    source = FakeSource({7: facts(7, 1, environ={"OTEL_RESOURCE_ATTRIBUTES": "a=process"})})
    agent = {"OTEL_RESOURCE_ATTRIBUTES": "a=agent,cloud.region=eu,service.name=waggle"}
    rows = ProcessTable(ResourceTable(), source, HOST, agent)
    got = rows.table.rows[rows.row(7, TICK_NS)].attributes
    assert got["a"] == "process"
    assert got["cloud.region"] == "eu"
    assert got["service.name"] == "stock"


def test_instance_ids() -> None:
    """One process has one service.instance.id whoever asks; another process, or boot, another."""
    one = instance_id(HOST, 7, 10 * TICK_NS)
    assert one == instance_id(HOST, 7, 10 * TICK_NS + 17)
    assert one != instance_id(HOST, 8, 10 * TICK_NS)
    assert one != instance_id(HOST, 7, 11 * TICK_NS)
    assert one != instance_id(Host({}, "i/other boot"), 7, 10 * TICK_NS)


def test_host() -> None:
    """This machine has the attributes every resource needs."""
    host = this_host()
    assert host.attributes["host.name"] == socket.gethostname()
    assert host.attributes["os.type"] == "linux"
    assert host.attributes["host.arch"] == architecture(os.uname().machine)
    assert all(host.attributes.values())
    assert architecture("x86_64") == "amd64"
    assert architecture("riscv64") == "riscv64"
