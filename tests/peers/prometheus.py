"""The real Prometheus: built once, started on a port of our own, asked by its own API."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .backends import get_json, wait_for
from .ports import lease_port
from .processes import BUILD, Program, ProgramError
from .toolchain import ensure_go_tool

SOURCE = Path(__file__).resolve().parent / "prometheus"
BINARY = BUILD / "bin" / "prometheus"
READY_WITHIN_S = 60.0

_CONFIG = """\
global:
  scrape_interval: 1s
scrape_configs:
  - job_name: waggle
    honor_labels: true
    static_configs:
      - targets: [{targets}]
"""


def ensure_prometheus() -> Path:
    """Build it where its module or Go has changed; a cold build takes 7 minutes of CPU.

    Without service discovery, most of which are the clients of clouds.
    """
    package = "github.com/prometheus/prometheus/cmd/prometheus"
    ensure_go_tool(SOURCE, package, BINARY, tags="remove_all_sd")
    return BINARY


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus that scrapes every second and takes OTLP."""

    port: int
    program: Program

    @property
    def otlp_endpoint(self) -> str:
        """For OTEL_EXPORTER_OTLP_METRICS_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}/api/v1/otlp/v1/metrics"

    def query(self, text: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each result of an instant query."""
        found = self._data("/api/v1/query", query=text)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def value(self, text: str) -> float:
        """The value of a query with one result; NaN for none."""
        found = self.query(text)
        assert len(found) <= 1, found
        return found[0][1] if found else float("nan")

    def wait_for(self, text: str, is_enough: Callable[[float], bool]) -> float:
        """The value of a query, once it is enough. Raises ProgramError."""
        return wait_for(self.program, lambda: self.value(text), is_enough, 60)

    def exemplars(self, text: str) -> list[Mapping[str, Any]]:
        now = time.time()
        found = self._data("/api/v1/query_exemplars", query=text, start=now - 600, end=now + 60)
        return [exemplar for series in found for exemplar in series["exemplars"]]

    def _data(self, path: str, **query: Any) -> Any:
        return get_json(self.port, path, **query)["data"]


@contextmanager
def started_prometheus(folder: Path, *targets: int) -> Iterator[Prometheus]:
    """A running Prometheus that scrapes these ports of 127.0.0.1 and keeps its data in `folder`.
    Raises ProgramError."""
    binary, lease = ensure_prometheus(), lease_port()
    try:
        config = folder / "prometheus.yml"
        named = ", ".join(f"'127.0.0.1:{port}'" for port in targets)
        config.write_text(_CONFIG.format(targets=named))
        flags = [
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{lease.port}",
            "--web.enable-otlp-receiver",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
        ]
        program = Program("prometheus", [binary, *flags])
        try:
            program.wait_until(lambda: _is_ready(lease.port), READY_WITHIN_S)
            yield Prometheus(lease.port, program)
        finally:
            program.stop()
    finally:
        lease.release()


def _is_ready(port: int) -> bool:
    try:
        return bool(get_json(port, "/api/v1/status/runtimeinfo")["status"] == "success")
    except (OSError, ProgramError):
        return False
