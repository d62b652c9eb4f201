"""`waggle run` as a user meets it: commands, selectors, errors, exit codes, the end by force."""

import http.client
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from .agent import WAGGLE, Agent, environment, parse_line, started_agent, started_as
from .collector import Collector, started_collector
from .harness import (
    PortLease,
    Program,
    Server,
    ensure_built,
    lease_port,
    run_client,
    start_client,
    start_server,
)
from .processes import ROOT, answers
from .toolchain import BIN, VENV

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
# What `waggle run` asks for instead of root, and what each is for is in docs and `waggle check`.
CAPABILITIES = ("bpf", "perfmon", "sys_ptrace", "dac_read_search")
BPFTOOL = shutil.which("bpftool", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
TIMEOUT_S = 180.0


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_built()


def waggle(
    *arguments: str | Path, before: Sequence[str | Path] = (), **changes: str
) -> "subprocess.CompletedProcess[str]":
    """A whole `waggle run` that ends by itself."""
    command = [*before, WAGGLE, "run", *arguments]
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=environment(changes),
        timeout=TIMEOUT_S,
        check=False,
    )


def a_pid_of_nobody() -> int:
    """The id of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


@contextmanager
def listening_on(port: int, program: Path = BIN / "nethttp") -> Iterator[Program]:
    """The Go server on a port that the test chose, once it answers."""
    running = Program("cli-server", [program, "--listen", f"127.0.0.1:{port}"])
    try:
        running.wait_until(lambda: answers(connection_to(port)), 60)
        yield running
    finally:
        running.stop()


def connection_to(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=30)


@pytest.fixture
def port() -> Iterator[int]:
    lease: PortLease = lease_port()
    yield lease.port
    lease.release()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with start_server("go-nethttp") as running:
        yield running


def numbers_of(agent: Agent, pid: int, count: int) -> set[int | None]:
    """The numbers that process `pid` served, once there are so many or time is up."""
    agent.settle(count)
    return {span.number for span in agent.stop().spans if span.pid == pid and span.number}


# --- a command ---


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("true", 0),
        ("exit 7", 7),
        ("kill -KILL $$", 128 + signal.SIGKILL),
        ("kill -SEGV $$", 128 + signal.SIGSEGV),
    ],
)
def test_the_exit_code_is_the_commands(script: str, code: int) -> None:
    """waggle ends with the command's code, or with 128 plus the signal that killed it."""
    done = waggle("--quiet", "--", "sh", "-c", script)
    assert done.returncode == code, done.stderr


def test_a_command_gets_our_sigterm() -> None:
    """SIGTERM goes to the command; waggle waits for its end and has its code."""
    script = "trap 'echo caught; exit 9' TERM; echo started; while :; do sleep 0.05; done"
    with started_agent("--quiet", command=["sh", "-c", script], json_lines=False) as agent:
        wait_until(lambda: b"started" in agent.stdout.read_bytes())
        agent.process.send_signal(signal.SIGTERM)
        assert agent.wait_for_end() == 9
    assert agent.stdout.read_bytes() == b"started\ncaught\n"


def test_a_commands_output_is_untouched(tmp_path: Path) -> None:
    """Stdout and stderr of the command are what it wrote, byte for byte; ours comes after on
    stderr."""
    content = bytes(range(256)) * 50
    (tmp_path / "bytes").write_bytes(content)
    command = ["sh", "-c", f"cat {tmp_path}/bytes; printf 'a word' >&2"]
    done = subprocess.run(
        [WAGGLE, "run", "--quiet", "--", *command], capture_output=True, check=False
    )
    assert done.stdout == content
    assert done.stderr.count(b"a word") == 1


PROBE = """
import json, os, signal
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
names = ["SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb",
         "NoNewPrivs", "Seccomp", "Groups", "Uid", "Gid", "Umask"]
fds = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
       if os.path.exists(f"/proc/self/fd/{fd}")}
print(json.dumps({
    "environ": dict(os.environ), "cwd": os.getcwd(), "fds": sorted(fds), "session": os.getsid(0),
    "group": os.getpgrp(), "nice": os.nice(0), **{name: status.get(name) for name in names},
}, sort_keys=True))
"""


def test_a_command_finds_the_world_as_without_us() -> None:
    """Environment, working directory, descriptors, session, process group, signals, capabilities
    and all else that a program inherits are the same with waggle before it and without."""
    probe = [sys.executable, "-c", PROBE]
    env = environment(
        {"OTEL_SERVICE_NAME": "probe", "PECULIAR": "a=b c\n\N{GREEK SMALL LETTER OMEGA}"}
    )
    plain = subprocess.run(probe, capture_output=True, text=True, env=env, check=True)
    wrapped = subprocess.run(
        [WAGGLE, "run", "--quiet", "--", *probe],
        capture_output=True,
        text=True,
        env=env,
        check=True,
    )
    assert json.loads(wrapped.stdout) == json.loads(plain.stdout)


def test_a_command_is_traced_from_its_first_request(server: Server) -> None:
    """Every request of a program that lives for a moment is there, and of its child as well."""
    program = ROOT / "tests/peers/programs/python/client_curl.py"
    command: list[str | Path] = [VENV / "bin" / "python", program, server.base_url, "30", "2"]
    with started_agent(command=command) as agent:
        ended = agent.wait()
    assert ended.code == 0
    assert sorted(span.number or 0 for span in ended.spans) == list(range(1, 31))
    assert {span.service for span in ended.spans} == {"curl"}


# --- selectors ---


def test_a_port_in_use(port: int) -> None:
    """--port traces whoever listens there already."""
    with listening_on(port) as program, started_agent(f"--port={port}") as agent:
        run_client("go", f"http://127.0.0.1:{port}", 20)
        assert numbers_of(agent, program.pid, 20) == set(range(1, 21))


def test_a_port_that_is_not_in_use_yet(port: int) -> None:
    """--port says that it waits, and traces from the first request who comes to listen there."""
    with started_agent(f"--port={port}") as agent:
        assert f"waiting for a process that listens on port {port}" in agent.stderr()
        with listening_on(port) as program:
            run_client("go", f"http://127.0.0.1:{port}", 20)
            assert numbers_of(agent, program.pid, 20) == set(range(1, 21))


@pytest.mark.parametrize("is_there", [True, False], ids=["running", "started-later"])
@pytest.mark.parametrize("flag", ["--exe=*/{}", "--exe={}", "--name={}"])
def test_an_executable_or_a_name(flag: str, is_there: bool, port: int, tmp_path: Path) -> None:
    """--exe and --name trace what runs that, or calls itself that, now and later, and no other."""
    program = tmp_path / "peculiar"
    shutil.copy2(BIN / "nethttp", program)
    with ExitStack() as stack:
        other = stack.enter_context(start_server("go-nethttp"))
        if is_there:
            running = stack.enter_context(listening_on(port, program))
        agent = stack.enter_context(started_agent(flag.format("peculiar")))
        if not is_there:
            running = stack.enter_context(listening_on(port, program))
        run_client("go", f"http://127.0.0.1:{port}", 20)
        run_client("go", other.base_url, 20)
        agent.settle(20)
        spans = [span for span in agent.stop().spans if span.number]
    assert {span.pid for span in spans} == {running.pid}
    assert sorted(span.number or 0 for span in spans) == list(range(1, 21))


def test_an_excluded_program_is_never_traced(port: int, tmp_path: Path) -> None:
    """--exclude wins over what picks a process, for its children too."""
    program = tmp_path / "peculiar"
    shutil.copy2(BIN / "nethttp", program)
    with (
        start_server("go-nethttp") as other,
        listening_on(port, program) as excluded,
        started_agent(f"--port={port}", f"--port={other.port}", "--exclude=*/peculiar") as agent,
    ):
        run_client("go", f"http://127.0.0.1:{port}", 20)
        run_client("go", other.base_url, 20)
        assert numbers_of(agent, other.pid, 20) == set(range(1, 21))
        assert not [span for span in agent.spans() if span.pid == excluded.pid]


def test_everything_but_itself_and_sshd(port: int, tmp_path: Path) -> None:
    """Without a selector, servers and clients that run and that come are all traced; neither a
    program called sshd nor the agent, which speaks HTTP to a Collector, is."""
    sshd = tmp_path / "sshd"
    shutil.copy2(BIN / "nethttp", sshd)
    with (
        start_server("flask-gunicorn-gthread") as flask,
        started_collector(tmp_path) as collector,
        listening_on(port, sshd) as shell,
        started_agent(f"--otlp={collector.http_endpoint}") as agent,
        start_server("go-nethttp") as go,
    ):
        assert "tracing everything on this machine" in agent.stderr()
        done = [
            run_client("requests", flask.base_url, 20, first=100),
            run_client("go", go.base_url, 20, first=200),
            run_client("go", f"http://127.0.0.1:{port}", 20, first=300),
        ]
        flask_pids = set(flask.pids())
        # Whatever else runs on this machine is traced as well.
        agent.settle(100, pids={*flask_pids, go.pid, *(client.pid for client in done)})
        collector.wait_for_spans(100)
        ended = agent.stop()
    servers = {*flask_pids, go.pid}
    served = {s.number for s in ended.spans if s.kind == "server" and s.pid in servers}
    assert served >= {*done[0].numbers, *done[1].numbers}
    for client in done:
        asked = {s.number for s in ended.spans if s.kind == "client" and s.pid == client.pid}
        assert asked == set(client.numbers)
    assert not {agent.pid, shell.pid} & {span.pid for span in ended.spans}


def test_the_last_traced_process_ends_the_run(server: Server) -> None:
    """When every process that was picked by its id has ended, so does the run, with 0."""
    with (
        start_client("go", server.base_url, 10, gate=0) as client,
        started_agent(pids=[client.pid]) as agent,
    ):
        client.wait_for_gate()
        client.open_gate()
        client.finish()
        ended = agent.wait()
    assert (ended.code, len(ended.spans)) == (0, 10)
    assert "every process that was traced has ended" in ended.stderr


# --- errors ---


def test_a_process_that_is_not_there() -> None:
    """--pid of nobody: code 5, the id and where to look."""
    pid = a_pid_of_nobody()
    done = waggle(f"--pid={pid}")
    assert (done.returncode, done.stdout) == (5, "")
    assert f"no process {pid}" in done.stderr
    assert "ps -e" in done.stderr


def test_a_command_that_cannot_start(tmp_path: Path) -> None:
    """A program that is not there, or cannot be executed: code 5 and why."""
    text = tmp_path / "text"
    text.write_text("no program\n")
    done = waggle("--", "no-such-program")
    assert (done.returncode, "no such program in PATH" in done.stderr) == (5, True)
    done = waggle("--", text)
    assert (done.returncode, "chmod +x" in done.stderr) == (5, True)
    text.chmod(0o755)
    done = waggle("--", text)
    assert done.returncode == 5, done.stderr
    assert "#!" in done.stderr


def test_a_full_disk(server: Server) -> None:
    """`--json > /dev/full`: the run ends with code 1, the reason, how many spans are lost and the
    way out; a traceback is no message."""
    with Path("/dev/full").open("wb") as full:
        done = run_that_cannot_write(server, full)
    assert done.returncode == 1, done.stderr
    found = re.search(r"^waggle: error: cannot write spans to stdout: (.*)", done.stderr, re.M)
    assert found, done.stderr
    assert re.match(r"No space left on device \(\d+ spans lost\); make room", found[1])
    assert "Traceback" not in done.stderr


def run_that_cannot_write(
    server: Server, stdout: IO[bytes], reader: int | None = None
) -> "subprocess.CompletedProcess[str]":
    """`waggle run --json` beside a server that goes on after ten requests. reader: a descriptor
    to close as soon as the agent is ready."""
    ready, write = os.pipe()
    process = subprocess.Popen(
        [WAGGLE, "run", "--json", f"--pid={server.pid}", f"--ready-fd={write}"],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        pass_fds=[write],
    )
    os.close(write)
    stdout.close()
    try:
        assert select.select([ready], [], [], TIMEOUT_S)[0]
        if reader is not None:
            os.close(reader)
        run_client("go", server.base_url, 10)
        _, said = process.communicate(timeout=TIMEOUT_S)
    finally:
        os.close(ready)
        process.kill()
        process.wait()
    return subprocess.CompletedProcess(process.args, process.returncode, "", said)


def test_a_reader_that_has_gone_ends_the_run(server: Server) -> None:
    """`--json | head -c 1`: the run ends, without a complaint, when nobody reads any more."""
    reading, writing = os.pipe()
    done = run_that_cannot_write(server, os.fdopen(writing, "wb"), reading)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot: 8080\n", ["'prot'", "'port'"]),
        ("port: eighty\n", ["port", "eighty"]),
        ("port: [8080\n", ["waggle.yaml", "line"]),
    ],
)
def test_a_mistake_in_the_settings_file(text: str, words: list[str], tmp_path: Path) -> None:
    """An unknown key, a wrong value, or no YAML: code 2, the file and the nearest thing."""
    path = tmp_path / "waggle.yaml"
    path.write_text(text)
    done = waggle("--config", path)
    assert done.returncode == 2, done.stderr
    assert all(word in done.stderr for word in [*words, str(path)]), done.stderr


@pytest.mark.parametrize(
    "protocol", [pytest.param("http/protobuf", marks=pytest.mark.slow), "grpc"]
)
def test_an_endpoint_that_refuses(protocol: str, server: Server, port: int) -> None:
    """Nobody listens at the endpoint: said once, tracing goes on, and the spans are counted as
    lost at the end; that is no reason to end with another code."""
    with started_agent(
        f"--otlp=http://127.0.0.1:{port}", f"--otlp-protocol={protocol}", pids=[server.pid]
    ) as agent:
        run_client("go", server.base_url, 30)
        agent.wait_for(lambda spans: len(spans) == 30)
        agent.wait_for_stderr("cannot send")
        run_client("go", server.base_url, 30)
        agent.wait_for(lambda spans: len(spans) == 60)
        ended = agent.stop()
    assert ended.code == 0
    assert ended.stderr.count("cannot send") == 1
    assert [line for line in ended.losses if line.startswith("60 otlp")], ended.losses


# --- privilege ---


def test_without_privilege() -> None:
    """A user without capabilities: code 3, what is missing and how to get it."""
    done = waggle(before=NOBODY)
    assert (done.returncode, done.stdout) == (3, "")
    for word in ("CAP_BPF", "CAP_PERFMON", "sudo", "setcap", "AmbientCapabilities"):
        assert word in done.stderr


def with_capabilities(names: Sequence[str]) -> list[str]:
    """What makes a program run as nobody with these capabilities only."""
    caps = ",".join(f"+{name}" for name in names)
    sets = [f"--inh-caps=-all,{caps}", f"--ambient-caps={caps}", f"--bounding-set=-all,{caps}"]
    return [*NOBODY, *sets]


def test_capabilities_instead_of_root(server: Server) -> None:
    """As nobody with four capabilities: everything of a server of root's is captured, under its
    own name; none is kept that is not needed any more."""
    before = with_capabilities(CAPABILITIES)
    with started_agent(pids=[server.pid], before=before) as agent:
        status = Path(f"/proc/{agent.pid}/status").read_text()
        run_client("go", server.base_url, 20)
        agent.settle(20)
        ended = agent.stop()
    assert sorted(span.number or 0 for span in ended.spans) == list(range(1, 21))
    assert {span.service for span in ended.spans} == {"nethttp"}
    assert {span.resource["process.executable.name"] for span in ended.spans} == {"nethttp"}
    kept = int(re.search(r"CapPrm:\s+(\w+)", status)[1], 16)  # type: ignore[index]
    assert kept == 1 << 19 | 1 << 2  # CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH
    assert re.search(r"CapBnd:\s+0*(\w+)|$", status)
    assert re.search(r"NoNewPrivs:\s+1", status)


@pytest.mark.parametrize("lacking", ["bpf", "perfmon"])
def test_each_capability_is_really_needed(lacking: str) -> None:
    """Without one of those that loading needs: code 3 and its name, not that of the other."""
    others = [name for name in CAPABILITIES if name != lacking]
    done = waggle(before=with_capabilities(others))
    assert done.returncode == 3, done.stderr
    assert f"missing CAP_{lacking.upper()}:" in done.stderr


def test_without_the_capabilities_for_names_it_still_traces(server: Server) -> None:
    """With only what loading needs, another user's program is captured all the same; its name is
    what anybody may read."""
    before = with_capabilities(["bpf", "perfmon"])
    with started_agent(pids=[server.pid], before=before) as agent:
        run_client("go", server.base_url, 20)
        agent.settle(20)
        ended = agent.stop()
    assert sorted(span.number or 0 for span in ended.spans) == list(range(1, 21))
    assert {span.service for span in ended.spans} == {"nethttp"}


# --- the end by force ---


def test_nothing_outlives_a_kill(server: Server) -> None:
    """kill -9 under load: soon no program, link or map of ours is in the kernel, and no request has
    failed."""
    if BPFTOOL is None:
        pytest.fail("bpftool is not installed: apt-get install bpftool")
    with (
        start_client("go", server.base_url, 10**9, 8) as client,
        started_agent(pids=[server.pid, client.pid]) as agent,
    ):
        agent.wait_for(lambda spans: len(spans) > 100)
        held = held_for_good_by(agent.pid)
        assert len(held["link"]) >= 5
        assert {"socket_send", "syscall_enter"} & names_of(held["prog"])
        assert client.program.process.poll() is None, "the load ended too early"
        agent.kill()
        wait_until(lambda: not any(still_there(held).values()))
        assert client.program.process.poll() is None, "the load ended too early"
        client.end_early()


Held = dict[str, set[int]]


def held_by(pid: int) -> Held:
    """The ids of programs, links and maps of which this process holds descriptors."""
    held: Held = {"prog": set(), "link": set(), "map": set()}
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            text = entry.read_text()
        except FileNotFoundError:  # closed since
            continue
        # A link's entry has its program's id too.
        for kind, number in re.findall(r"^(prog|link|map)_id:\s+(\d+)", text, re.M):
            held[kind].add(int(number))
    return held


def held_for_good_by(pid: int, timeout_s: float = 60) -> Held:
    """What it holds and the kernel lists, read until both agree: an agent also lets go of links
    while it runs, such as probes that turned out to be of no use in a program."""
    deadline = time.monotonic() + timeout_s
    while still_there(held := held_by(pid)) != held:
        assert time.monotonic() < deadline, "the kernel never listed what the agent holds"
    return held


def names_of(programs: set[int]) -> set[str]:
    return {one["name"] for one in bpf_objects("prog") if one["id"] in programs}


def still_there(held: Held) -> Held:
    """What of it is in the kernel now."""
    return {kind: ids & {one["id"] for one in bpf_objects(kind)} for kind, ids in held.items()}


def bpf_objects(kind: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [str(BPFTOOL), kind, "show", "--json"], capture_output=True, text=True, check=True
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def wait_until(is_so: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"not so after {timeout_s:g} s"
        time.sleep(0.02)


# --- what the help says ---


def help_text() -> str:
    done = subprocess.run([WAGGLE, "run", "--help"], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_exit_codes_of_the_help_are_the_real_ones(server: Server) -> None:
    """Each code that the help lists is what such a run ends with, and it lists no other."""
    listed = help_text().partition("EXIT CODES")[2].partition("With a command")[0]
    codes = dict(re.findall(r"(\d)\s+([a-z][^\d]*?)(?=\s{2,}|$)", " ".join(listed.split("\n"))))
    ended = {
        "0": waggle("--quiet", "--", "true"),
        "1": failed_in_writing(server),
        "2": waggle("--no-such-flag"),
        "3": waggle(before=NOBODY),
        "5": waggle(f"--pid={a_pid_of_nobody()}"),
    }
    for code, done in ended.items():
        assert done.returncode == int(code), (code, codes[code], done.stderr)
    assert codes.keys() == {*ended, "4"}
    if refused := unsupported_capture():
        assert waggle(f"--capture={refused}", "--", "true").returncode == 4


def failed_in_writing(server: Server) -> "subprocess.CompletedProcess[str]":
    with Path("/dev/full").open("wb") as full:
        return run_that_cannot_write(server, full)


def unsupported_capture() -> str | None:
    """A flavour that this kernel does not have, by what `waggle check` says."""
    done = subprocess.run([WAGGLE, "check"], capture_output=True, text=True, check=True)
    possible = re.search(r"possible: ([\w, ]+)\)", done.stdout)
    assert possible, done.stdout
    lacking = {"socket", "probe", "syscall"} - set(possible[1].split(", "))
    return min(lacking, default=None)


def examples() -> list[str]:
    return [line.strip() for line in help_text().splitlines() if line.startswith("    sudo ")]


GUNICORN_APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "6")])
    return [b"n=shop"]
"""


@dataclass(frozen=True)
class Scene:
    """What the placeholders of the examples stand for here."""

    folder: Path
    shop: Server
    other: Server
    collector: Collector
    gunicorn_port: int

    def filled_in(self, example: str) -> str:
        """The example as a shell command here: real ids, ports and paths; we are root already."""
        (pay_http, pay_grpc) = (
            endpoint.rpartition(":")[2]
            for endpoint in (self.collector.http_endpoint, self.collector.grpc_endpoint)
        )
        values = {
            "sudo ": "exec env ",
            "waggle run": f"{WAGGLE} run --ready-fd=@ready@",
            "4121": str(self.shop.pid),
            "4130": str(self.other.pid),
            "8080": str(self.shop.port),
            ":4318": f":{pay_http}",
            ":4317": f":{pay_grpc}",
        }
        for placeholder, value in values.items():
            example = example.replace(placeholder, value)
        return example

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
            "GUNICORN_CMD_ARGS": f"--bind 127.0.0.1:{self.gunicorn_port} --no-control-socket",
        }


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("scene")
    lease = lease_port()
    (folder / "shop.py").write_text(GUNICORN_APP)
    with (
        start_server("go-nethttp", env={"OTEL_SERVICE_NAME": "checkout"}) as shop,
        start_server("go-nethttp") as other,
        started_collector(folder) as collector,
    ):
        (folder / "waggle.yaml").write_text(f"port: {shop.port}\nexe: ['*/curl']\njson: true\n")
        yield Scene(folder, shop, other, collector, lease.port)
    lease.release()


@contextmanager
def running(example: str, scene: Scene) -> Iterator[Agent]:
    """The example, filled in, once it is ready."""
    line = scene.filled_in(example)
    with started_as(
        lambda ready: ["sh", "-c", line.replace("@ready@", str(ready))],
        env=scene.environment(),
        cwd=scene.folder,
    ) as agent:
        yield agent


def example_of(start: str) -> str:
    """The one example that begins so; the shortest, where one begins as another does."""
    return min((line for line in examples() if line.startswith(start)), key=len)


def test_example_with_a_command(scene: Scene) -> None:
    """`waggle run -- gunicorn shop:app` shows the first request of the started server."""
    with running(example_of("sudo waggle run -- gunicorn"), scene) as agent:
        url = f"http://127.0.0.1:{scene.gunicorn_port}/first"
        wait_until(lambda: answers(connection_to(scene.gunicorn_port), "/first"))
        agent.wait_for_stdout("GET /first")
        agent.process.send_signal(signal.SIGTERM)
        ended = agent.wait_for_end()
    assert ended == 0, agent.stderr()
    assert "shop" in agent.stdout.read_text(), url


_DRAWN = "GET /n/{n} "  # the shop's requests, by their route


@pytest.mark.parametrize(
    "start", ["sudo waggle run --pid", "sudo waggle run --port"], ids=["pid", "port-exe-name"]
)
def test_example_that_draws(start: str, scene: Scene) -> None:
    """What runs already, by id, by port or by name: its traces are drawn."""
    with running(example_of(start), scene) as agent:
        run_client("go", scene.shop.base_url, 3, first=4711)
        wait_until(lambda: agent.stdout.read_text().count(_DRAWN) >= 3)
    assert "checkout" in agent.stdout.read_text()


def test_example_that_draws_everything(scene: Scene) -> None:
    """`waggle run`: whatever runs is drawn. Of a busy machine's traces some are left out, so
    requests are made until one is seen."""

    def is_drawn() -> bool:
        run_client("go", scene.shop.base_url, 1, first=4711)
        return _DRAWN in agent.stdout.read_text()

    with running(example_of("sudo waggle run"), scene) as agent:
        wait_until(is_drawn)
        agent.process.send_signal(signal.SIGINT)
        assert agent.wait_for_end() == 0


def test_example_that_samples(scene: Scene) -> None:
    """`--sample 'path=/health*:0' --sample 0.1 --tail ...`: some traces are drawn, of others the
    summary says that they were not sampled."""

    def is_drawn() -> bool:
        run_client("go", scene.shop.base_url, 20, first=4720)
        return _DRAWN in agent.stdout.read_text()

    with running(example_of("sudo waggle run --sample"), scene) as agent:
        wait_until(is_drawn)
        agent.process.send_signal(signal.SIGINT)
        assert agent.wait_for_end() == 0
    assert re.search(r"unsampled  [\d,]+ spans", agent.stderr()), agent.stderr()


@pytest.mark.parametrize(
    ("start", "first"),
    [("sudo waggle run --otlp", 5000), ("sudo OTEL_EXPORTER_OTLP_ENDPOINT", 6000)],
    ids=["http", "grpc"],
)
def test_example_with_a_collector(start: str, first: int, scene: Scene) -> None:
    """The Collector gets every span, and nothing is printed on stdout."""
    with running(example_of(start), scene) as agent:
        run_client("go", scene.shop.base_url, 3, first=first)
        wanted = {f"/n/{n}" for n in range(first, first + 3)}
        scene.collector.wait_for(lambda spans: wanted <= paths_of(spans))
    assert agent.stdout.read_bytes() == b""


def paths_of(spans: Iterable[Span]) -> set[str]:
    return {
        one.value.string_value for span in spans for one in span.attributes if one.key == "url.path"
    }


def test_example_with_a_file(scene: Scene) -> None:
    """`--json --pid ... > spans.jsonl` leaves a file with each span, readable as OTLP."""
    example = next(line for line in examples() if line.endswith("> spans.jsonl"))
    with running(example, scene) as agent:
        run_client("go", scene.shop.base_url, 3, first=7000)
        path = scene.folder / "spans.jsonl"
        wait_until(lambda: path.read_bytes().count(b"/n/70") >= 3)
        assert agent.stop().code == 0
    spans = [span for line in path.read_text().splitlines() for span in parse_line(line)]
    assert sorted(span.number or 0 for span in spans) == [7000, 7001, 7002]


def test_example_with_a_settings_file(scene: Scene) -> None:
    """`--config waggle.yaml --exclude '*/curl'`: what the file picks is traced, but for what the
    flag excludes."""
    with running(example_of("sudo waggle run --config"), scene) as agent:
        run_client("curl", scene.shop.base_url, 3, first=8000)
        agent.settle(3)
        ended = agent.stop()
    assert sorted(span.number or 0 for span in ended.spans) == [8000, 8001, 8002]
    assert {(span.service, span.kind) for span in ended.spans} == {("checkout", "server")}


def test_every_example_is_tried_above() -> None:
    """The help has no example but these."""
    tried = [
        *("sudo waggle run -- gunicorn", "sudo waggle run --pid", "sudo waggle run --port"),
        *("sudo waggle run --otlp", "sudo OTEL_EXPORTER_OTLP_ENDPOINT", "sudo waggle run --sample"),
        *("sudo waggle run --config", "sudo waggle run --json", "sudo waggle run"),
    ]
    assert sorted(map(example_of, tried)) == sorted(examples())
