"""The real Zipkin: fetched once by Maven, started on a port of our own, asked by its own API."""

import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .backends import get_json, wait_for
from .ports import lease_port
from .processes import BUILD, Program, ProgramError
from .toolchain import once, tool

_VERSION = "3.6.1"
_ARTIFACT = f"io.zipkin:zipkin-server:{_VERSION}:jar:slim"
_SHA256 = "981b1de6139b4f8f787a909c308028732f9713ae5284353d2a5aa404d1094775"
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
_FOLDER = BUILD / "zipkin"
_JAR = _FOLDER / f"zipkin-server-{_VERSION}-slim.jar"
READY_WITHIN_S = 120.0


def ensure_zipkin() -> Path:
    """Fetch the program where it is not there yet. Raises ProgramError when it cannot be had."""
    with once("zipkin", _SHA256) as is_needed:
        if is_needed:
            command = [tool("mvn"), "-B", "-q", _PLUGIN, f"-Dartifact={_ARTIFACT}"]
            done = subprocess.run(
                ["nice", "-n", "10", *command, f"-DoutputDirectory={_FOLDER}"],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise ProgramError(f"mvn has no {_ARTIFACT}:\n{done.stdout[-2000:]}{done.stderr}")
            found = hashlib.sha256(_JAR.read_bytes()).hexdigest()
            if found != _SHA256:
                raise ProgramError(f"{_JAR} is not the file it should be: its SHA-256 is {found}")
    return _JAR


@dataclass(frozen=True)
class Zipkin:
    """A Zipkin that keeps its spans in memory."""

    port: int
    program: Program

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def traces(self, least: int, **query: Any) -> list[list[dict[str, Any]]]:
        """Traces by its own search, once there are at least so many."""

        def look() -> list[list[dict[str, Any]]]:
            found: list[list[dict[str, Any]]] = get_json(
                self.port, "/api/v2/traces", limit=10_000, lookback=3_600_000, **query
            )
            return found

        return wait_for(self.program, look, lambda found: len(found) >= least)

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = get_json(self.port, f"/api/v2/trace/{trace_id}")
        return found

    def services(self) -> set[str]:
        return set(get_json(self.port, "/api/v2/services"))

    def dependencies(self) -> list[dict[str, Any]]:
        now_ms = int(time.time() * 1000)
        found: list[dict[str, Any]] = get_json(
            self.port, "/api/v2/dependencies", endTs=now_ms, lookback=3_600_000
        )
        return found


@contextmanager
def started_zipkin() -> Iterator[Zipkin]:
    """A running Zipkin. Raises ProgramError when it does not get ready."""
    lease = lease_port()
    environment = {"SELF_TRACING_ENABLED": "false", "QUERY_PORT": str(lease.port)}
    command: list[str | Path] = [tool("java"), "-Xmx96m", "-XX:TieredStopAtLevel=1"]
    command += ["-jar", ensure_zipkin()]
    try:
        program = Program("zipkin", command, env={**os.environ, **environment})
        try:
            program.wait_until(lambda: _is_ready(lease.port), READY_WITHIN_S)
            yield Zipkin(lease.port, program)
        finally:
            program.stop()
    finally:
        lease.release()


def _is_ready(port: int) -> bool:
    try:
        return bool(get_json(port, "/health")["status"] == "UP")
    except (OSError, ProgramError):
        return False
