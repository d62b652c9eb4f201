"""The servers among the target programs: how each is started, and what it can answer."""

import http.client
import os
import pwd
import shutil
import socket
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .ports import lease_port
from .processes import Program, UnixConnection, answers
from .toolchain import BIN, JAVA_CLASSES, PROGRAMS, VENV, tool

Family = Literal["ipv4", "ipv6", "unix"]
START_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Place:
    """Where a server is to listen, and a folder of its own for its files."""

    family: Family
    port: int
    folder: Path
    certificate: Path | None = None
    """With its key: to be given to who connects, by TLS."""

    @property
    def unix_path(self) -> str | None:
        return str(self.folder / "socket") if self.family == "unix" else None

    @property
    def host(self) -> str:
        return {"ipv4": "127.0.0.1", "ipv6": "::1", "unix": "localhost"}[self.family]

    @property
    def address(self) -> str:
        """HOST:PORT, [::1]:PORT or unix:PATH, as most of the programs want it."""
        if self.unix_path:
            return f"unix:{self.unix_path}"
        return f"[{self.host}]:{self.port}" if self.family == "ipv6" else f"{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        if self.family == "unix":
            return "http://localhost"
        return f"{'https' if self.certificate else 'http'}://{self.address}"

    @property
    def environment(self) -> dict[str, str]:
        return {"PEER_CERTIFICATE": str(self.certificate)} if self.certificate else {}


@dataclass(frozen=True)
class Options:
    """What can be asked of a server at its start; each kind uses what applies to it."""

    workers: int = 1
    threads: int = 8
    upstream: str | None = None
    """The base URL of the server behind nginx-proxy; the other kinds have no use for it."""
    upstream_keepalive: bool = True
    args: Sequence[str] = ()
    """Further arguments of the program (the raw server's switches)."""


@dataclass(frozen=True)
class Server:
    """A running server. `pid` is the process that was started: for gunicorn and nginx the master;
    `pids()` has its workers too."""

    kind: str
    program: Program
    port: int
    base_url: str
    unix_path: str | None
    certificate: Path | None = None

    @property
    def pid(self) -> int:
        return self.program.pid

    @property
    def log(self) -> Path:
        return self.program.log

    def pids(self) -> list[int]:
        return self.program.pids()

    def connection(self, timeout_s: float = 30) -> http.client.HTTPConnection:
        """A new connection for one's own requests (connects when first used)."""
        if self.unix_path:
            return UnixConnection(self.unix_path, timeout_s)
        host = self.base_url.partition("://")[2].rpartition(":")[0].strip("[]")
        if self.certificate:
            trusted = ssl.create_default_context(cafile=self.certificate)
            return http.client.HTTPSConnection(host, self.port, timeout=timeout_s, context=trusted)
        return http.client.HTTPConnection(host, self.port, timeout=timeout_s)

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of one GET on a connection of its own."""
        return self.request("GET", path)

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
        """Status and text of one request on a connection of its own."""
        connection = self.connection()
        try:
            connection.request(method, path, body, {"Connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


Routes = frozenset[str]
_ROUTES: Routes = frozenset({"n", "slow", "status", "chunked", "big", "echo", "call"})
_ROUTES_AND_CLOSE = _ROUTES | {"until-close"}
_ALL_FAMILIES: frozenset[Family] = frozenset({"ipv4", "ipv6", "unix"})
_TCP: frozenset[Family] = frozenset({"ipv4", "ipv6"})


@dataclass(frozen=True)
class ServerKind:
    """How one kind is started. `routes` are the first words of the paths it answers:
    /n/<n>, /slow/<n>?ms=, /status/<code>/<n>, /chunked/<n>, /big/<n>, /call/<n>?url=,
    /until-close/<n>, and POST /echo/<n>."""

    command: Callable[[Place, Options], list[str | Path]]
    routes: Routes = _ROUTES
    families: frozenset[Family] = _ALL_FAMILIES
    env: Mapping[str, str] = field(default_factory=dict)
    needs_upstream: bool = False
    can_tls: bool = False


def _go(path: Path) -> ServerKind:
    def command(place: Place, _: Options) -> list[str | Path]:
        return [path, "--listen", place.address]

    return ServerKind(command, routes=_ROUTES_AND_CLOSE, can_tls=True)


_PYTHON = PROGRAMS / "python"


def _gunicorn(worker_class: str) -> ServerKind:
    def command(place: Place, options: Options) -> list[str | Path]:
        threads = options.threads if worker_class == "gthread" else 1
        return [
            *(VENV / "bin" / "gunicorn", "flask_app:app", "--chdir", _PYTHON),
            *("--bind", place.address, "--worker-class", worker_class),
            *("--workers", str(options.workers), "--threads", str(threads)),
            *("--worker-tmp-dir", place.folder, "--no-control-socket"),
            *_both(place, "--certfile", "--keyfile"),
        ]

    return ServerKind(command, can_tls=True)


def _both(place: Place, certificate: str, key: str) -> list[str | Path]:
    """Arguments that name the certificate and its key, which are in one file."""
    return [certificate, place.certificate, key, place.certificate] if place.certificate else []


def _uvicorn(loop: str, parser: str) -> ServerKind:
    def command(place: Place, _: Options) -> list[str | Path]:
        where: list[str | Path] = ["--host", place.host, "--port", str(place.port)]
        if place.unix_path:
            where = ["--uds", place.unix_path]
        return [
            *(VENV / "bin" / "uvicorn", "fastapi_app:app", "--app-dir", _PYTHON, *where),
            *("--loop", loop, "--http", parser, "--no-access-log"),
            *_both(place, "--ssl-certfile", "--ssl-keyfile"),
        ]

    return ServerKind(command, routes=_ROUTES | {"call-sync"}, can_tls=True)


def _aiohttp(place: Place, _: Options) -> list[str | Path]:
    return [VENV / "bin" / "python", _PYTHON / "aiohttp_app.py", place.address]


def _node(place: Place, _: Options) -> list[str | Path]:
    return [tool("node"), PROGRAMS / "node" / "server.js", place.address]


def _java(place: Place, _: Options) -> list[str | Path]:
    # Idle connections live as long as the test wants.
    flags = ["-Xmx64m", "-XX:TieredStopAtLevel=1", "-Dsun.net.httpserver.idleInterval=600"]
    return [tool("java"), *flags, "-cp", JAVA_CLASSES, "Server", place.address]


def _raw(place: Place, options: Options) -> list[str | Path]:
    program = PROGRAMS / "raw" / "rawserver.py"
    return [sys.executable, program, place.address, *options.args]


def _nginx(place: Place, _: Options) -> list[str | Path]:
    return nginx_with(place, *_nginx_own(place))


def _nginx_before_upstream(place: Place, options: Options) -> list[str | Path]:
    return nginx_with(place, *_nginx_proxy(options))


_NGINX_STATUSES = (200, 201, 400, 401, 403, 404, 418, 429, 500, 502, 503)


def nginx_with(place: Place, upstream: str, locations: list[str]) -> list[str | Path]:
    """Writes nginx's configuration and gives its command."""
    values = {
        "user": pwd.getpwuid(os.getuid()).pw_name,
        "folder": str(place.folder),
        "listen": place.address + _nginx_tls(place),
        "upstream": upstream,
        "locations": "\n        ".join(locations),
    }
    text = (PROGRAMS / "nginx" / "nginx.conf.template").read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    config = place.folder / "nginx.conf"
    config.write_text(text)
    return [tool("nginx"), "-e", "stderr", "-p", place.folder, "-c", config]


def _nginx_tls(place: Place) -> str:
    """What follows the address in `listen`."""
    given = place.certificate
    return f" ssl; ssl_certificate {given}; ssl_certificate_key {given}" if given else ""


def _nginx_own(place: Place) -> tuple[str, list[str]]:
    """Locations that nginx answers by itself. `return` takes no variable as status."""
    (place.folder / "big.txt").write_bytes(b"n=0 " + b"." * ((1 << 20) - 5) + b"\n")
    chunks = "ssi on; ssi_types text/plain; "  # SSI: the length is unknown, hence chunks
    statuses = [
        f'location ~ ^/status/{code}/(\\d+)$ {{ return {code} "n=$1\\n"; }}'
        for code in _NGINX_STATUSES
    ]
    empty = [f"location ~ ^/status/{code}/(\\d+)$ {{ return {code}; }}" for code in (204, 304)]
    return "", [
        'location = /ready { return 200 "ready\\n"; }',
        'location ~ ^/n/(\\d+)$ { return 200 "n=$1\\n"; }',
        *statuses,
        *empty,
        f'location ~ ^/chunked/(\\d+)$ {{ {chunks} return 200 "n=$1\\n"; }}',
        f"location ~ ^/until-close/(\\d+)$ {{ {chunks} chunked_transfer_encoding off; "
        'return 200 "n=$1\\n"; }',
        f"location ~ ^/big/\\d+$ {{ alias {place.folder}/big.txt; }}",
        'location ~ ^/echo/(\\d+)$ { return 200 "n=$1 bytes=$content_length\\n"; }',
        "location /call/ { proxy_pass $arg_url; }",
    ]


def _nginx_proxy(options: Options) -> tuple[str, list[str]]:
    """An upstream, and one location that hands it everything."""
    scheme, _, server = (options.upstream or "").partition("://")
    kept = options.upstream_keepalive
    idle = "keepalive 32;" if kept else ""
    reuse = 'proxy_http_version 1.1; proxy_set_header Connection "";' if kept else ""
    return (
        f"upstream behind {{ server {server}; {idle} }}",
        [f"location / {{ proxy_pass {scheme}://behind; {reuse} }}"],
    )


_HAPROXY = """
defaults
    mode http
    timeout connect 30s
    timeout client 600s
    timeout server 600s
    http-reuse {reuse}
frontend front
    bind {listen}
    default_backend behind
backend behind
    server one {server}
    {closing}
"""


def _haproxy(place: Place, options: Options) -> list[str | Path]:
    """HAProxy, which hands everything to an upstream."""
    config = place.folder / "haproxy.cfg"
    kept = options.upstream_keepalive
    text = _HAPROXY.format(
        listen=place.address,
        server=(options.upstream or "").removeprefix("http://"),
        reuse="always" if kept else "never",
        closing="" if kept else "option httpclose",
    )
    config.write_text(text)
    return [tool("haproxy"), "-db", "-f", config]


SERVERS: dict[str, ServerKind] = {
    "go-nethttp": _go(BIN / "nethttp"),
    "go-nethttp-stripped": _go(BIN / "stripped" / "nethttp"),
    "go-gin": _go(BIN / "gin"),
    "go-gin-stripped": _go(BIN / "stripped" / "gin"),
    "flask-gunicorn-sync": _gunicorn("sync"),
    "flask-gunicorn-gthread": _gunicorn("gthread"),
    "fastapi-uvicorn-asyncio": _uvicorn("asyncio", "h11"),
    "fastapi-uvicorn-uvloop": _uvicorn("uvloop", "httptools"),
    "aiohttp": ServerKind(_aiohttp, can_tls=True),
    "node-http": ServerKind(_node, routes=_ROUTES_AND_CLOSE, can_tls=True),
    "java-httpserver": ServerKind(_java, families=_TCP),
    # nginx by itself: /big/<n> and /call/<n> answer with what they fetch, not with n first.
    "nginx": ServerKind(_nginx, routes=_ROUTES_AND_CLOSE - {"slow"}, can_tls=True),
    "nginx-proxy": ServerKind(
        _nginx_before_upstream, routes=_ROUTES, needs_upstream=True, can_tls=True
    ),
    "raw": ServerKind(_raw, routes=_ROUTES_AND_CLOSE),
}
# As nginx-proxy, but no server of the matrix: no rule finds the parents of its calls.
HAPROXY = ServerKind(_haproxy, routes=_ROUTES, families=_TCP, needs_upstream=True)


@contextmanager
def start_server(
    kind: str,
    *,
    family: Family = "ipv4",
    workers: int = 1,
    threads: int = 8,
    upstream: str | None = None,
    upstream_keepalive: bool = True,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    timeout_s: float = START_TIMEOUT_S,
    kinds: Mapping[str, ServerKind] = SERVERS,
    certificate: Path | None = None,
) -> Iterator[Server]:
    """Starts a server of one of the kinds in `kinds` on the loopback and waits until it answers
    GET /ready; ends it, and all of its process group, on leaving. `ensure_built()` comes first.
    certificate: with its key, for one that is to speak TLS.

    Raises ProgramError with the program's output when it does not become ready, ValueError for
    what the kind cannot do.
    """
    how = kinds[kind]
    if family not in how.families:
        raise ValueError(f"{kind} cannot listen on {family}; it can on {sorted(how.families)}")
    if how.needs_upstream and not upstream:
        raise ValueError(f"{kind} needs `upstream`, the base URL of a server")
    if certificate and (family == "unix" or not how.can_tls):
        raise ValueError(f"{kind} cannot speak TLS there")
    options = Options(workers, threads, upstream, upstream_keepalive, args)
    lease = lease_port()
    folder = Path(tempfile.mkdtemp(prefix="waggle-peer-"))
    try:
        place = Place(family, lease.port, folder, certificate)
        environment = {**how.env, **place.environment, **(env or {})}
        program = Program(kind, how.command(place, options), env=environment)
        try:
            server = Server(kind, program, place.port, place.base_url, place.unix_path, certificate)
            program.wait_until(lambda: answers(server.connection()), timeout_s)
            yield server
        finally:
            program.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lease.release()


def has_ipv6() -> bool:
    """Whether ::1 can be used on this machine."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
