"""Playing programs of other runtimes, as turn_matrix.py plays Node.js: a process for each cell.

    python -m tests.peers.runtime_matrix [--count N] [--write] [CELL...]

--write: into the table of docs/parents.md.

A cell is `program/shape/client`; a proxy has the shape `proxy`, and its client is how it keeps its
connections to the server behind it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from .agent import Ended
from .databases import started_databases
from .matrix_rows import run
from .python_matrix import Cell
from .servers import HAPROXY, SERVERS, Options, Place, ServerKind, nginx_with
from .toolchain import (
    ACTIX_MATRIX,
    C_MATRIX,
    ENVOY,
    JAVA_21,
    JAVA_CLASSES,
    PROGRAMS,
    RUST_MATRIX,
    SERVLET_CLASSES,
    SERVLET_JARS,
    UWSGI_VENV,
    ensure_runtimes,
    has_cargo,
    tool,
)
from .turn_matrix import TRACEPARENT, Played, play

_AT_ONCE = 4

_HTTPD = """
ServerRoot {folder}
PidFile {folder}/pid
DefaultRuntimeDir {folder}
ServerName localhost
User nobody
Group nogroup
Listen {port}
KeepAliveTimeout 600
MaxKeepAliveRequests 0
LoadModule mpm_{mpm}_module {modules}/mod_mpm_{mpm}.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_http_module {modules}/mod_proxy_http.so
ErrorLog /dev/stderr
{matching}
ProxyPass / {upstream}/ {options}
{workers}
"""
HTTPD_MODULES = Path("/usr/lib/apache2/modules")
_HTTPD_WORKERS = {
    "prefork": "StartServers 34\nMinSpareServers 34\nMaxSpareServers 40\nMaxRequestWorkers 40",
    "worker": "StartServers 2\nThreadsPerChild 20\nMaxSpareThreads 40\nMaxRequestWorkers 40",
    "event": "StartServers 2\nThreadsPerChild 20\nMaxSpareThreads 40\nMaxRequestWorkers 40",
}


def _run_httpd(
    place: Place, mpm: str, matching: str, upstream: str | None, options: str = ""
) -> list[str | Path]:
    """matching: directives before all else is handed to upstream."""
    config = place.folder / "httpd.conf"
    config.write_text(
        _HTTPD.format(
            folder=place.folder,
            port=place.port,
            mpm=mpm,
            modules=HTTPD_MODULES,
            matching=matching,
            upstream=upstream,
            options=options,
            workers=_HTTPD_WORKERS[mpm],
        )
    )
    return [tool("apache2"), "-DFOREGROUND", "-f", config]


def httpd(mpm: str, matching: str = "") -> ServerKind:
    """matching: what is handed on where, but for the rest; a pattern and a URL of {upstream}."""

    def command(place: Place, options: Options) -> list[str | Path]:
        matches = f"ProxyPassMatch {matching}".format(upstream=options.upstream) if matching else ""
        how = "" if options.upstream_keepalive else "disablereuse=on"
        return _run_httpd(place, mpm, matches, options.upstream, how)

    return ServerKind(command, needs_upstream=True)


def _caddy(place: Place, options: Options) -> list[str | Path]:
    upstream = (options.upstream or "").removeprefix("http://")
    config = place.folder / "Caddyfile"
    config.write_text(
        "{\n\tauto_https off\n\tadmin off\n}\n"
        f"http://{place.address} {{\n\treverse_proxy {upstream}\n}}\n"
    )
    return [tool("caddy"), "run", "--adapter", "caddyfile", "--config", config]


def _varnish(place: Place, options: Options) -> list[str | Path]:
    host, _, port = (options.upstream or "").removeprefix("http://").rpartition(":")
    rules = place.folder / "default.vcl"
    rules.write_text(
        f'vcl 4.1;\nbackend default {{ .host = "{host}"; .port = "{port}"; }}\n'
        "sub vcl_recv { return (pass); }\n"
    )
    where: list[str | Path] = ["-a", place.address, "-n", place.folder, "-f", rules]
    return [tool("varnishd"), "-F", *where, "-j", "none"]


_ENVOY = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: {host}, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": "type.googleapis.com/envoy.extensions.filters.network.\
http_connection_manager.v3.HttpConnectionManager"
          stat_prefix: front
          stream_idle_timeout: 0s
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, route: {{cluster: behind}}}}]
  clusters:
  - name: behind
    type: STATIC
    connect_timeout: 30s
    load_assignment:
      cluster_name: behind
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: {host}, port_value: {behind}}}}}}}
"""


def _envoy(place: Place, options: Options) -> list[str | Path]:
    behind = (options.upstream or "").rpartition(":")[2]
    config = place.folder / "envoy.yaml"
    config.write_text(_ENVOY.format(host=place.host, port=place.port, behind=behind))
    quiet = ["--log-level", "error", "--disable-hot-restart"]
    return [ENVOY, "--config-path", config, "--concurrency", "2", *quiet]


# What nginx can be told to do beside handing a request on -> further locations, and what stands
# in the location of all requests. The subrequests have the number of their request.
_NGINX_KEPT = 'proxy_http_version 1.1; proxy_set_header Connection "";'
_NGINX_SUB = f"internal; proxy_pass http://behind$request_uri; {_NGINX_KEPT}"
_NGINX_WAYS = {
    "close": ("", ""),
    "unbuffered": ("", f"proxy_buffering off; {_NGINX_KEPT}"),
    "auth": (f"location = /auth {{ {_NGINX_SUB} }}", f"auth_request /auth; {_NGINX_KEPT}"),
    "mirror": (f"location = /mirror {{ {_NGINX_SUB} }}", f"mirror /mirror; {_NGINX_KEPT}"),
}


def _nginx(way: str) -> ServerKind:
    further, how = _NGINX_WAYS[way]

    def command(place: Place, options: Options) -> list[str | Path]:
        behind = (options.upstream or "").removeprefix("http://")
        idle = "" if way == "close" else "keepalive 32;"
        upstream = f"upstream behind {{ server {behind}; {idle} }}"
        ready = "location = /ready { proxy_pass http://behind; }"
        everything = f"location / {{ proxy_pass http://behind; {how} }}"
        return nginx_with(place, upstream, [ready, further, everything])

    return ServerKind(command, needs_upstream=True)


_FPM = """
[global]
error_log = /dev/stderr
daemonize = no
[www]
user = nobody
listen = {where}
listen.mode = 0666
pm = static
pm.max_children = {children}
clear_env = no
"""
# It ends with who is in front of it, which becomes the shell's process.
_BOTH = (
    'setpriv --pdeathsig TERM "$0" --nodaemonize --allow-to-run-as-root --fpm-config "$1" & '
    'shift; exec "$@"'
)
_MATRIX_PHP = PROGRAMS / "php" / "matrix.php"


def _fastcgi_by_nginx(place: Place, where: str, *, kept: bool = False) -> list[str | Path]:
    names = ("REQUEST_URI", "REQUEST_METHOD", "QUERY_STRING", "SERVER_PROTOCOL")
    given = " ".join(f"fastcgi_param {name} ${name.lower()};" for name in names)
    script = f"fastcgi_param SCRIPT_FILENAME {_MATRIX_PHP};"
    behind = f"upstream behind {{ server {where}; {'keepalive 8;' if kept else ''} }}"
    how = "fastcgi_keep_conn on;" if kept else ""
    return nginx_with(
        place, behind, [f"location / {{ fastcgi_pass behind; {how} {script} {given} }}"]
    )


def _httpd_by_module(place: Place, module: str, upstream: str, *more: str) -> list[str | Path]:
    """httpd in front of what is asked by another protocol than HTTP, which a module speaks."""
    loaded = f"LoadModule {module}_module {HTTPD_MODULES}/mod_{module}.so"
    return _run_httpd(place, "event", "\n".join([loaded, *more]), upstream)


def _fastcgi_by_httpd(place: Place, where: str) -> list[str | Path]:
    script = f'ProxyFCGISetEnvIf true SCRIPT_FILENAME "{_MATRIX_PHP}"'
    return _httpd_by_module(place, "proxy_fcgi", f"{where}|fcgi://localhost", script)


def _fastcgi_by_caddy(place: Place, where: str) -> list[str | Path]:
    config = place.folder / "Caddyfile"
    way = f"{{\ntransport fastcgi {{\n env SCRIPT_FILENAME {_MATRIX_PHP}\n}}\n}}"
    behind = where.replace(":", "/", 1)
    config.write_text(
        "{\n\tauto_https off\n\tadmin off\n}\n"
        f"http://{place.address} {{\n\treverse_proxy {behind} {way}\n}}\n"
    )
    return [tool("caddy"), "run", "--adapter", "caddyfile", "--config", config]


def _fpm(
    in_front: Callable[[Place, str], list[str | Path]], *, tcp: bool = False, children: int = 8
) -> ServerKind:
    """PHP-FPM behind another program, by FastCGI. tcp: not by a UNIX socket. children: a kept
    connection has one of them for itself."""

    def command(place: Place, _: Options) -> list[str | Path]:
        config, socket = place.folder / "fpm.conf", place.folder / "fpm.socket"
        place.folder.chmod(0o755)
        beside = f"127.0.0.2:{place.port}"  # another address of this machine
        config.write_text(_FPM.format(where=beside if tcp else socket, children=children))
        front = in_front(place, beside if tcp else f"unix:{socket}")
        return ["sh", "-c", _BOTH, tool("php-fpm8.2"), config, *front]

    return ServerKind(command)


_JAVA_FLAGS = ("-Xmx128m", "-XX:TieredStopAtLevel=1", "-Dsun.net.httpserver.idleInterval=600")


def _java(place: Place, _: Options) -> list[str | Path]:
    return [tool("java"), *_JAVA_FLAGS, "-cp", JAVA_CLASSES, "Matrix", place.address, "fixed"]


def _virtual(place: Place, _: Options) -> list[str | Path]:
    return [JAVA_21, *_JAVA_FLAGS, "-cp", JAVA_CLASSES, "Matrix", place.address, "virtual"]


def _servlets(name: str, program: str = "Servlets", java: Path | None = None) -> ServerKind:
    def command(place: Place, _: Options) -> list[str | Path]:
        classes = f"{SERVLET_CLASSES}:{SERVLET_JARS}/*"
        return [java or tool("java"), *_JAVA_FLAGS, "-cp", classes, program, place.address, name]

    return ServerKind(command)


_WSGI = PROGRAMS / "python" / "plain_wsgi.py"
_WSGI_NAMES = ("REQUEST_URI", "REQUEST_METHOD", "QUERY_STRING", "SERVER_PROTOCOL", "SERVER_NAME")


def _uwsgi_by_nginx(place: Place, where: str) -> list[str | Path]:
    given = " ".join(f"uwsgi_param {name} ${name.lower()};" for name in _WSGI_NAMES)
    given += " uwsgi_param PATH_INFO $document_uri; uwsgi_param SERVER_PORT $server_port;"
    return nginx_with(place, "", [f"location / {{ uwsgi_pass {where}; {given} }}"])


def _uwsgi_by_httpd(place: Place, where: str) -> list[str | Path]:
    return _httpd_by_module(place, "proxy_uwsgi", f"{where}|uwsgi://localhost")


def _uwsgi(
    *how: str | Path,
    of_debian: bool = False,
    in_front: Callable[[Place, str], list[str | Path]] = _uwsgi_by_nginx,
    tcp: bool = False,
    greenlets: str = "",
) -> ServerKind:
    """uWSGI with a Python inside, behind another program, by the protocol that has its name. how:
    it works. of_debian: not PyPI's. tcp: not by a UNIX socket. greenlets: see plain_wsgi.py."""

    def command(place: Place, _: Options) -> list[str | Path]:
        socket, beside = place.folder / "uwsgi.socket", f"127.0.0.2:{place.port}"
        place.folder.chmod(0o755)
        where = ["--socket", beside if tcp else socket, "--chmod-socket=666"]
        front = in_front(place, beside if tcp else f"unix:{socket}")
        # It ends with who is in front of it, which becomes the shell's process.
        start = 'setpriv --pdeathsig INT "$@" & exec $FRONT'
        pypi = [UWSGI_VENV / "bin" / "uwsgi", "--virtualenv", UWSGI_VENV]
        own = [tool("uwsgi-core"), "--plugin", "python3"] if of_debian else pypi
        whole = [*own, *how, "--master", "--need-app", "--wsgi-file", _WSGI, *where]
        return ["env", f"FRONT={' '.join(map(str, front))}", "sh", "-c", start, "sh", *whole]

    return ServerKind(command, env={"GREENLETS": greenlets} if greenlets else {})


def _php(place: Place, _: Options) -> list[str | Path]:
    return [tool("php"), "-S", place.address, PROGRAMS / "php" / "matrix.php"]


def _puma(name: str) -> ServerKind:
    def command(place: Place, _: Options) -> list[str | Path]:
        program = PROGRAMS / "ruby" / name
        return [tool("puma"), "--threads", "16:16", "--bind", f"tcp://{place.address}", program]

    return ServerKind(command)


def _c(way: str) -> ServerKind:
    return ServerKind(lambda place, _: [C_MATRIX, place.address, way])


RUNTIMES: Mapping[str, ServerKind] = {
    "nginx": SERVERS["nginx-proxy"],
    **{f"nginx-{way}": _nginx(way) for way in _NGINX_WAYS},
    "haproxy": HAPROXY,
    "httpd-prefork": httpd("prefork"),
    "httpd-worker": httpd("worker"),
    "httpd-event": httpd("event"),
    "varnish": ServerKind(_varnish, needs_upstream=True),
    "caddy": ServerKind(_caddy, needs_upstream=True),
    "envoy": ServerKind(_envoy, needs_upstream=True),
    "java": ServerKind(_java),
    "java-virtual": ServerKind(_virtual),
    "tomcat": _servlets("tomcat"),
    "jetty": _servlets("jetty"),
    "javalin": _servlets("javalin"),
    "undertow": _servlets("undertow"),
    "tomcat-virtual": _servlets("virtual", java=JAVA_21),
    "spring": _servlets("tomcat", "Spring"),
    "spring-jetty": _servlets("jetty", "Spring"),
    "spring-undertow": _servlets("undertow", "Spring"),
    "netty": _servlets("netty", "Loops"),
    "vertx": _servlets("vertx", "Loops"),
    "php": ServerKind(_php, env={"PHP_CLI_SERVER_WORKERS": "8"}),
    "php-fpm": _fpm(_fastcgi_by_nginx),
    "php-fpm-tcp": _fpm(_fastcgi_by_nginx, tcp=True),
    "php-fpm-kept": _fpm(partial(_fastcgi_by_nginx, kept=True), children=40),
    "php-fpm-httpd": _fpm(_fastcgi_by_httpd),
    "php-fpm-caddy": _fpm(_fastcgi_by_caddy),
    "uwsgi": _uwsgi("--processes=8", of_debian=True),
    "uwsgi-tcp": _uwsgi("--processes=8", of_debian=True, tcp=True),
    "uwsgi-httpd": _uwsgi("--processes=8", of_debian=True, in_front=_uwsgi_by_httpd),
    "uwsgi-threads": _uwsgi("--processes=2", "--threads=8"),
    "uwsgi-gevent": _uwsgi(
        *("--gevent=40", "--gevent-monkey-patch", "--enable-threads"), greenlets="loop"
    ),
    "uwsgi-patched": _uwsgi("--processes=2", greenlets="patched"),
    "puma": _puma("matrix.ru"),
    "rails": _puma("rails.ru"),
    "c-connection": _c("connection"),
    "c-pool": _c("pool"),
    "c-loop": _c("loop"),
    "axum": ServerKind(lambda place, _: [RUST_MATRIX, place.address]),
    "actix": ServerKind(lambda place, _: [ACTIX_MATRIX, place.address]),
}

_RUST, _RUST_SHAPES = ("axum", "actix"), ("one", "mixed", "spawned", "timer")
_NETTY, _NETTY_SHAPES = ("netty", "vertx"), ("one", "two", "timer")
_PROXIES = (
    *("nginx", "haproxy", "httpd-prefork", "httpd-worker", "httpd-event"),
    *("varnish", "caddy", "envoy"),
)
CELLS: tuple[tuple[str, str, str], ...] = (
    *((name, "proxy", way) for name in _PROXIES for way in ("kept", TRACEPARENT)),
    *(("nginx-" + way, "proxy", way) for way in ("close", "unbuffered")),
    *(("nginx-" + way, "subrequest", way) for way in ("auth", "mirror")),
    *(("java", "two", client) for client in ("url", "http", "async")),
    ("java", "mixed", "url"),
    ("java", "background", "http"),
    *((name, "two", "url") for name in ("tomcat", "jetty", "javalin", "undertow")),
    *((name, "two", client) for name in ("tomcat", "jetty") for client in ("okhttp", "apache")),
    *(("spring", "two", client) for client in ("url", "rest")),
    *((f"spring-{name}", "two", "rest") for name in ("jetty", "undertow")),
    ("tomcat", "jdbc", "url"),
    *((name, "future", "url") for name in ("spring", "spring-jetty", "spring-undertow")),
    *((name, "two", "url") for name in ("java-virtual", "tomcat-virtual")),
    *(("java-virtual", shape, "url") for shape in ("mixed", "background")),
    *((name, shape, "own") for name in _NETTY for shape in _NETTY_SHAPES),
    *(("php", shape, "curl") for shape in ("two", "mixed")),
    ("php", "two", "streams"),
    *((f"php-fpm{front}", "two", "curl") for front in ("", "-tcp", "-kept", "-httpd", "-caddy")),
    ("php-fpm", "fire", "curl"),
    *((f"uwsgi{way}", "two", "url") for way in ("", "-tcp", "-httpd", "-threads")),
    ("uwsgi-gevent", "fire", "url"),
    *(("puma", "two", client) for client in ("kept", "close")),
    *(("rails", "two", client) for client in ("close", "faraday")),
    *(("puma", shape, "kept") for shape in ("mixed", "timer")),
    *((f"c-{way}", "two", "curl") for way in ("connection", "pool", "loop")),
    *(("axum", shape, "reqwest") for shape in _RUST_SHAPES),
    *(("actix", shape, "reqwest") for shape in ("one", "timer")),
)


# What cannot be had where one rule or another does not see it, and why; all else is right.
LEAST = 0.99
_LOOPS = "several loops, or none that shows where its turns end"
_REASONS = {
    ("java", "two", "http"): "java.net.http sends by threads of its own",
    ("java", "two", "async"): "java.net.http sends by threads of its own",
    ("java", "mixed", "url"): "two of three calls are made by other threads",
    ("java-virtual", "mixed", "url"): "two of three calls are made by other threads",
    ("java", "background", "http"): "a program that calls by itself ends rule `alone`",
    ("puma", "mixed", "kept"): "two of three calls are made by other threads",
    ("varnish", "proxy", "kept"): "another thread fetches",
    ("php-fpm-kept", "two", "curl"): "of a kept connection only the first request is told",
    ("php-fpm", "fire", "curl"): "the second call is made after the answer, without its connection",
    ("uwsgi-gevent", "fire", "url"): "what a request leaves behind goes on while another is served",
    **dict.fromkeys(
        [(name, "future", "url") for name in ("spring", "spring-jetty", "spring-undertow")],
        "other threads call, and any thread answers",
    ),
    ("envoy", "proxy", "kept"): _LOOPS,
    **dict.fromkeys(
        [(name, shape, "own") for name in _NETTY for shape in _NETTY_SHAPES],
        _LOOPS,
    ),
    **dict.fromkeys(
        [(f"c-{way}", "two", "curl") for way in ("connection", "pool", "loop")],
        "its sockets do not block, and those of loops do not either",
    ),
    **dict.fromkeys(
        [(name, shape, "reqwest") for name in _RUST for shape in _RUST_SHAPES],
        "any thread does any task",
    ),
}
_FIRST_IN_THREE = {("java", "mixed", "url"), ("java-virtual", "mixed", "url")}
_FIRST_IN_THREE |= {("puma", "mixed", "kept")}
_NOT_EVEN_ALONE = {("java", "background", "http"), ("php-fpm-kept", "two", "curl")}
_NOT_EVEN_ALONE |= {("uwsgi-gevent", "fire", "url"), ("php-fpm", "fire", "curl")}
# Their first responses prove the rule: of these few requests that may be many.
_NEEDS_PROOF = dict.fromkeys(("nginx", "undertow", "spring-undertow", "puma"), 0.5)
_NEEDS_PROOF |= dict.fromkeys((f"nginx-{way}" for way in _NGINX_WAYS), 0.5)
_NEEDS_PROOF |= dict.fromkeys(("php-fpm", "php-fpm-tcp"), 0.5)
_NEEDS_PROOF |= dict.fromkeys(("uwsgi", "uwsgi-tcp", "uwsgi-threads"), 0.5)
_FIRST_CALLS_LEFT_OUT = {"nginx-mirror": 0.9}  # a mirror's call outlives its request


def least(cell: Cell) -> float:
    """The share of right parents that a cell must have."""
    place = (cell.server, cell.shape, cell.client)
    if cell.client == TRACEPARENT:
        return LEAST
    if place in _FIRST_IN_THREE:
        return 0.33
    if place in _REASONS and (cell.concurrency > 1 or place in _NOT_EVEN_ALONE):
        return 0.0
    if cell.concurrency == 1 and cell.shape == "future":
        return 0.0  # by `alone`, which waits until the process is idle, and not for ever
    if cell.concurrency == 1:
        return _FIRST_CALLS_LEFT_OUT.get(cell.server, LEAST)
    return _NEEDS_PROOF.get(cell.server, LEAST)


def available() -> list[tuple[str, str, str]]:
    """The cells whose programs are here: install.sh gives all but Rust."""
    return [cell for cell in CELLS if cell[0] not in _RUST or has_cargo()]


def play_all(
    cells: Sequence[tuple[str, str, str]], concurrency: int, count: int
) -> Iterator[tuple[list[Played], Ended]]:
    """Plays the cells, a few beside each other."""
    asking = [cell for cell in cells if cell[1] == "jdbc"]
    plain = [cell for cell in cells if cell not in asking]
    for begin in range(0, len(plain), _AT_ONCE):
        yield play(plain[begin : begin + _AT_ONCE], concurrency, count, programs=RUNTIMES)
    if asking:
        with started_databases("POSTGRES") as env:
            yield play(asking, concurrency, count, programs=RUNTIMES, env=env)


def main() -> None:
    ensure_runtimes()
    run(str(__doc__), "runtimes", available(), play_all)


if __name__ == "__main__":
    main()
