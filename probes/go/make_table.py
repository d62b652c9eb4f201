"""Write table.py from programs that are built for it: `make go-offsets`.

    make_table.py VERSION...        versions of Go, as 1.26.8

Every version of Go builds measured/std, and measured/read reads the debugging information
of what it has built. Rows of versions that are not given stay; two releases of one
version (1.26.7, 1.26.8) that differ are an error.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from waggle.probes.go.table import GO

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
}
OPTIONAL = frozenset({"parent_goid"})  # since Go 1.21

HEADER = '''"""Offsets per version of Go. Written by `make go-offsets`: do not edit."""

# Version -> field -> bytes; make_table.py says which fields of Go's these are.
GO: dict[str, dict[str, int]] = {
'''


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


def render(table: Mapping[str, dict[str, int]]) -> str:
    order = sorted(table, key=lambda version: [int(part) for part in version.split(".")])
    return HEADER + "".join(f"    {key!r}: {table[key]!r},\n" for key in order) + "}\n"


def main() -> None:
    table: dict[str, dict[str, int]] = {}
    names = [name for theirs in FIELDS.values() for name in theirs]
    with TemporaryDirectory() as folder:
        reader, program = Path(folder, "read"), Path(folder, "program")
        build(MEASURED / "read", reader, "")
        for release in sys.argv[1:]:
            build(MEASURED / "std", program, release)
            row = row_of(read(reader, program, names), FIELDS)
            version = ".".join(release.split(".")[:2])
            if table.setdefault(version, row) != row:
                raise SystemExit(f"make_table: {release} differs from another {version}: {row}")
    (HERE / "table.py").write_text(render({**GO, **table}), "ascii")


if __name__ == "__main__":
    main()
