"""Starting a command: suspended, unharmed, and with its own exit code."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from waggle.errors import TargetError
from waggle.launch import Launched, forwarding

PYTHON = sys.executable


def ended(launched: Launched, timeout_s: float = 30) -> int | None:
    """Waits, bounded, for the end by the descriptor, and returns the code."""
    readable, _, _ = select.select([launched], [], [], timeout_s)
    assert readable, "the command did not end"
    return launched.poll()


def output_of(command: list[str], **more: list[int]) -> tuple[str, int | None]:
    """What a launched command prints, and its exit code."""
    reader, writer = os.pipe()
    saved = os.dup(1)
    os.dup2(writer, 1)
    try:
        launched = Launched(command, **more)
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(writer)
    launched.release()
    with os.fdopen(reader) as stream:
        text = stream.read()
    code = ended(launched)
    launched.close()
    return text, code


def test_waits_until_released(tmp_path: Path) -> None:
    """The command is a process before it runs, and runs under that id when it is released."""
    mark = tmp_path / "mark"
    launched = Launched(["sh", "-c", f"echo $$ > {mark}"])
    assert Path(f"/proc/{launched.pid}").exists()
    assert launched.poll() is None
    assert Path(f"/proc/{launched.pid}/exe").readlink() == Path(PYTHON).resolve()
    assert not mark.exists()
    launched.release()
    assert ended(launched) == 0
    assert mark.read_text() == f"{launched.pid}\n"
    launched.close()


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)]
)
def test_exit_codes(script: str, code: int) -> None:
    """The code is the command's own, or 128 plus the signal, however often it is asked for."""
    launched = Launched(["sh", "-c", script])
    launched.release()
    assert launched.wait() == code
    assert launched.poll() == code
    assert launched.wait() == code
    launched.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gunicor-that-is-not", "cannot start 'gunicor-that-is-not': no such program in PATH"),
        ("/nonexistent/x", "cannot start '/nonexistent/x': no such file"),
        ("/etc", "cannot start '/etc': it is a directory"),
        ("/etc/passwd", "cannot start '/etc/passwd': it is not executable; chmod +x"),
        ("4121", "cannot start '4121': no such program in PATH; to trace a running process"),
        ("", "no command after --"),
    ],
)
def test_no_such_program(name: str, message: str) -> None:
    """What cannot be started is said before anything is forked, with the reason."""
    with pytest.raises(TargetError) as caught:
        Launched([name])
    assert str(caught.value).startswith(message)


def test_sudo_changes_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under sudo, a program that is not found may be found by its full path."""
    monkeypatch.setenv("SUDO_USER", "alice")
    with pytest.raises(TargetError, match="sudo sets a PATH of its own"):
        Launched(["gunicor-that-is-not"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("#!/nonexistent/sh\n", "the interpreter in its first line is missing"),
        ("no program\n", "neither a program nor a script"),
    ],
)
def test_failing_exec(content: str, message: str, tmp_path: Path) -> None:
    """An exec that fails in the child comes back as our error, and the child is gone."""
    program = tmp_path / "program"
    program.write_text(content)
    program.chmod(0o755)
    launched = Launched([str(program)])
    with pytest.raises(TargetError, match=message):
        launched.release()
    assert launched.poll() == 127
    launched.close()


def signal_sets(status: str) -> dict[str, int]:
    """The signal masks of a /proc/PID/status."""
    return {
        line.split(":")[0]: int(line.split()[1], 16)
        for line in status.splitlines()
        if line.startswith(("SigBlk", "SigIgn", "SigCgt"))
    }


def test_signals_are_as_we_found_them() -> None:
    """The command has default handling where Python changed it, keeps what was ignored, and no
    signal is blocked."""
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        ours = signal_sets(Path("/proc/self/status").read_text())
        text, code = output_of(["cat", "/proc/self/status"])
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.signal(signal.SIGHUP, hangup)
    by_python = sum(1 << (number - 1) for number in (signal.SIGPIPE, signal.SIGXFSZ))
    assert code == 0
    assert ours["SigIgn"] & 1 << (signal.SIGHUP - 1)
    assert signal_sets(text) == {"SigBlk": 0, "SigIgn": ours["SigIgn"] & ~by_python, "SigCgt": 0}


def test_environment_and_group_are_unchanged() -> None:
    """The command has our environment, byte for byte, and our process group."""
    text, _ = output_of(["sh", "-c", "cut -d' ' -f5 /proc/self/stat; exec env -0"])
    group, _, environment = text.partition("\n")
    assert int(group) == os.getpgrp()
    ours = {f"{key}={value}" for key, value in os.environ.items() if key not in ("_", "SHLVL")}
    assert ours <= set(environment.split("\0"))


def test_descriptors() -> None:
    """Of our descriptors the command has those our caller meant for it, and not the one closed."""
    passed, closed = os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)
    private = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(passed, True)
    os.set_inheritable(closed, True)
    expected = {
        int(name)
        for name in os.listdir("/proc/self/fd")  # noqa: PTH208
        if _inheritable(int(name))
    } - {closed}
    try:
        code = "import os; print(*[f for f in range(256) if os.path.exists(f'/proc/self/fd/{f}')])"
        text, _ = output_of([PYTHON, "-c", code], close=[closed])
    finally:
        for descriptor in (passed, closed, private):
            os.close(descriptor)
    found = {int(word) for word in text.split()}
    assert passed in found
    assert not {closed, private} & found
    assert found <= expected


def _inheritable(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:  # the listing's own
        return False


def test_termination_is_forwarded() -> None:
    """SIGTERM to us reaches the command, which decides what to make of it."""
    script = "trap 'exit 5' TERM; echo ready >&3; while :; do read x; done"
    ready, ready_write = os.pipe()
    stuck, stuck_write = os.pipe()
    for descriptor in (ready_write, stuck):
        os.set_inheritable(descriptor, True)
    before = signal.getsignal(signal.SIGTERM)
    launched = Launched(
        ["bash", "-c", f"exec 3>&{ready_write} 0<&{stuck}; {script}"], close=[stuck_write]
    )
    with forwarding(launched):
        launched.release()
        assert os.read(ready, 6) == b"ready\n"
        os.kill(os.getpid(), signal.SIGTERM)
        assert ended(launched) == 5
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
    launched.close()
    for descriptor in (ready, ready_write, stuck, stuck_write):
        os.close(descriptor)


def test_exit_code_although_children_were_ignored() -> None:
    """A caller that ignores the ends of children does not cost us the exit code."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        launched = Launched(["sh", "-c", "exit 3"])
        launched.release()
        assert launched.wait() == 3
        launched.close()
    finally:
        signal.signal(signal.SIGCHLD, before)


AGENT = """
import os, sys
from waggle.launch import Launched
launched = Launched(["sh", "-c", "echo started; read line; echo $line"])
print(launched.pid, flush=True)
if "release" in sys.argv:
    launched.release()
sys.stdin.readline()
os.kill(os.getpid(), 9)
"""


def agent(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [PYTHON, "-c", AGENT, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def test_command_outlives_us() -> None:
    """The agent's death by kill -9 does not touch a command that runs."""
    process = agent("release")
    assert process.stdin is not None
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert process.stdout.readline() == "started\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert Path(f"/proc/{pid}").exists()
    process.stdin.write("alive\n")
    process.stdin.flush()
    assert process.stdout.readline() == "alive\n"
    assert process.stdout.read() == ""  # its end
    process.stdin.close()
    process.stdout.close()


def test_command_never_released_never_runs() -> None:
    """When the agent dies before it is ready, the command does not start untraced; it ends."""
    process = agent()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert process.stdout.read() == ""  # end of file: the waiting child is gone, and said nothing
    process.stdin.close()
    process.stdout.close()


def test_close_before_release() -> None:
    """Giving up before the start ends the waiting child."""
    launched = Launched(["sh", "-c", "exit 0"])
    pidfd = os.dup(launched.fileno())
    launched.close()
    readable, _, _ = select.select([pidfd], [], [], 30)
    os.close(pidfd)
    assert readable
    assert launched.wait() == 127


def test_killed_while_it_waited() -> None:
    """A child killed before its release is no error of ours; its code tells."""
    launched = Launched(["sh", "-c", "exit 0"])
    launched.send_signal(signal.SIGKILL)
    select.select([launched], [], [], 30)
    launched.release()
    assert launched.wait() == 137
    launched.close()
