"""The Python servers of the matrix: how each is started, and which calls can be made from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .servers import Options, Place, ServerKind
from .toolchain import PROGRAMS, tool

Kind = Literal["threads", "greenlets", "tasks"]
FOLDER = PROGRAMS / "python" / "matrix"
Command = Callable[[Path, Place], Sequence[str | Path]]
NO_ROUTES: frozenset[str] = frozenset()

SYNC_CLIENTS = ("requests", "requests-once", "urllib3", "http.client", "httpx", "pycurl", "boto3")
ASYNC_CLIENTS = ("httpx-async", "aiohttp")
# Makes ten calls at once: whoever is done begins the next, out of a queue, for whomever it is.
QUEUE_CLIENT = "tornado-queue"
# What base installations do not have: these are in requirements-python.txt only.
HEAVY_CLIENTS = frozenset({"pycurl", "boto3"})

SYNC_SHAPES = (
    *("one", "twice", "retry", "context-run", "generator", "stream", "middleware"),
    *("thread", "executor", "queue"),
)
ASYNC_SHAPES = (
    *("one", "late", "twice", "gather", "task-group", "nested", "retry", "cancel"),
    *("context-run", "generator", "stream", "middleware", "sync", "to-thread"),
    *("executor", "thread", "queue", "lazy-queue", "detached"),
)
# An answer that is streamed by a task of its own, after calls of the handler's.
PROXY_SHAPES = (
    *("proxy", "proxy-length", "proxy-slow", "proxy-gather"),
    *("lazy-proxy", "drain-proxy"),
)
# Calls of one request; where it is not said: one. None: it depends.
CALLS: Mapping[str, int | None] = {
    "proxy-gather": 3,
    "twice": 2,
    "retry": 2,
    "generator": 2,
    "stream": 2,
    "gather": 3,
    "task-group": 3,
    "cancel": None,
}


def calls_of(shape: str) -> int | None:
    """How many calls a request of that shape makes; None: it depends."""
    return 2 if shape.startswith("query-") else CALLS.get(shape, 1)


# Shapes that call from a thread, by a client that is no coroutine.
IN_THREADS = frozenset({"sync", "to-thread", "executor", "thread"})


@dataclass(frozen=True)
class PythonServer:
    """One row of the matrix. is_light: it runs with what requirements.txt has."""

    command: Command
    """Given the folder `bin` of a virtual environment."""
    kind: Kind
    shapes: tuple[str, ...]
    clients: tuple[str, ...]
    is_light: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    service: str = ""
    thread_client: str = "requests"

    def started_from(self, bin_folder: Path) -> ServerKind:
        def command(place: Place, _options: Options) -> list[str | Path]:
            return list(self.command(bin_folder, place))

        env = {"PYTHONPATH": str(FOLDER), **self.env}
        return ServerKind(command, NO_ROUTES, frozenset({"ipv4"}), env)

    def client_for(self, shape: str) -> str:
        """The client that a shape is tried with when every client is not."""
        # Django's middleware is no coroutine in our program: under ASGI it runs in a thread.
        in_thread = shape in IN_THREADS or (shape == "middleware" and "MATRIX_ASGI" in self.env)
        return self.thread_client if in_thread else self.clients[0]


def _gunicorn(app: str, worker: str, *more: str) -> Command:
    def command(folder: Path, place: Place) -> list[str | Path]:
        return [
            *(folder / "gunicorn", app, "--bind", place.address, "--worker-class", worker),
            *("--worker-tmp-dir", str(place.folder), "--no-control-socket", *more),
        ]

    return command


def _waitress(app: str) -> Command:
    return lambda folder, place: [
        *(folder / "waitress-serve", f"--listen={place.address}", "--threads=8", app)
    ]


def _uwsgi(app: str, *more: str) -> Command:
    module, _, callable_ = app.partition(":")
    return lambda folder, place: [
        *(folder / "uwsgi", "--http-socket", place.address, "--module", module),
        *("--callable", callable_, "--master", "--die-on-term", "--need-app"),
        *("--virtualenv", str(folder.parent), "--pythonpath", str(FOLDER), *more),
    ]


def _uwsgi_of_debian(app: str, *more: str) -> Command:
    """Not PyPI's: a C program that has a Python in it."""
    command = _uwsgi(app, *more)
    return lambda folder, place: [
        *(tool("uwsgi-core"), "--plugins", "python3"),
        *command(folder, place)[1:],
    ]


def _mod_wsgi(group: str) -> Command:
    def command(folder: Path, place: Place) -> list[str | Path]:
        values = {
            "folder": str(place.folder),
            "listen": place.address,
            "venv": str(folder.parent),
            "programs": str(FOLDER),
            "group": group,
        }
        text = (FOLDER / "apache.conf.template").read_text()
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        place.folder.chmod(0o755)  # for Apache's own user
        config = place.folder / "apache.conf"
        config.write_text(text)
        return [tool("apache2"), "-DFOREGROUND", "-f", config]

    return command


def _uvicorn(app: str, loop: str, parser: str, workers: int = 1) -> Command:
    return lambda folder, place: [
        *(folder / "uvicorn", app, "--host", place.host, "--port", str(place.port)),
        *("--loop", loop, "--http", parser, "--workers", str(workers), "--no-access-log"),
        *("--lifespan", "off"),
    ]


def _hypercorn(app: str, worker: str) -> Command:
    return lambda folder, place: [
        *(folder / "hypercorn", app, "--bind", place.address, "--worker-class", worker)
    ]


def _granian(app: str, loop: str) -> Command:
    return lambda folder, place: [
        *(folder / "granian", app, "--interface", "asgi", "--host", place.host),
        *("--port", str(place.port), "--loop", loop, "--no-access-log"),
    ]


def _script(name: str, *more: str) -> Command:
    return lambda folder, place: [folder / "python", FOLDER / name, str(place.port), *more]


def _sanic(folder: Path, place: Place) -> list[str | Path]:
    return [
        *(folder / "sanic", "matrix_sanic:app", "--host", place.host, "--port", str(place.port)),
        *("--single-process", "--no-motd", "--no-access-logs"),
    ]


def _threads(
    command: Command,
    *,
    light: bool = False,
    kind: Kind = "threads",
    extra: tuple[str, ...] = ("after",),
    clients: tuple[str, ...] = SYNC_CLIENTS,
    service: str = "matrix_flask",
) -> PythonServer:
    return PythonServer(command, kind, SYNC_SHAPES + extra, clients, light, service=service)


def _tasks(
    command: Command,
    service: str,
    *,
    light: bool = False,
    extra: tuple[str, ...] = ("after",),
    clients: tuple[str, ...] = ASYNC_CLIENTS,
    env: Mapping[str, str] | None = None,
) -> PythonServer:
    shapes = ASYNC_SHAPES + extra
    return PythonServer(command, "tasks", shapes, clients, light, env or {}, service)


_EIGHT = ("--threads", "8")
_DJANGO_ASGI = {"MATRIX_ASGI": "1"}
# gevent and eventlet cannot make C libraries wait together.
_GREEN_CLIENTS = ("requests", "requests-once", "urllib3", "http.client", "httpx")

PYTHON_SERVERS: dict[str, PythonServer] = {
    "flask-gunicorn-sync": _threads(
        _gunicorn("matrix_flask:app", "sync", "--workers=2"), light=True
    ),
    "flask-gunicorn-gthread": _threads(
        _gunicorn("matrix_flask:app", "gthread", *_EIGHT), light=True
    ),
    "flask-gunicorn-gevent": _threads(
        _gunicorn("matrix_flask:app", "gevent"),
        light=True,
        kind="greenlets",
        clients=_GREEN_CLIENTS,
    ),
    "flask-eventlet": _threads(
        _script("matrix_eventlet.py"),
        kind="greenlets",
        clients=_GREEN_CLIENTS,
        service="matrix_eventlet",
    ),
    "flask-waitress": _threads(_waitress("matrix_flask:app"), light=True),
    "flask-uwsgi": _threads(_uwsgi("matrix_flask:app", "--enable-threads", "--processes=2")),
    "flask-uwsgi-threads": _threads(_uwsgi("matrix_flask:app", "--threads=8")),
    "flask-uwsgi-of-debian": _threads(_uwsgi_of_debian("matrix_flask:app", "--threads=8")),
    "flask-mod_wsgi": _threads(_mod_wsgi("%{GLOBAL}"), service="apache2"),
    "flask-mod_wsgi-daemon": _threads(_mod_wsgi("matrix"), service="apache2"),
    "django-gunicorn-sync": _threads(
        _gunicorn("matrix_django:wsgi", "sync", "--workers=2"), service="matrix_django"
    ),
    "django-gunicorn-gthread": _threads(
        _gunicorn("matrix_django:wsgi", "gthread", *_EIGHT), light=True, service="matrix_django"
    ),
    "django-gunicorn-gevent": _threads(
        _gunicorn("matrix_django:wsgi", "gevent"),
        kind="greenlets",
        clients=_GREEN_CLIENTS,
        service="matrix_django",
    ),
    "django-waitress": _threads(_waitress("matrix_django:wsgi"), service="matrix_django"),
    "django-uwsgi-threads": _threads(
        _uwsgi("matrix_django:wsgi", "--threads=8"), service="matrix_django"
    ),
    "http.server": _threads(
        _script("matrix_http_server.py"), light=True, service="matrix_http_server"
    ),
    "fastapi-uvicorn-asyncio-h11": _tasks(
        _uvicorn("matrix_fastapi:app", "asyncio", "h11"),
        "matrix_fastapi",
        light=True,
        extra=(*PROXY_SHAPES, "after"),
    ),
    "fastapi-uvicorn-uvloop-httptools": _tasks(
        _uvicorn("matrix_fastapi:app", "uvloop", "httptools"), "matrix_fastapi", light=True
    ),
    "fastapi-uvicorn-2-workers": _tasks(
        _uvicorn("matrix_fastapi:app", "uvloop", "httptools", 2), "matrix_fastapi"
    ),
    "fastapi-gunicorn-uvicorn": _tasks(
        _gunicorn("matrix_fastapi:app", "uvicorn.workers.UvicornWorker"), "matrix_fastapi"
    ),
    "fastapi-hypercorn-asyncio": _tasks(
        _hypercorn("matrix_fastapi:app", "asyncio"), "matrix_fastapi"
    ),
    "fastapi-hypercorn-uvloop": _tasks(
        _hypercorn("matrix_fastapi:app", "uvloop"), "matrix_fastapi"
    ),
    "fastapi-granian": _tasks(_granian("matrix_fastapi:app", "uvloop"), "matrix_fastapi"),
    "starlette-uvicorn-asyncio-httptools": _tasks(
        _uvicorn("matrix_starlette:app", "asyncio", "httptools"),
        "matrix_starlette",
        light=True,
        extra=(*PROXY_SHAPES, "after", "websocket"),
    ),
    "starlette-uvicorn-uvloop-h11": _tasks(
        _uvicorn("matrix_starlette:app", "uvloop", "h11"),
        "matrix_starlette",
        extra=(*PROXY_SHAPES, "after", "websocket"),
    ),
    "starlette-granian-asyncio": _tasks(
        _granian("matrix_starlette:app", "asyncio"),
        "matrix_starlette",
        extra=("after", "websocket"),
    ),
    "litestar-uvicorn": _tasks(
        _uvicorn("matrix_litestar:app", "uvloop", "httptools"),
        "matrix_litestar",
        extra=("after", "websocket"),
    ),
    "django-asgi-uvicorn": _tasks(
        _uvicorn("matrix_django:asgi", "asyncio", "h11"),
        "matrix_django",
        extra=(),
        env=_DJANGO_ASGI,
    ),
    "django-asgi-hypercorn": _tasks(
        _hypercorn("matrix_django:asgi", "uvloop"), "matrix_django", extra=(), env=_DJANGO_ASGI
    ),
    "aiohttp-asyncio": _tasks(
        _script("matrix_aiohttp.py", "asyncio"), "matrix_aiohttp", light=True, extra=("websocket",)
    ),
    "aiohttp-uvloop": _tasks(
        _script("matrix_aiohttp.py", "uvloop"), "matrix_aiohttp", light=True, extra=("websocket",)
    ),
    "tornado": _tasks(
        _script("matrix_tornado.py"),
        "matrix_tornado",
        light=True,
        extra=(),
        clients=("tornado", QUEUE_CLIENT, *ASYNC_CLIENTS),
    ),
    "sanic": _tasks(_sanic, "matrix_sanic", extra=("websocket",)),
}
