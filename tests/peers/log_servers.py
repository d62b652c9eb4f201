"""Servers that log, with the truth in each line: the number of the request it was written for."""

import contextlib
import http.client
import queue
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .processes import BUILD, ProgramError
from .servers import Options, Place, Server, ServerKind, nginx_with
from .toolchain import (
    PROGRAMS,
    VENV,
    ensure_go_module,
    ensure_python_peers,
    once,
    tool,
)
from .toolchain import _digest as digest
from .toolchain import _run as run

_PROGRAMS = PROGRAMS / "logs"
_BIN = BUILD / "bin" / "peers-logs"
_CLASSES = BUILD / "java" / "peers-logs"
NOBODY = "127.0.0.1:1"  # where no server listens


def ensure_log_servers() -> None:
    """Build what these servers are made of."""
    ensure_python_peers()
    ensure_go_module(_PROGRAMS / "go", ["logs"], _BIN)
    source = _PROGRAMS / "Logs.java"
    with once("java-peers-logs", digest([source])) as is_needed:
        if is_needed:
            run([tool("javac"), "-Xlint:all", "-Werror", "-d", str(_CLASSES), str(source)])


def _gunicorn(place: Place, options: Options) -> list[str | Path]:
    return [
        *(VENV / "bin" / "gunicorn", "flask_logs:app", "--chdir", _PROGRAMS),
        *("--bind", place.address, "--worker-class", "gthread", "--threads", "8"),
        *("--worker-tmp-dir", place.folder, "--no-control-socket", "--log-level", "error"),
        *options.args,
    ]


def _uvicorn(place: Place, _: Options) -> list[str | Path]:
    return [
        *(VENV / "bin" / "uvicorn", "fastapi_logs:app", "--app-dir", _PROGRAMS),
        *("--host", place.host, "--port", str(place.port), "--loop", "asyncio"),
    ]


def _java(place: Place, _: Options) -> list[str | Path]:
    flags = ["-Xmx64m", "-XX:TieredStopAtLevel=1"]
    return [tool("java"), *flags, "-cp", _CLASSES, "Logs", place.address]


def _nginx(place: Place, _: Options) -> list[str | Path]:
    """Hands requests to nobody, and says so in its error log, request by request."""
    locations = [
        'location = /ready { return 200 "ready\\n"; }',
        f"location / {{ proxy_pass http://{NOBODY}; }}",
    ]
    return nginx_with(place, "", locations)


LOG_SERVERS: dict[str, ServerKind] = {
    "flask": ServerKind(_gunicorn),
    "fastapi": ServerKind(_uvicorn),
    "go": ServerKind(lambda place, _: [_BIN / "logs", place.address]),
    "node": ServerKind(lambda place, _: [tool("node"), _PROGRAMS / "logs.js", place.address]),
    "java": ServerKind(_java),
    "nginx": ServerKind(_nginx),
}


def ask(
    server: Server, paths: Iterable[str], *, concurrency: int = 16, answers: bool = True
) -> None:
    """Request the paths, each thread on a connection of its own that it keeps. answers: whether
    the server answers them."""
    waiting = queue.SimpleQueue[str]()
    for path in paths:
        waiting.put(path)

    def work() -> None:
        with (
            contextlib.closing(server.connection()) as connection,
            contextlib.suppress(queue.Empty),
        ):
            while True:
                path = waiting.get_nowait()
                if not _asked(connection, path) and answers and not _asked(connection, path):
                    raise ProgramError(f"{server.kind} does not answer {path}")

    with ThreadPoolExecutor(concurrency) as threads:
        for ended in [threads.submit(work) for _ in range(concurrency)]:
            ended.result()


def _asked(connection: http.client.HTTPConnection, path: str) -> bool:
    """Whether it was answered; not where the server has closed what was left open."""
    try:
        connection.request("GET", path)
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return False
    return True
