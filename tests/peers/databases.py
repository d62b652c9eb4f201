"""Databases for tests, on ports of their own, nothing kept: PostgreSQL, MariaDB, Redis."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .ports import is_open, lease_port
from .processes import Program, ProgramError
from .toolchain import ToolMissingError, tool

_START_S = 120.0
_MANY = 500  # connections: who is given up on keeps the server's end for a while


@contextmanager
def started_databases(*names: str) -> Iterator[dict[str, str]]:
    """Starts all three, or those that are named, and ends them on leaving. Gives what the
    matrix's programs find them by: variable of the environment -> HOST:PORT. Raises ProgramError
    when one does not start."""
    with ExitStack() as stack:
        starts = {"POSTGRES": _postgres, "MYSQL": _mariadb, "REDIS": _redis}
        yield {name: stack.enter_context(_started(starts[name])) for name in names or starts}


_Start = Callable[[Path, int], list[str]]


@contextmanager
def _started(start: _Start) -> Iterator[str]:
    lease = lease_port()
    folder = Path(tempfile.mkdtemp(prefix="waggle-database-"))
    try:
        program = Program(start.__name__.strip("_"), start(folder, lease.port))
        try:
            program.wait_until(lambda: is_open(lease.port), _START_S)
            yield f"127.0.0.1:{lease.port}"
        finally:
            program.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lease.release()


def _postgres(folder: Path, port: int) -> list[str]:
    """It refuses to run as root."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        raise ToolMissingError("postgresql is not installed; run tests/peers/install.sh python")
    before: list[str] = []
    if os.getuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        before = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data = folder / "data"
    init = ["initdb", "-U", "postgres", "-A", "trust", "--no-sync", "-D", str(data)]
    _run([*before, str(found[-1] / init[0]), *init[1:]])
    settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
    settings.append(f"max_connections={_MANY}")
    options = [word for setting in settings for word in ("-c", setting)]
    return [*before, str(found[-1] / "postgres"), "-D", str(data), "-p", str(port), *options]


def _mariadb(folder: Path, port: int) -> list[str]:
    data = ["--no-defaults", f"--datadir={folder / 'data'}", "--user=root"]
    install = ["--auth-root-authentication-method=normal", "--skip-test-db"]
    _run([tool("mariadb-install-db"), *data, *install])
    files = [f"--socket={folder / 'socket'}", f"--pid-file={folder / 'pid'}"]
    listen = ["--bind-address=127.0.0.1", f"--port={port}", f"--max-connections={_MANY}"]
    return [tool("mariadbd"), *data, *listen, *files]


def _redis(_folder: Path, port: int) -> list[str]:
    listen = ["--port", str(port), "--bind", "127.0.0.1"]
    return [tool("redis-server"), *listen, "--save", "", "--appendonly", "no"]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    if done.returncode:
        raise ProgramError(f"`{command[0]}` failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
