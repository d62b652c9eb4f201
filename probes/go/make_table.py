"""Write table.py from programs that are built for it: `make go-offsets`.

    make_table.py [VERSION...] [grpc|gin|chi|mux|echo VERSION...]...

of Go, as 1.26.8, and of modules, as 1.85.0. Every version of Go builds measured/std;
measured/grpc is built with every version of grpc-go, and so on; and measured/read reads the
debugging information of what was built. Rows of versions that are not given stay; two releases
of one version of Go (1.26.7, 1.26.8) that differ are an error.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from waggle.probes.go.table import GO, GRPC, ROUTERS

HERE = Path(__file__).parent
MEASURED = HERE / "measured"

# Our name -> where Go has it; the first that is there. Go 1.27 moved HTTP/2.
FIELDS: dict[str, tuple[str, ...]] = {
    "goid": ("runtime.g.goid",),
    "parent_goid": ("runtime.g.parentGoid",),
    "start": ("runtime.g.startpc",),
    "status": ("runtime.g.atomicstatus",),
    "m": ("runtime.g.m",),
    "curg": ("runtime.m.curg",),
    "persist_conn": ("net/http.persistConn.conn",),
    "request_ctx": ("net/http.Request.ctx",),
    "descriptor": ("internal/poll.FD.Sysfd",),
    "family": ("net.netFD.family",),
    "http2_conn": ("net/http.http2serverConn.conn", "net/http/internal/http2.serverConn.conn"),
    "http2_stream": ("net/http.http2stream.id", "net/http/internal/http2.stream.id"),
    "http2_ctx": ("net/http.http2stream.ctx", "net/http/internal/http2.stream.ctx"),
    "conn_cancel": ("net/http.conn.cancelCtx",),
    "conn_response": ("net/http.conn.curReq",),
    "conn_hijacked": ("net/http.conn.hijackedv",),
    "response_conn": ("net/http.response.conn",),
    "response_request": ("net/http.response.req",),
    "request_pattern": ("net/http.Request.Pattern",),
    "channel_type": ("runtime.hchan.elemtype",),
    "channel_next": ("runtime.hchan.recvx",),
    "request_method": ("net/http.Request.Method",),
    "request_uri": ("net/http.Request.RequestURI",),
    "request_url": ("net/http.Request.URL",),
    "url_opaque": ("net/url.URL.Opaque",),
    "url_path": ("net/url.URL.Path",),
    "url_raw_path": ("net/url.URL.RawPath",),
    "url_query": ("net/url.URL.RawQuery",),
    "url_force_query": ("net/url.URL.ForceQuery",),
    "own_method": ("net/http/internal/http2.ServerRequest.Method",),
    "own_uri": ("net/http/internal/http2.ServerRequest.RequestURI",),
    "own_call_method": ("net/http/internal/http2.ClientRequest.Method",),
    "own_call_url": ("net/http/internal/http2.ClientRequest.URL",),
}
# From conn_response to conn_hijacked: read at once (struct go_served).
SERVED = 24
# Since Go 1.21; since Go 1.23; grpc 1.70 to 1.76; since Go 1.27.
OPTIONAL = frozenset(
    {
        *("parent_goid", "request_pattern", "grpc_indirect"),
        *("own_method", "own_uri", "own_call_method", "own_call_url"),
    }
)

_TRANSPORT = "google.golang.org/grpc/internal/transport."
GRPC_FIELDS: dict[str, tuple[str, ...]] = {
    "grpc_conn": (_TRANSPORT + "http2Server.conn",),
    "grpc_stream": (_TRANSPORT + "Stream.id",),
    "grpc_indirect": (_TRANSPORT + "ServerStream.Stream*",),
    "grpc_ctx": (_TRANSPORT + "Stream.ctx",),
    "grpc_method": (_TRANSPORT + "Stream.method",),
    "grpc_client_conn": (_TRANSPORT + "http2Client.conn",),
}
# The writer's headers, old and new, must begin with the number of their stream.
GRPC_FIRST = (_TRANSPORT + "headerFrame.streamID", _TRANSPORT + "clientHeaders.streamID")

HEADER = '''"""Offsets per version of Go. Written by `make go-offsets`: do not edit."""

# Version -> field -> bytes; make_table.py says which fields of Go's these are.
GO: dict[str, dict[str, int]] = {
'''
GRPC_MODULE = "google.golang.org/grpc"
ROUTERS_HEADER = """
# The same of routers: module -> version -> field -> bytes.
ROUTERS: dict[str, dict[str, dict[str, int]]] = {
"""
_GIN, _CHI = "github.com/gin-gonic/gin", "github.com/go-chi/chi/v5"
_MUX, _ECHO = "github.com/gorilla/mux", "github.com/labstack/echo/v4"
# As it is called here -> its module, and what is read of it.
MODULES: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "grpc": (GRPC_MODULE, GRPC_FIELDS),
    "gin": (
        _GIN,
        {
            "gin_path": (f"{_GIN}.Context.fullPath",),
            "gin_request": (f"{_GIN}.Context.Request",),
            "gin_handlers": (f"{_GIN}.Context.handlers",),
        },
    ),
    "chi": (
        _CHI,
        {
            "chi_patterns": (f"{_CHI}.Context.RoutePatterns",),
            "chi_parent": (f"{_CHI}.Context.parentCtx",),
        },
    ),
    "mux": (
        _MUX,
        {
            "mux_route": (f"{_MUX}.Route.routeConf",),
            "mux_regexp": (f"{_MUX}.routeConf.regexp",),
            "mux_path": (f"{_MUX}.routeRegexpGroup.path",),
            "mux_template": (f"{_MUX}.routeRegexp.template",),
            "mux_handler": (f"{_MUX}.Route.handler",),
        },
    ),
    "echo": (
        _ECHO,
        {
            "echo_path": (f"{_ECHO}.context.path",),
            "echo_request": (f"{_ECHO}.context.request",),
            "echo_handler": (f"{_ECHO}.context.handler",),
        },
    ),
}
GRPC_HEADER = """
# The same by version of grpc-go. A version between two that are alike is like them.
GRPC: dict[str, dict[str, int]] = {
"""


def build(package: Path, program: Path, version: str) -> None:
    """Build a command with a version of Go, which Go fetches if it is another than its own.
    Raises CalledProcessError."""
    env = {
        "GOTOOLCHAIN": f"go{version}" if version else "local",
        # Not what people have set for their own Go: old ones do not know every flag.
        "GOFLAGS": "-mod=mod",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
    }
    command = ["go", "build", "-p=1", "-o", str(program), "."]
    subprocess.run(command, cwd=package, env={**os.environ, **env}, check=True)


def read(reader: Path, program: Path, fields: Sequence[str]) -> dict[str, int]:
    done = subprocess.run([reader, program, *fields], check=True, capture_output=True, text=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def row_of(found: Mapping[str, int], fields: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Our names for what was found. Raises SystemExit when something is missing."""
    row = {}
    for ours, theirs in fields.items():
        there = [found[name] for name in theirs if name in found]
        if there:
            row[ours] = there[0]
        elif ours not in OPTIONAL:
            raise SystemExit(f"make_table: none of {', '.join(theirs)} is there any more")
    return row


def render(
    table: Mapping[str, dict[str, int]],
    grpc: Mapping[str, dict[str, int]],
    routers: Mapping[str, Mapping[str, dict[str, int]]],
) -> str:
    def rows(of: Mapping[str, dict[str, int]]) -> str:
        order = sorted(of, key=lambda version: [int(part) for part in version.split(".")])
        return "".join(f"    {key!r}: {of[key]!r},\n" for key in order) + "}"

    several = "".join(f"{name!r}: {{\n{rows(routers[name])},\n" for name in sorted(routers))
    return f"{HEADER}{rows(table)}\n{GRPC_HEADER}{rows(grpc)}\n{ROUTERS_HEADER}{several}}}\n"


def measure_module(folder: Path, reader: Path, name: str, version: str) -> dict[str, int]:
    """The row of a version of a module, by this machine's own Go."""
    path, fields = MODULES[name]
    module, program = folder / f"{name}-{version}", folder / f"{name}-{version}.program"
    module.mkdir()
    (module / "main.go").write_bytes((MEASURED / name / "main.go").read_bytes())
    (module / "go.mod").write_text("module waggle.test/measured\n\ngo 1.21\n")
    env = {**os.environ, "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    for command in (["get", f"{path}@v{version}"], ["mod", "tidy"]):
        subprocess.run(["go", *command], cwd=module, env=env, check=True, capture_output=True)
    build(module, program, "")
    first = GRPC_FIRST if name == "grpc" else ()
    names = [one.rstrip("*") for theirs in fields.values() for one in theirs]
    found = read(reader, program, [*names, *first])
    if any(found.get(name) for name in first):
        raise SystemExit(f"make_table: the headers of grpc {version} begin with something else")
    row = row_of(found, fields)
    if "mux_route" in row:  # structs within structs
        row["mux_path"] += row.pop("mux_route") + row.pop("mux_regexp")
    return row


def main() -> None:
    table: dict[str, dict[str, int]] = {}
    modules: dict[str, dict[str, dict[str, int]]] = {name: {} for name in MODULES}
    names = [name for theirs in FIELDS.values() for name in theirs]
    with TemporaryDirectory() as name:
        folder = Path(name)
        reader, program = folder / "read", folder / "program"
        build(MEASURED / "read", reader, "")
        module = ""
        for word in sys.argv[1:]:
            if word in MODULES:
                module = word
            elif module:
                modules[module][word] = measure_module(folder, reader, module, word)
            else:
                build(MEASURED / "std", program, word)
                row = row_of(read(reader, program, names), FIELDS)
                if row["conn_hijacked"] - row["conn_response"] != SERVED:
                    raise SystemExit(f"make_table: a net/http.conn is another in {word}: {row}")
                version = ".".join(word.split(".")[:2])
                if table.setdefault(version, row) != row:
                    raise SystemExit(f"make_table: {word} differs from another {version}: {row}")
    grpc = modules.pop("grpc")
    routers = {
        path: {**ROUTERS.get(path, {}), **modules[name]}
        for name, (path, _) in MODULES.items()
        if name in modules
    }
    (HERE / "table.py").write_text(render({**GO, **table}, {**GRPC, **grpc}, routers), "ascii")


if __name__ == "__main__":
    main()
