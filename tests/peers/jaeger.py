"""The real Jaeger: built once, started on ports of our own, asked by its own API."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .backends import get_json, wait_for
from .ports import lease_port
from .processes import BUILD, Program, ProgramError
from .toolchain import ensure_go_tool

SOURCE = Path(__file__).resolve().parent / "jaeger"
BINARY = BUILD / "bin" / "jaeger"
READY_WITHIN_S = 30.0

_CONFIG = """\
service:
  extensions: [jaeger_storage, jaeger_query]
  telemetry:
    metrics:
      level: none
  pipelines:
    traces:
      receivers: [otlp]
      exporters: [jaeger_storage_exporter]
extensions:
  jaeger_storage:
    backends:
      memory:
        memory:
          max_traces: 100000
  jaeger_query:
    storage:
      traces: memory
    http:
      endpoint: 127.0.0.1:{query}
    grpc:
      endpoint: 127.0.0.1:{query_grpc}
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: 127.0.0.1:{grpc}
      http:
        endpoint: 127.0.0.1:{http}
exporters:
  jaeger_storage_exporter:
    trace_storage: memory
"""


def ensure_jaeger() -> Path:
    """Build Jaeger where its module or Go has changed; a cold build takes 13 minutes of CPU."""
    ensure_go_tool(SOURCE, "github.com/jaegertracing/jaeger/cmd/jaeger", BINARY)
    return BINARY


@dataclass(frozen=True)
class Jaeger:
    """A Jaeger that keeps its spans in memory."""

    http_port: int
    grpc_port: int
    query_port: int
    program: Program

    def services(self) -> set[str]:
        return {str(name) for name in self._data("/api/services")}

    def operations(self, service: str) -> set[tuple[str, str]]:
        """(name, kind) of each operation."""
        found = self._data("/api/operations", service=service)
        return {(one["name"], one["spanKind"]) for one in found}

    def traces(self, service: str, least: int) -> list[dict[str, Any]]:
        """Traces by its own search, once there are at least so many."""
        return wait_for(
            self.program,
            lambda: self._data("/api/traces", service=service, limit=10_000, lookback="1h"),
            lambda found: len(found) >= least,
        )

    def trace(self, trace_id: str) -> dict[str, Any]:
        (found,) = self._data(f"/api/traces/{trace_id}")
        assert isinstance(found, dict)
        return found

    def dependencies(self) -> list[dict[str, Any]]:
        now_ms = int(time.time() * 1000)
        return self._data("/api/dependencies", endTs=now_ms, lookback=3_600_000)

    def _data(self, path: str, **query: Any) -> list[Any]:
        """What its answers have as `data`: null is nothing."""
        return get_json(self.query_port, path, **query)["data"] or []


@contextmanager
def started_jaeger(folder: Path) -> Iterator[Jaeger]:
    """A running Jaeger, its configuration in `folder`. Raises ProgramError."""
    binary = ensure_jaeger()
    with ExitStack() as stack:
        ports = {}
        for name in ("http", "grpc", "query", "query_grpc"):
            lease = lease_port()
            stack.callback(lease.release)
            ports[name] = lease.port
        config = folder / "jaeger.yaml"
        config.write_text(_CONFIG.format(**ports))
        # Otherwise it would trace itself.
        environment = {**os.environ, "OTEL_TRACES_SAMPLER": "always_off"}
        program = Program("jaeger", [binary, "--config", config], env=environment)
        stack.callback(program.stop)
        program.wait_until(lambda: _is_ready(ports["query"]), READY_WITHIN_S)
        yield Jaeger(ports["http"], ports["grpc"], ports["query"], program)


def _is_ready(port: int) -> bool:
    try:
        return "data" in get_json(port, "/api/services")
    except (OSError, ProgramError):
        return False
