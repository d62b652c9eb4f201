"""Boot a kernel over this machine's file system, run one command in it, bring back its answer.

The guest sees the host's files read-only, with throw-away overlays where programs expect
to write; one folder is shared for writing, and what the command leaves there comes back.
"""

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from . import tools
from .errors import MachineFailedError
from .kernels import Kernel
from .paths import BUILD, ROOT

# Boot, emulated and beside a busy machine, took up to a minute; a command has its own bound.
BOOT_LIMIT_S = 240
# Where the shared folder is seen inside.
OUT = "/run/waggle-out"

# The root is mounted without a cache: each page of a library is a round trip to the host. A
# second mount of the same files, which nobody changes while the machine runs, has one.
HOST_TAG = "waggle.host"
HOST_FILES = (
    "-fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap "
    f"-device virtio-9p-pci,fsdev=host,mount_tag={HOST_TAG}"
)
CACHED_MOUNT = "ro,version=9p2000.L,trans=virtio,access=any,msize=524288,cache=loose"

CONSOLE_LINES_SHOWN = 15
OUTPUT_LIMIT_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back: exit code, stdout and stderr as one text, and how long things took.

    boot_s: from starting qemu to the first line of the command's script; total_s: all of it.
    files: name -> content of what the command left in its shared folder ($VM_OUT).
    """

    exit_code: int
    output: str
    boot_s: float
    total_s: float
    files: Mapping[str, bytes]


def run(
    kernel: Kernel,
    command: Sequence[str],
    *,
    limit_s: float = 600,
    memory: str = "2G",
    cpus: int = 2,
    echo: Callable[[str], None] | None = None,
) -> Outcome:
    """Run command as root under kernel, the repository being its working directory.

    limit_s bounds the command alone. echo is given each line of output as it comes. The
    console's log stays in build/vm/console-SUITE.log when something failed.
    Raises ToolMissingError, and MachineFailedError when no exit code came back.
    """
    tools.require()
    with tempfile.TemporaryDirectory(prefix=f".run-{kernel.suite}-", dir=BUILD) as scratch:
        shared = Path(scratch) / "out"
        shared.mkdir()
        console = Path(scratch) / "console.log"
        script = _write_script(Path(scratch), command, shared, limit_s)
        arguments = _arguments(kernel, script, shared, memory, cpus, BOOT_LIMIT_S + limit_s)
        started = time.time()
        with console.open("wb") as log:
            output = _run_machine(arguments, log, echo)
        outcome = _collect(shared, output, started)
        if outcome is None or outcome.exit_code != 0:
            kept = _keep_console(kernel, console)
            if outcome is None:
                raise MachineFailedError(_failure(kernel, kept, output))
        return outcome


def _write_script(folder: Path, command: Sequence[str], shared: Path, limit_s: float) -> Path:
    """What runs inside. Its exit code goes into a file: a crash leaves none.

    `timeout` alone is not enough, for a process of the command may live on: the machine ends
    with the script, and everything in it.
    """
    script = folder / "inside.sh"
    script.write_text(
        f"""#!/bin/sh
mkdir -p {OUT} && mount --bind {shlex.quote(str(shared))} {OUT}
: > {OUT}/.began
{_cached_mounts()}
cd {shlex.quote(str(ROOT))} || exit 125
export VM_OUT={OUT} PYTHONDONTWRITEBYTECODE=1 HOME=/tmp LC_ALL=C.UTF-8
export PATH={shlex.quote(os.environ.get("PATH", ""))}:/usr/sbin:/sbin
timeout --kill-after=5 {limit_s:.0f} {shlex.join(command)} 2>&1 </dev/null
code=$?
echo $code > {OUT}/.code.new && sync {OUT}/.code.new && mv {OUT}/.code.new {OUT}/.code
exit $code
"""
    )
    script.chmod(0o755)
    return script


def _cached_mounts() -> str:
    """Shell lines that lay a caching mount of the host's files over what Python reads most."""
    lines = ["mkdir -p /run/host", f"mount -t 9p -o {CACHED_MOUNT} {HOST_TAG} /run/host"]
    for folder in (ROOT, "/usr/lib/python3", "/usr/lib/python3.11", "/usr/lib/x86_64-linux-gnu"):
        path = shlex.quote(str(folder))
        lines.append(f"mount --bind /run/host{path} {path}")
    return "\n".join(lines)


def _arguments(
    kernel: Kernel, script: Path, shared: Path, memory: str, cpus: int, limit_s: float
) -> list[str]:
    # timeout ends the whole group even when this process is killed and can end nothing.
    return [
        *("timeout", "--kill-after=5", f"{limit_s:.0f}"),
        *(str(tools.VNG), "--run", str(kernel.image), "--verbose"),
        *("--disable-kvm", "--disable-microvm", "--force-9p"),
        *("--cpus", str(cpus), "--memory", memory, f"--rwdir={shared}"),
        *("--append", "mitigations=off"),
        f"--qemu-opts={HOST_FILES}",
        *("--", str(script)),
    ]


def _run_machine(arguments: list[str], log: IO[bytes], echo: Callable[[str], None] | None) -> str:
    """Run it to its end and give its output; whatever ends this leaves no process behind."""
    environment = {**os.environ, "PATH": tools.search_path()}
    process = subprocess.Popen(
        arguments,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    with _session_ended(process):
        return "".join(_bounded_lines(process, echo))


def _bounded_lines(
    process: subprocess.Popen[str], echo: Callable[[str], None] | None
) -> Iterator[str]:
    """Each line of output; beyond the bound they are read, echoed, and not kept."""
    kept = 0
    for line in process.stdout or ():
        if echo is not None:
            echo(line)
        kept += len(line)
        if kept <= OUTPUT_LIMIT_BYTES:
            yield line


@contextmanager
def _session_ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """At the end, end every process of the session that process leads, each by its id."""
    try:
        yield
        process.wait()
    finally:
        for member in _session(process.pid):
            try:
                os.kill(member, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _session(leader: int) -> list[int]:
    members = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == leader:
                members.append(pid)
        except (ProcessLookupError, PermissionError):
            continue
    return members


def _collect(shared: Path, output: str, started: float) -> Outcome | None:
    """The outcome, or None when the command's end was never written down."""
    code = shared / ".code"
    if not code.exists():
        return None
    # The file's time is the host's clock, for the host serves the folder.
    began = (shared / ".began").stat().st_mtime
    files = {
        file.name: file.read_bytes()
        for file in shared.iterdir()
        if file.is_file() and not file.name.startswith(".")
    }
    total_s = time.time() - started
    return Outcome(int(code.read_text()), output, began - started, total_s, files)


def _keep_console(kernel: Kernel, console: Path) -> Path:
    kept = BUILD / f"console-{kernel.suite}.log"
    shutil.copyfile(console, kept)
    return kept


def _failure(kernel: Kernel, console: Path, output: str) -> str:
    lines = console.read_text(errors="replace").splitlines()
    shown = "\n".join(lines[-CONSOLE_LINES_SHOWN:])
    hidden = max(0, len(lines) - CONSOLE_LINES_SHOWN)
    said = f"\nthe command had said:\n{output[-2000:]}" if output else ""
    where = console.relative_to(ROOT)
    return (
        f"{kernel.suite} ({kernel.release}) gave no exit code: it did not boot, hung or died; "
        f"console in {where} ({hidden} lines omitted):\n{shown}{said}"
    )
