"""Go's clients of databases beside calls: they are not traced yet, and nothing goes wrong."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from .agent import started_agent
from .clients import run_client
from .go_matrix import GOMATRIX, kind_of
from .ports import lease_port
from .processes import Program
from .servers import ServerKind, start_server
from .toolchain import GO_MATRIX_BIN, PROGRAMS, ensure_go_matrix, ensure_go_module, tool
from .truth import judge

CLIENTS = ("pgx", "pgxpool", "pq", "redis", "pipeline")
REQUESTS, CONCURRENCY = 200, 16
POSTGRES = next(Path("/usr/lib/postgresql").glob("*/bin"), None)
USER = "nobody"  # PostgreSQL refuses to run as root


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        POSTGRES is None or shutil.which("redis-server") is None,
        reason="PostgreSQL or Redis is not installed: tests/peers/install.sh go",
    ),
]


@contextmanager
def postgres() -> Iterator[str]:
    """A new, empty server; how it is reached."""
    assert POSTGRES is not None
    lease = lease_port()
    with TemporaryDirectory(prefix="waggle-postgres-") as name:
        folder = Path(name)
        shutil.chown(folder, USER)
        as_user = ["setpriv", f"--reuid={USER}", "--clear-groups"]
        data = str(folder / "data")
        new = ["-D", data, "-A", "trust", "--no-sync", "-U", USER]
        made = [*as_user, str(POSTGRES / "initdb"), *new]
        subprocess.run(made, check=True, capture_output=True, cwd=folder)
        settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
        command = [*as_user, str(POSTGRES / "postgres"), "-D", data, "-p", str(lease.port)]
        command += [word for setting in settings for word in ("-c", setting)]
        program = Program("postgres", command, cwd=folder)
        where = f"host=127.0.0.1 port={lease.port} user={USER} dbname=postgres sslmode=disable"
        ready = [str(POSTGRES / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(lease.port)]
        try:
            program.wait_until(lambda: subprocess.run(ready).returncode == 0, 60)
            yield where
        finally:
            program.stop()
            lease.release()


@contextmanager
def redis() -> Iterator[str]:
    lease = lease_port()
    command = [tool("redis-server"), "--port", str(lease.port), "--bind", "127.0.0.1"]
    program = Program("redis", [*command, "--save", "", "--appendonly", "no"])
    ready = ["redis-cli", "-p", str(lease.port), "ping"]
    try:
        program.wait_until(
            lambda: b"PONG" in subprocess.run(ready, capture_output=True).stdout, timeout_s=60
        )
        yield f"127.0.0.1:{lease.port}"
    finally:
        program.stop()
        lease.release()


def test_calls_beside_databases_have_the_right_parents() -> None:
    """Before a call and at the same time, pooled or not: each statement is answered, no call has a
    wrong parent, and none of the clients' connections becomes a span."""
    ensure_go_matrix()
    ensure_go_module(PROGRAMS / "godb", ["."], GO_MATRIX_BIN)
    godb = ServerKind(lambda place, _: [GO_MATRIX_BIN / "godb", "--listen", place.address])
    kinds = {"called": kind_of(GOMATRIX, "nethttp"), "godb": godb}
    with (
        postgres() as database,
        redis() as store,
        start_server("called", kinds=kinds) as called,
    ):
        env = {"CALLED": called.base_url, "POSTGRES": database, "REDIS": store}
        with (
            start_server("godb", env=env, kinds=kinds) as server,
            started_agent(pids=[called.pid, server.pid]) as agent,
        ):
            loads = [f"/{how}/{client}/{{}}" for how in ("m", "both") for client in CLIENTS]
            for index, path in enumerate(loads):
                first = 1 + index * REQUESTS
                run_client("go", server.base_url, REQUESTS, CONCURRENCY, first=first, path=path)
            agent.settle(3 * REQUESTS * len(loads))
            spans = agent.stop().spans
    truth = judge(spans, [server.pid], [called.pid])
    print(truth.verdicts)
    assert truth.verdicts == {"right": REQUESTS * len(loads)}
    assert truth.split == 0
    assert len(spans) == 3 * REQUESTS * len(loads)
